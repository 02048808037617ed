//! The disk writer of a fill: appends received bytes to an ingest, in blocking jobs of their own.
//!
//! The network never waits for the disk for longer than a fixed time in total. A disk that fails or is slower
//! than that is left behind; the fill goes on from its window, and the pull is not cached.

use std::fs::File;
use std::sync::Arc;

use super::{Fill, State};
use crate::cache::Shared;
use crate::fairness::Lease;
use crate::http::Span;
use crate::limits::{
    FILL_WINDOW_KEPT_BYTES, RESERVE_STEP_MAX, RESERVE_STEP_MIN, ROOM_WEIGHT_SIZED, ROOM_WEIGHT_UNSIZED,
};
use crate::storage::{Key, Room, StorageIngest, StoreError};

/// State of the disk writer. `written` of the fill's state is its progress.
pub enum DiskWriter {
    /// No job runs. The ingest exists once bytes were written.
    Idle(Option<StorageIngest>),
    /// A job runs and holds the ingest.
    Writing,
    /// No more is written. The window is all there is, beside what the file already has.
    Lost,
}

impl DiskWriter {
    pub fn is_lost(&self) -> bool {
        matches!(self, DiskWriter::Lost)
    }
}

impl State {
    /// Drops from the window what can be had elsewhere or is needed by nobody.
    pub fn trim(&mut self) {
        if self.disk.is_lost() {
            // Until the first follower has come, everything is needed; after the last has gone, nothing is.
            let deserted = if self.next_follower == 0 { 0 } else { u64::MAX };
            let needed = self.needed().unwrap_or(deserted);
            // Not even what the disk took before it failed: it may not give it back.
            self.window.trim(needed, 0);
        } else {
            self.window.trim(self.written, FILL_WINDOW_KEPT_BYTES as u64);
        }
    }

    /// Removes the slowest followers from those that the window waits for.
    pub fn leave_slowest(&mut self) {
        let Some(slowest) = self.needed() else { return };
        let (written, start) = (self.written, self.window.start());
        self.followers
            .retain(|_, unread| needed(*unread, written, start) != Some(slowest));
    }

    /// The first byte of the window that a follower reads after the disk writer was lost; `None` when no follower reads any.
    fn needed(&self) -> Option<u64> {
        self.followers
            .values()
            .filter_map(|unread| needed(*unread, self.written, self.window.start()))
            .min()
    }

    /// The file of a lost disk writer, when no client reads it any more and none can begin to.
    pub fn take_unused_file(&mut self) -> Option<UnusedFile> {
        let start = self.window.start();
        let behind = self
            .followers
            .values()
            .any(|unread| unread.start < start && unread.start < unread.end);
        if !self.disk.is_lost() || self.written >= start || behind {
            return None;
        }
        self.take_file()
    }

    fn take_file(&mut self) -> Option<UnusedFile> {
        let file = self.file.take()?;
        Some(UnusedFile {
            _file: file,
            _room: self.room.take(),
            _lease: self.lease.take(),
        })
    }
}

/// The first byte that a follower with `unread` reads of a window that begins at `start`, when the file ends at `written`.
fn needed(unread: Span, written: u64, start: u64) -> Option<u64> {
    let from = match unread.start < start {
        // The file has the bytes before.
        true => unread.start.max(written),
        false => unread.start,
    };
    (from < unread.end).then_some(from)
}

/// A file that is not needed any more, and what it was counted by. To be dropped on a blocking thread.
pub struct UnusedFile {
    _file: Arc<File>,
    _room: Option<Arc<Room>>,
    _lease: Option<Lease>,
}

/// Gives back what a fill that failed has of the disk. A job that runs does so when it ends.
pub fn discard(fill: &Fill) {
    let (disk, unused) = {
        let mut state = fill.lock();
        let disk = std::mem::replace(&mut state.disk, DiskWriter::Lost);
        (disk, state.take_file())
    };
    tokio::task::spawn_blocking(move || drop((disk, unused)));
}

/// How far room is reserved for `need` bytes: for as many more as there are, within bounds, so that a length that an
/// upstream only claims takes none.
fn reservation(need: u64, size: Option<u64>) -> u64 {
    let ahead = need + need.clamp(RESERVE_STEP_MIN, RESERVE_STEP_MAX);
    ahead.min(size.unwrap_or(u64::MAX)).max(need)
}

/// Starts a job when there is something to write and none runs.
pub fn push(fill: &Arc<Fill>, shared: &Arc<Shared>) {
    let ingest = {
        let mut state = fill.lock();
        if state.written == state.window.end() {
            return;
        }
        match std::mem::replace(&mut state.disk, DiskWriter::Writing) {
            DiskWriter::Idle(ingest) => ingest,
            other => {
                state.disk = other;
                return;
            }
        }
    };
    let (fill, shared) = (fill.clone(), shared.clone());
    tokio::task::spawn_blocking(move || write(&fill, &shared, ingest));
}

/// Writes until there is nothing left to write.
fn write(fill: &Fill, shared: &Shared, mut ingest: Option<StorageIngest>) {
    loop {
        let (chunks, offset, size) = {
            let mut state = fill.lock();
            if state.disk.is_lost() {
                return;
            }
            let offset = state.written;
            if offset == state.window.end() {
                state.disk = DiskWriter::Idle(ingest);
                drop(state);
                fill.room.notify_one();
                return;
            }
            (
                state.window.chunks_from(offset),
                offset,
                state.head.as_ref().and_then(|head| head.size),
            )
        };
        let written = append(fill, shared, &mut ingest, &chunks, offset, size);
        let mut state = fill.lock();
        match (written, &ingest) {
            (Ok(written), Some(ingest)) => {
                state.file = Some(ingest.file().clone());
                state.room = ingest.room().cloned();
                state.written = written;
                state.trim();
            }
            (Ok(_), None) => unreachable!("bytes were appended to an ingest"),
            (Err(error), _) => {
                if !state.disk.is_lost() {
                    state.disk = DiskWriter::Lost;
                    if error.is_about_size() {
                        tracing::warn!(%error, "a pull goes on uncached");
                    } else {
                        shared.storage.record_write_failure(&error);
                    }
                }
            }
        }
        drop(state);
        fill.room.notify_one();
    }
}

fn append(
    fill: &Fill,
    shared: &Shared,
    ingest: &mut Option<StorageIngest>,
    chunks: &[bytes::Bytes],
    mut offset: u64,
    size: Option<u64>,
) -> Result<u64, StoreError> {
    let ingest = match ingest {
        Some(ingest) => ingest,
        None => ingest.insert(shared.storage.begin(&Key::Blob(fill.digest), size)?),
    };
    let need = offset + chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    if need > ingest.reserved() {
        let free = shared.storage.free_room();
        let weight = if size.is_some() {
            ROOM_WEIGHT_SIZED
        } else {
            ROOM_WEIGHT_UNSIZED
        };
        let mut end = reservation(need, size);
        if let Some(lease) = &mut fill.lock().lease
            && !lease.reserve_to(end, free, weight)
        {
            // The last of the share is taken as it is needed.
            end = need;
            if !lease.reserve_to(end, free, weight) {
                return Err(StoreError::share_exhausted(fill.digest()));
            }
        }
        ingest.reserve_to(end)?;
    }
    for chunk in chunks {
        ingest.write_at(chunk, offset)?;
        offset += chunk.len() as u64;
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_reserved_for_what_came_and_as_much_again() {
        const MIB: u64 = 1024 * 1024;
        assert_eq!(reservation(1, Some(1 << 40)), 1 + RESERVE_STEP_MIN);
        assert_eq!(reservation(3 * MIB, None), 6 * MIB);
        assert_eq!(reservation(100 * MIB, None), 100 * MIB + RESERVE_STEP_MAX);
        assert_eq!(reservation(3 * MIB, Some(4 * MIB)), 4 * MIB);
        assert_eq!(reservation(100, Some(10)), 100, "more than was announced");
    }
}
