//! Heartbeats of the cores, the helper pool and the store. The watchdog checks the ticks, and health
//! checks read the result.
//!
//! The state consists of atomics only, so health checks work while everything else hangs. The
//! heartbeat monitors are in `watchdog`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::clock::monotonic_micros;
use super::shutdown::Shutdown;
use crate::fail_point::hit;
use crate::limits::{DELAY_REPORTS_KEPT, HEARTBEAT_INTERVAL};

/// The heartbeat of one core, or of another monitored part. Each heartbeat has its own allocation,
/// so cores do not write to shared cache lines.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<State>);

#[derive(Debug, Default)]
struct State {
    ticks: AtomicU64,
    silent: AtomicBool,
    /// Kernel ID of the ticking thread; 0 if several threads tick.
    thread: AtomicI32,
    /// The largest delay of a tick since the last read, in microseconds.
    delay_micros_max: AtomicU64,
    /// The results of the last reads of `delay_micros_max`, the oldest at the index `reads`.
    delay_micros_before: [AtomicU64; DELAY_REPORTS_KEPT],
    /// The number of reads of `delay_micros_max`.
    reads: AtomicUsize,
}

impl Heartbeat {
    pub fn tick(&self) {
        self.0.ticks.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ticks(&self) -> u64 {
        self.0.ticks.load(Ordering::Relaxed)
    }

    /// Returns whether the heartbeat is overdue.
    pub fn is_silent(&self) -> bool {
        self.0.silent.load(Ordering::Relaxed)
    }

    pub(super) fn set_silent(&self, silent: bool) {
        self.0.silent.store(silent, Ordering::Relaxed);
    }

    pub(super) fn thread(&self) -> Option<i32> {
        Some(self.0.thread.load(Ordering::Relaxed)).filter(|&thread| thread != 0)
    }

    /// Sets the kernel ID of the ticking thread.
    pub(super) fn set_thread(&self, thread: i32) {
        self.0.thread.store(thread, Ordering::Relaxed);
    }

    /// Returns the largest delay of a tick since the last call, in microseconds.
    pub(super) fn take_delay_micros_max(&self) -> u64 {
        let micros = self.0.delay_micros_max.swap(0, Ordering::Relaxed);
        let read = self.0.reads.fetch_add(1, Ordering::Relaxed);
        self.0.delay_micros_before[read % DELAY_REPORTS_KEPT].store(micros, Ordering::Relaxed);
        micros
    }

    /// Returns the largest delay of a tick since the last read, and within the last
    /// [`DELAY_REPORTS_KEPT`] reads before. Repeated calls return the same delay, so the metrics can have
    /// several readers.
    pub fn recent_delay_max(&self) -> Duration {
        let now = self.0.delay_micros_max.load(Ordering::Relaxed);
        let before = self.0.delay_micros_before.iter();
        let before = before.map(|micros| micros.load(Ordering::Relaxed));
        Duration::from_micros(before.fold(now, u64::max))
    }
}

/// Ticks from the calling core's loop until the core ends. Records the delay of each tick.
pub async fn run_heartbeat(heartbeat: Heartbeat) {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    heartbeat.set_thread(thread);
    let every = u64::try_from(HEARTBEAT_INTERVAL.as_micros()).unwrap_or(u64::MAX);
    loop {
        hit("heartbeat");
        heartbeat.tick();
        let due = monotonic_micros() + every;
        monoio::time::sleep(HEARTBEAT_INTERVAL).await;
        let late = monotonic_micros().saturating_sub(due);
        heartbeat.0.delay_micros_max.fetch_max(late, Ordering::Relaxed);
    }
}

/// The heartbeats of the whole process.
#[derive(Clone, Debug)]
pub struct Health {
    cores: Arc<[Heartbeat]>,
    helper: Heartbeat,
    helper_threads: Arc<[Heartbeat]>,
    store: Heartbeat,
    shutdown: Shutdown,
}

/// The reason for an unhealthy process. Health checks return these texts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HealthError {
    #[error("a core does not respond")]
    Core,
    #[error("starting")]
    Starting,
    #[error("stopping")]
    Stopping,
    /// Without the helper pool, lookups and upstream requests never finish, so clients would wait
    /// indefinitely.
    #[error("the helper threads do not respond")]
    Helper,
}

impl Health {
    pub fn new(cores: usize, helper_threads: usize, shutdown: Shutdown) -> Self {
        Health {
            cores: (0..cores).map(|_| Heartbeat::default()).collect(),
            helper: Heartbeat::default(),
            helper_threads: (0..helper_threads).map(|_| Heartbeat::default()).collect(),
            store: Heartbeat::default(),
            shutdown,
        }
    }

    pub fn cores(&self) -> &[Heartbeat] {
        &self.cores
    }

    /// Returns the heartbeat of the helper pool, ticked by a task after a run on a blocking thread.
    pub fn helper(&self) -> &Heartbeat {
        &self.helper
    }

    /// Returns the heartbeats of the helper pool's threads. A blocked thread keeps its tasks, while
    /// the other threads continue.
    pub fn helper_threads(&self) -> &[Heartbeat] {
        &self.helper_threads
    }

    /// Returns the heartbeat of the store, ticked after each completed lookup.
    pub fn store(&self) -> &Heartbeat {
        &self.store
    }

    /// Checks liveness: all cores tick.
    ///
    /// # Errors
    ///
    /// Fails if a core is silent. Only a restart helps.
    pub fn alive(&self) -> Result<(), HealthError> {
        if self.cores.iter().any(Heartbeat::is_silent) {
            Err(HealthError::Core)
        } else {
            Ok(())
        }
    }

    /// Checks readiness for client requests.
    ///
    /// # Errors
    ///
    /// Fails while the process starts or stops, and while requests would hang.
    pub fn ready(&self) -> Result<(), HealthError> {
        self.alive()?;
        if self.shutdown.leaving() {
            Err(HealthError::Stopping)
        } else if self.shutdown.accepting() == 0 {
            Err(HealthError::Starting)
        } else if self.helper.is_silent() || self.helper_threads.iter().any(Heartbeat::is_silent) {
            Err(HealthError::Helper)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_delay_ends_after_the_kept_reports() {
        let heartbeat = Heartbeat::default();
        heartbeat.0.delay_micros_max.store(700, Ordering::Relaxed);
        let delay = Duration::from_micros(700);
        assert_eq!(
            [heartbeat.recent_delay_max(), heartbeat.recent_delay_max()],
            [delay; 2]
        );
        assert_eq!(heartbeat.take_delay_micros_max(), 700);
        for _ in 1..DELAY_REPORTS_KEPT {
            assert_eq!(heartbeat.take_delay_micros_max(), 0);
            assert_eq!(heartbeat.recent_delay_max(), delay);
        }
        assert_eq!(heartbeat.take_delay_micros_max(), 0);
        assert_eq!(heartbeat.recent_delay_max(), Duration::ZERO);
    }

    #[test]
    fn only_a_dead_core_ends_liveness_and_everything_that_hangs_ends_readiness() {
        let shutdown = Shutdown::default();
        let health = Health::new(2, 2, shutdown.clone());
        assert_eq!(
            (health.alive(), health.ready()),
            (Ok(()), Err(HealthError::Starting))
        );
        let _accepting = shutdown.count_listener();
        assert_eq!(health.ready(), Ok(()));
        health.store().set_silent(true);
        assert_eq!(health.ready(), Ok(()), "pulls continue without the store");
        health.helper().set_silent(true);
        assert_eq!(
            (health.alive(), health.ready()),
            (Ok(()), Err(HealthError::Helper))
        );
        health.helper().set_silent(false);
        for thread in health.helper_threads() {
            thread.set_silent(true);
            assert_eq!(
                (health.alive(), health.ready()),
                (Ok(()), Err(HealthError::Helper))
            );
            thread.set_silent(false);
        }
        health.cores()[1].set_silent(true);
        assert_eq!(
            (health.alive(), health.ready()),
            (Err(HealthError::Core), Err(HealthError::Core))
        );
        health.cores()[1].set_silent(false);
        shutdown.leave();
        assert_eq!(
            (health.alive(), health.ready()),
            (Ok(()), Err(HealthError::Stopping))
        );
        assert!(!shutdown.draining());
    }
}
