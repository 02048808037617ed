//! The state of a store in numbers.

use std::sync::atomic::Ordering;

use super::FsStore;
use crate::store::bounds::Bounds;
use crate::store::space::Space;

/// The state of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
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
    /// The bound of a single object, if any.
    pub object_bytes_max: Option<u64>,
    /// Free bytes of the file system, and the bytes that the store leaves free.
    pub free_bytes: u64,
    pub free_bytes_min: u64,
    /// Entries that this process hashed with success, each time.
    pub verified_objects: u64,
    /// Entries that this process found damaged.
    pub damaged_objects: u64,
    /// The end of the last scrub of the whole store, in seconds since 1970.
    pub scrub_completed_at: Option<u64>,
}

impl FsStore {
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
            object_bytes_max: (bounds.object_max < u64::MAX).then_some(bounds.object_max),
            free_bytes: space.free_bytes,
            free_bytes_min: bounds.free_min,
            verified_objects: self.verifications.verified.load(Ordering::Relaxed),
            damaged_objects: self.verifications.damaged.load(Ordering::Relaxed),
            scrub_completed_at: Some(self.verifications.scrub_completed_at.load(Ordering::Relaxed))
                .filter(|&at| at > 0),
        }
    }
}
