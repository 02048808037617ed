//! Lookup of blobs in the nearest tier.

use std::sync::Arc;

use bytes::Bytes;

use super::{Key, Meta, Storage, StoredEntry};
use crate::limits::MEMORY_OBJECT_BYTES_MAX;
use crate::oci::Digest;
use crate::store::FsStore;

/// The tiers that a lookup covers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// The disk of this machine.
    Machine,
    Everywhere,
}

pub enum StoredBlob {
    Local(LocalBlob),
    Remote(RemoteBlob),
}

/// A blob on the disk of this machine, opened.
pub struct LocalBlob {
    pub entry: StoredEntry,
    /// The verified content of a blob of at most [`MEMORY_OBJECT_BYTES_MAX`].
    pub small: Option<Bytes>,
    /// Whether the file may stay open. A file in the spool may not, because the file uses room of
    /// the spool.
    pub lasting: bool,
}

/// A blob in the bucket.
#[derive(Clone)]
pub struct RemoteBlob {
    pub(super) storage: Storage,
    pub(super) meta: Arc<Meta>,
}

impl Storage {
    /// Returns a stored blob: committed on this machine, waiting for its upload, or in the bucket.
    /// A tier that fails or stalls is a miss. Call on a core.
    pub async fn find_blob(&self, digest: Digest, within: Within) -> Option<StoredBlob> {
        let key = Key::Blob(digest);
        if let Some(blob) = self.find_local(key.clone()).await {
            return Some(StoredBlob::Local(blob));
        }
        if within == Within::Machine {
            return None;
        }
        let meta = self.find_in_bucket(key).await?;
        let storage = self.clone();
        Some(StoredBlob::Remote(RemoteBlob { storage, meta }))
    }

    /// Returns whether the disk of this machine has a blob. Call on the helper pool.
    pub async fn has_local_blob(&self, digest: &Digest) -> bool {
        let key = Key::Blob(*digest);
        self.0.uploads.find(digest).is_some() || self.look(move |store| find(store, &key)).await.is_some()
    }

    /// Returns whether this machine or the bucket has a blob. Call on the helper pool.
    pub async fn has_blob(&self, digest: &Digest) -> bool {
        self.has_local_blob(digest).await || self.look_in_bucket(&Key::Blob(*digest)).await.is_some()
    }

    async fn find_local(&self, key: Key) -> Option<LocalBlob> {
        let Opened { blob, needs_hash } = self.open_local(key.clone()).await?;
        if !needs_hash {
            return Some(blob);
        }
        if !self.passes_first_hash(key.clone(), blob.entry.meta.size).await {
            return None;
        }
        // The hash may have been of a newer file under the name.
        let Opened { blob, needs_hash } = self.open_local(key).await?;
        (!needs_hash).then_some(blob)
    }

    async fn open_local(&self, key: Key) -> Option<Opened> {
        let look: Box<dyn FnOnce() -> Option<Opened> + Send> = match self.local() {
            Some(_) if !self.is_answering() => return None,
            Some(store) => {
                let (store, storage) = (store.clone(), self.clone());
                Box::new(move || {
                    // Precedes the open, because only verified content replaces a file.
                    let is_trusted = storage.0.first_hashes.is_none() || store.is_verified(&key);
                    let Some(blob) = open(find(&store, &key)?, true) else {
                        store.recheck(&key);
                        return None;
                    };
                    // The maintenance records the use, so that no lookup waits for the lock of the index.
                    storage.report_use(key.digest().prefix());
                    storage.ensure_replicated(&key);
                    let needs_hash = !is_trusted && blob.small.is_none();
                    Some(Opened { blob, needs_hash })
                })
            }
            None => {
                let entry = self.0.uploads.find(key.digest())?;
                Box::new(move || {
                    let blob = open(entry, false)?;
                    let needs_hash = false;
                    Some(Opened { blob, needs_hash })
                })
            }
        };
        let found = self.0.helper.look_up(look).await;
        self.in_time(found)
    }
}

/// A blob that was opened.
struct Opened {
    blob: LocalBlob,
    /// Whether the content must be hashed before its first response.
    needs_hash: bool,
}

/// Reads the content of a small blob. `None` if the read fails, or if the content does not match
/// the digest.
fn open(entry: StoredEntry, lasting: bool) -> Option<LocalBlob> {
    let small = if entry.meta.size <= MEMORY_OBJECT_BYTES_MAX {
        // At most MEMORY_OBJECT_BYTES_MAX, so the size fits into a usize.
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
    Some(LocalBlob {
        entry,
        small,
        lasting,
    })
}

/// Looks up an entry. A store that cannot be read is a miss.
pub(super) fn find(store: &FsStore, key: &Key) -> Option<StoredEntry> {
    store.find(key).unwrap_or_else(|error| {
        tracing::warn!(%error, "store read failed");
        None
    })
}
