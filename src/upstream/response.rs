//! A good answer: its parsed head, and its body in chunks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::OwnedSemaphorePermit;

use super::content_range::{self, ReceivedRange, ResumeVerdict};
use super::error::{Phase, UpstreamError};
use crate::metrics;
use crate::oci::Namespace;

/// The minimum progress of a body within [`super::Deadlines::idle`]. A slower upstream counts as
/// silent, because single bytes could block its clients for days. With the default of 30 s, the
/// minimum rate is 137 bytes per second.
const CRUMBS: u64 = 4096;

/// A 200 or 206. The body has not been read.
#[derive(Debug)]
pub struct UpstreamResponse {
    /// 200, or 206 for a request with a range.
    pub status: u16,
    /// End-to-end headers of the last hop, as sent.
    pub headers: HeaderMap,
    /// Length of this response's body; for HEAD, the length of the body of a GET. `None` if the
    /// upstream does not state the length.
    pub content_length: Option<u64>,
    /// Always present in a 206, never in a 200.
    pub content_range: Option<ReceivedRange>,
    /// The request used no credentials, neither for the registry nor for a token. The content is
    /// public.
    pub public: bool,
    /// The base URL of the answering mirror; `None` for the registry itself.
    pub mirror: Option<Arc<str>>,
    /// `host` or `host:port` of the answering mirror or registry, before redirects.
    pub endpoint: Arc<str>,
    pub body: UpstreamBody,
}

/// Decides whether the body of `response` continues `have` received bytes of a content of `size`
/// bytes.
pub fn resume_matches(response: &UpstreamResponse, have: u64, size: Option<u64>) -> ResumeVerdict {
    content_range::decide(response.content_length, response.content_range, have, size)
}

/// The body of a response in transfer. A drop before the end closes the connection.
pub struct UpstreamBody {
    /// `None` after the end of the body.
    response: Option<reqwest::Response>,
    /// The reason for an incomplete body.
    failure: Option<UpstreamError>,
    host: Arc<str>,
    idle: Duration,
    /// The wait for the current [`CRUMBS`] bytes, and the received part of them. Time without a
    /// reading caller does not count.
    waited: Duration,
    crumbs: u64,
    /// Invariant: `received <= expected`, if `expected` is known.
    received: u64,
    expected: Option<u64>,
    /// The request slot of the registry. Released at the end of the body.
    slot: Option<OwnedSemaphorePermit>,
    /// Counts the received bytes for the metrics.
    received_bytes: Option<Counter>,
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
            received_bytes: None,
        }
    }

    /// Counts the bytes of the body for `registry`.
    pub(super) fn count_for(&mut self, registry: &Namespace) {
        self.received_bytes = Some(metrics::received_bytes(registry.as_str()));
    }

    /// Stores `slot` in the body until the body ends.
    pub(super) fn occupy(&mut self, slot: Option<OwnedSemaphorePermit>) {
        self.slot = slot.filter(|_| self.response.is_some());
    }

    /// Lowers the idle deadline to `idle`.
    pub(super) fn hurry(&mut self, idle: Duration) {
        self.idle = self.idle.min(idle);
    }

    /// Returns the sending host.
    pub(super) fn host(&self) -> &Arc<str> {
        &self.host
    }

    /// Returns the body of an answer to HEAD.
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
            received_bytes: None,
        }
    }

    /// Returns the next bytes, never an empty chunk. `None` if the body is complete.
    ///
    /// A body without an announced length (close-delimited, from an HTTP/1.0 server) has no
    /// recognizable end. Its digest reveals a truncated body.
    ///
    /// # Errors
    ///
    /// [`UpstreamError::Timeout`] after 30 s without 4 KiB. [`UpstreamError::Body`] if the
    /// connection breaks, or if the body is longer or shorter than announced. After an error, every
    /// further call returns the error again.
    ///
    /// # Cancellation
    ///
    /// Safe. No byte is lost, and the next call continues to wait.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let Some(response) = &mut self.response else {
            return self.failure.clone().map_or(Ok(None), Err);
        };
        // Empty chunks are no progress, so the timeout covers the wait for the first byte.
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
                if let Some(counter) = &self.received_bytes {
                    counter.inc_by(bytes.len() as u64);
                }
                self.crumbs += bytes.len() as u64;
                if self.crumbs >= CRUMBS {
                    (self.waited, self.crumbs) = (Duration::ZERO, 0);
                }
                let received = self.received + bytes.len() as u64;
                match self.expected {
                    Some(expected) if received > expected => {
                        broken(format!("received more than the declared {expected} bytes"))
                    }
                    _ => {
                        self.received = received;
                        return Ok(Some(bytes));
                    }
                }
            }
            Ok(Ok(None)) => match self.expected {
                Some(expected) if self.received < expected => {
                    broken(format!("received {} of {expected} bytes", self.received))
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
    // The response contains its URL, and presigned URLs are secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Body({} of {:?} bytes from {})",
            self.received, self.expected, self.host
        )
    }
}
