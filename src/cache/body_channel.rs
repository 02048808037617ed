//! A bounded channel that forwards a body from the helper pool to one client. The end of the body
//! is withheld until its digest is verified. The body is not stored.
//!
//! The chunk sources are in `passthrough` and `bucket`. A `fill` sends one body to many clients.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::{FetchError, Memory};
use crate::http::{Aborted, Growing, NextPiece, Piece};
use crate::limits::{BODY_CHANNEL_BYTES_MAX, WITHHELD_BYTES};
use crate::oci::{Digest, Hasher};
use crate::runtime::waker::{CoreNotify, RemoteWaker};
use crate::sync::Mutex;

/// The receiving end, on a core. Dropping it ends the transfer.
pub struct BodyReceiver {
    channel: Arc<BodyChannel>,
    notify: CoreNotify,
}

/// The sending end, on the helper pool. Dropping it before the end of the body aborts the response.
pub(super) struct BodySender(Arc<BodyChannel>);

/// The outcome of a transfer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ForwardOutcome {
    /// The whole body arrived, and its digest is right if a digest was expected.
    Whole,
    /// The body does not match its digest.
    Wrong,
    /// The source broke off.
    Broken,
    /// The client disconnected.
    Abandoned,
}

/// A source of chunks, on the helper pool.
pub(super) trait ChunkSource: Send {
    /// Returns the next bytes, or `None` at a clean end.
    fn next_chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, FetchError>> + Send;
}

struct BodyChannel {
    state: Mutex<State>,
    room: tokio::sync::Notify,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    end: Option<Result<(), Aborted>>,
    waiting: Option<RemoteWaker>,
    /// The client has disconnected.
    abandoned: bool,
    /// Memory charge of the channel, held until the client has received the body or has
    /// disconnected.
    memory: Option<Memory>,
}

/// Creates both ends of a body channel. Must be called on the core that reads.
pub(super) fn body_channel() -> (BodySender, BodyReceiver) {
    let channel = Arc::new(BodyChannel {
        state: Mutex::default(),
        room: tokio::sync::Notify::new(),
    });
    let receiver = BodyReceiver {
        channel: channel.clone(),
        notify: CoreNotify::new(),
    };
    (BodySender(channel), receiver)
}

impl BodySender {
    /// Holds `memory` for as long as either end exists, because forwarded chunks may wait long for
    /// the client.
    pub fn charge(&self, memory: Memory) {
        self.0.state.lock().memory = Some(memory);
    }

    /// Waits until the client has disconnected.
    pub async fn abandoned(&self) {
        loop {
            let notice = self.0.room.notified();
            if self.0.state.lock().abandoned {
                return;
            }
            notice.await;
        }
    }

    /// Forwards a body as fast as the client reads. The end is withheld until the body hashes to
    /// `expected`. Without `expected`, nothing is checked or withheld.
    ///
    /// A failed body ends at the client when the sender is dropped. The caller records the fault
    /// before, so that a retry of the client avoids the source.
    pub async fn forward(&self, mut source: impl ChunkSource, expected: Option<Digest>) -> ForwardOutcome {
        let channel = &self.0;
        let mut withheld = Withheld::new(expected);
        loop {
            match source.next_chunk().await {
                Ok(Some(chunk)) => channel.push(withheld.push(chunk)),
                Ok(None) => {
                    return match withheld.finish() {
                        Ok(rest) => {
                            channel.push(rest);
                            channel.change(|state| state.end = Some(Ok(())));
                            ForwardOutcome::Whole
                        }
                        Err(Aborted) => ForwardOutcome::Wrong,
                    };
                }
                Err(error) => {
                    tracing::info!(%error, "forwarded body ended early");
                    return ForwardOutcome::Broken;
                }
            }
            loop {
                let notice = channel.room.notified();
                {
                    let state = channel.state.lock();
                    if state.abandoned {
                        return ForwardOutcome::Abandoned;
                    }
                    if state.bytes < BODY_CHANNEL_BYTES_MAX {
                        break;
                    }
                }
                notice.await;
            }
        }
    }
}

impl Drop for BodySender {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.end.get_or_insert(Err(Aborted));
        });
    }
}

/// The end of a body, withheld until its digest is verified.
struct Withheld {
    check: Option<(Digest, Hasher)>,
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Withheld {
    fn new(expected: Option<Digest>) -> Self {
        let check = expected.map(|digest| (digest, Hasher::new(digest.algorithm())));
        Withheld {
            check,
            chunks: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Adds the next chunk. Returns the chunks that may be forwarded.
    fn push(&mut self, chunk: Bytes) -> Vec<Bytes> {
        if let Some((_, hasher)) = &mut self.check {
            hasher.update(&chunk);
        }
        self.bytes += chunk.len();
        self.chunks.push_back(chunk);
        let keep = if self.check.is_some() {
            WITHHELD_BYTES as usize
        } else {
            0
        };
        let mut free = Vec::new();
        while let Some(first) = self.chunks.front()
            && self.bytes - first.len() >= keep
        {
            self.bytes -= first.len();
            free.extend(self.chunks.pop_front());
        }
        free
    }

    /// Returns the withheld chunks at the end of the body, if the digest is right.
    fn finish(self) -> Result<VecDeque<Bytes>, Aborted> {
        let Some((expected, hasher)) = self.check else {
            return Ok(self.chunks);
        };
        if hasher.finish() == expected {
            return Ok(self.chunks);
        }
        tracing::warn!(digest = %expected, "forwarded body does not match its digest");
        Err(Aborted)
    }
}

impl BodyChannel {
    fn push(&self, chunks: impl IntoIterator<Item = Bytes>) {
        self.change(|state| {
            for chunk in chunks {
                state.bytes += chunk.len();
                state.chunks.push_back(chunk);
            }
        });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let waiting = {
            let mut state = self.state.lock();
            change(&mut state);
            state.waiting.take()
        };
        if let Some(remote) = waiting {
            remote.wake();
        }
    }
}

impl BodyReceiver {
    async fn advance(&mut self) -> Result<Option<Piece>, Aborted> {
        loop {
            {
                let mut state = self.channel.state.lock();
                if let Some(chunk) = state.chunks.pop_front() {
                    state.bytes -= chunk.len();
                    drop(state);
                    self.channel.room.notify_one();
                    return Ok(Some(Piece::Memory(chunk)));
                }
                if let Some(end) = &state.end {
                    return end.map(|()| None);
                }
                state.waiting = Some(self.notify.waker());
            }
            self.notify.wait().await;
        }
    }
}

impl Growing for BodyReceiver {
    fn next(&mut self) -> NextPiece<'_> {
        Box::pin(self.advance())
    }
}

impl Drop for BodyReceiver {
    fn drop(&mut self) {
        self.channel.state.lock().abandoned = true;
        self.channel.room.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    /// One chunk, then the end.
    struct OneChunk(Option<Bytes>);

    impl ChunkSource for OneChunk {
        async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
            Ok(self.0.take())
        }
    }

    #[tokio::test]
    async fn wrong_body_breaks_off_only_when_its_sender_is_dropped() {
        let channel = Arc::new(BodyChannel {
            state: Mutex::default(),
            room: tokio::sync::Notify::new(),
        });
        let sender = BodySender(channel.clone());
        let expected = Digest::of(Algorithm::Sha256, b"right");
        let source = OneChunk(Some(Bytes::from_static(b"wrong")));
        let outcome = sender.forward(source, Some(expected)).await;
        assert_eq!(outcome, ForwardOutcome::Wrong);
        assert!(channel.state.lock().end.is_none());
        drop(sender);
        assert_eq!(channel.state.lock().end, Some(Err(Aborted)));
    }
}
