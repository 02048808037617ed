//! A registry has said 429: when it is asked again. Pure.

use std::time::{Duration, Instant};

/// The longest time between two probes. A registry that names a longer one is asked in between all the same,
/// because limits are raised, and networks change.
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Between a 429 that does not say how long, and the first probe; doubled by each further one.
const PROBE_PAUSE_MIN: Duration = Duration::from_secs(1);

/// A limit that holds.
#[derive(Clone, Debug)]
pub(super) struct Limit {
    /// When the last 429 came. Answers to older questions say nothing about it.
    noted: Instant,
    /// Until when, as far as the registry has said.
    until: Option<Instant>,
    /// Nobody asks before this; then one does.
    next_probe: Instant,
    /// From the last 429 to `next_probe`.
    pause: Duration,
}

impl Limit {
    /// A 429 came to a question asked at `asked`; `wait` is what it said about when to come back.
    pub fn told(previous: Option<&Limit>, wait: Option<Duration>, asked: Instant, now: Instant) -> Limit {
        let wait = wait.filter(|wait| !wait.is_zero());
        let pause = match (wait, previous) {
            (Some(wait), _) => wait.min(PROBE_PAUSE_MAX),
            // The questions that were under way when the first 429 came are no further probes.
            (None, Some(previous)) if asked < previous.noted => previous.pause,
            (None, Some(previous)) => (previous.pause * 2).min(PROBE_PAUSE_MAX),
            (None, None) => PROBE_PAUSE_MIN,
        };
        let until = wait.map(|wait| now + wait);
        let earlier = previous.filter(|previous| asked < previous.noted);
        Limit {
            noted: now,
            until: until.max(earlier.and_then(|previous| previous.until)),
            next_probe: earlier.map_or(now + pause, |previous| previous.next_probe.max(now + pause)),
            pause,
        }
    }

    /// How long a question has to wait; `None` when it may be asked, as a probe.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        if now >= self.next_probe {
            return None;
        }
        Some(self.until.unwrap_or(now).max(self.next_probe) - now)
    }

    /// One probe is under way: the next question waits for another turn.
    pub fn probed(&mut self, now: Instant) {
        let known = self.until.is_some_and(|until| now < until);
        let pause = if known { PROBE_PAUSE_MAX } else { PROBE_PAUSE_MIN };
        self.next_probe = now + pause;
    }

    /// Whether an answer to a question asked at `asked` ends it.
    pub fn ended_by(&self, asked: Instant) -> bool {
        asked >= self.noted
    }

    /// Since when it holds.
    pub fn noted(&self) -> Instant {
        self.noted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn a_short_time_that_was_named_is_kept() {
        let now = Instant::now();
        let mut limit = Limit::told(None, Some(17 * S), now, now);
        assert_eq!(limit.wait(now), Some(17 * S));
        assert_eq!(limit.wait(now + 16 * S), Some(S));
        assert_eq!(limit.wait(now + 17 * S), None);
        limit.probed(now + 17 * S);
        assert_eq!(limit.wait(now + 17 * S), Some(S), "one at a time");
        assert_eq!(limit.wait(now + 18 * S), None);
    }

    #[test]
    fn a_long_time_is_told_to_clients_and_probed_once_a_minute() {
        let now = Instant::now();
        let mut limit = Limit::told(None, Some(3600 * S), now, now);
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
        let mut limit = Limit::told(None, None, now, now);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let wait = limit.wait(now).unwrap();
            waits.push(wait.as_secs());
            now += wait;
            limit.probed(now);
            limit = Limit::told(Some(&limit), None, now, now);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_crowd_that_was_under_way_is_one_refusal() {
        let asked = Instant::now();
        let mut limit = Limit::told(None, None, asked, asked + S);
        for _ in 0..100 {
            limit = Limit::told(Some(&limit), None, asked, asked + S);
        }
        assert_eq!(limit.wait(asked + S), Some(S));
        assert!(!limit.ended_by(asked), "its late answers do not end it either");
        assert!(limit.ended_by(asked + S));
        // A crowd's refusals may name different times; the longest counts.
        let known = Limit::told(None, Some(30 * S), asked, asked + S);
        let mixed = Limit::told(Some(&known), Some(5 * S), asked, asked + S);
        assert_eq!(mixed.wait(asked + S), Some(30 * S));
    }

    #[test]
    fn a_time_of_nothing_is_no_time() {
        let now = Instant::now();
        assert_eq!(
            Limit::told(None, Some(Duration::ZERO), now, now).wait(now),
            Some(S)
        );
    }
}
