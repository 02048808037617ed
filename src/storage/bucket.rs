//! The bucket tier. Requests have a deadline, pause while the bucket is failing, and skip
//! quarantined content.
//!
//! Not here: lookups and reads ([`super::bucket_read`]), uploads ([`super::upload_queue`]), and the
//! S3 protocol (`store`).

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::records::RecordWriters;
use super::{Key, Meta, Storage};
use crate::fairness::{Lease, Party, SharedLedger};
use crate::limits::{
    BUCKET_LOOKUP_TIMEOUT, BUCKET_STALL_COOLDOWN, QUARANTINE_TIME, QUARANTINED_MAX, S3_READS_WEIGHT,
};
use crate::oci::Digest;
use crate::runtime::clock::monotonic_micros;
use crate::runtime::single_flight::SingleFlight;
use crate::store::{S3Error, S3Store};
use crate::sync::Mutex;

pub(super) struct Bucket {
    store: S3Store,
    /// Whether clients may be redirected to the bucket.
    pub redirect: bool,
    /// Microseconds of the monotonic clock before which the bucket gets no lookups.
    unreadable_until: AtomicU64,
    /// Content that did not match the digest, with the end of the quarantine.
    quarantined: Mutex<HashMap<Digest, u64>>,
    /// Held during a verification, so that a new upload is not removed as the damaged entry.
    verifying: tokio::sync::Mutex<()>,
    /// The number of open bodies of each registry.
    reads: SharedLedger,
    pub record_writers: RecordWriters,
    pub lookups: SingleFlight<Key, Option<Arc<Meta>>>,
    pub whole_reads: SingleFlight<Digest, Option<Bytes>>,
}

impl Bucket {
    pub fn new(store: S3Store, redirect: bool) -> Self {
        Bucket {
            store,
            redirect,
            unreadable_until: AtomicU64::new(0),
            quarantined: Mutex::default(),
            verifying: tokio::sync::Mutex::default(),
            reads: SharedLedger::default(),
            record_writers: RecordWriters::default(),
            lookups: SingleFlight::default(),
            whole_reads: SingleFlight::default(),
        }
    }

    /// The engine, with its own circuit breaker.
    pub fn store(&self) -> &S3Store {
        &self.store
    }

    /// Reserves one more open body of a registry; `None` if the share of the registry is exhausted.
    pub fn reserve_read(&self, party: &Party) -> Option<Lease> {
        let mut lease = self.reads.lease(party);
        let free = self.store.free_reads() as u64;
        lease.grow_to(1, free, S3_READS_WEIGHT).then_some(lease)
    }

    /// Returns whether a lookup of `digest` in the bucket is useful.
    pub fn may_have(&self, digest: &Digest) -> bool {
        self.is_readable(monotonic_micros()) && !self.is_quarantined(digest)
    }

    /// Returns whether the content of `digest` in the bucket was recently wrong.
    pub fn is_quarantined(&self, digest: &Digest) -> bool {
        let until = self.quarantined.lock().get(digest).copied();
        until.is_some_and(|until| monotonic_micros() < until)
    }

    fn is_readable(&self, now: u64) -> bool {
        self.store.is_available() && self.unreadable_until.load(Ordering::Relaxed) <= now
    }

    /// Returns the result of `request` within `limit`. After a timeout the bucket gets no requests
    /// for a while, and `request` continues in the background. Call on the helper pool.
    pub async fn within_deadline<T: Send + 'static>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, S3Error>> + Send + 'static,
    ) -> Option<T> {
        if !self.is_readable(monotonic_micros()) {
            return None;
        }
        match tokio::time::timeout(limit, tokio::spawn(request)).await {
            Ok(Ok(Ok(found))) => Some(found),
            // The store logs a failure once.
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "bucket request failed");
                None
            }
            Ok(Err(_)) => None,
            Err(_) => {
                if !self.store.is_adopting() {
                    self.record_stall();
                }
                None
            }
        }
    }

    /// Records a timeout, and logs it once per pause.
    fn record_stall(&self) {
        let now = monotonic_micros();
        let pause = BUCKET_STALL_COOLDOWN;
        let until = now + u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        if self.unreadable_until.swap(until, Ordering::Relaxed) <= now {
            tracing::warn!(retry_s = pause.as_secs(), "bucket lookups suspended");
        }
    }

    /// Quarantines content that did not match the digest. The bucket is no source of the content
    /// until the quarantine ends.
    fn quarantine(&self, digest: Digest) {
        let now = monotonic_micros();
        let until = now + u64::try_from(QUARANTINE_TIME.as_micros()).unwrap_or(u64::MAX);
        let mut quarantined = self.quarantined.lock();
        if quarantined.len() >= QUARANTINED_MAX {
            quarantined.retain(|_, until| now < *until);
        }
        if quarantined.len() < QUARANTINED_MAX {
            quarantined.insert(digest, until);
        }
    }
}

impl Storage {
    /// Hashes an entry of the bucket again, one entry at a time. A damaged entry is removed.
    pub(super) async fn verify_in_bucket(&self, key: &Key) {
        if let Some(bucket) = self.bucket() {
            let _turn = bucket.verifying.lock().await;
            bucket.store.verify(key).await;
        }
    }

    /// Quarantines an entry of the bucket, and schedules its verification in the background.
    pub(super) fn quarantine_in_bucket(&self, key: &Key) {
        let Some(bucket) = self.bucket() else {
            return;
        };
        tracing::warn!(digest = %key.digest(), "bucket content does not match its digest");
        bucket.quarantine(*key.digest());
        let (storage, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            storage.set_in_bucket(&key, false).await;
            storage.verify_in_bucket(&key).await;
            // The verification may have removed an entry that the local store has.
            storage.replicate_again(&key);
        });
    }

    /// Removes an invalid entry of the bucket, before the upload of the replacement. If the bucket
    /// is too slow, the next pull removes the entry.
    pub(super) async fn discard_in_bucket(&self, key: &Key, seen: &Meta, why: &str) {
        let Some(bucket) = self.bucket() else {
            return;
        };
        let (store, key, seen, why) = (bucket.store.clone(), key.clone(), seen.clone(), why.to_owned());
        let discarding = async move {
            store.discard(&key, &seen, &why).await;
            Ok(())
        };
        bucket.within_deadline(BUCKET_LOOKUP_TIMEOUT, discarding).await;
    }
}
