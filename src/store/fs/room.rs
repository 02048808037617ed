//! Room for content, reserved before each write within the bounds of the store.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::{FsStore, Ingest, failed, layout, space};
use crate::store::StoreError;
use crate::store::bounds::{Bounds, Usage};
use crate::store::index::Index;
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
            if !self.evict(|bounds, usage| bounds.shortage_with_margin(usage, more)) {
                return Err(Errno::NOSPC.into());
            }
        }
    }

    /// The bytes of the store, before the scan has ended those of the whole file system.
    pub(super) fn usage(&self, index: &Index, space: Space) -> Usage {
        let content = if index.is_whole() {
            index.bytes() + self.records.lock().bytes()
        } else {
            space.used_bytes
        };
        let bytes = content + index.reserved();
        let releasing = self.releasing.lock().bytes(Instant::now());
        Usage {
            bytes,
            releasing,
            space,
        }
    }
}
