//! Stop: stop accepting, finish what runs, leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What the whole process knows about stopping; checked by cores several times a second and between requests.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(Arc<State>);

#[derive(Debug, Default)]
struct State {
    draining: AtomicBool,
    running: AtomicUsize,
}

/// Counts one connection as long as it lives.
#[derive(Debug)]
pub struct Running(Shutdown);

impl Shutdown {
    /// Asks everybody to finish.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub fn draining(&self) -> bool {
        self.0.draining.load(Ordering::Acquire)
    }

    /// Connections alive.
    pub fn running(&self) -> usize {
        self.0.running.load(Ordering::Acquire)
    }

    pub fn count(&self) -> Running {
        self.0.running.fetch_add(1, Ordering::AcqRel);
        Running(self.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Ordering::AcqRel);
    }
}
