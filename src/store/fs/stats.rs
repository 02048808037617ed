//! The state of a store in numbers.

use super::FsStore;
use crate::oci::Digest;
use crate::store::bounds::Bounds;
use crate::store::index::IndexedBlob;
use crate::store::space::Space;

/// The state of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStats {
    /// Whether the scan at start has ended. Before, the numbers are too small.
    pub scanned: bool,
    /// Blobs, manifests and tags.
    pub objects: usize,
    /// Bytes on the disk.
    pub bytes: u64,
    /// Bytes reserved for unfinished downloads.
    pub reserved_bytes: u64,
    /// The bound of the bytes, if any.
    pub bytes_max: Option<u64>,
    /// Free bytes of the file system, and the bytes that the store leaves free.
    pub free_bytes: u64,
    pub free_bytes_min: u64,
}

impl FsStore {
    /// Returns whether the scan at start has ended.
    pub fn is_scanned(&self) -> bool {
        self.index.lock().is_whole()
    }

    /// Returns a stored blob with the manifests that name it. `None` before the scan has found it.
    pub fn blob_uses(&self, digest: &Digest) -> Option<IndexedBlob> {
        self.index.lock().blob(digest)
    }

    pub fn stats(&self) -> StoreStats {
        let space = Space::of(&self.root);
        let bounds = Bounds::new(&self.bounds, &space);
        let index = self.index.lock();
        StoreStats {
            scanned: index.is_whole(),
            objects: index.len(),
            bytes: index.bytes(),
            reserved_bytes: index.reserved(),
            bytes_max: bounds.size_max,
            free_bytes: space.free_bytes,
            free_bytes_min: bounds.free_min,
        }
    }
}
