//! The open files of committed blobs on one core. A hit on an open file needs no lookup.

use std::cell::RefCell;

use crate::limits::USE_REPORT_INTERVAL;
use crate::lru::Lru;
use crate::oci::{Digest, DigestPrefix};
use crate::runtime::clock::monotonic_seconds;
use crate::storage::{StoreNumber, StoredEntry};

/// The open files of one core. The least recently used file is closed first.
pub struct OpenFiles {
    files: RefCell<Lru<FileKey, Held>>,
    /// Content with a use to report, at most once per [`USE_REPORT_INTERVAL`] and file.
    used: RefCell<Vec<DigestPrefix>>,
}

/// The store of a file, and its content.
type FileKey = (StoreNumber, Digest);

/// A committed blob, opened.
#[derive(Clone)]
pub(super) struct OpenFile {
    pub entry: StoredEntry,
    /// Whether every client may read the blob. May be true before the entry records the fact.
    pub public: bool,
}

struct Held {
    file: OpenFile,
    /// The time of the last reported use, in seconds of the monotonic clock.
    reported_at: u32,
}

impl OpenFiles {
    /// Keeps at most `max` files open.
    pub fn new(max: usize) -> Self {
        OpenFiles {
            files: RefCell::new(Lru::new(max as u64, max)),
            used: RefCell::default(),
        }
    }

    /// Closes the files of `digest` in all stores.
    pub fn close(&self, digest: &Digest) {
        let mut files = self.files.borrow_mut();
        files.retain(|(_, known), _| known != digest);
    }

    /// Closes the file of `digest` in one store.
    pub(super) fn remove(&self, store: StoreNumber, digest: Digest) {
        self.files.borrow_mut().remove(&(store, digest));
    }

    /// Closes the files whose content `is_removed`.
    pub fn close_removed(&self, is_removed: impl Fn(DigestPrefix) -> bool) {
        let mut files = self.files.borrow_mut();
        files.retain(|(_, digest), _| !is_removed(digest.prefix()));
    }

    /// Returns the content that was used, each at most once per [`USE_REPORT_INTERVAL`].
    pub fn take_used(&self) -> Vec<DigestPrefix> {
        self.used.take()
    }

    pub(super) fn get(&self, store: StoreNumber, digest: Digest) -> Option<OpenFile> {
        let mut files = self.files.borrow_mut();
        let held = files.get(&(store, digest))?;
        let now = monotonic_seconds();
        if u64::from(now.wrapping_sub(held.reported_at)) >= USE_REPORT_INTERVAL.as_secs() {
            held.reported_at = now;
            self.used.borrow_mut().push(digest.prefix());
        }
        Some(held.file.clone())
    }

    /// Keeps `file` open. The lookup that opened the file counts as a use.
    pub(super) fn insert(&self, store: StoreNumber, digest: Digest, file: OpenFile) {
        let reported_at = monotonic_seconds();
        let held = Held { file, reported_at };
        self.files.borrow_mut().insert((store, digest), held, 1);
    }
}
