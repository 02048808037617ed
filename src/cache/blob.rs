//! Lookup of blobs. [`Cache::blob`] returns the source of the bytes, for any location of the blob.

use std::collections::BTreeMap;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;

use super::access::HeldContent;
use super::body_channel::{BodyReceiver, ForwardOutcome, body_channel};
use super::fill::source::BlobSource;
use super::fill::{Fill, Follower, Head, Ready};
use super::open_files::{OpenFile, OpenFiles};
use super::{Cache, Caller, FetchError};
use crate::http::{CacheResult, Growing, Span};
use crate::limits::{BODY_CHANNEL_BYTES_MAX, BUCKET_RANGE_DISTANCE_MIN, HELD_WHOLE_BYTES_MAX};
use crate::oci::{Digest, Origin};
use crate::runtime::single_flight::Role;
use crate::storage::{LocalBlob, Meta, RemoteBlob, StoredBlob, Within};
use crate::upstream::Target;

/// The number of fills that a request may join. A request joins a new fill after the disk of a fill
/// failed. More than a few failures are a bug.
const JOINS_MAX: usize = 4;

/// A request for a blob, on behalf of one caller.
pub struct BlobRequest<'a> {
    pub origin: &'a Origin,
    pub digest: Digest,
    pub caller: &'a Caller,
    /// The files that the core of the request keeps open.
    pub open_files: &'a OpenFiles,
    /// Whether the response has no body.
    pub head_only: bool,
    /// Whether the response depends on the size of the blob.
    pub needs_size: bool,
    /// Returns the bytes of the response for a blob of this size.
    pub wanted: &'a dyn Fn(u64) -> WantedBytes,
    /// Whether the client may receive a URL of the bucket. Everyone with the URL can read the blob.
    pub may_redirect: bool,
}

/// The bytes of a blob that a response contains.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WantedBytes {
    Nothing,
    Whole,
    Range(Span),
}

/// The answer to a [`BlobRequest`].
pub enum BlobAnswer {
    Found(FoundBlob),
    /// The blob is stored, but only its registry decides on access. The request goes to the
    /// registry, and nothing of the response is stored.
    Passthrough,
}

/// A blob that the caller may read.
pub struct FoundBlob {
    /// The size in bytes; `None` if the upstream did not declare it.
    pub size: Option<u64>,
    /// Whether every client may read the blob.
    pub public: bool,
    pub cache: CacheResult,
    pub body: BlobBody,
    /// The end-to-end header fields of the upstream.
    pub headers: BlobHeaders,
}

/// The source of the bytes.
pub enum BlobBody {
    /// The response has no body.
    Nothing,
    /// The whole blob, in memory.
    Bytes(Bytes),
    /// The file of the whole blob.
    File {
        file: Arc<File>,
        /// Whether the file may stay open.
        lasting: bool,
    },
    /// The wanted bytes, while they arrive.
    Stream(Box<dyn Growing>),
    /// The URL by which the client can fetch the blob from the bucket.
    Redirect(String),
}

/// The header fields of the upstream, where they are held.
pub enum BlobHeaders {
    /// Another repository sent them.
    Foreign,
    Stored(Arc<Meta>),
    Fetched(Arc<Head>),
}

impl BlobHeaders {
    /// Returns the fields; `None` if another repository sent them.
    pub fn fields(&self) -> Option<&BTreeMap<String, Vec<String>>> {
        match self {
            BlobHeaders::Foreign => None,
            BlobHeaders::Stored(meta) => Some(&meta.headers),
            BlobHeaders::Fetched(head) => Some(&head.headers),
        }
    }

    fn stored(meta: &Arc<Meta>, origin: &Origin) -> Self {
        if meta.is_filled_from(origin) {
            BlobHeaders::Stored(meta.clone())
        } else {
            BlobHeaders::Foreign
        }
    }
}

/// A stored blob, with the file if the blob is on this machine.
enum Stored {
    Local(Local),
    Remote(RemoteBlob),
}

struct Local {
    file: OpenFile,
    /// The content, if the lookup read it.
    small: Option<Bytes>,
    /// Whether the file may stay open.
    lasting: bool,
}

/// The next step for a blob in the bucket.
enum FromRemote {
    Answer(BlobAnswer),
    /// A fill copies the blob to the disk of this machine.
    Copy,
    /// The bucket has the blob, but does not send it.
    Unavailable,
}

impl Cache {
    /// Returns the blob from the nearest source: a file of this machine, the bucket, a fill in
    /// progress, or a new fill. One fill serves all concurrent requests to a registry.
    ///
    /// # Errors
    ///
    /// The registry denies access or fails, and no other source has the blob.
    ///
    /// # Cancellation
    ///
    /// A fill goes on for its other followers, and without followers for a while.
    pub async fn blob(&self, request: BlobRequest<'_>) -> Result<BlobAnswer, FetchError> {
        let BlobRequest {
            origin,
            digest,
            caller,
            ..
        } = request;
        let mut not: Option<Arc<Fill>> = None;
        // A fill that read the bucket and failed is tried again with the registry.
        let mut within = Within::Everywhere;
        for _ in 0..JOINS_MAX {
            let mut remote = None;
            match self.stored_blob(&request, not.is_some(), within).await {
                Some(Stored::Local(file)) => return self.answer_from_file(&request, file).await,
                Some(Stored::Remote(blob)) => match self.answer_from_remote(&request, &blob).await? {
                    FromRemote::Answer(answer) => return Ok(answer),
                    FromRemote::Copy => remote = Some(blob),
                    FromRemote::Unavailable => {}
                },
                None => {}
            }
            let (fill, role) = self.fill(digest, origin, caller, not.as_ref(), remote);
            let is_for_caller = fill.is_request_of(origin, caller);
            if !is_for_caller {
                self.permit(origin, fill.held(), Target::Blob, caller).await?;
            }
            match self.answer_from_fill(&request, &fill, role).await {
                Ok(Some(found)) => return Ok(BlobAnswer::Found(found)),
                // Another fill was committed meanwhile, so the blob is a hit now.
                Ok(None) => {}
                Err(FetchError::Gone) => not = Some(fill),
                Err(_) if fill.is_from_bucket() => {
                    within = Within::Machine;
                    not = Some(fill);
                }
                // The registry refused another repository or another caller.
                Err(error) if error.is_refusal() && !is_for_caller => not = Some(fill),
                Err(error) => return Err(error),
            }
        }
        Err(FetchError::Gone)
    }
}

impl Cache {
    /// Looks up the blob. While a fill runs, no file exists, and a lookup would cost each follower
    /// a thread. `retried` requests look up the blob nevertheless.
    async fn stored_blob(&self, request: &BlobRequest<'_>, retried: bool, within: Within) -> Option<Stored> {
        let digest = request.digest;
        if let Some(file) = request.open_files.get(&digest) {
            return Some(Stored::Local(Local {
                file,
                small: None,
                lasting: true,
            }));
        }
        if !retried && self.0.fills.has(&digest, request.origin) {
            return None;
        }
        let LocalBlob {
            entry,
            small,
            lasting,
        } = match self.0.storage.find_blob(digest, within).await? {
            StoredBlob::Local(blob) => blob,
            StoredBlob::Remote(blob) => return Some(Stored::Remote(blob)),
        };
        let public = entry.meta.public;
        let local = Local {
            file: OpenFile { entry, public },
            small,
            lasting,
        };
        // A small blob is read again after each miss of the response cache, so its file does not
        // stay open.
        if lasting && local.small.is_none() {
            request.open_files.insert(digest, local.file.clone());
        }
        Some(Stored::Local(local))
    }

    async fn answer_from_file(
        &self,
        request: &BlobRequest<'_>,
        local: Local,
    ) -> Result<BlobAnswer, FetchError> {
        let Local {
            mut file,
            small,
            lasting,
        } = local;
        let BlobRequest {
            origin,
            digest,
            caller,
            open_files,
            ..
        } = *request;
        let held = HeldContent {
            digest: &digest,
            public: file.public,
        };
        if !self.is_authority(origin, &file.entry.meta, file.public) {
            open_files.remove(&digest);
            return Ok(BlobAnswer::Passthrough);
        }
        let permit = self.permit(origin, held, Target::Blob, caller).await?;
        if permit.public && !file.public {
            file.public = true;
            if lasting && small.is_none() {
                open_files.insert(digest, file.clone());
            }
        }
        let OpenFile { entry, public } = file;
        Ok(BlobAnswer::Found(FoundBlob {
            size: Some(entry.meta.size),
            public,
            cache: CacheResult::Hit,
            headers: BlobHeaders::stored(&entry.meta, origin),
            body: match small {
                Some(bytes) => BlobBody::Bytes(bytes),
                None => BlobBody::File {
                    file: entry.file,
                    lasting,
                },
            },
        }))
    }

    async fn answer_from_remote(
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
                body,
                headers: BlobHeaders::stored(meta, origin),
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
        self.fill(digest, origin, caller, None, Some(blob.clone()));
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
            sender.charge(shared.memory_for(&origin.namespace, BODY_CHANNEL_BYTES_MAX as u64)?);
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

    /// Answers from a fill in progress; `None` if the blob was committed meanwhile.
    async fn answer_from_fill(
        &self,
        request: &BlobRequest<'_>,
        fill: &Arc<Fill>,
        role: Role,
    ) -> Result<Option<FoundBlob>, FetchError> {
        let head = match fill.ready(request.head_only).await? {
            Ready::Head(head) => head,
            Ready::Stored => return Ok(None),
        };
        let mut size = head.size;
        if size.is_none() && request.needs_size {
            // The upstream did not declare a size, so the size is known at the end of the fill.
            match fill.ended().await? {
                Some(known) => size = Some(known),
                None => return Ok(None),
            }
        }
        let wanted = match size {
            Some(size) => (request.wanted)(size),
            None if request.head_only => WantedBytes::Nothing,
            None => WantedBytes::Whole,
        };
        let span = match wanted {
            WantedBytes::Range(span) => Some(span),
            WantedBytes::Nothing | WantedBytes::Whole => None,
        };
        let body = match wanted {
            WantedBytes::Nothing => BlobBody::Nothing,
            _ => BlobBody::Stream(Box::new(Follower::join(fill, span)?)),
        };
        Ok(Some(FoundBlob {
            size,
            public: head.public,
            cache: match role {
                _ if fill.is_from_bucket() => CacheResult::Hit,
                Role::Leader => CacheResult::Miss,
                Role::Follower => CacheResult::Collapsed,
            },
            body,
            headers: if fill.has_fields_of(request.origin) {
                BlobHeaders::Fetched(head)
            } else {
                BlobHeaders::Foreign
            },
        }))
    }
}
