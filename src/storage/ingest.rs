//! Files for content that is being received. A file becomes an entry of the local store, or waits
//! for the upload in the spool.

use std::sync::Arc;

use super::upload_job::SpooledBlob;
use super::upload_job::UploadJob;
use super::{Key, Meta, Room, Storage, StoredEntry, Tiers, Verified};
use crate::fairness::Lease;
use crate::oci::Namespace;
use crate::runtime::helper::blocking;
use crate::shared_file::SharedFile;
use crate::store::{Ingest, Spooled, StoreError};

/// The file of a fill in progress.
pub struct StorageIngest(Target);

enum Target {
    Local(Ingest),
    Spool(Spooled),
}

/// A failed commit, with the share of the disk that the file still uses.
pub struct NotCommitted(pub Option<Lease>);

impl Storage {
    /// Returns the number of bytes for which the disk has room, or can make room by evictions.
    pub fn free_room(&self) -> u64 {
        match &self.0.tiers {
            Tiers::Local(fs) | Tiers::Both { fs, .. } => fs.free_room(),
            Tiers::Bucket { spool, .. } => spool.free_room(),
        }
    }

    /// Begins to receive `key` from the registry `source`. Reserves no room yet. Blocks.
    ///
    /// # Errors
    ///
    /// The disk has no room for `size`, is read-only, or fails. The caller continues without the
    /// disk.
    pub fn begin(
        &self,
        key: &Key,
        source: &Namespace,
        size: Option<u64>,
    ) -> Result<StorageIngest, StoreError> {
        let target = match &self.0.tiers {
            Tiers::Local(fs) | Tiers::Both { fs, .. } => {
                fs.ingest(key, Some(source), size).map(Target::Local)
            }
            Tiers::Bucket { spool, .. } => spool.begin(size).map(Target::Spool),
        };
        target.map(StorageIngest)
    }

    /// Makes verified content from the registry `namespace` an entry, and schedules its upload
    /// unless `is_replicated`. Lookups find the entry afterwards. `lease` is the file's share of
    /// the disk. A file in the spool keeps the lease until the spool no longer has the file. Call
    /// on the helper pool.
    ///
    /// # Errors
    ///
    /// The disk failed, which is recorded.
    pub async fn commit(
        &self,
        namespace: &Namespace,
        ingest: StorageIngest,
        verified: Verified,
        meta: Meta,
        is_replicated: bool,
        lease: Option<Lease>,
    ) -> Result<(), NotCommitted> {
        match ingest.0 {
            Target::Local(ingest) => {
                let key = ingest.key().clone();
                let verified = self.commit_local(ingest, verified, meta).await;
                let Some(verified) = verified else {
                    return Err(NotCommitted(lease));
                };
                self.mark_replicated(&key);
                if is_replicated {
                    self.set_in_bucket(&key, true).await;
                } else {
                    let verified = Some(verified);
                    self.upload(namespace, UploadJob::Local { key, verified });
                }
            }
            Target::Spool(spooled) => {
                let entry = StoredEntry {
                    file: spooled.file().clone(),
                    meta: Arc::new(meta),
                };
                let blob = SpooledBlob::new(self, entry, spooled.room().clone(), lease);
                self.upload(namespace, UploadJob::Spooled { blob, verified });
            }
        }
        Ok(())
    }

    async fn commit_local(&self, ingest: Ingest, verified: Verified, meta: Meta) -> Option<Verified> {
        let store = self.local()?.clone();
        match blocking(move || store.commit(ingest, &verified, meta).map(|()| verified)).await {
            Ok(Ok(verified)) => Some(verified),
            Ok(Err(error)) => {
                self.record_write_failure(&error);
                None
            }
            Err(_) => None,
        }
    }
}

impl Storage {
    /// Reserves room for the first `end` bytes of `ingest`, so that a full disk is noticed before
    /// the write. Evicts content of the local store that is in the way. Blocks.
    ///
    /// # Errors
    ///
    /// The disk has too little room. The caller should drop the ingest.
    pub fn reserve(&self, ingest: &mut StorageIngest, end: u64) -> Result<(), StoreError> {
        match (&mut ingest.0, self.local()) {
            (Target::Local(ingest), Some(store)) => store.reserve(ingest, end),
            (Target::Spool(spooled), _) => spooled.reserve_to(end),
            (Target::Local(_), None) => unreachable!("a local ingest has a local store"),
        }
    }
}

impl StorageIngest {
    /// Returns the number of bytes for which room is reserved.
    pub fn reserved(&self) -> u64 {
        match &self.0 {
            Target::Local(ingest) => ingest.reserved(),
            Target::Spool(spooled) => spooled.reserved(),
        }
    }

    /// Returns the file, from which written bytes can be read.
    pub fn file(&self) -> &SharedFile {
        match &self.0 {
            Target::Local(ingest) => ingest.file(),
            Target::Spool(spooled) => spooled.file(),
        }
    }

    /// Returns the room of the file in the spool. The caller must keep the room as long as the
    /// file.
    pub fn room(&self) -> Option<&Arc<Room>> {
        match &self.0 {
            Target::Local(_) => None,
            Target::Spool(spooled) => Some(spooled.room()),
        }
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// The disk failed. The caller should drop the ingest.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        match &self.0 {
            Target::Local(ingest) => ingest.write_at(bytes, offset),
            Target::Spool(spooled) => spooled.write_at(bytes, offset),
        }
    }
}
