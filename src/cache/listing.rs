//! Lists (`tags/list`, `referrers`): asked for once for all who ask at once, kept in memory for a moment, given out
//! stale while their upstream cannot be asked. Never on disk: a list is not content, and no digest vouches for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;

use super::flight::{Flights, Landing, Role};
use super::freshness::is_fresh;
use super::listed::{self, INDEX_TYPE, Listed};
use super::lru::Lru;
use super::{Cache, Caller, FetchError, Origin, Shared, media_type};
use crate::http::{CacheResult, link};
use crate::limits::{LISTING_BYTES_MAX, LISTING_LIFETIME, LISTINGS_BYTES_MAX, LISTINGS_MAX};
use crate::runtime::clock::unix_millis;
use crate::upstream::{Credentials, Method, Purpose, Request, Response, Resume, Target, UpstreamError};

/// What a kept list costs beside its body: key, slot, allocations.
const OVERHEAD_BYTES: u64 = 1_024;

/// One page of one list, as one caller sees it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ListingKey {
    pub origin: Origin,
    /// [`Target::Tags`] or [`Target::Referrers`].
    pub target: Target,
    pub caller: Caller,
}

/// A page and how we came to it.
#[derive(Clone, Debug)]
pub struct ListingAnswer {
    pub listed: Arc<Listed>,
    pub cache: CacheResult,
    /// How long after it was asked for it is given out unasked.
    pub lifetime: Duration,
    /// Why it is stale, when it is.
    pub stale: Option<String>,
}

/// Why there is no list.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ListingError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Clients then look for the tag that stands for the list.
    #[error("the registry does not list referrers: {0}")]
    NoReferrers(String),
    /// The same for clients, but it may be a page for people in the place of a list: what is held is not given up for it.
    #[error("the registry does not list referrers: {0}")]
    NotAnIndex(String),
    #[error("the list is larger than 4 MiB")]
    TooLarge,
}

type Outcome = Result<ListingAnswer, ListingError>;

/// The questions under way.
pub(super) type ListingFlights = Flights<ListingKey, Outcome>;

/// The lists of a moment ago, shared by all cores.
pub(super) struct Listings(Mutex<Lru<ListingKey, Arc<Listed>>>);

impl Default for Listings {
    fn default() -> Self {
        Listings(Mutex::new(Lru::new(LISTINGS_BYTES_MAX, LISTINGS_MAX)))
    }
}

impl Listings {
    fn lock(&self) -> MutexGuard<'_, Lru<ListingKey, Arc<Listed>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &ListingKey) -> Option<Arc<Listed>> {
        self.lock().get(key).map(|listed| listed.clone())
    }

    fn keep(&self, key: &ListingKey, listed: &Arc<Listed>) {
        let weight = listed.body.len() as u64 + OVERHEAD_BYTES;
        self.lock().insert(key.clone(), listed.clone(), weight);
    }

    fn forget(&self, key: &ListingKey) {
        self.lock().remove(key);
    }
}

impl Cache {
    /// The page `key`. What everybody may see is kept for a moment, what a client sees with its own credentials is not.
    ///
    /// # Errors
    ///
    /// The upstream's answer, or its absence, when nothing usable is held.
    ///
    /// # Cancellation
    ///
    /// The work goes on for the others.
    pub async fn listing(&self, key: ListingKey) -> Outcome {
        if let Some(listed) = self.0.listings.get(&key)
            && is_fresh(listed.asked_ms, unix_millis(), self.0.list_lifetime_ms())
        {
            return Ok(self.0.list_answer(listed, CacheResult::Hit));
        }
        let shared = self.0.clone();
        let (outcome, role) = self
            .0
            .listings_under_way
            .join(
                &self.0.helper,
                key.clone(),
                move |landing: Landing<_, _>| async move { landing.land(shared.list(&key).await) },
            )
            .await;
        let mut answer = outcome.unwrap_or_else(|_| Err(FetchError::Lost.into()))?;
        if (answer.cache, role) == (CacheResult::Miss, Role::Follower) {
            answer.cache = CacheResult::Collapsed;
        }
        Ok(answer)
    }

    /// The page `target` with `credentials`, a client's own or none; asked for each time and not kept.
    ///
    /// # Errors
    ///
    /// The upstream's answer, or its absence.
    pub async fn pass_listing(&self, origin: &Origin, target: Target, credentials: Credentials) -> Outcome {
        let (shared, origin) = (self.0.clone(), origin.clone());
        let listed = self
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
        Ok(self.0.list_answer(Arc::new(listed), CacheResult::Bypass))
    }
}

impl Shared {
    fn list_answer(&self, listed: Arc<Listed>, cache: CacheResult) -> ListingAnswer {
        ListingAnswer {
            listed,
            cache,
            lifetime: self.list_lifetime(),
            stale: None,
        }
    }

    /// Whoever wants tags to be asked for sooner wants that of their list too.
    fn list_lifetime(&self) -> Duration {
        if self.policy.cache_tags {
            self.policy.ttl.min(LISTING_LIFETIME)
        } else {
            Duration::ZERO
        }
    }

    fn list_lifetime_ms(&self) -> u64 {
        u64::try_from(self.list_lifetime().as_millis()).unwrap_or(u64::MAX)
    }

    async fn list(&self, key: &ListingKey) -> Outcome {
        // Of those who ask for themselves nothing is kept, and without a memory for tags there is none for their list.
        let shared = key.caller.is_anybody() || key.caller.is_operator();
        let kept = shared && self.policy.cache_tags;
        let held = self.listings.get(key);
        let purpose = match held {
            Some(_) => Purpose::Revalidate,
            None => Purpose::Pull,
        };
        let fetched = self
            .fetch_list(&key.origin, &key.target, key.caller.credentials(), purpose)
            .await;
        match (fetched, held) {
            (Ok(listed), _) if kept => {
                let listed = Arc::new(listed);
                self.listings.keep(key, &listed);
                Ok(self.list_answer(listed, CacheResult::Miss))
            }
            (Ok(listed), _) => Ok(self.list_answer(Arc::new(listed), CacheResult::Bypass)),
            (Err(error), Some(listed)) if error.is_outage() => Ok(ListingAnswer {
                stale: Some(error.to_string()),
                ..self.list_answer(listed, CacheResult::Stale)
            }),
            (Err(error), held) => {
                // It was an answer: what we hold is no longer so.
                if held.is_some() {
                    self.listings.forget(key);
                }
                Err(error)
            }
        }
    }

    /// Gets a page. A body that breaks off is asked for again from its start: it is small.
    async fn fetch_list(
        &self,
        origin: &Origin,
        target: &Target,
        credentials: Credentials,
        purpose: Purpose,
    ) -> Result<Listed, ListingError> {
        let _slot = self.slot().await?;
        let accept = match target {
            Target::Referrers(..) => INDEX_TYPE,
            _ => "application/json",
        };
        let request = Request {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            target: target.clone(),
            method: Method::Get,
            accept: vec![accept.to_owned()],
            range_from: None,
            credentials,
            purpose,
        };
        let mut resume = Resume::new(0);
        loop {
            let asked_ms = unix_millis();
            let response = self
                .upstreams
                .fetch(&request)
                .await
                .map_err(|error| refused(target, error))?;
            match read(&request, response, asked_ms).await {
                Err(ListingError::Fetch(FetchError::Upstream(error))) if error.is_retryable() => {
                    match resume.after_break(0) {
                        Some(delay) => tokio::time::sleep(delay).await,
                        None => return Err(FetchError::from(error).into()),
                    }
                }
                other => return other,
            }
        }
    }
}

impl ListingError {
    /// Whether the upstream may say yes to a client where it said no to others.
    pub fn is_refusal(&self) -> bool {
        matches!(self, ListingError::Fetch(error) if error.is_refusal())
    }

    /// Whether this says nothing about the list, so that an older one may be given.
    fn is_outage(&self) -> bool {
        match self {
            ListingError::Fetch(FetchError::Upstream(error)) => error.is_outage(),
            ListingError::Fetch(FetchError::Overloaded)
            | ListingError::NotAnIndex(_)
            | ListingError::TooLarge => true,
            ListingError::Fetch(_) | ListingError::NoReferrers(_) => false,
        }
    }
}

/// A registry without referrers says so in many ways; the one that clients understand is 404.
fn refused(target: &Target, error: UpstreamError) -> ListingError {
    match (target, &error) {
        (
            Target::Referrers(..),
            UpstreamError::Status {
                status: 300..=399 | 400 | 405 | 406 | 410 | 415 | 501,
                ..
            },
        ) => ListingError::NoReferrers(error.to_string()),
        _ => FetchError::from(error).into(),
    }
}

async fn read(request: &Request, mut response: Response, asked_ms: u64) -> Result<Listed, ListingError> {
    let too_large = |bytes: u64| bytes > LISTING_BYTES_MAX as u64;
    if response.content_length.is_some_and(too_large) {
        return Err(ListingError::TooLarge);
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.body.chunk().await.map_err(FetchError::from)? {
        if too_large((body.len() + chunk.len()) as u64) {
            return Err(ListingError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let body = body.freeze();
    let lines = response.headers.get_all(http::header::LINK);
    let next = link::next(lines.iter().filter_map(|value| value.to_str().ok()));
    let next = |asked| next.and_then(|link| listed::page(link, asked));
    let (body, next, filtered) = match &request.target {
        Target::Referrers(_, query) => {
            let named = media_type(&response.headers);
            if !matches!(named.as_deref(), None | Some(INDEX_TYPE | "application/json")) {
                return Err(ListingError::NotAnIndex("its answer is no index".to_owned()));
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
            let body =
                listed::referrers(&body, ours).map_err(|what| ListingError::NotAnIndex(what.to_owned()))?;
            (body, next(query), wanted.is_some())
        }
        Target::Tags(query) => (broken(request, listed::tags(&body))?, next(query), false),
        Target::Manifest(_) | Target::Blob(_) => return Err(FetchError::Lost.into()),
    };
    Ok(Listed {
        body,
        next,
        filtered,
        public: response.public,
        asked_ms,
    })
}

fn broken<T>(request: &Request, outcome: Result<T, &'static str>) -> Result<T, ListingError> {
    outcome.map_err(|what| {
        let error = UpstreamError::Protocol {
            host: request.namespace.as_str().into(),
            what: what.into(),
        };
        FetchError::from(error).into()
    })
}
