//! The bytes of a blob, from where they can be had: the bucket while it gives them, the registry otherwise; what breaks off
//! is asked for again from where it broke. On the helper pool.
//!
//! Not here: whether they are right (who takes them hashes them), and where they go.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use super::access::Caller;
use super::fill::Head;
use super::hose::Well;
use super::shares::Lease;
use super::{FetchError, Origin, Shared, storable};
use crate::http::Span;
use crate::limits::{
    ABSENCE_LIFE, BUCKET_BREAKS_MAX, BUCKET_OPEN_MAX, BUCKET_WORTHWHILE_BYTES, HELD_WHOLE_BYTES_MAX,
};
use crate::oci::Digest;
use crate::runtime::clock::monotonic_micros;
use crate::store::{Key, Meta, S3Body};
use crate::upstream::{
    Body, Fault, Method, Purpose, Request, Response, Resume, ResumeVerdict, Target, UpstreamError,
    resume_matches,
};

/// A blob, or a part of it, as it arrives.
pub struct Supply {
    shared: Arc<Shared>,
    origin: Origin,
    caller: Caller,
    digest: Digest,
    body: Tap,
    /// Offset of the next byte.
    have: u64,
    /// Size of the blob, when it is known.
    size: Option<u64>,
    /// Where it ends; `None` at the end of the blob, wherever that is.
    end: Option<u64>,
    /// The budget for what the registry does not give to its end.
    resume: Resume,
    /// Whether the registry had to be asked.
    asked_upstream: bool,
    /// The mirrors that gave some of it.
    givers: Vec<Arc<str>>,
}

enum Tap {
    Bucket {
        body: Opened,
        meta: Arc<Meta>,
        /// Offset where it was opened.
        since: u64,
        /// How often it broke without having brought much.
        breaks: u32,
    },
    Upstream {
        body: Body,
        /// The mirror it comes from.
        mirror: Option<Arc<str>>,
        /// Bytes that come once more and were taken before.
        skip: u64,
    },
}

/// A body of the bucket, and its place among those of its registry.
struct Opened {
    body: S3Body,
    _place: Option<Lease>,
}

impl Supply {
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
        let response = ask_unless_absent(shared, origin, caller, digest).await?;
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
        let supply = Supply {
            shared: shared.clone(),
            origin: origin.clone(),
            caller: caller.clone(),
            digest,
            givers: response.mirror.iter().cloned().collect(),
            body: Tap::Upstream {
                body: response.body,
                mirror: response.mirror,
                skip: 0,
            },
            have: 0,
            size: head.size,
            end: head.size,
            resume: Resume::new(0),
            asked_upstream: true,
        };
        Ok((supply, head))
    }

    /// `span` of the blob that `meta` describes, from the bucket; `None` when that does not begin in time. What the bucket
    /// does not give to its end is asked for in the registry of `origin`, on behalf of `caller`.
    pub async fn from_bucket(
        shared: &Arc<Shared>,
        origin: &Origin,
        caller: &Caller,
        meta: &Arc<Meta>,
        span: Span,
    ) -> Option<Self> {
        let body = tap(shared, origin, meta, span.start, span.end).await?;
        Some(Supply {
            shared: shared.clone(),
            origin: origin.clone(),
            caller: caller.clone(),
            digest: meta.digest,
            body: Tap::Bucket {
                body,
                meta: meta.clone(),
                since: span.start,
                breaks: 0,
            },
            have: span.start,
            size: Some(meta.size),
            end: Some(span.end),
            resume: Resume::new(span.start),
            asked_upstream: false,
            givers: Vec::new(),
        })
    }

    /// Whether all of it came from the bucket.
    pub fn is_from_bucket_alone(&self) -> bool {
        !self.asked_upstream
    }

    /// Takes note that the bytes were wrong. Whether the next place should be asked for all of them: mirrors gave some.
    pub fn blame_givers(&self) -> bool {
        let request = request(&self.origin, &self.caller, self.digest, 0);
        let mut news = false;
        for mirror in &self.givers {
            news |= self.shared.upstreams.blame(&request, Some(mirror), Fault::Wrong);
        }
        news
    }

    /// The next bytes; `None` when all are there.
    ///
    /// # Errors
    ///
    /// Nobody gives the rest.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let broken = match self.draw_once().await {
                Ok(Some(chunk)) if chunk.is_empty() => continue,
                Ok(Some(chunk)) => return self.count(chunk).map(Some),
                // A part may be shorter than asked for and still end cleanly.
                Ok(None) if self.end.is_some_and(|end| self.have < end) => short(&self.origin),
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            // Whatever the connection said last: with all bytes there, there is nothing to resume.
            if self.end == Some(self.have) {
                return Ok(None);
            }
            self.reconnect(broken).await?;
        }
    }

    /// What the body gives, without what was taken before.
    async fn draw_once(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match &mut self.body {
            // The rest of the registry's answer is not wanted.
            Tap::Upstream { .. } if self.end == Some(self.have) && self.end != self.size => Ok(None),
            Tap::Bucket { body, .. } => body.body.chunk().await.map_err(|error| UpstreamError::Body {
                host: "the bucket".into(),
                cause: error.to_string().into(),
            }),
            Tap::Upstream { body, skip, .. } => {
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
            let left = end - self.have;
            if chunk.len() as u64 > left {
                if self.end == self.size {
                    // Responses are under way with the size that was declared first.
                    return Err(protocol(&self.origin, "it sent more than it had declared"));
                }
                // `left` is less than a length in memory.
                chunk.truncate(left as usize);
            }
        }
        self.have += chunk.len() as u64;
        Ok(chunk)
    }

    /// Asks for the rest of a body that broke off: the bucket again, as long as that brings something, then the registry with
    /// a fresh request, so a fresh token and a fresh redirect.
    async fn reconnect(&mut self, mut error: UpstreamError) -> Result<(), FetchError> {
        let have = self.have;
        if let Tap::Bucket {
            meta, since, breaks, ..
        } = &self.body
        {
            let worthwhile = have - since >= BUCKET_WORTHWHILE_BYTES;
            let (meta, breaks) = (meta.clone(), if worthwhile { 0 } else { breaks + 1 });
            tracing::info!(digest = %self.digest, have, %error, "the bucket broke off; resuming");
            // A range has its end inside the blob, and a whole one that is empty is never broken.
            let to = self.end.unwrap_or(meta.size);
            if breaks <= BUCKET_BREAKS_MAX
                && let Some(body) = tap(&self.shared, &self.origin, &meta, have, to).await
            {
                self.body = Tap::Bucket {
                    body,
                    meta,
                    since: have,
                    breaks,
                };
                return Ok(());
            }
            self.resume = Resume::new(have);
            self.asked_upstream = true;
            match self.ask_for_rest().await? {
                Ok(()) => return Ok(()),
                Err(next) => error = next,
            }
        }
        // The next place is another one, which need not be spared.
        let mut elsewhere = match &self.body {
            Tap::Upstream { mirror, .. } => {
                let request = request(&self.origin, &self.caller, self.digest, have);
                self.shared
                    .upstreams
                    .blame(&request, mirror.as_ref(), Fault::Broken)
            }
            Tap::Bucket { .. } => false,
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
            match self.ask_for_rest().await? {
                Ok(()) => return Ok(()),
                Err(next) => error = next,
            }
        }
    }

    /// Asks the registry once; the inner error may pass.
    async fn ask_for_rest(&mut self) -> Result<Result<(), UpstreamError>, FetchError> {
        let response = match ask(&self.shared, &self.origin, &self.caller, self.digest, self.have).await {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        let skip = match resume_matches(&response, self.have, self.size) {
            ResumeVerdict::Continue => 0,
            ResumeVerdict::SkipFirst(bytes) => bytes,
            ResumeVerdict::Wrong => {
                let what = "it resumed with another part than was asked";
                let request = request(&self.origin, &self.caller, self.digest, self.have);
                let blamed = self
                    .shared
                    .upstreams
                    .blame(&request, response.mirror.as_ref(), Fault::Wrong);
                if blamed {
                    let (host, cause) = (self.origin.namespace.as_str().into(), what.into());
                    return Ok(Err(UpstreamError::Body { host, cause }));
                }
                // Or a mirror that gave the beginning has told a wrong size.
                self.blame_givers();
                return Err(protocol(&self.origin, what));
            }
        };
        if let Some(mirror) = &response.mirror
            && !self.givers.contains(mirror)
        {
            self.givers.push(mirror.clone());
        }
        self.body = Tap::Upstream {
            body: response.body,
            mirror: response.mirror,
            skip,
        };
        Ok(Ok(()))
    }
}

impl Well for Supply {
    async fn draw(&mut self) -> Result<Option<Bytes>, FetchError> {
        self.next().await
    }
}

/// Opens a part of a blob in the bucket, in time, unless the share of its registry is used up.
async fn tap(shared: &Arc<Shared>, origin: &Origin, meta: &Arc<Meta>, from: u64, to: u64) -> Option<Opened> {
    let bucket = shared.storage.bucket()?;
    // Shorter ones do not wait for clients.
    let place = if to - from > HELD_WHOLE_BYTES_MAX {
        Some(bucket.place_for(&shared.party(&origin.namespace))?)
    } else {
        None
    };
    let (store, meta) = (bucket.store().clone(), meta.clone());
    let opening = async move { store.read(&Key::Blob(meta.digest), &meta, from, to).await };
    let body = bucket.in_time(BUCKET_OPEN_MAX, opening).await?;
    Some(Opened { body, _place: place })
}

fn request(origin: &Origin, caller: &Caller, digest: Digest, from: u64) -> Request {
    Request {
        namespace: origin.namespace.clone(),
        repository: origin.repository.clone(),
        target: Target::Blob(digest),
        method: Method::Get,
        accept: Vec::new(),
        range_from: Some(from).filter(|&from| from > 0),
        credentials: caller.credentials(),
        purpose: Purpose::Pull,
    }
}

/// Asks the registry for a whole blob, unless it answered 404 to the same caller a moment ago.
async fn ask_unless_absent(
    shared: &Shared,
    origin: &Origin,
    caller: &Caller,
    digest: Digest,
) -> Result<Response, FetchError> {
    let target = Target::Blob(digest);
    if let Some(absence) = shared.absences().last(origin, &target, caller) {
        return Err(absence);
    }
    let before = shared.absences().before_asking(origin);
    let answer = ask(shared, origin, caller, digest, 0).await;
    answer.map_err(FetchError::from).inspect_err(|error| {
        let asked = (origin, &target, caller);
        shared.absences().note(before, asked, error, ABSENCE_LIFE);
    })
}

/// Asks the registry for a blob from `from` on.
async fn ask(
    shared: &Shared,
    origin: &Origin,
    caller: &Caller,
    digest: Digest,
    from: u64,
) -> Result<Response, UpstreamError> {
    let asked = monotonic_micros();
    let request = request(origin, caller, digest, from);
    let response = shared
        .upstreams
        .fetch(&request)
        .await
        .inspect_err(|error| shared.access.heard_no(origin, caller, error))?;
    if !response.public {
        shared.access.heard_yes(origin, &digest, caller, asked);
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
