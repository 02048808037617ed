//! Manifests: small, held whole, verified before anybody sees them. By digest for ever, by tag for a while.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use super::flight::{Landing, Role};
use super::freshness::is_fresh;
use super::{Cache, FetchError, Origin, Shared, media_type, named_digest, storable};
use crate::fail_point::reach;
use crate::http::CacheResult;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::{Algorithm, Digest, MANIFEST_TYPES, Reference, Tag, accepts, sniff_manifest_type};
use crate::runtime::clock::{unix_millis, unix_seconds};
use crate::runtime::helper::blocking;
use crate::store::{Key, Meta, TagPointer, Verified};
use crate::upstream::{Credentials, Method, Purpose, Request, Response, Resume, Target, UpstreamError};

/// What a manifest is asked by.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ManifestKey {
    pub origin: Origin,
    pub reference: Reference,
    /// The client's own `Accept` values, sorted, when it does not take what the upstream has natively.
    pub accept: Vec<String>,
}

/// A verified manifest.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub body: Bytes,
    /// All end-to-end fields of the upstream's answer.
    pub headers: BTreeMap<String, Vec<String>>,
}

/// A manifest and how we came to it.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    pub manifest: Arc<Manifest>,
    pub cache: CacheResult,
    /// By tag: when the upstream last confirmed it, and until when it may be served unasked (equal to the check
    /// when not at all), in milliseconds since 1970.
    pub checked_ms: Option<u64>,
    pub fresh_until_ms: Option<u64>,
    /// Why it is stale, when it is.
    pub stale: Option<String>,
}

type Flown = Landing<ManifestKey, Result<ManifestAnswer, FetchError>>;

impl Cache {
    /// The manifest of `key`: from the store, or from the upstream with one request however many ask.
    ///
    /// # Errors
    ///
    /// The upstream's answer, or its absence, when nothing usable is held.
    ///
    /// # Cancellation
    ///
    /// The work goes on for the others, and for the store.
    pub async fn manifest(&self, key: ManifestKey) -> (Result<ManifestAnswer, FetchError>, Role) {
        let shared = self.0.clone();
        let (answer, role) = self
            .0
            .manifests
            .join(&self.0.helper, key.clone(), move |landing| async move {
                match &key.reference {
                    Reference::Digest(digest) => by_digest(&shared, &key, digest, &landing).await,
                    Reference::Tag(tag) => by_tag(&shared, &key, tag, &landing).await,
                }
            })
            .await;
        (answer.unwrap_or(Err(FetchError::Lost)), role)
    }
}

impl ManifestAnswer {
    fn content(manifest: Arc<Manifest>, cache: CacheResult) -> Self {
        ManifestAnswer {
            manifest,
            cache,
            checked_ms: None,
            fresh_until_ms: None,
            stale: None,
        }
    }
}

async fn by_digest(shared: &Arc<Shared>, key: &ManifestKey, digest: &Digest, landing: &Flown) {
    if let Some(manifest) = stored(shared, &key.origin, digest).await {
        return landing.land(Ok(ManifestAnswer::content(manifest, CacheResult::Hit)));
    }
    match fetch(shared, key).await {
        Err(error) => landing.land(Err(error)),
        Ok(fetched) => {
            let (manifest, storing) = announce(shared, &key.origin, fetched);
            landing.land(Ok(ManifestAnswer::content(manifest, CacheResult::Miss)));
            storing.store().await;
        }
    }
}

async fn by_tag(shared: &Arc<Shared>, key: &ManifestKey, tag: &Tag, landing: &Flown) {
    if !key.accept.is_empty() {
        // The client does not take the native form: its own question, its own answer, under no pointer.
        return foreign_form(shared, key, landing).await;
    }
    let lifetime = shared.lifetime_ms(tag);
    let answer = |manifest: Arc<Manifest>, cache, checked_ms: u64| ManifestAnswer {
        manifest,
        cache,
        checked_ms: Some(checked_ms),
        fresh_until_ms: Some(checked_ms.saturating_add(lifetime)),
        stale: None,
    };
    let pointer = shared.pointer(&key.origin, tag).await;
    let held = match &pointer {
        Some(pointer) => stored(shared, &key.origin, &pointer.digest).await,
        None => None,
    };
    if let (Some(pointer), Some(manifest)) = (&pointer, &held)
        && is_fresh(pointer.checked_at_ms, unix_millis(), lifetime)
    {
        return landing.land(Ok(answer(
            manifest.clone(),
            CacheResult::Hit,
            pointer.checked_at_ms,
        )));
    }

    // With nothing held that could be right, a HEAD would only cost a request more.
    if held.is_some() || !shared.policy.cache_tags {
        let asked_ms = unix_millis();
        match (resolve(shared, key).await, &pointer, &held) {
            (Ok(Some(digest)), _, _) => {
                // The same, or moved to what we hold anyway.
                if let Some(manifest) = stored(shared, &key.origin, &digest).await {
                    let pointer = pointer_to(&manifest, asked_ms);
                    shared.remember(&key.origin, tag, &pointer);
                    landing.land(Ok(answer(manifest, CacheResult::Revalidated, asked_ms)));
                    return shared.save_pointer(&key.origin, tag, pointer).await;
                }
            }
            // No digest, or no HEAD: the GET below tells.
            (Ok(None), _, _) => {}
            (Err(error), Some(pointer), Some(manifest)) if serves_stale(&error) => {
                return landing.land(Ok(stale(manifest, pointer, &error)));
            }
            (Err(error), _, _) => return landing.land(Err(error)),
        }
    }

    let asked_ms = unix_millis();
    match fetch(shared, key).await {
        Ok(fetched) => {
            reach("manifest-fetched");
            let (manifest, storing) = announce(shared, &key.origin, fetched);
            let pointer = pointer_to(&manifest, asked_ms);
            shared.remember(&key.origin, tag, &pointer);
            landing.land(Ok(answer(manifest, CacheResult::Miss, asked_ms)));
            storing.store().await;
            shared.save_pointer(&key.origin, tag, pointer).await;
        }
        Err(error) => match (&pointer, &held) {
            (Some(pointer), Some(manifest)) if serves_stale(&error) => {
                landing.land(Ok(stale(manifest, pointer, &error)));
            }
            _ => landing.land(Err(error)),
        },
    }
}

async fn foreign_form(shared: &Arc<Shared>, key: &ManifestKey, landing: &Flown) {
    match fetch(shared, key).await {
        Err(error) => landing.land(Err(error)),
        Ok(fetched) => {
            let (manifest, storing) = announce(shared, &key.origin, fetched);
            let now = unix_millis();
            landing.land(Ok(ManifestAnswer {
                checked_ms: Some(now),
                fresh_until_ms: Some(now),
                ..ManifestAnswer::content(manifest, CacheResult::Miss)
            }));
            storing.store().await;
        }
    }
}

fn stale(manifest: &Arc<Manifest>, pointer: &TagPointer, error: &FetchError) -> ManifestAnswer {
    ManifestAnswer {
        manifest: manifest.clone(),
        cache: CacheResult::Stale,
        checked_ms: Some(pointer.checked_at_ms),
        fresh_until_ms: Some(pointer.checked_at_ms),
        stale: Some(error.to_string()),
    }
}

/// Whether an upstream that answers so is having a bad day, rather than saying something about the tag.
fn serves_stale(error: &FetchError) -> bool {
    match error {
        FetchError::Upstream(error) => error.is_outage(),
        FetchError::DigestMismatch { .. } | FetchError::Overloaded => true,
        FetchError::ManifestTooLarge | FetchError::Gone | FetchError::Lost => false,
    }
}

fn pointer_to(manifest: &Manifest, checked_at_ms: u64) -> TagPointer {
    TagPointer {
        digest: manifest.digest,
        media_type: manifest.media_type.clone(),
        size: manifest.body.len() as u64,
        checked_at_ms,
        etag: manifest
            .headers
            .get("Etag")
            .and_then(|values| values.first())
            .cloned(),
        accept_class: TagPointer::NATIVE.to_owned(),
        headers: manifest.headers.clone(),
    }
}

impl Shared {
    /// How long a pointer may be served unasked. `latest`, unless it is cached too, is asked for every time;
    /// what is kept of it serves when the upstream cannot be asked.
    fn lifetime_ms(&self, tag: &Tag) -> u64 {
        let cached = self.policy.cache_tags && (self.policy.cache_latest || !tag.is_latest());
        if cached {
            u64::try_from(self.policy.ttl.as_millis()).unwrap_or(u64::MAX)
        } else {
            0
        }
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<Key, Arc<Manifest>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `pointer` what all cores know of the tag, unless tags are not cached.
    fn remember(&self, origin: &Origin, tag: &Tag, pointer: &TagPointer) {
        if self.policy.cache_tags {
            self.tags.set(origin, tag, pointer.clone());
        }
    }

    async fn pointer(&self, origin: &Origin, tag: &Tag) -> Option<TagPointer> {
        if !self.policy.cache_tags {
            return None;
        }
        if let Some(pointer) = self.tags.get(origin, tag) {
            return Some(pointer);
        }
        let (asked, name) = (origin.clone(), tag.clone());
        let found = self
            .look(move |store| Some(store.tag(&asked.namespace, &asked.repository, &name)))
            .await?;
        let pointer = found
            .inspect_err(|error| tracing::warn!(%error, "a tag pointer cannot be read"))
            .ok()??;
        self.tags.set(origin, tag, pointer.clone());
        Some(pointer)
    }

    async fn save_pointer(&self, origin: &Origin, tag: &Tag, pointer: TagPointer) {
        if !self.health.writable() || !self.policy.cache_tags {
            return;
        }
        let (store, origin, tag) = (self.store.clone(), origin.clone(), tag.clone());
        let saved =
            blocking(move || store.set_tag(&origin.namespace, &origin.repository, &tag, &pointer)).await;
        if let Ok(Err(error)) = saved {
            self.health.failed(&error);
        }
    }
}

fn manifest_key(origin: &Origin, digest: &Digest) -> Key {
    Key::Manifest {
        namespace: origin.namespace.clone(),
        repository: origin.repository.clone(),
        digest: *digest,
    }
}

/// The manifest as the store has it.
async fn stored(shared: &Shared, origin: &Origin, digest: &Digest) -> Option<Arc<Manifest>> {
    let (key, digest) = (manifest_key(origin, digest), *digest);
    if let Some(manifest) = shared.pending().get(&key) {
        return Some(manifest.clone());
    }
    let manifest = shared
        .look(move |store| {
            let entry = super::find(store, &key)?;
            let size = usize::try_from(entry.meta.size)
                .ok()
                .filter(|&size| size <= MANIFEST_BYTES_MAX)?;
            let body: Bytes = crate::sys::read_exact_at(&entry.file, 0, size).ok()?.into();
            let media_type = match entry.meta.content_type.as_str() {
                known if crate::oci::is_media_type(known) => known.to_owned(),
                _ => sniff_manifest_type(&body).to_owned(),
            };
            Some(Manifest {
                digest,
                media_type,
                body,
                headers: entry.meta.headers.clone(),
            })
        })
        .await;
    manifest.map(Arc::new)
}

/// A manifest on its way to the disk.
struct Storing {
    shared: Arc<Shared>,
    key: Key,
    manifest: Arc<Manifest>,
    verified: Verified,
}

/// Announces a manifest as stored. To be called before anybody learns of it, and [`Storing::store`] after.
fn announce(shared: &Arc<Shared>, origin: &Origin, fetched: Fetched) -> (Arc<Manifest>, Storing) {
    let manifest = Arc::new(fetched.manifest);
    let key = manifest_key(origin, &manifest.digest);
    shared.pending().insert(key.clone(), manifest.clone());
    (
        manifest.clone(),
        Storing {
            shared: shared.clone(),
            key,
            manifest,
            verified: fetched.verified,
        },
    )
}

impl Storing {
    /// Stores the manifest under its digest. No client waits for this.
    async fn store(self) {
        let Storing {
            shared,
            key,
            manifest,
            verified,
        } = self;
        let pending = Pending {
            shared: shared.clone(),
            key: key.clone(),
        };
        if shared.health.writable() {
            store(&shared, key, manifest, verified).await;
        }
        drop(pending);
    }
}

/// Ends the announcement, however the storing ends.
struct Pending {
    shared: Arc<Shared>,
    key: Key,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.key);
    }
}

async fn store(shared: &Shared, key: Key, manifest: Arc<Manifest>, verified: Verified) {
    let store = shared.store.clone();
    let stored = blocking(move || {
        let size = manifest.body.len() as u64;
        let ingest = store.ingest(&key, Some(size))?;
        ingest.write_at(&manifest.body, 0)?;
        let meta = Meta {
            digest: manifest.digest,
            size,
            content_type: manifest.media_type.clone(),
            created: unix_seconds(),
            public: true,
            verified: true,
            headers: manifest.headers.clone(),
        };
        store.commit(ingest, &verified, meta)
    })
    .await;
    if let Ok(Err(error)) = stored {
        shared.health.failed(&error);
    }
}

struct Fetched {
    manifest: Manifest,
    verified: Verified,
}

fn request(key: &ManifestKey, method: Method) -> Request {
    let accept = if key.accept.is_empty() {
        MANIFEST_TYPES
            .iter()
            .chain(&["*/*"])
            .map(|&media_type| media_type.to_owned())
            .collect()
    } else {
        key.accept.clone()
    };
    Request {
        namespace: key.origin.namespace.clone(),
        repository: key.origin.repository.clone(),
        target: Target::Manifest(key.reference.clone()),
        method,
        accept,
        range_from: None,
        credentials: Credentials::None,
        purpose: Purpose::Pull,
    }
}

/// Asks what a tag means now, without its content. `None` when the upstream does not say.
async fn resolve(shared: &Shared, key: &ManifestKey) -> Result<Option<Digest>, FetchError> {
    match shared.upstreams.fetch(&request(key, Method::Head)).await {
        Ok(response) => Ok(named_digest(&response.headers)),
        // Registries that do not do HEAD.
        Err(UpstreamError::Status {
            status: 405 | 501, ..
        }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gets a manifest and verifies it. A body that breaks off is asked for again from its start: it is small.
async fn fetch(shared: &Shared, key: &ManifestKey) -> Result<Fetched, FetchError> {
    let _slot = shared.slot().await?;
    let mut resume = Resume::new(0);
    loop {
        let response = shared.upstreams.fetch(&request(key, Method::Get)).await?;
        match read(key, response).await {
            Err(FetchError::Upstream(error)) if error.is_retryable() => match resume.after_break(0) {
                Some(delay) => tokio::time::sleep(delay).await,
                None => return Err(error.into()),
            },
            other => return other,
        }
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
    let media_type = media_type(&response.headers)
        .filter(|named| {
            named != "application/octet-stream" && named != "application/json" && named != "text/plain"
        })
        .unwrap_or_else(|| sniff_manifest_type(&body).to_owned());
    let headers = storable(&response.headers);
    Ok(Fetched {
        manifest: Manifest {
            digest: wanted,
            media_type,
            body,
            headers,
        },
        verified,
    })
}

impl Manifest {
    /// Whether a client with these `Accept` values takes it.
    pub fn accepted_by<'a>(&self, accept: impl IntoIterator<Item = &'a str>) -> bool {
        accepts(accept, &self.media_type)
    }
}
