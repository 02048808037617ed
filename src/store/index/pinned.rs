//! The objects that no eviction may remove.

use std::collections::HashSet;

use super::{Index, IndexedImage};
use crate::oci::{DigestPrefix, Platforms};
use crate::store::eviction::{Object, Objects};
use crate::store::pins::Pins;

/// An index with the numbers of the objects that pins hold.
pub struct WithPins<'a> {
    pub(super) index: &'a Index,
    pinned: HashSet<u32>,
}

impl Index {
    /// Returns the index with the objects that `pins` hold: tags, manifests, and all content that
    /// they name. A pin with platforms does not hold the manifests of other platforms.
    pub fn with_pins(&self, pins: &Pins) -> WithPins<'_> {
        let mut pinned = HashSet::new();
        if !pins.is_empty() {
            let matcher = pins.matcher();
            // Objects by their selections of platforms.
            let mut selections: Vec<Platforms> = Vec::new();
            let mut open: Vec<(u32, usize)> = Vec::new();
            for image in self.images() {
                let held = matcher.platforms_of(&image.origin, image.tag.as_deref(), image.digest.as_ref());
                let Some(platforms) = held else { continue };
                let known = selections.iter().position(|known| *known == platforms);
                let selection = known.unwrap_or_else(|| {
                    selections.push(platforms);
                    selections.len() - 1
                });
                open.extend(image.numbers.iter().map(|&number| (number, selection)));
            }
            let mut seen = HashSet::new();
            while let Some((number, selection)) = open.pop() {
                if seen.insert((number, selection)) {
                    pinned.insert(number);
                    self.for_each_selected(number, &selections[selection], |named| {
                        open.push((named, selection));
                    });
                }
            }
        }
        WithPins { index: self, pinned }
    }
}

impl WithPins<'_> {
    /// Adds the content `digests`, which waits for uploads, to the objects that stay.
    pub fn with_held(mut self, digests: &[DigestPrefix]) -> Self {
        for &digest in digests {
            self.pinned.extend(self.index.entries_with(digest));
        }
        self
    }

    /// Returns whether a pin holds a tag or the manifest of `image`.
    pub fn hold(&self, image: &IndexedImage) -> bool {
        image.is_among(&self.pinned)
    }
}

impl Objects for WithPins<'_> {
    fn numbers(&self) -> u32 {
        self.index.numbers()
    }

    fn get(&self, number: u32) -> Option<Object> {
        self.index.get(number)
    }

    fn for_each_named(&self, number: u32, visit: impl FnMut(u32)) {
        self.index.for_each_named(number, visit);
    }

    fn is_pinned(&self, number: u32) -> bool {
        self.pinned.contains(&number)
    }
}
