//! Evictions: the removal of content for new content.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::{FsStore, layout, open_regular};
use crate::limits::{EVICTION_SLICE_TIME, RELEASE_TIME};
use crate::oci::{Digest, DigestPrefix};
use crate::shared_file::SharedFile;
use crate::store::bounds::{Bounds, Shortage, Usage};
use crate::store::eviction::{Minute, Need, Objects, choose};
use crate::store::index::{ObjectName, PlannedObject};
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
}

/// Serializes evictions.
#[derive(Debug, Default)]
pub(super) struct Evicting {
    /// The minute in which no content could be evicted. More content is old enough a minute later.
    exhausted_at: Option<Minute>,
    /// Victims that are still stored, with their last use, chosen at `chosen_at`.
    victims: VecDeque<(u32, Minute)>,
    chosen_at: Minute,
    /// The content evicted since [`FsStore::take_evicted`].
    evicted: Evicted,
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
        let pins = self.pins.lock();
        let index = self.index.lock();
        if !index.is_whole() {
            return None;
        }
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
        while goes_on() && self.evict(Bounds::surplus) {}
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
    /// longer. Chooses victims for `shortage` if no chosen victim is left. Evicts nothing before the
    /// index is whole. Returns false if there is no shortage, or no content that may be evicted.
    pub(super) fn evict(&self, shortage: impl Fn(&Bounds, &Usage) -> Shortage) -> bool {
        let mut evicting = self.evicting.lock();
        let now = Minute::now();
        // A choice is kept to its end, because the last victims complete an image, or are metadata
        // beyond the budget. In the next minute, other content may be in use.
        if evicting.victims.is_empty() || evicting.chosen_at != now {
            let may_choose = evicting.exhausted_at != Some(now);
            let Some(need) = self.need(shortage).filter(|_| may_choose) else {
                return false;
            };
            evicting.victims = self.choose(now, need);
            evicting.chosen_at = now;
        }
        let began = Instant::now();
        let mut evicted = Evicted::default();
        while began.elapsed() < EVICTION_SLICE_TIME
            && let Some((number, used)) = evicting.victims.pop_front()
        {
            evicted.add(self.remove_object(number, None, Some(used)));
        }
        self.releasing.lock().add(evicted.bytes, Instant::now());
        if evicted.objects == 0 && evicting.victims.is_empty() {
            // Nothing may be evicted, all victims are in use now, or their removal fails.
            evicting.exhausted_at = Some(now);
        }
        evicting.evicted.add(evicted);
        evicting.exhausted_at != Some(now)
    }

    /// Returns the need of a shortage. `None` without a shortage, and before the index is whole.
    fn need(&self, shortage: impl Fn(&Bounds, &Usage) -> Shortage) -> Option<Need> {
        let space = Space::of(&self.root);
        let bounds = Bounds::new(&self.bounds, &space);
        let index = self.index.lock();
        let shortage = shortage(&bounds, &self.usage(&index, space));
        let is_needed = index.is_whole() && !shortage.is_none();
        is_needed.then_some(Need {
            bytes: shortage.bytes,
            files: shortage.inodes.div_ceil(FILES_PER_ENTRY),
            metadata_bytes_max: bounds.metadata_max,
        })
    }

    /// Returns the victims for `need`, with their last use.
    fn choose(&self, now: Minute, need: Need) -> VecDeque<(u32, Minute)> {
        let pins = self.pins.lock();
        let index = self.index.lock();
        let objects = index.with_pins(&pins).with_held(&self.upload_holds.digests());
        let victims = choose(&objects, now, need).into_iter();
        let with_use = |number| Some((number, index.last_use(number)?));
        victims.filter_map(with_use).collect()
    }

    /// Removes the object `number`, unless the number has another object than `planned` now, or the last
    /// use is no longer `unused_since`. A new object under the number has a later use.
    pub(super) fn remove_object(
        &self,
        number: u32,
        planned: Option<&PlannedObject>,
        unused_since: Option<Minute>,
    ) -> Evicted {
        let _naming = self.naming.lock();
        let (found, before, last_use) = {
            let index = self.index.lock();
            let Some((found, used)) = index.name(number) else {
                return Evicted::default();
            };
            let is_same = planned.is_none_or(|planned| index.has_planned(planned));
            if !is_same || unused_since.is_some_and(|at| at != used) {
                return Evicted::default();
            }
            // An eviction leaves content whose upload was queued after the choice.
            if let ObjectName::Entry(key) = &found
                && unused_since.is_some()
                && self.upload_holds.contains(key.digest().prefix())
            {
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
        index.remove_number(number);
        Evicted {
            objects: 1,
            bytes: before.saturating_sub(index.bytes()),
            last_use,
        }
    }
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
