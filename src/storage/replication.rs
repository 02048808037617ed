//! Uploads entries of the local store that the bucket lacks.

use super::upload_job::UploadJob;
use super::{Key, Storage};
use crate::fairness::Party;
use crate::limits::{REPLICATION_CHECKS_MAX, UPLOADS_QUEUED_MAX};
use crate::runtime::helper::blocking;

/// The party of blobs that the bucket may have already. No registry has this name, because all
/// registries share blobs.
const SHARED_BLOBS: &str = "";

impl Storage {
    /// Schedules the upload of an entry of the local store, if the bucket lacks the entry. The end
    /// of an earlier process may have interrupted an upload. The bucket is checked once per process
    /// and entry.
    pub fn ensure_replicated(&self, key: &Key) {
        if self.bucket().is_none() {
            return;
        }
        {
            let mut queue = self.0.uploads.queue();
            // Uploads of new content go first.
            if queue.waiting() >= UPLOADS_QUEUED_MAX / 2 {
                return;
            }
            if queue.checked.len() >= REPLICATION_CHECKS_MAX {
                // Each repeated check costs one request.
                queue.checked.clear();
            }
            if !queue.checked.insert(key.clone()) {
                return;
            }
        }
        self.queue_replication(key.clone());
    }

    /// Schedules the upload like [`Storage::ensure_replicated`], also for an entry that was checked
    /// before.
    pub(super) fn replicate_again(&self, key: &Key) {
        self.0.uploads.queue().checked.remove(key);
        if self.local().is_some() {
            self.ensure_replicated(key);
        }
    }

    /// Marks an entry of the local store as replicated. The bucket has the entry, or the caller
    /// schedules the upload next.
    pub(super) fn mark_replicated(&self, key: &Key) {
        let mut queue = self.0.uploads.queue();
        if queue.checked.len() < REPLICATION_CHECKS_MAX {
            queue.checked.insert(key.clone());
        }
    }

    /// Records for evictions whether the bucket has an entry of the local store. The next use of an entry
    /// of an earlier process checks the bucket.
    pub(super) async fn set_in_bucket(&self, key: &Key, is_in_bucket: bool) {
        if let Some(store) = self.local().cloned() {
            let key = key.clone();
            // The record only speeds up later pulls.
            let _ = blocking(move || store.set_in_bucket(&key, is_in_bucket)).await;
        }
    }

    pub(super) fn queue_replication(&self, key: Key) {
        let party = match &key {
            Key::Manifest { namespace, .. } => self.0.parties.of(namespace),
            Key::Blob(_) => Party::Named(SHARED_BLOBS.into()),
        };
        self.queue_upload(party, UploadJob::Local { key, verified: None });
    }
}
