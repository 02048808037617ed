//! Whether the store takes writes. After a failure fills go on without it for a while.

use std::sync::atomic::{AtomicU64, Ordering};

use std::time::Duration;

use crate::limits::{STORE_LOOKUP_PAUSE, STORE_RETRY};
use crate::runtime::clock::unix_seconds;

#[derive(Default)]
pub struct StoreHealth {
    /// Second before which no write is tried.
    closed_until: AtomicU64,
    /// Second before which nothing is looked up.
    blind_until: AtomicU64,
}

impl StoreHealth {
    /// Whether a fill should try to write.
    pub fn writable(&self) -> bool {
        is_over(&self.closed_until, STORE_RETRY)
    }

    /// Whether content should be looked up.
    pub fn readable(&self) -> bool {
        is_over(&self.blind_until, STORE_LOOKUP_PAUSE)
    }

    /// Notes a lookup that took too long; says so once per pause.
    pub fn stalled(&self) {
        if self.readable() {
            tracing::warn!(
                pause_s = STORE_LOOKUP_PAUSE.as_secs(),
                "the store does not answer; lookups are misses for a while"
            );
        }
        self.blind_until
            .store(unix_seconds() + STORE_LOOKUP_PAUSE.as_secs(), Ordering::Relaxed);
    }

    /// Notes a failed write; says so once per pause.
    pub fn failed(&self, why: &dyn std::fmt::Display) {
        if self.writable() {
            tracing::warn!(%why, pause_s = STORE_RETRY.as_secs(), "the store takes no writes; pulls go on uncached");
        }
        self.closed_until
            .store(unix_seconds() + STORE_RETRY.as_secs(), Ordering::Relaxed);
    }
}

/// Whether a pause of `length` that was to end at `until` is over. A clock set back must not prolong it.
fn is_over(until: &AtomicU64, length: Duration) -> bool {
    let (until, now) = (until.load(Ordering::Relaxed), unix_seconds());
    now >= until || until - now > length.as_secs()
}
