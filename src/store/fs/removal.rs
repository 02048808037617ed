//! Removals that an operator requests.

use std::collections::HashSet;

use super::FsStore;
use super::evict::{Conditions, Evicted};
use crate::store::eviction::Minute;
use crate::store::index::{IndexedImage, RemovalLimits, RemovalPlan};

/// The outcome of a removal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Removed {
    pub objects: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Objects of the plan that have changed since, or that could not be removed.
    pub kept: u64,
}

/// The plan of a removal, with the images that were selected for it.
#[derive(Debug)]
pub struct SelectedRemoval {
    pub plan: RemovalPlan,
    /// Images that the plan removes. A platform stays with its index.
    pub images: Vec<IndexedImage>,
    /// Selected images that pins hold.
    pub pinned: Vec<IndexedImage>,
}

impl FsStore {
    /// Plans the removal of the images that `select` leaves in the list of all images, sorted by
    /// repository and tag, except pinned images and images beyond `limits`. `None` before the scan has
    /// ended.
    pub fn plan_removal(
        &self,
        limits: RemovalLimits,
        select: impl FnOnce(&mut Vec<IndexedImage>),
    ) -> Option<SelectedRemoval> {
        // The numbers of the images are valid while the index is locked.
        let pins = self.pins.lock();
        let index = self.index.lock();
        if !index.is_whole() {
            return None;
        }
        let mut images = index.images();
        select(&mut images);
        let with_pins = index.with_pins(&pins);
        let (pinned, mut images): (Vec<_>, Vec<_>) =
            images.into_iter().partition(|image| with_pins.hold(image));
        index.limit(&mut images, limits, Minute::now());
        let plan = index.plan_removal(&images);
        let numbers: HashSet<u32> = plan.objects.iter().map(|object| object.number).collect();
        let images = images.into_iter().filter(|image| image.is_among(&numbers));
        Some(SelectedRemoval {
            images: images.collect(),
            pinned,
            plan,
        })
    }

    /// Removes the objects of `plan` that are still stored under their numbers. Running responses
    /// complete.
    pub fn remove_planned(&self, plan: &RemovalPlan) -> Removed {
        let mut removed = Removed::default();
        for object in &plan.objects {
            let conditions = Conditions {
                planned: Some(object),
                ..Conditions::default()
            };
            let evicted: Evicted = self.remove_object(object.number, conditions);
            removed.objects += evicted.objects;
            removed.bytes += evicted.bytes;
            removed.kept += 1 - evicted.objects;
        }
        removed
    }
}
