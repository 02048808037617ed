//! The CPU of the load generator, and its CPU time.

use std::num::NonZeroU64;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

/// Pins the thread with `--cpu`, and sets exact timers.
///
/// # Errors
/// The CPU does not exist or is not allowed.
pub fn prepare(cpu: Option<usize>) -> rustix::io::Result<()> {
    // In an open loop, the default slack of 50 us would count as latency of the server.
    set_current_timer_slack(NonZeroU64::new(1))?;
    let Some(cpu) = cpu else { return Ok(()) };
    if cpu >= CpuSet::MAX_CPU {
        return Err(rustix::io::Errno::INVAL);
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set)
}

/// Returns the CPU time of this thread, including kernel time. Returns zero if the kernel does not
/// count CPU time.
pub fn used() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = text
        .split_ascii_whitespace()
        .next()
        .and_then(|field| field.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}
