//! What we hold and how we come to hold it.
//!
//! One [`Cache`] per process, shared by all cores; a hit does not come here, it is answered from what its core
//! has open or in memory ([`crate::registry`]). Work that waits for upstreams or disks runs on the helper pool.

mod access;
mod bucket;
mod fill;
mod flight;
mod freshness;
mod health;
mod hose;
mod listed;
mod listing;
mod lru;
mod manifest;
mod pass;
mod storage;
mod supply;
mod tags;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::config::Registries;
use crate::limits::{
    FILL_QUEUE_WAIT, FILL_WINDOW_BYTES, FILLS_MAX, MEMORY_OBJECT_BYTES_MAX, STORE_LOOKUP_MAX,
};
use crate::oci::{Digest, Namespace, NotManifest, Repository};
use crate::runtime::helper::{Helper, blocking_within};
use crate::runtime::memory::{Charge, MemoryBudget};
use crate::runtime::reply::Lost;
use crate::runtime::vitals::Vitals;
use crate::store::{Entry, FsStore, Key, Meta, Source, canonical_name};
use crate::upstream::{RegistryCondition, UpstreamError, Upstreams};

pub use access::{Approach, Caller, Held, Permit};
pub use bucket::Bucket;
pub use fill::{Fill, Follower, Head, Ready as FillReady};
pub use flight::Role;
pub use freshness::TagPolicy;
pub use hose::Passed;
pub use listed::INDEX_TYPE;
pub use listing::{ListingAnswer, ListingError, ListingKey};
pub use lru::Lru;
pub use manifest::{Manifest, ManifestAnswer, ManifestKey};
pub use pass::PassedHead;
pub use storage::{Storage, StorageError};

use access::AccessTable;
use flight::Flights;
use health::StoreHealth;
use listing::Listings;
use tags::{Revalidating, TagTable};
use upload::Uploads;

/// The shared cache; cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    storage: Storage,
    health: StoreHealth,
    uploads: Uploads,
    upstreams: Upstreams,
    helper: Helper,
    policy: TagPolicy,
    fills: fill::FillTable,
    manifests: Flights<ManifestKey, Result<ManifestAnswer, FetchError>>,
    tags: TagTable,
    listings: Listings,
    listings_under_way: listing::ListingFlights,
    revalidating: Revalidating,
    access: AccessTable,
    /// Verified manifests on their way to the disk: already as good as stored.
    pending: Mutex<HashMap<Key, Arc<Manifest>>>,
    /// Fills and manifest fetches under way.
    slots: Semaphore,
    memory: MemoryBudget,
}

/// A place among the fetches under way, and memory for one.
struct Slot<'a> {
    permit: tokio::sync::SemaphorePermit<'a>,
    memory: Charge,
}

/// Whose content is asked for; where a fill goes when the content is not here.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Origin {
    pub namespace: Namespace,
    pub repository: Repository,
}

impl Origin {
    /// Whether what `meta` repeats of an upstream's fields came from here: it was filled from here first.
    pub fn has_filled(&self, meta: &Meta) -> bool {
        meta.sources.first().is_some_and(|first| {
            first.registry == self.namespace.as_str() && first.repository == self.repository.as_str()
        })
    }

    /// As a sidecar names it.
    fn source(&self) -> Source {
        Source {
            registry: self.namespace.as_str().to_owned(),
            repository: self.repository.to_string(),
        }
    }
}

/// Why content could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream's bytes are not what their digest says. Nothing was stored.
    #[error("the upstream sent content for {wanted} that hashes to {found}")]
    DigestMismatch { wanted: String, found: String },
    /// Its digest is not that of its bytes; it can be passed on, not kept.
    #[error("the manifest is of the first schema, which is not cached")]
    Schema1,
    #[error("the manifest is larger than 4 MiB")]
    ManifestTooLarge,
    /// The upstream answered 200 with something else, most likely a page for people. Nothing was stored.
    #[error(
        "the registry answered 200 with {content_type} that is no manifest: {why}; perhaps a login page or a web interface answers at its address, so check the registry's `url`, proxy and credentials"
    )]
    NotManifest { content_type: String, why: NotManifest },
    /// Our own limit of concurrent fetches, or of the memory they may take.
    #[error("the cache has too much to fetch at the moment")]
    Overloaded,
    /// A slow client's bytes are in nobody's memory and on no disk any more.
    #[error("the store failed and the bytes are gone")]
    Gone,
    /// A bug of ours ended the work; it has been logged.
    #[error("the fetch ended unexpectedly")]
    Lost,
}

/// A committed blob, opened.
#[derive(Clone)]
pub struct Found {
    pub entry: Entry,
    /// The content, when it is small enough for a core's memory; hashed, so it is served instead of the file.
    pub small: Option<Bytes>,
    /// Whether the file may be kept open: one in the spool takes room there.
    pub lasting: bool,
}

impl FetchError {
    /// Whether the upstream said that this caller may not have it, or that it is not there: another one may get it.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            FetchError::Upstream(UpstreamError::Status {
                status: 401 | 403 | 404,
                ..
            })
        )
    }
}

impl Cache {
    pub fn new(
        storage: Storage,
        upstreams: Upstreams,
        helper: Helper,
        policy: TagPolicy,
        memory: MemoryBudget,
    ) -> Self {
        Cache(Arc::new(Shared {
            storage,
            health: StoreHealth::default(),
            uploads: Uploads::default(),
            upstreams,
            helper,
            policy,
            fills: fill::FillTable::default(),
            manifests: Flights::default(),
            tags: TagTable::default(),
            listings: Listings::default(),
            listings_under_way: Flights::default(),
            revalidating: Revalidating::default(),
            access: AccessTable::default(),
            pending: Mutex::default(),
            slots: Semaphore::new(FILLS_MAX),
            memory,
        }))
    }

    /// The registries behind us.
    pub fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// What the operator chose for registries, as they are asked now.
    pub fn registries(&self) -> Arc<Registries> {
        self.0.upstreams.registries()
    }

    /// Changes when [`Cache::registries`] does. Reading it costs a hit nothing.
    pub fn generation(&self) -> u64 {
        self.0.upstreams.generation()
    }

    /// Has the helper pool and the store beat in `vitals`, the store by lookups of what is not there.
    pub fn keep_beating(&self, vitals: &Vitals) {
        self.0.helper.keep_beating(vitals.helper().clone(), || ());
        // A bucket is no part of this process: whether it answers is its breaker's business.
        let store = self.0.storage.local().cloned();
        self.0.helper.keep_beating(vitals.store().clone(), move || {
            if let Some(store) = &store {
                store.knock();
            }
        });
    }

    /// Whether lookups are answered, or were when somebody last tried.
    pub fn is_store_answering(&self) -> bool {
        self.0.health.readable()
    }

    /// Walks the store in the background and logs what it found.
    pub fn scan_in_background(&self) {
        let Some(store) = self.0.storage.local().cloned() else {
            return;
        };
        self.0.helper.spawn_blocking(move || {
            let report = store.scan();
            tracing::info!(
                entries = report.entries,
                bytes = report.bytes,
                orphans_removed = report.orphans,
                broken_removed = report.broken,
                foreign = report.foreign,
                unreadable = report.unreadable,
                "store scanned"
            );
        });
    }

    /// How the registries are that were asked lately, by name.
    ///
    /// # Errors
    ///
    /// [`FetchError::Lost`], when the helper pool ends.
    pub async fn conditions(&self) -> Result<Vec<RegistryCondition>, FetchError> {
        let upstreams = self.0.upstreams.clone();
        let conditions = self.0.helper.ask(async move { upstreams.conditions() }).await;
        conditions.map_err(|_| FetchError::Lost)
    }

    /// Has `key` hashed again, and removed unless it is right: its file could not be read to its end.
    pub fn distrust(&self, key: Key) {
        if let Some(store) = self.0.storage.local().cloned() {
            self.0.helper.spawn_blocking(move || store.recheck(&key));
        }
    }

    /// The blob `key` as this machine has it: committed, or on its way to the bucket. A store that fails or stalls is a miss.
    pub async fn find_blob(&self, key: Key) -> Option<Found> {
        let shared = self.0.clone();
        let look: Box<dyn FnOnce() -> Option<Found> + Send> = match self.0.storage.local() {
            Some(_) if !self.0.health.readable() => return None,
            Some(store) => {
                let store = store.clone();
                Box::new(move || {
                    let found = opened(find(&store, &key)?, true);
                    if found.is_none() {
                        store.recheck(&key);
                        return None;
                    }
                    shared.see_to_copy(&key);
                    found
                })
            }
            None => {
                let entry = self.0.uploads.find(key.digest())?;
                Box::new(move || opened(entry, false))
            }
        };
        let found = self.0.helper.ask_blocking_within(STORE_LOOKUP_MAX, look).await;
        self.0.in_time(found)
    }
}

/// `None` when a small blob cannot be read, or is no longer what its digest says.
fn opened(entry: Entry, lasting: bool) -> Option<Found> {
    let small = if entry.meta.size <= MEMORY_OBJECT_BYTES_MAX {
        // At most MEMORY_OBJECT_BYTES_MAX, so it fits.
        let bytes: Bytes = crate::sys::read_exact_at(&entry.file, 0, entry.meta.size as usize)
            .ok()?
            .into();
        let digest = entry.meta.digest;
        if Digest::of(digest.algorithm(), &bytes) != digest {
            return None;
        }
        Some(bytes)
    } else {
        None
    };
    Some(Found {
        entry,
        small,
        lasting,
    })
}

fn find(store: &FsStore, key: &Key) -> Option<Entry> {
    store.find(key).unwrap_or_else(|error| {
        tracing::warn!(%error, "the store cannot be read; treating it as a miss");
        None
    })
}

impl Shared {
    /// A place among the fetches under way, within [`FILL_QUEUE_WAIT`], and memory for one, now.
    async fn slot(&self) -> Result<Slot<'_>, FetchError> {
        match tokio::time::timeout(FILL_QUEUE_WAIT, self.slots.acquire()).await {
            Ok(Ok(permit)) => Ok(Slot {
                permit,
                memory: self
                    .memory
                    .take(FILL_WINDOW_BYTES as u64)
                    .ok_or(FetchError::Overloaded)?,
            }),
            _ => Err(FetchError::Overloaded),
        }
    }

    /// Looks something up in the store. A store that fails or stalls has nothing.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&FsStore) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        if !self.health.readable() {
            return None;
        }
        let store = self.storage.local()?.clone();
        self.in_time(blocking_within(STORE_LOOKUP_MAX, move || look(&store)).await)
    }

    fn in_time<T>(&self, found: Option<Result<Option<T>, Lost>>) -> Option<T> {
        let stalls = |store: &Arc<FsStore>| !store.is_adopting();
        if found.is_none() && self.storage.local().is_some_and(stalls) {
            self.health.stalled();
        }
        found?.ok().flatten()
    }
}

/// An upstream's end-to-end fields as a sidecar keeps them. Secrets and what only concerns one exchange stay out.
fn storable(headers: &http::HeaderMap) -> BTreeMap<String, Vec<String>> {
    const NEVER_STORED: [&str; 5] = [
        "set-cookie",
        "www-authenticate",
        "proxy-authenticate",
        "authorization",
        "docker-ratelimit-source",
    ];
    let mut kept: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if NEVER_STORED.contains(&name.as_str()) {
            continue;
        }
        if let Ok(value) = value.to_str() {
            kept.entry(canonical_name(name.as_str()))
                .or_default()
                .push(value.to_owned());
        }
    }
    kept
}

/// `Content-Type` without parameters, if it is one media type.
fn media_type(headers: &http::HeaderMap) -> Option<String> {
    let text = headers.get(http::header::CONTENT_TYPE)?.to_str().ok()?;
    let text = text.split(';').next().unwrap_or_default().trim();
    crate::oci::is_media_type(text).then(|| text.to_owned())
}

/// The digest an upstream gives its answer.
fn named_digest(headers: &http::HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
