//! Passing an upstream's answer through to one client, unstored: the operator wants nothing of this registry kept.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::{Cache, FetchError, Origin, Slot, named_digest, storable};
use crate::http::{Aborted, Growing, NextPiece, Piece};
use crate::limits::{PASS_THROUGH_BYTES_MAX, WITHHELD_BYTES};
use crate::oci::{Digest, Hasher, Reference, SCHEMA1_TYPES};
use crate::runtime::doorbell::{Remote, Signal};
use crate::upstream::{Credentials, Method, Purpose, Request, Target, UpstreamError};

/// The upstream's head.
#[derive(Debug)]
pub struct PassedHead {
    pub size: Option<u64>,
    /// Media type, without parameters.
    pub content_type: Option<String>,
    /// All end-to-end fields, canonical names.
    pub headers: std::collections::BTreeMap<String, Vec<String>>,
}

/// The upstream's body on its way to one client. Dropping it ends the transfer.
pub struct Passed {
    hose: Arc<Hose>,
    signal: Signal,
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
}

impl Cache {
    /// Asks the upstream with these credentials, for one client alone.
    ///
    /// # Errors
    ///
    /// The upstream's refusal as it is, its challenge included.
    pub async fn pass(
        &self,
        origin: &Origin,
        target: Target,
        head_only: bool,
        accept: Vec<String>,
        credentials: Credentials,
    ) -> Result<(PassedHead, Passed), FetchError> {
        let (shared, origin) = (self.0.clone(), origin.clone());
        let hose = Arc::new(Hose {
            state: Mutex::default(),
            room: tokio::sync::Notify::new(),
        });
        let request = Request {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            // Registries refuse `HEAD` of blobs that they give by `GET`.
            method: match &target {
                Target::Blob(_) => Method::Get,
                _ if head_only => Method::Head,
                _ => Method::Get,
            },
            target,
            accept,
            range_from: None,
            credentials,
            purpose: Purpose::Pull,
        };
        let filled = hose.clone();
        let answer = self.0.helper.ask(async move {
            let Slot { permit, mut memory } = shared.slot().await?;
            let response = shared.upstreams.fetch(&request).await?;
            let head = PassedHead {
                size: response.content_length,
                content_type: super::media_type(&response.headers),
                headers: storable(&response.headers),
            };
            // From here on it takes what waits for its client, and no place among those who ask.
            drop(permit);
            memory.shrink_to(PASS_THROUGH_BYTES_MAX as u64);
            if !head_only {
                let named = named_digest(&response.headers);
                let expected = match &request.target {
                    Target::Blob(digest) | Target::Manifest(Reference::Digest(digest)) => Some(*digest),
                    // The digest of the first schema leaves the signatures out.
                    Target::Manifest(Reference::Tag(_)) if is_schema1(&head) => None,
                    _ => named,
                };
                let (public, checked) = (response.public, expected.is_some());
                tokio::spawn(async move {
                    let _memory = memory;
                    let verified = pump(response.body, filled, Withheld::new(expected)).await;
                    if verified && checked {
                        // It may be held from elsewhere; now this registry has shown that it has it.
                        shared.vouch(&request.target, &origin, public);
                    }
                });
            }
            Ok::<_, FetchError>(head)
        });
        let head = answer.await.map_err(|_| FetchError::Lost)??;
        Ok((
            head,
            Passed {
                hose,
                signal: Signal::new(),
            },
        ))
    }
}

fn is_schema1(head: &PassedHead) -> bool {
    head.content_type
        .as_deref()
        .is_some_and(|named| SCHEMA1_TYPES.contains(&named))
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
        tracing::warn!(digest = %expected, "an upstream's answer that was passed through is not what its digest says");
        Err(Aborted)
    }
}

/// Moves the body into the hose as fast as the client takes it.
/// Says whether all of it came and was right.
async fn pump(mut body: crate::upstream::Body, hose: Arc<Hose>, mut withheld: Withheld) -> bool {
    /// Tells the client's side if the pump ends without an end.
    struct Guard(Arc<Hose>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.change(|state| {
                state.end.get_or_insert(Err(Aborted));
            });
        }
    }
    let guard = Guard(hose);
    let hose = &guard.0;
    loop {
        let chunk: Result<Option<Bytes>, UpstreamError> = body.chunk().await;
        let end = match chunk {
            Ok(Some(chunk)) => {
                hose.push(withheld.push(chunk));
                None
            }
            Ok(None) => match withheld.finish() {
                Ok(rest) => {
                    hose.push(rest);
                    hose.change(|state| state.end = Some(Ok(())));
                    return true;
                }
                Err(aborted) => {
                    hose.change(|state| state.end = Some(Err(aborted)));
                    return false;
                }
            },
            Err(error) => {
                tracing::info!(%error, "an upstream broke off while its answer was passed through");
                Some(Err(Aborted))
            }
        };
        if let Some(end) = end {
            hose.change(|state| state.end = Some(end));
            return false;
        }
        loop {
            let notice = hose.room.notified();
            {
                let state = hose.lock();
                if state.abandoned {
                    return false;
                }
                if state.bytes < PASS_THROUGH_BYTES_MAX {
                    break;
                }
            }
            notice.await;
        }
    }
}

impl Hose {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
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
