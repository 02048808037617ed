//! The verification of a stored blob before its first response after a start, with
//! `VERIFY_ON_OPEN=first`. Concurrent requests share one hash. Later requests cost nothing, because
//! the open file of a core is verified.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Key, Storage};
use crate::limits::{FIRST_HASH_RATE_MIN, FIRST_HASH_TIMEOUT, FIRST_HASHES_MAX};
use crate::runtime::helper::blocking;
use crate::runtime::single_flight::SingleFlight;
use crate::store::{ReadPages, Verification, VerifyOptions};

/// The hashes in progress.
pub(super) struct FirstHashes {
    calls: SingleFlight<Key, bool>,
    threads: Arc<Semaphore>,
}

impl Default for FirstHashes {
    fn default() -> Self {
        FirstHashes {
            calls: SingleFlight::default(),
            threads: Arc::new(Semaphore::new(FIRST_HASHES_MAX)),
        }
    }
}

impl Storage {
    /// Hashes an entry of `size` bytes of the local store. Returns false if the entry is damaged, and
    /// then removed, or if the hash takes too long, and then continues. Call on a core.
    pub(super) async fn passes_first_hash(&self, key: Key, size: u64) -> bool {
        let (Some(store), Some(hashes)) = (self.local().cloned(), &self.0.first_hashes) else {
            return true;
        };
        let threads = hashes.threads.clone();
        let entry = key.clone();
        let work = async move {
            // The semaphore is never closed.
            let Ok(permit) = threads.acquire_owned().await else {
                return false;
            };
            let options = VerifyOptions {
                pages: ReadPages::Kept,
                is_changing: true,
                images_max: 0,
            };
            let verify = move || {
                let verification = store.verify(&entry, options, &mut |_| true);
                drop(permit);
                matches!(verification, Verification::Intact { .. })
            };
            blocking(verify).await.unwrap_or(false)
        };
        let joined = hashes.calls.join(&self.0.helper, key, |completer| async move {
            let limit = FIRST_HASH_TIMEOUT + Duration::from_secs(size / FIRST_HASH_RATE_MIN);
            completer.complete(timeout(limit, work).await.unwrap_or(false));
        });
        joined.await.0.unwrap_or(false)
    }
}
