//! Serves lists (`tags/list`, `referrers`). Concurrent requests share one fetch. A list stays in
//! memory for a moment, and is served stale while the upstream is unavailable. Lists of referrers
//! are also stored (`records`) for this purpose, because clients cannot find signatures without
//! lists.

pub(super) mod key;
pub(super) mod parse;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use key::ListingKey;
pub use parse::INDEX_TYPE;
use parse::Listed;

use crate::cache::freshness::is_fresh;
use crate::cache::records::Kept;
use crate::cache::small_body::{SmallBodyError, SmallBodyFetch, read_at_most};
use crate::cache::{Absence, Cache, Class, FetchError, FetchResources, Priority, Shared, media_type, unless};
use crate::http::{CacheResult, link};
use crate::limits::{
    DESERTED_MANIFEST_TIMEOUT, LISTING_BYTES_MAX, LISTING_TTL, LISTINGS_BYTES_MAX, LISTINGS_MAX,
};
use crate::lru::Lru;
use crate::oci::Origin;
use crate::runtime::clock::unix_millis;
use crate::runtime::single_flight::{Completer, Role, SingleFlight};
use crate::storage::RecordChanges;
use crate::sync::Mutex;
use crate::trace;
use crate::upstream::{
    Credentials, Purpose, ResponseVerdict, Target, UpstreamError, UpstreamMethod, UpstreamRequest,
    UpstreamResponse,
};

/// Memory of a kept list besides its body: key, slot, allocations.
const OVERHEAD_BYTES: u64 = 1_024;

/// A page, and the way in which the cache obtained it.
#[derive(Clone, Debug)]
pub struct ListingAnswer {
    pub listed: Arc<Listed>,
    pub cache: CacheResult,
    /// The status of the upstream response that decided the answer.
    pub upstream_status: Option<u16>,
    /// Time after the request during which the page is served without revalidation.
    pub lifetime: Duration,
    /// The reason why the page is stale.
    pub stale: Option<String>,
}

/// The reason why there is no list.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ListingError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The registry has no referrers API. Clients then request the fallback tag.
    #[error("the registry does not list referrers: {0}")]
    NoReferrers(UpstreamError),
    /// Clients treat this like `NoReferrers`. The response may be a web page instead of a list, so
    /// kept lists stay.
    #[error("the registry does not list referrers: {what}")]
    NotAnIndex {
        /// The status of the upstream response.
        status: u16,
        what: &'static str,
    },
    #[error("the list is larger than 4 MiB")]
    TooLarge {
        /// The status of the upstream response.
        status: u16,
    },
}

type Outcome = Result<ListingAnswer, ListingError>;

/// The fetches in flight.
pub(super) type ListingCalls = SingleFlight<ListingKey, Outcome>;

/// The lists of the last moments, shared by all cores.
pub(super) struct Listings(Mutex<Lru<ListingKey, Arc<Listed>>>);

impl Default for Listings {
    fn default() -> Self {
        Listings(Mutex::new(Lru::new(LISTINGS_BYTES_MAX, LISTINGS_MAX)))
    }
}

impl Listings {
    fn get(&self, key: &ListingKey) -> Option<Arc<Listed>> {
        self.0.lock().get(key).map(|listed| listed.clone())
    }

    fn keep(&self, key: &ListingKey, listed: &Arc<Listed>) {
        let weight = listed.body.len() as u64 + OVERHEAD_BYTES;
        self.0.lock().insert(key.clone(), listed.clone(), weight);
    }

    fn forget(&self, key: &ListingKey) {
        self.0.lock().remove(key);
    }
}

impl Cache {
    /// Returns the page `key`. Public pages and pages of shared registries are kept for a moment.
    /// Pages for a client's own credentials are not kept.
    ///
    /// # Errors
    ///
    /// The upstream's error response or failure, if no usable page is held.
    ///
    /// # Cancellation
    ///
    /// The fetch continues for other clients.
    pub async fn listing(&self, key: ListingKey) -> Outcome {
        if let Some(listed) = self.0.fresh_list(&key) {
            return Ok(self.0.list_answer(listed, CacheResult::Hit, None));
        }
        let work = answering(self.0.clone(), key.clone());
        let calls = &self.0.listing_calls;
        let (outcome, role) = calls.join(&self.0.helper, key, work).await;
        let mut answer = outcome.unwrap_or_else(|_| Err(FetchError::Lost.into()))?;
        if role == Role::Follower {
            answer.upstream_status = None;
            if answer.cache == CacheResult::Miss {
                answer.cache = CacheResult::Collapsed;
            }
        }
        Ok(answer)
    }

    /// Returns the page `key` like [`Cache::listing`], when nothing of the page waits for the store.
    ///
    /// # Errors
    ///
    /// The upstream's error response or failure, if no usable page is held.
    ///
    /// # Cancellation
    ///
    /// The work continues.
    pub async fn hold_listing(&self, key: ListingKey) -> Outcome {
        let work = answering(self.0.clone(), key.clone());
        let calls = &self.0.listing_calls;
        let (outcome, _) = calls.join_to_end(&self.0.helper, key, work).await;
        outcome.unwrap_or_else(|_| Err(FetchError::Lost.into()))
    }

    /// Requests the page `target` with a client's own `credentials`, or without credentials. The
    /// page is not kept.
    ///
    /// # Errors
    ///
    /// The upstream's error response or failure.
    pub async fn pass_through_listing(
        &self,
        origin: &Origin,
        target: Target,
        credentials: Credentials,
    ) -> Outcome {
        let (shared, origin) = (self.0.clone(), origin.clone());
        let (listed, status) = self
            .0
            .helper
            .ask(async move {
                shared
                    .fetch_list(&origin, &target, credentials, Purpose::Pull)
                    .await
            })
            .await
            .map_err(|_| FetchError::Lost)??;
        let listed = Listed {
            public: false,
            ..listed
        };
        let (listed, status) = (Arc::new(listed), Some(status));
        Ok(self.0.list_answer(listed, CacheResult::Bypass, status))
    }
}

/// Returns the work of a call for `key`.
fn answering(
    shared: Arc<Shared>,
    key: ListingKey,
) -> impl FnOnce(Completer<ListingKey, Outcome>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    let context = trace::current();
    move |completer| {
        Box::pin(trace::within(context, async move {
            if let Some(listed) = shared.fresh_list(&key) {
                return completer.complete(Ok(shared.list_answer(listed, CacheResult::Hit, None)));
            }
            let work = shared.list(&key);
            let listed = unless(completer.deserted(DESERTED_MANIFEST_TIMEOUT), work).await;
            if let Ok((outcome, changes)) = listed {
                completer.complete(outcome);
                shared.write_records(&key.origin, changes).await;
            }
        }))
    }
}

impl Shared {
    /// Returns the page in memory, if no revalidation is needed.
    fn fresh_list(&self, key: &ListingKey) -> Option<Arc<Listed>> {
        let listed = self.listings.get(key)?;
        is_fresh(listed.requested_ms, unix_millis(), self.list_lifetime_ms()).then_some(listed)
    }

    fn list_answer(
        &self,
        listed: Arc<Listed>,
        cache: CacheResult,
        upstream_status: Option<u16>,
    ) -> ListingAnswer {
        ListingAnswer {
            listed,
            cache,
            upstream_status,
            lifetime: self.list_lifetime(),
            stale: None,
        }
    }

    /// Returns the lifetime of lists, which is at most the lifetime of tags.
    fn list_lifetime(&self) -> Duration {
        if self.policy.cache_tags {
            self.policy.ttl.min(LISTING_TTL)
        } else {
            Duration::ZERO
        }
    }

    fn list_lifetime_ms(&self) -> u64 {
        u64::try_from(self.list_lifetime().as_millis()).unwrap_or(u64::MAX)
    }

    async fn list(&self, key: &ListingKey) -> (Outcome, RecordChanges) {
        // Lists for a client's own credentials are not kept. If tags are not cached, neither are
        // lists.
        let kept = key.caller.speaks_for_others() && self.policy.cache_tags;
        let (origin, target, caller) = (&key.origin, &key.target, &key.caller);
        if let Some(absence) = self.absences().last(origin, target, caller) {
            return (Err(absence.into()), RecordChanges::default());
        }
        let held = match self.listings.get(key) {
            Some(listed) => Kept::List(listed),
            None if kept => self.kept_list(key).await,
            None => Kept::Nothing,
        };
        let purpose = match held {
            Kept::Nothing => Purpose::Pull,
            Kept::List(_) | Kept::Unsupported(_) => Purpose::Revalidate,
        };
        let (before, requested_ms) = (self.absences().change_count(origin), unix_millis());
        let fetched = self
            .fetch_list(origin, target, caller.credentials(), purpose)
            .await;
        match (fetched, held) {
            (Ok((listed, status)), held) if kept => {
                if matches!(held, Kept::List(held) if held.body != listed.body) {
                    self.absences().clear(origin);
                }
                let listed = Arc::new(listed);
                self.listings.keep(key, &listed);
                self.listing_repositories.record(key, listed.requested_ms);
                let changes = RecordChanges::page(key, &listed);
                let answer = self.list_answer(listed, CacheResult::Miss, Some(status));
                (Ok(answer), changes)
            }
            (Ok((listed, status)), _) => {
                let answer = self.list_answer(Arc::new(listed), CacheResult::Bypass, Some(status));
                (Ok(answer), RecordChanges::default())
            }
            (Err(error), held)
                if error.is_outage()
                    || matches!((&error, &held), (ListingError::NotAnIndex { .. }, Kept::List(_))) =>
            {
                (self.stale_list(origin, held, error), RecordChanges::default())
            }
            (Err(error), _) => {
                // The upstream answered, so the held list is outdated.
                self.listings.forget(key);
                if let ListingError::Fetch(error) = &error {
                    let request = (origin, target, caller);
                    self.absences()
                        .record(before, request, error, self.list_lifetime());
                }
                let changes = if kept {
                    changes_after(key, &error, requested_ms)
                } else {
                    RecordChanges::default()
                };
                (Err(error), changes)
            }
        }
    }

    /// Returns the held answer in place of `error`, or `error` without a held answer.
    fn stale_list(&self, origin: &Origin, held: Kept, error: ListingError) -> Outcome {
        match held {
            Kept::List(listed) => Ok(ListingAnswer {
                stale: Some(error.to_string()),
                ..self.list_answer(listed, CacheResult::Stale, error.upstream_status())
            }),
            Kept::Unsupported(checked_ms) => match &error {
                ListingError::Fetch(why) => {
                    let absence = Absence::new(origin, checked_ms, why);
                    Err(FetchError::Absent(absence).into())
                }
                _ => Err(error),
            },
            Kept::Nothing => Err(error),
        }
    }

    /// Fetches a page, with the status of the response.
    async fn fetch_list(
        &self,
        origin: &Origin,
        target: &Target,
        credentials: Credentials,
        purpose: Purpose,
    ) -> Result<(Listed, u16), ListingError> {
        let FetchResources {
            slot: _slot,
            mut memory,
        } = self
            .fetch_resources(Class::Manifest, &origin.namespace, Priority::Client)
            .await?;
        let accept = match target {
            Target::Referrers(..) => INDEX_TYPE,
            _ => "application/json",
        };
        let request = UpstreamRequest {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            target: target.clone(),
            method: UpstreamMethod::Get,
            accept: vec![accept.to_owned()],
            range_from: None,
            credentials,
            purpose,
        };
        let mut body = SmallBodyFetch::new(self, &request, LISTING_BYTES_MAX);
        loop {
            let requested_ms = unix_millis();
            let response = self
                .upstreams
                .fetch(&request)
                .await
                .map_err(|error| refused(target, purpose, error))?;
            let status = response.status;
            let read = |response| read(&request, response, requested_ms);
            if let Some(outcome) = body.attempt(response, &mut memory, read).await {
                return outcome.map(|listed| (listed, status));
            }
        }
    }
}

impl SmallBodyError for ListingError {
    fn fetch_error(&self) -> Option<&FetchError> {
        match self {
            ListingError::Fetch(error) => Some(error),
            _ => None,
        }
    }
}

impl ListingError {
    /// Returns the status of the upstream response that caused the error.
    pub fn upstream_status(&self) -> Option<u16> {
        match self {
            ListingError::Fetch(error) => error.upstream_status(),
            ListingError::NoReferrers(error) => error.status(),
            ListingError::NotAnIndex { status, .. } | ListingError::TooLarge { status } => Some(*status),
        }
    }

    /// Returns whether the upstream may grant the list to another client.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ListingError::Fetch(error) if error.is_refusal())
    }

    /// Returns whether the error is unrelated to the list, so that an older list may be served.
    pub fn is_outage(&self) -> bool {
        match self {
            ListingError::Fetch(error) => error.is_outage(),
            ListingError::TooLarge { .. } => true,
            ListingError::NoReferrers(_) | ListingError::NotAnIndex { .. } => false,
        }
    }

    /// Returns whether this is a kept 404, returned while the registry is unavailable.
    pub fn is_stale_absence(&self) -> bool {
        matches!(self, ListingError::Fetch(error) if error.is_stale_absence())
    }

    /// Returns whether the answer means that there are no referrers, so that clients request the
    /// fallback tag.
    fn says_unsupported(&self) -> bool {
        matches!(
            self,
            ListingError::NoReferrers(_)
                | ListingError::Fetch(FetchError::Upstream(UpstreamError::Status {
                    verdict: ResponseVerdict::Gone,
                    ..
                }))
        )
    }
}

/// Returns the changes to the stored records after the upstream answered with `error`.
fn changes_after(key: &ListingKey, error: &ListingError, requested_ms: u64) -> RecordChanges {
    match (error, &key.target) {
        (_, Target::Referrers(..)) if error.says_unsupported() => {
            RecordChanges::unsupported(key, requested_ms)
        }
        (ListingError::NotAnIndex { .. }, _) => RecordChanges::not_an_index(key, requested_ms),
        (_, Target::Referrers(..)) if error.is_refusal() => RecordChanges::refused(key),
        _ => RecordChanges::default(),
    }
}

/// Maps an upstream error to a listing error. Registries report a missing referrers API in many
/// ways, but clients only understand 404. If an earlier answer is kept, an outage does not count as
/// a missing API.
fn refused(target: &Target, purpose: Purpose, error: UpstreamError) -> ListingError {
    match (target, &error) {
        (Target::Referrers(..), _) if purpose == Purpose::Revalidate && error.is_outage() => {
            FetchError::from(error).into()
        }
        (
            Target::Referrers(..),
            UpstreamError::Status {
                status: 300..=399 | 400 | 405 | 406 | 410 | 415 | 501,
                ..
            }
            // The default page of a site. Google's registries return it for paths that do not
            // exist.
            | UpstreamError::Status {
                status: 404,
                verdict: ResponseVerdict::Trouble,
                ..
            },
        ) => ListingError::NoReferrers(error),
        _ => FetchError::from(error).into(),
    }
}

async fn read(
    request: &UpstreamRequest,
    mut response: UpstreamResponse,
    requested_ms: u64,
) -> Result<Listed, ListingError> {
    let body = read_at_most(LISTING_BYTES_MAX, &mut response).await;
    let status = response.status;
    let body = body
        .map_err(FetchError::from)?
        .ok_or(ListingError::TooLarge { status })?;
    let not_an_index = |what| ListingError::NotAnIndex { status, what };
    let lines = response.headers.get_all(http::header::LINK);
    let next = link::next(lines.iter().filter_map(|value| value.to_str().ok()));
    let next = |current| next.and_then(|link| parse::page(link, current));
    let (body, next, filtered) = match &request.target {
        Target::Referrers(_, query) => {
            let named = media_type(&response.headers);
            if !matches!(named.as_deref(), None | Some(INDEX_TYPE | "application/json")) {
                return Err(not_an_index("the response is no image index"));
            }
            let wanted = query.get("artifactType");
            let done = response
                .headers
                .get_all("oci-filters-applied")
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .any(|filter| filter.trim() == "artifactType");
            let ours = wanted.as_deref().filter(|_| !done);
            let body = parse::referrers(&body, ours).map_err(not_an_index)?;
            (body, next(query), wanted.is_some())
        }
        Target::Tags(query) => (broken(request, parse::tags(&body))?, next(query), false),
        Target::Manifest(_) | Target::Blob(_) => return Err(FetchError::Lost.into()),
    };
    Ok(Listed {
        body,
        next,
        filtered,
        public: response.public,
        requested_ms,
    })
}

fn broken<T>(request: &UpstreamRequest, outcome: Result<T, &'static str>) -> Result<T, ListingError> {
    outcome.map_err(|what| {
        let error = UpstreamError::Protocol {
            host: request.namespace.as_str().into(),
            what: what.into(),
        };
        FetchError::from(error).into()
    })
}
