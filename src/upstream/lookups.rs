//! A short-lived cache of name lookups.
//!
//! A failed name server costs each lookup seconds, because glibc waits five seconds before the next
//! server. So answers are reused for a while, and one lookup serves all requests for a name. An
//! abandoned lookup continues for the next request. [`super::resolve::FilteredResolver`] checks the
//! addresses at each use.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

use crate::sync::Mutex;

/// How long an answer is used without another lookup. Equal to the age limit of idle connections,
/// so a registry in use costs two lookups per minute.
const FRESH: Duration = Duration::from_secs(30);

/// How long an answer is used while the next lookup is in flight.
const KEPT: Duration = Duration::from_secs(60);

/// How long an answer is used if the next lookup fails or takes longer than [`SLOW`].
const LAST_RESORT: Duration = Duration::from_secs(600);

/// The time until an older answer replaces a slow lookup (RFC 8767, 5: 1.8 s).
const SLOW: Duration = Duration::from_millis(1_800);

/// How long a failure is reused. Simultaneous requests share the failed lookup, but the next pull
/// makes a new lookup.
const FAILED: Duration = Duration::from_secs(2);

/// A younger answer is not verified, because another lookup would return the same addresses.
const RECHECK_AFTER: Duration = Duration::from_secs(1);

/// The maximum number of addresses per name.
const ADDRESSES_MAX: usize = 64;

/// The limits of the lookups of one party. A party is one configuration entry, Docker Hub, or all
/// other registries together. Clients and upstreams choose names, so the number of names is
/// unlimited.
#[derive(Clone, Copy)]
struct Bounds {
    /// The maximum number of cached names, at most 2 KiB each.
    names: usize,
    /// The maximum number of names without an answer, in lookup or queued.
    waiting: usize,
    /// The maximum number of concurrent lookups for names without an answer, and again for names
    /// with an answer. Each lookup blocks a thread until the system's resolver returns. All parties
    /// together have [`crate::limits::NAME_LOOKUPS_MAX`] threads.
    lookups: usize,
}

/// 256 KiB and at most 8 threads.
const OF_ENTRY: Bounds = Bounds {
    names: 128,
    waiting: 64,
    lookups: 4,
};

/// 2 MiB and at most 32 threads.
const OF_UNLISTED: Bounds = Bounds {
    names: 1_024,
    waiting: 512,
    lookups: 16,
};

type Addresses = Arc<[SocketAddr]>;
type LookupResult = Result<Addresses, Arc<str>>;

/// The cached lookups of one party. Slow names delay their own party only, unless all threads are
/// busy. Cheap to clone.
#[derive(Clone)]
pub(super) struct Lookups(Arc<Inner>);

struct Inner {
    resolver: Arc<dyn Resolve>,
    bounds: Bounds,
    names: Mutex<HashMap<Box<str>, NameState>>,
    /// Slots for names without an answer.
    first: Arc<Semaphore>,
    /// Slots for names with an answer, and for proxies. Names invented by clients use no such slot.
    again: Arc<Semaphore>,
}

/// The state of one name.
#[derive(Default)]
struct NameState {
    answer: Option<(Addresses, Instant)>,
    failed: Option<(Arc<str>, Instant)>,
    /// The lookup in flight.
    next: Option<watch::Receiver<Option<LookupResult>>>,
}

/// The decision on a request for addresses.
#[derive(PartialEq, Eq, Debug)]
enum LookupDecision {
    Use(Addresses),
    /// Use the addresses and start a lookup.
    Renew(Addresses),
    Fail(Arc<str>),
    /// Wait for a lookup. With an older answer, wait at most [`SLOW`].
    LookUp(Option<Addresses>),
}

impl NameState {
    /// Decides on a request for the addresses at `now`.
    fn decide(&self, now: Instant) -> LookupDecision {
        let fresh = self.answer_within(FRESH, now);
        let usable = self.answer_within(LAST_RESORT, now).cloned();
        match (fresh, self.failed_lately(now), usable) {
            (Some(addresses), _, _) => LookupDecision::Use(addresses.clone()),
            (None, Some(_), Some(old)) => LookupDecision::Use(old),
            (None, Some(why), None) => LookupDecision::Fail(why.clone()),
            (None, None, old) => match self.answer_within(KEPT, now) {
                Some(addresses) => LookupDecision::Renew(addresses.clone()),
                None => LookupDecision::LookUp(old),
            },
        }
    }

    fn answer_within(&self, age: Duration, now: Instant) -> Option<&Addresses> {
        let (addresses, at) = self.answer.as_ref()?;
        (now.saturating_duration_since(*at) < age).then_some(addresses)
    }

    fn failed_lately(&self, now: Instant) -> Option<&Arc<str>> {
        let (why, at) = self.failed.as_ref()?;
        (now.saturating_duration_since(*at) < FAILED).then_some(why)
    }

    /// Records an outcome, and returns the result for the waiting requests.
    fn record(&mut self, found: LookupResult, now: Instant) -> LookupResult {
        match found {
            Ok(addresses) => {
                self.answer = Some((addresses.clone(), now));
                self.failed = None;
                Ok(addresses)
            }
            Err(why) => {
                self.failed = Some((why.clone(), now));
                self.answer_within(LAST_RESORT, now).cloned().ok_or(why)
            }
        }
    }

    /// Returns whether the entry contains nothing usable and may be dropped.
    fn is_idle(&self, now: Instant) -> bool {
        self.next.is_none()
            && self.answer_within(LAST_RESORT, now).is_none()
            && self.failed_lately(now).is_none()
    }
}

impl Lookups {
    /// Creates the lookups for the registries of one entry, or for Docker Hub.
    pub fn of_entry(resolver: Arc<dyn Resolve>) -> Self {
        Self::new(resolver, OF_ENTRY)
    }

    /// Creates the lookups for all registries without an entry.
    pub fn of_unlisted(resolver: Arc<dyn Resolve>) -> Self {
        Self::new(resolver, OF_UNLISTED)
    }

    fn new(resolver: Arc<dyn Resolve>, bounds: Bounds) -> Self {
        Lookups(Arc::new(Inner {
            resolver,
            bounds,
            names: Mutex::default(),
            first: Arc::new(Semaphore::new(bounds.lookups)),
            again: Arc::new(Semaphore::new(bounds.lookups)),
        }))
    }

    /// Returns the addresses of `host`. `is_proxy` means a configured proxy.
    ///
    /// # Errors
    ///
    /// The error of the resolver.
    ///
    /// # Cancellation
    ///
    /// The lookup continues, and its answer is cached.
    pub async fn find(&self, host: &str, is_proxy: bool) -> LookupResult {
        let (mut next, old) = {
            let now = Instant::now();
            let mut names = self.0.names.lock();
            let decision = names
                .get(host)
                .map_or(LookupDecision::LookUp(None), |known| known.decide(now));
            match decision {
                LookupDecision::Use(addresses) => return Ok(addresses),
                LookupDecision::Fail(why) => return Err(why),
                LookupDecision::Renew(addresses) => {
                    // If the lookup cannot start now, the next request starts one.
                    let _pending = self.begin(&mut names, host, is_proxy, now);
                    return Ok(addresses);
                }
                LookupDecision::LookUp(old) => (self.begin(&mut names, host, is_proxy, now)?, old),
            }
        };
        let found = async {
            match next.wait_for(Option::is_some).await {
                Ok(found) => found.clone().unwrap_or_else(|| Err("no response".into())),
                Err(_) => Err("the lookup ended unexpectedly".into()),
            }
        };
        match old {
            None => found.await,
            Some(old) => timeout(SLOW, found).await.unwrap_or(Ok(old)),
        }
    }

    /// Looks `host` up again after a failed connection to its addresses. Returns whether there are
    /// new addresses.
    pub async fn renew(&self, host: &str) -> bool {
        let before = {
            let now = Instant::now();
            let mut names = self.0.names.lock();
            let Some(known) = names.get_mut(host) else {
                return false;
            };
            let Some((addresses, at)) = &mut known.answer else {
                return false;
            };
            if now.saturating_duration_since(*at) < RECHECK_AFTER {
                return false;
            }
            // The answer is now a last resort. Shortly after boot, the clock has no earlier
            // instant.
            if let Some(earlier) = now.checked_sub(KEPT) {
                *at = (*at).min(earlier);
            }
            addresses.clone()
        };
        self.find(host, false)
            .await
            .is_ok_and(|after| after.iter().any(|address| !before.contains(address)))
    }

    /// Returns the lookup of `host` that is in flight, or starts one.
    fn begin(
        &self,
        names: &mut HashMap<Box<str>, NameState>,
        host: &str,
        is_proxy: bool,
        now: Instant,
    ) -> Result<watch::Receiver<Option<LookupResult>>, Arc<str>> {
        let Bounds {
            names: max, waiting, ..
        } = self.0.bounds;
        let is_new = !names.contains_key(host);
        let waits = |known: &&NameState| known.next.is_some() && known.answer.is_none();
        if is_new && !is_proxy && names.values().filter(waits).count() >= waiting {
            return Err("the limit of concurrent name lookups is reached".into());
        }
        if is_new && names.len() >= max {
            names.retain(|_, known| !known.is_idle(now));
            if names.len() >= max {
                let oldest = names
                    .iter()
                    .filter(|(_, known)| known.next.is_none())
                    .min_by_key(|(_, known)| known.answer.as_ref().map(|(_, at)| *at))
                    .map(|(name, _)| name.clone());
                if let Some(oldest) = oldest {
                    names.remove(&oldest);
                }
            }
        }
        let known = names.entry(host.into()).or_default();
        if let Some(next) = &known.next {
            return Ok(next.clone());
        }
        let slots = match known.answer.is_some() || is_proxy {
            true => self.0.again.clone(),
            false => self.0.first.clone(),
        };
        let (sender, next) = watch::channel(None);
        known.next = Some(next.clone());
        let (lookups, host) = (self.clone(), Box::<str>::from(host));
        // A separate task, so the lookup continues if the waiting requests are cancelled. The task
        // ends with the call of the system's resolver, which has its own deadlines.
        tokio::spawn(async move {
            let pending = PendingLookup {
                lookups,
                host,
                sender,
            };
            let found = match slots.acquire_owned().await {
                Ok(_slot) => pending.lookups.query_resolver(&pending.host).await,
                Err(_closed) => Err("the resolver has stopped".into()),
            };
            pending.end(found);
        });
        Ok(next)
    }

    async fn query_resolver(&self, host: &str) -> LookupResult {
        let name: Name = host
            .parse()
            .map_err(|_| Arc::<str>::from("the name is not a valid host name"))?;
        match self.0.resolver.resolve(name).await {
            Ok(addresses) => Ok(addresses.take(ADDRESSES_MAX).collect()),
            Err(error) => Err(error.to_string().into()),
        }
    }
}

/// A lookup in flight. After its drop, the next lookup may start.
struct PendingLookup {
    lookups: Lookups,
    host: Box<str>,
    sender: watch::Sender<Option<LookupResult>>,
}

impl PendingLookup {
    fn end(self, found: LookupResult) {
        let result = match self.lookups.0.names.lock().get_mut(&self.host) {
            Some(known) => known.record(found, Instant::now()),
            None => found,
        };
        self.sender.send_replace(Some(result));
    }
}

impl Drop for PendingLookup {
    fn drop(&mut self) {
        if let Some(known) = self.lookups.0.names.lock().get_mut(&self.host) {
            known.next = None;
        }
    }
}

impl Resolve for Lookups {
    fn resolve(&self, name: Name) -> Resolving {
        let lookups = self.clone();
        Box::pin(async move {
            let found = lookups.find(name.as_str(), false).await;
            let addresses = found.map_err(|why| why.to_string())?;
            let addresses: Vec<_> = addresses.iter().copied().collect();
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn addresses(text: &str) -> Addresses {
        [SocketAddr::new(text.parse().unwrap(), 0)].into()
    }

    #[test]
    fn an_answer_is_used_then_renewed_and_outlives_a_name_server() {
        let (now, first, second) = (Instant::now(), addresses("192.0.2.1"), addresses("192.0.2.2"));
        let mut known = NameState::default();
        assert_eq!(known.decide(now), LookupDecision::LookUp(None));
        assert_eq!(known.record(Ok(first.clone()), now), Ok(first.clone()));
        assert_eq!(known.decide(now), LookupDecision::Use(first.clone()));
        assert_eq!(known.decide(now + FRESH), LookupDecision::Renew(first.clone()));
        assert_eq!(
            known.decide(now + KEPT),
            LookupDecision::LookUp(Some(first.clone()))
        );
        let now = now + KEPT;
        assert_eq!(known.record(Err("down".into()), now), Ok(first.clone()));
        assert_eq!(known.decide(now), LookupDecision::Use(first.clone()));
        assert_eq!(known.decide(now + FAILED), LookupDecision::LookUp(Some(first)));
        assert_eq!(known.record(Ok(second.clone()), now), Ok(second.clone()));
        assert_eq!(known.decide(now), LookupDecision::Use(second));
        assert_eq!(known.decide(now + LAST_RESORT), LookupDecision::LookUp(None));
    }

    #[test]
    fn a_failure_is_remembered_for_a_moment_only() {
        let (now, why) = (Instant::now(), Arc::<str>::from("no such name"));
        let mut known = NameState::default();
        assert_eq!(known.record(Err(why.clone()), now), Err(why.clone()));
        assert_eq!(known.decide(now), LookupDecision::Fail(why));
        assert_eq!(known.decide(now + FAILED), LookupDecision::LookUp(None));
    }

    /// A resolver under the control of the test. Counts requests.
    struct Gated {
        requests: AtomicUsize,
        answers: Arc<Semaphore>,
    }

    impl Resolve for Gated {
        fn resolve(&self, _: Name) -> Resolving {
            self.requests.fetch_add(1, Ordering::SeqCst);
            let answers = self.answers.clone();
            Box::pin(async move {
                answers.acquire().await?.forget();
                let address = SocketAddr::new([192, 0, 2, 1].into(), 0);
                Ok(Box::new(std::iter::once(address)) as Addrs)
            })
        }
    }

    impl Gated {
        async fn wait_requests(&self, times: usize) {
            while self.requests.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        }
    }

    fn gated() -> (Arc<Gated>, Lookups) {
        let gated = Arc::new(Gated {
            requests: AtomicUsize::new(0),
            answers: Arc::new(Semaphore::new(0)),
        });
        (gated.clone(), Lookups::of_unlisted(gated))
    }

    #[tokio::test]
    async fn simultaneous_requests_make_one_lookup_which_goes_on_when_they_give_up() {
        let (resolver, lookups) = gated();
        let callers = futures_util::future::join_all((0..100).map(|_| lookups.find("r.example", false)));
        assert!(timeout(Duration::from_millis(50), callers).await.is_err());
        resolver.answers.add_permits(1);
        for _ in 0..3 {
            let found = lookups.find("r.example", false).await;
            assert_eq!(found, Ok(addresses("192.0.2.1")));
        }
        assert_eq!(resolver.requests.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn made_up_names_are_bounded_and_leave_room_for_proxies() {
        let (resolver, lookups) = gated();
        let names: Vec<_> = (0..2 * OF_UNLISTED.names)
            .map(|n| format!("{n}.example"))
            .collect();
        let many = names.iter().map(|name| lookups.find(name, false));
        let many = futures_util::future::join_all(many);
        assert!(timeout(Duration::from_millis(50), many).await.is_err());
        assert_eq!(lookups.0.names.lock().len(), OF_UNLISTED.waiting);
        resolver.wait_requests(OF_UNLISTED.lookups).await;
        assert!(lookups.find("one-more.example", false).await.is_err());
        let proxy = lookups.find("proxy.example", true);
        assert!(timeout(Duration::from_millis(50), proxy).await.is_err());
        resolver.wait_requests(OF_UNLISTED.lookups + 1).await;
    }
}
