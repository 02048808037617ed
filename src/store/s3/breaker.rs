//! Whether the bucket is worth asking: a few failures in a row shut the way, one request at a time tries it again, one
//! answer opens it. Knows no clock and writes no log; the caller does both.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::error::S3Fault;
use crate::limits::{S3_FAILURES_MAX, S3_PAUSE_MAX, S3_PAUSE_MIN};

#[derive(Debug, Default)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// In a row.
    failures: u32,
    shut: Option<Shut>,
}

#[derive(Debug)]
struct Shut {
    /// When the next request may try.
    until: Instant,
    pause: Duration,
}

/// What an operator is told: a state begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Shut,
    Open,
}

impl Breaker {
    /// Whether a request would be let through at `now`.
    pub fn is_open(&self, now: Instant) -> bool {
        let state = self.state();
        state.shut.as_ref().is_none_or(|shut| now >= shut.until)
    }

    /// Asks to make a request at `now`. While the way is shut one request is let through per pause; whoever is let through and
    /// never comes back costs one pause.
    pub fn admit(&self, now: Instant) -> bool {
        match &mut self.state().shut {
            None => true,
            Some(shut) if now >= shut.until => {
                shut.until = now + shut.pause;
                true
            }
            Some(_) => false,
        }
    }

    /// The engine has answered.
    pub fn succeeded(&self) -> Option<Change> {
        let mut state = self.state();
        state.failures = 0;
        state.shut.take().map(|_| Change::Open)
    }

    /// It has not, or what it said holds for every other request too.
    pub fn failed(&self, fault: S3Fault, now: Instant) -> Option<Change> {
        let mut state = self.state();
        state.failures += 1;
        if let Some(shut) = &mut state.shut {
            shut.pause = (shut.pause * 2).min(S3_PAUSE_MAX);
            shut.until = now + shut.pause;
            return None;
        }
        if state.failures < S3_FAILURES_MAX && !fault.is_lasting() {
            return None;
        }
        state.shut = Some(Shut {
            until: now + S3_PAUSE_MIN,
            pause: S3_PAUSE_MIN,
        });
        Some(Change::Shut)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_failures_in_a_row_shut_the_way_and_one_answer_opens_it() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 1..S3_FAILURES_MAX {
            assert_eq!(breaker.failed(S3Fault::Unavailable, now), None);
        }
        assert!(breaker.is_open(now));
        assert_eq!(breaker.failed(S3Fault::Timeout, now), Some(Change::Shut));
        assert!(!breaker.is_open(now) && !breaker.admit(now));
        assert_eq!(breaker.failed(S3Fault::Timeout, now), None, "told once");
        assert_eq!(breaker.succeeded(), Some(Change::Open));
        assert_eq!(breaker.succeeded(), None, "told once");
        assert!(breaker.admit(now));
    }

    #[test]
    fn an_answer_in_between_begins_the_row_anew() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..3 * S3_FAILURES_MAX {
            assert_eq!(breaker.failed(S3Fault::Unavailable, now), None);
            breaker.succeeded();
        }
    }

    #[test]
    fn what_holds_for_every_request_shuts_at_once() {
        for fault in [
            S3Fault::NoBucket,
            S3Fault::Expired,
            S3Fault::Skew,
            S3Fault::Throttled,
        ] {
            let breaker = Breaker::default();
            assert_eq!(
                breaker.failed(fault, Instant::now()),
                Some(Change::Shut),
                "{fault}"
            );
        }
    }

    #[test]
    fn one_request_per_pause_tries_and_pauses_grow_to_a_bound() {
        let breaker = Breaker::default();
        let mut now = Instant::now();
        breaker.failed(S3Fault::NoBucket, now);
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            let began = now;
            while !breaker.admit(now) {
                assert!(!breaker.is_open(now));
                now += Duration::from_millis(100);
            }
            assert!(!breaker.admit(now), "a second one while the first is under way");
            longest = longest.max(now - began);
            breaker.failed(S3Fault::NoBucket, now);
        }
        assert!(
            longest >= S3_PAUSE_MAX && longest < 2 * S3_PAUSE_MAX,
            "{longest:?}"
        );
    }

    #[test]
    fn a_try_that_never_comes_back_does_not_keep_the_way_shut() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        breaker.failed(S3Fault::NoBucket, now);
        assert!(breaker.admit(now + S3_PAUSE_MIN));
        assert!(breaker.admit(now + 2 * S3_PAUSE_MIN));
    }
}
