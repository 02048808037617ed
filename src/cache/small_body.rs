//! Fetches the body of a manifest or list. If the body breaks off, the next attempt starts at the
//! first byte, because the body is small.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use super::{FetchError, Memory, Shared};
use crate::limits::{SMALL_BODY_RATE_MIN, SMALL_BODY_TIMEOUT};
use crate::upstream::{Fault, Phase, Resume, UpstreamError, UpstreamRequest, UpstreamResponse};

/// An error of an attempt.
pub(super) trait SmallBodyError: From<FetchError> {
    /// Returns the error of the fetch. `None` if the body arrived, but is not usable.
    fn fetch_error(&self) -> Option<&FetchError>;
}

impl SmallBodyError for FetchError {
    fn fetch_error(&self) -> Option<&FetchError> {
        Some(self)
    }
}

/// The attempts to get one body.
pub(super) struct SmallBodyFetch<'a> {
    shared: &'a Shared,
    request: &'a UpstreamRequest,
    /// The maximum length in bytes.
    limit: usize,
    resume: Resume,
}

impl<'a> SmallBodyFetch<'a> {
    pub fn new(shared: &'a Shared, request: &'a UpstreamRequest, limit: usize) -> Self {
        SmallBodyFetch {
            shared,
            request,
            limit,
            resume: Resume::new(0),
        }
    }

    /// Reads `response` with `read`, within the time allowed for its length. Returns `None` if the
    /// request should be sent again, after a delay in this call.
    pub async fn attempt<T, E: SmallBodyError, F: Future<Output = Result<T, E>>>(
        &mut self,
        response: UpstreamResponse,
        memory: &mut Memory,
        read: impl FnOnce(UpstreamResponse) -> F,
    ) -> Option<Result<T, E>> {
        let mirror = response.mirror.clone();
        memory.shrink_to(response.content_length.unwrap_or(u64::MAX));
        let limit = self.limit as u64;
        let length = response.content_length.unwrap_or(limit).min(limit);
        let earned = Duration::from_secs(length / SMALL_BODY_RATE_MIN);
        let read = tokio::time::timeout(SMALL_BODY_TIMEOUT + earned, read(response));
        let (error, in_time) = match read.await {
            Ok(Ok(body)) => return Some(Ok(body)),
            Ok(Err(error)) => (error, true),
            Err(_elapsed) => (self.too_slow().into(), false),
        };
        if let Some(fault) = fault(&error)
            && self
                .shared
                .upstreams
                .record_fault(self.request, mirror.as_ref(), fault)
        {
            // The next mirror or upstream gets the request at once.
            return None;
        }
        if in_time
            && is_retryable(&error)
            && let Some(delay) = self.resume.after_break(0)
        {
            tokio::time::sleep(delay).await;
            return None;
        }
        Some(Err(error))
    }

    fn too_slow(&self) -> FetchError {
        UpstreamError::Timeout {
            host: self.request.namespace.as_str().into(),
            phase: Phase::Body,
        }
        .into()
    }
}

fn is_retryable(error: &impl SmallBodyError) -> bool {
    matches!(error.fetch_error(), Some(FetchError::Upstream(error)) if error.is_retryable())
}

/// Returns the fault of a mirror that sent the body.
fn fault(error: &impl SmallBodyError) -> Option<Fault> {
    match error.fetch_error() {
        _ if is_retryable(error) => Some(Fault::Broken),
        // A schema 1 image is the same at every mirror.
        Some(FetchError::Schema1) => None,
        _ => Some(Fault::Wrong),
    }
}

/// Reads a whole body of at most `limit` bytes. Returns `None` for a larger body.
pub(super) async fn read_at_most(
    limit: usize,
    response: &mut UpstreamResponse,
) -> Result<Option<Bytes>, UpstreamError> {
    if response
        .content_length
        .is_some_and(|length| length > limit as u64)
    {
        return Ok(None);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.body.chunk().await? {
        if body.len() + chunk.len() > limit {
            return Ok(None);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Some(body.freeze()))
}
