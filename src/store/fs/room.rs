//! Room for content. The store reserves room before a write, and evicts content for it.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::{FsStore, Ingest, failed, layout, space};
use crate::limits::{EVICTION_SLICE_TIME, EVICTION_STEP_SHARE, RESERVE_STEP_MAX};
use crate::shared_file::SharedFile;
use crate::store::StoreError;
use crate::store::bounds::{Bounds, Shortage, Usage};
use crate::store::eviction::{Minute, Need, Objects as _, choose};
use crate::store::index::{Index, ObjectName};
use crate::store::space::Space;
use crate::sync::Mutex;

/// The disk blocks of a sidecar.
pub(super) const SIDECAR_BYTES: u64 = 4096;

/// Bytes that an ingest takes from the bound. Released by the drop.
#[derive(Debug)]
pub(super) struct Reservation {
    index: Arc<Mutex<Index>>,
    bytes: u64,
}

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

impl Reservation {
    pub fn new(index: &Arc<Mutex<Index>>) -> Self {
        Reservation {
            index: index.clone(),
            bytes: 0,
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.index.lock().release(self.bytes);
    }
}

impl Evicted {
    fn add(&mut self, other: Evicted) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.last_use = self.last_use.max(other.last_use);
    }
}

impl FsStore {
    /// Returns the bytes that unfinished ingests may still take. Content that an eviction can
    /// remove counts as free.
    pub fn free_room(&self) -> u64 {
        let space = Space::of(&self.root);
        let bounds = Bounds::new(&self.bounds, &space);
        let index = self.index.lock();
        // Before the scan has ended, nothing can be evicted, and all used space may be content.
        let (evictable, content) = if index.is_whole() {
            (index.bytes(), 0)
        } else {
            (0, space.used_bytes)
        };
        let by_size = bounds
            .size_max
            .map_or(u64::MAX, |max| max.saturating_sub(content + index.reserved()));
        let by_space = match space.bytes {
            0 => u64::MAX,
            _ => (space.free_bytes + evictable).saturating_sub(bounds.free_min),
        };
        by_size.min(by_space)
    }

    /// Checks that an object of `size` bytes may be stored.
    pub(super) fn check_size(&self, size: u64) -> io::Result<()> {
        let bounds = Bounds::new(&self.bounds, &Space::of(&self.root));
        if size > bounds.object_max {
            return Err(io::Error::other(
                "the object is larger than CACHE_MAX_OBJECT_SIZE",
            ));
        }
        if size > self.free_room() {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    /// Reserves room for the first `end` bytes of `ingest`, so that a full disk is detected before
    /// the write. Evicts content that is in the way.
    ///
    /// # Errors
    ///
    /// There is not enough room. The caller should drop the ingest.
    pub fn reserve(&self, ingest: &mut Ingest, end: u64) -> Result<(), StoreError> {
        if end > ingest.reserved {
            let path = layout::content(&ingest.key);
            self.take_room(ingest, end)?;
            space::reserve(ingest.file(), ingest.reserved, end)
                .map_err(failed(StoreError::RESERVE, &path))?;
            ingest.reserved = end;
        }
        Ok(())
    }

    /// Takes room for the first `end` bytes of `ingest` from the bounds of the store, but no blocks
    /// of the file system.
    ///
    /// # Errors
    ///
    /// There is not enough room.
    pub fn take_room(&self, ingest: &mut Ingest, end: u64) -> Result<(), StoreError> {
        let taken = self.take(&mut ingest.room, end);
        taken.map_err(failed(StoreError::RESERVE, &layout::content(&ingest.key)))
    }

    fn take(&self, room: &mut Reservation, end: u64) -> io::Result<()> {
        let more = (end + SIDECAR_BYTES).saturating_sub(room.bytes);
        loop {
            let space = Space::of(&self.root);
            let bounds = Bounds::new(&self.bounds, &space);
            if end > bounds.object_max {
                return self.check_size(end);
            }
            {
                let mut index = self.index.lock();
                let usage = self.usage(&index, space);
                if bounds.shortage(&usage, more).is_none() {
                    index.reserve(more);
                    room.bytes += more;
                    return Ok(());
                }
            }
            if !self.evict(|bounds, usage| bounds.shortage(usage, more).with_margin(usage)) {
                return Err(Errno::NOSPC.into());
            }
        }
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
    pub fn record_uses(&self, digests: impl IntoIterator<Item = crate::oci::DigestPrefix>) {
        let now = Minute::now();
        let mut index = self.index.lock();
        for digest in digests {
            index.record_use(digest, now);
        }
    }

    /// The bytes of the store, before the scan has ended those of the whole file system.
    fn usage(&self, index: &Index, space: Space) -> Usage {
        let content = if index.is_whole() {
            index.bytes() + self.records.lock().bytes()
        } else {
            space.used_bytes
        };
        let bytes = content + index.reserved();
        Usage { bytes, space }
    }

    /// Evicts a part of the content for a shortage, in at most [`EVICTION_SLICE_TIME`], so that other
    /// ingests need not wait longer. Evicts nothing before the index is whole. Returns false if there
    /// is no shortage, or no content that may be evicted.
    fn evict(&self, shortage: impl Fn(&Bounds, &Usage) -> Shortage) -> bool {
        let mut evicting = self.evicting.lock();
        let Some(need) = self.need(shortage) else {
            return false;
        };
        let now = Minute::now();
        if evicting.victims.is_empty() || evicting.chosen_at != now {
            if evicting.exhausted_at == Some(now) {
                return false;
            }
            evicting.victims = self.choose(now, need);
            evicting.chosen_at = now;
        }
        if evicting.victims.is_empty() {
            evicting.exhausted_at = Some(now);
            return false;
        }
        let began = Instant::now();
        let mut evicted = Evicted::default();
        let mut is_enough = false;
        while !is_enough
            && began.elapsed() < EVICTION_SLICE_TIME
            && let Some((number, used)) = evicting.victims.pop_front()
        {
            evicted.add(self.remove_object(number, None, Some(used)));
            is_enough = evicted.bytes >= need.bytes && evicted.objects >= need.files;
        }
        if evicted.objects == 0 && evicting.victims.is_empty() {
            // The victims are in use now, or the file system refuses their removal.
            evicting.exhausted_at = Some(now);
        }
        evicting.evicted.add(evicted);
        true
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
            files: shortage.inodes,
            metadata_bytes_max: bounds.metadata_max,
        })
    }

    /// Returns the victims for `need`, with their last use.
    fn choose(&self, now: Minute, need: Need) -> VecDeque<(u32, Minute)> {
        let pins = self.pins.lock();
        let index = self.index.lock();
        let victims = choose(&index.with_pins(&pins), now, need).into_iter();
        let with_use = |number| Some((number, index.get(number)?.used));
        victims.filter_map(with_use).collect()
    }

    /// Removes the object `number`, unless the number has another object than `name` now, or the last
    /// use is no longer `unused_since`. A new object under the number has a later use.
    pub(super) fn remove_object(
        &self,
        number: u32,
        name: Option<&ObjectName>,
        unused_since: Option<Minute>,
    ) -> Evicted {
        let _naming = self.naming.lock();
        let (found, before, last_use) = {
            let index = self.index.lock();
            let Some((found, used)) = index.name(number) else {
                return Evicted::default();
            };
            let is_same = name.is_none_or(|name| *name == found);
            if !is_same || unused_since.is_some_and(|at| at != used) {
                return Evicted::default();
            }
            (found, index.bytes(), used)
        };
        // The open file keeps the blocks of the data until the closing thread releases them.
        let _data = match &found {
            ObjectName::Entry(key) => {
                let data = super::open_regular(&self.path(&layout::content(key)));
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

impl Shortage {
    /// Returns the shortage with some room ahead, so that the next steps of ingests need no choice.
    fn with_margin(self, usage: &Usage) -> Self {
        let margin = (usage.bytes / EVICTION_STEP_SHARE).min(RESERVE_STEP_MAX);
        match self.bytes {
            0 => self,
            bytes => Shortage {
                bytes: bytes + margin,
                ..self
            },
        }
    }
}
