//! The bytes of a blob, from the bucket while the bucket sends them, and from the registry otherwise. A body that breaks off
//! is requested again from its current offset. On the helper pool.
//!
//! Not here: whether they are right (who takes them hashes them), and where they go.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::Head;
use crate::cache::access::Caller;
use crate::cache::body_channel::ChunkSource;
use crate::cache::{FetchError, Shared, storable};
use crate::http::Span;
use crate::limits::{ABSENCE_TTL, BUCKET_BODY_RETRIES_MAX, BUCKET_PROGRESS_BYTES_MIN};
use crate::oci::{Digest, Origin};
use crate::runtime::clock::monotonic_micros;
use crate::storage::{RemoteBlob, RemoteBody};
use crate::upstream::{
    Fault, Purpose, Resume, ResumeVerdict, Target, UpstreamBody, UpstreamError, UpstreamMethod,
    UpstreamRequest, UpstreamResponse, resume_matches,
};

/// A blob, or a part of it, as it arrives.
pub struct BlobSource {
    shared: Arc<Shared>,
    origin: Origin,
    caller: Caller,
    digest: Digest,
    active: ActiveSource,
    /// Offset of the next byte.
    offset: u64,
    /// Size of the blob, when it is known.
    size: Option<u64>,
    /// Where it ends; `None` at the end of the blob, wherever that is.
    end: Option<u64>,
    /// The budget for what the registry does not give to its end.
    resume: Resume,
    /// Whether the registry was used.
    used_upstream: bool,
    /// The mirrors that sent some of it.
    mirrors_used: Vec<Arc<str>>,
}

enum ActiveSource {
    Bucket {
        body: RemoteBody,
        blob: RemoteBlob,
        /// Offset where it was opened.
        since: u64,
        /// How often it broke without having brought much.
        breaks: u32,
    },
    Upstream {
        body: UpstreamBody,
        /// The mirror it comes from.
        mirror: Option<Arc<str>>,
        /// Bytes that come once more and were taken before.
        skip: u64,
    },
}

impl BlobSource {
    /// The whole blob, from the registry of `origin`.
    ///
    /// # Errors
    ///
    /// The registry's answer, or its absence. A 404 of the last seconds is given again.
    pub async fn from_upstream(
        shared: &Arc<Shared>,
        origin: &Origin,
        caller: &Caller,
        digest: Digest,
    ) -> Result<(Self, Head), FetchError> {
        let response = request_unless_absent(shared, origin, caller, digest).await?;
        if response.status != 200 {
            return Err(protocol(
                origin,
                "a request without a range was answered with a part",
            ));
        }
        let head = Head {
            size: response.content_length,
            public: response.public,
            headers: storable(&response.headers),
        };
        let source = BlobSource {
            shared: shared.clone(),
            origin: origin.clone(),
            caller: caller.clone(),
            digest,
            mirrors_used: response.mirror.iter().cloned().collect(),
            active: ActiveSource::Upstream {
                body: response.body,
                mirror: response.mirror,
                skip: 0,
            },
            offset: 0,
            size: head.size,
            end: head.size,
            resume: Resume::new(0),
            used_upstream: true,
        };
        Ok((source, head))
    }

    /// `span` of `blob`, from the bucket; `None` when that does not begin in time. When the bucket
    /// breaks off, the rest is requested from the registry of `origin`, on behalf of `caller`.
    pub async fn from_bucket(
        shared: &Arc<Shared>,
        origin: &Origin,
        caller: &Caller,
        blob: &RemoteBlob,
        span: Span,
    ) -> Option<Self> {
        let body = blob.open(&origin.namespace, span.start, span.end).await?;
        Some(BlobSource {
            shared: shared.clone(),
            origin: origin.clone(),
            caller: caller.clone(),
            digest: blob.meta().digest,
            active: ActiveSource::Bucket {
                body,
                blob: blob.clone(),
                since: span.start,
                breaks: 0,
            },
            offset: span.start,
            size: Some(blob.meta().size),
            end: Some(span.end),
            resume: Resume::new(span.start),
            used_upstream: false,
            mirrors_used: Vec::new(),
        })
    }

    /// Whether all of it came from the bucket.
    pub fn is_from_bucket_alone(&self) -> bool {
        !self.used_upstream
    }

    /// Records wrong bytes as a fault of the mirrors that were used. Returns whether another source should be tried.
    pub fn blame_mirrors(&self) -> bool {
        let request = request(&self.origin, &self.caller, self.digest, 0);
        let mut blamed = false;
        for mirror in &self.mirrors_used {
            blamed |= self
                .shared
                .upstreams
                .record_fault(&request, Some(mirror), Fault::Wrong);
        }
        blamed
    }

    /// The next bytes; `None` when all are there.
    ///
    /// # Errors
    ///
    /// No source has the rest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let broken = match self.read_once().await {
                Ok(Some(chunk)) if chunk.is_empty() => continue,
                Ok(Some(chunk)) => return self.count(chunk).map(Some),
                // A part may be shorter than requested and still end cleanly.
                Ok(None) if self.end.is_some_and(|end| self.offset < end) => short(&self.origin),
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            // Whatever the connection said last: with all bytes there, there is nothing to resume.
            if self.end == Some(self.offset) {
                return Ok(None);
            }
            self.reconnect(broken).await?;
        }
    }

    /// What the body gives, without what was taken before.
    async fn read_once(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match &mut self.active {
            // The rest of the registry's answer is not wanted.
            ActiveSource::Upstream { .. } if self.end == Some(self.offset) && self.end != self.size => {
                Ok(None)
            }
            ActiveSource::Bucket { body, .. } => body.chunk().await.map_err(|error| UpstreamError::Body {
                host: "the bucket".into(),
                cause: error.to_string().into(),
            }),
            ActiveSource::Upstream { body, skip, .. } => {
                let Some(mut chunk) = body.chunk().await? else {
                    return Ok(None);
                };
                let skipped = chunk.len().min(usize::try_from(*skip).unwrap_or(usize::MAX));
                *skip -= skipped as u64;
                chunk.advance(skipped);
                Ok(Some(chunk))
            }
        }
    }

    fn count(&mut self, mut chunk: Bytes) -> Result<Bytes, FetchError> {
        if let Some(end) = self.end {
            let left = end - self.offset;
            if chunk.len() as u64 > left {
                if self.end == self.size {
                    // Responses in flight carry the size that was declared first.
                    return Err(protocol(&self.origin, "it sent more than it had declared"));
                }
                // `left` is less than a length in memory.
                chunk.truncate(left as usize);
            }
        }
        self.offset += chunk.len() as u64;
        Ok(chunk)
    }

    /// Requests the rest of a body that broke off: from the bucket again while that makes progress, then from the registry with
    /// a fresh request, so a fresh token and a fresh redirect.
    async fn reconnect(&mut self, mut error: UpstreamError) -> Result<(), FetchError> {
        let have = self.offset;
        if let ActiveSource::Bucket {
            blob, since, breaks, ..
        } = &self.active
        {
            let worthwhile = have - since >= BUCKET_PROGRESS_BYTES_MIN;
            let (blob, breaks) = (blob.clone(), if worthwhile { 0 } else { breaks + 1 });
            tracing::info!(digest = %self.digest, have, %error, "the bucket broke off; resuming");
            // A range has its end inside the blob, and a whole one that is empty is never broken.
            let to = self.end.unwrap_or(blob.meta().size);
            if breaks <= BUCKET_BODY_RETRIES_MAX
                && let Some(body) = blob.open(&self.origin.namespace, have, to).await
            {
                self.active = ActiveSource::Bucket {
                    body,
                    blob,
                    since: have,
                    breaks,
                };
                return Ok(());
            }
            self.resume = Resume::new(have);
            self.used_upstream = true;
            match self.request_rest().await? {
                Ok(()) => return Ok(()),
                Err(next) => error = next,
            }
        }
        // The next request goes to another mirror or upstream, which needs no delay.
        let mut elsewhere = match &self.active {
            ActiveSource::Upstream { mirror, .. } => {
                let request = request(&self.origin, &self.caller, self.digest, have);
                self.shared
                    .upstreams
                    .record_fault(&request, mirror.as_ref(), Fault::Broken)
            }
            ActiveSource::Bucket { .. } => false,
        };
        loop {
            let Some(delay) = Some(&error)
                .filter(|error| error.is_retryable())
                .and_then(|_| self.resume.after_break(have))
            else {
                return Err(error.into());
            };
            tracing::info!(registry = %self.origin.namespace, have, %error, "an upstream broke off; resuming");
            if !std::mem::take(&mut elsewhere) {
                tokio::time::sleep(delay).await;
            }
            match self.request_rest().await? {
                Ok(()) => return Ok(()),
                Err(next) => error = next,
            }
        }
    }

    /// Sends one request for the rest to the registry; the inner error may be temporary.
    async fn request_rest(&mut self) -> Result<Result<(), UpstreamError>, FetchError> {
        let response =
            match send_request(&self.shared, &self.origin, &self.caller, self.digest, self.offset).await {
                Ok(response) => response,
                Err(error) => return Ok(Err(error)),
            };
        let skip = match resume_matches(&response, self.offset, self.size) {
            ResumeVerdict::Continue => 0,
            ResumeVerdict::SkipFirst(bytes) => bytes,
            ResumeVerdict::Wrong => {
                let what = "it resumed with another part than requested";
                let request = request(&self.origin, &self.caller, self.digest, self.offset);
                let blamed =
                    self.shared
                        .upstreams
                        .record_fault(&request, response.mirror.as_ref(), Fault::Wrong);
                if blamed {
                    let (host, cause) = (self.origin.namespace.as_str().into(), what.into());
                    return Ok(Err(UpstreamError::Body { host, cause }));
                }
                // Or the mirror that sent the beginning declared a wrong size.
                self.blame_mirrors();
                return Err(protocol(&self.origin, what));
            }
        };
        if let Some(mirror) = &response.mirror
            && !self.mirrors_used.contains(mirror)
        {
            self.mirrors_used.push(mirror.clone());
        }
        self.active = ActiveSource::Upstream {
            body: response.body,
            mirror: response.mirror,
            skip,
        };
        Ok(Ok(()))
    }
}

impl ChunkSource for BlobSource {
    async fn next_chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        self.next().await
    }
}

fn request(origin: &Origin, caller: &Caller, digest: Digest, from: u64) -> UpstreamRequest {
    UpstreamRequest {
        namespace: origin.namespace.clone(),
        repository: origin.repository.clone(),
        target: Target::Blob(digest),
        method: UpstreamMethod::Get,
        accept: Vec::new(),
        range_from: Some(from).filter(|&from| from > 0),
        credentials: caller.credentials(),
        purpose: Purpose::Pull,
    }
}

/// Requests a whole blob from the registry, unless the registry answered 404 to the same caller a moment ago.
async fn request_unless_absent(
    shared: &Shared,
    origin: &Origin,
    caller: &Caller,
    digest: Digest,
) -> Result<UpstreamResponse, FetchError> {
    let target = Target::Blob(digest);
    if let Some(absence) = shared.absences().last(origin, &target, caller) {
        return Err(absence);
    }
    let before = shared.absences().change_count(origin);
    let answer = send_request(shared, origin, caller, digest, 0).await;
    answer.map_err(FetchError::from).inspect_err(|error| {
        let request = (origin, &target, caller);
        shared.absences().record(before, request, error, ABSENCE_TTL);
    })
}

/// Requests a blob from the registry, from offset `from` on.
async fn send_request(
    shared: &Shared,
    origin: &Origin,
    caller: &Caller,
    digest: Digest,
    from: u64,
) -> Result<UpstreamResponse, UpstreamError> {
    let requested_at = monotonic_micros();
    let request = request(origin, caller, digest, from);
    let response = shared
        .upstreams
        .fetch(&request)
        .await
        .inspect_err(|error| shared.access.record_denial(origin, caller, error))?;
    if !response.public {
        shared.access.record_grant(origin, &digest, caller, requested_at);
    }
    Ok(response)
}

fn short(origin: &Origin) -> UpstreamError {
    UpstreamError::Body {
        host: origin.namespace.as_str().into(),
        cause: "it ended early".into(),
    }
}

fn protocol(origin: &Origin, what: &str) -> FetchError {
    UpstreamError::Protocol {
        host: origin.namespace.as_str().into(),
        what: what.into(),
    }
    .into()
}
