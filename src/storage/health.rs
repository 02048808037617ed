//! Whether the store takes writes. After a failure fills go on without it for a while.

use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use crate::limits::{STORE_RETRY_INTERVAL, STORE_STALL_COOLDOWN};
use crate::runtime::clock::unix_seconds;

#[derive(Default)]
pub struct StoreHealth {
    /// Second before which no write is tried.
    unwritable_until: AtomicU64,
    /// Second before which nothing is looked up.
    unreadable_until: AtomicU64,
}

impl StoreHealth {
    /// Whether a fill should try to write.
    pub fn writable(&self) -> bool {
        is_over(&self.unwritable_until, STORE_RETRY_INTERVAL)
    }

    /// Whether content should be looked up.
    pub fn readable(&self) -> bool {
        is_over(&self.unreadable_until, STORE_STALL_COOLDOWN)
    }

    /// Records a lookup that took too long, and logs it once per pause.
    pub fn stalled(&self) {
        if self.readable() {
            tracing::warn!(
                pause_s = STORE_STALL_COOLDOWN.as_secs(),
                "the store does not answer; lookups are misses for a while"
            );
        }
        self.unreadable_until
            .store(unix_seconds() + STORE_STALL_COOLDOWN.as_secs(), Ordering::Relaxed);
    }

    /// Records a failed write, and logs it once per pause.
    pub fn failed(&self, why: &dyn std::fmt::Display) {
        if self.writable() {
            tracing::warn!(%why, pause_s = STORE_RETRY_INTERVAL.as_secs(), "the store takes no writes; pulls go on uncached");
        }
        self.unwritable_until
            .store(unix_seconds() + STORE_RETRY_INTERVAL.as_secs(), Ordering::Relaxed);
    }
}

/// Whether a pause of `length` that was to end at `until` is over. A clock set back must not prolong it.
fn is_over(until: &AtomicU64, length: Duration) -> bool {
    let (until, now) = (until.load(Ordering::Relaxed), unix_seconds());
    now >= until || until - now > length.as_secs()
}
