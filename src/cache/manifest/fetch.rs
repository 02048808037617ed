//! Resolves tags at an upstream, and fetches and verifies whole manifests.

use super::response::{may_be_manifest, read_whole, type_of};
use super::{Manifest, ManifestKey};
use crate::cache::small_body::SmallBodyFetch;
use crate::cache::{
    Class, FetchError, FetchResources, Priority, Shared, class_of, media_type, named_digest, storable,
};
use crate::config::{Access, Auth};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::{Algorithm, Digest, Reference, SCHEMA1_TYPES};
use crate::runtime::clock::monotonic_micros;
use crate::storage::{TagPointer, Verified};
use crate::upstream::{Credentials, Purpose, Target, UpstreamMethod, UpstreamRequest, UpstreamResponse};

/// A manifest from an upstream, with the proof of its digest.
pub(super) struct Fetched {
    /// The status of the response.
    pub status: u16,
    pub manifest: Manifest,
    pub verified: Verified,
}

/// The current target of a tag, as the response to `HEAD` describes it.
pub(super) enum Meaning {
    Digest {
        digest: Digest,
        /// The media type in the response.
        media_type: Option<String>,
        /// The status of the response.
        status: u16,
    },
    /// The response describes a manifest without a usable digest.
    Unnamed,
    /// The response does not describe a manifest.
    Unsaid,
}

fn request(key: &ManifestKey, method: UpstreamMethod, purpose: Purpose) -> UpstreamRequest {
    UpstreamRequest {
        namespace: key.origin.namespace.clone(),
        repository: key.origin.repository.clone(),
        target: Target::Manifest(key.reference.clone()),
        method,
        accept: key.accept.values(),
        range_from: None,
        credentials: key.caller.credentials(),
        purpose,
    }
}

impl Meaning {
    /// Returns the digest of the tag and the status of the response, if the `HEAD` response and the
    /// cached pointer have the same kind of content. A registry may select different manifests for
    /// `HEAD` and `GET`, and the response may not come from a registry.
    pub fn digest_like(self, held: Option<&TagPointer>) -> Option<(Digest, u16)> {
        let Meaning::Digest {
            digest,
            media_type,
            status,
        } = self
        else {
            return None;
        };
        let (Some(held), Some(named)) = (held, media_type) else {
            return Some((digest, status));
        };
        let same = match named.as_str() {
            // With a generic type, only an equal digest proves the same content.
            named if is_generic(named) => digest == held.digest,
            named => is_list(named) == is_list(&held.media_type) && !named.starts_with("text/"),
        };
        same.then_some((digest, status))
    }
}

/// Returns whether this type does not identify the kind of content. Some registries use it in every
/// `HEAD` response.
fn is_generic(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/json" | "application/octet-stream" | "text/plain"
    )
}

/// Returns whether manifests of this type list other manifests.
fn is_list(media_type: &str) -> bool {
    media_type.contains(".image.index.") || media_type.contains(".manifest.list.")
}

/// Resolves a tag to its current digest, without fetching the content.
pub(super) async fn resolve(
    shared: &Shared,
    key: &ManifestKey,
    purpose: Purpose,
) -> Result<Meaning, FetchError> {
    let _slot = shared.slot(class_of(purpose), &key.origin.namespace).await?;
    resolve_in_slot(shared, key, purpose).await
}

/// Resolves a tag as [`resolve`] does, for a caller that holds a slot.
async fn resolve_in_slot(
    shared: &Shared,
    key: &ManifestKey,
    purpose: Purpose,
) -> Result<Meaning, FetchError> {
    match shared
        .upstreams
        .fetch(&request(key, UpstreamMethod::Head, purpose))
        .await
    {
        // The response is a web page, so its other header fields do not describe a manifest.
        Ok(response) if is_page(&response.headers) => Ok(Meaning::Unsaid),
        Ok(response) => {
            let media_type = media_type(&response.headers);
            Ok(
                named_digest(&response.headers).map_or(Meaning::Unnamed, |digest| Meaning::Digest {
                    digest,
                    media_type,
                    status: response.status,
                }),
            )
        }
        Err(error) => {
            shared.access.record_denial(&key.origin, &key.caller, &error);
            Err(error.into())
        }
    }
}

/// Fetches a manifest and verifies it.
pub(super) async fn fetch(
    shared: &Shared,
    key: &ManifestKey,
    purpose: Purpose,
) -> Result<Fetched, FetchError> {
    let FetchResources {
        slot: _slot,
        mut memory,
    } = shared
        .fetch_resources(Class::Manifest, &key.origin.namespace, Priority::Client)
        .await?;
    let mut request = request(key, UpstreamMethod::Get, purpose);
    let public_digest = public_digest(shared, key, purpose).await?;
    if let Some(digest) = public_digest {
        request.target = Target::Manifest(Reference::Digest(digest));
        request.credentials = Credentials::Operator;
    }
    let mut body = SmallBodyFetch::new(shared, &request, MANIFEST_BYTES_MAX);
    let (requested_at, mut fetched) = loop {
        let requested_at = monotonic_micros();
        let response = shared
            .upstreams
            .fetch(&request)
            .await
            .inspect_err(|error| shared.access.record_denial(&key.origin, &key.caller, error))?;
        let read = |response| read(key, response);
        if let Some(outcome) = body.attempt(response, &mut memory, read).await {
            break (requested_at, outcome?);
        }
    };
    let manifest = &mut fetched.manifest;
    if let Some(public) = public_digest {
        if manifest.digest != public {
            return Err(FetchError::mismatch(
                &public,
                &manifest.digest,
                Some(fetched.status),
            ));
        }
        manifest.public = true;
    }
    if !manifest.public {
        shared
            .access
            .record_grant(&key.origin, &manifest.digest, &key.caller, requested_at);
    }
    shared.parties.record_proof(&key.origin.namespace);
    Ok(fetched)
}

/// Returns the digest of public content that is fetched with the operator's credentials.
async fn public_digest(
    shared: &Shared,
    key: &ManifestKey,
    purpose: Purpose,
) -> Result<Option<Digest>, FetchError> {
    if !shared.pays_for_all(key) {
        return Ok(None);
    }
    Ok(
        match (resolve_in_slot(shared, key, purpose).await?, &key.reference) {
            (Meaning::Digest { digest, .. }, Reference::Tag(_)) => Some(digest),
            (Meaning::Digest { .. } | Meaning::Unnamed, Reference::Digest(digest)) => Some(*digest),
            // Not confirmed as public, so the request is sent without credentials.
            (Meaning::Unnamed, Reference::Tag(_)) | (Meaning::Unsaid, _) => None,
        },
    )
}

impl Shared {
    /// Returns whether public content is fetched with the operator's credentials. Registries count
    /// such pulls for the account instead of the address. A `HEAD` without credentials, which
    /// registries do not count, must first confirm that the content is public.
    fn pays_for_all(&self, key: &ManifestKey) -> bool {
        if !key.caller.is_anonymous() {
            return false;
        }
        let registries = self.live.registries();
        let (settings, _) = registries.settings(&key.origin.namespace);
        settings.auth != Auth::Anonymous && settings.access() == Access::Verify
    }
}

/// Returns whether the response has a type that is neither generic nor a manifest type.
fn is_page(headers: &http::HeaderMap) -> bool {
    let generic = media_type(headers).is_some_and(|named| is_generic(&named));
    !may_be_manifest(headers) && !generic
}

async fn read(key: &ManifestKey, mut response: UpstreamResponse) -> Result<Fetched, FetchError> {
    let body = read_whole(&mut response).await?;
    let media_type = type_of(response.status, &response.headers, &body);
    if media_type
        .as_ref()
        .is_ok_and(|named| SCHEMA1_TYPES.contains(&named.as_str()))
    {
        return Err(FetchError::Schema1);
    }
    let wanted = match &key.reference {
        Reference::Digest(digest) => *digest,
        // If the upstream sends no digest, or an unknown one, the digest is computed from the
        // bytes.
        Reference::Tag(_) => {
            named_digest(&response.headers).unwrap_or_else(|| Digest::of(Algorithm::Sha256, &body))
        }
    };
    let found = Digest::of(wanted.algorithm(), &body);
    let verified = match Verified::check(wanted, found, body.len() as u64) {
        Ok(verified) => verified,
        // A web page instead of a manifest is reported as such. Wrong bytes of a manifest are a
        // digest mismatch.
        Err(found) => {
            return Err(match media_type {
                Err(error) if !may_be_manifest(&response.headers) => error,
                _ => FetchError::mismatch(&wanted, &found, Some(response.status)),
            });
        }
    };
    Ok(Fetched {
        status: response.status,
        manifest: Manifest {
            digest: wanted,
            media_type: media_type?,
            body,
            public: response.public,
            is_unproven: false,
            headers: storable(&response.headers),
        },
        verified,
    })
}
