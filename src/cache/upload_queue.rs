//! What is on its way to the bucket. No client waits for it, and its failure costs only the copy.
//!
//! A few workers take jobs from a bounded queue. What the local store has waits there as a name, for as long as it takes; what
//! lies in the spool or in memory waits for [`UPLOAD_MAX_AGE`], and is served from there meanwhile.
//!
//! Not here: how bytes are put (`store`), and what is not worth a copy.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Shared;
use super::fair_queue::FairQueue;
use super::manifest::Pending;
use super::shares::{Lease, Party};
use crate::limits::{
    REPLICATION_CHECKS_MAX, SPOOL_LINGER_TIME, UPLOAD_ATTEMPTS_MAX, UPLOAD_MAX_AGE, UPLOADS_MAX,
    UPLOADS_MEMORY_MAX, UPLOADS_PER_REGISTRY_MAX, UPLOADS_QUEUED_MAX,
};
use crate::oci::{Digest, Namespace};
use crate::runtime::clock::monotonic_micros;
use crate::runtime::helper::blocking;
use crate::runtime::memory_budget::Charge;
use crate::store::{Content, Entry, Key, Meta, Room, S3Error, S3Store, TagKey, TagPointer, Verified};

/// The party of blobs of the local store that may be in the bucket already. No registry has such a name.
const OF_ALL: &str = "";

/// How often it is looked whether a bucket that was away is back.
const RECOVERY_CHECK: Duration = Duration::from_secs(1);

/// Wait before the second attempt; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The queue, and what is served from it.
#[derive(Default)]
pub struct Uploads {
    queue: Mutex<Queue>,
    /// Blobs that lie in the spool alone.
    spooled: Mutex<HashMap<Digest, (Entry, Arc<Room>)>>,
    /// Uploads fail although the bucket is there; one line is logged when that changes.
    failing: AtomicBool,
}

struct Queue {
    jobs: FairQueue<QueuedUpload>,
    workers: usize,
    /// Bytes of manifests among the jobs.
    memory: u64,
    /// Entries of the local store that this process has looked up in the bucket.
    checked: HashSet<Key>,
    /// Entries of the local store whose upload failed; they are queued again when another upload succeeds.
    retry_later: VecDeque<Key>,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            jobs: FairQueue::new(UPLOADS_QUEUED_MAX, UPLOADS_PER_REGISTRY_MAX),
            workers: 0,
            memory: 0,
            checked: HashSet::new(),
            retry_later: VecDeque::new(),
        }
    }
}

/// One thing to put into the bucket.
struct QueuedUpload {
    job: UploadJob,
    /// When it was queued, by the monotonic clock.
    since: u64,
    /// For what it keeps in memory.
    _memory: Option<Charge>,
}

pub enum UploadJob {
    /// The local store has it. Without `verified` the entry may be in the bucket already, and is hashed if it is not.
    Local {
        key: Key,
        verified: Option<Verified>,
    },
    Spooled {
        blob: SpooledBlob,
        verified: Verified,
    },
    Manifest {
        key: Key,
        body: bytes::Bytes,
        meta: Box<Meta>,
        verified: Verified,
        /// It is found in memory as long as this lives.
        _pending: Pending,
    },
    Tag {
        tag: TagKey,
        pointer: TagPointer,
    },
}

/// A blob that is served from the spool as long as this lives.
pub struct SpooledBlob {
    shared: Arc<Shared>,
    entry: Entry,
    /// What it takes of its registry's share of the spool.
    _lease: Option<Lease>,
}

impl SpooledBlob {
    /// Has the verified content of a file of the spool served until it is in the bucket.
    pub fn new(shared: &Arc<Shared>, entry: Entry, room: Arc<Room>, lease: Option<Lease>) -> Self {
        shared
            .uploads
            .spooled()
            .insert(entry.meta.digest, (entry.clone(), room));
        SpooledBlob {
            shared: shared.clone(),
            entry,
            _lease: lease,
        }
    }
}

impl Drop for SpooledBlob {
    fn drop(&mut self) {
        let mut spooled = self.shared.uploads.spooled();
        let digest = &self.entry.meta.digest;
        // Another fill of the same content may have come after ours.
        if spooled
            .get(digest)
            .is_some_and(|(entry, _)| Arc::ptr_eq(&entry.file, &self.entry.file))
        {
            spooled.remove(digest);
        }
    }
}

impl UploadJob {
    /// Bytes of memory it holds besides names.
    fn memory(&self) -> u64 {
        match self {
            UploadJob::Manifest { body, .. } => body.len() as u64,
            _ => 0,
        }
    }

    /// The entry it is.
    fn key(&self) -> Option<Key> {
        match self {
            UploadJob::Local { key, .. } | UploadJob::Manifest { key, .. } => Some(key.clone()),
            UploadJob::Spooled { blob, .. } => Some(Key::Blob(blob.entry.meta.digest)),
            UploadJob::Tag { .. } => None,
        }
    }

    /// Whether it waits however long it takes: it costs nothing but its name.
    fn waits_for_bucket(&self) -> bool {
        matches!(self, UploadJob::Local { .. })
    }
}

impl Queue {
    /// Whether manifests of `party` would take more memory than they leave to others.
    fn is_memory_full_for(&self, party: &Party, bytes: u64) -> bool {
        if bytes == 0 {
            return false;
        }
        let own: u64 = self.jobs.of(party).map(|queued| queued.job.memory()).sum();
        own + bytes > UPLOADS_MEMORY_MAX.saturating_sub(self.memory)
    }
}

impl Uploads {
    /// The blob, if it lies in the spool.
    pub fn find(&self, digest: &Digest) -> Option<Entry> {
        self.spooled().get(digest).map(|(entry, _)| entry.clone())
    }

    /// Whether nothing is queued and nothing in progress.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.jobs.waiting() == 0 && queue.workers == 0
    }

    fn spooled(&self) -> MutexGuard<'_, HashMap<Digest, (Entry, Arc<Room>)>> {
        self.spooled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Queues an upload of content of a registry; dropped when the queue is full, or when there is no bucket.
    pub(super) fn upload(self: &Arc<Self>, namespace: &Namespace, job: UploadJob) {
        if self.storage.bucket().is_some() {
            self.queue_upload(self.party(namespace), job);
        }
    }

    fn queue_upload(self: &Arc<Self>, party: Party, job: UploadJob) {
        let mut queue = self.uploads.queue();
        let bytes = job.memory();
        let charge = match bytes {
            0 => Some(None),
            bytes => self.memory.take(bytes).map(Some),
        };
        let full = queue.jobs.is_full_for(&party) || queue.is_memory_full_for(&party, bytes);
        let Some(charge) = charge.filter(|_| !full) else {
            if let UploadJob::Local { key, .. } = &job {
                queue.checked.remove(key);
            }
            // Its drop takes other locks.
            drop(queue);
            tracing::debug!("the upload queue is full; an entry is not replicated");
            return drop(job);
        };
        queue.memory += bytes;
        let queued = QueuedUpload {
            job,
            since: monotonic_micros(),
            _memory: charge,
        };
        queue.jobs.push(party, queued);
        if queue.workers < UPLOADS_MAX {
            queue.workers += 1;
            drop(queue);
            let shared = self.clone();
            self.helper.spawn(async move { work(&shared).await });
        }
    }

    /// Ensures that the bucket has an entry that was found in the local store: its upload may have been cut off by the
    /// end of an earlier process. The bucket is checked once per process and entry.
    pub(super) fn ensure_replicated(self: &Arc<Self>, key: &Key) {
        if self.storage.bucket().is_none() {
            return;
        }
        {
            let mut queue = self.uploads.queue();
            // Copies of what is new go first.
            if queue.jobs.waiting() >= UPLOADS_QUEUED_MAX / 2 {
                return;
            }
            if queue.checked.len() >= REPLICATION_CHECKS_MAX {
                // Each forgotten entry costs a request.
                queue.checked.clear();
            }
            if !queue.checked.insert(key.clone()) {
                return;
            }
        }
        self.queue_replication(key.clone());
    }

    /// Queues the upload of an entry of the local store that may be in the bucket already.
    fn queue_replication(self: &Arc<Self>, key: Key) {
        let party = match &key {
            Key::Manifest { namespace, .. } => self.party(namespace),
            // Every registry shares them.
            Key::Blob(_) => Party::Named(OF_ALL.into()),
        };
        self.queue_upload(party, UploadJob::Local { key, verified: None });
    }

    /// Like [`Shared::ensure_replicated`], also for an entry that was checked before.
    pub(super) fn recheck_replica(self: &Arc<Self>, key: &Key) {
        self.uploads.queue().checked.remove(key);
        if self.storage.local().is_some() {
            self.ensure_replicated(key);
        }
    }

    /// Marks an entry of the local store as replicated: the bucket has it, or its upload is queued next.
    pub(super) fn mark_replicated(&self, key: &Key) {
        let mut queue = self.uploads.queue();
        if queue.checked.len() < REPLICATION_CHECKS_MAX {
            queue.checked.insert(key.clone());
        }
    }
}

/// One of the workers. Ends when nothing is queued.
async fn work(shared: &Arc<Shared>) {
    /// Releases the slot, however the worker ends.
    struct WorkerSlot<'a>(&'a Shared);
    impl Drop for WorkerSlot<'_> {
        fn drop(&mut self) {
            self.0.uploads.queue().workers -= 1;
        }
    }
    loop {
        let slot = WorkerSlot(shared);
        while let Some((queued, _taken)) = next(shared) {
            run_job(shared, queued).await;
        }
        drop(slot);
        // Something may have been queued between the look and the drop.
        let mut queue = shared.uploads.queue();
        if !queue.jobs.has_next() || queue.workers >= UPLOADS_MAX {
            return;
        }
        queue.workers += 1;
    }
}

/// A job that was taken from the queue; its end is recorded however it ends.
struct RunningUpload<'a> {
    shared: &'a Shared,
    party: Party,
}

impl Drop for RunningUpload<'_> {
    fn drop(&mut self) {
        self.shared.uploads.queue().jobs.done(&self.party);
    }
}

fn next(shared: &Shared) -> Option<(QueuedUpload, RunningUpload<'_>)> {
    let mut queue = shared.uploads.queue();
    let (party, queued) = queue.jobs.next()?;
    queue.memory -= queued.job.memory();
    drop(queue);
    Some((queued, RunningUpload { shared, party }))
}

/// Runs one job, and drops it after the last attempt.
async fn run_job(shared: &Arc<Shared>, mut queued: QueuedUpload) {
    let Some(bucket) = shared.storage.bucket() else {
        return;
    };
    let store = bucket.store();
    let patience = u64::try_from(UPLOAD_MAX_AGE.as_micros()).unwrap_or(u64::MAX);
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=UPLOAD_ATTEMPTS_MAX {
        while !store.is_available() {
            if !queued.job.waits_for_bucket() && monotonic_micros().saturating_sub(queued.since) > patience {
                return give_up(shared, queued, &"the bucket was away for too long");
            }
            tokio::time::sleep(RECOVERY_CHECK).await;
        }
        match send(shared, store, &mut queued.job).await {
            Ok(()) => return succeeded(shared, queued),
            Err(error) if attempt == UPLOAD_ATTEMPTS_MAX => return give_up(shared, queued, &error),
            Err(error) => {
                tracing::debug!(%error, attempt, "an upload failed");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

fn succeeded(shared: &Arc<Shared>, queued: QueuedUpload) {
    if shared.uploads.failing.swap(false, Ordering::Relaxed) {
        tracing::info!("uploads to the bucket succeed again");
    }
    let retry = shared.uploads.queue().retry_later.pop_front();
    if let Some(key) = retry {
        shared.queue_replication(key);
    }
    if let UploadJob::Spooled { blob, .. } = queued.job {
        // Engines may take a moment until what was put is found.
        tokio::spawn(async move {
            tokio::time::sleep(SPOOL_LINGER_TIME).await;
            drop(blob);
        });
    }
}

fn give_up(shared: &Shared, queued: QueuedUpload, why: &dyn std::fmt::Display) {
    if !shared.uploads.failing.swap(true, Ordering::Relaxed) {
        tracing::warn!(%why, "uploads to the bucket fail; pulls go on without copies there");
    }
    if let UploadJob::Local { key, .. } = queued.job {
        let mut queue = shared.uploads.queue();
        queue.checked.remove(&key);
        if queue.retry_later.len() < UPLOADS_QUEUED_MAX {
            queue.retry_later.push_back(key);
        }
    }
}

async fn send(shared: &Arc<Shared>, store: &S3Store, job: &mut UploadJob) -> Result<(), S3Error> {
    let quarantined = |key: &Key| {
        let bucket = shared.storage.bucket();
        bucket.is_some_and(|bucket| bucket.is_quarantined(key.digest()))
    };
    if let Some(key) = job.key().filter(quarantined) {
        // What is there may be wrong, and would stay: it has to be gone before ours can take its place.
        shared.recheck_bucket(&key).await;
    }
    match job {
        UploadJob::Local { key, verified } => {
            if verified.is_none() && store.find(key).await?.is_some() {
                return Ok(());
            }
            let Some(fs) = shared.storage.local().cloned() else {
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
            // What cannot be read, or is gone, cannot be copied.
            let Ok(Ok(Some((entry, checked)))) = found.await else {
                return Ok(());
            };
            if checked.is_some() {
                *verified = checked;
            }
            let Some(verified) = verified else { return Ok(()) };
            store
                .put(key, Content::File(entry.file), verified, &entry.meta)
                .await
        }
        UploadJob::Spooled { blob, verified } => {
            let Entry { file, meta } = blob.entry.clone();
            let key = Key::Blob(meta.digest);
            store.put(&key, Content::File(file), verified, &meta).await
        }
        UploadJob::Manifest {
            key,
            body,
            meta,
            verified,
            ..
        } => store.put(key, Content::Bytes(body.clone()), verified, meta).await,
        UploadJob::Tag { tag, pointer } => {
            let TagKey { origin, tag, class } = &*tag;
            store
                .put_tag(&origin.namespace, &origin.repository, tag, class, pointer)
                .await
        }
    }
}
