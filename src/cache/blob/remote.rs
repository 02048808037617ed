//! Serves a blob that the bucket has and this machine lacks.

use super::answer::{BlobAnswer, BlobBody, BlobHeaders, BlobRequest, FoundBlob, WantedBytes};
use crate::cache::access::HeldContent;
use crate::cache::body_channel::{BodyReceiver, ForwardOutcome, body_channel};
use crate::cache::fill::source::BlobSource;
use crate::cache::{Cache, Caller, FetchError, Priority};
use crate::http::{CacheResult, Span};
use crate::limits::{BODY_CHANNEL_BYTES_MAX, BUCKET_RANGE_DISTANCE_MIN, HELD_WHOLE_BYTES_MAX};
use crate::oci::Origin;
use crate::storage::RemoteBlob;
use crate::upstream::Target;

/// The next step for a blob in the bucket.
pub(super) enum FromRemote {
    Answer(BlobAnswer),
    /// A fill copies the blob to the disk of this machine.
    Copy,
    /// The bucket has the blob, but does not send it.
    Unavailable,
}

impl Cache {
    pub(super) async fn answer_from_remote(
        &self,
        request: &BlobRequest<'_>,
        blob: &RemoteBlob,
    ) -> Result<FromRemote, FetchError> {
        let BlobRequest {
            origin,
            digest,
            caller,
            ..
        } = *request;
        let meta = blob.meta();
        if !self.is_authority(origin, meta, meta.public) {
            return Ok(FromRemote::Answer(BlobAnswer::Passthrough));
        }
        let held = HeldContent {
            digest: &digest,
            public: meta.public,
            is_unproven: meta.is_unproven(),
        };
        let permit = self.permit(origin, held, Target::Blob, caller).await?;
        let public = meta.public || permit.public;
        let body = match (request.wanted)(meta.size) {
            WantedBytes::Nothing => Some(BlobBody::Nothing),
            WantedBytes::Range(span) if blob.is_copied_on_pull() => {
                self.stream_far_range(request, blob, span).await
            }
            WantedBytes::Whole if blob.is_copied_on_pull() => None,
            wanted => self.serve_from_remote(request, blob, public, wanted).await,
        };
        Ok(match body {
            Some(body) => FromRemote::Answer(BlobAnswer::Found(FoundBlob {
                size: Some(meta.size),
                public,
                cache: CacheResult::Hit,
                joined_fill: None,
                upstream_status: None,
                body,
                headers: BlobHeaders::stored(meta.clone(), origin),
            })),
            None if blob.is_copied_on_pull() => FromRemote::Copy,
            None => FromRemote::Unavailable,
        })
    }

    /// Streams a range that begins far inside a blob, and copies the blob in the background. `None`
    /// if the range begins near the start, or if the bucket does not send the range.
    async fn stream_far_range(
        &self,
        request: &BlobRequest<'_>,
        blob: &RemoteBlob,
        span: Span,
    ) -> Option<BlobBody> {
        if span.start < BUCKET_RANGE_DISTANCE_MIN {
            return None;
        }
        let BlobRequest {
            origin,
            digest,
            caller,
            ..
        } = *request;
        let body = self.stream_from_bucket(origin, caller, blob, span).await?;
        self.fill(digest, origin, caller, None, Some(blob.clone()), Priority::Client);
        Some(BlobBody::Stream(Box::new(body)))
    }

    /// Serves a blob without a copy on this machine. A small blob is served from memory, and a
    /// large blob by a redirect or a stream.
    async fn serve_from_remote(
        &self,
        request: &BlobRequest<'_>,
        blob: &RemoteBlob,
        public: bool,
        wanted: WantedBytes,
    ) -> Option<BlobBody> {
        let size = blob.meta().size;
        if size <= HELD_WHOLE_BYTES_MAX {
            return blob.read_whole().await.map(BlobBody::Bytes);
        }
        if public
            && request.may_redirect
            && let Some(url) = blob.client_url().await
        {
            return Some(BlobBody::Redirect(url));
        }
        let span = match wanted {
            WantedBytes::Range(span) => span,
            WantedBytes::Nothing | WantedBytes::Whole => Span { start: 0, end: size },
        };
        let body = self
            .stream_from_bucket(request.origin, request.caller, blob, span)
            .await?;
        Some(BlobBody::Stream(Box::new(body)))
    }

    /// Streams bytes of a blob in the bucket to one client. A whole blob is verified at the end. A
    /// part cannot be verified. If the bucket breaks off, the rest comes from the registry of
    /// `origin` on behalf of `caller`. `None` if the bucket does not send a head, or if the memory
    /// budget is exhausted.
    async fn stream_from_bucket(
        &self,
        origin: &Origin,
        caller: &Caller,
        blob: &RemoteBlob,
        span: Span,
    ) -> Option<BodyReceiver> {
        let (sender, receiver) = body_channel();
        let (shared, origin, caller, blob) = (self.0.clone(), origin.clone(), caller.clone(), blob.clone());
        let started = self.0.helper.ask(async move {
            sender.charge(shared.memory_for(
                &origin.namespace,
                BODY_CHANNEL_BYTES_MAX as u64,
                Priority::Client,
            )?);
            let source = BlobSource::from_bucket(&shared, &origin, &caller, &blob, span).await?;
            let whole = span.start == 0 && span.end == blob.meta().size;
            tokio::spawn(async move {
                let digest = blob.meta().digest;
                let outcome = sender.forward(source, whole.then_some(digest)).await;
                if outcome == ForwardOutcome::Wrong {
                    blob.quarantine();
                }
                // The response breaks off now, and a retry finds the quarantine.
                drop(sender);
            });
            Some(())
        });
        started.await.ok().flatten().map(|()| receiver)
    }
}
