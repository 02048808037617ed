//! An upload to the bucket, with the content to upload.

use std::any::Any;
use std::sync::Arc;

use super::{Key, Room, SmallEntry, Storage, StoredEntry, TagKey, TagPointer, Verified};
use crate::fairness::Lease;
use crate::runtime::helper::blocking;
use crate::store::{Content, S3Error, S3Store};

pub(super) enum UploadJob {
    /// An entry of the local store. Without `verified` the bucket may have the entry already. The
    /// entry is hashed before an upload.
    Local {
        key: Key,
        verified: Option<Verified>,
    },
    Spooled {
        blob: SpooledBlob,
        verified: Verified,
    },
    /// An entry in memory.
    Small {
        entry: Box<SmallEntry>,
        /// Dropped when the upload ends.
        _until_stored: Box<dyn Any + Send>,
    },
    Tag {
        tag: TagKey,
        pointer: TagPointer,
    },
}

/// A blob that is served from the spool until the drop.
pub(super) struct SpooledBlob {
    storage: Storage,
    entry: StoredEntry,
    /// The blob's share of the spool.
    _lease: Option<Lease>,
}

impl SpooledBlob {
    /// Makes lookups find verified content of the spool.
    pub fn new(storage: &Storage, entry: StoredEntry, room: Arc<Room>, lease: Option<Lease>) -> Self {
        storage
            .0
            .uploads
            .spooled()
            .insert(entry.meta.digest, (entry.clone(), room));
        SpooledBlob {
            storage: storage.clone(),
            entry,
            _lease: lease,
        }
    }
}

impl Drop for SpooledBlob {
    fn drop(&mut self) {
        let mut spooled = self.storage.0.uploads.spooled();
        let digest = &self.entry.meta.digest;
        // A later fill may have replaced the entry with its own file.
        if spooled
            .get(digest)
            .is_some_and(|(entry, _)| entry.file.is_clone_of(&self.entry.file))
        {
            spooled.remove(digest);
        }
    }
}

impl UploadJob {
    /// Returns the bytes of memory that the job holds, without names.
    pub fn memory(&self) -> u64 {
        match self {
            UploadJob::Small { entry, .. } => entry.body.len() as u64,
            _ => 0,
        }
    }

    /// Returns whether the job waits indefinitely for the bucket. A waiting job costs only the
    /// memory of the name.
    pub fn waits_for_bucket(&self) -> bool {
        matches!(self, UploadJob::Local { .. })
    }

    /// Sends the content to the bucket.
    ///
    /// # Errors
    ///
    /// The request failed. The job can be sent again.
    pub async fn send(&mut self, storage: &Storage, store: &S3Store) -> Result<(), S3Error> {
        let quarantined = |key: &Key| {
            let bucket = storage.bucket();
            bucket.is_some_and(|bucket| bucket.is_quarantined(key.digest()))
        };
        if let Some(key) = self.key().filter(quarantined) {
            // A damaged entry stays in the bucket until it is removed, so the verification comes
            // before the upload.
            storage.verify_in_bucket(&key).await;
        }
        match self {
            UploadJob::Local { key, verified } => send_local(storage, store, key, verified).await,
            UploadJob::Spooled { blob, verified } => {
                let StoredEntry { file, meta } = blob.entry.clone();
                let key = Key::Blob(meta.digest);
                store.put(&key, Content::File(file), verified, &meta).await
            }
            UploadJob::Small { entry, .. } => {
                let SmallEntry {
                    key,
                    body,
                    meta,
                    verified,
                } = &**entry;
                store.put(key, Content::Bytes(body.clone()), verified, meta).await
            }
            UploadJob::Tag { tag, pointer } => {
                let TagKey { origin, tag, class } = &*tag;
                store
                    .put_tag(&origin.namespace, &origin.repository, tag, class, pointer)
                    .await
            }
        }
    }

    fn key(&self) -> Option<Key> {
        match self {
            UploadJob::Local { key, .. } => Some(key.clone()),
            UploadJob::Small { entry, .. } => Some(entry.key.clone()),
            UploadJob::Spooled { blob, .. } => Some(Key::Blob(blob.entry.meta.digest)),
            UploadJob::Tag { .. } => None,
        }
    }
}

/// Sends an entry of the local store. An entry that cannot be read, or no longer exists, is
/// skipped.
async fn send_local(
    storage: &Storage,
    store: &S3Store,
    key: &Key,
    verified: &mut Option<Verified>,
) -> Result<(), S3Error> {
    if verified.is_none() && store.find(key).await?.is_some() {
        storage.set_in_bucket(key, true).await;
        return Ok(());
    }
    let Some(fs) = storage.local().cloned() else {
        return Ok(());
    };
    let (wanted, hashed) = (key.clone(), verified.is_some());
    let found = blocking(move || {
        if hashed {
            fs.find(&wanted).map(|entry| entry.map(|entry| (entry, None)))
        } else {
            let sound = fs.find_sound(&wanted);
            sound.map(|found| found.map(|(entry, verified)| (entry, Some(verified))))
        }
    });
    let Ok(Ok(Some((entry, checked)))) = found.await else {
        return Ok(());
    };
    if checked.is_some() {
        *verified = checked;
    }
    let Some(verified) = verified else { return Ok(()) };
    store
        .put(key, Content::File(entry.file), verified, &entry.meta)
        .await?;
    storage.set_in_bucket(key, true).await;
    Ok(())
}
