//! How the registries are: which of them answer, which have had enough of us.
//!
//! Every question passes here before it is asked ([`Conditions::admit`]) and its outcome is noted afterwards
//! ([`Watch`]). What is learned keeps later questions from being asked: of a registry that is down, because its
//! clients would wait for nothing; of one that limits us, because asking makes it worse.
//!
//! Not here: what is given to the client instead (`cache` knows what is held, `registry` chooses the status).
//! No wall clock is read: all moments are of a clock that never jumps, and given by the caller.

mod breaker;
mod budget;
mod limit;
mod registry;
mod retry_after;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderMap;

pub use budget::{Budget, Source};

use super::error::{Phase, Restraint, UpstreamError};
use super::response::Response;
use super::verdict::Verdict;
use super::{Credentials, Purpose, Request, Target};
use crate::oci::{Namespace, Repository};
use breaker::{Cause, Failure};
use registry::{Admit, Asked, Condition, News, Outcome};
pub(super) use retry_after::retry_after;

/// Registries whose condition is kept. Clients choose names, so there is no end to them; 4,096 × 1 KiB are 4 MiB.
const REGISTRIES_MAX: usize = 4_096;

/// What Docker Hub says when an account or address has pulled too much; its other 429 is bare.
const PULL_LIMIT: &str = "pull rate limit";

/// The conditions of all registries that were asked lately.
#[derive(Default)]
pub(super) struct Conditions(Mutex<HashMap<Namespace, Entry>>);

struct Entry {
    condition: Condition,
    /// Whether the operator has named it: the others are forgotten first.
    named: bool,
    /// When it was last asked, for forgetting the oldest.
    used: Instant,
}

/// Whether a question may be asked.
pub(super) enum Admission {
    Ask(Watch),
    Refuse(UpstreamError),
    /// The asker is refused; the question is asked all the same, to learn whether the registry is back.
    Probe(Watch, UpstreamError),
}

/// A registry, as far as we know it.
#[derive(Clone, Debug)]
pub struct RegistryCondition {
    pub namespace: Namespace,
    pub state: State,
    /// For how long it has been in this state; not known of [`State::Well`].
    pub lasting: Option<Duration>,
    /// The one repository that [`State::Down`] is about, when it is not all of the registry.
    pub only: Option<Repository>,
    pub consecutive_failures: u32,
    pub last_error: Option<Arc<str>>,
    pub budget: Option<Budget>,
    /// Questions with a known outcome, how many of them failed, and how many were not asked.
    pub requests: u64,
    pub failures: u64,
    pub held_back: u64,
}

/// In what state a registry is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Well,
    /// The last questions have failed, but not enough of them to stop asking.
    Failing,
    /// Asked by probes only.
    Down,
    /// It has said 429.
    Limited,
}

/// Waits for the outcome of one question. Dropped without one, it says nothing.
pub(super) struct Watch {
    conditions: Arc<Conditions>,
    namespace: Namespace,
    named: bool,
    asked: Asked,
    /// When it was asked.
    begun: Instant,
}

impl Conditions {
    /// Judges `request`. `named`: whether the operator has named its registry.
    pub fn admit(self: &Arc<Self>, request: &Request, named: bool, now: Instant) -> Admission {
        let asked = Asked {
            repository: request.repository.clone(),
            manifest: matches!(request.target, Target::Manifest(_)),
            revalidates: request.purpose == Purpose::Revalidate,
            resumes: request.range_from.is_some(),
            foreign: matches!(request.credentials, Credentials::Client(_)),
        };
        let verdict = match self.entries().get_mut(&request.namespace) {
            Some(entry) => entry.condition.admit(&asked, now),
            // Nobody has asked it yet, or not for long.
            None => Admit::Ask,
        };
        let watch = Watch {
            conditions: self.clone(),
            namespace: request.namespace.clone(),
            named,
            asked,
            begun: now,
        };
        let host: Arc<str> = request.namespace.as_str().into();
        let limited = |restraint, retry_after| UpstreamError::RateLimited {
            host: host.clone(),
            restraint,
            retry_after,
        };
        match verdict {
            Admit::Ask => Admission::Ask(watch),
            Admit::Limited { wait } => Admission::Refuse(limited(Restraint::Refused, wait)),
            Admit::Scarce { wait } => Admission::Refuse(limited(Restraint::NearlySpent, wait)),
            Admit::Shut { lasting, why, probe } => {
                let error = UpstreamError::Unavailable {
                    host: host.clone(),
                    lasting,
                    why: why.text,
                    timed_out: why.timed_out,
                };
                if probe {
                    Admission::Probe(watch, error)
                } else {
                    Admission::Refuse(error)
                }
            }
        }
    }

    /// All registries that are known, by name.
    pub fn report(&self, now: Instant) -> Vec<RegistryCondition> {
        let mut report: Vec<_> = self
            .entries()
            .iter()
            .map(|(namespace, entry)| entry.condition.report(namespace, now))
            .collect();
        report.sort_by(|one, other| one.namespace.cmp(&other.namespace));
        report
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Namespace, Entry>> {
        // The table is whole between any two statements, so a panic elsewhere leaves it usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, watch: &Watch, outcome: Outcome, budget: Option<Budget>, now: Instant) {
        let why = match &outcome {
            Outcome::Failed(_, cause) => Some(cause.text.clone()),
            Outcome::Nothing => return,
            _ => None,
        };
        let wait = match &outcome {
            Outcome::Limited { wait, .. } => *wait,
            _ => None,
        };
        let mut entries = self.entries();
        if !entries.contains_key(&watch.namespace) && entries.len() >= REGISTRIES_MAX {
            forget_one(&mut entries);
        }
        let entry = entries.entry(watch.namespace.clone()).or_insert_with(|| Entry {
            condition: Condition::default(),
            named: false,
            used: now,
        });
        (entry.named, entry.used) = (watch.named, now);
        entry.condition.requests += 1;
        let news: Vec<News> = entry
            .condition
            .note(&watch.asked, outcome, watch.begun, now)
            .collect();
        if let Some(budget) = budget {
            entry.condition.learn(budget, now);
        }
        let only = entry.condition.breaker.only().cloned();
        drop(entries);
        for news in news {
            let registry = &watch.namespace;
            match news {
                News::Opened => {
                    let (why, only) = (
                        why.as_deref().unwrap_or_default(),
                        only.as_ref().map(tracing::field::display),
                    );
                    tracing::warn!(%registry, repository = only, why, "a registry fails; asking it once a second only");
                }
                News::Closed => tracing::info!(%registry, "a registry answers again"),
                News::Limited => {
                    let retry_after = wait.map(|wait| wait.as_secs());
                    tracing::warn!(%registry, retry_after, "a registry limits our requests; asking it less");
                }
                News::Released => {
                    tracing::info!(%registry, "a registry does not limit our requests any more");
                }
            }
        }
    }
}

/// Makes room: the registry that nobody has asked for longest, one the operator has named only if there is no other.
fn forget_one(entries: &mut HashMap<Namespace, Entry>) {
    let oldest = entries
        .iter()
        .min_by_key(|(_, entry)| (entry.named, entry.used))
        .map(|(namespace, _)| namespace.clone());
    if let Some(oldest) = oldest {
        entries.remove(&oldest);
    }
}

impl Condition {
    fn report(&self, namespace: &Namespace, now: Instant) -> RegistryCondition {
        let limited = [&self.everything, &self.manifests]
            .into_iter()
            .flatten()
            .map(|limit| limit.noted())
            .min();
        let (state, since) = match (self.breaker.failing(), limited) {
            (Some((since, true)), _) => (State::Down, Some(since)),
            (_, Some(since)) => (State::Limited, Some(since)),
            (Some((since, false)), None) => (State::Failing, Some(since)),
            (None, None) => (State::Well, None),
        };
        RegistryCondition {
            namespace: namespace.clone(),
            state,
            lasting: since.map(|since| now.saturating_duration_since(since)),
            only: self.breaker.only().filter(|_| state == State::Down).cloned(),
            consecutive_failures: self.breaker.failures(),
            last_error: self.last_error.clone(),
            budget: self.budget(now),
            requests: self.requests,
            failures: self.failures,
            held_back: self.held_back,
        }
    }
}

impl Watch {
    /// The question has been answered, or not.
    pub fn note(
        self,
        outcome: Result<Response, UpstreamError>,
        now: Instant,
    ) -> Result<Response, UpstreamError> {
        let (what, headers) = match &outcome {
            // Whether its body breaks is another question, and asked again by who wants it.
            Ok(response) => (Outcome::Answered, Some(&response.headers)),
            Err(error) => {
                let headers = match error {
                    UpstreamError::Status { headers, .. } => Some(&**headers),
                    _ => None,
                };
                (self.of_error(error), headers)
            }
        };
        // Other fields are of whoever the blob's bytes come from.
        let ours = self.asked.manifest && !self.asked.foreign;
        let budget = headers.filter(|_| ours).and_then(Budget::of);
        self.conditions.note(&self, what, budget, now);
        outcome
    }

    fn of_error(&self, error: &UpstreamError) -> Outcome {
        match error {
            UpstreamError::Status {
                verdict: Verdict::Limited,
                phase,
                headers,
                body,
                ..
            } => self.of_limit(*phase, headers, body),
            UpstreamError::Status {
                status: 500..=599,
                verdict: Verdict::Trouble,
                phase,
                ..
            } => {
                let failure = match phase {
                    Phase::Token => Failure::Unreachable,
                    _ => Failure::Refusal,
                };
                Outcome::Failed(failure, cause(error))
            }
            UpstreamError::Timeout { .. } => Outcome::Failed(Failure::Silent, cause(error)),
            // Here a body is that of a token.
            UpstreamError::Connect { .. }
            | UpstreamError::Proxy { .. }
            | UpstreamError::Tls { .. }
            | UpstreamError::Head { .. }
            | UpstreamError::Body { .. } => Outcome::Failed(Failure::Unreachable, cause(error)),
            UpstreamError::Status { .. }
            | UpstreamError::Redirected { .. }
            | UpstreamError::RedirectTarget { .. }
            | UpstreamError::Protocol { .. } => Outcome::Answered,
            // Of our own making.
            UpstreamError::Refused { .. }
            | UpstreamError::Credentials { .. }
            | UpstreamError::Overloaded { .. }
            | UpstreamError::Unavailable { .. }
            | UpstreamError::RateLimited { .. }
            | UpstreamError::AirGapped { .. } => Outcome::Nothing,
        }
    }

    /// Which of its limits a registry means. That on pulls is about manifests only; without a sign of it, it is
    /// the one on requests of any kind.
    fn of_limit(&self, phase: Phase, headers: &HeaderMap, body: &[u8]) -> Outcome {
        if self.asked.foreign {
            // The client's own account, or the client's own doing.
            return Outcome::Nothing;
        }
        let budget = Budget::of(headers);
        let told = body
            .windows(PULL_LIMIT.len())
            .any(|window| window.eq_ignore_ascii_case(PULL_LIMIT.as_bytes()));
        let spent = budget.is_some_and(|budget| budget.is_spent());
        let pulls = self.asked.manifest && phase != Phase::Token && (told || spent);
        let reset = budget.and_then(|budget| budget.reset).filter(|_| spent);
        Outcome::Limited {
            everything: !pulls,
            wait: retry_after(headers).or(reset),
        }
    }
}

fn cause(error: &UpstreamError) -> Cause {
    Cause {
        text: error.to_string().into(),
        timed_out: matches!(
            error,
            UpstreamError::Timeout { .. } | UpstreamError::Status { status: 504, .. }
        ),
    }
}
