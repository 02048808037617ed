//! Responses with a blob.

use super::Registry;
use super::error::PullError;
use super::pull::Pull;
use super::respond::{self, Description, Life, Part};
use crate::cache::{Approach, BlobAnswer, BlobBody, BlobRequest, Caller, FetchError, FoundBlob, WantedBytes};
use crate::http::{Method, Response};
use crate::limits::MEMORY_OBJECT_BYTES_MAX;
use crate::oci::Digest;
use crate::upstream::Target;

impl Registry {
    pub(super) async fn blob(&self, pull: &Pull<'_>, digest: Digest) -> Result<Response, PullError> {
        let target = Target::Blob(digest);
        let callers = match self.approach(pull) {
            Approach::Callers(callers) => callers,
            Approach::Passthrough(credentials) => {
                return Ok(self.pass_through(pull, target, credentials).await?);
            }
        };
        let request = async |caller| self.blob_for(pull, digest, &caller).await;
        Ok(self
            .for_first_allowed(callers, pull.origin(), &target, request)
            .await?)
    }

    async fn blob_for(
        &self,
        pull: &Pull<'_>,
        digest: Digest,
        caller: &Caller,
    ) -> Result<Response, FetchError> {
        let head = pull.head;
        let wanted = |size| match respond::part(head, &digest, size) {
            _ if head.method == Method::Head => WantedBytes::Nothing,
            Part::NotModified | Part::Unsatisfiable => WantedBytes::Nothing,
            Part::One(span) => WantedBytes::Range(span),
            // For several ranges of a blob in transfer, the whole blob is a valid response (RFC
            // 9110, 14.2).
            Part::Whole | Part::Many(_) => WantedBytes::Whole,
        };
        let request = BlobRequest {
            origin: pull.origin(),
            digest,
            caller,
            open_files: &self.open_files,
            head_only: head.method == Method::Head,
            needs_size: head.range.is_some(),
            wanted: &wanted,
            may_redirect: pull.readers.are_all(),
        };
        match self.cache.blob(request).await? {
            BlobAnswer::Found(blob) => Ok(self.blob_response(pull, &digest, caller, blob)),
            BlobAnswer::Passthrough => {
                let credentials = caller.credentials();
                self.pass_through(pull, Target::Blob(digest), credentials).await
            }
        }
    }

    fn blob_response(&self, pull: &Pull<'_>, digest: &Digest, caller: &Caller, blob: FoundBlob) -> Response {
        pull.details.upstream_status.set(blob.upstream_status);
        pull.details.joined_fill.set(blob.joined_fill);
        let description = Description {
            digest,
            content_type: "application/octet-stream",
            stored: blob.headers.fields(),
            life: Life::Immutable,
            public: blob.public,
            ranges: true,
            ns: pull.ns(),
            cache: blob.cache,
        };
        // The target alone is the cache key, so all readers must receive equal responses.
        if blob.public || caller.is_operator() {
            self.remember_blob(pull, &description, &blob);
        }
        respond::blob(pull.head, &description, blob.size, blob.body)
    }

    /// Keeps the response, encoded, for the next request with the same target.
    fn remember_blob(&self, pull: &Pull<'_>, description: &Description<'_>, blob: &FoundBlob) {
        let head = pull.head;
        match (&blob.body, blob.size) {
            (BlobBody::Bytes(bytes), Some(size)) if size <= MEMORY_OBJECT_BYTES_MAX => {
                let fields = respond::fields(description);
                let mut responses = self.responses.borrow_mut();
                responses.remember(head.target, &fields, bytes, None, pull.cached(description.digest));
            }
            (BlobBody::File { file, lasting: true }, Some(size))
                if head.range.is_none() && size > MEMORY_OBJECT_BYTES_MAX =>
            {
                let fields = respond::fields(description);
                let content = pull.cached(description.digest);
                let mut responses = self.responses.borrow_mut();
                responses.remember_file(head.target, &fields, file.clone(), size, content);
            }
            _ => {}
        }
    }
}
