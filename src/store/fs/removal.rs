//! Removals that an operator requests.

use super::FsStore;
use super::room::Evicted;
use crate::store::bounds::Bounds;
use crate::store::index::{IndexedImage, RemovalPlan};
use crate::store::space::Space;

/// The outcome of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    pub objects: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Objects of the plan that have changed since, or that could not be removed.
    pub kept: u64,
}

/// The state of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStats {
    /// Whether the scan at start has ended. Before, the numbers are too small.
    pub scanned: bool,
    /// Blobs, manifests and tags.
    pub objects: usize,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes reserved for unfinished downloads.
    pub reserved_bytes: u64,
    /// The bound of the bytes, if any.
    pub bytes_max: Option<u64>,
    /// Free bytes of the file system, and the bytes that the store leaves free.
    pub free_bytes: u64,
    pub free_bytes_min: u64,
}

impl FsStore {
    pub fn stats(&self) -> StoreStats {
        let space = Space::of(&self.root);
        let bounds = Bounds::new(&self.bounds, &space);
        let index = self.index.lock();
        StoreStats {
            scanned: index.is_whole(),
            objects: index.len(),
            bytes: index.bytes(),
            reserved_bytes: index.reserved(),
            bytes_max: bounds.size_max,
            free_bytes: space.free_bytes,
            free_bytes_min: bounds.free_min,
        }
    }

    /// Returns all images, sorted by repository and tag. `None` before the scan has ended.
    pub fn images(&self) -> Option<Vec<IndexedImage>> {
        let index = self.index.lock();
        index.is_whole().then(|| index.images())
    }

    /// Splits `images` into the images without a pin, and the images that pins hold, also through an
    /// index.
    pub fn split_pinned(&self, images: Vec<IndexedImage>) -> (Vec<IndexedImage>, Vec<IndexedImage>) {
        let pins = self.pins.lock();
        let index = self.index.lock();
        let pinned = index.with_pins(&pins);
        images.into_iter().partition(|image| !pinned.hold(image))
    }

    /// Returns the plan that removes `images` and the content that no other image needs.
    pub fn plan_removal<'a>(&self, images: impl IntoIterator<Item = &'a IndexedImage>) -> RemovalPlan {
        self.index.lock().plan_removal(images)
    }

    /// Removes the objects of `plan` that are still stored under their numbers. Running responses
    /// complete.
    pub fn remove_planned(&self, plan: &RemovalPlan) -> Removed {
        let mut removed = Removed::default();
        for object in &plan.objects {
            let evicted: Evicted = self.remove_object(object.number, Some(&object.name), None);
            removed.objects += evicted.objects;
            removed.bytes += evicted.bytes;
            removed.kept += 1 - evicted.objects;
        }
        removed
    }
}
