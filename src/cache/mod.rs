//! Stored content, and the fetches from registries that provide the content.
//!
//! The process has one [`Cache`], shared by all cores. Repeated hits are answered from the memory
//! and the open files of their core ([`crate::registry`]). Work that waits for upstreams or disks
//! runs on the helper pool.

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
mod hold;
mod listing;
mod lookup_counts;
mod manifest;
mod missing;
mod passthrough;
mod prefetch;
mod priority;
mod records;
mod slots;
mod small_body;
mod stored_headers;
mod tags;

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};

use crate::config::{Live, Prefetch};
use crate::fairness::{Lease, Parties, Party, SharedLedger};
use crate::limits::{
    BACKGROUND_QUEUE_TIMEOUT, FETCH_QUEUE_TIMEOUT, FILL_WINDOW_BYTES, RESERVED_FETCHES_MAX,
    RESERVED_MEMORY_DIVISOR,
};
use crate::oci::{Digest, DigestPrefix, Namespace};
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::{Helper, blocking};
use crate::runtime::memory_budget::{Charge, MemoryBudget};
use crate::runtime::pacer::SharedPace;
use crate::storage::{Key, Storage, Storages};
use crate::sync::Mutex;
use crate::upstream::{Purpose, RegistryStatus, Upstreams};

pub use crate::storage::{RegistryContent, Removals, Unseen};
pub use access::{Approach, Caller};
pub use blob::{BlobAnswer, BlobBody, BlobHeaders, BlobRequest, FoundBlob, OpenFiles, WantedBytes};
pub use error::{Absence, FetchError};
pub use fill::FillStatus;
pub use freshness::{TagPolicy, TagTerms, is_fresh, terms as tag_terms};
pub use listing::{INDEX_TYPE, ListingAnswer, ListingError, ListingKey};
pub use lookup_counts::{CoreLookupCounts, LookupCounts, LookupKind, LookupResult, Lookups, RegistryLookups};
pub use manifest::{CheckedTag, Manifest, ManifestAnswer, ManifestKey};
pub use passthrough::PassthroughHead;
pub use priority::Priority;

use crate::runtime::single_flight::SingleFlight;
use absence::Absences;
use access::AccessTable;
use listing::Listings;
use manifest::Needs;
use missing::MissingReferences;
use prefetch::Prefetches;
use records::ListingRepositories;
use slots::{Class, FetchSlot, FetchSlots};
use stored_headers::{media_type, named_digest, storable};
use tags::{Revalidating, TagTable};

/// The shared cache; cheap to clone.
#[derive(Clone)]
pub struct Cache(Arc<Shared>);

struct Shared {
    storages: Storages,
    upstreams: Upstreams,
    live: Live,
    helper: Helper,
    policy: TagPolicy,
    fills: fill::FillTable,
    manifests: SingleFlight<ManifestKey, Result<ManifestAnswer, FetchError>>,
    /// Lookups of the blobs of manifests, see [`manifest`].
    completeness_checks: SingleFlight<ManifestKey, Result<Needs, FetchError>>,
    tags: TagTable,
    listings: Listings,
    listing_calls: listing::ListingCalls,
    revalidating: Revalidating,
    access: AccessTable,
    absences: Absences,
    listing_repositories: ListingRepositories,
    missing: MissingReferences,
    /// Verified manifests that are being stored. Lookups find the manifests already.
    pending: Mutex<HashMap<Key, Arc<Manifest>>>,
    /// Slots of fills and manifest fetches.
    slots: FetchSlots,
    memory: MemoryBudget,
    /// The memory that each registry uses.
    memory_shares: SharedLedger,
    lookup_counts: LookupCounts,
    parties: Parties,
    prefetch: PrefetchOptions,
    prefetches: Prefetches,
    /// The pace of all fills without clients together.
    background_pace: SharedPace,
}

/// The prefetches of a process.
#[derive(Clone, Copy, Debug)]
pub struct PrefetchOptions {
    pub mode: Prefetch,
    /// The time in which a client must request a blob of the image.
    pub timeout: Duration,
}

/// The options of all fetches of a process.
#[derive(Clone, Copy, Debug)]
pub struct FetchOptions {
    /// The file descriptors that the process may open.
    pub descriptors: u64,
    /// Bytes per second of all fetches below [`Priority::Client`] together. 0 means no bound.
    pub background_bandwidth: u64,
    pub prefetch: PrefetchOptions,
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
    /// Releases the memory beyond `bytes`.
    fn shrink_to(&mut self, bytes: u64) {
        self.charge.shrink_to(bytes);
        self.lease.shrink_to(bytes);
    }
}

impl Cache {
    /// Creates the cache of a process with these options.
    pub fn new(
        storages: Storages,
        upstreams: Upstreams,
        live: Live,
        helper: Helper,
        policy: TagPolicy,
        memory: MemoryBudget,
        options: FetchOptions,
    ) -> Self {
        let parties = storages.parties().clone();
        Cache(Arc::new(Shared {
            storages,
            upstreams,
            live,
            helper,
            policy,
            fills: fill::FillTable::default(),
            manifests: SingleFlight::default(),
            completeness_checks: SingleFlight::default(),
            tags: TagTable::default(),
            listings: Listings::default(),
            listing_calls: SingleFlight::default(),
            revalidating: Revalidating::default(),
            access: AccessTable::default(),
            absences: Absences::default(),
            listing_repositories: ListingRepositories::default(),
            missing: MissingReferences::default(),
            pending: Mutex::default(),
            slots: FetchSlots::new(options.descriptors),
            memory,
            memory_shares: SharedLedger::default(),
            lookup_counts: LookupCounts::default(),
            parties,
            prefetch: options.prefetch,
            prefetches: Prefetches::default(),
            background_pace: SharedPace::new(options.background_bandwidth),
        }))
    }

    pub fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// Runs the heartbeats of the helper pool and the default store in `health`.
    pub fn run_heartbeats(&self, health: &Health) {
        self.0.helper.run_heartbeat(health.helper().clone(), || ());
        self.0.storages.run_heartbeat(health);
    }

    /// Returns whether the last lookup in the default store was answered in time.
    pub fn is_store_answering(&self) -> bool {
        self.0.storages.is_answering()
    }

    /// Returns the status of each registry with recent requests, by name.
    ///
    /// # Errors
    ///
    /// [`FetchError::Lost`], when the helper pool ends.
    pub async fn registry_statuses(&self) -> Result<Vec<RegistryStatus>, FetchError> {
        let upstreams = self.0.upstreams.clone();
        let statuses = self.0.helper.ask(async move { upstreams.statuses() }).await;
        statuses.map_err(|_| FetchError::Lost)
    }

    /// Returns the stored content of each registry, and of the registries `also`. Empty for a bucket
    /// alone.
    ///
    /// # Errors
    ///
    /// [`FetchError::Lost`], when the helper pool ends.
    pub async fn registry_contents(
        &self,
        also: BTreeSet<Namespace>,
    ) -> Result<Vec<RegistryContent>, FetchError> {
        let storages = self.0.storages.clone();
        let contents = blocking(move || storages.registry_contents(&also));
        let contents = self.0.helper.ask(contents).await;
        contents
            .and_then(|contents| contents)
            .map_err(|_| FetchError::Lost)
    }

    /// Returns the counts of lookups by registry.
    pub fn lookup_counts(&self) -> &LookupCounts {
        &self.0.lookup_counts
    }

    /// Reports a use of content that a core holds in memory or open.
    pub fn report_use(&self, digest: DigestPrefix) {
        self.0.storages.report_use(digest);
    }

    /// Returns the removals of all local stores, if any.
    pub fn removals(&self) -> Option<Removals> {
        self.0.storages.removals()
    }

    /// Schedules the verification of a blob whose file could not be read to its end.
    pub fn verify_blob(&self, digest: Digest) {
        self.0.storages.verify_file(&Key::Blob(digest));
    }
}

impl Shared {
    /// Returns the storage with the content of a registry.
    fn storage(&self, namespace: &Namespace) -> &Storage {
        self.storages.of(namespace)
    }

    /// Returns the party that the fetches from a registry count for.
    fn party(&self, namespace: &Namespace) -> Party {
        self.parties.of(namespace)
    }

    /// Takes a fetch slot within [`FETCH_QUEUE_TIMEOUT`], and memory for one fetch at once. Below
    /// [`Priority::Client`], also takes the slot at once.
    async fn fetch_resources(
        &self,
        class: Class,
        namespace: &Namespace,
        priority: Priority,
    ) -> Result<FetchResources, FetchError> {
        let slot = self.slot_for(class, namespace, priority).await?;
        let memory = self.memory_for(namespace, FILL_WINDOW_BYTES as u64, priority);
        Ok(FetchResources {
            slot,
            memory: memory.ok_or(FetchError::Overloaded)?,
        })
    }

    /// Takes a fetch slot within [`FETCH_QUEUE_TIMEOUT`], or [`BACKGROUND_QUEUE_TIMEOUT`] for
    /// [`Class::Background`].
    async fn slot(&self, class: Class, namespace: &Namespace) -> Result<FetchSlot, FetchError> {
        self.slot_for(class, namespace, Priority::Client).await
    }

    async fn slot_for(
        &self,
        class: Class,
        namespace: &Namespace,
        priority: Priority,
    ) -> Result<FetchSlot, FetchError> {
        let limit = match class {
            Class::Background => BACKGROUND_QUEUE_TIMEOUT,
            Class::Blob | Class::Manifest => FETCH_QUEUE_TIMEOUT,
        };
        let slot = self
            .slots
            .take(class, &self.party(namespace), priority, limit)
            .await;
        slot.ok_or(FetchError::Overloaded)
    }

    /// Returns whether a fetch below [`Priority::Client`] gets a slot of `class` now.
    fn has_spare_slot(&self, class: Class, namespace: &Namespace, priority: Priority) -> bool {
        self.slots.has_spare(class, &self.party(namespace), priority)
    }

    /// Takes `bytes` of the memory budget from the share of a registry. `None` if the budget or the
    /// share is exhausted. Below [`Priority::Client`], a part of the budget stays free.
    fn memory_for(&self, namespace: &Namespace, bytes: u64, priority: Priority) -> Option<Memory> {
        let party = self.party(namespace);
        let mut lease = self.memory_shares.lease(&party);
        let free = self.memory.limit().saturating_sub(self.memory.used());
        let (kept, own) = kept_memory(self.memory.limit());
        // The reserve is for registries with a configuration entry and little memory in use.
        let has_own = matches!(party, Party::Named(_)) && self.memory_shares.held_by(&party) < own;
        let free = match priority {
            Priority::Client if has_own => free,
            Priority::Client => free.saturating_sub(kept),
            _ => free.saturating_sub(kept.max(priority.reserve(self.memory.limit()))),
        };
        if !lease.grow_to(bytes, free, 1) {
            if !priority.is_background() {
                self.memory.refuse();
            }
            return None;
        }
        let charge = self.memory.take(bytes)?;
        Some(Memory { charge, lease })
    }
}

/// Returns two amounts of a memory budget, in bytes. The first is the reserve for registries with a
/// configuration entry. A registry may use the reserve while holding less than the second amount.
/// The second amount covers the windows of the registry's reserved slots, or one window of a small
/// budget.
fn kept_memory(budget: u64) -> (u64, u64) {
    let kept = budget / RESERVED_MEMORY_DIVISOR;
    (
        kept,
        (kept / 64).clamp(1, RESERVED_FETCHES_MAX * FILL_WINDOW_BYTES as u64),
    )
}

fn class_of(purpose: Purpose) -> Class {
    match purpose {
        Purpose::Pull => Class::Manifest,
        Purpose::Revalidate => Class::Background,
    }
}

/// Returns the result of `work`, or the result of `end` if `end` completes first. `work` is then
/// dropped.
async fn unless<T, E>(end: impl Future<Output = E>, work: impl Future<Output = T>) -> Result<T, E> {
    match select(pin!(work), pin!(end)).await {
        Either::Left((result, _)) => Ok(result),
        Either::Right((end, _)) => Err(end),
    }
}
