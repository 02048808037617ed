//! The storages of a cache: one for each local store.
//!
//! A registry with `cache_dir` has a storage of its own. Each storage has its own directory, health,
//! queues and threads, so a full or failing disk concerns the registries of this disk only. All storages
//! share the bucket.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::bucket::Bucket;
use super::{Key, Removals, Storage, StorageError, Tiers};
use crate::config::{Live, S3Settings, StorageConfig, StoreBounds, StoreDirs, VerifyOnOpen};
use crate::fairness::Parties;
use crate::limits::{REGISTRY_STORE_LOOKUPS_MAX, SPOOL_BYTES_MAX};
use crate::oci::{DigestPrefix, Namespace};
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::MemoryBudget;
use crate::store::{FsStore, RegistryContent, S3OpenError, S3Store, SpoolDir, Stores};

/// The storages of a cache. Cheap to clone.
#[derive(Clone)]
pub struct Storages(Arc<Shared>);

struct Shared {
    default: Storage,
    dirs: StoreDirs,
    /// The storage of each directory in `dirs`.
    of_registries: Vec<Storage>,
    /// `None` for a bucket alone.
    stores: Option<Stores>,
}

/// The number of a storage. 0 is the default storage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct StoreNumber(usize);

impl Storages {
    /// Opens the tiers of `config`, and the stores in `dirs`. The local stores have the bounds of
    /// `registries`. With `verify_on_open`, blobs of the local stores may be hashed before their first
    /// response. Blocks, so it is for the main thread.
    ///
    /// # Errors
    ///
    /// A tier needs a change by the operator. An unreachable bucket is no error, because the bucket
    /// may become reachable.
    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of the process that storages use"
    )]
    pub fn open(
        config: &StorageConfig,
        dirs: StoreDirs,
        bounds: StoreBounds,
        registries: Live,
        verify_on_open: VerifyOnOpen,
        parties: Parties,
        helper: Helper,
        memory: MemoryBudget,
    ) -> Result<Self, StorageError> {
        let open_bucket = |settings: &S3Settings| {
            let store = helper.wait(S3Store::open(settings))?;
            Ok::<_, S3OpenError>(Arc::new(Bucket::new(store, settings.redirect)))
        };
        let storage =
            |tiers, helper| Storage::new(tiers, verify_on_open, parties.clone(), helper, memory.clone());
        let (root, settings) = match config {
            StorageConfig::Fs { root, .. } => (root, None),
            StorageConfig::Tiered { root, s3, .. } => (root, Some(s3)),
            StorageConfig::S3 { s3, spool } => {
                let spool = SpoolDir::open(spool, SPOOL_BYTES_MAX)?;
                let bucket = open_bucket(s3)?;
                let default = storage(Tiers::Bucket { bucket, spool }, helper.clone());
                return Ok(Storages(Arc::new(Shared {
                    default,
                    dirs: StoreDirs::default(),
                    of_registries: Vec::new(),
                    stores: None,
                })));
            }
        };
        let bucket = settings.map(open_bucket).transpose()?;
        let identity = bucket.as_ref().map(|bucket| bucket.store().identity());
        let stores = Stores::open(bounds, root, dirs.clone(), &registries, identity.as_ref())?;
        let tiers = |fs: &Arc<FsStore>| match &bucket {
            None => Tiers::Local(fs.clone()),
            Some(bucket) => Tiers::Both {
                fs: fs.clone(),
                bucket: bucket.clone(),
            },
        };
        // The lookups on an unresponsive disk must not take the threads of the others.
        let own_helper = || helper.with_lookups(REGISTRY_STORE_LOOKUPS_MAX);
        let of_registries = stores.iter().skip(1);
        Ok(Storages(Arc::new(Shared {
            default: storage(tiers(stores.default_store()), helper.clone()),
            of_registries: of_registries.map(|fs| storage(tiers(fs), own_helper())).collect(),
            dirs,
            stores: Some(stores),
        })))
    }

    /// The parties that hold shares of the disks and the bucket.
    pub fn parties(&self) -> &Parties {
        &self.0.default.0.parties
    }

    /// Returns the storage of a registry. Without `cache_dir` in the configuration, costs one comparison.
    pub fn of(&self, namespace: &Namespace) -> &Storage {
        match self.0.dirs.place_of(namespace) {
            None => &self.0.default,
            Some(place) => &self.0.of_registries[place],
        }
    }

    /// Returns the number of the storage of a registry.
    pub fn number_of(&self, namespace: &Namespace) -> StoreNumber {
        let place = self.0.dirs.place_of(namespace);
        StoreNumber(place.map_or(0, |place| place + 1))
    }

    /// Returns all storages, the default storage first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Storage> {
        std::iter::once(&self.0.default).chain(&self.0.of_registries)
    }

    /// Runs the heartbeat of the default store in `health`. The store of a registry has no effect on the
    /// health of the process.
    pub fn run_heartbeat(&self, health: &Health) {
        self.0.default.run_heartbeat(health);
    }

    /// Returns whether the last lookup in the default store was answered in time.
    pub fn is_answering(&self) -> bool {
        self.0.default.is_answering()
    }

    /// Reports a use of content that a core holds in memory or open. A store without the content
    /// ignores the report. Never waits.
    pub fn report_use(&self, digest: DigestPrefix) {
        for storage in self.iter() {
            storage.report_use(digest);
        }
    }

    /// Returns the removals of all local stores, if any.
    pub fn removals(&self) -> Option<Removals> {
        self.0.default.removals()
    }

    /// Schedules the verification of a local file that could not be read to the end, in every store
    /// with the entry. A damaged entry is removed.
    pub fn verify_file(&self, key: &Key) {
        for storage in self.iter() {
            storage.verify_file(key.clone());
        }
    }

    /// Returns the content of each registry in the local stores, like [`Stores::registry_contents`].
    /// Blocks.
    pub fn registry_contents(&self, also: &BTreeSet<Namespace>) -> Vec<RegistryContent> {
        let stores = self.0.stores.as_ref();
        stores.map_or_else(Vec::new, |stores| stores.registry_contents(also))
    }

    /// Returns the bucket, for the metrics. `None` without a bucket.
    pub fn bucket_store(&self) -> Option<S3Store> {
        self.0.default.bucket().map(|bucket| bucket.store().clone())
    }

    /// Returns the stores of this machine, for the operations of operators.
    pub fn local_stores(&self) -> Option<Stores> {
        self.0.stores.clone()
    }
}
