//! Asking an upstream what a tag means, and getting a manifest from it, whole and verified.

use bytes::BytesMut;

use super::{Manifest, ManifestKey};
use crate::cache::{
    Class, FetchError, Shared, Slot, class_of, in_small_body_time, media_type, named_digest, storable,
};
use crate::config::{Access, Auth};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::{Algorithm, Digest, Reference, SCHEMA1_TYPES, sniff_manifest_type};
use crate::runtime::clock::monotonic_micros;
use crate::store::Verified;
use crate::upstream::{
    Credentials, Method, Phase, Purpose, Request, Response, Resume, Target, UpstreamError,
};

/// A manifest an upstream gave.
pub(super) struct Fetched {
    pub manifest: Manifest,
    pub verified: Verified,
}

/// What a tag means now.
pub(super) enum Meaning {
    Digest(Digest),
    /// The upstream does not say, or not by `HEAD`.
    Unsaid,
}

fn request(key: &ManifestKey, method: Method, purpose: Purpose) -> Request {
    Request {
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

/// Asks what a tag means now, without its content.
pub(super) async fn resolve(
    shared: &Shared,
    key: &ManifestKey,
    purpose: Purpose,
) -> Result<Meaning, FetchError> {
    let _place = shared.place(class_of(purpose), &key.origin.namespace).await?;
    resolve_in_place(shared, key, purpose).await
}

/// As [`resolve`], for a caller that has a place.
async fn resolve_in_place(
    shared: &Shared,
    key: &ManifestKey,
    purpose: Purpose,
) -> Result<Meaning, FetchError> {
    match shared.upstreams.fetch(&request(key, Method::Head, purpose)).await {
        Ok(response) => Ok(named_digest(&response.headers).map_or(Meaning::Unsaid, Meaning::Digest)),
        // Registries that do not do HEAD.
        Err(UpstreamError::Status {
            status: 405 | 501, ..
        }) => Ok(Meaning::Unsaid),
        Err(error) => {
            shared.access.heard_no(&key.origin, &key.caller, &error);
            Err(error.into())
        }
    }
}

/// Gets a manifest and verifies it. A body that breaks off is asked for again from its start: it is small.
pub(super) async fn fetch(
    shared: &Shared,
    key: &ManifestKey,
    purpose: Purpose,
) -> Result<Fetched, FetchError> {
    let Slot {
        place: _place,
        mut memory,
    } = shared.slot(Class::Manifest, &key.origin.namespace).await?;
    let mut request = request(key, Method::Get, purpose);
    // What everybody may have, when our credentials are to bring it.
    let mut seen_by_all = None;
    if shared.pays_for_all(key) {
        seen_by_all = match (resolve_in_place(shared, key, purpose).await?, &key.reference) {
            (Meaning::Digest(digest), Reference::Tag(_)) => Some(digest),
            (_, Reference::Digest(digest)) => Some(*digest),
            (Meaning::Unsaid, Reference::Tag(_)) => None,
        };
    }
    if let Some(digest) = seen_by_all {
        request.target = Target::Manifest(Reference::Digest(digest));
        request.credentials = Credentials::Ours;
    }
    let mut resume = Resume::new(0);
    loop {
        let asked = monotonic_micros();
        let response = shared
            .upstreams
            .fetch(&request)
            .await
            .inspect_err(|error| shared.access.heard_no(&key.origin, &key.caller, error))?;
        memory.shrink_to(response.content_length.unwrap_or(u64::MAX));
        let length = response.content_length.unwrap_or(MANIFEST_BYTES_MAX as u64);
        let read = in_small_body_time(length.min(MANIFEST_BYTES_MAX as u64), read(key, response));
        let Some(fetched) = read.await else {
            return Err(too_slow(key));
        };
        let mut fetched = match fetched {
            Ok(fetched) => fetched,
            Err(FetchError::Upstream(error)) if error.is_retryable() => match resume.after_break(0) {
                Some(delay) => {
                    tokio::time::sleep(delay).await;
                    continue;
                }
                None => return Err(error.into()),
            },
            Err(error) => return Err(error),
        };
        let manifest = &mut fetched.manifest;
        if let Some(seen) = seen_by_all {
            if manifest.digest != seen {
                return Err(FetchError::DigestMismatch {
                    wanted: seen.to_string(),
                    found: manifest.digest.to_string(),
                });
            }
            manifest.public = true;
        }
        if !manifest.public {
            shared
                .access
                .heard_yes(&key.origin, &manifest.digest, &key.caller, asked);
        }
        shared.proven.note(&key.origin.namespace);
        return Ok(fetched);
    }
}

fn too_slow(key: &ManifestKey) -> FetchError {
    UpstreamError::Timeout {
        host: key.origin.namespace.as_str().into(),
        phase: Phase::Body,
    }
    .into()
}

impl Shared {
    /// Whether content that everybody may read is fetched with the operator's credentials: registries count such pulls
    /// for the account, not for the address. It has to be seen without credentials first, by a `HEAD`, which is not counted.
    fn pays_for_all(&self, key: &ManifestKey) -> bool {
        if !key.caller.is_anybody() {
            return false;
        }
        let registries = self.upstreams.registries();
        let (settings, _) = registries.settings(&key.origin.namespace);
        settings.auth != Auth::Anonymous && settings.access() == Access::Verify
    }
}

async fn read(key: &ManifestKey, mut response: Response) -> Result<Fetched, FetchError> {
    if response
        .content_length
        .is_some_and(|length| length > MANIFEST_BYTES_MAX as u64)
    {
        return Err(FetchError::ManifestTooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.body.chunk().await? {
        if body.len() + chunk.len() > MANIFEST_BYTES_MAX {
            return Err(FetchError::ManifestTooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let body = body.freeze();
    let media_type = media_type(&response.headers)
        .filter(|named| {
            named != "application/octet-stream" && named != "application/json" && named != "text/plain"
        })
        .unwrap_or_else(|| sniff_manifest_type(&body).to_owned());
    if SCHEMA1_TYPES.contains(&media_type.as_str()) {
        return Err(FetchError::Schema1);
    }
    let wanted = match &key.reference {
        Reference::Digest(digest) => *digest,
        // An upstream that names no digest, or one we do not know, is taken at its bytes.
        Reference::Tag(_) => {
            named_digest(&response.headers).unwrap_or_else(|| Digest::of(Algorithm::Sha256, &body))
        }
    };
    let found = Digest::of(wanted.algorithm(), &body);
    let verified =
        Verified::check(wanted, found, body.len() as u64).map_err(|found| FetchError::DigestMismatch {
            wanted: wanted.to_string(),
            found: found.to_string(),
        })?;
    Ok(Fetched {
        manifest: Manifest {
            digest: wanted,
            media_type,
            body,
            public: response.public,
            headers: storable(&response.headers),
        },
        verified,
    })
}
