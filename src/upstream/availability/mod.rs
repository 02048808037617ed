//! The availability of the registries: failures and rate limits.
//!
//! [`AvailabilityTable::admit`] decides on every request before the request is sent.
//! [`RequestTracker`] records the outcome. Recorded outcomes suppress later requests. A request to
//! an unavailable registry would only make its client wait. A request to a limiting registry would
//! extend the limit.
//!
//! Not here: the answer to the client (`cache` finds the held copy, `registry` chooses the status).
//! This module reads no clock. The caller passes instants of the monotonic clock.

mod allowance;
mod budget;
mod circuit_breaker;
mod limit;
mod registry;
mod retry_after;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::HeaderMap;

pub use allowance::Allowance;
pub use budget::{Budget, Source};

use super::error::{Phase, Restraint, UpstreamError};
use super::response::UpstreamResponse;
use super::verdict::ResponseVerdict;
use super::{Credentials, Purpose, Target, UpstreamRequest};
use crate::events::{self, Event};
use crate::oci::{Namespace, Repository};
use crate::sync::Mutex;
use circuit_breaker::{Cause, Failure};
use registry::{Admission, Availability, Change, Outcome, RequestClass};
pub(super) use retry_after::retry_after;

/// The maximum number of registries in the table. Clients choose names, so the number is otherwise
/// unlimited. 4,096 × 1 KiB are 4 MiB.
const REGISTRIES_MAX: usize = 4_096;

/// The text in Docker Hub's 429 for an account or address over its pull limit. Its other 429 has no
/// such text.
const PULL_LIMIT: &str = "pull rate limit";

/// The availability of all registries with a recent request.
#[derive(Default)]
pub(super) struct AvailabilityTable {
    entries: Mutex<HashMap<Namespace, AvailabilityEntry>>,
    /// The number of times that a registry became unavailable, or limited its requests.
    suspensions: AtomicU64,
}

struct AvailabilityEntry {
    availability: Availability,
    /// Whether the registry is configured. Other registries are dropped first.
    named: bool,
    /// The time of the last request. The least recently used entry is dropped first.
    used: Instant,
}

/// The decision on a request.
pub(super) enum Decision {
    Send(RequestTracker),
    Refuse(UpstreamError),
    /// The caller gets the error. The request is sent in the background, as a probe of the
    /// registry.
    Probe(RequestTracker, UpstreamError),
}

/// The status of a registry.
#[derive(Clone, Debug)]
pub struct RegistryStatus {
    pub namespace: Namespace,
    pub state: AvailabilityState,
    /// How long the registry has been in this state. `None` for [`AvailabilityState::Available`].
    pub lasting: Option<Duration>,
    /// In state [`AvailabilityState::Tripped`], the affected repository. `None` if the whole
    /// registry is affected.
    pub only: Option<Repository>,
    /// In state [`AvailabilityState::Limited`], whether blobs are requested in spite of the limit.
    pub is_limit_on_manifests: bool,
    pub consecutive_failures: u32,
    pub last_error: Option<Arc<str>>,
    pub budget: Option<Budget>,
    /// The number of requests with a known outcome. The next fields count failed and suppressed
    /// requests.
    pub requests: u64,
    pub failures: u64,
    pub suppressed: u64,
}

impl RegistryStatus {
    /// Returns the status of a registry that got no request.
    pub fn idle(namespace: Namespace) -> Self {
        RegistryStatus {
            namespace,
            state: AvailabilityState::Available,
            lasting: None,
            only: None,
            is_limit_on_manifests: false,
            consecutive_failures: 0,
            last_error: None,
            budget: None,
            requests: 0,
            failures: 0,
            suppressed: 0,
        }
    }
}

/// The availability state of a registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AvailabilityState {
    Available,
    /// The last requests have failed, but too few to trip the breaker.
    Failing,
    /// The breaker has tripped. Only probes are sent.
    Tripped,
    /// The registry has answered 429.
    Limited,
}

impl AvailabilityState {
    pub const ALL: [AvailabilityState; 4] = [
        AvailabilityState::Available,
        AvailabilityState::Failing,
        AvailabilityState::Tripped,
        AvailabilityState::Limited,
    ];

    /// Returns the word of the statistics and the metrics.
    pub fn word(self) -> &'static str {
        match self {
            AvailabilityState::Available => "available",
            AvailabilityState::Failing => "failing",
            AvailabilityState::Tripped => "unavailable",
            AvailabilityState::Limited => "limited",
        }
    }
}

/// Records the outcome of one request. A tracker dropped without an outcome records nothing.
pub(super) struct RequestTracker {
    registries: Arc<AvailabilityTable>,
    namespace: Namespace,
    named: bool,
    class: RequestClass,
    /// The time of the request.
    sent_at: Instant,
}

impl AvailabilityTable {
    /// Decides on `request`. `named` means a configured registry.
    pub fn admit(self: &Arc<Self>, request: &UpstreamRequest, named: bool, now: Instant) -> Decision {
        let class = RequestClass {
            repository: request.repository.clone(),
            manifest: matches!(request.target, Target::Manifest(_)),
            revalidates: request.purpose == Purpose::Revalidate,
            resumes: request.range_from.is_some(),
            client_credentials: matches!(request.credentials, Credentials::Client(_)),
        };
        let verdict = match self.entries.lock().get_mut(&request.namespace) {
            Some(entry) => entry.availability.admit(&class, now),
            // No recent request to this registry.
            None => Admission::Allow,
        };
        let tracker = RequestTracker {
            registries: self.clone(),
            namespace: request.namespace.clone(),
            named,
            class,
            sent_at: now,
        };
        let host: Arc<str> = request.namespace.as_str().into();
        let limited = |restraint, retry_after| UpstreamError::RateLimited {
            host: host.clone(),
            restraint,
            retry_after,
        };
        match verdict {
            Admission::Allow => Decision::Send(tracker),
            Admission::Limited { wait } => Decision::Refuse(limited(Restraint::Refused, wait)),
            Admission::Scarce { wait } => Decision::Refuse(limited(Restraint::NearlySpent, wait)),
            Admission::Tripped { lasting, why, probe } => {
                let error = UpstreamError::Unavailable {
                    host: host.clone(),
                    lasting,
                    why: why.text,
                    timed_out: why.timed_out,
                };
                if probe {
                    Decision::Probe(tracker, error)
                } else {
                    Decision::Refuse(error)
                }
            }
        }
    }

    /// Returns whether blobs of `repository` get no requests now, except probes.
    pub fn is_suspended(&self, namespace: &Namespace, repository: &Repository) -> bool {
        let entries = self.entries.lock();
        let entry = entries.get(namespace);
        entry.is_some_and(|entry| entry.availability.is_suspended(repository))
    }

    /// Returns the requests of the budget above a reserve of `percent`. `None` without a budget.
    pub fn spare_budget(&self, namespace: &Namespace, percent: u64, now: Instant) -> Option<u64> {
        let entries = self.entries.lock();
        entries.get(namespace)?.availability.budget(now)?.spare(percent)
    }

    /// Returns the requests that the cache itself may send, above a reserve of `percent`.
    pub fn allowance(
        &self,
        (namespace, repository): (&Namespace, &Repository),
        percent: u64,
        now: Instant,
    ) -> Allowance {
        let entries = self.entries.lock();
        let entry = entries.get(namespace);
        entry.map_or(Allowance::Unlimited, |entry| {
            entry.availability.allowance(repository, percent, now)
        })
    }

    /// Returns the registries of which some repository [`AvailabilityTable::is_suspended`].
    pub fn suspended(&self) -> HashSet<String> {
        let entries = self.entries.lock();
        let suspended = entries
            .iter()
            .filter(|(_, entry)| entry.availability.is_partly_suspended());
        suspended.map(|(namespace, _)| namespace.to_string()).collect()
    }

    /// Returns a number that changes when a registry becomes unavailable, or limits its requests.
    pub fn suspensions(&self) -> u64 {
        self.suspensions.load(Ordering::Acquire)
    }

    /// Returns the status of all registries in the table, sorted by name.
    pub fn report(&self, now: Instant) -> Vec<RegistryStatus> {
        let mut report: Vec<_> = self
            .entries
            .lock()
            .iter()
            .map(|(namespace, entry)| entry.availability.report(namespace, now))
            .collect();
        report.sort_by(|one, other| one.namespace.cmp(&other.namespace));
        report
    }

    fn record(&self, tracker: &RequestTracker, outcome: Outcome, budget: Option<Budget>, now: Instant) {
        let why = match &outcome {
            Outcome::Failed(_, cause) => Some(cause.text.clone()),
            Outcome::NotSent => return,
            _ => None,
        };
        let wait = match &outcome {
            Outcome::Limited { wait, .. } => *wait,
            _ => None,
        };
        let mut entries = self.entries.lock();
        if !entries.contains_key(&tracker.namespace) && entries.len() >= REGISTRIES_MAX {
            forget_one(&mut entries);
        }
        let entry = entries
            .entry(tracker.namespace.clone())
            .or_insert_with(|| AvailabilityEntry {
                availability: Availability::default(),
                named: false,
                used: now,
            });
        (entry.named, entry.used) = (tracker.named, now);
        entry.availability.requests += 1;
        let changes: Vec<Change> = entry
            .availability
            .record(&tracker.class, outcome, tracker.sent_at, now)
            .collect();
        if let Some(budget) = budget {
            entry.availability.record_budget(budget, now);
        }
        let only = entry.availability.breaker.only().cloned();
        drop(entries);
        for change in changes {
            if matches!(change, Change::Tripped | Change::Limited) {
                self.suspensions.fetch_add(1, Ordering::Release);
            }
            let registry = &tracker.namespace;
            publish(change, registry);
            match change {
                Change::Tripped => {
                    let (error, only) = (
                        why.as_deref().unwrap_or_default(),
                        only.as_ref().map(tracing::field::display),
                    );
                    tracing::warn!(%registry, repository = only, error, "upstream unavailable");
                }
                Change::Recovered => tracing::info!(%registry, "upstream available again"),
                Change::Limited => {
                    let retry_s = wait.map(|wait| wait.as_secs());
                    tracing::warn!(%registry, retry_s, "upstream rate limit reached");
                }
                Change::LimitEnded => {
                    tracing::info!(%registry, "upstream rate limit ended");
                }
            }
        }
    }
}

/// Sends the event of a change of the circuit breaker.
fn publish(change: Change, registry: &Namespace) {
    let registry = || registry.to_string();
    match change {
        Change::Tripped => events::publish(|| Event::RegistryUnavailable { registry: registry() }),
        Change::Recovered => events::publish(|| Event::RegistryAvailable { registry: registry() }),
        Change::Limited | Change::LimitEnded => {}
    }
}

/// Drops the registry with the oldest last request. Configured registries are dropped only if there
/// is no other.
fn forget_one(entries: &mut HashMap<Namespace, AvailabilityEntry>) {
    let oldest = entries
        .iter()
        .min_by_key(|(_, entry)| (entry.named, entry.used))
        .map(|(namespace, _)| namespace.clone());
    if let Some(oldest) = oldest {
        entries.remove(&oldest);
    }
}

impl Availability {
    fn report(&self, namespace: &Namespace, now: Instant) -> RegistryStatus {
        let limited = [&self.everything, &self.manifests]
            .into_iter()
            .flatten()
            .map(|limit| limit.recorded_at())
            .min();
        let (state, since) = match (self.breaker.failing(), limited) {
            (Some((since, true)), _) => (AvailabilityState::Tripped, Some(since)),
            (_, Some(since)) => (AvailabilityState::Limited, Some(since)),
            (Some((since, false)), None) => (AvailabilityState::Failing, Some(since)),
            (None, None) => (AvailabilityState::Available, None),
        };
        RegistryStatus {
            namespace: namespace.clone(),
            state,
            lasting: since.map(|since| now.saturating_duration_since(since)),
            only: self
                .breaker
                .only()
                .filter(|_| state == AvailabilityState::Tripped)
                .cloned(),
            is_limit_on_manifests: state == AvailabilityState::Limited && self.everything.is_none(),
            consecutive_failures: self.breaker.failures(),
            last_error: self.last_error.clone(),
            budget: self.budget(now),
            requests: self.requests,
            failures: self.failures,
            suppressed: self.suppressed,
        }
    }
}

impl RequestTracker {
    /// Records the outcome of the request, and returns it.
    pub fn record(
        self,
        outcome: Result<UpstreamResponse, UpstreamError>,
        now: Instant,
    ) -> Result<UpstreamResponse, UpstreamError> {
        let (what, headers) = match &outcome {
            // A body that breaks is not an outcome of this request. The reader sends another
            // request for the rest.
            Ok(response) => (Outcome::Answered, Some(&response.headers)),
            Err(error) => {
                let headers = match error {
                    UpstreamError::Status { headers, .. } => Some(&**headers),
                    _ => None,
                };
                (self.of_error(error), headers)
            }
        };
        // Rate limit headers of a blob response may come from another host.
        let ours = self.class.manifest && !self.class.client_credentials;
        let budget = headers.filter(|_| ours).and_then(Budget::of);
        self.registries.record(&self, what, budget, now);
        outcome
    }

    fn of_error(&self, error: &UpstreamError) -> Outcome {
        match error {
            UpstreamError::Status {
                verdict: ResponseVerdict::Limited,
                phase,
                headers,
                body,
                ..
            } => self.of_limit(*phase, headers, body),
            UpstreamError::Status {
                status: 500..=599,
                verdict: ResponseVerdict::Trouble,
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
            // A body error at this point concerns the body of a token answer.
            UpstreamError::Connect { .. }
            | UpstreamError::Proxy { .. }
            | UpstreamError::Tls { .. }
            | UpstreamError::Head { .. }
            | UpstreamError::Body { .. } => Outcome::Failed(Failure::Unreachable, cause(error)),
            UpstreamError::Status { .. }
            | UpstreamError::Redirected { .. }
            | UpstreamError::RedirectTarget { .. }
            | UpstreamError::Protocol { .. } => Outcome::Answered,
            // Errors without a request to the registry.
            UpstreamError::Refused { .. }
            | UpstreamError::Credentials { .. }
            | UpstreamError::Overloaded { .. }
            | UpstreamError::Unavailable { .. }
            | UpstreamError::RateLimited { .. }
            | UpstreamError::AirGapped { .. } => Outcome::NotSent,
        }
    }

    /// Returns the limit meant by a 429. A pull limit covers manifests only. Without any sign of a
    /// pull limit, the limit covers all requests.
    fn of_limit(&self, phase: Phase, headers: &HeaderMap, body: &[u8]) -> Outcome {
        if self.class.client_credentials {
            // The limit belongs to the client's own account.
            return Outcome::NotSent;
        }
        let budget = Budget::of(headers);
        let is_pull_limit = body
            .windows(PULL_LIMIT.len())
            .any(|window| window.eq_ignore_ascii_case(PULL_LIMIT.as_bytes()));
        let spent = budget.is_some_and(|budget| budget.is_spent());
        let pulls = self.class.manifest && phase != Phase::Token && (is_pull_limit || spent);
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
