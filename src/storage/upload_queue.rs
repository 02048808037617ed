//! The queue of uploads to the bucket. No client waits for an upload. A failed upload costs only
//! the copy.
//!
//! A few workers take jobs from a bounded queue. Entries of the local store wait as names, without
//! a time limit. Content in the spool or in memory waits for at most [`UPLOAD_MAX_AGE`], and is
//! served from there meanwhile.
//!
//! Not here: the requests of an upload ([`super::upload_job`], `store`), and the choice of entries
//! ([`super::replication`]).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::upload_job::UploadJob;
use super::{Key, Room, Storage, StoredEntry};
use crate::fairness::{FairQueue, Party};
use crate::limits::{
    SPOOL_LINGER_TIME, UPLOAD_ATTEMPTS_MAX, UPLOAD_MAX_AGE, UPLOADS_MAX, UPLOADS_MEMORY_MAX,
    UPLOADS_PER_REGISTRY_MAX, UPLOADS_QUEUED_MAX,
};
use crate::oci::{Digest, Namespace};
use crate::runtime::clock::monotonic_micros;
use crate::runtime::memory_budget::Charge;
use crate::store::UploadHold;
use crate::sync::{Mutex, MutexGuard};

/// The interval of checks whether an unavailable bucket has recovered.
const RECOVERY_CHECK: Duration = Duration::from_secs(1);

/// The wait before the second attempt. Each further wait is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// The queue, and the blobs that are served until the end of the upload.
#[derive(Default)]
pub(super) struct Uploads {
    queue: Mutex<Queue>,
    /// Blobs that only the spool has.
    spooled: Mutex<HashMap<Digest, (StoredEntry, Arc<Room>)>>,
    /// Whether uploads fail although the bucket is available. Each change is logged.
    failing: AtomicBool,
}

pub(super) struct Queue {
    jobs: FairQueue<QueuedUpload>,
    workers: usize,
    /// Bytes of memory that the jobs hold.
    memory: u64,
    /// Entries of the local store that this process has looked up in the bucket.
    pub checked: HashSet<Key>,
    /// Entries of the local store whose upload failed. Each successful upload queues the next of
    /// them again.
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

struct QueuedUpload {
    job: UploadJob,
    /// The time of queueing, in microseconds of the monotonic clock.
    since: u64,
    /// Counts the memory of the job.
    _memory: Option<Charge>,
    /// Keeps an entry of the local store from eviction until the job ends.
    _hold: Option<UploadHold>,
}

impl Queue {
    /// The number of jobs that no worker has taken.
    pub fn waiting(&self) -> usize {
        self.jobs.waiting()
    }

    /// Returns whether the jobs of `party` hold as much memory as the party leaves to others.
    fn is_memory_full_for(&self, party: &Party, bytes: u64) -> bool {
        if bytes == 0 {
            return false;
        }
        let own: u64 = self.jobs.of(party).map(|queued| queued.job.memory()).sum();
        own + bytes > UPLOADS_MEMORY_MAX.saturating_sub(self.memory)
    }
}

impl Uploads {
    /// Returns a blob that only the spool has.
    pub fn find(&self, digest: &Digest) -> Option<StoredEntry> {
        self.spooled().get(digest).map(|(entry, _)| entry.clone())
    }

    /// Returns whether no job waits or runs.
    #[cfg(test)]
    pub fn is_idle(&self) -> bool {
        let queue = self.queue();
        queue.jobs.waiting() == 0 && queue.workers == 0
    }

    pub fn spooled(&self) -> MutexGuard<'_, HashMap<Digest, (StoredEntry, Arc<Room>)>> {
        self.spooled.lock()
    }

    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Storage {
    /// Queues the upload of content from the registry `namespace`. Without a bucket, or if the
    /// queue is full, the job is dropped.
    pub(super) fn upload(&self, namespace: &Namespace, job: UploadJob) {
        if self.bucket().is_some() {
            self.queue_upload(self.0.parties.of(namespace), job);
        }
    }

    pub(super) fn queue_upload(&self, party: Party, job: UploadJob) {
        let mut queue = self.0.uploads.queue();
        let bytes = job.memory();
        let charge = match bytes {
            0 => Some(None),
            bytes => self.0.memory.take(bytes).map(Some),
        };
        let full = queue.jobs.is_full_for(&party) || queue.is_memory_full_for(&party, bytes);
        let Some(charge) = charge.filter(|_| !full) else {
            if let UploadJob::Local { key, .. } = &job {
                queue.checked.remove(key);
            }
            // The drop of a job takes other locks.
            drop(queue);
            tracing::debug!("upload queue full; entry not replicated");
            return drop(job);
        };
        queue.memory += bytes;
        let hold = match (&job, self.local()) {
            (UploadJob::Local { key, .. }, Some(store)) => Some(store.hold_for_upload(key)),
            _ => None,
        };
        let queued = QueuedUpload {
            job,
            since: monotonic_micros(),
            _memory: charge,
            _hold: hold,
        };
        queue.jobs.push(party, queued);
        if queue.workers < UPLOADS_MAX {
            queue.workers += 1;
            drop(queue);
            let storage = self.clone();
            self.0.helper.spawn(async move { work(&storage).await });
        }
    }
}

/// Runs jobs until the queue is empty.
async fn work(storage: &Storage) {
    /// Releases the slot of a worker, also after a panic.
    struct WorkerSlot<'a>(&'a Uploads);
    impl Drop for WorkerSlot<'_> {
        fn drop(&mut self) {
            self.0.queue().workers -= 1;
        }
    }
    let uploads = &storage.0.uploads;
    loop {
        let slot = WorkerSlot(uploads);
        while let Some((queued, _running)) = next(uploads) {
            run_job(storage, queued).await;
        }
        drop(slot);
        // A job may have been queued between the last check and the drop.
        let mut queue = uploads.queue();
        if !queue.jobs.has_next() || queue.workers >= UPLOADS_MAX {
            return;
        }
        queue.workers += 1;
    }
}

/// A job that a worker has taken. The drop records its end, also after a panic.
struct RunningUpload<'a> {
    uploads: &'a Uploads,
    party: Party,
}

impl Drop for RunningUpload<'_> {
    fn drop(&mut self) {
        self.uploads.queue().jobs.done(&self.party);
    }
}

fn next(uploads: &Uploads) -> Option<(QueuedUpload, RunningUpload<'_>)> {
    let mut queue = uploads.queue();
    let (party, queued) = queue.jobs.take()?;
    queue.memory -= queued.job.memory();
    drop(queue);
    Some((queued, RunningUpload { uploads, party }))
}

/// Runs one job, and drops the job after the last attempt.
async fn run_job(storage: &Storage, mut queued: QueuedUpload) {
    let Some(bucket) = storage.bucket() else {
        return;
    };
    let store = bucket.store();
    let max_age = u64::try_from(UPLOAD_MAX_AGE.as_micros()).unwrap_or(u64::MAX);
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=UPLOAD_ATTEMPTS_MAX {
        while !store.is_available() {
            if !queued.job.waits_for_bucket() && monotonic_micros().saturating_sub(queued.since) > max_age {
                return give_up(
                    &storage.0.uploads,
                    queued,
                    &"the bucket was unavailable for too long",
                );
            }
            tokio::time::sleep(RECOVERY_CHECK).await;
        }
        match queued.job.send(storage, store).await {
            Ok(()) => return succeeded(storage, queued),
            Err(error) if attempt == UPLOAD_ATTEMPTS_MAX => {
                return give_up(&storage.0.uploads, queued, &error);
            }
            Err(error) => {
                tracing::debug!(%error, attempt, "upload to the bucket failed");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

fn succeeded(storage: &Storage, queued: QueuedUpload) {
    let uploads = &storage.0.uploads;
    if uploads.failing.swap(false, Ordering::Relaxed) {
        tracing::info!("bucket uploads succeed again");
    }
    let retry = uploads.queue().retry_later.pop_front();
    if let Some(key) = retry {
        storage.queue_replication(key);
    }
    if let UploadJob::Spooled { blob, .. } = queued.job {
        // Some S3 engines take a moment until a lookup finds a new object.
        tokio::spawn(async move {
            tokio::time::sleep(SPOOL_LINGER_TIME).await;
            drop(blob);
        });
    }
}

fn give_up(uploads: &Uploads, queued: QueuedUpload, error: &dyn std::fmt::Display) {
    if !uploads.failing.swap(true, Ordering::Relaxed) {
        tracing::warn!(%error, "bucket uploads fail");
    }
    if let UploadJob::Local { key, .. } = queued.job {
        let mut queue = uploads.queue();
        queue.checked.remove(&key);
        if queue.retry_later.len() < UPLOADS_QUEUED_MAX {
            queue.retry_later.push_back(key);
        }
    }
}
