//! The availability of one registry: its breaker, its limits, and its remaining budget. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::budget::Budget;
use super::circuit_breaker::{BreakerDecision, BreakerTransition, Cause, CircuitBreaker, Failure};
use super::limit::Limit;
use crate::oci::Repository;

/// The interval of requests to check a nearly spent budget.
const BUDGET_PROBE_INTERVAL: Duration = Duration::from_secs(60);

/// The availability of one registry.
#[derive(Default, Debug)]
pub(super) struct Availability {
    pub breaker: CircuitBreaker,
    /// The limit on all requests: too many requests per second, of any kind.
    pub everything: Option<Limit>,
    /// The limit on manifests: too many pulls.
    pub manifests: Option<Limit>,
    /// The budget of the last answer, and the time of that answer.
    pub budget: Option<(Budget, Instant)>,
    /// The earliest time of the next request to check the budget.
    next_probe: Option<Instant>,
    pub last_error: Option<Arc<str>>,
    /// The number of requests with a known outcome. The next fields count failed and suppressed
    /// requests.
    pub requests: u64,
    pub failures: u64,
    pub suppressed: u64,
}

/// The properties of a request relevant to its admission.
#[derive(Clone, Debug)]
pub(super) struct RequestClass {
    pub repository: Repository,
    /// Whether the request is for a manifest, not a blob.
    pub manifest: bool,
    /// Whether the caller has a held copy.
    pub revalidates: bool,
    /// Whether the request is for the rest of a broken body.
    pub resumes: bool,
    /// Whether the request carries a client's own credentials. Their budget is not ours.
    pub client_credentials: bool,
}

/// The decision on a request.
#[derive(Debug)]
pub(super) enum Admission {
    Allow,
    /// The breaker has tripped. With `probe`, the request is sent in the background.
    Tripped {
        lasting: Duration,
        why: Cause,
        probe: bool,
    },
    /// The registry has answered 429.
    Limited {
        wait: Duration,
    },
    /// The budget is nearly spent.
    Scarce {
        wait: Duration,
    },
}

/// The outcome of a request.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// An answer, including 4xx refusals.
    Answered,
    Failed(Failure, Cause),
    /// A 429, for all requests or for manifests only, with the stated wait if there is one.
    Limited {
        everything: bool,
        wait: Option<Duration>,
    },
    /// The request was not sent.
    NotSent,
}

/// A change of availability, to be logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Change {
    Tripped,
    Recovered,
    Limited,
    LimitEnded,
}

impl Availability {
    /// Decides on a request. Must be called once per request, because an allowed probe is counted.
    pub fn admit(&mut self, class: &RequestClass, now: Instant) -> Admission {
        let verdict = self.decide(class, now);
        match verdict {
            Admission::Allow | Admission::Tripped { probe: true, .. } => {
                for limit in self.limits(class).into_iter().flatten() {
                    limit.probed(now);
                }
            }
            _ => {}
        }
        if !matches!(verdict, Admission::Allow) {
            self.suppressed += 1;
        }
        verdict
    }

    fn decide(&mut self, class: &RequestClass, now: Instant) -> Admission {
        let limits = self.limits(class);
        if let Some(wait) = limits.iter().flatten().filter_map(|limit| limit.wait(now)).max() {
            return Admission::Limited { wait };
        }
        // A request for the rest of a body has its own retry limit.
        if !class.resumes
            && let BreakerDecision::Refuse { since, why, probe } =
                self.breaker.admit(&class.repository, !class.revalidates, now)
        {
            let lasting = now.saturating_duration_since(since);
            return Admission::Tripped { lasting, why, probe };
        }
        if class.revalidates && class.manifest && !class.client_credentials && self.scarce(now) {
            let next_probe = *self.next_probe.get_or_insert(now + BUDGET_PROBE_INTERVAL);
            if now < next_probe {
                return Admission::Scarce {
                    wait: next_probe - now,
                };
            }
            self.next_probe = Some(now + BUDGET_PROBE_INTERVAL);
        }
        Admission::Allow
    }

    /// Returns whether blobs of `repository` get no requests now, except probes. Counts no probe.
    pub fn is_suspended(&self, repository: &Repository) -> bool {
        self.everything.is_some() || self.breaker.is_tripped(repository)
    }

    /// Returns whether blobs of some repository get no requests now.
    pub fn is_partly_suspended(&self) -> bool {
        self.everything.is_some() || self.breaker.failing().is_some_and(|(_, tripped)| tripped)
    }

    /// Returns the limits for a request of this class.
    fn limits(&mut self, class: &RequestClass) -> [Option<&mut Limit>; 2] {
        let pulls = class.manifest && !class.client_credentials;
        [
            self.everything.as_mut(),
            self.manifests.as_mut().filter(|_| pulls),
        ]
    }

    /// Records the outcome of a request that was sent at `sent_at`.
    pub fn record(
        &mut self,
        class: &RequestClass,
        outcome: Outcome,
        sent_at: Instant,
        now: Instant,
    ) -> impl Iterator<Item = Change> + use<> {
        let mut breaker = None;
        let mut limited = false;
        let mut released = false;
        match outcome {
            Outcome::Answered => {
                breaker = self.breaker.answered(&class.repository, now);
                released = self.end_limits(class, sent_at);
            }
            Outcome::Failed(failure, cause) => {
                self.last_error = Some(cause.text.clone());
                self.failures += 1;
                breaker = self
                    .breaker
                    .failed(&class.repository, failure, cause, sent_at, now);
            }
            Outcome::Limited { everything, wait } => {
                // A 429 is an answer, so the registry is available.
                breaker = self.breaker.answered(&class.repository, now);
                let limit = if everything {
                    &mut self.everything
                } else {
                    &mut self.manifests
                };
                limited = limit.is_none();
                *limit = Some(Limit::after_429(limit.as_ref(), wait, sent_at, now));
            }
            Outcome::NotSent => {}
        }
        let breaker = breaker.map(|change| match change {
            BreakerTransition::Tripped => Change::Tripped,
            BreakerTransition::Recovered => Change::Recovered,
        });
        [
            breaker,
            limited.then_some(Change::Limited),
            released.then_some(Change::LimitEnded),
        ]
        .into_iter()
        .flatten()
    }

    /// Records an answer other than 429. Returns whether the last limit has ended.
    fn end_limits(&mut self, class: &RequestClass, sent_at: Instant) -> bool {
        let before = self.is_limited();
        self.everything.take_if(|limit| limit.ended_by(sent_at));
        if class.manifest && !class.client_credentials {
            self.manifests.take_if(|limit| limit.ended_by(sent_at));
        }
        before && !self.is_limited()
    }

    pub fn is_limited(&self) -> bool {
        self.everything.is_some() || self.manifests.is_some()
    }

    /// Records the budget of an answer.
    pub fn record_budget(&mut self, budget: Budget, now: Instant) {
        if !budget.is_scarce() {
            self.next_probe = None;
        }
        self.budget = Some((budget, now));
    }

    /// Returns the budget, unless its window has ended.
    pub fn budget(&self, now: Instant) -> Option<Budget> {
        let (budget, recorded_at) = self.budget?;
        let age = now.saturating_duration_since(recorded_at);
        budget.lasts().is_none_or(|lasts| age < lasts).then_some(budget)
    }

    fn scarce(&self, now: Instant) -> bool {
        self.budget(now).is_some_and(|budget| budget.is_scarce())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn class(manifest: bool) -> RequestClass {
        RequestClass {
            repository: "a".parse().unwrap(),
            manifest,
            revalidates: false,
            resumes: false,
            client_credentials: false,
        }
    }

    fn revalidates() -> RequestClass {
        RequestClass {
            revalidates: true,
            ..class(true)
        }
    }

    fn is_allowed(availability: &mut Availability, class: &RequestClass, now: Instant) -> bool {
        matches!(availability.admit(class, now), Admission::Allow)
    }

    fn record(
        availability: &mut Availability,
        class: &RequestClass,
        outcome: Outcome,
        now: Instant,
    ) -> Vec<Change> {
        availability.record(class, outcome, now, now).collect()
    }

    fn limited(everything: bool, wait: Option<u64>) -> Outcome {
        Outcome::Limited {
            everything,
            wait: wait.map(Duration::from_secs),
        }
    }

    #[test]
    fn pull_limit_blocks_only_manifests_and_other_limits_block_everything() {
        let now = Instant::now();
        let mut availability = Availability::default();
        let changes = record(&mut availability, &class(true), limited(false, Some(30)), now);
        assert_eq!(changes, [Change::Limited]);
        assert!(is_allowed(&mut availability, &class(false), now));
        assert!(!is_allowed(&mut availability, &class(true), now));
        // Answers to blob requests give no information about the limit on manifests.
        assert_eq!(
            record(&mut availability, &class(false), Outcome::Answered, now),
            []
        );
        assert!(!is_allowed(&mut availability, &class(true), now));

        record(&mut availability, &class(false), limited(true, Some(10)), now);
        assert!(!is_allowed(&mut availability, &class(false), now));
        let Admission::Limited { wait } = availability.admit(&class(true), now) else {
            panic!("a manifest request is limited");
        };
        assert_eq!(wait, 30 * S, "the longer limit is effective");
        let later = now + 30 * S;
        assert!(is_allowed(&mut availability, &class(true), later));
        let changes = record(&mut availability, &class(true), Outcome::Answered, later);
        assert_eq!(changes, [Change::LimitEnded]);
        assert!(
            is_allowed(&mut availability, &class(false), later)
                && is_allowed(&mut availability, &class(true), later)
        );
    }

    #[test]
    fn limit_of_a_client_account_and_of_the_cache_are_separate() {
        let now = Instant::now();
        let foreign = RequestClass {
            client_credentials: true,
            ..class(true)
        };
        let mut availability = Availability::default();
        record(&mut availability, &class(true), limited(false, None), now);
        assert!(is_allowed(&mut availability, &foreign, now));
        assert_eq!(record(&mut availability, &foreign, Outcome::Answered, now), []);
        assert!(!is_allowed(&mut availability, &class(true), now));
    }

    #[test]
    fn the_rest_of_a_body_is_requested_although_the_breaker_has_tripped() {
        let now = Instant::now();
        let mut availability = Availability::default();
        let cause = Cause {
            text: "down".into(),
            timed_out: false,
        };
        for _ in 0..5 {
            let outcome = Outcome::Failed(Failure::Unreachable, cause.clone());
            record(&mut availability, &class(false), outcome, now);
        }
        let rest = RequestClass {
            resumes: true,
            ..class(false)
        };
        assert!(!is_allowed(&mut availability, &class(false), now));
        assert!(is_allowed(&mut availability, &rest, now));
        // The limit also applies to the rest of a body, because another request would extend the
        // limit.
        record(&mut availability, &rest, limited(true, Some(5)), now);
        assert!(!is_allowed(&mut availability, &rest, now));
    }

    #[test]
    fn last_tenth_of_a_budget_is_reserved_for_requests_without_a_copy() {
        let mut now = Instant::now();
        let mut availability = Availability::default();
        let budget = |remaining| Budget {
            limit: Some(100),
            remaining: Some(remaining),
            window: Some(21_600 * S),
            ..Budget::default()
        };
        availability.record_budget(budget(10), now);
        assert!(is_allowed(&mut availability, &revalidates(), now));
        availability.record_budget(budget(9), now);
        assert!(is_allowed(&mut availability, &class(true), now));
        let mut probes = 0;
        for _ in 0..600 {
            probes += u32::from(is_allowed(&mut availability, &revalidates(), now));
            now += S;
            // Other requests continue, and their answers report an unchanged budget.
            availability.record_budget(budget(9), now);
        }
        assert_eq!(probes, 9, "one probe per minute");
        availability.record_budget(budget(50), now);
        assert!(is_allowed(&mut availability, &revalidates(), now));
        // The budget of a window ends with the window.
        availability.record_budget(budget(0), now);
        assert!(!is_allowed(&mut availability, &revalidates(), now));
        assert!(is_allowed(&mut availability, &revalidates(), now + 21_600 * S));
        assert_eq!(availability.budget(now + 21_600 * S), None);
    }

    /// Ten minutes of 500 requests per second, to a registry with permanent failures.
    #[test]
    fn ten_bad_minutes_cost_one_probe_a_second() {
        let down = Cause {
            text: "down".into(),
            timed_out: false,
        };
        let outcomes = [
            ("5xx", Outcome::Failed(Failure::Refusal, down.clone()), 600),
            (
                "refused",
                Outcome::Failed(Failure::Unreachable, down.clone()),
                600,
            ),
            ("silence", Outcome::Failed(Failure::Silent, down), 600),
            ("429", limited(true, None), 600),
            ("429, 1 s", limited(true, Some(1)), 600),
            ("429, 30 s", limited(false, Some(30)), 20),
            ("429, 1 h", limited(false, Some(3_600)), 10),
        ];
        for (what, outcome, probes_max) in outcomes {
            for class in [class(true), revalidates()] {
                let start = Instant::now();
                let mut availability = Availability::default();
                let mut now = start;
                let mut sent = 0;
                while now - start < 600 * S {
                    let is_allowed = match availability.admit(&class, now) {
                        Admission::Allow => true,
                        Admission::Tripped { probe, .. } => probe,
                        _ => false,
                    };
                    if is_allowed {
                        sent += 1;
                        record(&mut availability, &class, outcome.clone(), now);
                    }
                    now += S / 500;
                }
                println!("{what}: {sent}");
                assert!(sent <= probes_max + 5, "{what}: {sent}");
                assert!(sent >= 9, "{what}: recovery is detected: {sent}");
                // The first answer ends the suppression at once.
                now += 60 * S;
                let probed = match availability.admit(&class, now) {
                    Admission::Allow => true,
                    Admission::Tripped { probe, .. } => probe,
                    _ => false,
                };
                assert!(probed, "{what}");
                record(&mut availability, &class, Outcome::Answered, now);
                assert!(
                    (0..100).all(|_| is_allowed(&mut availability, &class, now)),
                    "{what}"
                );
            }
        }
    }
}
