//! Removals that an operator requests.

use std::collections::HashSet;

use super::FsStore;
use super::evict::RemovalCause;
use super::evicted::Evicted;
use crate::limits::INDEX_COPY_OBJECTS;
use crate::oci::{Origin, Tag};
use crate::store::eviction::Minute;
use crate::store::index::{Index, IndexedImage, Leaving, ObjectName, RemovalLimits, RemovalPlan, copy_of};

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
        let index = self.whole_index()?;
        let pins = self.pins.lock().clone();
        let mut images = index.images();
        select(&mut images);
        let with_pins = index.with_pins(&pins);
        let (pinned, mut images): (Vec<_>, Vec<_>) =
            images.into_iter().partition(|image| with_pins.hold(image));
        index.limit(&mut images, limits, Minute::now());
        let mut plan = index.plan_removal(&images);
        plan.spares_recent = limits.spares_recent;
        let numbers: HashSet<u32> = plan.objects.iter().map(|object| object.number).collect();
        let images = images.into_iter().filter(|image| image.is_among(&numbers));
        Some(SelectedRemoval {
            images: images.collect(),
            pinned,
            plan,
        })
    }

    /// Returns the stored tags that are `wanted`, each with its last use. `None` before the scan has ended.
    pub fn used_tags(&self, wanted: impl Fn(&Origin, &Tag) -> bool) -> Option<Vec<(Origin, Tag, Minute)>> {
        let images = self.whole_index()?.images().into_iter();
        let tags = images.filter_map(|image| {
            let tag: Tag = image.tag.as_deref()?.parse().ok()?;
            wanted(&image.origin, &tag).then(|| ((*image.origin).clone(), tag, image.used))
        });
        Some(tags.collect())
    }

    /// Returns a copy of the index, for a computation that would lock the index for long. `None`
    /// before the scan has ended.
    pub(super) fn whole_index(&self) -> Option<Index> {
        let is_whole = self.index.lock().is_whole();
        is_whole.then(|| copy_of(|| self.index.lock(), INDEX_COPY_OBJECTS))
    }

    /// Removes the objects of `plan`. An object stays if it has changed since, if a pin holds it now,
    /// or if content that stays names it now. Running responses complete.
    pub fn remove_planned(&self, plan: &RemovalPlan) -> Removed {
        let mut removed = Removed::default();
        let check = || {
            let pins = self.pins.lock().clone();
            Leaving::new(|| self.index.lock(), INDEX_COPY_OBJECTS, plan, &pins)
        };
        let mut leaving = check();
        for (at, object) in plan.objects.iter().enumerate() {
            let evicted: Evicted = loop {
                let may_leave = |index: &Index, _: (&ObjectName, Minute)| leaving.contains(index, at);
                let evicted = self.remove_object(object.number, RemovalCause::Operator, may_leave);
                if !leaving.is_outdated() {
                    break evicted;
                }
                leaving = check();
            };
            removed.objects += evicted.objects;
            removed.bytes += evicted.bytes;
            removed.kept += 1 - evicted.objects;
        }
        removed
    }
}
