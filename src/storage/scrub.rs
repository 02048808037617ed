//! The scrub of each local store: a thread that hashes all entries, one after the other, and removes
//! damaged entries. A later pull fetches removed content again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{Key, Storage, Storages};
use crate::fail_point::hit;
use crate::limits::{
    DAMAGED_IMAGES_MAX, SCRUB_PAUSE_MIN, SCRUB_SAVE_INTERVAL, SCRUB_START_DELAY, SCRUB_STOP_TIMEOUT,
    VERIFY_DETAILS_MAX, VERIFY_PART_OBJECTS,
};
use crate::runtime::clock::{monotonic_millis, unix_seconds};
use crate::runtime::pacer::Pacer;
use crate::store::{FsStore, ReadPages, ScrubRecord, Verification, VerifyOptions};
use crate::sys;

/// The interval of the looks whether the scan at start has ended.
const SCAN_LOOK: Duration = Duration::from_millis(200);

/// The running scrub threads. The drop stops the scrub, and waits until its progress is on disk, for at
/// most [`SCRUB_STOP_TIMEOUT`].
pub struct Scrub {
    stop: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Drop for Scrub {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The threads never send. The end of the last thread drops the last sender.
        let _ = self.ended.recv_timeout(SCRUB_STOP_TIMEOUT);
    }
}

impl Storages {
    /// Starts the scrub of each local store: a pass over all entries in each `interval`, with at most
    /// `rate` bytes per second. An `interval` of zero means no scrub, and a `rate` of 0 means no bound.
    ///
    /// # Errors
    ///
    /// A thread cannot be created.
    pub fn start_scrub(&self, interval: Duration, rate: u64) -> std::io::Result<Scrub> {
        let (stop, stopped) = bounded::<()>(0);
        let (ending, ended) = bounded::<()>(0);
        for storage in self.iter() {
            storage.scrub(interval, rate, stopped.clone(), ending.clone())?;
        }
        Ok(Scrub {
            stop: Some(stop),
            ended,
        })
    }
}

impl Storage {
    /// Starts the scrub of the local store. The drop of the sender of `stopped` ends the scrub, and its
    /// end drops `ending`.
    fn scrub(
        &self,
        interval: Duration,
        rate: u64,
        stopped: Receiver<()>,
        ending: Sender<()>,
    ) -> std::io::Result<()> {
        if let Some(store) = self.local().cloned().filter(|_| !interval.is_zero()) {
            let scrub = move || {
                sys::lower_io_priority();
                let mut scrubber = Scrubber {
                    store: &store,
                    interval,
                    pacer: Pacer::new(rate, stopped),
                    record: store.read_scrub_record(),
                    unsaved: false,
                    saved_at: None,
                };
                scrubber.run();
                scrubber.save();
                drop(ending);
            };
            thread::Builder::new().name("store-scrub".into()).spawn(scrub)?;
        }
        Ok(())
    }
}

/// The thread's view of the store.
struct Scrubber<'a> {
    store: &'a FsStore,
    interval: Duration,
    pacer: Pacer,
    record: ScrubRecord,
    /// Whether `record` has changed since the last write.
    unsaved: bool,
    /// The time of the last write, in milliseconds of the monotonic clock.
    saved_at: Option<u64>,
}

/// The results of a part of a pass, since the begin of the pass or of the process.
#[derive(Default)]
struct Tally {
    objects: u64,
    bytes: u64,
    damaged: u64,
    unreadable: u64,
}

impl Scrubber<'_> {
    /// Runs passes until the stop.
    fn run(&mut self) {
        while !self.store.is_scanned() {
            if !self.pacer.wait(SCAN_LOOK) {
                return;
            }
        }
        let mut goes_on = self.pacer.wait(SCRUB_START_DELAY.min(self.interval));
        while goes_on {
            goes_on = self.wait_until_due() && self.pass() && self.pacer.wait(SCRUB_PAUSE_MIN);
        }
    }

    /// Waits until the next pass is due. Returns false after a stop.
    fn wait_until_due(&mut self) -> bool {
        loop {
            let due_in = self.record.due_in(unix_seconds(), self.interval);
            if due_in.is_zero() {
                return true;
            }
            // The wall clock may jump during a long wait.
            if !self.pacer.wait(due_in.min(SCRUB_SAVE_INTERVAL)) {
                return false;
            }
            self.save_if_due();
        }
    }

    /// Hashes all entries, from the position in the record on. Returns false after a stop.
    fn pass(&mut self) -> bool {
        let is_resumed = self.record.position.is_some();
        if !is_resumed {
            self.record.pass_began_at = Some(unix_seconds());
        }
        tracing::debug!(resumed = is_resumed, "store scrub started");
        let began = monotonic_millis();
        let mut tally = Tally::default();
        loop {
            let position = self.record.position;
            let keys = self.store.entries_after(position.as_ref(), VERIFY_PART_OBJECTS);
            if keys.is_empty() {
                break;
            }
            for same_digest in keys.chunk_by(|a, b| a.digest() == b.digest()) {
                for key in same_digest {
                    if !self.verify(key, &mut tally) {
                        return false;
                    }
                }
                self.record.position = same_digest.last().map(|key| *key.digest());
                self.unsaved = true;
                self.save_if_due();
            }
        }
        let now = unix_seconds();
        self.record = self.record.completed(now);
        self.store.record_scrub_end(now);
        self.unsaved = true;
        self.save_if_due();
        tracing::info!(
            objects = tally.objects,
            bytes = tally.bytes,
            damaged = tally.damaged,
            unreadable = tally.unreadable,
            resumed = is_resumed,
            duration_s = (monotonic_millis() - began) / 1_000,
            directory = self.store.registry_dir(),
            "store scrubbed"
        );
        true
    }

    /// Hashes one entry. Returns false after a stop.
    fn verify(&mut self, key: &Key, tally: &mut Tally) -> bool {
        let is_searched = tally.damaged < VERIFY_DETAILS_MAX as u64;
        let options = VerifyOptions {
            pages: ReadPages::Dropped,
            is_changing: true,
            images_max: if is_searched { DAMAGED_IMAGES_MAX } else { 0 },
        };
        let (store, pacer) = (self.store, &mut self.pacer);
        let verify = || {
            hit("store-scrub");
            store.verify(key, options, &mut |bytes| pacer.take(bytes))
        };
        // A panic is a bug that concerns this entry.
        match catch_unwind(AssertUnwindSafe(verify)) {
            Ok(Verification::Stopped) => return false,
            Ok(Verification::Absent) => {}
            Ok(Verification::Intact { bytes }) => {
                tally.objects += 1;
                tally.bytes += bytes;
            }
            Ok(Verification::Damaged(damage)) => {
                tally.objects += 1;
                tally.bytes += damage.bytes;
                tally.damaged += 1;
            }
            Ok(Verification::Unreadable(error)) => {
                tracing::debug!(%error, "entry not verified");
                tally.unreadable += 1;
            }
            Err(_) => {
                tracing::error!(entry = key.path(), "store scrub panicked");
                tally.unreadable += 1;
            }
        }
        true
    }

    fn save_if_due(&mut self) {
        let interval = u64::try_from(SCRUB_SAVE_INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let is_due = |at| monotonic_millis() - at >= interval;
        if self.saved_at.is_none_or(is_due) {
            self.save();
        }
    }

    /// Writes the progress, if it has changed.
    fn save(&mut self) {
        if !std::mem::take(&mut self.unsaved) {
            return;
        }
        self.saved_at = Some(monotonic_millis());
        if let Err(error) = self.store.write_scrub_record(&self.record) {
            tracing::warn!(%error, "scrub progress not written");
        }
    }
}
