//! The check of a planned removal against the present index. Content may be stored, removed or used
//! between the plan and the removal.

use std::collections::{HashMap, HashSet};
use std::ops::Deref;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::walk::for_each_slice;
use super::{Index, ObjectName, RemovalPlan, tag_of};
use crate::limits::INDEX_SLICE_PAUSE;
use crate::oci::{Digest, DigestPrefix, Origin};
use crate::store::eviction::{Kind, Minute, Objects as _};
use crate::store::pins::Pins;

/// The objects of a plan that may still leave: each is unchanged, no pin holds it, and no object that
/// stays names it.
pub struct Leaving<'a> {
    plan: &'a RemovalPlan,
    /// Places in the plan, by the number of the object.
    places: HashMap<u32, usize, RandomState>,
    /// The changes of the index that were taken into account.
    seen: u64,
    is_outdated: bool,
}

impl<'a> Leaving<'a> {
    /// Checks `plan` against the index. `lock` locks the index for a slice of `slice_objects`.
    pub fn new<G: Deref<Target = Index>>(
        lock: impl Fn() -> G,
        slice_objects: u32,
        plan: &'a RemovalPlan,
        pins: &Pins,
    ) -> Self {
        let mut leaving = Leaving {
            plan,
            places: HashMap::with_capacity_and_hasher(plan.objects.len(), RandomState::default()),
            seen: lock().changes.count(),
            is_outdated: false,
        };
        let matcher = pins.matcher();
        let mut first = 0;
        for slice in plan.objects.chunks(slice_objects as usize) {
            let index = lock();
            for (at, object) in slice.iter().enumerate() {
                let is_pinned = || {
                    let (origin, tag, digest) = index.image_of(object.number)?;
                    Some(matcher.holds(&origin, tag.as_deref(), digest.as_ref()))
                };
                let may_leave = leaving.is_unchanged(&index, first + at);
                if may_leave && (pins.is_empty() || is_pinned() != Some(true)) {
                    leaving.places.insert(object.number, first + at);
                }
            }
            first += slice.len();
            drop(index);
            std::thread::park_timeout(INDEX_SLICE_PAUSE);
        }
        // Most objects name nothing of a small plan. A set of beginnings of digests is the fastest check.
        let entries = plan.objects.iter().filter_map(|object| match &object.name {
            ObjectName::Entry(key) => Some(key.digest().prefix()),
            ObjectName::Tag { .. } => None,
        });
        let wanted: HashSet<DigestPrefix, RandomState> = entries.collect();
        for_each_slice(&lock, slice_objects, |index, slice| {
            for number in slice {
                if !leaving.places.contains_key(&number) && index.names_any(number, &wanted) {
                    leaving.keep_named(index, number);
                }
            }
        });
        leaving
    }

    /// Returns whether the object at the place `at` of the plan may leave the index, which must stay
    /// locked until the object has left. False after too many changes; then
    /// [`Leaving::is_outdated`] returns true.
    pub fn contains(&mut self, index: &Index, at: usize) -> bool {
        let Some(changed) = index.changes.since(self.seen) else {
            self.is_outdated = true;
            return false;
        };
        let changed: Vec<u32> = changed.collect();
        self.seen = index.changes.count();
        // First all changed objects of the plan, because each of the others may name another one. An object
        // that was removed and stored again stays too, because a check of the manifest that names the object
        // may have come between.
        for number in &changed {
            self.places.remove(number);
        }
        for number in changed {
            self.keep_named(index, number);
        }
        let number = self.plan.objects[at].number;
        if self.places.get(&number) != Some(&at) {
            return false;
        }
        // A use changes no slot.
        let is_unchanged = self.is_unchanged(index, at);
        if !is_unchanged {
            self.places.remove(&number);
            self.keep_named(index, number);
        }
        is_unchanged
    }

    /// Returns whether the check must be repeated, because the index changed too much.
    pub fn is_outdated(&self) -> bool {
        self.is_outdated
    }

    fn is_unchanged(&self, index: &Index, at: usize) -> bool {
        let planned = &self.plan.objects[at];
        let Some((name, _)) = index.name(planned.number) else {
            return false;
        };
        name == planned.name
            && index.named_by_tag(planned.number) == planned.names
            && !(self.plan.spares_recent && index.is_recent(planned.number, Minute::now()))
    }

    /// Keeps all content that the object `number` names.
    fn keep_named(&mut self, index: &Index, number: u32) {
        let mut open = vec![number];
        while let Some(by) = open.pop() {
            let is_tag = index.get(by).is_some_and(|object| object.kind == Kind::Tag);
            index.for_each_named(by, |named| {
                let place = self.places.get(&named).map(|&at| &self.plan.objects[at]);
                // An index keeps no manifest that leaves by its digest.
                if place.is_some_and(|planned| is_tag || !planned.is_by_digest) {
                    self.places.remove(&named);
                    open.push(named);
                }
            });
        }
    }
}

impl Index {
    /// Returns the repository, the tag and the digest of a tag or of a manifest.
    fn image_of(&self, number: u32) -> Option<(Arc<Origin>, Option<String>, Option<Digest>)> {
        let object = self.objects.get(number as usize)?;
        let (tag, digest) = match object.kind()? {
            Kind::Blob => return None,
            Kind::Manifest => (None, self.key(number).map(|key| *key.digest())),
            Kind::Tag => {
                let tag = tag_of(self.tag_names.get(&number)?).to_owned();
                (Some(tag), self.manifest_at((object.repository, object.prefix())))
            }
        };
        Some((self.repositories.get(object.repository), tag, digest))
    }

    /// Returns whether a tag or a manifest names content with one of the digests `wanted`.
    fn names_any(&self, number: u32, wanted: &HashSet<DigestPrefix, RandomState>) -> bool {
        let object = &self.objects[number as usize];
        match object.kind() {
            Some(Kind::Tag) => wanted.contains(&object.prefix()),
            Some(Kind::Manifest) => {
                let mut links = self.links.get(&number).into_iter().flatten();
                links.any(|link| wanted.contains(link))
            }
            Some(Kind::Blob) | None => false,
        }
    }
}
