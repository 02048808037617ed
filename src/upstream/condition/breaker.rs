//! Whether a registry answers at all. Pure: moments in, verdicts out, of a clock that never jumps.
//!
//! Several failures in a row shut the way to a registry, so that nobody waits for what will not come; one probe
//! per second finds out when it is back. Failures that are all about one repository shut that repository only: a
//! registry that has lost one image is not down.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::oci::Repository;

/// Failures in a row that shut the way. Fewer would turn the hiccups of a busy registry into outages.
pub(super) const FAILURES_MAX: u32 = 5;

/// At most one probe in this time: soon enough for people, and nothing for a registry that comes up again.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(1);

/// What is known from the outcomes so far.
#[derive(Default, Debug)]
pub(super) struct Breaker {
    /// The failures in a row; `None` after an answer.
    row: Option<Row>,
    /// When the last answer came. A question older than that which fails says nothing about now.
    answered: Option<Instant>,
    /// Nobody probes before this.
    next_probe: Option<Instant>,
}

/// Failures without an answer in between.
#[derive(Debug)]
struct Row {
    failures: u32,
    scope: Scope,
    /// One of them was silence: whoever has something else to give had better not ask and wait.
    silent: bool,
    why: Cause,
    since: Instant,
    /// Whether there were enough of them.
    shut: bool,
}

/// What failures in a row have in common.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Scope {
    Repository(Repository),
    Registry,
}

/// How a question failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// No connection, no TLS, no head, or the token service is at fault: the registry as a whole.
    Unreachable,
    /// As [`Failure::Unreachable`], after a long wait.
    Silent,
    /// An answer of class 5xx.
    Refusal,
}

/// The last failure, for people and for the class of our refusal.
#[derive(Clone, Debug)]
pub(super) struct Cause {
    pub text: Arc<str>,
    pub timed_out: bool,
}

/// Whether a question may be asked now.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    Ask,
    /// Not now. With `probe`, somebody should ask all the same, but the one who is told does not wait for it.
    Refuse {
        since: Instant,
        why: Cause,
        probe: bool,
    },
}

/// What an outcome has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Opened,
    Closed,
}

impl Breaker {
    /// Judges a question about `repository`. `patient` is one whose asker has nothing else to give: it may be a
    /// probe itself. To be called once per question, because a probe that is allowed is counted.
    pub fn admit(&mut self, repository: &Repository, patient: bool, now: Instant) -> Verdict {
        let Some(row) = &self.row else {
            return Verdict::Ask;
        };
        let shut = row.shut && row.scope.covers(repository);
        if !shut && (patient || !row.silent) {
            return Verdict::Ask;
        }
        let probe = self.next_probe.is_none_or(|at| now >= at);
        if probe {
            self.next_probe = Some(now + PROBE_EVERY);
            if patient {
                return Verdict::Ask;
            }
        }
        Verdict::Refuse {
            since: row.since,
            why: row.why.clone(),
            probe,
        }
    }

    /// The registry has answered a question in full, were it with a refusal of class 4xx.
    pub fn answered(&mut self, repository: &Repository, now: Instant) -> Option<Change> {
        let shut = match &self.row {
            Some(row) if !row.scope.covers(repository) => return None,
            Some(row) => row.shut,
            None => false,
        };
        *self = Breaker {
            answered: Some(now),
            ..Breaker::default()
        };
        shut.then_some(Change::Closed)
    }

    /// A question asked at `asked` has failed.
    pub fn failed(
        &mut self,
        repository: &Repository,
        failure: Failure,
        why: Cause,
        asked: Instant,
        now: Instant,
    ) -> Option<Change> {
        if self.answered.is_some_and(|at| asked < at) {
            return None;
        }
        let scope = match failure {
            Failure::Unreachable | Failure::Silent => Scope::Registry,
            Failure::Refusal => Scope::Repository(repository.clone()),
        };
        let row = self.row.get_or_insert_with(|| Row {
            failures: 0,
            scope: scope.clone(),
            silent: false,
            why: why.clone(),
            since: now,
            shut: false,
        });
        row.failures = row.failures.saturating_add(1);
        let widened = row.scope != scope && row.scope != Scope::Registry;
        if widened {
            row.scope = Scope::Registry;
        }
        let first_silence = failure == Failure::Silent && !row.silent;
        row.silent |= failure == Failure::Silent;
        row.why = why;
        let opens = !row.shut && row.failures >= FAILURES_MAX;
        row.shut |= opens;
        if opens || first_silence {
            self.next_probe = Some(now + PROBE_EVERY);
        }
        (opens || (widened && row.shut)).then_some(Change::Opened)
    }

    /// Failures since the last answer.
    pub fn failures(&self) -> u32 {
        self.row.as_ref().map_or(0, |row| row.failures)
    }

    /// Since when questions have failed, and whether that has shut the way.
    pub fn failing(&self) -> Option<(Instant, bool)> {
        self.row.as_ref().map(|row| (row.since, row.shut))
    }

    /// The repository that alone is shut.
    pub fn only(&self) -> Option<&Repository> {
        match &self.row.as_ref()?.scope {
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
            text: "it is down".into(),
            timed_out: false,
        }
    }

    /// A breaker, its clock, and short words for what happens to it.
    struct Bench {
        breaker: Breaker,
        start: Instant,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            Bench {
                breaker: Breaker::default(),
                start,
                now: start,
            }
        }

        fn after(&mut self, millis: u32) -> &mut Self {
            self.now += MS * millis;
            self
        }

        fn fails(&mut self, name: &str, failure: Failure) -> Option<Change> {
            self.breaker
                .failed(&repository(name), failure, why(), self.now, self.now)
        }

        fn answers(&mut self, name: &str) -> Option<Change> {
            self.breaker.answered(&repository(name), self.now)
        }

        /// Whether somebody who waits gets through.
        fn asks(&mut self, name: &str) -> bool {
            matches!(
                self.breaker.admit(&repository(name), true, self.now),
                Verdict::Ask
            )
        }

        fn shut(name: &str, failure: Failure) -> Self {
            let mut bench = Bench::new();
            for _ in 1..FAILURES_MAX {
                assert_eq!(bench.fails(name, failure), None);
            }
            assert_eq!(bench.fails(name, failure), Some(Change::Opened));
            bench
        }
    }

    #[test]
    fn five_failures_in_a_row_shut_and_one_answer_opens() {
        let mut bench = Bench::new();
        for _ in 0..3 {
            for _ in 1..FAILURES_MAX {
                assert_eq!(bench.fails("a", Failure::Unreachable), None);
                assert!(bench.asks("a"));
            }
            assert_eq!(bench.answers("a"), None, "four are not enough");
        }
        let mut bench = Bench::shut("a", Failure::Unreachable);
        assert!(!bench.asks("a") && !bench.asks("b"));
        assert_eq!(bench.after(1000).answers("b"), Some(Change::Closed));
        assert!(bench.asks("a") && bench.asks("a"));
        assert_eq!(bench.breaker.failures(), 0);
    }

    #[test]
    fn one_probe_a_second_goes_through() {
        let mut bench = Bench::shut("a", Failure::Unreachable);
        for _ in 0..100 {
            assert!(!bench.after(999).asks("a"));
            assert!(bench.after(1).asks("a"));
            assert!(!bench.asks("a"));
            assert_eq!(bench.fails("a", Failure::Unreachable), None, "it is known");
        }
    }

    #[test]
    fn who_has_something_else_to_give_never_waits_for_a_probe() {
        let mut bench = Bench::shut("a", Failure::Unreachable);
        bench.after(1000);
        let verdicts: Vec<bool> = (0..3)
            .map(
                |_| match bench.breaker.admit(&repository("a"), false, bench.now) {
                    Verdict::Refuse { probe, .. } => probe,
                    Verdict::Ask => panic!("it would wait"),
                },
            )
            .collect();
        assert_eq!(verdicts, [true, false, false]);
    }

    #[test]
    fn after_one_silence_only_those_wait_who_have_to() {
        let mut bench = Bench::new();
        assert_eq!(bench.fails("a", Failure::Silent), None);
        assert!(bench.asks("a"));
        let refused =
            |bench: &mut Bench, want: bool| match bench.breaker.admit(&repository("b"), false, bench.now) {
                Verdict::Refuse { probe, .. } => assert_eq!(probe, want),
                Verdict::Ask => panic!("it would wait"),
            };
        refused(&mut bench, false);
        refused(bench.after(1000), true);
        refused(&mut bench, false);
        assert_eq!(bench.answers("a"), None);
        assert!(matches!(
            bench.breaker.admit(&repository("b"), false, bench.now),
            Verdict::Ask
        ));
    }

    #[test]
    fn what_fails_in_one_repository_only_shuts_that_one() {
        let mut bench = Bench::shut("broken", Failure::Refusal);
        assert!(bench.asks("well") && !bench.asks("broken"));
        assert_eq!(bench.answers("well"), None, "says nothing about the other");
        assert!(!bench.asks("broken"));
        // Another one that fails too: it is the registry.
        assert_eq!(bench.fails("well", Failure::Refusal), Some(Change::Opened));
        assert!(!bench.asks("well") && !bench.asks("third"));
        assert_eq!(bench.after(1000).answers("third"), Some(Change::Closed));
    }

    #[test]
    fn an_old_question_that_fails_late_says_nothing_about_now() {
        let mut bench = Bench::shut("a", Failure::Unreachable);
        let asked = bench.now;
        assert_eq!(bench.after(1000).answers("a"), Some(Change::Closed));
        for _ in 0..100 {
            let now = bench.after(10).now;
            let late = bench
                .breaker
                .failed(&repository("a"), Failure::Silent, why(), asked, now);
            assert_eq!(late, None);
        }
        assert_eq!(bench.breaker.failures(), 0);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Wait(u32),
        Ask(u8, bool),
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
            (0..3_u8, any::<bool>()).prop_map(|(n, patient)| Step::Ask(n, patient)),
            (0..3_u8, failure).prop_map(|(n, failure)| Step::Fail(n, failure)),
            (0..3_u8).prop_map(Step::Answer),
        ]
    }

    proptest! {
        /// Whatever happens: the way opens and shuts in turn, probes are a second apart, and an answer to a shut
        /// repository opens it.
        #[test]
        fn probes_are_a_second_apart_and_an_answer_always_opens(steps in prop::collection::vec(step(), 0..400)) {
            let mut bench = Bench::new();
            let names = ["a", "b", "c"].map(repository);
            let mut last_probe: Option<Instant> = None;
            for step in steps {
                let was_shut = bench.breaker.failing().is_some_and(|(_, shut)| shut);
                match step {
                    Step::Wait(millis) => { bench.after(millis); }
                    Step::Ask(n, patient) => {
                        let name = &names[usize::from(n)];
                        let covered = was_shut && bench.breaker.only().is_none_or(|only| only == name);
                        let verdict = bench.breaker.admit(name, patient, bench.now);
                        let through = matches!(verdict, Verdict::Ask);
                        let probe = matches!(verdict, Verdict::Refuse { probe: true, .. }) || (through && covered);
                        if probe {
                            prop_assert!(last_probe.is_none_or(|at| bench.now - at >= PROBE_EVERY));
                            last_probe = Some(bench.now);
                        }
                        prop_assert!(covered || !patient || through);
                    }
                    Step::Fail(n, failure) => {
                        let change = bench.breaker.failed(&names[usize::from(n)], failure, why(), bench.now, bench.now);
                        prop_assert!(change != Some(Change::Closed));
                        prop_assert_eq!(
                            bench.breaker.failing().is_some_and(|(_, shut)| shut),
                            was_shut || change == Some(Change::Opened)
                        );
                    }
                    Step::Answer(n) => {
                        let name = &names[usize::from(n)];
                        let covered = bench.breaker.only().is_none_or(|only| only == name);
                        let change = bench.breaker.answered(name, bench.now);
                        prop_assert_eq!(change == Some(Change::Closed), was_shut && covered);
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
