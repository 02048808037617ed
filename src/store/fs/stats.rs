//! The state of a store in numbers.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;

use super::{EvictionCounts, FsStore};
use crate::oci::Namespace;
use crate::store::bounds::Bounds;
use crate::store::index::RegistryUsage;
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
    /// Objects that this process evicted.
    pub evictions: EvictionCounts,
    /// The time from the last use to the eviction of the content evicted last, in seconds. `None`
    /// before the first eviction of this process.
    pub last_evicted_age_seconds: Option<u64>,
    /// Entries that this process hashed with success, each time.
    pub verified_objects: u64,
    /// Entries that this process found damaged.
    pub damaged_objects: u64,
    /// The end of the last scrub of the whole store, in seconds since 1970.
    pub scrub_completed_at: Option<u64>,
}

/// The content of a source registry. Content of several registries counts for each of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryContent {
    pub registry: Namespace,
    /// Blobs, manifests and tags.
    pub objects: u64,
    /// Bytes on the disk.
    pub bytes: u64,
    /// The bound of the registry, otherwise of the store. `None` without a bound.
    pub bytes_max: Option<u64>,
    /// Objects evicted since the start.
    pub evictions: u64,
}

impl FsStore {
    /// Returns the content of each registry that has content or had evictions, and of each of the
    /// registries `also`.
    pub fn registry_contents(&self, also: &BTreeSet<Namespace>) -> Vec<RegistryContent> {
        let space = Space::of(&self.root);
        let of_store = Bounds::new(&self.bounds, &space).size_max;
        let mut usages = self.index.lock().registry_usages().to_vec();
        let known: HashSet<Namespace> = usages.iter().map(|usage| usage.registry.clone()).collect();
        usages.retain(|usage| usage.objects > 0 || usage.evictions > 0 || also.contains(&usage.registry));
        let unknown = also.iter().filter(|registry| !known.contains(registry));
        usages.extend(unknown.cloned().map(RegistryUsage::of_none));
        let contents = usages.into_iter().map(|usage| {
            let own = self.registry_bounds(&usage.registry, &space);
            RegistryContent {
                bytes_max: own.and_then(|bounds| bounds.size_max).or(of_store),
                registry: usage.registry,
                objects: usage.objects,
                bytes: usage.bytes,
                evictions: usage.evictions,
            }
        });
        contents.collect()
    }

    /// Returns the names of the registries whose content fills nine tenths of their own bound.
    pub fn full_registries(&self) -> Vec<String> {
        let space = Space::of(&self.root);
        let usages = self.index.lock().registry_usages().to_vec();
        let full = usages.into_iter().filter(|usage| {
            let size_max = self
                .registry_bounds(&usage.registry, &space)
                .and_then(|bounds| bounds.size_max);
            size_max.is_some_and(|max| usage.bytes + usage.reserved >= max - max / 10)
        });
        full.map(|usage| usage.registry.to_string()).collect()
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
            object_bytes_max: (bounds.object_max < u64::MAX).then_some(bounds.object_max),
            free_bytes: space.free_bytes,
            free_bytes_min: bounds.free_min,
            evictions: self.evictions.counts(),
            last_evicted_age_seconds: self.evictions.last_age_seconds(),
            verified_objects: self.verifications.verified.load(Ordering::Relaxed),
            damaged_objects: self.verifications.damaged.load(Ordering::Relaxed),
            scrub_completed_at: Some(self.verifications.scrub_completed_at.load(Ordering::Relaxed))
                .filter(|&at| at > 0),
        }
    }
}
