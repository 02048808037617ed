//! Removals that an operator requests.

use super::FsStore;
use super::room::Evicted;
use crate::store::index::{IndexedImage, RemovalPlan};

/// The outcome of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    pub objects: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Objects of the plan that have changed since, or that could not be removed.
    pub kept: u64,
}

impl FsStore {
    /// Returns all images, sorted by repository and tag. `None` before the scan has ended.
    pub fn images(&self) -> Option<Vec<IndexedImage>> {
        let index = self.index.lock();
        index.is_whole().then(|| index.images())
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
            let evicted: Evicted = self.remove_object(object.number, &object.name, None);
            removed.objects += evicted.objects;
            removed.bytes += evicted.bytes;
            removed.kept += 1 - evicted.objects;
        }
        removed
    }
}
