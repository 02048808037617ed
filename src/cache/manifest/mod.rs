//! Caches manifests. A manifest is held whole in memory and verified before any client receives it.
//! Manifests by digest never expire; tags expire after a freshness lifetime.

mod admit;
mod check;
mod completeness;
mod fetch;
pub(super) mod response;
mod tag;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use super::access::{Caller, HeldContent};
use super::{Cache, FetchError, Shared, unless};
use crate::http::CacheResult;
use crate::limits::{ABSENCE_TTL, DESERTED_MANIFEST_TIMEOUT, MANIFEST_BYTES_MAX};
use crate::oci::{
    Accept, Digest, DigestPrefix, Namespace, NotManifest, Origin, Reference, accepts, manifest_type,
};
use crate::runtime::clock::unix_seconds;
use crate::runtime::single_flight::{Completer, Role};
use crate::storage::{Key, Meta, SmallEntry, Source, Verified};
use crate::trace::{self, Attribute, Operation};
use crate::upstream::{Purpose, Target};

pub use check::CheckedTag;
pub(super) use completeness::Needs;

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ManifestKey {
    pub origin: Origin,
    pub reference: Reference,
    pub accept: Accept,
    pub caller: Caller,
}

#[derive(Clone, Debug)]
pub struct Manifest {
    pub digest: Digest,
    pub media_type: String,
    pub body: Bytes,
    /// Received without credentials, so any client may read it.
    pub public: bool,
    /// Whether the sidecar records no access rights, as of an older store.
    pub is_unproven: bool,
    /// All end-to-end header fields of the upstream's response.
    pub headers: BTreeMap<String, Vec<String>>,
}

/// A manifest, and how the cache obtained it.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    pub manifest: Arc<Manifest>,
    pub cache: CacheResult,
    /// The status of the upstream response that decided the answer.
    pub upstream_status: Option<u16>,
    /// For a tag: the time of the last upstream confirmation, and the time until which no
    /// revalidation is needed. Both are in milliseconds since 1970, and equal if every use needs a
    /// revalidation.
    pub checked_ms: Option<u64>,
    pub fresh_until_ms: Option<u64>,
    /// The reason why the answer is stale.
    pub stale: Option<String>,
    /// The content of the image, all of it stored. `None` if the registry gets requests.
    pub needs: Option<Arc<[DigestPrefix]>>,
}

type SharedFetch = Completer<ManifestKey, Result<ManifestAnswer, FetchError>>;

impl Cache {
    /// Returns the manifest of `key` from the store, or fetches it from the upstream. Concurrent
    /// equal requests share a fetch.
    ///
    /// # Errors
    ///
    /// The upstream's error response or failure, if no usable manifest is stored.
    ///
    /// # Cancellation
    ///
    /// The fetch continues for other clients, and without clients for
    /// [`DESERTED_MANIFEST_TIMEOUT`]. A complete manifest is stored.
    pub async fn manifest(&self, key: ManifestKey) -> (Result<ManifestAnswer, FetchError>, Role) {
        let work = answering(self.0.clone(), key.clone());
        let (answer, role) = self.0.manifests.join(&self.0.helper, key, work).await;
        (answer.unwrap_or(Err(FetchError::Lost)), role)
    }

    /// Returns the repositories of the registry `namespace` whose manifest `digest` is in the local store.
    pub async fn repositories_with(&self, namespace: &Namespace, digest: &Digest) -> Vec<Arc<Origin>> {
        let (shared, namespace, digest) = (self.0.clone(), namespace.clone(), *digest);
        let find = async move {
            let storage = shared.storage(&namespace);
            storage.repositories_with(&namespace, &digest).await
        };
        self.0.helper.ask(find).await.unwrap_or_default()
    }

    /// Returns the manifest of `key` like [`Cache::manifest`], when nothing of it waits for the store.
    pub(super) async fn manifest_to_end(
        &self,
        key: ManifestKey,
    ) -> (Result<ManifestAnswer, FetchError>, Role) {
        let work = answering(self.0.clone(), key.clone());
        let (answer, role) = self.0.manifests.join_to_end(&self.0.helper, key, work).await;
        (answer.unwrap_or(Err(FetchError::Lost)), role)
    }
}

/// Returns the work of a call for `key`.
fn answering(
    shared: Arc<Shared>,
    key: ManifestKey,
) -> impl FnOnce(SharedFetch) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    // On the core of the request. The call is in the trace of its first request.
    let context = trace::current();
    move |completer| {
        Box::pin(trace::within(context, async move {
            let work = async {
                match &key.reference {
                    Reference::Digest(digest) => by_digest(&shared, &key, digest, &completer).await,
                    Reference::Tag(tag) => tag::by_tag(&shared, &key, tag, &completer).await,
                }
            };
            let _ = unless(completer.deserted(DESERTED_MANIFEST_TIMEOUT), work).await;
        }))
    }
}

impl ManifestAnswer {
    fn content(manifest: Arc<Manifest>, cache: CacheResult, upstream_status: Option<u16>) -> Self {
        ManifestAnswer {
            manifest,
            cache,
            upstream_status,
            checked_ms: None,
            fresh_until_ms: None,
            stale: None,
            needs: None,
        }
    }
}

async fn by_digest(shared: &Arc<Shared>, key: &ManifestKey, digest: &Digest, completer: &SharedFetch) {
    if let Some(manifest) = stored(shared, &key.origin, digest).await {
        let permit = permitted(shared, key, &manifest).await;
        return completer
            .complete(permit.map(|()| ManifestAnswer::content(manifest, CacheResult::Hit, None)));
    }
    let target = Target::Manifest(key.reference.clone());
    if let Some(absence) = shared.absences().last(&key.origin, &target, &key.caller) {
        return completer.complete(Err(absence));
    }
    let before = shared.absences().change_count(&key.origin);
    match fetch::fetch(shared, key, Purpose::Pull).await {
        Err(error) => {
            let request = (&key.origin, &target, &key.caller);
            shared.absences().record(before, request, &error, ABSENCE_TTL);
            completer.complete(Err(error));
        }
        Ok(fetched) => {
            let status = Some(fetched.status);
            let (manifest, storing) = announce(shared, &key.origin, fetched.manifest, fetched.verified);
            completer.complete(Ok(ManifestAnswer::content(manifest, CacheResult::Miss, status)));
            storing.store().await;
        }
    }
}

/// Checks that the caller may read a cached manifest.
async fn permitted(shared: &Arc<Shared>, key: &ManifestKey, manifest: &Manifest) -> Result<(), FetchError> {
    let held = HeldContent {
        digest: &manifest.digest,
        public: manifest.public,
        is_unproven: manifest.is_unproven,
    };
    let target = Target::Manifest(Reference::Digest(manifest.digest));
    shared.permit(&key.origin, held, target, &key.caller).await?;
    Ok(())
}

/// Returns the stored manifest: from the pending writes, the local store, or the bucket.
pub(super) async fn stored(shared: &Arc<Shared>, origin: &Origin, digest: &Digest) -> Option<Arc<Manifest>> {
    let (key, digest) = (Key::manifest(origin, digest), *digest);
    if let Some(manifest) = shared.pending.lock().get(&key) {
        return Some(manifest.clone());
    }
    let parse = move |body, meta: &Meta| Manifest::of(digest, body, meta);
    let storage = shared.storage(&origin.namespace);
    let mut span = trace::child(Operation::Lookup);
    let manifest = trace::under(&span, storage.load(&key, MANIFEST_BYTES_MAX, parse)).await;
    if let Some(span) = &mut span {
        span.add(Attribute::Digest(digest.to_string().into()));
        let is_found = manifest.is_some();
        span.add(Attribute::Result(if is_found { "hit" } else { "miss" }));
    }
    manifest.map(Arc::new)
}

/// A manifest to be written to the store.
struct Storing {
    shared: Arc<Shared>,
    key: Key,
    origin: Origin,
    manifest: Arc<Manifest>,
    verified: Verified,
}

/// Publishes a manifest in `pending`, so that lookups find it at once. Call this before any client
/// receives the manifest, and [`Storing::store`] afterwards.
fn announce(
    shared: &Arc<Shared>,
    origin: &Origin,
    manifest: Manifest,
    verified: Verified,
) -> (Arc<Manifest>, Storing) {
    let manifest = Arc::new(manifest);
    // The push of a manifest may also have added content that recently returned 404.
    shared.absences().clear(origin);
    let key = Key::manifest(origin, &manifest.digest);
    shared.pending.lock().insert(key.clone(), manifest.clone());
    (
        manifest.clone(),
        Storing {
            shared: shared.clone(),
            key,
            origin: origin.clone(),
            manifest,
            verified,
        },
    )
}

impl Storing {
    /// Stores the manifest under its digest. No client waits for this.
    async fn store(self) {
        let Storing {
            shared,
            key,
            origin,
            manifest,
            verified,
        } = self;
        let pending = Pending {
            shared: shared.clone(),
            key: key.clone(),
        };
        let meta = Meta {
            digest: manifest.digest,
            size: manifest.body.len() as u64,
            content_type: manifest.media_type.clone(),
            created: unix_seconds(),
            public: manifest.public,
            sources: vec![Source::from(&origin)],
            verified: true,
            headers: manifest.headers.clone(),
        };
        let entry = SmallEntry {
            key,
            body: manifest.body.clone(),
            meta,
            verified,
        };
        let storage = shared.storage(&origin.namespace);
        let span = trace::child(Operation::Store);
        let storing = storage.store(&origin.namespace, entry, Box::new(pending));
        trace::under(&span, storing).await;
    }
}

/// Removes the manifest from `pending` when dropped, even if storing failed.
struct Pending {
    shared: Arc<Shared>,
    key: Key,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.pending.lock().remove(&self.key);
    }
}

impl Manifest {
    /// Reads a stored manifest, whose bytes match `digest`.
    fn of(digest: Digest, body: Bytes, meta: &Meta) -> Result<Self, NotManifest> {
        let media_type = manifest_type(Some(&meta.content_type), &body)?;
        Ok(Manifest {
            digest,
            media_type,
            body,
            public: meta.public,
            is_unproven: meta.is_unproven(),
            headers: meta.headers.clone(),
        })
    }

    /// Returns whether a client with these `Accept` values accepts the manifest.
    pub fn accepted_by<'a>(&self, accept: impl IntoIterator<Item = &'a str>) -> bool {
        accepts(accept, &self.media_type)
    }
}
