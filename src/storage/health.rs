//! The health of the store. After a failed write, fills skip the store for a while. After a slow
//! lookup, lookups are misses for a while.

use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use crate::limits::{STORE_RETRY_INTERVAL, STORE_STALL_COOLDOWN};
use crate::metrics::{StoreOperation, count_store_failure};
use crate::runtime::clock::unix_seconds;

#[derive(Default)]
pub struct StoreHealth {
    /// The directory of a store of single registries, for log lines.
    directory: Option<String>,
    /// The time before which no write is tried, in seconds since 1970.
    unwritable_until: AtomicU64,
    /// The time before which no lookup is tried, in seconds since 1970.
    unreadable_until: AtomicU64,
}

impl StoreHealth {
    /// Returns the health of the store of single registries in `directory`, or without it, of the default
    /// store.
    pub fn of(directory: Option<String>) -> Self {
        StoreHealth {
            directory,
            ..StoreHealth::default()
        }
    }

    /// Returns whether a fill should try to write.
    pub fn writable(&self) -> bool {
        is_over(&self.unwritable_until, STORE_RETRY_INTERVAL)
    }

    /// Returns whether content should be looked up.
    pub fn readable(&self) -> bool {
        is_over(&self.unreadable_until, STORE_STALL_COOLDOWN)
    }

    /// Records a slow lookup. Logs once per pause.
    pub fn stalled(&self) {
        count_store_failure(StoreOperation::FsRead);
        if self.readable() {
            let (retry_s, directory) = (STORE_STALL_COOLDOWN.as_secs(), &self.directory);
            tracing::warn!(retry_s, directory, "store lookups suspended");
        }
        self.unreadable_until
            .store(unix_seconds() + STORE_STALL_COOLDOWN.as_secs(), Ordering::Relaxed);
    }

    /// Records a failed write. Logs once per pause.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        count_store_failure(StoreOperation::FsWrite);
        if self.writable() {
            let (retry_s, directory) = (STORE_RETRY_INTERVAL.as_secs(), &self.directory);
            tracing::warn!(%error, retry_s, directory, "store rejects writes");
        }
        self.unwritable_until
            .store(unix_seconds() + STORE_RETRY_INTERVAL.as_secs(), Ordering::Relaxed);
    }
}

/// Returns whether a pause of `length` with the planned end `until` is over. A clock that was set
/// back must not prolong the pause.
fn is_over(until: &AtomicU64, length: Duration) -> bool {
    let (until, now) = (until.load(Ordering::Relaxed), unix_seconds());
    now >= until || until - now > length.as_secs()
}
