//! The shared store as the cache asks it: for a bounded time, not while it is failing, and not for what it gave wrong.
//!
//! Not here: what goes there ([`super::upload`]), and how it is talked to (`store`).

use std::collections::HashMap;
use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;

use super::flight::Flights;
use super::hose::{Passed, Poured, hose};
use super::records::Changes;
use super::shares::{Lease, Party, SharedLedger};
use super::supply::Supply;
use super::{Cache, Origin, Shared};
use crate::cache::access::Caller;
use crate::http::Span;
use crate::limits::{
    BUCKET_LOOKUP_MAX, BUCKET_LOOKUP_PAUSE, BUCKET_OPEN_MAX, BUCKET_SUSPECT, BUCKET_SUSPECTS_MAX,
    BUCKET_URL_LIFE, HELD_WHOLE_BYTES_MAX, MEMORY_OBJECT_BYTES_MAX, PASS_THROUGH_BYTES_MAX, RECORD_WRITERS,
    RECORD_WRITES_WAITING_MAX, S3_READS_WEIGHT,
};
use crate::oci::{Digest, Hasher, Namespace};
use crate::runtime::clock::monotonic_micros;
use crate::runtime::memory::Charge;
use crate::store::{Key, Meta, S3Error, S3Store};

/// A bucket and what we think of it.
pub struct Bucket {
    store: S3Store,
    /// Whether clients may be sent there.
    pub redirect: bool,
    /// Moment before which nothing is looked up, by the clock that never jumps.
    blind_until: AtomicU64,
    /// Content that came wrong from there, and until when it is not taken from there again.
    suspects: Mutex<HashMap<Digest, u64>>,
    /// Held while an entry is hashed again: one that has been put since must not be taken for the one that was wrong.
    rechecking: tokio::sync::Mutex<()>,
    /// How many bodies are open for each registry.
    reads: SharedLedger,
    writers: [RecordWriter; RECORD_WRITERS],
    lookups: Flights<Key, Option<Arc<Meta>>>,
    wholes: Flights<Digest, Option<Bytes>>,
}

/// Writes the records of some registries, one change after the other.
struct RecordWriter {
    turn: Arc<tokio::sync::Mutex<()>>,
    places: Arc<Semaphore>,
}

impl Default for RecordWriter {
    fn default() -> Self {
        RecordWriter {
            turn: Arc::default(),
            places: Arc::new(Semaphore::new(RECORD_WRITES_WAITING_MAX)),
        }
    }
}

impl Bucket {
    pub fn new(store: S3Store, redirect: bool) -> Self {
        Bucket {
            store,
            redirect,
            blind_until: AtomicU64::new(0),
            suspects: Mutex::default(),
            rechecking: tokio::sync::Mutex::default(),
            reads: SharedLedger::default(),
            writers: Default::default(),
            lookups: Flights::default(),
            wholes: Flights::default(),
        }
    }

    /// The engine. It says itself whether it is worth asking.
    pub(super) fn store(&self) -> &S3Store {
        &self.store
    }

    /// A place for one more open body of a registry; `None` when its share is used up.
    pub(super) fn place_for(&self, party: &Party) -> Option<Lease> {
        let mut place = self.reads.lease(party);
        let free = self.store.free_reads() as u64;
        place.grow_to(1, free, S3_READS_WEIGHT).then_some(place)
    }

    fn writer_for(&self, namespace: &Namespace) -> &RecordWriter {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        &self.writers[(hasher.finish() % RECORD_WRITERS as u64) as usize]
    }

    /// Whether every change of a record was written or dropped.
    #[cfg(test)]
    pub fn has_written_records(&self) -> bool {
        let idle = |writer: &RecordWriter| writer.places.available_permits() == RECORD_WRITES_WAITING_MAX;
        self.writers.iter().all(idle)
    }

    /// Whether `digest` should be looked for there.
    fn may_have(&self, digest: &Digest) -> bool {
        self.is_readable(monotonic_micros()) && !self.is_suspect(digest)
    }

    /// Whether `digest` came wrong from there lately.
    pub(super) fn is_suspect(&self, digest: &Digest) -> bool {
        let until = self.suspects().get(digest).copied();
        until.is_some_and(|until| monotonic_micros() < until)
    }

    fn is_readable(&self, now: u64) -> bool {
        self.store.is_available() && self.blind_until.load(Ordering::Relaxed) <= now
    }

    /// What `ask` gives within `limit`; a bucket that takes longer is not asked again for a while. The work
    /// goes on. On the helper pool.
    pub(super) async fn in_time<T: Send + 'static>(
        &self,
        limit: Duration,
        ask: impl Future<Output = Result<T, S3Error>> + Send + 'static,
    ) -> Option<T> {
        if !self.is_readable(monotonic_micros()) {
            return None;
        }
        match tokio::time::timeout(limit, tokio::spawn(ask)).await {
            Ok(Ok(Ok(found))) => Some(found),
            // The engine has said so, once.
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "the bucket gave no answer; treating it as a miss");
                None
            }
            Ok(Err(_)) => None,
            Err(_) => {
                if !self.store.is_adopting() {
                    self.stalled();
                }
                None
            }
        }
    }

    /// Notes that an answer took too long; says so once per pause.
    fn stalled(&self) {
        let now = monotonic_micros();
        let pause = BUCKET_LOOKUP_PAUSE;
        let until = now + u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        if self.blind_until.swap(until, Ordering::Relaxed) <= now {
            tracing::warn!(
                pause_s = pause.as_secs(),
                "the bucket does not answer in time; lookups are misses for a while"
            );
        }
    }

    /// Notes that what came from there was wrong: others are not given it while it is hashed again.
    fn suspect(&self, digest: Digest) {
        let now = monotonic_micros();
        let until = now + u64::try_from(BUCKET_SUSPECT.as_micros()).unwrap_or(u64::MAX);
        let mut suspects = self.suspects();
        if suspects.len() >= BUCKET_SUSPECTS_MAX {
            suspects.retain(|_, until| now < *until);
        }
        if suspects.len() < BUCKET_SUSPECTS_MAX {
            suspects.insert(digest, until);
        }
    }

    fn suspects(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, u64>> {
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// What the bucket has under `key`, asked once for everybody who asks at the same time. A bucket that fails or takes
    /// longer than [`BUCKET_LOOKUP_MAX`] has nothing.
    pub async fn find_in_bucket(&self, key: Key) -> Option<Arc<Meta>> {
        let bucket = self.0.storage.bucket()?;
        if !bucket.may_have(key.digest()) {
            return None;
        }
        let shared = self.0.clone();
        let asking = bucket
            .lookups
            .join(&self.0.helper, key, move |landing| async move {
                let key = landing.key();
                landing.land(shared.look_in_bucket(key).await);
            });
        asking.await.0.ok().flatten()
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
            .join(&self.0.helper, meta.digest, move |landing| async move {
                landing.land(shared.take_from_bucket(&meta).await);
            });
        taking.await.0.ok().flatten()
    }

    /// The bytes of a blob on their way to one client: all of them, checked at their end, or a part, which cannot be.
    /// What the bucket does not give to its end, the registry of `origin` is asked for on behalf of `caller`. `None` when the
    /// bucket does not begin, or there is no memory for it.
    pub async fn stream_from_bucket(
        &self,
        origin: &Origin,
        caller: &Caller,
        meta: &Arc<Meta>,
        span: Span,
    ) -> Option<Passed> {
        let (inlet, passed) = hose();
        let (shared, origin, caller, meta) = (self.0.clone(), origin.clone(), caller.clone(), meta.clone());
        let begun = self.0.helper.ask(async move {
            inlet.charge(shared.memory_for(&origin.namespace, PASS_THROUGH_BYTES_MAX as u64)?);
            let supply = Supply::from_bucket(&shared, &origin, &caller, &meta, span).await?;
            let whole = span.start == 0 && span.end == meta.size;
            tokio::spawn(async move {
                let digest = meta.digest;
                if inlet.pour(supply, whole.then_some(digest)).await == Poured::Wrong {
                    shared.distrust_bucket(&Key::Blob(digest));
                }
            });
            Some(())
        });
        begun.await.ok().flatten().map(|()| passed)
    }

    /// Where a client gets a blob from the bucket by itself, for at most [`BUCKET_URL_LIFE`]. A secret.
    pub async fn url_in_bucket(&self, digest: Digest) -> Option<String> {
        let bucket = self.0.storage.bucket().filter(|bucket| bucket.redirect)?;
        let store = bucket.store.clone();
        let signing = async move { store.presign(&Key::Blob(digest), BUCKET_URL_LIFE).await };
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
        let place = writer.places.clone().try_acquire_owned().ok();
        let memory = self.memory.take(changes.bytes());
        let (Some(place), Some(memory)) = (place, memory) else {
            tracing::debug!(
                "too many records of referrers are on their way to the bucket; one is not kept there"
            );
            return;
        };
        let (shared, turn) = (self.clone(), writer.turn.clone());
        let (store, origin, changes) = (bucket.store.clone(), origin.clone(), changes.clone());
        tokio::spawn(async move {
            let _counted = (place, memory);
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
        bucket.in_time(BUCKET_LOOKUP_MAX, finding).await?
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
            bucket.in_time(BUCKET_OPEN_MAX, reading).await?
        };
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        if hasher.finish() == digest {
            return Some(bytes);
        }
        self.distrust_bucket(key);
        None
    }

    /// Hashes an entry of the bucket again and removes it unless it is right; one at a time.
    pub(super) async fn recheck_bucket(&self, key: &Key) {
        if let Some(bucket) = self.storage.bucket() {
            let _turn = bucket.rechecking.lock().await;
            bucket.store.distrust(key).await;
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
        bucket.in_time(BUCKET_LOOKUP_MAX, discarding).await;
    }

    /// Has an entry of the bucket hashed again in the background, and not taken from there meanwhile.
    pub(super) fn distrust_bucket(self: &Arc<Self>, key: &Key) {
        let Some(bucket) = self.storage.bucket() else {
            return;
        };
        tracing::warn!(digest = %key.digest(), "the bucket gave what is not its digest's content; it is asked for elsewhere");
        bucket.suspect(*key.digest());
        let (shared, key) = (self.clone(), key.clone());
        tokio::spawn(async move {
            shared.recheck_bucket(&key).await;
            // It may be here by now, and gone from there.
            shared.see_to_copy_again(&key);
        });
    }
}
