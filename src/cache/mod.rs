//! What we hold and how we come to hold it.
//!
//! One [`Cache`] per process, shared by all cores; a hit does not come here, it is answered from what its core
//! has open or in memory ([`crate::registry`]). Work that waits for upstreams or disks runs on the helper pool.

mod absence;
mod access;
mod blob;
mod body_channel;
mod error;
mod fill;
mod freshness;
#[cfg(any(test, fuzzing))]
#[path = "tests/fuzz.rs"]
pub mod fuzz;
mod listing;
mod manifest;
mod open_files;
mod passthrough;
mod records;
mod slots;
mod stored_headers;
mod tags;

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::config::Live;
use crate::fairness::{Lease, Parties, Party, SharedLedger};
use crate::limits::{
    BACKGROUND_QUEUE_TIMEOUT, FETCH_QUEUE_TIMEOUT, FILL_WINDOW_BYTES, RESERVED_FETCHES_MAX,
    RESERVED_MEMORY_DIVISOR, SMALL_BODY_RATE_MIN, SMALL_BODY_TIMEOUT,
};
use crate::oci::{Digest, Namespace};
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::{Charge, MemoryBudget};
use crate::storage::{Key, Storage};
use crate::upstream::{Purpose, RegistryStatus, Upstreams};

pub use access::{Approach, Caller};
pub use blob::{BlobAnswer, BlobBody, BlobHeaders, BlobRequest, FoundBlob, WantedBytes};
pub use error::{Absence, FetchError};
pub use freshness::TagPolicy;
pub use listing::{INDEX_TYPE, ListingAnswer, ListingError, ListingKey};
pub use manifest::{Manifest, ManifestAnswer, ManifestKey};
pub use open_files::OpenFiles;
pub use passthrough::PassthroughHead;

use crate::runtime::single_flight::SingleFlight;
use absence::Absences;
use access::AccessTable;
use listing::Listings;
use records::ListingRepositories;
use slots::{Class, FetchSlot, FetchSlots};
use stored_headers::{media_type, named_digest, storable};
use tags::{Revalidating, TagTable};

/// The shared cache; cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    storage: Storage,
    upstreams: Upstreams,
    live: Live,
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
    parties: Parties,
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

impl Cache {
    /// A cache in a process that may have so many `descriptors`.
    pub fn new(
        storage: Storage,
        upstreams: Upstreams,
        live: Live,
        helper: Helper,
        policy: TagPolicy,
        memory: MemoryBudget,
        descriptors: u64,
    ) -> Self {
        let parties = storage.parties().clone();
        Cache(Arc::new(Shared {
            storage,
            upstreams,
            live,
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
            parties,
        }))
    }

    /// The registries behind us.
    pub fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// Runs the heartbeats of the helper pool and the store in `health`.
    pub fn run_heartbeats(&self, health: &Health) {
        self.0.helper.run_heartbeat(health.helper().clone(), || ());
        self.0.storage.run_heartbeat(health);
    }

    /// Returns whether the last lookup on the disk was answered in time.
    pub fn is_store_answering(&self) -> bool {
        self.0.storage.is_answering()
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

    /// Schedules the verification of a blob whose file could not be read to its end.
    pub fn verify_blob(&self, digest: Digest) {
        self.0.storage.verify_file(Key::Blob(digest));
    }
}

impl Shared {
    /// Returns the party that the fetches from a registry count for.
    fn party(&self, namespace: &Namespace) -> Party {
        self.parties.of(namespace)
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
