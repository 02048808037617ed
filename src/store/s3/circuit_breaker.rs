//! The circuit breaker of the bucket. A few consecutive failures trip the breaker. During each
//! pause, a single request probes the bucket. Any response closes the breaker again. The caller
//! passes the time and writes the log.

use std::time::{Duration, Instant};

use super::error::S3Fault;
use crate::limits::{S3_BREAKER_FAILURES, S3_BREAKER_PAUSE_MAX, S3_BREAKER_PAUSE_MIN};
use crate::sync::Mutex;

#[derive(Debug, Default)]
pub(super) struct CircuitBreaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Consecutive failures.
    failures: u32,
    tripped: Option<Tripped>,
}

#[derive(Debug)]
struct Tripped {
    /// Time of the next allowed request.
    until: Instant,
    pause: Duration,
}

/// A state change, for the operator's log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BreakerTransition {
    Tripped,
    Recovered,
}

impl CircuitBreaker {
    /// Returns whether a request would be allowed at `now`.
    pub fn allows(&self, now: Instant) -> bool {
        let state = self.0.lock();
        state.tripped.as_ref().is_none_or(|tripped| now >= tripped.until)
    }

    /// Returns whether requests are suspended, except for one per pause.
    pub fn is_tripped(&self) -> bool {
        self.0.lock().tripped.is_some()
    }

    /// Decides whether a request is allowed at `now`. A tripped breaker allows one request per
    /// pause. A request that never ends costs one pause.
    pub fn admit(&self, now: Instant) -> bool {
        match &mut self.0.lock().tripped {
            None => true,
            Some(tripped) if now >= tripped.until => {
                tripped.until = now + tripped.pause;
                true
            }
            Some(_) => false,
        }
    }

    /// Records a response of the engine.
    pub fn succeeded(&self) -> Option<BreakerTransition> {
        let mut state = self.0.lock();
        state.failures = 0;
        state.tripped.take().map(|_| BreakerTransition::Recovered)
    }

    /// Records a request without a response, or with an error that affects every other request too.
    pub fn failed(&self, fault: S3Fault, now: Instant) -> Option<BreakerTransition> {
        let mut state = self.0.lock();
        state.failures += 1;
        if let Some(tripped) = &mut state.tripped {
            tripped.pause = (tripped.pause * 2).min(S3_BREAKER_PAUSE_MAX);
            tripped.until = now + tripped.pause;
            return None;
        }
        if state.failures < S3_BREAKER_FAILURES && !fault.is_lasting() {
            return None;
        }
        state.tripped = Some(Tripped {
            until: now + S3_BREAKER_PAUSE_MIN,
            pause: S3_BREAKER_PAUSE_MIN,
        });
        Some(BreakerTransition::Tripped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_failures_in_a_row_trip_the_breaker_and_one_answer_recovers_it() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        for _ in 1..S3_BREAKER_FAILURES {
            assert_eq!(breaker.failed(S3Fault::Unavailable, now), None);
        }
        assert!(breaker.allows(now));
        assert_eq!(
            breaker.failed(S3Fault::Timeout, now),
            Some(BreakerTransition::Tripped)
        );
        assert!(breaker.is_tripped() && !breaker.allows(now) && !breaker.admit(now));
        assert_eq!(
            breaker.failed(S3Fault::Timeout, now),
            None,
            "the state change is logged once"
        );
        assert_eq!(breaker.succeeded(), Some(BreakerTransition::Recovered));
        assert!(!breaker.is_tripped());
        assert_eq!(breaker.succeeded(), None, "the state change is logged once");
        assert!(breaker.admit(now));
    }

    #[test]
    fn success_resets_the_failure_count_of_the_breaker() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        for _ in 0..3 * S3_BREAKER_FAILURES {
            assert_eq!(breaker.failed(S3Fault::Unavailable, now), None);
            breaker.succeeded();
        }
    }

    #[test]
    fn what_holds_for_every_request_trips_the_breaker_at_once() {
        for fault in [
            S3Fault::NoBucket,
            S3Fault::Expired,
            S3Fault::Skew,
            S3Fault::Throttled,
        ] {
            let breaker = CircuitBreaker::default();
            assert_eq!(
                breaker.failed(fault, Instant::now()),
                Some(BreakerTransition::Tripped),
                "{fault}"
            );
        }
    }

    #[test]
    fn one_request_per_pause_probes_and_pauses_grow_to_a_bound() {
        let breaker = CircuitBreaker::default();
        let mut now = Instant::now();
        breaker.failed(S3Fault::NoBucket, now);
        let mut longest = Duration::ZERO;
        for _ in 0..10 {
            let began = now;
            while !breaker.admit(now) {
                assert!(!breaker.allows(now));
                now += Duration::from_millis(100);
            }
            assert!(!breaker.admit(now), "a second probe during the first probe");
            longest = longest.max(now - began);
            breaker.failed(S3Fault::NoBucket, now);
        }
        assert!(
            longest >= S3_BREAKER_PAUSE_MAX && longest < 2 * S3_BREAKER_PAUSE_MAX,
            "{longest:?}"
        );
    }

    #[test]
    fn a_probe_that_never_ends_does_not_keep_the_breaker_tripped() {
        let (breaker, now) = (CircuitBreaker::default(), Instant::now());
        breaker.failed(S3Fault::NoBucket, now);
        assert!(breaker.admit(now + S3_BREAKER_PAUSE_MIN));
        assert!(breaker.admit(now + 2 * S3_BREAKER_PAUSE_MIN));
    }
}
