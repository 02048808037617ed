//! The storage of content. The tiers are a directory on this machine, a bucket shared by several
//! machines, or both. A registry with `cache_dir` has a directory of its own ([`Storages`]).
//!
//! Callers look up, read, receive and commit content, independently of the tiers. The storage picks
//! the nearest tier, copies content between tiers in the background, and pauses requests to a
//! failing tier. A failed tier is a miss, and never an error of a request.
//!
//! Not here: the formats and calls of each tier (`store`), and access to content (`cache`).

mod blob;
mod bucket;
mod bucket_read;
mod first_hash;
mod health;
mod ingest;
mod maintenance;
mod records;
mod replication;
mod scrub;
mod small;
mod small_entry;
mod storages;
mod tags;
#[cfg(test)]
#[path = "tests/tiered.rs"]
mod tests;
mod upload_job;
mod upload_queue;

use std::sync::Arc;

use crate::config::VerifyOnOpen;
use crate::fairness::{Lease, Parties, Party, SharedLedger};
use crate::runtime::condition_log::LoggedCondition;
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::{Helper, blocking};
use crate::runtime::memory_budget::MemoryBudget;
use crate::runtime::oneshot::Lost;
use crate::store::{FsStore, OpenError, S3OpenError, SpoolDir};

pub use crate::store::{
    Key, Meta, MissingReference, RecordName, ReferrersRecord, Room, Source, StoreError, StoredEntry, TagKey,
    TagPointer, Verified, canonical_name,
};
pub use crate::store::{RegistryContent, Removals, Unseen};
pub use blob::{LocalBlob, RemoteBlob, StoredBlob, Within};
pub use bucket_read::{BucketError, RemoteBody};
pub use ingest::{NotCommitted, StorageIngest};
pub use maintenance::Maintenance;
pub use records::RecordChanges;
pub use scrub::Scrub;
pub use small_entry::SmallEntry;
pub use storages::{Storages, StoreNumber};

use bucket::Bucket;
use first_hash::FirstHashes;
use health::StoreHealth;
use maintenance::UseQueue;
use records::RecordWriters;
use upload_queue::Uploads;

/// One directory, a bucket, or a directory in front of the bucket. Cheap to clone.
#[derive(Clone)]
pub struct Storage(Arc<Shared>);

struct Shared {
    tiers: Tiers,
    /// The health of the disk with the local store or the spool.
    health: StoreHealth,
    uploads: Uploads,
    /// The writers of records to the local store.
    record_writers: RecordWriters,
    uses: UseQueue,
    /// Content that found no room in the local store.
    no_room: Arc<LoggedCondition>,
    /// Content of a registry that found no room within the bound of the registry.
    no_registry_room: Arc<LoggedCondition>,
    /// `None` if stored blobs are served without a hash.
    first_hashes: Option<FirstHashes>,
    /// The disk space that the unfinished blobs of each registry use.
    room_shares: SharedLedger,
    parties: Parties,
    helper: Helper,
    memory: MemoryBudget,
}

/// The tiers that the operator chose.
enum Tiers {
    Local(Arc<FsStore>),
    /// A bucket alone. Blobs wait for their upload in the spool.
    Bucket {
        bucket: Arc<Bucket>,
        spool: SpoolDir,
    },
    /// A directory in front of a bucket. Blobs wait for their upload in the directory.
    Both {
        fs: Arc<FsStore>,
        /// Shared by all directories.
        bucket: Arc<Bucket>,
    },
}

/// The reason that the storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Fs(#[from] OpenError),
    #[error(transparent)]
    Bucket(#[from] S3OpenError),
    #[error("{0}; set SPOOL_DIR to another directory")]
    Spool(#[from] StoreError),
}

impl Storage {
    fn new(
        tiers: Tiers,
        verify_on_open: VerifyOnOpen,
        parties: Parties,
        helper: Helper,
        memory: MemoryBudget,
    ) -> Self {
        let health = StoreHealth::of(match &tiers {
            Tiers::Local(fs) | Tiers::Both { fs, .. } => fs.registry_dir(),
            Tiers::Bucket { .. } => None,
        });
        Storage(Arc::new(Shared {
            tiers,
            health,
            uploads: Uploads::default(),
            record_writers: RecordWriters::default(),
            uses: UseQueue::default(),
            no_room: Arc::default(),
            no_registry_room: Arc::default(),
            first_hashes: match verify_on_open {
                VerifyOnOpen::Off => None,
                VerifyOnOpen::First => Some(FirstHashes::default()),
            },
            room_shares: SharedLedger::default(),
            parties,
            helper,
            memory,
        }))
    }

    /// Runs the heartbeat of the local store in `health`. The heartbeat looks up absent names. A
    /// bucket has no heartbeat, because the circuit breaker tracks the availability.
    fn run_heartbeat(&self, health: &Health) {
        let store = self.local().cloned();
        self.0.helper.run_heartbeat(health.store().clone(), move || {
            if let Some(store) = &store {
                store.probe();
            }
        });
    }

    /// Returns whether the last lookup on the disk was answered in time.
    pub fn is_answering(&self) -> bool {
        self.0.health.readable()
    }

    /// Returns whether a fill should try to write to the disk.
    pub fn is_writable(&self) -> bool {
        self.0.health.writable()
    }

    /// Records a failed write to the disk. Fills skip the disk for a while.
    pub fn record_write_failure(&self, why: &dyn std::fmt::Display) {
        self.0.health.failed(why);
    }

    /// Records content that was not stored. A lack of room, which may concern every pull for a while,
    /// has two lines in the log, and a store that fails is skipped for a while.
    pub fn record_unstored(&self, error: &StoreError) {
        if error.is_about_room() && self.local().is_some() {
            tracing::debug!(%error, "pull continues without storing");
            self.0.no_room.record(1);
        } else if error.is_about_registry_room() {
            tracing::debug!(%error, "pull continues without storing");
            self.0.no_registry_room.record(1);
        } else if error.is_about_scan() {
            // The line `store scanned` ends this state.
            tracing::debug!(%error, "pull continues without storing");
        } else if error.is_about_size() {
            tracing::warn!(%error, "pull continues without storing");
        } else {
            self.record_write_failure(error);
        }
    }

    /// Schedules the verification of a local file that could not be read to the end. A damaged
    /// entry is removed.
    pub fn verify_file(&self, key: Key) {
        if let Some(store) = self.local().cloned() {
            self.0.helper.spawn_blocking(move || store.recheck(&key));
        }
    }

    /// Records in every tier, in the background, that the registry of `source` also has the
    /// content, and whether the content is public.
    pub fn record_source(&self, key: Key, source: Source, public: bool) {
        if let Some(bucket) = self.bucket().filter(|bucket| bucket.store().is_available()) {
            let (store, key, source) = (bucket.store().clone(), key.clone(), source.clone());
            self.0.helper.spawn(async move {
                if let Err(error) = store.record_source(&key, &source, public).await {
                    tracing::debug!(%error, "entry source not recorded in the bucket");
                }
            });
        }
        if let Some(store) = self.local().cloned()
            && self.is_writable()
        {
            let storage = self.clone();
            self.0.helper.spawn_blocking(move || {
                if let Err(error) = store.record_source(&key, &source, public) {
                    storage.record_write_failure(&error);
                }
            });
        }
    }

    /// Returns an empty share of the disk for an unfinished blob of a registry.
    pub fn room_lease(&self, party: &Party) -> Lease {
        self.0.room_shares.lease(party)
    }

    fn local(&self) -> Option<&Arc<FsStore>> {
        match &self.0.tiers {
            Tiers::Local(fs) | Tiers::Both { fs, .. } => Some(fs),
            Tiers::Bucket { .. } => None,
        }
    }

    fn bucket(&self) -> Option<&Bucket> {
        match &self.0.tiers {
            Tiers::Bucket { bucket, .. } | Tiers::Both { bucket, .. } => Some(bucket),
            Tiers::Local(_) => None,
        }
    }

    /// Returns the result of a lookup in the local store. `None` if the store fails or stalls. Call
    /// on the helper pool.
    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&FsStore) -> Option<T> + Send + 'static,
    ) -> Option<T> {
        if !self.0.health.readable() {
            return None;
        }
        let store = self.local()?.clone();
        self.in_time(self.0.helper.look_up_on_pool(move || look(&store)).await)
    }

    /// Returns the result of a lookup. `found` is `None` after a timeout, which is recorded as a
    /// stall of the local store.
    fn in_time<T>(&self, found: Option<Result<Option<T>, Lost>>) -> Option<T> {
        if found.is_none() && self.local().is_some_and(|store| !store.is_adopting()) {
            self.0.health.stalled();
        }
        found?.ok().flatten()
    }

    /// Writes to the local store, unless writes are paused. `None` if nothing was written. A
    /// failure is recorded.
    async fn write_local<T: Send + 'static>(
        &self,
        write: impl FnOnce(&FsStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Option<T> {
        if !self.is_writable() {
            return None;
        }
        let store = self.local()?.clone();
        match blocking(move || write(&store)).await {
            Ok(Ok(written)) => Some(written),
            Ok(Err(error)) => {
                self.record_unstored(&error);
                None
            }
            Err(_) => None,
        }
    }
}
