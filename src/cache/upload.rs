//! What is on its way to the bucket. No client waits for it, and its failure costs only the copy.
//!
//! A few workers take jobs from a bounded queue. What the local store has waits there as a name, for as long as it takes; what
//! lies in the spool or in memory waits for [`UPLOAD_PATIENCE`], and is served from there meanwhile.
//!
//! Not here: how bytes are put (`store`), and what is not worth a copy.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Shared;
use super::lanes::Lanes;
use super::manifest::Pending;
use super::shares::{Lease, Party};
use super::tags::TagKey;
use crate::limits::{
    SPOOL_LINGER, UPLOAD_ATTEMPTS_MAX, UPLOAD_CHECKS_MAX, UPLOAD_PATIENCE, UPLOADS_MAX, UPLOADS_MEMORY_MAX,
    UPLOADS_PER_REGISTRY_MAX, UPLOADS_QUEUED_MAX,
};
use crate::oci::{Digest, Namespace};
use crate::runtime::clock::monotonic_micros;
use crate::runtime::helper::blocking;
use crate::runtime::memory::Charge;
use crate::store::{Content, Entry, Key, Meta, Room, S3Error, S3Store, TagPointer, Verified};

/// The turn of blobs of the local store that may be in the bucket already. No registry has such a name.
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
    jobs: Lanes<Job>,
    workers: usize,
    /// Bytes of manifests among the jobs.
    memory: u64,
    /// Entries of the local store of which it was asked, in this process, whether the bucket has them.
    checked: HashSet<Key>,
    /// Entries of the local store whose upload was given up; they come again when another succeeds.
    owed: VecDeque<Key>,
}

impl Default for Queue {
    fn default() -> Self {
        Queue {
            jobs: Lanes::new(UPLOADS_QUEUED_MAX, UPLOADS_PER_REGISTRY_MAX),
            workers: 0,
            memory: 0,
            checked: HashSet::new(),
            owed: VecDeque::new(),
        }
    }
}

/// One thing to put into the bucket.
struct Job {
    cargo: Cargo,
    /// When it was queued, by the clock that never jumps.
    since: u64,
    /// For what it keeps in memory.
    _memory: Option<Charge>,
}

pub enum Cargo {
    /// The local store has it. Without proof it may be in the bucket already, and is hashed if it is not.
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

impl Cargo {
    /// Bytes of memory it holds besides names.
    fn memory(&self) -> u64 {
        match self {
            Cargo::Manifest { body, .. } => body.len() as u64,
            _ => 0,
        }
    }

    /// The entry it is.
    fn key(&self) -> Option<Key> {
        match self {
            Cargo::Local { key, .. } | Cargo::Manifest { key, .. } => Some(key.clone()),
            Cargo::Spooled { blob, .. } => Some(Key::Blob(blob.entry.meta.digest)),
            Cargo::Tag { .. } => None,
        }
    }

    /// Whether it waits however long it takes: it costs nothing but its name.
    fn is_patient(&self) -> bool {
        matches!(self, Cargo::Local { .. })
    }
}

impl Queue {
    /// Whether manifests of `party` would take more memory than they leave to others.
    fn is_memory_full_for(&self, party: &Party, bytes: u64) -> bool {
        if bytes == 0 {
            return false;
        }
        let own: u64 = self.jobs.of(party).map(|job| job.cargo.memory()).sum();
        own + bytes > UPLOADS_MEMORY_MAX.saturating_sub(self.memory)
    }
}

impl Uploads {
    /// The blob, if it lies in the spool.
    pub fn find(&self, digest: &Digest) -> Option<Entry> {
        self.spooled().get(digest).map(|(entry, _)| entry.clone())
    }

    /// Whether nothing is queued and nothing under way.
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
    pub(super) fn upload(self: &Arc<Self>, namespace: &Namespace, cargo: Cargo) {
        if self.storage.bucket().is_some() {
            self.queue_upload(self.party(namespace), cargo);
        }
    }

    fn queue_upload(self: &Arc<Self>, party: Party, cargo: Cargo) {
        let mut queue = self.uploads.queue();
        let bytes = cargo.memory();
        let charge = match bytes {
            0 => Some(None),
            bytes => self.memory.take(bytes).map(Some),
        };
        let full = queue.jobs.is_full_for(&party) || queue.is_memory_full_for(&party, bytes);
        let Some(charge) = charge.filter(|_| !full) else {
            if let Cargo::Local { key, .. } = &cargo {
                queue.checked.remove(key);
            }
            // Its drop takes other locks.
            drop(queue);
            tracing::debug!("too much is on its way to the bucket; something is not copied");
            return drop(cargo);
        };
        queue.memory += bytes;
        let job = Job {
            cargo,
            since: monotonic_micros(),
            _memory: charge,
        };
        queue.jobs.push(party, job);
        if queue.workers < UPLOADS_MAX {
            queue.workers += 1;
            drop(queue);
            let shared = self.clone();
            self.helper.spawn(async move { work(&shared).await });
        }
    }

    /// Sees to it that the bucket has an entry that was found in the local store: its upload may have been cut off by the
    /// end of an earlier process. Asked once per process and entry.
    pub(super) fn see_to_copy(self: &Arc<Self>, key: &Key) {
        if self.storage.bucket().is_none() {
            return;
        }
        {
            let mut queue = self.uploads.queue();
            // Copies of what is new go first.
            if queue.jobs.waiting() >= UPLOADS_QUEUED_MAX / 2 {
                return;
            }
            if queue.checked.len() >= UPLOAD_CHECKS_MAX {
                // Forgetting costs a question each.
                queue.checked.clear();
            }
            if !queue.checked.insert(key.clone()) {
                return;
            }
        }
        self.copy_later(key.clone());
    }

    /// Queues the upload of an entry of the local store that may be in the bucket already.
    fn copy_later(self: &Arc<Self>, key: Key) {
        let party = match &key {
            Key::Manifest { namespace, .. } => self.party(namespace),
            // Every registry shares them.
            Key::Blob(_) => Party::Named(OF_ALL.into()),
        };
        self.queue_upload(party, Cargo::Local { key, verified: None });
    }

    /// The same, whatever was asked before.
    pub(super) fn see_to_copy_again(self: &Arc<Self>, key: &Key) {
        self.uploads.queue().checked.remove(key);
        if self.storage.local().is_some() {
            self.see_to_copy(key);
        }
    }

    /// Notes that the bucket has, or is about to be given, an entry of the local store.
    pub(super) fn is_copied(&self, key: &Key) {
        let mut queue = self.uploads.queue();
        if queue.checked.len() < UPLOAD_CHECKS_MAX {
            queue.checked.insert(key.clone());
        }
    }
}

/// One of the workers. Ends when nothing is queued.
async fn work(shared: &Arc<Shared>) {
    /// Gives the place free, however the worker ends.
    struct Place<'a>(&'a Shared);
    impl Drop for Place<'_> {
        fn drop(&mut self) {
            self.0.uploads.queue().workers -= 1;
        }
    }
    loop {
        let place = Place(shared);
        while let Some((job, _taken)) = next(shared) {
            carry(shared, job).await;
        }
        drop(place);
        // Something may have been queued between the look and the drop.
        let mut queue = shared.uploads.queue();
        if !queue.jobs.has_next() || queue.workers >= UPLOADS_MAX {
            return;
        }
        queue.workers += 1;
    }
}

/// A job that was taken from the queue; its end is noted however it ends.
struct Taken<'a> {
    shared: &'a Shared,
    party: Party,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.shared.uploads.queue().jobs.done(&self.party);
    }
}

fn next(shared: &Shared) -> Option<(Job, Taken<'_>)> {
    let mut queue = shared.uploads.queue();
    let (party, job) = queue.jobs.next()?;
    queue.memory -= job.cargo.memory();
    drop(queue);
    Some((job, Taken { shared, party }))
}

/// Carries one job out, or gives it up.
async fn carry(shared: &Arc<Shared>, mut job: Job) {
    let Some(bucket) = shared.storage.bucket() else {
        return;
    };
    let store = bucket.store();
    let patience = u64::try_from(UPLOAD_PATIENCE.as_micros()).unwrap_or(u64::MAX);
    let mut pause = FIRST_PAUSE;
    for attempt in 1..=UPLOAD_ATTEMPTS_MAX {
        while !store.is_available() {
            if !job.cargo.is_patient() && monotonic_micros().saturating_sub(job.since) > patience {
                return give_up(shared, job, &"the bucket was away for too long");
            }
            tokio::time::sleep(RECOVERY_CHECK).await;
        }
        match send(shared, store, &mut job.cargo).await {
            Ok(()) => return succeeded(shared, job),
            Err(error) if attempt == UPLOAD_ATTEMPTS_MAX => return give_up(shared, job, &error),
            Err(error) => {
                tracing::debug!(%error, attempt, "an upload failed");
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
        }
    }
}

fn succeeded(shared: &Arc<Shared>, job: Job) {
    if shared.uploads.failing.swap(false, Ordering::Relaxed) {
        tracing::info!("uploads to the bucket succeed again");
    }
    let owed = shared.uploads.queue().owed.pop_front();
    if let Some(key) = owed {
        shared.copy_later(key);
    }
    if let Cargo::Spooled { blob, .. } = job.cargo {
        // Engines may take a moment until what was put is found.
        tokio::spawn(async move {
            tokio::time::sleep(SPOOL_LINGER).await;
            drop(blob);
        });
    }
}

fn give_up(shared: &Shared, job: Job, why: &dyn std::fmt::Display) {
    if !shared.uploads.failing.swap(true, Ordering::Relaxed) {
        tracing::warn!(%why, "uploads to the bucket fail; pulls go on without copies there");
    }
    if let Cargo::Local { key, .. } = job.cargo {
        let mut queue = shared.uploads.queue();
        queue.checked.remove(&key);
        if queue.owed.len() < UPLOADS_QUEUED_MAX {
            queue.owed.push_back(key);
        }
    }
}

async fn send(shared: &Arc<Shared>, store: &S3Store, cargo: &mut Cargo) -> Result<(), S3Error> {
    let suspect = |key: &Key| {
        let bucket = shared.storage.bucket();
        bucket.is_some_and(|bucket| bucket.is_suspect(key.digest()))
    };
    if let Some(key) = cargo.key().filter(suspect) {
        // What is there may be wrong, and would stay: it has to be gone before ours can take its place.
        shared.recheck_bucket(&key).await;
    }
    match cargo {
        Cargo::Local { key, verified } => {
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
                    sound.map(|found| found.map(|(entry, proof)| (entry, Some(proof))))
                }
            });
            // What cannot be read, or is gone, cannot be copied.
            let Ok(Ok(Some((entry, proof)))) = found.await else {
                return Ok(());
            };
            if proof.is_some() {
                *verified = proof;
            }
            let Some(verified) = verified else { return Ok(()) };
            store
                .put(key, Content::File(entry.file), verified, &entry.meta)
                .await
        }
        Cargo::Spooled { blob, verified } => {
            let Entry { file, meta } = blob.entry.clone();
            let key = Key::Blob(meta.digest);
            store.put(&key, Content::File(file), verified, &meta).await
        }
        Cargo::Manifest {
            key,
            body,
            meta,
            verified,
            ..
        } => store.put(key, Content::Bytes(body.clone()), verified, meta).await,
        Cargo::Tag { tag, pointer } => {
            let TagKey { origin, tag, class } = &*tag;
            store
                .put_tag(&origin.namespace, &origin.repository, tag, class, pointer)
                .await
        }
    }
}
