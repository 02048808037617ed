//! Sends the bytes of a fill as one response, on any core.

use std::sync::Arc;

use bytes::Bytes;

use super::{End, Fill, FillState};
use crate::cache::{FetchError, Priority};
use crate::http::{Aborted, Growing, NextPiece, Piece, Span};
use crate::limits::{FOLLOWER_BYTES_MAX, SEND_TURN_BYTES};
use crate::runtime::waker::CoreNotify;

/// A client's view of a fill. The fill continues after the drop.
pub struct Follower {
    fill: Arc<Fill>,
    id: u64,
    offset: u64,
    /// End of the response; `None` for the end of the body.
    end: Option<u64>,
    /// The last byte of a range response, copied on arrival. The byte is withheld until the whole
    /// body is verified, and the window need not keep it until then.
    last: Option<Bytes>,
    notify: CoreNotify,
}

impl Follower {
    /// Joins the fill at `span`, or for the whole body.
    ///
    /// # Errors
    ///
    /// [`FetchError::Gone`] if the fill lost its disk and no longer has the first bytes.
    pub fn join(fill: &Arc<Fill>, span: Option<Span>) -> Result<Self, FetchError> {
        let notify = CoreNotify::new();
        let offset = span.map_or(0, |span| span.start);
        let mut state = fill.lock();
        // Bytes before the window must be in the file.
        if offset < state.window.start() && (state.file.is_none() || state.written < state.window.start()) {
            return Err(FetchError::Gone);
        }
        let id = state.next_follower;
        state.next_follower += 1;
        state
            .followers
            .insert(id, unread(offset, span.map(|span| span.end)));
        fill.raise(&mut state, Priority::Client);
        drop(state);
        Ok(Follower {
            fill: fill.clone(),
            id,
            offset,
            end: span.map(|span| span.end),
            last: None,
            notify,
        })
    }

    async fn advance(&mut self) -> Result<Option<Piece>, Aborted> {
        let Follower {
            fill,
            id,
            offset,
            end,
            last,
            notify,
        } = self;
        let piece = fill
            .wait(notify, |state| {
                let limit = state.limit(*end);
                if *offset < limit {
                    let last = last.take().map(Piece::Memory);
                    let piece = last.or_else(|| state.piece(*offset, limit));
                    // The bytes are neither in the window nor in the file. The fill lost its disk
                    // while the follower was behind.
                    return Some(piece.map(Some).ok_or(Aborted));
                }
                if *end == Some(*offset + 1) && last.is_none() && state.window.holds(*offset) {
                    let byte = state.window.read(*offset, *offset + 1, 1);
                    *last = Some(Bytes::copy_from_slice(&byte));
                    state.followers.insert(*id, unread(*offset + 1, *end));
                    fill.room.notify_one();
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
            state.followers.insert(*id, unread(*offset, *end));
            state.disk.is_lost()
        };
        if lost {
            fill.room.notify_one();
        }
        Ok(piece)
    }
}

impl FillState {
    /// Returns bytes from `offset` on, before `limit`. The bytes come from the window if possible,
    /// otherwise from the file.
    fn piece(&self, offset: u64, limit: u64) -> Option<Piece> {
        if self.window.holds(offset) {
            let bytes = self.window.read(offset, limit, FOLLOWER_BYTES_MAX);
            return Some(Piece::Memory(bytes));
        }
        let readable = self.written.min(limit).min(offset + SEND_TURN_BYTES);
        let file = self.file.as_ref().filter(|_| offset < readable)?;
        Some(Piece::File {
            file: file.clone(),
            span: Span {
                start: offset,
                end: readable,
            },
        })
    }
}

/// Returns the unread bytes of a follower at `offset`, whose response ends at `end` or at the
/// body's end.
fn unread(offset: u64, end: Option<u64>) -> Span {
    Span {
        start: offset,
        end: end.unwrap_or(u64::MAX),
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures_util::FutureExt;

    use super::*;
    use crate::cache::access::Caller;
    use crate::cache::fill::Head;
    use crate::cache::fill::disk_writer::DiskWriter;
    use crate::limits::FILL_WINDOW_BYTES;
    use crate::oci::Origin;
    use crate::oci::{Algorithm, Digest};
    use crate::runtime::core;

    const SIZE: u64 = 64 * 1024 * 1024;

    /// Reads all available bytes. Returns the new offset and the outcome.
    fn read_on(follower: &mut Follower) -> (u64, Result<(), Aborted>) {
        loop {
            match follower.advance().now_or_never() {
                None => return (follower.offset, Ok(())),
                Some(Ok(Some(_))) => {}
                Some(Ok(None)) => return (follower.offset, Ok(())),
                Some(Err(error)) => return (follower.offset, Err(error)),
            }
        }
    }

    #[test]
    fn a_part_whose_last_byte_is_withheld_holds_no_window_without_a_disk() {
        core::run_test(async { follow_without_a_disk() });
    }

    fn follow_without_a_disk() {
        let digest = Digest::of(Algorithm::Sha256, b"x");
        let origin = Origin {
            namespace: "r.example".parse().unwrap(),
            repository: "a/b".parse().unwrap(),
        };
        let fill = Fill::new(digest, origin, Caller::ANYBODY, None, Priority::Client, None);
        fill.change(|state| {
            state.head = Some(Arc::new(Head {
                size: Some(SIZE),
                public: true,
                upstream_status: None,
                headers: BTreeMap::new(),
            }));
            state.disk = DiskWriter::Lost;
        });
        let part = Span {
            start: 0,
            end: 70_001,
        };
        let (mut part, mut whole) = (
            Follower::join(&fill, Some(part)).unwrap(),
            Follower::join(&fill, None).unwrap(),
        );
        let mut received = 0;
        while received < SIZE {
            let chunk = Bytes::from(vec![7; 1024 * 1024]);
            received += chunk.len() as u64;
            fill.change(|state| {
                state.window.push(chunk);
                state.hashed = state.window.end();
            });
            let _ = read_on(&mut part);
            let _ = read_on(&mut whole);
            let mut state = fill.lock();
            state.trim();
            assert!(state.window.bytes() < FILL_WINDOW_BYTES as u64, "at {received}");
        }
        assert_eq!(part.offset, 70_000);
        fill.change(|state| state.end = Some(End::Verified));
        assert!(matches!(read_on(&mut part), (70_001, Ok(()))));
        assert!(matches!(read_on(&mut whole), (SIZE, Ok(()))));
    }
}
