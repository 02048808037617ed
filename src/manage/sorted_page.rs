//! A page of the listing of images in another order than by name. Each page looks at all images.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::str::FromStr;

use super::Image;
use super::images::{BlobSizes, RepositoryImages, unreadable};
use super::page::{Cursor, ImagePage, ImageQuery, ListedImage};
use crate::oci::Origin;
use crate::store::{Pins, StoreReader, StoredRepository, compare_repositories};

/// The order of a listing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Sort {
    pub by: SortKey,
    pub is_descending: bool,
}

/// The member by which a listing is sorted. Images with an equal value are sorted by name.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum SortKey {
    #[default]
    Name,
    Size,
    /// The last use.
    Used,
    /// The time of storage. Images without this time come first.
    Created,
}

/// The words of the orders.
const ORDERS: [(&str, SortKey, bool); 7] = [
    ("name", SortKey::Name, false),
    ("size", SortKey::Size, false),
    ("-size", SortKey::Size, true),
    ("used", SortKey::Used, false),
    ("-used", SortKey::Used, true),
    ("created", SortKey::Created, false),
    ("-created", SortKey::Created, true),
];

impl FromStr for Sort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let order = ORDERS.iter().find(|(word, ..)| *word == text);
        order
            .map(|&(_, by, is_descending)| Sort { by, is_descending })
            .ok_or(
                "expected name, size, used or created, with - in front for the opposite order except of name",
            )
    }
}

impl Sort {
    /// Returns the word of the order.
    pub fn word(self) -> &'static str {
        let order = ORDERS
            .iter()
            .find(|(_, by, is_descending)| (*by, *is_descending) == (self.by, self.is_descending));
        order.map_or("name", |(word, ..)| word)
    }

    fn value(self, image: &Image) -> u64 {
        match self.by {
            SortKey::Name => 0,
            SortKey::Size => image.size,
            SortKey::Used => image.used,
            SortKey::Created => image.created.unwrap_or(0),
        }
    }

    /// Compares two places in the listing.
    fn compare(self, a: &Cursor, b: &Cursor) -> Ordering {
        let by_value = a.value.cmp(&b.value);
        let by_value = if self.is_descending {
            by_value.reverse()
        } else {
            by_value
        };
        by_value
            .then_with(|| compare_repositories(&a.origin, &b.origin))
            .then_with(|| a.name.cmp(&b.name))
    }
}

/// Lists the images that `query` selects, in its order. Keeps at most two pages in memory. `None` if
/// `goes_on` returns false before the end. Needs no lock of the store. Blocks.
pub fn list_sorted_page(
    store: &StoreReader,
    pins: &Pins,
    query: &ImageQuery,
    goes_on: impl Fn() -> bool,
) -> Option<ImagePage> {
    let mut page = ImagePage::default();
    let mut failures = Vec::new();
    let mut blobs = BlobSizes::default();
    let mut first: Vec<(Cursor, ListedImage)> = Vec::new();
    let mut is_cut = false;
    let matcher = pins.matcher();
    let visit = &mut |repository: StoredRepository| {
        let origin = repository.origin.clone();
        let mut images = RepositoryImages::new(store, repository);
        for name in images.names() {
            if !goes_on() {
                return ControlFlow::Break(());
            }
            if !query.wants_content(&name) {
                continue;
            }
            let Some(image) = images.image(&name, &mut blobs) else {
                continue;
            };
            let place = Cursor {
                sort: query.sort,
                value: query.sort.value(&image),
                origin: origin.clone(),
                name,
            };
            let is_after = |cursor: &Cursor| query.sort.compare(&place, cursor).is_gt();
            let listed = ListedImage::new(image, &origin, &matcher);
            if query.after.as_ref().is_none_or(is_after) && query.selects(&listed) {
                first.push((place, listed));
            }
            if first.len() == 2 * query.limit {
                is_cut |= keep_first(&mut first, query);
            }
        }
        page.failures.append(&mut images.failures);
        ControlFlow::Continue(())
    };
    let is_wanted = |origin: &Origin| query.wants_origin(origin);
    let end = store.repositories(&is_wanted, visit, &mut |path, error| {
        failures.push(unreadable(&path.display(), error));
    });
    if end.is_break() {
        return None;
    }
    is_cut |= keep_first(&mut first, query);
    page.next = first.last().filter(|_| is_cut).map(|(place, _)| place.text());
    page.images = first.into_iter().map(|(_, image)| image).collect();
    page.failures.append(&mut failures);
    Some(page)
}

/// Sorts the images, and drops those beyond the page. Returns whether there were any.
fn keep_first(images: &mut Vec<(Cursor, ListedImage)>, query: &ImageQuery) -> bool {
    images.sort_by(|(a, _), (b, _)| query.sort.compare(a, b));
    let is_cut = images.len() > query.limit;
    images.truncate(query.limit);
    is_cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_read_back_from_its_word() {
        for (word, by, is_descending) in ORDERS {
            let sort = Sort { by, is_descending };
            assert_eq!(word.parse(), Ok(sort));
            assert_eq!(sort.word(), word);
        }
        for text in ["", "-name", "Size", "date", "+size"] {
            assert!(text.parse::<Sort>().is_err(), "{text}");
        }
    }
}
