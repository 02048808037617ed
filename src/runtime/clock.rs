//! Clock readings for the hot path and for logs. The coarse clocks need no system call.

use rustix::time::{ClockId, clock_gettime};

/// Returns seconds since 1970, at most a few milliseconds late. Makes no system call.
pub fn unix_seconds() -> u64 {
    clock_gettime(ClockId::RealtimeCoarse)
        .tv_sec
        .try_into()
        .unwrap_or(0)
}

/// Returns milliseconds since 1970, at most a few milliseconds late. Makes no system call.
pub fn unix_millis() -> u64 {
    let now = clock_gettime(ClockId::RealtimeCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Returns nanoseconds since 1970, for traces. Makes no system call.
pub fn unix_nanos() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Returns seconds of the monotonic clock, for deadlines.
pub fn monotonic_seconds() -> u32 {
    // Wraps after 136 years of uptime.
    clock_gettime(ClockId::MonotonicCoarse).tv_sec as u32
}

/// Returns milliseconds of the monotonic clock, at most a few milliseconds late, for waits.
pub fn monotonic_millis() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// Returns microseconds of the monotonic clock, for durations in the log.
pub fn monotonic_micros() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1000
}
