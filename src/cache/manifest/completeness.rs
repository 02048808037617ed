//! Whether the content below a held manifest is stored, while its registry gets no requests.
//!
//! A client that has received a manifest stays with this cache. Without a blob of the image, its pull
//! fails. With an error instead of the manifest, the client goes to its next registry. After an index,
//! some clients also stay for the manifest of their platform, so an index needs one whole platform.

use std::sync::Arc;

use super::{Manifest, ManifestAnswer, ManifestKey, fetch, stored};
use crate::cache::{Cache, FetchError, Shared};
use crate::http::CacheResult;
use crate::oci::{Digest, DigestPrefix, Origin, Reference, platform_manifests, required_blobs};
use crate::runtime::single_flight::Completer;
use crate::upstream::Purpose;

impl Cache {
    /// Returns the `answer` to `key`, with the content that it depends on while the registry gets no requests. Costs
    /// one lookup in memory while the registry gets requests.
    ///
    /// # Errors
    ///
    /// Some content is not stored, and a new request to the registry has failed.
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

/// The content of an image, all of it stored. `None` if the registry is back.
pub(in crate::cache) type Needs = Option<Arc<[DigestPrefix]>>;

/// The number of manifests and blobs that are neither on this machine nor in the bucket.
struct Missing(usize);

/// Checks that the content below `manifest` is stored, or that the registry is back.
async fn needs_of(shared: &Arc<Shared>, key: &ManifestKey, manifest: &Manifest) -> Result<Needs, FetchError> {
    let platforms = platform_manifests(&manifest.body);
    let found = match platforms.is_empty() {
        true => blobs_of(shared, &key.origin, manifest).await,
        false => platform_of(shared, key, &platforms).await,
    };
    match found {
        Ok(content) => Ok(Some(content.iter().map(Digest::prefix).collect())),
        Err(Missing(missing)) => {
            request_again(shared, key, missing).await?;
            Ok(None)
        }
    }
}

/// Returns the blobs of an image.
async fn blobs_of(shared: &Shared, origin: &Origin, manifest: &Manifest) -> Result<Vec<Digest>, Missing> {
    let blobs = required_blobs(&manifest.body);
    let storage = shared.storage(&origin.namespace);
    let mut missing = 0;
    for digest in &blobs {
        missing += usize::from(!storage.has_blob(digest).await);
    }
    if missing > 0 {
        return Err(Missing(missing));
    }
    Ok(blobs)
}

/// Returns the content of the first whole platform of an index. Without one, the smallest number of
/// objects that a platform lacks.
async fn platform_of(
    shared: &Arc<Shared>,
    key: &ManifestKey,
    platforms: &[Digest],
) -> Result<Vec<Digest>, Missing> {
    let mut fewest: Option<usize> = None;
    for digest in platforms {
        let Some(manifest) = stored(shared, &key.origin, digest).await else {
            continue;
        };
        match blobs_of(shared, &key.origin, &manifest).await {
            Ok(mut content) => {
                content.push(*digest);
                return Ok(content);
            }
            Err(Missing(missing)) => fewest = Some(fewest.map_or(missing, |fewest| fewest.min(missing))),
        }
    }
    // No manifest of a platform is stored.
    Err(Missing(fewest.unwrap_or(platforms.len())))
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
