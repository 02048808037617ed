//! The images that a pin names.

use std::collections::BTreeSet;

use super::ImageQuery;
use super::page::list_page_by_name;
use crate::store::{Pin, Pins, StoreReader};

/// Returns the references of the images that `pin` names: its image, or the stored images with a tag
/// that its pattern holds. Needs no lock of the store. Blocks.
pub fn images_of_pin(store: &StoreReader, pin: &Pin) -> Vec<String> {
    if let Some(image) = pin.image() {
        return vec![image.to_string()];
    }
    let query = ImageQuery {
        pinned: Some(true),
        limit: usize::MAX,
        ..ImageQuery::default()
    };
    let page = list_page_by_name(store, &Pins::of(pin.clone()), &query, || true);
    let tagged = page
        .images
        .into_iter()
        .filter(|listed| listed.image.tag.is_some());
    let references: BTreeSet<String> = tagged.map(|listed| listed.image.reference()).collect();
    references.into_iter().collect()
}
