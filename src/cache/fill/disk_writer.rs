//! Appends the received bytes of a fill to an ingest, in separate blocking jobs.
//!
//! The writer waits for the disk only within a time budget that written bytes extend. If the disk
//! fails or exceeds the budget, the fill continues from its window and the blob is not cached.

use std::sync::Arc;

use super::{Fill, FillState};
use crate::cache::Shared;
use crate::fairness::Lease;
use crate::http::Span;
use crate::limits::{
    FILL_WINDOW_KEPT_BYTES, RESERVE_STEP_MAX, RESERVE_STEP_MIN, ROOM_WEIGHT_SIZED, ROOM_WEIGHT_UNSIZED,
};
use crate::shared_file::SharedFile;
use crate::storage::{Key, Room, StorageIngest, StoreError};

/// State of the disk writer. The `written` field of the fill's state is its progress.
pub enum DiskWriter {
    /// No job runs. The ingest exists after the first write.
    Idle(Option<StorageIngest>),
    /// A job runs and holds the ingest.
    Writing,
    /// The commit writes the body, which was received whole.
    AtCommit,
    /// No more bytes are written. Followers read the window and the bytes that the file already
    /// contains.
    Lost,
}

impl DiskWriter {
    pub fn is_lost(&self) -> bool {
        matches!(self, DiskWriter::Lost)
    }
}

impl FillState {
    /// Drops hashed bytes from the window. With a working disk, written bytes are dropped down to
    /// [`FILL_WINDOW_KEPT_BYTES`]. With a lost disk, bytes that no follower needs are dropped.
    pub fn trim(&mut self) {
        // The window keeps the bytes that the hasher has not read.
        let unused = self.unused().min(self.hashed);
        // The window of a lost disk keeps needed bytes even if the disk took them: reads from a
        // failed disk may fail.
        let keep = if self.disk.is_lost() {
            0
        } else {
            FILL_WINDOW_KEPT_BYTES as u64
        };
        self.window.trim(unused, keep);
    }

    /// Returns whether the window waits for the hasher, and not for the disk or for followers.
    pub fn waits_for_hasher(&self) -> bool {
        self.hashed < self.unused()
    }

    /// Returns the offset up to which neither the disk nor a follower needs the window.
    fn unused(&self) -> u64 {
        if self.disk.is_lost() {
            // All bytes are needed until the first follower joins, and none after the last follower
            // has left.
            let deserted = if self.next_follower == 0 { 0 } else { u64::MAX };
            self.needed().unwrap_or(deserted)
        } else {
            self.written
        }
    }

    /// Removes the slowest followers from the followers that the window waits for.
    pub fn leave_slowest(&mut self) {
        let Some(slowest) = self.needed() else { return };
        let (written, start) = (self.written, self.window.start());
        self.followers
            .retain(|_, unread| needed(*unread, written, start) != Some(slowest));
    }

    /// Returns the lowest offset that a follower will read from the window, or `None` if no
    /// follower reads the window.
    fn needed(&self) -> Option<u64> {
        self.followers
            .values()
            .filter_map(|unread| needed(*unread, self.written, self.window.start()))
            .min()
    }

    /// Takes the file of a lost disk writer if no client reads the file now or can start to.
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

/// Returns the first byte that a follower with `unread` reads from a window. The window begins at
/// `start`, and the file ends at `written`.
fn needed(unread: Span, written: u64, start: u64) -> Option<u64> {
    let from = match unread.start < start {
        // The file contains the bytes before `written`.
        true => unread.start.max(written),
        false => unread.start,
    };
    (from < unread.end).then_some(from)
}

/// A file that is no longer needed, with its room and its disk share. Must be dropped on a blocking
/// thread.
pub struct UnusedFile {
    _file: SharedFile,
    _room: Option<Arc<Room>>,
    _lease: Option<Lease>,
}

/// Releases the disk resources of a failed fill. A running job releases its ingest when it ends.
pub fn discard(fill: &Fill) {
    let (disk, unused) = {
        let mut state = fill.lock();
        let disk = std::mem::replace(&mut state.disk, DiskWriter::Lost);
        (disk, state.take_file())
    };
    tokio::task::spawn_blocking(move || drop((disk, unused)));
}

/// Returns the reservation for `need` bytes. Room is reserved for as many bytes again, within
/// bounds, so that a large `Content-Length` alone reserves nothing.
fn reservation(need: u64, size: Option<u64>) -> u64 {
    let ahead = need + need.clamp(RESERVE_STEP_MIN, RESERVE_STEP_MAX);
    ahead.min(size.unwrap_or(u64::MAX)).max(need)
}

/// Starts a job if there are bytes to write and no job runs.
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

/// Writes until no bytes are left.
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
                    shared.storage(&fill.origin.namespace).record_unstored(&error);
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
    let storage = shared.storage(&fill.origin.namespace);
    let ingest = match ingest {
        Some(ingest) => ingest,
        None => {
            let (key, source) = (Key::Blob(fill.digest), &fill.origin.namespace);
            ingest.insert(storage.begin(&key, source, size)?)
        }
    };
    let need = offset + chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
    if need > ingest.reserved() {
        let free = storage.free_room();
        let weight = if size.is_some() {
            ROOM_WEIGHT_SIZED
        } else {
            ROOM_WEIGHT_UNSIZED
        };
        let mut end = reservation(need, size);
        if let Some(lease) = &mut fill.lock().lease
            && !lease.reserve_to(end, free, weight)
        {
            // The last part of the share is reserved without steps.
            end = need;
            if !lease.reserve_to(end, free, weight) {
                return Err(StoreError::share_exhausted(fill.digest()));
            }
        }
        storage.reserve(ingest, end)?;
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
    fn reservation_doubles_the_received_bytes_within_bounds() {
        const MIB: u64 = 1024 * 1024;
        assert_eq!(reservation(1, Some(1 << 40)), 1 + RESERVE_STEP_MIN);
        assert_eq!(reservation(3 * MIB, None), 6 * MIB);
        assert_eq!(reservation(100 * MIB, None), 100 * MIB + RESERVE_STEP_MAX);
        assert_eq!(reservation(3 * MIB, Some(4 * MIB)), 4 * MIB);
        assert_eq!(reservation(100, Some(10)), 100, "bytes above the announced size");
    }
}
