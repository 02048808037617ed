//! Where content is kept: a directory, a bucket that machines share, or the one in front of the other.

use std::fs::File;
use std::sync::Arc;

use super::bucket::Bucket;
use crate::config;
use crate::limits::SPOOL_BYTES_MAX;
use crate::runtime::helper::Helper;
use crate::store::{
    FsStore, Ingest, Key, OpenError, Room, S3OpenError, S3Store, SpoolDir, Spooled, StoreError,
};

/// What the operator chose.
pub enum Storage {
    Fs(Arc<FsStore>),
    /// A bucket alone. What is on its way there waits in the spool.
    S3 {
        bucket: Bucket,
        spool: SpoolDir,
    },
    /// A directory in front of a bucket.
    Tiered {
        fs: Arc<FsStore>,
        bucket: Bucket,
    },
}

/// The file of a fill in progress.
pub enum StorageIngest {
    /// It becomes an entry of the local store.
    Local(Ingest),
    /// It goes to the bucket.
    Spooled(Spooled),
}

/// Why the storage cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Fs(#[from] OpenError),
    #[error(transparent)]
    Bucket(#[from] S3OpenError),
    #[error("{0}; choose another directory with SPOOL_DIR")]
    Spool(#[from] StoreError),
}

impl Storage {
    /// Opens what the operator chose. On the main thread: it waits.
    ///
    /// # Errors
    ///
    /// What the operator has to change. A bucket that cannot be reached is none: it may come.
    pub fn open(choice: &config::StorageConfig, helper: &Helper) -> Result<Self, StorageError> {
        let fs = |root| FsStore::open(root).map(Arc::new);
        let bucket = |settings: &config::S3Settings| {
            let store = helper.wait(S3Store::open(settings))?;
            Ok::<_, S3OpenError>(Bucket::new(store, settings.redirect))
        };
        Ok(match choice {
            config::StorageConfig::Fs { root, .. } => Storage::Fs(fs(root)?),
            config::StorageConfig::S3 { s3, spool } => Storage::S3 {
                spool: SpoolDir::open(spool, SPOOL_BYTES_MAX)?,
                bucket: bucket(s3)?,
            },
            // What is on its way to the bucket lies in the local store.
            config::StorageConfig::Tiered { root, s3, .. } => Storage::Tiered {
                fs: fs(root)?,
                bucket: bucket(s3)?,
            },
        })
    }

    /// The local store.
    pub fn local(&self) -> Option<&Arc<FsStore>> {
        match self {
            Storage::Fs(fs) | Storage::Tiered { fs, .. } => Some(fs),
            Storage::S3 { .. } => None,
        }
    }

    /// The shared store.
    pub fn bucket(&self) -> Option<&Bucket> {
        match self {
            Storage::S3 { bucket, .. } | Storage::Tiered { bucket, .. } => Some(bucket),
            Storage::Fs(_) => None,
        }
    }

    /// Bytes for which there is room.
    pub fn free_room(&self) -> u64 {
        match self {
            Storage::Fs(fs) | Storage::Tiered { fs, .. } => fs.free_room(),
            Storage::S3 { spool, .. } => spool.free_room(),
        }
    }

    /// Begins to receive `key`; a `size` for which there is no room is refused, and none is reserved yet.
    ///
    /// # Errors
    ///
    /// Full, read-only or broken: the caller goes on without.
    pub fn begin(&self, key: &Key, size: Option<u64>) -> Result<StorageIngest, StoreError> {
        match self {
            Storage::Fs(fs) | Storage::Tiered { fs, .. } => fs.ingest(key, size).map(StorageIngest::Local),
            Storage::S3 { spool, .. } => spool.begin(size).map(StorageIngest::Spooled),
        }
    }
}

impl StorageIngest {
    /// Bytes for which room is reserved.
    pub fn reserved(&self) -> u64 {
        match self {
            StorageIngest::Local(ingest) => ingest.reserved(),
            StorageIngest::Spooled(spooled) => spooled.reserved(),
        }
    }

    /// Reserves room for `end` bytes, so that a full disk is noticed before they are written.
    ///
    /// # Errors
    ///
    /// There is not that much; the ingest should be dropped.
    pub fn reserve_to(&mut self, end: u64) -> Result<(), StoreError> {
        match self {
            StorageIngest::Local(ingest) => ingest.reserve_to(end),
            StorageIngest::Spooled(spooled) => spooled.reserve_to(end),
        }
    }

    /// The file, to be read below what has been written.
    pub fn file(&self) -> &Arc<File> {
        match self {
            StorageIngest::Local(ingest) => ingest.file(),
            StorageIngest::Spooled(spooled) => spooled.file(),
        }
    }

    /// To be kept as long as the file is.
    pub fn room(&self) -> Option<&Arc<Room>> {
        match self {
            StorageIngest::Local(_) => None,
            StorageIngest::Spooled(spooled) => Some(spooled.room()),
        }
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// The ingest is unusable then and should be dropped.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        match self {
            StorageIngest::Local(ingest) => ingest.write_at(bytes, offset),
            StorageIngest::Spooled(spooled) => spooled.write_at(bytes, offset),
        }
    }
}
