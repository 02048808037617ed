//! Requests of the cache itself. They bring content into the store, through the same fetches and fills
//! as the requests of clients.

use super::access::HeldContent;
use super::blob::Attempts;
use super::manifest::stored;
use super::slots::Class;
use super::{Approach, Cache, Caller, FetchError, ManifestAnswer, ManifestKey, Priority};
use crate::config::{Access, Auth};
use crate::http::CacheResult;
use crate::oci::{Digest, Origin};
use crate::runtime::single_flight::Role;
use crate::storage::StoredBlob;
use crate::upstream::{Credentials, Target};

impl Cache {
    /// Selects how the cache itself requests the content of `origin`: without credentials, and with the
    /// operator's credentials if the registry has some.
    pub fn own_approach(&self, origin: &Origin) -> Approach {
        let registries = self.0.live.registries();
        let (settings, _) = registries.settings(&origin.namespace);
        match settings.access() {
            Access::Shared => Approach::Callers(vec![Caller::OPERATOR]),
            Access::Passthrough => Approach::Passthrough(Credentials::None),
            Access::Verify if settings.auth == Auth::Anonymous => Approach::Callers(vec![Caller::ANYBODY]),
            // Public content stays public. Clients need a grant of their own for other content.
            Access::Verify => Approach::Callers(vec![Caller::ANYBODY, Caller::OPERATOR]),
        }
    }

    /// Returns the manifest of `key` like [`Cache::manifest`], when it is in the store with its tag.
    /// Also returns the bytes that this request has fetched. Call on a core.
    ///
    /// # Errors
    ///
    /// The upstream's error response or failure, if no usable manifest is stored. Or the store does not
    /// keep the manifest. [`FetchError::Overloaded`] if no slot is spare for this priority.
    pub async fn hold_manifest(
        &self,
        key: ManifestKey,
        priority: Priority,
    ) -> Result<(ManifestAnswer, u64), FetchError> {
        // A client may join the fetch, which is short. So the fetch takes a slot like a client's.
        if !self
            .0
            .has_spare_slot(Class::Manifest, &key.origin.namespace, priority)
        {
            return Err(FetchError::Overloaded);
        }
        let (answer, role) = self.manifest_to_end(key.clone()).await;
        let mut answer = answer?;
        if answer.stale.is_some() {
            // The revalidation in the background has ended.
            answer = self.manifest_to_end(key.clone()).await.0?;
        }
        if answer.cache != CacheResult::Miss {
            return Ok((answer, 0));
        }
        let (shared, origin, digest) = (self.0.clone(), key.origin, answer.manifest.digest);
        let is_stored = async move { stored(&shared, &origin, &digest).await.is_some() };
        match self.0.helper.ask(is_stored).await {
            Ok(true) => {}
            Ok(false) => return Err(FetchError::NotStored),
            Err(_) => return Err(FetchError::Lost),
        }
        let size = answer.manifest.body.len() as u64;
        Ok((answer, if role == Role::Leader { size } else { 0 }))
    }

    /// Fetches a blob into the store, unless the store has it. Joins a fill in progress. Returns the
    /// bytes that this request has fetched. Call on a core.
    ///
    /// # Errors
    ///
    /// The registry denies access or fails, or the store does not keep the blob.
    /// [`FetchError::Overloaded`] or [`FetchError::Displaced`] if no slot is spare for this priority.
    ///
    /// # Cancellation
    ///
    /// A fill goes on for its followers, and without followers for a while.
    pub async fn hold_blob(
        &self,
        origin: &Origin,
        digest: Digest,
        caller: &Caller,
        priority: Priority,
    ) -> Result<u64, FetchError> {
        let storage = self.0.storage(&origin.namespace);
        let mut attempts = Attempts::new();
        loop {
            attempts.begin()?;
            let mut remote = None;
            let is_looked_up = attempts.not.is_some() || !self.0.fills.has(&digest, origin);
            let found = match is_looked_up {
                true => storage.find_blob(digest, attempts.within).await,
                false => None,
            };
            if let Some(found) = found {
                let meta = match &found {
                    StoredBlob::Local(blob) => blob.entry.meta.clone(),
                    StoredBlob::Remote(blob) => blob.meta().clone(),
                };
                // Only the registry of such content decides on access, and the content is here.
                if self.is_authority(origin, &meta, meta.public) {
                    let held = HeldContent {
                        digest: &digest,
                        public: meta.public,
                        is_unproven: meta.is_unproven(),
                    };
                    self.permit(origin, held, Target::Blob, caller).await?;
                }
                match found {
                    StoredBlob::Remote(blob) if blob.is_copied_on_pull() => remote = Some(blob),
                    _ => return Ok(0),
                }
            }
            // Otherwise each blob would cost a request in vain.
            if !storage.is_writable() {
                return Err(FetchError::NotStored);
            }
            let is_running = self.0.fills.has(&digest, origin);
            if !is_running && !self.0.has_spare_slot(Class::Blob, &origin.namespace, priority) {
                return Err(FetchError::Overloaded);
            }
            let (fill, role) = self.fill(digest, origin, caller, attempts.not.as_ref(), remote, priority);
            let is_for_caller = fill.is_request_of(origin, caller);
            if !is_for_caller {
                self.permit(origin, fill.held(), Target::Blob, caller).await?;
            }
            let is_fetched = role == Role::Leader && !fill.is_from_bucket();
            match fill.stored(priority).await {
                Ok(Some(size)) => return Ok(if is_fetched { size } else { 0 }),
                // Another fill has stored the blob meanwhile.
                Ok(None) => {}
                Err(FetchError::Displaced) => return Err(FetchError::Displaced),
                Err(error) => attempts.continue_after(error, fill, is_for_caller)?,
            }
        }
    }
}
