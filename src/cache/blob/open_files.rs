//! The open files of committed blobs on one core. A hit on an open file needs no lookup.

use std::cell::RefCell;

use crate::lru::Lru;
use crate::oci::Digest;
use crate::storage::StoredEntry;

/// The open files of one core. The least recently used file is closed first.
pub struct OpenFiles(RefCell<Lru<Digest, OpenFile>>);

/// A committed blob, opened.
#[derive(Clone)]
pub(super) struct OpenFile {
    pub entry: StoredEntry,
    /// Whether every client may read the blob. May be true before the entry records the fact.
    pub public: bool,
}

impl OpenFiles {
    /// Keeps at most `max` files open.
    pub fn new(max: usize) -> Self {
        OpenFiles(RefCell::new(Lru::new(max as u64, max)))
    }

    /// Closes the file of `digest`.
    pub fn remove(&self, digest: &Digest) {
        self.0.borrow_mut().remove(digest);
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<OpenFile> {
        self.0.borrow_mut().get(digest).map(|file| file.clone())
    }

    pub(super) fn insert(&self, digest: Digest, file: OpenFile) {
        self.0.borrow_mut().insert(digest, file, 1);
    }
}
