//! Whether the blobs of a held manifest are stored, while its registry gets no requests.
//!
//! A client that has received a manifest stays with this cache. Without a blob of the image, its pull
//! fails. With an error instead of the manifest, the client goes to its next registry.

use std::sync::Arc;

use super::{Manifest, ManifestAnswer, ManifestKey, fetch};
use crate::cache::{Cache, FetchError, Shared};
use crate::http::CacheResult;
use crate::oci::{Digest, DigestPrefix, Reference, required_blobs};
use crate::runtime::single_flight::Completer;
use crate::upstream::Purpose;

impl Cache {
    /// Returns the `answer` to `key`, with the blobs that it depends on while the registry gets no requests. Costs
    /// one lookup in memory while the registry gets requests.
    ///
    /// # Errors
    ///
    /// A blob is not stored, and a new request to the registry has failed.
    pub async fn complete(
        &self,
        key: ManifestKey,
        mut answer: ManifestAnswer,
    ) -> Result<ManifestAnswer, FetchError> {
        // Otherwise the registry has just answered.
        let is_held = matches!(answer.cache, CacheResult::Hit | CacheResult::Stale);
        let origin = &key.origin;
        let upstreams = self.upstreams();
        if !is_held || !upstreams.is_suspended(&origin.namespace, &origin.repository) {
            return Ok(answer);
        }
        let (shared, manifest) = (self.0.clone(), answer.manifest.clone());
        let by_digest = ManifestKey {
            reference: Reference::Digest(manifest.digest),
            ..key
        };
        let check = |completer: Completer<ManifestKey, _>| async move {
            completer.complete(needs_of(&shared, completer.key(), &manifest).await);
        };
        let checks = &self.0.completeness_checks;
        let (needs, _) = checks.join(&self.0.helper, by_digest, check).await;
        answer.needs = needs.unwrap_or(Err(FetchError::Lost))?;
        Ok(answer)
    }
}

/// The blobs of an image, all of them stored. `None` if the registry is back.
pub(in crate::cache) type Needs = Option<Arc<[DigestPrefix]>>;

/// Checks that the blobs of `manifest` are stored, or that the registry is back.
async fn needs_of(shared: &Shared, key: &ManifestKey, manifest: &Manifest) -> Result<Needs, FetchError> {
    let blobs = required_blobs(&manifest.body);
    let missing = missing_of(shared, &blobs).await;
    if missing > 0 {
        request_again(shared, key, missing).await?;
        return Ok(None);
    }
    Ok(Some(blobs.iter().map(Digest::prefix).collect()))
}

/// Returns the number of `blobs` that are neither on this machine nor in the bucket.
async fn missing_of(shared: &Shared, blobs: &[Digest]) -> usize {
    let mut missing = 0;
    for digest in blobs {
        missing += usize::from(!shared.storage.has_blob(digest).await);
    }
    missing
}

/// Requests the manifest again, because no other request may find out that the registry is back. The
/// availability of the registry decides whether a request is sent.
async fn request_again(shared: &Shared, key: &ManifestKey, missing: usize) -> Result<(), FetchError> {
    match fetch::resolve(shared, key, Purpose::Revalidate).await {
        Err(error) if error.is_outage() => Err(FetchError::Incomplete {
            missing,
            why: error.to_string().into(),
        }),
        _ => Ok(()),
    }
}
