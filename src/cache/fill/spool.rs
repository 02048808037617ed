//! The disk's side of a fill: appends what has arrived to a draft, in blocking jobs of their own.
//!
//! The network never waits for the disk for longer than a fixed time in total. A disk that fails or is slower
//! than that is left behind; the fill goes on from its window, and the pull is not cached.

use std::sync::Arc;

use super::{Fill, State};
use crate::cache::Shared;
use crate::cache::storage::Draft;
use crate::limits::FILL_WINDOW_KEPT_BYTES;
use crate::store::{Key, StoreError};

/// Where the spool stands. `written` of the fill's state says how far it has come.
pub enum Spool {
    /// No job runs. The draft is there once something was written.
    Idle(Option<Draft>),
    /// A job runs and has the draft.
    Writing,
    /// No more is written. The window is all there is, beside what the file already has.
    Lost,
}

impl Spool {
    pub fn is_lost(&self) -> bool {
        matches!(self, Spool::Lost)
    }
}

impl State {
    /// Drops from the window what can be had elsewhere or is needed by nobody.
    pub fn trim(&mut self) {
        if self.spool.is_lost() {
            // Until the first follower has come, everything is needed; after the last has gone, nothing is.
            let deserted = if self.next_follower == 0 { 0 } else { u64::MAX };
            let needed = self.followers.values().copied().min().unwrap_or(deserted);
            // Not even what the disk took before it failed: it may not give it back.
            self.window.trim(needed, 0);
        } else {
            self.window.trim(self.written, FILL_WINDOW_KEPT_BYTES as u64);
        }
    }
}

/// Starts a job when there is something to write and none runs.
pub fn push(fill: &Arc<Fill>, shared: &Arc<Shared>) {
    let draft = {
        let mut state = fill.lock();
        if state.written == state.window.end() {
            return;
        }
        match std::mem::replace(&mut state.spool, Spool::Writing) {
            Spool::Idle(draft) => draft,
            other => {
                state.spool = other;
                return;
            }
        }
    };
    let (fill, shared) = (fill.clone(), shared.clone());
    tokio::task::spawn_blocking(move || write(&fill, &shared, draft));
}

/// Writes until there is nothing left to write.
fn write(fill: &Fill, shared: &Shared, mut draft: Option<Draft>) {
    loop {
        let (chunks, offset, size) = {
            let mut state = fill.lock();
            if state.spool.is_lost() {
                return;
            }
            let offset = state.written;
            if offset == state.window.end() {
                state.spool = Spool::Idle(draft);
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
        let written = append(fill, shared, &mut draft, &chunks, offset, size);
        let mut state = fill.lock();
        match (written, &draft) {
            (Ok(written), Some(draft)) => {
                state.file = Some(draft.file().clone());
                state.room = draft.room().cloned();
                state.written = written;
                state.trim();
            }
            (Ok(_), None) => unreachable!("bytes were appended to a draft"),
            (Err(error), _) => {
                if !state.spool.is_lost() {
                    state.spool = Spool::Lost;
                    if error.is_about_size() {
                        tracing::warn!(%error, "a pull goes on uncached");
                    } else {
                        shared.health.failed(&error);
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
    draft: &mut Option<Draft>,
    chunks: &[bytes::Bytes],
    mut offset: u64,
    size: Option<u64>,
) -> Result<u64, StoreError> {
    let draft = match draft {
        Some(draft) => draft,
        None => draft.insert(shared.storage.begin(&Key::Blob(fill.digest), size)?),
    };
    for chunk in chunks {
        draft.write_at(chunk, offset)?;
        offset += chunk.len() as u64;
    }
    Ok(offset)
}
