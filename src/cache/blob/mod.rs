//! Lookup of blobs. [`Cache::blob`] returns the source of the bytes, for any location of the blob.

mod answer;
mod attempts;
mod open_files;
mod remote;

use std::sync::Arc;

use bytes::Bytes;

use super::access::HeldContent;
use super::fill::{Fill, Follower, Ready};
use super::{Cache, FetchError, Priority};
use crate::http::CacheResult;
use crate::oci::{Digest, Origin};
use crate::runtime::single_flight::Role;
use crate::storage::{LocalBlob, RemoteBlob, StoredBlob, Within};
use crate::trace::{self, Attribute, Operation};
use crate::upstream::Target;

pub use answer::{BlobAnswer, BlobBody, BlobHeaders, BlobRequest, FoundBlob, WantedBytes};
pub(in crate::cache) use attempts::Attempts;
pub use open_files::OpenFiles;

use open_files::OpenFile;
use remote::FromRemote;

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
        let mut attempts = Attempts::new();
        loop {
            attempts.begin()?;
            let mut remote = None;
            let is_retried = attempts.not.is_some();
            match self.stored_blob(&request, is_retried, attempts.within).await {
                Some(Stored::Local(file)) => return self.answer_from_file(&request, file).await,
                Some(Stored::Remote(blob)) => match self.answer_from_remote(&request, &blob).await? {
                    FromRemote::Answer(answer) => return Ok(answer),
                    FromRemote::Copy => remote = Some(blob),
                    FromRemote::Unavailable => {}
                },
                None => {}
            }
            let (fill, role) = self.fill(
                digest,
                origin,
                caller,
                attempts.not.as_ref(),
                remote,
                Priority::Client,
            );
            let is_for_caller = fill.is_request_of(origin, caller);
            if !is_for_caller {
                self.permit(origin, fill.held(), Target::Blob, caller).await?;
            }
            match self.answer_from_fill(&request, &fill, role).await {
                Ok(Some(found)) => return Ok(BlobAnswer::Found(found)),
                // Another fill was committed meanwhile, so the blob is a hit now.
                Ok(None) => {}
                Err(error) => attempts.continue_after(error, fill, is_for_caller)?,
            }
        }
    }

    /// Looks up the blob. While a fill runs, no file exists, and a lookup would cost each follower
    /// a thread. `retried` requests look up the blob nevertheless.
    async fn stored_blob(&self, request: &BlobRequest<'_>, retried: bool, within: Within) -> Option<Stored> {
        let BlobRequest { origin, digest, .. } = *request;
        // A file of another store would serve the blob, and the store of this registry would lack it.
        let number = self.0.storages.number_of(&origin.namespace);
        if let Some(file) = request.open_files.get(number, digest) {
            return Some(Stored::Local(Local {
                file,
                small: None,
                lasting: true,
            }));
        }
        if !request.head_only {
            self.0.prefetches.record_request(&digest);
        }
        if !retried && self.0.fills.has(&digest, origin) {
            return None;
        }
        let LocalBlob {
            entry,
            small,
            lasting,
        } = match self.find_blob(origin, digest, within).await? {
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
            request.open_files.insert(number, digest, local.file.clone());
        }
        Some(Stored::Local(local))
    }

    /// Looks up the blob in the store.
    async fn find_blob(&self, origin: &Origin, digest: Digest, within: Within) -> Option<StoredBlob> {
        let mut span = trace::child(Operation::Lookup);
        let storage = self.0.storage(&origin.namespace);
        let found = trace::under(&span, storage.find_blob(digest, within)).await;
        if let Some(span) = &mut span {
            span.add(Attribute::Digest(digest.to_string().into()));
            let is_found = found.is_some();
            span.add(Attribute::Result(if is_found { "hit" } else { "miss" }));
        }
        found
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
        let number = self.0.storages.number_of(&origin.namespace);
        let held = HeldContent {
            digest: &digest,
            public: file.public,
            is_unproven: file.entry.meta.is_unproven(),
        };
        if !self.is_authority(origin, &file.entry.meta, file.public) {
            open_files.remove(number, digest);
            return Ok(BlobAnswer::Passthrough);
        }
        let permit = self.permit(origin, held, Target::Blob, caller).await?;
        if permit.public && !file.public {
            file.public = true;
            if lasting && small.is_none() {
                open_files.insert(number, digest, file.clone());
            }
        }
        let OpenFile { entry, public } = file;
        Ok(BlobAnswer::Found(FoundBlob {
            size: Some(entry.meta.size),
            public,
            cache: CacheResult::Hit,
            upstream_status: None,
            joined_fill: None,
            headers: BlobHeaders::stored(entry.meta, origin),
            body: match small {
                Some(bytes) => BlobBody::Bytes(bytes),
                None => BlobBody::File {
                    file: entry.file,
                    lasting,
                },
            },
        }))
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
            upstream_status: head.upstream_status.filter(|_| role == Role::Leader),
            joined_fill: fill.trace().filter(|_| role == Role::Follower),
            body,
            headers: if fill.has_fields_of(request.origin) {
                BlobHeaders::Fetched(head)
            } else {
                BlobHeaders::Foreign
            },
        }))
    }
}
