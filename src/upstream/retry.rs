//! The number of retries for a broken body, and the waits between them. Pure.

use std::time::Duration;

/// The minimum progress of a free attempt. Such an attempt does not count as a failure.
pub(super) const WORTHWHILE_BYTES: u64 = 1 << 20;

/// The maximum number of attempts with less progress, per [`WINDOW_BYTES`].
const ATTEMPTS_MAX: usize = DELAYS.len();

/// The progress after which earlier failures expire. A network path with five breaks in 64 MiB is
/// usable. A network path with five breaks without progress is not.
const WINDOW_BYTES: u64 = 64 << 20;

/// The waits before the attempts of one window. In total 7.7 s, less than clients wait for a byte.
const DELAYS: [Duration; 5] = [
    Duration::from_millis(200),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

/// The retry budget of one body.
///
/// The number of attempts for a body is at most `size / 1 MiB + 5 × (size / 64 MiB + 1)`.
#[derive(Clone, Debug)]
pub struct Resume {
    /// The received bytes at the start of the current attempt.
    attempt_start: u64,
    /// The received bytes at the start of the current window, at most `attempt_start`.
    window_start: u64,
    /// Attempts of this window with too little progress, at most `ATTEMPTS_MAX`.
    failures: usize,
}

impl Resume {
    /// Creates the budget for a body with `have` received bytes (0 for a new body).
    pub fn new(have: u64) -> Self {
        Resume {
            attempt_start: have,
            window_start: have,
            failures: 0,
        }
    }

    /// Records the end of an attempt with `have` received bytes in total. Returns the wait before
    /// the next attempt; `None` after the last attempt.
    pub fn after_break(&mut self, have: u64) -> Option<Duration> {
        debug_assert!(have >= self.attempt_start, "the received length never shrinks");
        let gained = have.saturating_sub(self.attempt_start);
        self.attempt_start = have;
        if have.saturating_sub(self.window_start) >= WINDOW_BYTES {
            self.window_start = have;
            self.failures = 0;
        }
        if gained >= WORTHWHILE_BYTES {
            return Some(DELAYS[0]);
        }
        if self.failures == ATTEMPTS_MAX {
            return None;
        }
        self.failures += 1;
        Some(DELAYS[self.failures - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn millis(wait: Option<Duration>) -> Option<u128> {
        wait.map(|wait| wait.as_millis())
    }

    #[test]
    fn an_upstream_that_brings_nothing_gets_five_more_attempts_with_growing_waits() {
        let mut resume = Resume::new(0);
        let waits: Vec<_> = (0..6).map(|_| millis(resume.after_break(0))).collect();
        assert_eq!(
            waits,
            [Some(200), Some(500), Some(1000), Some(2000), Some(4000), None]
        );
        assert_eq!(resume.after_break(0), None, "the retry is rejected again");
    }

    #[test]
    fn attempt_with_a_mebibyte_of_progress_does_not_count() {
        let mut resume = Resume::new(0);
        for megabytes in 1..=1000 {
            assert_eq!(millis(resume.after_break(megabytes * MIB)), Some(200));
        }
    }

    #[test]
    fn one_byte_less_than_a_mebibyte_counts() {
        let mut resume = Resume::new(7);
        for n in 1..=5 {
            assert!(resume.after_break(7 + n * (MIB - 1)).is_some());
        }
        assert_eq!(resume.after_break(7 + 6 * (MIB - 1)), None);
    }

    #[test]
    fn sixty_four_mebibytes_of_progress_renew_the_budget() {
        let mut resume = Resume::new(0);
        for _ in 0..5 {
            assert!(resume.after_break(0).is_some());
        }
        // A free attempt within the window does not renew the budget.
        assert!(resume.after_break(63 * MIB).is_some());
        assert_eq!(resume.after_break(63 * MIB), None);
        assert!(resume.after_break(64 * MIB).is_some(), "the window has ended");
        let waits: Vec<_> = (0..6).map(|_| millis(resume.after_break(64 * MIB))).collect();
        assert_eq!(waits.last(), Some(&None));
        assert!(waits[..4].iter().all(Option::is_some));
    }

    #[test]
    fn the_number_of_attempts_has_the_documented_bound() {
        let seed = 0x5eed_u64;
        println!("seed {seed:#x}");
        let (mut state, size) = (seed, 300 * MIB);
        let (mut resume, mut have, mut attempts) = (Resume::new(0), 0, 0);
        while have < size {
            // xorshift, with steps from 0 to 2 MiB, mostly small.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            have = (have
                + if state % 3 == 0 {
                    state % (2 * MIB)
                } else {
                    state % 4096
                })
            .min(size);
            attempts += 1;
            if resume.after_break(have).is_none() {
                break;
            }
        }
        assert!(attempts <= size / MIB + 5 * (size / (64 * MIB) + 1), "{attempts}");
    }
}
