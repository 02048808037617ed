//! Stop: say so, stop accepting, finish what runs, leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the whole process knows about stopping; checked by cores several times a second and between requests.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<State>);

#[derive(Debug, Default)]
struct State {
    leaving: AtomicBool,
    draining: AtomicBool,
    accepting: AtomicUsize,
    running: AtomicUsize,
}

/// Counts one connection as long as it lives.
#[derive(Debug)]
pub struct Running(Shutdown);

/// Counts one listener as long as somebody accepts on it.
#[derive(Debug)]
pub struct Accepting(Shutdown);

impl Shutdown {
    /// Has readiness fail; everything else goes on, so that load balancers can look elsewhere first.
    pub fn leave(&self) {
        self.0.leaving.store(true, Ordering::Release);
    }

    /// Asks everybody to finish.
    pub fn drain(&self) {
        self.leave();
        self.0.draining.store(true, Ordering::Release);
    }

    /// Whether the process will stop, now or soon.
    pub fn leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Acquire)
    }

    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Connections alive.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    /// Listeners that are being accepted on, counted once for each core.
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
