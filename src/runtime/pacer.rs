//! The pace of work in the background: a bound of bytes per second, of one thread or of all tasks.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::clock::monotonic_micros;
use crate::sync::Mutex;

/// The pace of one thread.
#[derive(Debug)]
pub struct Pacer {
    schedule: Schedule,
    /// Never receives a value. The drop of the sender ends the work.
    stopped: Receiver<()>,
}

impl Pacer {
    /// Creates a pacer of `rate` bytes per second. 0 means no bound.
    pub fn new(rate: u64, stopped: Receiver<()>) -> Self {
        Pacer {
            schedule: Schedule::new(rate),
            stopped,
        }
    }

    /// Waits until the next `bytes` may be read. Returns false after a stop, at once.
    pub fn take(&mut self, bytes: u64) -> bool {
        let wait = self.schedule.take(bytes, monotonic_micros());
        self.wait(wait)
    }

    /// Waits for `duration`. Returns false after a stop, at once.
    pub fn wait(&self, duration: Duration) -> bool {
        if duration.is_zero() {
            return self.stopped.try_recv() == Err(TryRecvError::Empty);
        }
        self.stopped.recv_timeout(duration) == Err(RecvTimeoutError::Timeout)
    }
}

/// A pace that any number of tasks share.
#[derive(Debug)]
pub struct SharedPace {
    is_bounded: bool,
    schedule: Mutex<Schedule>,
}

impl SharedPace {
    /// Creates a pace of `rate` bytes per second. 0 means no bound.
    pub fn new(rate: u64) -> Self {
        SharedPace {
            is_bounded: rate > 0,
            schedule: Mutex::new(Schedule::new(rate)),
        }
    }

    /// Counts `bytes`, and returns the wait that all bytes before require.
    pub fn take(&self, bytes: u64) -> Duration {
        if !self.is_bounded {
            return Duration::ZERO;
        }
        self.schedule.lock().take(bytes, monotonic_micros())
    }
}

/// The times of reads. A read may begin when the reads before it have used their time. Unused time
/// is lost, so that a stalled disk does not lead to a burst.
#[derive(Debug)]
struct Schedule {
    /// Bytes per second. 0 means no bound.
    rate: u64,
    /// Microseconds of the monotonic clock.
    next: u64,
}

impl Schedule {
    fn new(rate: u64) -> Self {
        Schedule { rate, next: 0 }
    }

    /// Returns the wait before a read of `bytes` at the time `now`, in microseconds.
    fn take(&mut self, bytes: u64, now: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let begin = self.next.max(now);
        let micros = u128::from(bytes) * 1_000_000 / u128::from(self.rate);
        self.next = begin.saturating_add(u64::try_from(micros).unwrap_or(u64::MAX));
        Duration::from_micros(begin - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stay_within_the_rate_and_unused_time_is_lost() {
        let mut schedule = Schedule::new(1_000);
        assert_eq!(schedule.take(500, 0), Duration::ZERO);
        assert_eq!(schedule.take(500, 0), Duration::from_millis(500));
        assert_eq!(schedule.take(100, 700_000), Duration::from_millis(300));
        // Nine seconds without a read give no credit.
        assert_eq!(schedule.take(1_000, 10_000_000), Duration::ZERO);
        assert_eq!(schedule.take(1, 10_000_000), Duration::from_secs(1));
    }

    #[test]
    fn rate_of_zero_never_waits() {
        let mut schedule = Schedule::new(0);
        for _ in 0..3 {
            assert_eq!(schedule.take(u64::MAX, 0), Duration::ZERO);
        }
    }

    #[test]
    fn huge_read_at_a_low_rate_waits_for_the_end_of_time() {
        let mut schedule = Schedule::new(1);
        schedule.take(u64::MAX, 5);
        assert_eq!(schedule.take(1, 5), Duration::from_micros(u64::MAX - 5));
    }

    #[test]
    fn stop_ends_a_wait() {
        let (stop, stopped) = crossbeam_channel::bounded(0);
        let mut pacer = Pacer::new(1, stopped);
        assert!(pacer.take(3_600));
        drop(stop);
        assert!(!pacer.take(1));
        assert!(!pacer.wait(Duration::ZERO));
    }
}
