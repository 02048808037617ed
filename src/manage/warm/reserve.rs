//! The bound of the requests of a run: the part of a registry's budget above the reserve.

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::oci::{Namespace, Origin};
use crate::upstream::Allowance;

/// The reason why a run sends no request to a registry now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeldBack {
    #[error("the rest of the request budget is the reserve of clients")]
    Budget {
        /// The time within which the registry begins a new window. `None` if unknown.
        wait: Option<Duration>,
    },
    #[error("the registry has limited the requests")]
    RateLimit {
        /// The time until the end of the limit.
        wait: Duration,
    },
    #[error("the last requests to the registry have failed")]
    Unavailable,
}

impl HeldBack {
    /// Returns the word of the log and of the API.
    pub fn word(self) -> &'static str {
        match self {
            HeldBack::Budget { .. } => "budget",
            HeldBack::RateLimit { .. } => "rate_limit",
            HeldBack::Unavailable => "unavailable",
        }
    }

    /// Returns the time after which a further attempt may succeed. `None` if unknown.
    pub fn wait(self) -> Option<Duration> {
        match self {
            HeldBack::Budget { wait } => wait,
            HeldBack::RateLimit { wait } => Some(wait),
            HeldBack::Unavailable => None,
        }
    }
}

/// The content of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Requested {
    /// A manifest, a tag or a page of tags.
    Manifest,
    Blob,
}

/// Bounds the requests of one run. Lives on one thread.
pub struct Reserve<'a> {
    allowance: Box<dyn Fn(&Origin) -> Allowance + 'a>,
    sent: RefCell<HashMap<Namespace, Sent>>,
}

/// The requests to a registry that its last stated budget does not contain.
#[derive(Clone, Copy)]
struct Sent {
    stated_at: Instant,
    ended: u64,
    running: u64,
}

/// Allows requests for one object. The drop records the end of the requests.
pub struct Permit<'r> {
    sent: &'r RefCell<HashMap<Namespace, Sent>>,
    namespace: Namespace,
    requests: u64,
    stated_at: Option<Instant>,
}

impl<'a> Reserve<'a> {
    /// Takes the requests of a registry from `allowance`.
    pub fn new(allowance: impl Fn(&Origin) -> Allowance + 'a) -> Self {
        Reserve {
            allowance: Box::new(allowance),
            sent: RefCell::default(),
        }
    }

    /// Returns the permit for one object, with a request for each of `callers`.
    ///
    /// # Errors
    ///
    /// The requests would use the reserve, or the registry gets no requests.
    pub fn permit(
        &self,
        origin: &Origin,
        requested: Requested,
        callers: usize,
    ) -> Result<Permit<'_>, HeldBack> {
        let mut permit = Permit {
            sent: &self.sent,
            namespace: origin.namespace.clone(),
            requests: callers as u64,
            stated_at: None,
        };
        let (count, stated_at) = match (self.allowance)(origin) {
            Allowance::Limited { wait } => return Err(HeldBack::RateLimit { wait }),
            Allowance::Unavailable => return Err(HeldBack::Unavailable),
            Allowance::Unlimited => return Ok(permit),
            Allowance::Requests {
                counts_blobs: false, ..
            } if requested == Requested::Blob => {
                return Ok(permit);
            }
            Allowance::Reserved {
                counts_blobs: false, ..
            } if requested == Requested::Blob => {
                return Ok(permit);
            }
            Allowance::Reserved { wait, .. } => return Err(HeldBack::Budget { wait }),
            Allowance::Requests { count, stated_at, .. } => (count, stated_at),
        };
        let mut all = self.sent.borrow_mut();
        let sent = all.entry(origin.namespace.clone()).or_insert(Sent {
            stated_at,
            ended: 0,
            running: 0,
        });
        if sent.stated_at != stated_at {
            // The registry has counted the ended requests.
            (sent.stated_at, sent.ended) = (stated_at, 0);
        }
        if sent.ended + sent.running + permit.requests > count {
            return Err(HeldBack::Budget { wait: None });
        }
        sent.running += permit.requests;
        permit.stated_at = Some(stated_at);
        Ok(permit)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.stated_at.is_none() {
            return;
        }
        if let Some(sent) = self.sent.borrow_mut().get_mut(&self.namespace) {
            sent.running = sent.running.saturating_sub(self.requests);
            sent.ended += self.requests;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn origin() -> Origin {
        Origin {
            namespace: "a.example".parse().unwrap(),
            repository: "r".parse().unwrap(),
        }
    }

    fn requests(count: u64, stated_at: Instant, counts_blobs: bool) -> Allowance {
        Allowance::Requests {
            count,
            stated_at,
            counts_blobs,
        }
    }

    #[test]
    fn running_and_ended_requests_count_until_the_registry_states_its_budget_again() {
        let now = Instant::now();
        let allowance = Cell::new(requests(3, now, true));
        let reserve = Reserve::new(|_| allowance.get());
        let permit = |requested| reserve.permit(&origin(), requested, 1);
        let first = permit(Requested::Manifest).ok().unwrap();
        let second = permit(Requested::Blob).ok().unwrap();
        drop(first);
        let _third = permit(Requested::Blob).ok().unwrap();
        let held = permit(Requested::Manifest).err().unwrap();
        assert_eq!(held, HeldBack::Budget { wait: None });
        drop(second);
        assert!(permit(Requested::Manifest).is_err());
        // The answer contains the ended requests, and the third request still runs.
        allowance.set(requests(2, now + Duration::from_secs(1), true));
        let _fourth = permit(Requested::Manifest).ok().unwrap();
        assert!(permit(Requested::Manifest).is_err());
    }

    #[test]
    fn each_caller_of_a_request_counts() {
        let reserve = Reserve::new(|_| requests(3, Instant::now(), true));
        assert!(reserve.permit(&origin(), Requested::Manifest, 4).is_err());
        assert!(reserve.permit(&origin(), Requested::Manifest, 3).is_ok());
    }

    #[test]
    fn blobs_do_not_count_at_a_registry_that_counts_manifests_only() {
        let now = Instant::now();
        let reserved = Allowance::Reserved {
            wait: None,
            counts_blobs: false,
        };
        for allowance in [requests(1, now, false), reserved] {
            let reserve = Reserve::new(|_| allowance);
            for _ in 0..5 {
                assert!(reserve.permit(&origin(), Requested::Blob, 1).is_ok());
            }
        }
    }

    #[test]
    fn limited_registry_gets_no_request() {
        let wait = Duration::from_secs(7);
        for (allowance, held, word) in [
            (
                Allowance::Limited { wait },
                HeldBack::RateLimit { wait },
                "rate_limit",
            ),
            (Allowance::Unavailable, HeldBack::Unavailable, "unavailable"),
            (
                Allowance::Reserved {
                    wait: Some(wait),
                    counts_blobs: true,
                },
                HeldBack::Budget { wait: Some(wait) },
                "budget",
            ),
        ] {
            let reserve = Reserve::new(|_| allowance);
            for requested in [Requested::Manifest, Requested::Blob] {
                assert_eq!(reserve.permit(&origin(), requested, 1).err(), Some(held));
            }
            assert_eq!(held.word(), word);
        }
    }
}
