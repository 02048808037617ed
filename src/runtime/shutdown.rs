//! Graceful shutdown: fail readiness, stop accepting, finish connections, exit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The shutdown state of the process. Cores check the state several times per second and between
/// requests.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<State>);

#[derive(Debug, Default)]
struct State {
    leaving: AtomicBool,
    draining: AtomicBool,
    accepting: AtomicUsize,
    running: AtomicUsize,
}

/// A connection. Counted until dropped.
#[derive(Debug)]
pub struct Running(Shutdown);

/// A listener of one core. Counted until dropped.
#[derive(Debug)]
pub struct Accepting(Shutdown);

impl Shutdown {
    /// Makes readiness fail. Everything else continues, so load balancers can switch to other
    /// instances first.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Release);
    }

    /// Starts the drain: cores stop accepting and finish their connections.
    pub fn drain(&self) {
        self.leave();
        self.0.draining.store(true, Ordering::Release);
    }

    /// Returns whether the process is stopping or will stop soon.
    pub fn leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Acquire)
    }

    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Returns the number of open connections.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    /// Returns the number of accepting listeners, counted once per core.
    pub fn accepting(&self) -> usize {
        self.0.accepting.load(Ordering::Acquire)
    }

    pub fn count(&self) -> Running {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        Running(self.clone())
    }

    pub fn count_listener(&self) -> Accepting {
        self.0.accepting.fetch_add(1, Ordering::AcqRel);
        Accepting(self.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.0.accepting.fetch_sub(1, Ordering::AcqRel);
    }
}
