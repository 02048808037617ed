//! A body on its way from the helper pool to one client, through a bounded window; its end held back until its digest was
//! found right. Nothing of it is kept.
//!
//! Not here: where the bytes come from (`pass`, `bucket`). What many clients follow is a `fill`.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{FetchError, Memory};
use crate::http::{Aborted, Growing, NextPiece, Piece};
use crate::limits::{PASS_THROUGH_BYTES_MAX, WITHHELD_BYTES};
use crate::oci::{Digest, Hasher};
use crate::runtime::doorbell::{Remote, Signal};

/// What comes out on a core. Dropping it ends the transfer.
pub struct Passed {
    hose: Arc<Hose>,
    signal: Signal,
}

/// What is poured in on the helper pool. Dropping it without an end tells the client's side.
pub(super) struct Inlet(Arc<Hose>);

/// How a transfer ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Poured {
    /// All of it came, and is right where that could be checked.
    Whole,
    /// It is not what its digest says.
    Wrong,
    /// It broke off.
    Broken,
    /// Its client went away.
    Abandoned,
}

/// Where bytes come from, on the helper pool.
pub(super) trait Well: Send {
    /// The next bytes; `None` at a clean end.
    fn draw(&mut self) -> impl Future<Output = Result<Option<Bytes>, FetchError>> + Send;
}

struct Hose {
    state: Mutex<State>,
    room: tokio::sync::Notify,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    end: Option<Result<(), Aborted>>,
    waiting: Option<Remote>,
    /// The client has gone.
    abandoned: bool,
    /// What its window may take, counted until the client has it all or is gone.
    memory: Option<Memory>,
}

/// Both ends of a new hose. To be called on the core that will read.
pub(super) fn hose() -> (Inlet, Passed) {
    let hose = Arc::new(Hose {
        state: Mutex::default(),
        room: tokio::sync::Notify::new(),
    });
    let passed = Passed {
        hose: hose.clone(),
        signal: Signal::new(),
    };
    (Inlet(hose), passed)
}

impl Inlet {
    /// Counts `memory` for as long as either end is there: what was poured may wait for its client for long.
    pub fn charge(&self, memory: Memory) {
        self.0.lock().memory = Some(memory);
    }

    /// Waits until the client has gone.
    pub async fn abandoned(&self) {
        loop {
            let notice = self.0.room.notified();
            if self.0.lock().abandoned {
                return;
            }
            notice.await;
        }
    }

    /// Moves a body through as fast as the client takes it. Its end is held back until it hashes to `expected`; without
    /// that nothing can be checked, and nothing is held back.
    pub async fn pour(self, mut well: impl Well, expected: Option<Digest>) -> Poured {
        let hose = &self.0;
        let mut withheld = Withheld::new(expected);
        loop {
            match well.draw().await {
                Ok(Some(chunk)) => hose.push(withheld.push(chunk)),
                Ok(None) => {
                    return match withheld.finish() {
                        Ok(rest) => {
                            hose.push(rest);
                            hose.change(|state| state.end = Some(Ok(())));
                            Poured::Whole
                        }
                        Err(Aborted) => Poured::Wrong,
                    };
                }
                Err(error) => {
                    tracing::info!(%error, "a body broke off while it was passed through");
                    return Poured::Broken;
                }
            }
            loop {
                let notice = hose.room.notified();
                {
                    let state = hose.lock();
                    if state.abandoned {
                        return Poured::Abandoned;
                    }
                    if state.bytes < PASS_THROUGH_BYTES_MAX {
                        break;
                    }
                }
                notice.await;
            }
        }
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.change(|state| {
            state.end.get_or_insert(Err(Aborted));
        });
    }
}

/// The end of a body, held back until its digest is known to be right.
struct Withheld {
    check: Option<(Digest, Hasher)>,
    chunks: VecDeque<Bytes>,
    bytes: usize,
}

impl Withheld {
    /// Without an expected digest nothing can be checked, and nothing is held back.
    fn new(expected: Option<Digest>) -> Self {
        let check = expected.map(|digest| (digest, Hasher::new(digest.algorithm())));
        Withheld {
            check,
            chunks: VecDeque::new(),
            bytes: 0,
        }
    }

    /// Takes the next chunk and gives what may go on.
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

    /// At the end of the body: the rest, if it is right.
    fn finish(self) -> Result<VecDeque<Bytes>, Aborted> {
        let Some((expected, hasher)) = self.check else {
            return Ok(self.chunks);
        };
        if hasher.finish() == expected {
            return Ok(self.chunks);
        }
        tracing::warn!(digest = %expected, "a body that was passed through is not what its digest says");
        Err(Aborted)
    }
}

impl Hose {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
            let mut state = self.lock();
            change(&mut state);
            state.waiting.take()
        };
        if let Some(remote) = waiting {
            remote.fire();
        }
    }
}

impl Passed {
    async fn advance(&mut self) -> Result<Option<Piece>, Aborted> {
        loop {
            {
                let mut state = self.hose.lock();
                if let Some(chunk) = state.chunks.pop_front() {
                    state.bytes -= chunk.len();
                    drop(state);
                    self.hose.room.notify_one();
                    return Ok(Some(Piece::Memory(chunk)));
                }
                if let Some(end) = &state.end {
                    return end.map(|()| None);
                }
                state.waiting = Some(self.signal.remote());
            }
            self.signal.wait().await;
        }
    }
}

impl Growing for Passed {
    fn next(&mut self) -> NextPiece<'_> {
        Box::pin(self.advance())
    }
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.hose.lock().abandoned = true;
        self.hose.room.notify_one();
    }
}
