//! The requests that the cache itself may send to a registry, so that clients keep the rest. Pure.

use std::time::{Duration, Instant};

use super::registry::Availability;
use crate::oci::Repository;

/// The requests that the cache itself may send to a registry now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allowance {
    /// The registry has stated no budget.
    Unlimited,
    /// The requests of the budget above the reserve, at least one.
    Requests {
        count: u64,
        /// The time of the answer with the budget. Later requests are not in `count`.
        stated_at: Instant,
        /// Whether the registry may count requests for blobs. Docker Hub counts manifests only.
        counts_blobs: bool,
    },
    /// The rest of the budget is the reserve of clients. A new window begins within `wait`, if known.
    Reserved {
        wait: Option<Duration>,
        /// As in [`Allowance::Requests`].
        counts_blobs: bool,
    },
    /// The registry has answered 429, and takes requests after `wait`.
    Limited { wait: Duration },
    /// The last requests have failed, or the cache is air-gapped.
    Unavailable,
}

impl Availability {
    /// Returns the requests above a reserve of `percent` of the budget. Counts no probe.
    pub fn allowance(&self, repository: &Repository, percent: u64, now: Instant) -> Allowance {
        let limits = [&self.everything, &self.manifests];
        if let Some(wait) = limits
            .into_iter()
            .flatten()
            .filter_map(|limit| limit.remaining(now))
            .max()
        {
            return Allowance::Limited { wait };
        }
        if self.breaker.is_tripped(repository) {
            return Allowance::Unavailable;
        }
        let (Some(budget), Some((_, stated_at))) = (self.budget(now), self.budget) else {
            return Allowance::Unlimited;
        };
        let age = now.saturating_duration_since(stated_at);
        let counts_blobs = budget.source.is_none();
        match budget.spare(percent) {
            None => Allowance::Unlimited,
            Some(0) => Allowance::Reserved {
                wait: budget.lasts().map(|lasts| lasts.saturating_sub(age)),
                counts_blobs,
            },
            Some(count) => Allowance::Requests {
                count,
                stated_at,
                counts_blobs,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::{Budget, Source};
    use super::super::registry::{Outcome, RequestClass};
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn budget(remaining: u64, source: Option<Source>) -> Budget {
        Budget {
            limit: Some(100),
            remaining: Some(remaining),
            window: Some(60 * S),
            reset: None,
            source,
        }
    }

    #[test]
    fn requests_above_the_reserve_are_allowed_until_the_window_ends() {
        let repository: Repository = "a".parse().unwrap();
        let now = Instant::now();
        let mut availability = Availability::default();
        let allowance = |availability: &Availability, at| availability.allowance(&repository, 30, at);
        assert_eq!(allowance(&availability, now), Allowance::Unlimited);
        availability.record_budget(budget(31, None), now);
        let requests = |counts_blobs| Allowance::Requests {
            count: 1,
            stated_at: now,
            counts_blobs,
        };
        assert_eq!(allowance(&availability, now), requests(true));
        availability.record_budget(budget(31, Some(Source::Address)), now);
        assert_eq!(allowance(&availability, now), requests(false));
        availability.record_budget(budget(30, None), now);
        let reserved = Allowance::Reserved {
            wait: Some(50 * S),
            counts_blobs: true,
        };
        assert_eq!(allowance(&availability, now + 10 * S), reserved);
        assert_eq!(allowance(&availability, now + 60 * S), Allowance::Unlimited);
    }

    #[test]
    fn limit_of_the_registry_allows_nothing_until_its_end() {
        let repository: Repository = "a".parse().unwrap();
        let now = Instant::now();
        let mut availability = Availability::default();
        let class = RequestClass {
            repository: repository.clone(),
            manifest: true,
            revalidates: true,
            resumes: false,
            client_credentials: false,
        };
        let limited = Outcome::Limited {
            everything: false,
            wait: Some(120 * S),
        };
        let _changes = availability.record(&class, limited, now, now).count();
        let at = |seconds| availability.allowance(&repository, 30, now + seconds * S);
        assert_eq!(at(0), Allowance::Limited { wait: 120 * S });
        // Clients may send a probe each minute.
        assert_eq!(at(119), Allowance::Limited { wait: S });
        assert_eq!(at(120), Allowance::Unlimited);
    }
}
