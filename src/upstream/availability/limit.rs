//! The rate limit of a registry after a 429, with the time of the next request. Pure.

use std::time::{Duration, Instant};

/// The longest time between two probes. A registry with a longer `Retry-After` also gets probes,
/// because limits may be raised and networks may change.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// The time from a 429 without `Retry-After` to the first probe. Doubled by each further 429.
const PROBE_PAUSE_MIN: Duration = Duration::from_secs(1);

/// An active limit.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// The time of the last 429. Answers to older requests do not end the limit.
    recorded_at: Instant,
    /// The end of the limit, if the registry has stated one.
    until: Option<Instant>,
    /// The earliest time of the next probe.
    next_probe: Instant,
    /// The time from the last 429 to `next_probe`.
    pause: Duration,
}

impl Limit {
    /// Returns the limit after a 429 to a request sent at `sent_at`. `wait` is the wait stated by
    /// the 429.
    pub fn after_429(
        previous: Option<&Limit>,
        wait: Option<Duration>,
        sent_at: Instant,
        now: Instant,
    ) -> Limit {
        let wait = wait.filter(|wait| !wait.is_zero());
        let pause = match (wait, previous) {
            (Some(wait), _) => wait.min(PROBE_PAUSE_MAX),
            // Requests in flight at the first 429 do not count as probes.
            (None, Some(previous)) if sent_at < previous.recorded_at => previous.pause,
            (None, Some(previous)) => (previous.pause * 2).min(PROBE_PAUSE_MAX),
            (None, None) => PROBE_PAUSE_MIN,
        };
        let until = wait.map(|wait| now + wait);
        let earlier = previous.filter(|previous| sent_at < previous.recorded_at);
        Limit {
            recorded_at: now,
            until: until.max(earlier.and_then(|previous| previous.until)),
            next_probe: earlier.map_or(now + pause, |previous| previous.next_probe.max(now + pause)),
            pause,
        }
    }

    /// Returns the wait before the next request. `None` if a request may be sent, as a probe.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        if now >= self.next_probe {
            return None;
        }
        Some(self.until.unwrap_or(now).max(self.next_probe) - now)
    }

    /// Returns the time until the end of the limit, or until the first probe if the registry has not stated
    /// an end. `None` after that time.
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        let end = self.until.unwrap_or(self.next_probe);
        let remaining = end.saturating_duration_since(now);
        (!remaining.is_zero()).then_some(remaining)
    }

    /// Records a probe in flight. The next request waits for the next probe interval.
    pub fn probed(&mut self, now: Instant) {
        let known = self.until.is_some_and(|until| now < until);
        let pause = if known { PROBE_PAUSE_MAX } else { PROBE_PAUSE_MIN };
        self.next_probe = now + pause;
    }

    /// Returns whether an answer to a request sent at `sent_at` ends the limit.
    pub fn ended_by(&self, sent_at: Instant) -> bool {
        sent_at >= self.recorded_at
    }

    /// Returns the time of the last 429.
    pub fn recorded_at(&self) -> Instant {
        self.recorded_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn short_retry_after_is_respected() {
        let now = Instant::now();
        let mut limit = Limit::after_429(None, Some(17 * S), now, now);
        assert_eq!(limit.wait(now), Some(17 * S));
        assert_eq!(limit.wait(now + 16 * S), Some(S));
        assert_eq!(limit.wait(now + 17 * S), None);
        limit.probed(now + 17 * S);
        assert_eq!(limit.wait(now + 17 * S), Some(S), "only one probe is permitted");
        assert_eq!(limit.wait(now + 18 * S), None);
    }

    #[test]
    fn a_long_time_is_passed_to_clients_and_probed_once_a_minute() {
        let now = Instant::now();
        let mut limit = Limit::after_429(None, Some(3600 * S), now, now);
        assert_eq!(limit.wait(now), Some(3600 * S));
        let mut probes = 0;
        for second in 0..3600 {
            if limit.wait(now + second * S).is_none() {
                limit.probed(now + second * S);
                probes += 1;
            }
        }
        assert_eq!(probes, 59);
    }

    #[test]
    fn without_a_time_the_probes_become_rarer() {
        let mut now = Instant::now();
        let mut limit = Limit::after_429(None, None, now, now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let wait = limit.wait(now).unwrap();
            waits.push(wait.as_secs());
            now += wait;
            limit.probed(now);
            limit = Limit::after_429(Some(&limit), None, now, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn rejections_of_concurrent_requests_count_once() {
        let sent_at = Instant::now();
        let mut limit = Limit::after_429(None, None, sent_at, sent_at + S);
        for _ in 0..100 {
            limit = Limit::after_429(Some(&limit), None, sent_at, sent_at + S);
        }
        assert_eq!(limit.wait(sent_at + S), Some(S));
        assert!(!limit.ended_by(sent_at), "a late response does not end the limit");
        assert!(limit.ended_by(sent_at + S));
        // Refusals of concurrent requests may state different waits. The longest counts.
        let known = Limit::after_429(None, Some(30 * S), sent_at, sent_at + S);
        let mixed = Limit::after_429(Some(&known), Some(5 * S), sent_at, sent_at + S);
        assert_eq!(mixed.wait(sent_at + S), Some(30 * S));
    }

    #[test]
    fn zero_retry_after_means_the_default_wait() {
        let now = Instant::now();
        assert_eq!(
            Limit::after_429(None, Some(Duration::ZERO), now, now).wait(now),
            Some(S)
        );
    }
}
