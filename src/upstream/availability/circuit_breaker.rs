//! The circuit breaker of a registry. Pure: the caller passes instants of the monotonic clock.
//!
//! Several consecutive failures trip the breaker, so clients do not wait in vain. A probe per
//! second detects the recovery. Failures of one repository trip the breaker for this repository
//! only, because a registry with one lost image is not down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::oci::Repository;

/// The number of consecutive failures to trip the breaker. A lower number would turn hiccups of a
/// busy registry into outages.
pub(super) const FAILURES_MAX: u32 = 5;

/// The minimum time between probes. Short enough for users, and negligible load for a recovering
/// registry.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The state of the breaker.
#[derive(Default, Debug)]
pub(super) struct CircuitBreaker {
    /// The consecutive failures; `None` after an answer.
    streak: Option<FailureStreak>,
    /// The time of the last answer. A failure of an older request is ignored.
    answered: Option<Instant>,
    /// The earliest time of the next probe.
    next_probe: Option<Instant>,
}

/// Consecutive failures without an answer in between.
#[derive(Debug)]
struct FailureStreak {
    failures: u32,
    scope: Scope,
    /// Whether one of the failures was a timeout. If so, a request with a held copy must not wait.
    silent: bool,
    why: Cause,
    since: Instant,
    /// Whether the failures have tripped the breaker.
    tripped: bool,
}

/// The common scope of consecutive failures.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Scope {
    Repository(Repository),
    Registry,
}

/// The kind of a failed request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No connection, no TLS session, no response head, or a failed token service. Affects the
    /// whole registry.
    Unreachable,
    /// Like [`Failure::Unreachable`], after a timeout.
    Silent,
    /// A 5xx answer.
    Refusal,
}

/// The last failure, for the error text and the status of the answer to the client.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    pub text: Arc<str>,
    pub timed_out: bool,
}

/// The decision of the breaker on a request.
#[derive(Clone, Debug)]
pub(super) enum BreakerDecision {
    Allow,
    /// The request is rejected. With `probe`, the request is sent in the background.
    Refuse {
        since: Instant,
        why: Cause,
        probe: bool,
    },
}

/// A state change of the breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BreakerTransition {
    Tripped,
    Recovered,
}

impl CircuitBreaker {
    /// Decides on a request for `repository`. A `patient` request has no held copy as an
    /// alternative, so it may be a probe itself. Must be called once per request, because an
    /// allowed probe is counted.
    pub fn admit(&mut self, repository: &Repository, patient: bool, now: Instant) -> BreakerDecision {
        let Some(streak) = &self.streak else {
            return BreakerDecision::Allow;
        };
        let tripped = streak.tripped && streak.scope.covers(repository);
        if !tripped && (patient || !streak.silent) {
            return BreakerDecision::Allow;
        }
        let probe = self.next_probe.is_none_or(|at| now >= at);
        if probe {
            self.next_probe = Some(now + PROBE_INTERVAL);
            if patient {
                return BreakerDecision::Allow;
            }
        }
        BreakerDecision::Refuse {
            since: streak.since,
            why: streak.why.clone(),
            probe,
        }
    }

    /// Records an answer of the registry, including 4xx refusals.
    pub fn answered(&mut self, repository: &Repository, now: Instant) -> Option<BreakerTransition> {
        let tripped = match &self.streak {
            Some(streak) if !streak.scope.covers(repository) => return None,
            Some(streak) => streak.tripped,
            None => false,
        };
        *self = CircuitBreaker {
            answered: Some(now),
            ..CircuitBreaker::default()
        };
        tripped.then_some(BreakerTransition::Recovered)
    }

    /// Records the failure of a request that was sent at `sent_at`.
    pub fn failed(
        &mut self,
        repository: &Repository,
        failure: Failure,
        why: Cause,
        sent_at: Instant,
        now: Instant,
    ) -> Option<BreakerTransition> {
        if self.answered.is_some_and(|at| sent_at < at) {
            return None;
        }
        let scope = match failure {
            Failure::Unreachable | Failure::Silent => Scope::Registry,
            Failure::Refusal => Scope::Repository(repository.clone()),
        };
        let streak = self.streak.get_or_insert_with(|| FailureStreak {
            failures: 0,
            scope: scope.clone(),
            silent: false,
            why: why.clone(),
            since: now,
            tripped: false,
        });
        streak.failures = streak.failures.saturating_add(1);
        let widened = streak.scope != scope && streak.scope != Scope::Registry;
        if widened {
            streak.scope = Scope::Registry;
        }
        let first_silence = failure == Failure::Silent && !streak.silent;
        streak.silent |= failure == Failure::Silent;
        streak.why = why;
        let trips = !streak.tripped && streak.failures >= FAILURES_MAX;
        streak.tripped |= trips;
        if trips || first_silence {
            self.next_probe = Some(now + PROBE_INTERVAL);
        }
        (trips || (widened && streak.tripped)).then_some(BreakerTransition::Tripped)
    }

    /// Returns whether the breaker has tripped for `repository`. Counts no probe.
    pub fn is_tripped(&self, repository: &Repository) -> bool {
        let streak = self.streak.as_ref();
        streak.is_some_and(|streak| streak.tripped && streak.scope.covers(repository))
    }

    /// Returns the number of failures since the last answer.
    pub fn failures(&self) -> u32 {
        self.streak.as_ref().map_or(0, |streak| streak.failures)
    }

    /// Returns the time of the first failure, and whether the breaker has tripped.
    pub fn failing(&self) -> Option<(Instant, bool)> {
        self.streak.as_ref().map(|streak| (streak.since, streak.tripped))
    }

    /// Returns the repository of the failures. `None` if the failures affect the whole registry.
    pub fn only(&self) -> Option<&Repository> {
        match &self.streak.as_ref()?.scope {
            Scope::Repository(repository) => Some(repository),
            Scope::Registry => None,
        }
    }
}

impl Scope {
    fn covers(&self, repository: &Repository) -> bool {
        match self {
            Scope::Repository(only) => only == repository,
            Scope::Registry => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn repository(name: &str) -> Repository {
        name.parse().unwrap()
    }

    fn why() -> Cause {
        Cause {
            text: "the upstream is unreachable".into(),
            timed_out: false,
        }
    }

    /// A breaker with a clock, and short methods for events.
    struct Bench {
        breaker: CircuitBreaker,
        start: Instant,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            Bench {
                breaker: CircuitBreaker::default(),
                start,
                now: start,
            }
        }

        fn after(&mut self, millis: u32) -> &mut Self {
            self.now += MS * millis;
            self
        }

        fn fails(&mut self, name: &str, failure: Failure) -> Option<BreakerTransition> {
            self.breaker
                .failed(&repository(name), failure, why(), self.now, self.now)
        }

        fn answers(&mut self, name: &str) -> Option<BreakerTransition> {
            self.breaker.answered(&repository(name), self.now)
        }

        /// Returns whether a patient request is allowed.
        fn is_allowed(&mut self, name: &str) -> bool {
            matches!(
                self.breaker.admit(&repository(name), true, self.now),
                BreakerDecision::Allow
            )
        }

        fn tripped(name: &str, failure: Failure) -> Self {
            let mut bench = Bench::new();
            for _ in 1..FAILURES_MAX {
                assert_eq!(bench.fails(name, failure), None);
            }
            assert_eq!(bench.fails(name, failure), Some(BreakerTransition::Tripped));
            bench
        }
    }

    #[test]
    fn five_failures_in_a_row_trip_the_breaker_and_one_answer_resets_it() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            for _ in 1..FAILURES_MAX {
                assert_eq!(bench.fails("a", Failure::Unreachable), None);
                assert!(bench.is_allowed("a"));
            }
            assert_eq!(bench.answers("a"), None, "four failures do not trip the breaker");
        }
        let mut bench = Bench::tripped("a", Failure::Unreachable);
        assert!(!bench.is_allowed("a") && !bench.is_allowed("b"));
        assert_eq!(bench.after(1000).answers("b"), Some(BreakerTransition::Recovered));
        assert!(bench.is_allowed("a") && bench.is_allowed("a"));
        assert_eq!(bench.breaker.failures(), 0);
    }

    #[test]
    fn one_probe_a_second_goes_through() {
        let mut bench = Bench::tripped("a", Failure::Unreachable);
        for _ in 0..100 {
            assert!(!bench.after(999).is_allowed("a"));
            assert!(bench.after(1).is_allowed("a"));
            assert!(!bench.is_allowed("a"));
            assert_eq!(
                bench.fails("a", Failure::Unreachable),
                None,
                "an open breaker reports no change"
            );
        }
    }

    #[test]
    fn a_request_with_a_held_copy_never_waits_for_a_probe() {
        let mut bench = Bench::tripped("a", Failure::Unreachable);
        bench.after(1000);
        let verdicts: Vec<bool> = (0..3)
            .map(
                |_| match bench.breaker.admit(&repository("a"), false, bench.now) {
                    BreakerDecision::Refuse { probe, .. } => probe,
                    BreakerDecision::Allow => panic!("a request was admitted"),
                },
            )
            .collect();
        assert_eq!(verdicts, [true, false, false]);
    }

    #[test]
    fn after_one_timeout_only_patient_requests_wait() {
        let mut bench = Bench::new();
        assert_eq!(bench.fails("a", Failure::Silent), None);
        assert!(bench.is_allowed("a"));
        let refused =
            |bench: &mut Bench, want: bool| match bench.breaker.admit(&repository("b"), false, bench.now) {
                BreakerDecision::Refuse { probe, .. } => assert_eq!(probe, want),
                BreakerDecision::Allow => panic!("a request was admitted"),
            };
        refused(&mut bench, false);
        refused(bench.after(1000), true);
        refused(&mut bench, false);
        assert_eq!(bench.answers("a"), None);
        assert!(matches!(
            bench.breaker.admit(&repository("b"), false, bench.now),
            BreakerDecision::Allow
        ));
    }

    #[test]
    fn failures_of_one_repository_trip_the_breaker_for_it_only() {
        let mut bench = Bench::tripped("broken", Failure::Refusal);
        assert!(bench.is_allowed("intact") && !bench.is_allowed("broken"));
        assert_eq!(
            bench.answers("intact"),
            None,
            "a response of one repository does not reset another"
        );
        assert!(!bench.is_allowed("broken"));
        // A failure of a second repository trips the breaker for the registry.
        assert_eq!(
            bench.fails("intact", Failure::Refusal),
            Some(BreakerTransition::Tripped)
        );
        assert!(!bench.is_allowed("intact") && !bench.is_allowed("third"));
        assert_eq!(
            bench.after(1000).answers("third"),
            Some(BreakerTransition::Recovered)
        );
    }

    #[test]
    fn a_late_failure_of_an_old_request_is_ignored() {
        let mut bench = Bench::tripped("a", Failure::Unreachable);
        let sent_at = bench.now;
        assert_eq!(bench.after(1000).answers("a"), Some(BreakerTransition::Recovered));
        for _ in 0..100 {
            let now = bench.after(10).now;
            let late = bench
                .breaker
                .failed(&repository("a"), Failure::Silent, why(), sent_at, now);
            assert_eq!(late, None);
        }
        assert_eq!(bench.breaker.failures(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u32),
        Request(u8, bool),
        Fail(u8, Failure),
        Answer(u8),
    }

    fn step() -> impl Strategy<Value = Step> {
        let failure = prop_oneof![
            Just(Failure::Unreachable),
            Just(Failure::Silent),
            Just(Failure::Refusal)
        ];
        prop_oneof![
            (0..700_u32).prop_map(Step::Wait),
            (0..3_u8, any::<bool>()).prop_map(|(n, patient)| Step::Request(n, patient)),
            (0..3_u8, failure).prop_map(|(n, failure)| Step::Fail(n, failure)),
            (0..3_u8).prop_map(Step::Answer),
        ]
    }

    proptest! {
        /// The breaker trips and recovers in turn, probes are a second apart, and an answer for a
        /// tripped repository resets the breaker.
        #[test]
        fn probes_are_a_second_apart_and_an_answer_always_resets_the_breaker(steps in prop::collection::vec(step(), 0..400)) {
            let mut bench = Bench::new();
            let names = ["a", "b", "c"].map(repository);
            let mut last_probe: Option<Instant> = None;
            for step in steps {
                let was_tripped = bench.breaker.failing().is_some_and(|(_, tripped)| tripped);
                match step {
                    Step::Wait(millis) => { bench.after(millis); }
                    Step::Request(n, patient) => {
                        let name = &names[usize::from(n)];
                        let covered = was_tripped && bench.breaker.only().is_none_or(|only| only == name);
                        let verdict = bench.breaker.admit(name, patient, bench.now);
                        let through = matches!(verdict, BreakerDecision::Allow);
                        let probe = matches!(verdict, BreakerDecision::Refuse { probe: true, .. }) || (through && covered);
                        if probe {
                            prop_assert!(last_probe.is_none_or(|at| bench.now - at >= PROBE_INTERVAL));
                            last_probe = Some(bench.now);
                        }
                        prop_assert!(covered || !patient || through);
                    }
                    Step::Fail(n, failure) => {
                        let change = bench.breaker.failed(&names[usize::from(n)], failure, why(), bench.now, bench.now);
                        prop_assert!(change != Some(BreakerTransition::Recovered));
                        prop_assert_eq!(
                            bench.breaker.failing().is_some_and(|(_, tripped)| tripped),
                            was_tripped || change == Some(BreakerTransition::Tripped)
                        );
                    }
                    Step::Answer(n) => {
                        let name = &names[usize::from(n)];
                        let covered = bench.breaker.only().is_none_or(|only| only == name);
                        let change = bench.breaker.answered(name, bench.now);
                        prop_assert_eq!(change == Some(BreakerTransition::Recovered), was_tripped && covered);
                        if covered {
                            last_probe = None;
                        }
                    }
                }
                prop_assert!(bench.now >= bench.start);
            }
        }
    }
}
