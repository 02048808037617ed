//! The thread that writes the references that clients requested and the store lacked.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::cache::Cache;
use crate::limits::MISSING_WRITE_INTERVAL;
use crate::store::FsStore;

/// The running thread. The drop writes the last changes.
pub(super) struct MissingFile {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl MissingFile {
    /// Restores the references of the file, and starts the thread.
    ///
    /// # Errors
    ///
    /// The thread cannot be created.
    pub fn start(store: Arc<FsStore>, cache: Cache) -> io::Result<Self> {
        cache.restore_missing(store.read_missing());
        let (stop, stopped) = bounded(0);
        let work = move || write_changes(&store, &cache, &stopped);
        let thread = thread::Builder::new().name("missing-file".into()).spawn(work)?;
        Ok(MissingFile {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for MissingFile {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread has logged its panic.
            let _ = thread.join();
        }
    }
}

fn write_changes(store: &FsStore, cache: &Cache, stopped: &Receiver<()>) {
    let mut written = 0;
    loop {
        let is_stopped = stopped.recv_timeout(MISSING_WRITE_INTERVAL) == Err(RecvTimeoutError::Disconnected);
        if cache.missing_changes() != written {
            let (references, changes) = cache.missing();
            match store.write_missing(references) {
                Ok(()) => written = changes,
                Err(error) => tracing::warn!(%error, "record of missing references not written"),
            }
        }
        if is_stopped {
            return;
        }
    }
}
