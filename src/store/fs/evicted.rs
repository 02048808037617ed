//! The content that evictions removed, by the reason.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::store::bounds::EvictionReason;
use crate::store::eviction::Minute;

/// The content that an eviction removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Evicted {
    pub objects: u64,
    pub bytes: u64,
    /// The last use of the victim that was used last.
    pub last_use: Minute,
    /// `objects` by the reason.
    pub by_reason: EvictionCounts,
}

/// Evicted objects by the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvictionCounts {
    /// The store was larger than `CACHE_MAX_SIZE`.
    pub size: u64,
    /// The file system had less free space than `CACHE_MIN_FREE`.
    pub free_space: u64,
    /// The file system had few free inodes.
    pub free_inodes: u64,
}

/// The evictions of this process.
#[derive(Debug, Default)]
pub(super) struct EvictionTotals {
    by_reason: [AtomicU64; 3],
    /// The time from the last use to the eviction of the content evicted last, in seconds plus 1. 0
    /// before the first eviction.
    last_age: AtomicU64,
}

impl Evicted {
    pub(super) fn add(&mut self, other: Evicted) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.last_use = self.last_use.max(other.last_use);
        self.by_reason.add(other.by_reason);
    }
}

impl EvictionCounts {
    pub(super) fn of(reason: EvictionReason, objects: u64) -> Self {
        let mut counts = EvictionCounts::default();
        *match reason {
            EvictionReason::Size => &mut counts.size,
            EvictionReason::FreeSpace => &mut counts.free_space,
            EvictionReason::FreeInodes => &mut counts.free_inodes,
        } = objects;
        counts
    }

    pub fn add(&mut self, other: EvictionCounts) {
        self.size += other.size;
        self.free_space += other.free_space;
        self.free_inodes += other.free_inodes;
    }
}

impl EvictionTotals {
    pub fn add(&self, evicted: &Evicted, now: Minute) {
        if evicted.objects == 0 {
            return;
        }
        let counts = evicted.by_reason;
        for (total, count) in self
            .by_reason
            .iter()
            .zip([counts.size, counts.free_space, counts.free_inodes])
        {
            total.fetch_add(count, Ordering::Relaxed);
        }
        let age = u64::from(now.since(evicted.last_use)) * 60;
        self.last_age.store(age + 1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> EvictionCounts {
        let [size, free_space, free_inodes] = self
            .by_reason
            .each_ref()
            .map(|total| total.load(Ordering::Relaxed));
        EvictionCounts {
            size,
            free_space,
            free_inodes,
        }
    }

    /// Returns the time from the last use to the eviction of the content evicted last, in seconds.
    pub fn last_age_seconds(&self) -> Option<u64> {
        self.last_age.load(Ordering::Relaxed).checked_sub(1)
    }
}
