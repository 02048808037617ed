//! What we hold and how we come to hold it.
//!
//! One [`Cache`] per process, shared by all cores; a hit does not come here, it is answered from what its core
//! has open or in memory ([`crate::registry`]). Work that waits for upstreams or disks runs on the helper pool.

mod absence;
mod access;
mod body_channel;
mod bucket;
mod error;
mod fair_queue;
mod fill;
mod freshness;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod health;
mod listing;
mod manifest;
mod passthrough;
mod records;
mod shares;
mod slots;
mod storage;
mod stored_headers;
mod tags;
#[cfg(test)]
mod tests;
mod upload_queue;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};

use crate::config::Registries;
use crate::limits::{
    BACKGROUND_QUEUE_TIMEOUT, FETCH_QUEUE_TIMEOUT, FILL_WINDOW_BYTES, MEMORY_OBJECT_BYTES_MAX,
    RESERVED_FETCHES_MAX, RESERVED_MEMORY_DIVISOR, SMALL_BODY_RATE_MIN, SMALL_BODY_TIMEOUT,
};
use crate::oci::{Digest, Namespace};
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::{Charge, MemoryBudget};
use crate::runtime::oneshot::Lost;
use crate::store::{Entry, FsStore, Key};
use crate::upstream::{Purpose, RegistryStatus, Upstreams};

pub use absence::Absence;
pub use access::{Approach, Caller, HeldContent, Permit};
pub use body_channel::BodyReceiver;
pub use bucket::Bucket;
pub use error::FetchError;
pub use fill::{Fill, Follower, Head, Ready as FillReady};
pub use freshness::TagPolicy;
pub use listing::{INDEX_TYPE, ListingAnswer, ListingError, ListingKey};
pub use manifest::{Manifest, ManifestAnswer, ManifestKey};
pub use passthrough::PassthroughHead;
pub use storage::{Storage, StorageError};

use crate::runtime::single_flight::SingleFlight;
use absence::Absences;
use access::AccessTable;
use health::StoreHealth;
use listing::Listings;
use records::ListingRepositories;
use shares::{Lease, Party, Proven, SharedLedger};
use slots::{Class, FetchSlot, FetchSlots};
use stored_headers::{media_type, named_digest, storable};
use tags::{Revalidating, TagTable};
use upload_queue::Uploads;

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
    manifests: SingleFlight<ManifestKey, Result<ManifestAnswer, FetchError>>,
    tags: TagTable,
    listings: Listings,
    listing_calls: listing::ListingCalls,
    revalidating: Revalidating,
    access: AccessTable,
    absences: Absences,
    listing_repositories: ListingRepositories,
    /// Verified manifests on their way to the disk: already as good as stored.
    pending: Mutex<HashMap<Key, Arc<Manifest>>>,
    /// Slots of fills and manifest fetches.
    slots: FetchSlots,
    memory: MemoryBudget,
    /// What registries hold of the memory.
    memory_shares: SharedLedger,
    /// What the unfinished blobs of registries hold of the disk.
    room_shares: SharedLedger,
    proven: Proven,
}

/// A fetch slot, and memory for one fetch.
struct FetchResources {
    slot: FetchSlot,
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

/// A committed blob, opened.
#[derive(Clone)]
pub struct FoundBlob {
    pub entry: Entry,
    /// The content, when it is small enough for a core's memory; hashed, so it is served instead of the file.
    pub small: Option<Bytes>,
    /// Whether the file may be kept open: one in the spool takes room there.
    pub lasting: bool,
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
            manifests: SingleFlight::default(),
            tags: TagTable::default(),
            listings: Listings::default(),
            listing_calls: SingleFlight::default(),
            revalidating: Revalidating::default(),
            access: AccessTable::default(),
            absences: Absences::default(),
            listing_repositories: ListingRepositories::default(),
            pending: Mutex::default(),
            slots: FetchSlots::new(descriptors),
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

    /// The current configuration of the registries.
    pub fn registries(&self) -> Arc<Registries> {
        self.0.upstreams.registries()
    }

    /// Changes when [`Cache::registries`] does. Reading it costs a hit nothing.
    pub fn generation(&self) -> u64 {
        self.0.upstreams.generation()
    }

    /// Runs the heartbeats of the helper pool and the store in `health`. The store's heartbeat looks up absent names.
    pub fn run_store_heartbeat(&self, health: &Health) {
        self.0.helper.run_heartbeat(health.helper().clone(), || ());
        // A bucket is no part of this process: its circuit breaker tracks its availability.
        let store = self.0.storage.local().cloned();
        self.0.helper.run_heartbeat(health.store().clone(), move || {
            if let Some(store) = &store {
                store.probe();
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

    /// The status of each registry with recent requests, by name.
    ///
    /// # Errors
    ///
    /// [`FetchError::Lost`], when the helper pool ends.
    pub async fn registry_statuses(&self) -> Result<Vec<RegistryStatus>, FetchError> {
        let upstreams = self.0.upstreams.clone();
        let statuses = self.0.helper.ask(async move { upstreams.statuses() }).await;
        statuses.map_err(|_| FetchError::Lost)
    }

    /// Schedules the verification of `key`: its file could not be read to its end. A damaged entry is removed.
    pub fn schedule_verification(&self, key: Key) {
        if let Some(store) = self.0.storage.local().cloned() {
            self.0.helper.spawn_blocking(move || store.recheck(&key));
        }
    }

    /// The blob `key` as this machine has it: committed, or on its way to the bucket. A store that fails or stalls is a miss.
    pub async fn find_blob(&self, key: Key) -> Option<FoundBlob> {
        let shared = self.0.clone();
        let look: Box<dyn FnOnce() -> Option<FoundBlob> + Send> = match self.0.storage.local() {
            Some(_) if !self.0.health.readable() => return None,
            Some(store) => {
                let store = store.clone();
                Box::new(move || {
                    let found = opened(find(&store, &key)?, true);
                    if found.is_none() {
                        store.recheck(&key);
                        return None;
                    }
                    shared.ensure_replicated(&key);
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
fn opened(entry: Entry, lasting: bool) -> Option<FoundBlob> {
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
    Some(FoundBlob {
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
    /// The party that a registry's fetches count for.
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

    /// Takes a fetch slot within [`FETCH_QUEUE_TIMEOUT`], and memory for one fetch at once.
    async fn fetch_resources(
        &self,
        class: Class,
        namespace: &Namespace,
    ) -> Result<FetchResources, FetchError> {
        let slot = self.slot(class, namespace).await?;
        let memory = self.memory_for(namespace, FILL_WINDOW_BYTES as u64);
        Ok(FetchResources {
            slot,
            memory: memory.ok_or(FetchError::Overloaded)?,
        })
    }

    /// Takes a fetch slot within [`FETCH_QUEUE_TIMEOUT`], or [`BACKGROUND_QUEUE_TIMEOUT`] for [`Class::Background`].
    async fn slot(&self, class: Class, namespace: &Namespace) -> Result<FetchSlot, FetchError> {
        let limit = match class {
            Class::Background => BACKGROUND_QUEUE_TIMEOUT,
            Class::Blob | Class::Manifest => FETCH_QUEUE_TIMEOUT,
        };
        let slot = self.slots.take(class, &self.party(namespace), limit).await;
        slot.ok_or(FetchError::Overloaded)
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
/// when it may take no more of them: the windows of its own slots, or one window where the budget is small.
fn kept_memory(budget: u64) -> (u64, u64) {
    let kept = budget / RESERVED_MEMORY_DIVISOR;
    (
        kept,
        (kept / 64).clamp(1, RESERVED_FETCHES_MAX * FILL_WINDOW_BYTES as u64),
    )
}

/// The class of a request with this purpose.
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
    tokio::time::timeout(SMALL_BODY_TIMEOUT + earned, read).await.ok()
}
