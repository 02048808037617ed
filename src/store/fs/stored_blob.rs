//! A stored blob, with the images that name it.

use super::FsStore;
use crate::oci::Digest;
use crate::store::Key;
use crate::store::index::{ObjectFacts, images_naming};

/// A stored blob.
#[derive(Clone, Debug)]
pub struct StoredBlob {
    pub facts: ObjectFacts,
    /// The references of the images that name the blob, sorted.
    pub images: Vec<String>,
}

impl FsStore {
    /// Returns a stored blob, with at most `images_max` images that name it. `None` before the scan has
    /// found the blob.
    pub fn stored_blob(&self, digest: &Digest, images_max: usize) -> Option<StoredBlob> {
        let key = Key::Blob(*digest);
        let facts = self.index.lock().facts(&key)?;
        Some(StoredBlob {
            facts,
            images: images_naming(|| self.index.lock(), &key, images_max),
        })
    }
}
