//! The time of day, as cheap as a hit needs it.

use rustix::time::{ClockId, clock_gettime};

/// Seconds since 1970, a few milliseconds behind at most. No system call.
pub fn unix_seconds() -> u64 {
    clock_gettime(ClockId::RealtimeCoarse)
        .tv_sec
        .try_into()
        .unwrap_or(0)
}

/// Milliseconds since 1970, a few milliseconds behind at most. No system call.
pub fn unix_millis() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Seconds of the monotonic clock; for deadlines.
pub fn monotonic_seconds() -> u32 {
    // Wraps after 136 years of uptime.
    clock_gettime(ClockId::MonotonicCoarse).tv_sec as u32
}

/// Milliseconds of the monotonic clock, a few behind at most; for waits.
pub fn monotonic_millis() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Microseconds of the monotonic clock; for durations in the log.
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}
