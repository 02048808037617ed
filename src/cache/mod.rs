//! What we hold and how we come to hold it.
//!
//! One [`Cache`] per process, shared by all cores; a hit does not come here, it is answered from what its core
//! has open or in memory ([`crate::registry`]). Work that waits for upstreams or disks runs on the helper pool.

mod absence;
mod access;
mod bucket;
mod fill;
mod flight;
mod freshness;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod health;
mod hose;
mod lanes;
mod listed;
mod listing;
mod lru;
mod manifest;
mod pass;
mod records;
mod shares;
mod slots;
mod storage;
mod supply;
mod tags;
#[cfg(test)]
mod tests;
mod upload;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};

use crate::config::Registries;
use crate::limits::{
    BACKGROUND_QUEUE_WAIT, FILL_QUEUE_WAIT, FILL_WINDOW_BYTES, MEMORY_OBJECT_BYTES_MAX, OWN_FETCHES_MAX,
    OWN_MEMORY_PART, SMALL_BODY_RATE_MIN, SMALL_BODY_TIME,
};
use crate::oci::{Digest, Namespace, NotManifest, Repository};
use crate::runtime::helper::Helper;
use crate::runtime::memory::{Charge, MemoryBudget};
use crate::runtime::reply::Lost;
use crate::runtime::vitals::Vitals;
use crate::store::{Entry, FsStore, Key, Meta, Source, canonical_name};
use crate::upstream::{Purpose, RegistryCondition, UpstreamError, Upstreams, Verdict};

pub use absence::Absence;
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

use absence::Absences;
use access::AccessTable;
use flight::Flights;
use health::StoreHealth;
use listing::Listings;
use records::ListingRepositories;
use shares::{Lease, Party, Proven, SharedLedger};
use slots::{Class, Place, Slots};
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
    absences: Absences,
    listing_repositories: ListingRepositories,
    /// Verified manifests on their way to the disk: already as good as stored.
    pending: Mutex<HashMap<Key, Arc<Manifest>>>,
    /// Fills and manifest fetches under way.
    slots: Slots,
    memory: MemoryBudget,
    /// What registries hold of the memory.
    memory_shares: SharedLedger,
    /// What the unfinished blobs of registries hold of the disk.
    room_shares: SharedLedger,
    proven: Proven,
}

/// A place among the fetches under way, and memory for one.
struct Slot {
    place: Place,
    memory: Memory,
}

/// Memory for a fetch, counted for the process and for the registry.
struct Memory {
    charge: Charge,
    lease: Lease,
}

impl Memory {
    /// Gives back what is not needed after all.
    fn shrink_to(&mut self, bytes: u64) {
        self.charge.shrink_to(bytes);
        self.lease.shrink_to(bytes);
    }
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
    /// The registry answered 404 when it could be asked.
    #[error(transparent)]
    Absent(Absence),
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
            FetchError::Upstream(UpstreamError::Status { status, .. })
                // Even where a page said so: another caller may not be shown it.
                if Verdict::of_status(*status).is_refusal()
        ) || self.is_stale_absence()
    }

    /// Whether this is a kept 404, given because the registry cannot be asked.
    pub fn is_stale_absence(&self) -> bool {
        matches!(self, FetchError::Absent(_))
    }

    /// Whether the registry could not be asked, so that its last answer serves.
    pub fn is_outage(&self) -> bool {
        match self {
            FetchError::Upstream(error) => error.is_outage(),
            FetchError::Overloaded => true,
            _ => false,
        }
    }

    /// What the upstream's answer says about the content, where it gave one, now or earlier.
    fn verdict(&self) -> Option<Verdict> {
        match self {
            FetchError::Upstream(error) => error.verdict(),
            FetchError::Absent(_) => Some(Verdict::Gone),
            _ => None,
        }
    }
}

impl Cache {
    /// A cache in a process that may have so many `descriptors`.
    pub fn new(
        storage: Storage,
        upstreams: Upstreams,
        helper: Helper,
        policy: TagPolicy,
        memory: MemoryBudget,
        descriptors: u64,
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
            absences: Absences::default(),
            listing_repositories: ListingRepositories::default(),
            pending: Mutex::default(),
            slots: Slots::new(descriptors),
            memory,
            memory_shares: SharedLedger::default(),
            room_shares: SharedLedger::default(),
            proven: Proven::default(),
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
        let found = self.0.helper.look_up(look).await;
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
    /// Whose share a registry's fetches come from.
    fn party(&self, namespace: &Namespace) -> Party {
        if let Some(name) = self.upstreams.registries().entry_name(namespace) {
            return Party::Named(name.into());
        }
        // Docker Hub is meant by names without a registry; it needs no entry.
        if namespace.is_docker_hub() {
            return Party::Named(namespace.as_str().into());
        }
        if self.proven.has(namespace) {
            Party::Proven(namespace.clone())
        } else {
            Party::Unproven(namespace.clone())
        }
    }

    /// A place among the fetches under way, within [`FILL_QUEUE_WAIT`], and memory for one, now.
    async fn slot(&self, class: Class, namespace: &Namespace) -> Result<Slot, FetchError> {
        let place = self.place(class, namespace).await?;
        let memory = self.memory_for(namespace, FILL_WINDOW_BYTES as u64);
        Ok(Slot {
            place,
            memory: memory.ok_or(FetchError::Overloaded)?,
        })
    }

    /// A place among the fetches under way, within [`FILL_QUEUE_WAIT`], or [`BACKGROUND_QUEUE_WAIT`] for [`Class::Background`].
    async fn place(&self, class: Class, namespace: &Namespace) -> Result<Place, FetchError> {
        let limit = match class {
            Class::Background => BACKGROUND_QUEUE_WAIT,
            Class::Blob | Class::Manifest => FILL_QUEUE_WAIT,
        };
        let place = self.slots.take(class, &self.party(namespace), limit).await;
        place.ok_or(FetchError::Overloaded)
    }

    /// `bytes` of the memory budget from the share of a registry; `None` when there is not that much.
    fn memory_for(&self, namespace: &Namespace, bytes: u64) -> Option<Memory> {
        let party = self.party(namespace);
        let mut lease = self.memory_shares.lease(&party);
        let free = self.memory.limit().saturating_sub(self.memory.used());
        let (kept, own) = kept_memory(self.memory.limit());
        // The last part of the budget is for registries with an entry that hold little.
        let has_own = matches!(party, Party::Named(_)) && self.memory_shares.held_by(&party) < own;
        let free = if has_own { free } else { free.saturating_sub(kept) };
        if !lease.grow_to(bytes, free, 1) {
            self.memory.refuse();
            return None;
        }
        let charge = self.memory.take(bytes)?;
        Some(Memory { charge, lease })
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
        self.in_time(self.helper.look_up_on_pool(move || look(&store)).await)
    }

    fn in_time<T>(&self, found: Option<Result<Option<T>, Lost>>) -> Option<T> {
        let stalls = |store: &Arc<FsStore>| !store.is_adopting();
        if found.is_none() && self.storage.local().is_some_and(stalls) {
            self.health.stalled();
        }
        found?.ok().flatten()
    }
}

/// Bytes of a memory budget that are kept for registries with an entry in the configuration, and how much one of them holds
/// when it may take no more of them: the windows of its own places, or one window where the budget is small.
fn kept_memory(budget: u64) -> (u64, u64) {
    let kept = budget / OWN_MEMORY_PART;
    (
        kept,
        (kept / 64).clamp(1, OWN_FETCHES_MAX * FILL_WINDOW_BYTES as u64),
    )
}

/// What a question with this purpose takes a place for.
fn class_of(purpose: Purpose) -> Class {
    match purpose {
        Purpose::Pull => Class::Manifest,
        Purpose::Revalidate => Class::Background,
    }
}

/// The result of `work`, or of `end` when that comes first; the work is dropped then.
async fn unless<T, E>(end: impl Future<Output = E>, work: impl Future<Output = T>) -> Result<T, E> {
    match select(pin!(work), pin!(end)).await {
        Either::Left((result, _)) => Ok(result),
        Either::Right((end, _)) => Err(end),
    }
}

/// The body of a manifest or list, which must come within a time that its length earns.
async fn in_small_body_time<T>(bytes: u64, read: impl Future<Output = T>) -> Option<T> {
    let earned = Duration::from_secs(bytes / SMALL_BODY_RATE_MIN);
    tokio::time::timeout(SMALL_BODY_TIME + earned, read).await.ok()
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
