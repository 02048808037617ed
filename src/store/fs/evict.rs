//! Evictions: the removal of content for new content.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{FsStore, layout, open_regular};
use crate::limits::{EVICTION_SLICE_TIME, INDEX_COPY_OBJECTS, RELEASE_TIME};
use crate::oci::{Digest, DigestPrefix};
use crate::shared_file::SharedFile;
use crate::store::bounds::{Bounds, EvictionReason, Shortage, Usage};
use crate::store::eviction::{Minute, Need, Objects, choose};
use crate::store::index::{Index, ObjectName, RegistryNumber, copy_of};
use crate::store::space::Space;

/// Files of an entry: the data and the sidecar.
const FILES_PER_ENTRY: u64 = 2;

/// The content that an eviction removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evicted {
    pub objects: u64,
    pub bytes: u64,
    /// The last use of the victim that was used last.
    pub last_use: Minute,
    /// `objects` by the reason.
    pub by_reason: EvictionCounts,
}

/// Evicted objects by the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvictionCounts {
    /// The store was larger than `CACHE_MAX_SIZE`.
    pub size: u64,
    /// The file system had less free space than `CACHE_MIN_FREE`.
    pub free_space: u64,
    /// The file system had few free inodes.
    pub free_inodes: u64,
}

/// The evictions of this process.
#[derive(Debug, Default)]
pub(super) struct EvictionTotals {
    by_reason: [AtomicU64; 3],
    /// The time from the last use to the eviction of the content evicted last, in seconds plus 1. 0
    /// before the first eviction.
    last_age: AtomicU64,
}

/// The content that an eviction may remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// All content, for the bounds of the store.
    Store,
    /// The content that one registry alone has, for the bound of the registry.
    Registry(RegistryNumber),
}

/// The cause of the removal of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RemovalCause {
    /// Counts for the registries of the object.
    Eviction,
    Operator,
}

/// Serializes evictions.
#[derive(Debug, Default)]
pub(super) struct Evicting {
    store: Choice,
    /// By registry with a bound.
    registries: HashMap<RegistryNumber, Choice>,
    /// The content evicted since [`FsStore::take_evicted`].
    evicted: Evicted,
}

/// The victims for one bound.
#[derive(Debug, Default)]
struct Choice {
    /// The minute in which no content could be evicted. More content is old enough a minute later.
    exhausted_at: Option<Minute>,
    /// Victims that are still stored, with their last use, chosen at `chosen_at`.
    victims: VecDeque<(u32, Minute)>,
    chosen_at: Minute,
    reason: Option<EvictionReason>,
}

/// Bytes of content that was removed within one to two [`RELEASE_TIME`]. The file system frees them
/// when the last open file is closed: cores close their files within a sweep, and a thread closes
/// large files. Without these bytes, an eviction for free space would go on meanwhile.
#[derive(Debug, Default)]
pub(super) struct Releasing {
    /// The start of the present interval.
    began: Option<Instant>,
    present: u64,
    previous: u64,
}

impl Releasing {
    pub fn bytes(&mut self, now: Instant) -> u64 {
        let passed = self.began.map(|began| now.duration_since(began));
        if passed.is_none_or(|passed| passed >= RELEASE_TIME) {
            let is_next = passed.is_some_and(|passed| passed < 2 * RELEASE_TIME);
            self.previous = if is_next { self.present } else { 0 };
            self.present = 0;
            self.began = Some(now);
        }
        self.previous + self.present
    }

    fn add(&mut self, bytes: u64, now: Instant) {
        self.bytes(now);
        self.present += bytes;
    }
}

impl Evicted {
    fn add(&mut self, other: Evicted) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.last_use = self.last_use.max(other.last_use);
        self.by_reason.add(other.by_reason);
    }
}

impl EvictionCounts {
    fn of(reason: EvictionReason, objects: u64) -> Self {
        let mut counts = EvictionCounts::default();
        *match reason {
            EvictionReason::Size => &mut counts.size,
            EvictionReason::FreeSpace => &mut counts.free_space,
            EvictionReason::FreeInodes => &mut counts.free_inodes,
        } = objects;
        counts
    }

    pub fn add(&mut self, other: EvictionCounts) {
        self.size += other.size;
        self.free_space += other.free_space;
        self.free_inodes += other.free_inodes;
    }
}

impl EvictionTotals {
    fn add(&self, evicted: &Evicted, now: Minute) {
        if evicted.objects == 0 {
            return;
        }
        let counts = evicted.by_reason;
        for (total, count) in self
            .by_reason
            .iter()
            .zip([counts.size, counts.free_space, counts.free_inodes])
        {
            total.fetch_add(count, Ordering::Relaxed);
        }
        let age = u64::from(now.since(evicted.last_use)) * 60;
        self.last_age.store(age + 1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> EvictionCounts {
        let [size, free_space, free_inodes] = self
            .by_reason
            .each_ref()
            .map(|total| total.load(Ordering::Relaxed));
        EvictionCounts {
            size,
            free_space,
            free_inodes,
        }
    }

    /// Returns the time from the last use to the eviction of the content evicted last, in seconds.
    pub fn last_age_seconds(&self) -> Option<u64> {
        self.last_age.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// The content that leaves before an image if evictions go on and no content is used meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvictionRank {
    pub objects_before: u64,
    /// Bytes on the disk.
    pub bytes_before: u64,
}

impl FsStore {
    /// Returns the content that leaves before the first of `digests`. `None` if no eviction may remove
    /// any of them, and before the index is whole. Blocks.
    pub fn eviction_rank(&self, digests: &[Digest]) -> Option<EvictionRank> {
        let everything = Need {
            bytes: u64::MAX,
            files: u64::MAX,
            metadata_bytes_max: u64::MAX,
        };
        let index = self.whole_index()?;
        let pins = self.pins.lock().clone();
        let objects = index.with_pins(&pins).with_held(&self.upload_holds.digests());
        let digests: HashSet<DigestPrefix> = digests.iter().map(Digest::prefix).collect();
        let mut before = EvictionRank {
            objects_before: 0,
            bytes_before: 0,
        };
        for number in choose(&objects, Minute::now(), everything) {
            match index.name(number) {
                Some((ObjectName::Entry(key), _)) if digests.contains(&key.digest().prefix()) => {
                    return Some(before);
                }
                _ => {}
            }
            before.objects_before += 1;
            before.bytes_before += objects.get(number).map_or(0, |object| object.bytes);
        }
        None
    }

    /// Makes room ahead of the next ingests, while `goes_on`.
    pub fn make_room(&self, goes_on: impl Fn() -> bool) {
        let mut scopes = vec![Scope::Store];
        scopes.extend(self.bounded_registries().into_iter().map(Scope::Registry));
        for scope in scopes {
            while goes_on() && self.evict(scope, Bounds::surplus) {}
        }
    }

    /// Returns the content evicted since the last call.
    pub fn take_evicted(&self) -> Evicted {
        std::mem::take(&mut self.evicting.lock().evicted)
    }

    /// Records the uses of content.
    pub fn record_uses(&self, digests: impl IntoIterator<Item = DigestPrefix>) {
        let now = Minute::now();
        let mut index = self.index.lock();
        for digest in digests {
            index.record_use(digest, now);
        }
    }

    /// Removes chosen victims for at most [`EVICTION_SLICE_TIME`], so that other ingests need not wait
    /// longer. Chooses victims of `scope` for `shortage` if no chosen victim is left. Evicts nothing
    /// before the index is whole. Returns false if there is no shortage, or no content that may be
    /// evicted.
    pub(super) fn evict(&self, scope: Scope, shortage: impl Fn(&Bounds, &Usage) -> Shortage) -> bool {
        let mut evicting = self.evicting.lock();
        let Evicting {
            store,
            registries,
            evicted: total,
        } = &mut *evicting;
        let (choice, only_of) = match scope {
            Scope::Store => (store, None),
            Scope::Registry(number) => (registries.entry(number).or_default(), Some(number)),
        };
        let now = Minute::now();
        // A choice is kept to its end, because the last victims complete an image, or are metadata
        // beyond the budget. In the next minute, other content may be in use.
        if choice.victims.is_empty() || choice.chosen_at != now {
            let may_choose = choice.exhausted_at != Some(now);
            let Some((need, reason)) = self.need(scope, shortage).filter(|_| may_choose) else {
                return false;
            };
            choice.victims = self.choose(scope, now, need);
            choice.chosen_at = now;
            choice.reason = Some(reason);
        }
        let began = Instant::now();
        let mut evicted = Evicted::default();
        while began.elapsed() < EVICTION_SLICE_TIME
            && let Some((number, used)) = choice.victims.pop_front()
        {
            let may_leave = |index: &Index, found: (&ObjectName, Minute)| {
                let is_own = only_of.is_none_or(|registry| index.is_only_of(number, registry));
                is_own && self.is_victim(found, used)
            };
            evicted.add(self.remove_object(number, RemovalCause::Eviction, may_leave));
        }
        if let Some(reason) = choice.reason {
            evicted.by_reason = EvictionCounts::of(reason, evicted.objects);
        }
        self.evictions.add(&evicted, now);
        self.releasing.lock().add(evicted.bytes, Instant::now());
        if evicted.objects == 0 && choice.victims.is_empty() {
            // Nothing may be evicted, all victims are in use now, or their removal fails.
            choice.exhausted_at = Some(now);
        }
        total.add(evicted);
        choice.exhausted_at != Some(now)
    }

    /// Returns the need of a shortage and its reason. `None` without a shortage or a bound, and before
    /// the index is whole.
    fn need(
        &self,
        scope: Scope,
        shortage: impl Fn(&Bounds, &Usage) -> Shortage,
    ) -> Option<(Need, EvictionReason)> {
        let space = Space::of(&self.root);
        let bounds = match scope {
            Scope::Store => Bounds::new(&self.bounds, &space),
            Scope::Registry(number) => {
                let registry = self.index.lock().usage_of(number).registry.clone();
                self.registry_bounds(&registry, &space)?
            }
        };
        let index = self.index.lock();
        let usage = match scope {
            Scope::Store => self.usage(&index, space),
            Scope::Registry(number) => registry_usage(&index, number),
        };
        let shortage = shortage(&bounds, &usage);
        let reason = shortage.reason().filter(|_| index.is_whole())?;
        let need = Need {
            bytes: shortage.bytes,
            files: shortage.inodes.div_ceil(FILES_PER_ENTRY),
            metadata_bytes_max: bounds.metadata_max,
        };
        Some((need, reason))
    }

    /// Returns the victims of `scope` for `need`, with their last use. The choice among a million
    /// objects takes seconds, so it uses a copy of the index.
    fn choose(&self, scope: Scope, now: Minute, need: Need) -> VecDeque<(u32, Minute)> {
        let index = copy_of(|| self.index.lock(), INDEX_COPY_OBJECTS);
        let pins = self.pins.lock().clone();
        let objects = index.with_pins(&pins).with_held(&self.upload_holds.digests());
        let victims = match scope {
            Scope::Store => choose(&objects, now, need),
            Scope::Registry(number) => choose(&objects.of_registry(number), now, need),
        };
        let with_use = |number| Some((number, index.last_use(number)?));
        victims.into_iter().filter_map(with_use).collect()
    }

    /// Returns whether a chosen victim may still leave: the last use is still `used`, and no upload
    /// was queued since. A new object under the number has a later use.
    fn is_victim(&self, (found, last_use): (&ObjectName, Minute), used: Minute) -> bool {
        let is_held = match found {
            ObjectName::Entry(key) => self.upload_holds.contains(key.digest().prefix()),
            ObjectName::Tag { .. } => false,
        };
        last_use == used && !is_held
    }

    /// Removes the object `number` if `may_leave` returns true for the locked index, the name and the
    /// last use.
    pub(super) fn remove_object(
        &self,
        number: u32,
        cause: RemovalCause,
        may_leave: impl FnOnce(&Index, (&ObjectName, Minute)) -> bool,
    ) -> Evicted {
        let _naming = self.naming.lock();
        let (found, before, last_use) = {
            let index = self.index.lock();
            let Some((found, used)) = index.name(number) else {
                return Evicted::default();
            };
            if !may_leave(&index, (&found, used)) {
                return Evicted::default();
            }
            (found, index.bytes(), used)
        };
        // The open file keeps the blocks of the data until the closing thread releases them.
        let _data = match &found {
            ObjectName::Entry(key) => {
                let data = open_regular(&self.path(&layout::content(key)));
                if !self.remove_files(key) {
                    return Evicted::default();
                }
                self.removals.add(key.digest().prefix());
                data.ok().flatten().map(SharedFile::new)
            }
            ObjectName::Tag { origin, file_name } => {
                let path = layout::tag_file(&origin.namespace, &origin.repository, file_name);
                if !super::find::remove_file(&self.path(&path)) {
                    return Evicted::default();
                }
                None
            }
        };
        let mut index = self.index.lock();
        match cause {
            RemovalCause::Eviction => index.evict_number(number),
            RemovalCause::Operator => index.remove_number(number),
        }
        let bytes = before.saturating_sub(index.bytes());
        let emptied = index.repository_without_content(&found);
        drop(index);
        if let Some(origin) = emptied {
            self.remove_repository(&origin);
        }
        Evicted {
            objects: 1,
            bytes,
            last_use,
            by_reason: EvictionCounts::default(),
        }
    }
}

/// Returns the bytes of a registry. Before the scan has ended, these are the bytes of the content that
/// the scan has found.
pub(super) fn registry_usage(index: &Index, number: RegistryNumber) -> Usage {
    let usage = index.usage_of(number);
    Usage::of_registry(usage.bytes + usage.reserved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_bytes_count_for_one_to_two_intervals() {
        let mut releasing = Releasing::default();
        let began = Instant::now();
        let after = |tenths: u32| began + RELEASE_TIME * tenths / 10;
        releasing.add(5, after(0));
        releasing.add(7, after(9));
        assert_eq!(releasing.bytes(after(9)), 12);
        releasing.add(1, after(12));
        assert_eq!(releasing.bytes(after(21)), 13);
        assert_eq!(releasing.bytes(after(22)), 1);
        assert_eq!(releasing.bytes(after(50)), 0);
    }
}
