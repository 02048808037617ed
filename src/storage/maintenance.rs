//! The maintenance of each local store, on a thread of its own: the scan at start, the recorded uses
//! of content, room for new content, and the last uses on disk.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};

use super::{Storage, Storages};
use crate::fail_point::hit;
use crate::limits::{EVICTION_LOG_INTERVAL, ROOM_CHECK_INTERVAL, USES_QUEUED_MAX, USES_SAVE_TIMEOUT};
use crate::oci::DigestPrefix;
use crate::runtime::clock::{monotonic_millis, monotonic_seconds};
use crate::runtime::condition_log::{LoggedCondition, Transition};
use crate::store::{Evicted, EvictionCounts, FsStore, Minute, Removals, SaveCursor};

/// Reports of uses from the cores to the maintenance thread.
pub(super) struct UseQueue {
    sender: Sender<DigestPrefix>,
    receiver: Receiver<DigestPrefix>,
}

impl Default for UseQueue {
    fn default() -> Self {
        let (sender, receiver) = bounded(USES_QUEUED_MAX);
        UseQueue { sender, receiver }
    }
}

impl Storage {
    /// Reports a use of content that a core holds in memory or open. Never waits. A report is lost
    /// if too many wait already.
    pub fn report_use(&self, digest: DigestPrefix) {
        if self.local().is_some() {
            let _ = self.0.uses.sender.try_send(digest);
        }
    }

    /// Returns the removals of the local store, if any. All local stores report to one list.
    pub(super) fn removals(&self) -> Option<Removals> {
        Some(self.local()?.removals().clone())
    }

    /// Starts the maintenance of the local store, which begins with the scan. The drop of the sender of
    /// `stopped` ends the maintenance, and its end drops `ending`.
    fn maintain(&self, stopped: Receiver<()>, ending: Sender<()>) -> std::io::Result<()> {
        if let Some(store) = self.local().cloned() {
            let uses = self.0.uses.receiver.clone();
            let no_room = self.0.no_room.clone();
            let no_registry_room = self.0.no_registry_room.clone();
            let maintain = move || {
                let mut maintained = Maintained {
                    store: &store,
                    uses: &uses,
                    no_room: &no_room,
                    no_registry_room: &no_registry_room,
                    stopped: &stopped,
                    saving: SaveCursor::default(),
                    evictions: EvictionLog::default(),
                };
                maintained.run();
                drop(ending);
            };
            thread::Builder::new()
                .name("store-maintenance".into())
                .spawn(maintain)?;
        }
        Ok(())
    }
}

impl Storages {
    /// Starts the maintenance of all local stores. The drop of the returned value ends the maintenance.
    ///
    /// # Errors
    ///
    /// A thread cannot be created.
    pub fn start_maintenance(&self) -> std::io::Result<Maintenance> {
        let (stop, stopped) = bounded::<()>(0);
        let (ending, ended) = bounded::<()>(0);
        for storage in self.iter() {
            storage.maintain(stopped.clone(), ending.clone())?;
        }
        Ok(Maintenance {
            stop: Some(stop),
            ended,
        })
    }
}

/// The running maintenance threads. The drop waits until the last uses are on disk, for at most
/// [`USES_SAVE_TIMEOUT`]. A scan that still runs is abandoned.
pub struct Maintenance {
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The threads never send. The end of the last thread drops the last sender.
        let _ = self.ended.recv_timeout(USES_SAVE_TIMEOUT);
    }
}

/// The thread's view of the store.
struct Maintained<'a> {
    store: &'a FsStore,
    uses: &'a Receiver<DigestPrefix>,
    no_room: &'a LoggedCondition,
    no_registry_room: &'a LoggedCondition,
    stopped: &'a Receiver<()>,
    saving: SaveCursor,
    evictions: EvictionLog,
}

impl Maintained<'_> {
    fn run(&mut self) {
        scan(self.store);
        // The sender never sends, so only the drop of the sender ends the wait early.
        while self.stopped.recv_timeout(ROOM_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            // A panic is a bug, and the next check may succeed. Without checks, the store would fill
            // up.
            if catch_unwind(AssertUnwindSafe(|| self.check())).is_err() {
                tracing::error!("store maintenance panicked");
            }
        }
        self.store.record_uses(self.uses.try_iter());
        let began = monotonic_millis();
        self.store
            .save_all_uses(|| millis_since(began) < USES_SAVE_TIMEOUT);
    }

    fn check(&mut self) {
        hit("store-maintenance");
        let goes_on = || self.stopped.try_recv() == Err(TryRecvError::Empty);
        self.store.record_uses(self.uses.try_iter());
        self.store.make_room(goes_on);
        self.store.save_uses(&mut self.saving);
        self.evictions
            .add(self.store.take_evicted(), self.store.registry_dir());
        log_room(self.store, self.no_room);
        log_registry_room(self.store, self.no_registry_room);
    }
}

fn millis_since(moment: u64) -> Duration {
    Duration::from_millis(monotonic_millis() - moment)
}

fn scan(store: &FsStore) {
    hit("store-scan");
    let report = store.scan();
    tracing::info!(
        entries = report.entries,
        bytes = report.bytes,
        orphans_removed = report.orphans,
        broken_removed = report.broken,
        foreign = report.foreign,
        unreadable = report.unreadable,
        directory = store.registry_dir(),
        "store scanned"
    );
}

fn log_room(store: &FsStore, no_room: &LoggedCondition) {
    match no_room.transition(monotonic_seconds()) {
        Some(Transition::Started) => {
            let stats = store.stats();
            tracing::warn!(
                reason = "no space within the bounds, and no content that may be evicted",
                bytes = stats.bytes,
                reserved_bytes = stats.reserved_bytes,
                bytes_max = stats.bytes_max,
                free_bytes = stats.free_bytes,
                free_bytes_min = stats.free_bytes_min,
                directory = store.registry_dir(),
                "store is full; pulls continue without storing"
            );
        }
        Some(Transition::Ended(objects)) => {
            let directory = store.registry_dir();
            tracing::info!(objects_not_stored = objects, directory, "store has room again");
        }
        None => {}
    }
}

fn log_registry_room(store: &FsStore, no_room: &LoggedCondition) {
    match no_room.transition(monotonic_seconds()) {
        Some(Transition::Started) => {
            let full = store.full_registries();
            tracing::warn!(
                reason = "no space within cache_max_size of the registry, and no content that may be evicted",
                registries = full.join(", "),
                "registry is full; pulls continue without storing"
            );
        }
        Some(Transition::Ended(objects)) => {
            tracing::info!(objects_not_stored = objects, "registry has room again");
        }
        None => {}
    }
}

/// Sums evictions for one log line per [`EVICTION_LOG_INTERVAL`].
#[derive(Default)]
struct EvictionLog {
    objects: u64,
    bytes: u64,
    last_use: Minute,
    by_reason: EvictionCounts,
    /// The time of the last line, in milliseconds of the monotonic clock.
    logged_at: Option<u64>,
}

impl EvictionLog {
    /// Adds evictions of the store in `directory`, which is `None` for the default store.
    fn add(&mut self, evicted: Evicted, directory: Option<String>) {
        self.objects += evicted.objects;
        self.bytes += evicted.bytes;
        self.last_use = self.last_use.max(evicted.last_use);
        self.by_reason.add(evicted.by_reason);
        let is_due = |at| millis_since(at) >= EVICTION_LOG_INTERVAL;
        let is_due = self.logged_at.is_none_or(is_due);
        if self.objects > 0 && is_due {
            let unused = Duration::from_secs(60 * u64::from(Minute::now().since(self.last_use)));
            tracing::info!(
                objects = self.objects,
                bytes = self.bytes,
                unused_s = unused.as_secs(),
                for_size = self.by_reason.size,
                for_free_space = self.by_reason.free_space,
                for_free_inodes = self.by_reason.free_inodes,
                directory,
                "content evicted"
            );
            *self = EvictionLog {
                logged_at: Some(monotonic_millis()),
                ..EvictionLog::default()
            };
        }
    }
}
