//! One response behind a fill, on any core.

use std::sync::Arc;

use super::{End, Fill};
use crate::cache::FetchError;
use crate::http::{Aborted, Growing, NextPiece, Piece, Span};
use crate::limits::{FOLLOWER_BYTES_MAX, TURN_BYTES};
use crate::runtime::doorbell::Signal;

/// A client's view of a fill. Dropping it leaves the fill running.
pub struct Follower {
    fill: Arc<Fill>,
    id: u64,
    offset: u64,
    /// Where the response ends; `None` at the end of the body.
    end: Option<u64>,
    signal: Signal,
}

impl Follower {
    /// Joins at `span`, or for the whole body.
    ///
    /// # Errors
    ///
    /// [`FetchError::Gone`] when the fill lost its disk and no longer has the first bytes.
    pub fn join(fill: &Arc<Fill>, span: Option<Span>) -> Result<Self, FetchError> {
        let signal = Signal::new();
        let offset = span.map_or(0, |span| span.start);
        let mut state = fill.lock();
        // What is not in the window must be in the file.
        if offset < state.window.start() && (state.file.is_none() || state.written < state.window.start()) {
            return Err(FetchError::Gone);
        }
        let id = state.next_follower;
        state.next_follower += 1;
        state.followers.insert(id, offset);
        drop(state);
        Ok(Follower {
            fill: fill.clone(),
            id,
            offset,
            end: span.map(|span| span.end),
            signal,
        })
    }

    async fn advance(&mut self) -> Result<Option<Piece>, Aborted> {
        let Follower {
            fill,
            id,
            offset,
            end,
            signal,
        } = self;
        let piece = fill
            .wait(signal, |state| {
                let limit = state.limit(*end);
                if *offset < limit {
                    let piece = if *offset >= state.window.start() {
                        Some(Piece::Memory(state.window.read(
                            *offset,
                            limit,
                            FOLLOWER_BYTES_MAX,
                        )))
                    } else {
                        let readable = state.written.min(limit).min(*offset + TURN_BYTES);
                        state
                            .file
                            .as_ref()
                            .filter(|_| *offset < readable)
                            .map(|file| Piece::File {
                                file: file.clone(),
                                span: Span {
                                    start: *offset,
                                    end: readable,
                                },
                            })
                    };
                    // Neither in the window nor in the file: the fill lost its disk while we were behind.
                    return Some(piece.map(Some).ok_or(Aborted));
                }
                match &state.end {
                    Some(End::Verified) => Some(Ok(None)),
                    Some(End::Failed(_) | End::Stored) => Some(Err(Aborted)),
                    None => None,
                }
            })
            .await?;
        *offset += match &piece {
            Some(Piece::Memory(bytes)) => bytes.len() as u64,
            Some(Piece::File { span, .. }) => span.size(),
            None => 0,
        };
        let lost = {
            let mut state = fill.lock();
            state.followers.insert(*id, *offset);
            state.spool.is_lost()
        };
        if lost {
            fill.room.notify_one();
        }
        Ok(piece)
    }
}

impl Growing for Follower {
    fn next(&mut self) -> NextPiece<'_> {
        Box::pin(self.advance())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.fill.lock().followers.remove(&self.id);
        self.fill.room.notify_one();
    }
}
