//! One registry's condition: whether it answers, what it has refused, what is left of its budget. Pure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::breaker::{Breaker, Cause, Change, Failure, Verdict};
use super::budget::Budget;
use super::limit::Limit;
use crate::oci::Repository;

/// While a budget is nearly spent, one question per this time learns whether it has grown again.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// All that is known of one registry.
#[derive(Default, Debug)]
pub(super) struct Condition {
    pub breaker: Breaker,
    /// On everything: too many requests per second, of whatever kind.
    pub everything: Option<Limit>,
    /// On manifests only: too many pulls.
    pub manifests: Option<Limit>,
    /// As an answer told it, and when that was.
    budget: Option<(Budget, Instant)>,
    /// When a question whose answer can wait is next spent on the budget.
    next_look: Option<Instant>,
    pub last_error: Option<Arc<str>>,
    /// Questions with a known outcome, those that failed, and those that were not asked.
    pub requests: u64,
    pub failures: u64,
    pub held_back: u64,
}

/// What a condition needs to know of a question.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub repository: Repository,
    /// About a manifest, rather than a blob.
    pub manifest: bool,
    /// The asker has something else to give.
    pub revalidates: bool,
    /// The rest of a body that broke off.
    pub resumes: bool,
    /// With a client's own credentials: their budget is not ours.
    pub foreign: bool,
}

/// Whether a question is asked.
#[derive(Debug)]
pub(super) enum Admit {
    Ask,
    /// The way is shut. With `probe`, the question is asked as well, but its asker does not wait for it.
    Shut {
        lasting: Duration,
        why: Cause,
        probe: bool,
    },
    /// The registry has said 429.
    Limited {
        wait: Duration,
    },
    /// It soon would.
    Scarce {
        wait: Duration,
    },
}

/// What became of a question.
#[derive(Clone, Debug)]
pub(super) enum Outcome {
    /// An answer, were it a refusal of class 4xx.
    Answered,
    Failed(Failure, Cause),
    /// 429: on everything or on manifests only, and when to come back, if it says.
    Limited {
        everything: bool,
        wait: Option<Duration>,
    },
    /// We have not asked after all.
    Nothing,
}

/// What an outcome has changed that an operator wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum News {
    Opened,
    Closed,
    Limited,
    Released,
}

impl Condition {
    /// Judges a question. To be called once for each: a probe that is allowed is counted.
    pub fn admit(&mut self, asked: &Asked, now: Instant) -> Admit {
        let verdict = self.judge(asked, now);
        match verdict {
            Admit::Ask | Admit::Shut { probe: true, .. } => {
                for limit in self.limits(asked).into_iter().flatten() {
                    limit.probed(now);
                }
            }
            _ => {}
        }
        if !matches!(verdict, Admit::Ask) {
            self.held_back += 1;
        }
        verdict
    }

    fn judge(&mut self, asked: &Asked, now: Instant) -> Admit {
        let limits = self.limits(asked);
        if let Some(wait) = limits.iter().flatten().filter_map(|limit| limit.wait(now)).max() {
            return Admit::Limited { wait };
        }
        // Whoever waits in the middle of a body has attempts of its own.
        if !asked.resumes
            && let Verdict::Refuse { since, why, probe } =
                self.breaker.admit(&asked.repository, !asked.revalidates, now)
        {
            let lasting = now.saturating_duration_since(since);
            return Admit::Shut { lasting, why, probe };
        }
        if asked.revalidates && asked.manifest && !asked.foreign && self.scarce(now) {
            let look = *self.next_look.get_or_insert(now + LOOK_EVERY);
            if now < look {
                return Admit::Scarce { wait: look - now };
            }
            self.next_look = Some(now + LOOK_EVERY);
        }
        Admit::Ask
    }

    /// The limits on a question like this one.
    fn limits(&mut self, asked: &Asked) -> [Option<&mut Limit>; 2] {
        let pulls = asked.manifest && !asked.foreign;
        [
            self.everything.as_mut(),
            self.manifests.as_mut().filter(|_| pulls),
        ]
    }

    /// Takes note of what became of a question that was asked at `begun`.
    pub fn note(
        &mut self,
        asked: &Asked,
        outcome: Outcome,
        begun: Instant,
        now: Instant,
    ) -> impl Iterator<Item = News> + use<> {
        let mut breaker = None;
        let mut limited = false;
        let mut released = false;
        match outcome {
            Outcome::Answered => {
                breaker = self.breaker.answered(&asked.repository, now);
                released = self.release(asked, begun);
            }
            Outcome::Failed(failure, cause) => {
                self.last_error = Some(cause.text.clone());
                self.failures += 1;
                breaker = self.breaker.failed(&asked.repository, failure, cause, begun, now);
            }
            Outcome::Limited { everything, wait } => {
                // It lives, whatever else it says.
                breaker = self.breaker.answered(&asked.repository, now);
                let limit = if everything {
                    &mut self.everything
                } else {
                    &mut self.manifests
                };
                limited = limit.is_none();
                *limit = Some(Limit::told(limit.as_ref(), wait, begun, now));
            }
            Outcome::Nothing => {}
        }
        let breaker = breaker.map(|change| match change {
            Change::Opened => News::Opened,
            Change::Closed => News::Closed,
        });
        [
            breaker,
            limited.then_some(News::Limited),
            released.then_some(News::Released),
        ]
        .into_iter()
        .flatten()
    }

    /// An answer that is no 429 has come; whether that ends the last limit.
    fn release(&mut self, asked: &Asked, begun: Instant) -> bool {
        let before = self.is_limited();
        self.everything.take_if(|limit| limit.ended_by(begun));
        if asked.manifest && !asked.foreign {
            self.manifests.take_if(|limit| limit.ended_by(begun));
        }
        before && !self.is_limited()
    }

    pub fn is_limited(&self) -> bool {
        self.everything.is_some() || self.manifests.is_some()
    }

    /// An answer has told how much is left.
    pub fn learn(&mut self, budget: Budget, now: Instant) {
        if !budget.is_scarce() {
            self.next_look = None;
        }
        self.budget = Some((budget, now));
    }

    /// What is left, as far as it is still true.
    pub fn budget(&self, now: Instant) -> Option<Budget> {
        let (budget, learned) = self.budget?;
        let age = now.saturating_duration_since(learned);
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

    fn asked(manifest: bool) -> Asked {
        Asked {
            repository: "a".parse().unwrap(),
            manifest,
            revalidates: false,
            resumes: false,
            foreign: false,
        }
    }

    fn revalidates() -> Asked {
        Asked {
            revalidates: true,
            ..asked(true)
        }
    }

    fn goes(condition: &mut Condition, asked: &Asked, now: Instant) -> bool {
        matches!(condition.admit(asked, now), Admit::Ask)
    }

    fn tell(condition: &mut Condition, asked: &Asked, outcome: Outcome, now: Instant) -> Vec<News> {
        condition.note(asked, outcome, now, now).collect()
    }

    fn limited(everything: bool, wait: Option<u64>) -> Outcome {
        Outcome::Limited {
            everything,
            wait: wait.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_pull_limit_leaves_blobs_alone_and_other_limits_nothing() {
        let now = Instant::now();
        let mut condition = Condition::default();
        let news = tell(&mut condition, &asked(true), limited(false, Some(30)), now);
        assert_eq!(news, [News::Limited]);
        assert!(goes(&mut condition, &asked(false), now));
        assert!(!goes(&mut condition, &asked(true), now));
        // Blobs that arrive say nothing about manifests.
        assert_eq!(tell(&mut condition, &asked(false), Outcome::Answered, now), []);
        assert!(!goes(&mut condition, &asked(true), now));

        tell(&mut condition, &asked(false), limited(true, Some(10)), now);
        assert!(!goes(&mut condition, &asked(false), now));
        let Admit::Limited { wait } = condition.admit(&asked(true), now) else {
            panic!("manifests are limited twice");
        };
        assert_eq!(wait, 30 * S, "the longer one counts");
        let later = now + 30 * S;
        assert!(goes(&mut condition, &asked(true), later));
        let news = tell(&mut condition, &asked(true), Outcome::Answered, later);
        assert_eq!(news, [News::Released]);
        assert!(goes(&mut condition, &asked(false), later) && goes(&mut condition, &asked(true), later));
    }

    #[test]
    fn a_client_s_own_account_is_not_ours() {
        let now = Instant::now();
        let foreign = Asked {
            foreign: true,
            ..asked(true)
        };
        let mut condition = Condition::default();
        tell(&mut condition, &asked(true), limited(false, None), now);
        assert!(goes(&mut condition, &foreign, now));
        assert_eq!(tell(&mut condition, &foreign, Outcome::Answered, now), []);
        assert!(!goes(&mut condition, &asked(true), now));
    }

    #[test]
    fn the_rest_of_a_body_is_asked_for_although_the_way_is_shut() {
        let now = Instant::now();
        let mut condition = Condition::default();
        let cause = Cause {
            text: "down".into(),
            timed_out: false,
        };
        for _ in 0..5 {
            let outcome = Outcome::Failed(Failure::Unreachable, cause.clone());
            tell(&mut condition, &asked(false), outcome, now);
        }
        let rest = Asked {
            resumes: true,
            ..asked(false)
        };
        assert!(!goes(&mut condition, &asked(false), now));
        assert!(goes(&mut condition, &rest, now));
        // A limit is another matter: it says that asking makes it worse.
        tell(&mut condition, &rest, limited(true, Some(5)), now);
        assert!(!goes(&mut condition, &rest, now));
    }

    #[test]
    fn the_last_tenth_of_a_budget_is_for_those_who_wait() {
        let mut now = Instant::now();
        let mut condition = Condition::default();
        let budget = |remaining| Budget {
            limit: Some(100),
            remaining: Some(remaining),
            window: Some(21_600 * S),
            ..Budget::default()
        };
        condition.learn(budget(10), now);
        assert!(goes(&mut condition, &revalidates(), now));
        condition.learn(budget(9), now);
        assert!(goes(&mut condition, &asked(true), now));
        let mut looks = 0;
        for _ in 0..600 {
            looks += u32::from(goes(&mut condition, &revalidates(), now));
            now += S;
            // Others go on, and tell that there is still little.
            condition.learn(budget(9), now);
        }
        assert_eq!(looks, 9, "one a minute");
        condition.learn(budget(50), now);
        assert!(goes(&mut condition, &revalidates(), now));
        // Once the window is over, what was told of it is void.
        condition.learn(budget(0), now);
        assert!(!goes(&mut condition, &revalidates(), now));
        assert!(goes(&mut condition, &revalidates(), now + 21_600 * S));
        assert_eq!(condition.budget(now + 21_600 * S), None);
    }

    /// Ten minutes of 500 questions a second, against a registry that fails from the first second to the last.
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
            for asked in [asked(true), revalidates()] {
                let start = Instant::now();
                let mut condition = Condition::default();
                let mut now = start;
                let mut sent = 0;
                while now - start < 600 * S {
                    let goes = match condition.admit(&asked, now) {
                        Admit::Ask => true,
                        Admit::Shut { probe, .. } => probe,
                        _ => false,
                    };
                    if goes {
                        sent += 1;
                        tell(&mut condition, &asked, outcome.clone(), now);
                    }
                    now += S / 500;
                }
                println!("{what}: {sent}");
                assert!(sent <= probes_max + 5, "{what}: {sent}");
                assert!(sent >= 9, "{what}: it is noticed when all is well again: {sent}");
                // And then it is over at once.
                now += 60 * S;
                let probed = match condition.admit(&asked, now) {
                    Admit::Ask => true,
                    Admit::Shut { probe, .. } => probe,
                    _ => false,
                };
                assert!(probed, "{what}");
                tell(&mut condition, &asked, Outcome::Answered, now);
                assert!((0..100).all(|_| goes(&mut condition, &asked, now)), "{what}");
            }
        }
    }
}
