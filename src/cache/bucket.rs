//! The shared store as the cache uses it. Requests have a deadline, pause while the bucket is failing, and skip quarantined
//! content.
//!
//! Not here: uploads ([`super::upload_queue`]), and the requests of the S3 protocol (`store`).

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::body_channel::{BodyReceiver, ForwardOutcome, body_channel};
use super::records::Changes;
use super::shares::{Lease, Party, SharedLedger};
use super::{Cache, Shared};
use crate::cache::access::Caller;
use crate::cache::fill::source::BlobSource;
use crate::http::Span;
use crate::limits::{
    BODY_CHANNEL_BYTES_MAX, BUCKET_LOOKUP_TIMEOUT, BUCKET_OPEN_TIMEOUT, BUCKET_STALL_COOLDOWN,
    BUCKET_URL_TTL, HELD_WHOLE_BYTES_MAX, MEMORY_OBJECT_BYTES_MAX, QUARANTINE_TIME, QUARANTINED_MAX,
    RECORD_WRITERS, RECORD_WRITES_WAITING_MAX, S3_READS_WEIGHT,
};
use crate::oci::{Digest, Hasher, Namespace, Origin};
use crate::runtime::clock::monotonic_micros;
use crate::runtime::memory_budget::Charge;
use crate::runtime::single_flight::SingleFlight;
use crate::store::{Key, Meta, S3Error, S3Store};

/// A bucket and its state in this process.
pub struct Bucket {
    store: S3Store,
    /// Whether clients may be sent there.
    pub redirect: bool,
    /// Time before which nothing is looked up, by the monotonic clock.
    unreadable_until: AtomicU64,
    /// Content that did not match its digest, with the end of its quarantine.
    quarantined: Mutex<HashMap<Digest, u64>>,
    /// Held while an entry is hashed again: one that has been put since must not be taken for the one that was wrong.
    rechecking: tokio::sync::Mutex<()>,
    /// How many bodies are open for each registry.
    reads: SharedLedger,
    writers: [RecordWriter; RECORD_WRITERS],
    lookups: SingleFlight<Key, Option<Arc<Meta>>>,
    wholes: SingleFlight<Digest, Option<Bytes>>,
}

/// Writes the records of some registries, one change after the other.
struct RecordWriter {
    turn: Arc<tokio::sync::Mutex<()>>,
    permits: Arc<Semaphore>,
}

impl Default for RecordWriter {
    fn default() -> Self {
        RecordWriter {
            turn: Arc::default(),
            permits: Arc::new(Semaphore::new(RECORD_WRITES_WAITING_MAX)),
        }
    }
}

impl Bucket {
    pub fn new(store: S3Store, redirect: bool) -> Self {
        Bucket {
            store,
            redirect,
            unreadable_until: AtomicU64::new(0),
            quarantined: Mutex::default(),
            rechecking: tokio::sync::Mutex::default(),
            reads: SharedLedger::default(),
            writers: Default::default(),
            lookups: SingleFlight::default(),
            wholes: SingleFlight::default(),
        }
    }

    /// The engine, with its own circuit breaker.
    pub(super) fn store(&self) -> &S3Store {
        &self.store
    }

    /// Reserves one more open body of a registry; `None` when the share of the registry is exhausted.
    pub(super) fn reserve_read(&self, party: &Party) -> Option<Lease> {
        let mut lease = self.reads.lease(party);
        let free = self.store.free_reads() as u64;
        lease.grow_to(1, free, S3_READS_WEIGHT).then_some(lease)
    }

    fn writer_for(&self, namespace: &Namespace) -> &RecordWriter {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        &self.writers[(hasher.finish() % RECORD_WRITERS as u64) as usize]
    }

    /// Whether every change of a record was written or dropped.
    #[cfg(test)]
    pub fn has_written_records(&self) -> bool {
        let idle = |writer: &RecordWriter| writer.permits.available_permits() == RECORD_WRITES_WAITING_MAX;
        self.writers.iter().all(idle)
    }

    /// Whether `digest` should be looked for there.
    fn may_have(&self, digest: &Digest) -> bool {
        self.is_readable(monotonic_micros()) && !self.is_quarantined(digest)
    }

    /// Whether `digest` came wrong from there lately.
    pub(super) fn is_quarantined(&self, digest: &Digest) -> bool {
        let until = self.quarantined().get(digest).copied();
        until.is_some_and(|until| monotonic_micros() < until)
    }

    fn is_readable(&self, now: u64) -> bool {
        self.store.is_available() && self.unreadable_until.load(Ordering::Relaxed) <= now
    }

    /// The result of `request` within `limit`. After a timeout the bucket gets no requests for a while, and the work
    /// goes on. On the helper pool.
    pub(super) async fn within_deadline<T: Send + 'static>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, S3Error>> + Send + 'static,
    ) -> Option<T> {
        if !self.is_readable(monotonic_micros()) {
            return None;
        }
        match tokio::time::timeout(limit, tokio::spawn(request)).await {
            Ok(Ok(Ok(found))) => Some(found),
            // The store has logged the failure once.
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "the bucket gave no answer; treating it as a miss");
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

    /// Records an answer that took too long, and logs it once per pause.
    fn record_stall(&self) {
        let now = monotonic_micros();
        let pause = BUCKET_STALL_COOLDOWN;
        let until = now + u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        if self.unreadable_until.swap(until, Ordering::Relaxed) <= now {
            tracing::warn!(
                pause_s = pause.as_secs(),
                "the bucket does not answer in time; lookups are misses for a while"
            );
        }
    }

    /// Quarantines content that did not match its digest: the bucket is no source for it until it was hashed again.
    fn quarantine(&self, digest: Digest) {
        let now = monotonic_micros();
        let until = now + u64::try_from(QUARANTINE_TIME.as_micros()).unwrap_or(u64::MAX);
        let mut quarantined = self.quarantined();
        if quarantined.len() >= QUARANTINED_MAX {
            quarantined.retain(|_, until| now < *until);
        }
        if quarantined.len() < QUARANTINED_MAX {
            quarantined.insert(digest, until);
        }
    }

    fn quarantined(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, u64>> {
        self.quarantined.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that are counted.
struct Charged {
    bytes: Bytes,
    _memory: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Cache {
    /// Whether blobs are streamed from a bucket, there being no local store to fill from it.
    pub fn is_bucket_only(&self) -> bool {
        self.0.storage.local().is_none()
    }

    /// Returns the metadata of `key` in the bucket, in one shared lookup for concurrent callers. A bucket that fails or takes
    /// longer than [`BUCKET_LOOKUP_TIMEOUT`] has nothing.
    pub async fn find_in_bucket(&self, key: Key) -> Option<Arc<Meta>> {
        let bucket = self.0.storage.bucket()?;
        if !bucket.may_have(key.digest()) {
            return None;
        }
        let shared = self.0.clone();
        let lookup = bucket
            .lookups
            .join(&self.0.helper, key, move |completer| async move {
                let key = completer.key();
                completer.complete(shared.look_in_bucket(key).await);
            });
        lookup.await.0.ok().flatten()
    }

    /// A blob of at most [`HELD_WHOLE_BYTES_MAX`], whole and right, or `None`; also when there is no memory for it.
    pub async fn take_from_bucket(&self, meta: &Arc<Meta>) -> Option<Bytes> {
        let bucket = self.0.storage.bucket()?;
        if meta.size > HELD_WHOLE_BYTES_MAX {
            return None;
        }
        let (shared, meta) = (self.0.clone(), meta.clone());
        let taking = bucket
            .wholes
            .join(&self.0.helper, meta.digest, move |completer| async move {
                completer.complete(shared.take_from_bucket(&meta).await);
            });
        taking.await.0.ok().flatten()
    }

    /// The bytes of a blob on their way to one client: all of them, checked at their end, or a part, which cannot be.
    /// When the bucket breaks off, the rest is requested from the registry of `origin` on behalf of `caller`. `None` when the
    /// bucket does not begin, or there is no memory for it.
    pub async fn stream_from_bucket(
        &self,
        origin: &Origin,
        caller: &Caller,
        meta: &Arc<Meta>,
        span: Span,
    ) -> Option<BodyReceiver> {
        let (sender, receiver) = body_channel();
        let (shared, origin, caller, meta) = (self.0.clone(), origin.clone(), caller.clone(), meta.clone());
        let started = self.0.helper.ask(async move {
            sender.charge(shared.memory_for(&origin.namespace, BODY_CHANNEL_BYTES_MAX as u64)?);
            let source = BlobSource::from_bucket(&shared, &origin, &caller, &meta, span).await?;
            let whole = span.start == 0 && span.end == meta.size;
            tokio::spawn(async move {
                let digest = meta.digest;
                if sender.forward(source, whole.then_some(digest)).await == ForwardOutcome::Wrong {
                    shared.verify_bucket_later(&Key::Blob(digest));
                }
            });
            Some(())
        });
        started.await.ok().flatten().map(|()| receiver)
    }

    /// Where a client gets a blob from the bucket by itself, for at most [`BUCKET_URL_TTL`]. A secret.
    pub async fn url_in_bucket(&self, digest: Digest) -> Option<String> {
        let bucket = self.0.storage.bucket().filter(|bucket| bucket.redirect)?;
        let store = bucket.store.clone();
        let signing = async move { store.presign(&Key::Blob(digest), BUCKET_URL_TTL).await };
        self.0.helper.ask(signing).await.ok()?.ok()
    }
}

impl Shared {
    /// Writes to the bucket what an answer about referrers changes, in the background.
    pub(super) fn share_records(self: &Arc<Self>, origin: &Origin, changes: &Changes) {
        let Some(bucket) = self.storage.bucket().filter(|bucket| bucket.store.is_available()) else {
            return;
        };
        let writer = bucket.writer_for(&origin.namespace);
        let permit = writer.permits.clone().try_acquire_owned().ok();
        let memory = self.memory.take(changes.bytes());
        let (Some(permit), Some(memory)) = (permit, memory) else {
            tracing::debug!(
                "too many records of referrers are on their way to the bucket; one is not kept there"
            );
            return;
        };
        let (shared, turn) = (self.clone(), writer.turn.clone());
        let (store, origin, changes) = (bucket.store.clone(), origin.clone(), changes.clone());
        tokio::spawn(async move {
            let _counted = (permit, memory);
            let _turn = turn.lock().await;
            if let Err(error) = shared.write_shared_records(&store, &origin, &changes).await {
                tracing::debug!(%error, "a record of referrers is not kept in the bucket");
            }
        });
    }

    /// What the bucket has under `key`, within a bounded time.
    pub(super) async fn look_in_bucket(&self, key: &Key) -> Option<Arc<Meta>> {
        let bucket = self.storage.bucket()?;
        if !bucket.may_have(key.digest()) {
            return None;
        }
        let (store, key) = (bucket.store.clone(), key.clone());
        let finding = async move { store.find(&key).await };
        bucket.within_deadline(BUCKET_LOOKUP_TIMEOUT, finding).await?
    }

    /// A blob whole and right, its bytes counted for as long as anybody has them, but those that any response may take.
    async fn take_from_bucket(self: &Arc<Self>, meta: &Meta) -> Option<Bytes> {
        let key = Key::Blob(meta.digest);
        if meta.size <= MEMORY_OBJECT_BYTES_MAX {
            return self.read_from_bucket(&key, meta).await;
        }
        let memory = self.memory.take(meta.size)?;
        let bytes = self.read_from_bucket(&key, meta).await?;
        Some(Bytes::from_owner(Charged {
            bytes,
            _memory: memory,
        }))
    }

    /// An entry's bytes, whole and right; for small ones.
    pub(super) async fn read_from_bucket(self: &Arc<Self>, key: &Key, meta: &Meta) -> Option<Bytes> {
        let bucket = self.storage.bucket()?;
        let (store, wanted, meta) = (bucket.store.clone(), key.clone(), meta.clone());
        let (digest, size) = (meta.digest, meta.size);
        let reading = async move {
            let mut body = store.read(&wanted, &meta, 0, meta.size).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = body.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(bytes))
        };
        let bytes: Bytes = if size == 0 {
            Bytes::new()
        } else {
            bucket.within_deadline(BUCKET_OPEN_TIMEOUT, reading).await?
        };
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() == digest {
            return Some(bytes);
        }
        self.verify_bucket_later(key);
        None
    }

    /// Hashes an entry of the bucket again and removes it unless it is right; one at a time.
    pub(super) async fn recheck_bucket(&self, key: &Key) {
        if let Some(bucket) = self.storage.bucket() {
            let _turn = bucket.rechecking.lock().await;
            bucket.store.verify(key).await;
        }
    }

    /// Removes an entry of the bucket that is not of its kind, before its replacement is uploaded. When the bucket is too slow for
    /// that, the next pull removes the entry.
    pub(super) async fn discard_in_bucket(&self, key: &Key, seen: &Meta, why: &str) {
        let Some(bucket) = self.storage.bucket() else {
            return;
        };
        let (store, key, seen, why) = (bucket.store.clone(), key.clone(), seen.clone(), why.to_owned());
        let discarding = async move {
            store.discard(&key, &seen, &why).await;
            Ok(())
        };
        bucket.within_deadline(BUCKET_LOOKUP_TIMEOUT, discarding).await;
    }

    /// Quarantines an entry of the bucket, and schedules its verification in the background.
    pub(super) fn verify_bucket_later(self: &Arc<Self>, key: &Key) {
        let Some(bucket) = self.storage.bucket() else {
            return;
        };
        tracing::warn!(digest = %key.digest(), "content from the bucket does not match its digest; another source is used");
        bucket.quarantine(*key.digest());
        let (shared, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            shared.recheck_bucket(&key).await;
            // It may be here by now, and gone from there.
            shared.recheck_replica(&key);
        });
    }
}
