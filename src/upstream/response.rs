//! A good answer: its head as we understood it, and its body piece by piece.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::OwnedSemaphorePermit;

use super::content_range::{self, ReceivedRange, ResumeVerdict};
use super::error::{Phase, UpstreamError};

/// What a body has to bring within [`super::Deadlines::idle`]. An upstream that sends a byte now and then is as good as
/// silent, and would hold its clients for days; with the usual 30 s the minimum is 137 bytes per second.
const CRUMBS: u64 = 4096;

/// A 200 or 206. The body has not been read.
#[derive(Debug)]
pub struct UpstreamResponse {
    /// 200, or 206 for a request with a range.
    pub status: u16,
    /// End-to-end headers of the last hop, as sent.
    pub headers: HeaderMap,
    /// Length of this response's body; for HEAD, of the body a GET would have. `None` when the upstream
    /// does not say.
    pub content_length: Option<u64>,
    /// Always there with a 206, never with a 200.
    pub content_range: Option<ReceivedRange>,
    /// Given without any credentials, neither to the registry nor for a token, so anybody may have it.
    pub public: bool,
    /// The base URL of the mirror that gave it; `None` for the registry itself.
    pub mirror: Option<Arc<str>>,
    pub body: UpstreamBody,
}

/// Decides whether the body of `response` may be appended to `have` bytes of a content of `size` bytes.
pub fn resume_matches(response: &UpstreamResponse, have: u64, size: Option<u64>) -> ResumeVerdict {
    content_range::decide(response.content_length, response.content_range, have, size)
}

/// Content on its way. Dropping it closes the connection unless all has been read.
pub struct UpstreamBody {
    /// `None` once nothing more will come.
    response: Option<reqwest::Response>,
    /// Why nothing more comes, if not because all is there.
    failure: Option<UpstreamError>,
    host: Arc<str>,
    idle: Duration,
    /// The time of waiting for the current [`CRUMBS`], and the received bytes of them. Time without a reading caller
    /// does not count.
    waited: Duration,
    crumbs: u64,
    /// Invariant: `received <= expected` when that is known.
    received: u64,
    expected: Option<u64>,
    /// The request slot of the registry; released with the last byte.
    slot: Option<OwnedSemaphorePermit>,
}

impl UpstreamBody {
    pub(super) fn new(
        response: reqwest::Response,
        host: Arc<str>,
        idle: Duration,
        expected: Option<u64>,
    ) -> Self {
        UpstreamBody {
            response: Some(response),
            failure: None,
            host,
            idle,
            waited: Duration::ZERO,
            crumbs: 0,
            received: 0,
            expected,
            slot: None,
        }
    }

    /// Stores `slot` in the body until the body ends.
    pub(super) fn occupy(&mut self, slot: Option<OwnedSemaphorePermit>) {
        self.slot = slot.filter(|_| self.response.is_some());
    }

    /// Waits for less than before.
    pub(super) fn hurry(&mut self, idle: Duration) {
        self.idle = self.idle.min(idle);
    }

    /// Who gives it.
    pub(super) fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// The body of an answer to HEAD.
    pub(super) fn empty(host: Arc<str>) -> Self {
        UpstreamBody {
            response: None,
            failure: None,
            host,
            idle: Duration::ZERO,
            waited: Duration::ZERO,
            crumbs: 0,
            received: 0,
            expected: Some(0),
            slot: None,
        }
    }

    /// Gives the next bytes, never an empty piece; `None` when the body is complete.
    ///
    /// A body without a promised length (close-delimited, from a HTTP/1.0 server) cannot be distinguished
    /// from one that broke off; its digest can.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Timeout`] after 30 s without 4 KiB, [`UpstreamError::Body`] when the
    /// connection breaks or the length is not the promised one, too long included. After an error
    /// every further call gives the same one.
    ///
    /// # Cancellation
    ///
    /// Free: no byte is lost, and the next call goes on waiting.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let Some(response) = &mut self.response else {
            return self.failure.clone().map_or(Ok(None), Err);
        };
        // Empty pieces are no progress, so the wait is for the first byte and not for the first piece.
        let first_bytes = async {
            loop {
                match response.chunk().await {
                    Ok(Some(bytes)) if bytes.is_empty() => {}
                    outcome => return outcome,
                }
            }
        };
        let broken = |cause: String| UpstreamError::Body {
            host: self.host.clone(),
            cause: cause.into(),
        };
        let began = Instant::now();
        let patience = self.idle.saturating_sub(self.waited);
        let outcome = tokio::time::timeout(patience, first_bytes).await;
        self.waited += began.elapsed();
        let failure = match outcome {
            Ok(Ok(Some(bytes))) => {
                self.crumbs += bytes.len() as u64;
                if self.crumbs >= CRUMBS {
                    (self.waited, self.crumbs) = (Duration::ZERO, 0);
                }
                let received = self.received + bytes.len() as u64;
                match self.expected {
                    Some(expected) if received > expected => {
                        broken(format!("more than the promised {expected} bytes came"))
                    }
                    _ => {
                        self.received = received;
                        return Ok(Some(bytes));
                    }
                }
            }
            Ok(Ok(None)) => match self.expected {
                Some(expected) if self.received < expected => {
                    broken(format!("{} of {expected} bytes came", self.received))
                }
                _ => {
                    self.end();
                    return Ok(None);
                }
            },
            Ok(Err(error)) => broken(format!(
                "{} after {} bytes",
                super::error::cause(error),
                self.received
            )),
            Err(_elapsed) => UpstreamError::Timeout {
                host: self.host.clone(),
                phase: Phase::Body,
            },
        };
        self.end();
        self.failure = Some(failure.clone());
        Err(failure)
    }

    fn end(&mut self) {
        self.response = None;
        self.slot = None;
    }
}

impl std::fmt::Debug for UpstreamBody {
    // The response inside knows its URL, and presigned ones are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Body({} of {:?} bytes from {})",
            self.received, self.expected, self.host
        )
    }
}
