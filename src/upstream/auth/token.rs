//! The token cache. Tokens, anonymous or with credentials, are fetched once and sent until shortly
//! before they expire.
//!
//! A [`Slot`] is the cache entry of one token. A request with an empty slot fetches the token under
//! the slot's lock. Other requests wait for the lock and read the outcome. The token request itself
//! is in `token_request.rs`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Secret;
use super::challenge::Challenge;
use super::credential::{Credential, CredentialId};
use super::token_key::{Principal, Requester, TokenKey};
use super::token_request::{self, TokenGrant};
use crate::oci::{Namespace, Repository};
use crate::sync::Mutex;
use crate::upstream::Deadlines;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::error::{Phase, UpstreamError, host_of};

/// The maximum number of tokens per configuration entry. Clients choose repositories, so the number
/// is otherwise unlimited. 2,048 × 16 KiB are at worst 32 MiB. Real tokens are below 4 KiB.
const TOKENS_MAX: usize = 2_048;

/// The maximum number of repositories with a recorded credential, at about 200 bytes each.
const REPOSITORIES_MAX: usize = 16_384;

/// How long a failed fetch answers later requests, so simultaneous requests share one token
/// request. Short, because the next pull should succeed as soon as the token service does.
const FAILURE_AGE: Duration = Duration::from_secs(1);

/// The maximum time a token for a client's credentials is used, independent of its lifetime. A
/// revoked right must not last much longer than a recorded grant of the upstream
/// ([`GRANT_TTL`](crate::limits::GRANT_TTL)).
const CLIENT_TOKEN_AGE: Duration = Duration::from_secs(60);

/// The maximum number of registries with cached challenges of `/v2/`. Each needs at most 16 KiB,
/// the limit for challenges of a response. 4 MiB together.
const PINGS_MAX: usize = 256;

/// How long an answer of `/v2/` is used.
const PING_AGE: Duration = Duration::from_secs(600);

/// A token and the time of its request.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Token {
    pub secret: Secret,
    pub fetched: Instant,
}

/// The token cache of one configuration entry, of Docker Hub, or of all other registries together.
/// Separate caches, so repositories and registries invented by clients cannot evict the tokens of
/// another entry.
#[derive(Default)]
pub(in crate::upstream) struct Tokens(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    slots: HashMap<TokenKey, Arc<Slot>>,
    /// The last successful credential per repository.
    first: HashMap<(Requester, Repository), First>,
    /// The answers of `/v2/`, by registry and base URL.
    pings: HashMap<(Namespace, Arc<str>), Arc<PingSlot>>,
}

/// Locked during the request to `/v2/`, so one request serves all callers.
#[derive(Default)]
pub(in crate::upstream) struct PingSlot(tokio::sync::Mutex<Option<PingResult>>);

struct PingResult {
    challenges: Arc<[Challenge]>,
    until: Instant,
}

impl PingSlot {
    /// Returns the challenges of `/v2/`, from the cache or from `request`. `request` returns `None`
    /// on failure.
    pub async fn challenges(
        &self,
        request: impl Future<Output = Option<Vec<Challenge>>>,
    ) -> Arc<[Challenge]> {
        let mut kept = self.0.lock().await;
        if let Some(kept) = &*kept
            && Instant::now() < kept.until
        {
            return kept.challenges.clone();
        }
        let answer = request.await;
        let age = if answer.is_some() { PING_AGE } else { FAILURE_AGE };
        let pinged = PingResult {
            challenges: answer.unwrap_or_default().into(),
            until: Instant::now() + age,
        };
        kept.insert(pinged).challenges.clone()
    }
}

/// The credential for a repository, sent before a challenge.
#[derive(Clone)]
pub(in crate::upstream) enum First {
    Token(Arc<Slot>),
    /// The credentials themselves.
    Credential,
}

impl Tokens {
    /// Returns the slot of the token for `key`.
    pub fn slot(&self, key: TokenKey) -> Arc<Slot> {
        let mut tables = self.0.lock();
        if tables.slots.len() >= TOKENS_MAX && !tables.slots.contains_key(&key) {
            tables.first.clear();
            // A slot in use may be fetching; its removal would let a second fetch start.
            tables.slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        tables
            .slots
            .entry(key)
            .or_insert_with_key(|key| Arc::new(Slot::new(key.clone())))
            .clone()
    }

    /// Returns the credential for `repository` to send before a challenge.
    pub fn first(&self, requester: &Requester, repository: &Repository) -> Option<First> {
        self.0
            .lock()
            .first
            .get(&(requester.clone(), repository.clone()))
            .cloned()
    }

    /// Records the successful credential for `repository`.
    pub fn remember(&self, requester: &Requester, repository: &Repository, first: First) {
        let mut tables = self.0.lock();
        if tables.first.len() >= REPOSITORIES_MAX {
            tables.first.clear();
        }
        tables
            .first
            .insert((requester.clone(), repository.clone()), first);
    }

    /// Returns the slot of the challenges of a registry's `/v2/`.
    pub fn ping(&self, namespace: &Namespace, place: &Arc<str>) -> Arc<PingSlot> {
        let mut tables = self.0.lock();
        let key = (namespace.clone(), place.clone());
        if tables.pings.len() >= PINGS_MAX && !tables.pings.contains_key(&key) {
            // A slot in use is kept, so there is no second request.
            tables.pings.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        tables.pings.entry(key).or_default().clone()
    }

    /// Removes the recorded credential, so the next request gets a challenge.
    pub fn forget(&self, requester: &Requester, repository: &Repository) {
        self.0
            .lock()
            .first
            .remove(&(requester.clone(), repository.clone()));
    }
}

/// The cache entry of one token.
pub(in crate::upstream) struct Slot {
    key: TokenKey,
    /// Locked during the fetch, so there is only one.
    cached: tokio::sync::Mutex<Option<CachedToken>>,
}

struct CachedToken {
    outcome: Result<Token, UpstreamError>,
    until: Instant,
}

impl Slot {
    fn new(key: TokenKey) -> Self {
        Slot {
            key,
            cached: tokio::sync::Mutex::new(None),
        }
    }

    /// Returns the credential of the token; `None` for an anonymous token.
    pub fn credential(&self) -> Option<CredentialId> {
        self.key.credential()
    }

    /// Returns whether the slot is for the token of `key`, with any credential.
    pub fn is_for(&self, key: &TokenKey) -> bool {
        self.key.is_for_same_token(key)
    }

    /// Returns the token if it is valid and no fetch is in flight.
    pub fn cached(&self) -> Option<Token> {
        let cached = self.cached.try_lock().ok()?;
        let cached = cached.as_ref().filter(|cached| Instant::now() < cached.until)?;
        cached.outcome.as_ref().ok().cloned()
    }

    /// Returns the token. Fetches a token if there is no valid one. `endpoint` sends the token
    /// request, and `credential` is the credential of the token.
    ///
    /// # Errors
    ///
    /// The error of the fetch, also for requests within [`FAILURE_AGE`] after it.
    ///
    /// # Cancellation
    ///
    /// Cancels a fetch of this caller. The next waiting caller starts another.
    pub async fn token(
        &self,
        endpoint: &Endpoint,
        credential: Option<&Credential>,
        deadlines: &Deadlines,
    ) -> Result<Token, UpstreamError> {
        debug_assert_eq!(
            self.key.credential(),
            credential.map(Credential::id),
            "a token belongs to one credential"
        );
        let mut cached = self.cached.lock().await;
        if let Some(cached) = &*cached
            && Instant::now() < cached.until
        {
            return cached.outcome.clone();
        }
        // The age counts from before the request, so the token is never older than assumed.
        let requested = Instant::now();
        let outcome = match timeout(
            deadlines.token,
            token_request::fetch(&self.key, endpoint, credential, deadlines),
        )
        .await
        {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(UpstreamError::Timeout {
                host: host_of(self.key.realm()),
                phase: Phase::Token,
            }),
        };
        let fresh = match outcome {
            Ok(TokenGrant { secret, life }) => CachedToken {
                outcome: Ok(Token {
                    secret,
                    fetched: requested,
                }),
                until: requested
                    + match self.key.requester().principal {
                        Principal::Client(_) => life.min(CLIENT_TOKEN_AGE),
                        Principal::Anonymous | Principal::Operator => life,
                    },
            },
            Err(error) => CachedToken {
                outcome: Err(error),
                until: Instant::now() + FAILURE_AGE,
            },
        };
        cached.insert(fresh).outcome.clone()
    }

    /// Removes a token refused by the registry, unless it has been replaced already.
    pub async fn discard(&self, refused: &Token) {
        let mut cached = self.cached.lock().await;
        if cached.as_ref().is_some_and(|cached| {
            cached
                .outcome
                .as_ref()
                .is_ok_and(|token| token.fetched == refused.fetched)
        }) {
            *cached = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::auth::token_key::tests::{key, requester};

    #[test]
    fn the_tables_stay_within_their_bounds() {
        let tokens = Tokens::default();
        let repository: Repository = "a".parse().unwrap();
        let numbered = |n: usize| key(&format!(r#"Bearer realm="https://a.example/{n}""#)).unwrap();
        let in_use = tokens.slot(numbered(0));
        for n in 1..3 * TOKENS_MAX {
            let slot = tokens.slot(numbered(n));
            tokens.remember(&requester(), &repository, First::Token(slot));
            assert!(tokens.0.lock().slots.len() <= TOKENS_MAX);
        }
        assert!(
            Arc::ptr_eq(&in_use, &tokens.slot(numbered(0))),
            "a slot in use is kept"
        );
        let ping = |n: usize| tokens.ping(&requester().namespace, &format!("https://r{n}.example").into());
        let in_use = ping(0);
        for n in 1..3 * PINGS_MAX {
            ping(n);
            assert!(tokens.0.lock().pings.len() <= PINGS_MAX);
        }
        assert!(Arc::ptr_eq(&in_use, &ping(0)), "a concurrent ping is shared");
        tokens.forget(&requester(), &repository);
        assert!(tokens.first(&requester(), &repository).is_none());
    }
}
