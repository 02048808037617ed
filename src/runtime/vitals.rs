//! Signs of life: who must not fall silent beats, the watchdog listens, and health checks read what it heard.
//!
//! Atomics only, so that it can be read when everything else hangs. The listening is in `watchdog`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use super::clock::monotonic_micros;
use super::shutdown::Shutdown;
use crate::fail_point::reach;
use crate::limits::BEAT;

/// The beats of one core, or of something else that must not fall silent. Each lies in memory of its own, so that cores
/// do not write to each other's cache lines.
#[derive(Clone, Debug, Default)]
pub struct Pulse(Arc<State>);

#[derive(Debug, Default)]
struct State {
    beats: AtomicU64,
    silent: AtomicBool,
    /// The kernel's number of the thread that beats; 0 when it is nobody's in particular.
    thread: AtomicI32,
    /// The latest that a beat has been since somebody asked, in microseconds.
    delay_micros_max: AtomicU64,
}

impl Pulse {
    pub fn beat(&self) {
        self.0.beats.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn beats(&self) -> u64 {
        self.0.beats.load(Ordering::Relaxed)
    }

    /// Whether the watchdog has missed it for too long.
    pub fn is_silent(&self) -> bool {
        self.0.silent.load(Ordering::Relaxed)
    }

    pub(super) fn set_silent(&self, silent: bool) {
        self.0.silent.store(silent, Ordering::Relaxed);
    }

    pub(super) fn thread(&self) -> Option<i32> {
        Some(self.0.thread.load(Ordering::Relaxed)).filter(|&thread| thread != 0)
    }

    /// Names the thread that beats.
    pub(super) fn set_thread(&self, thread: i32) {
        self.0.thread.store(thread, Ordering::Relaxed);
    }

    /// The longest that the loop kept a beat waiting since the last call, in microseconds.
    pub(super) fn take_delay_micros_max(&self) -> u64 {
        self.0.delay_micros_max.swap(0, Ordering::Relaxed)
    }
}

/// Beats from the calling core's loop for as long as the core runs, and notes how late the loop lets it.
pub async fn keep_beating(pulse: Pulse) {
    let thread = rustix::thread::gettid().as_raw_nonzero().get();
    pulse.set_thread(thread);
    let every = u64::try_from(BEAT.as_micros()).unwrap_or(u64::MAX);
    loop {
        reach("beat");
        pulse.beat();
        let due = monotonic_micros() + every;
        monoio::time::sleep(BEAT).await;
        let late = monotonic_micros().saturating_sub(due);
        pulse.0.delay_micros_max.fetch_max(late, Ordering::Relaxed);
    }
}

/// The pulses of a whole process.
#[derive(Clone, Debug)]
pub struct Vitals {
    cores: Arc<[Pulse]>,
    helper: Pulse,
    helper_threads: Arc<[Pulse]>,
    store: Pulse,
    shutdown: Shutdown,
}

/// Why the process is not well. The texts are what a health check answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unwell {
    #[error("a core does not move")]
    Core,
    #[error("starting")]
    Starting,
    #[error("stopping")]
    Stopping,
    /// Without its pool nothing is looked up and no upstream asked: requests would wait for ever.
    #[error("the helper threads do not answer")]
    Helper,
}

impl Vitals {
    pub fn new(cores: usize, helper_threads: usize, shutdown: Shutdown) -> Self {
        Vitals {
            cores: (0..cores).map(|_| Pulse::default()).collect(),
            helper: Pulse::default(),
            helper_threads: (0..helper_threads).map(|_| Pulse::default()).collect(),
            store: Pulse::default(),
            shutdown,
        }
    }

    pub fn cores(&self) -> &[Pulse] {
        &self.cores
    }

    /// Of the helper pool: a task that goes round through a blocking thread.
    pub fn helper(&self) -> &Pulse {
        &self.helper
    }

    /// Of each thread of the helper pool: one that is held up keeps the tasks that it has begun, while the others go on.
    pub fn helper_threads(&self) -> &[Pulse] {
        &self.helper_threads
    }

    /// Of the store: a lookup that came back.
    pub fn store(&self) -> &Pulse {
        &self.store
    }

    /// Whether every core moves.
    ///
    /// # Errors
    ///
    /// One does not, and only a restart helps.
    pub fn alive(&self) -> Result<(), Unwell> {
        if self.cores.iter().any(Pulse::is_silent) {
            Err(Unwell::Core)
        } else {
            Ok(())
        }
    }

    /// Whether clients should be sent here.
    ///
    /// # Errors
    ///
    /// Not now: the process starts, stops, or would leave requests waiting.
    pub fn ready(&self) -> Result<(), Unwell> {
        self.alive()?;
        if self.shutdown.leaving() {
            Err(Unwell::Stopping)
        } else if self.shutdown.accepting() == 0 {
            Err(Unwell::Starting)
        } else if self.helper.is_silent() || self.helper_threads.iter().any(Pulse::is_silent) {
            Err(Unwell::Helper)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_dead_core_ends_liveness_and_everything_that_hangs_ends_readiness() {
        let shutdown = Shutdown::default();
        let vitals = Vitals::new(2, 2, shutdown.clone());
        assert_eq!((vitals.alive(), vitals.ready()), (Ok(()), Err(Unwell::Starting)));
        let _accepting = shutdown.count_listener();
        assert_eq!(vitals.ready(), Ok(()));
        vitals.store().set_silent(true);
        assert_eq!(vitals.ready(), Ok(()), "pulls go on without the store");
        vitals.helper().set_silent(true);
        assert_eq!((vitals.alive(), vitals.ready()), (Ok(()), Err(Unwell::Helper)));
        vitals.helper().set_silent(false);
        for thread in vitals.helper_threads() {
            thread.set_silent(true);
            assert_eq!((vitals.alive(), vitals.ready()), (Ok(()), Err(Unwell::Helper)));
            thread.set_silent(false);
        }
        vitals.cores()[1].set_silent(true);
        assert_eq!(
            (vitals.alive(), vitals.ready()),
            (Err(Unwell::Core), Err(Unwell::Core))
        );
        vitals.cores()[1].set_silent(false);
        shutdown.leave();
        assert_eq!((vitals.alive(), vitals.ready()), (Ok(()), Err(Unwell::Stopping)));
        assert!(!shutdown.draining());
    }
}
