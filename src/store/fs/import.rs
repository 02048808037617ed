//! Blobs of an import, which enter the store before an image names them.

use std::collections::HashSet;

use super::find::EntryState;
use super::{FsStore, Ingest, failed, layout};
use crate::oci::Digest;
use crate::store::{Key, StoreError};

impl Ingest {
    /// Changes the digest of a blob whose digest is known at its end. Every blob is in the same directory.
    pub fn set_blob(&mut self, digest: Digest) {
        debug_assert!(matches!(self.key, Key::Blob(_)));
        self.key = Key::Blob(digest);
    }
}

impl FsStore {
    /// Marks a stored entry as public.
    ///
    /// # Errors
    ///
    /// The entry is unchanged.
    pub fn mark_public(&self, key: &Key) -> Result<(), StoreError> {
        let _naming = self.naming.lock();
        if let EntryState::Entry(entry) = self.look(key).map_err(failed("read", &layout::sidecar(key)))? {
            self.learn(key, &entry, &[], true)?;
        }
        Ok(())
    }

    /// Removes those of `blobs` that no manifest of the store names. Returns their number. Before the end
    /// of the scan, the store does not know all manifests, and a blob too many costs one fetch.
    pub fn remove_unreferenced(&self, blobs: &HashSet<Digest>) -> u64 {
        let references = self.blob_references(|digest| blobs.contains(digest), blobs.len());
        let unnamed = references.into_iter().filter(|(_, references)| *references == 0);
        let removed = unnamed.filter(|(digest, _)| {
            let _naming = self.naming.lock();
            self.remove(&Key::Blob(*digest))
        });
        removed.count() as u64
    }
}
