//! A stored blob, with the images that name it.

use std::sync::Arc;

use super::FsStore;
use crate::oci::{Digest, Namespace, Origin};
use crate::store::Key;
use crate::store::index::{ObjectFacts, blob_references, images_naming};

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

    /// Returns at most `count` repositories of a registry with the manifest `digest`. Before the end of the
    /// scan, repositories may be absent.
    pub fn repositories_with(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        count: usize,
    ) -> Vec<Arc<Origin>> {
        self.index.lock().repositories_with(namespace, digest, count)
    }

    /// Returns the `count` lowest digests of stored blobs that `is_wanted`, each with the number of
    /// manifests that name it. Before the end of the scan, the numbers are too small.
    pub fn blob_references(&self, is_wanted: impl Fn(&Digest) -> bool, count: usize) -> Vec<(Digest, u64)> {
        blob_references(|| self.index.lock(), is_wanted, count)
    }
}
