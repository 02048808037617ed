//! Tokens, anonymous and with credentials: fetched once, kept until they are about to expire, sent first.
//!
//! How one is asked for is in `grant.rs`.
//! A [`Slot`] is the place of one token. Whoever needs it and finds it empty fetches while holding the slot's
//! lock; the others wait there and find the outcome, good or bad.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use reqwest::Url;
use tokio::time::{Instant, timeout};

use super::Secret;
use super::challenge::Challenge;
use super::grant::{self, Grant};
use super::login::{Login, LoginId};
use crate::oci::{Namespace, Repository};
use crate::upstream::Deadlines;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::error::{Phase, UpstreamError};
use crate::upstream::exchange::host_of;
use crate::upstream::redirect::upgraded;

/// Tokens kept for one entry of the configuration. Clients choose repositories, so there is no end to them; 2 048 × 16 KiB are
/// 32 MiB at worst, and real tokens are below 4 KiB.
const TOKENS_MAX: usize = 2_048;

/// Repositories for which the token to send first is known; around 200 bytes each.
const REPOSITORIES_MAX: usize = 16_384;

/// Lengths of what a challenge may make us send and keep.
const REALM_BYTES_MAX: usize = 2_048;
const SERVICE_BYTES_MAX: usize = 512;
const SCOPE_BYTES_MAX: usize = 2_048;

/// How long a failed fetch answers those who ask next, so that a crowd makes one request and not
/// one each. Short, because the next pull should work as soon as the token service does.
const FAILURE_AGE: Duration = Duration::from_secs(1);

/// How long a token that was got with a client's login is used, however long it lives: a right that was withdrawn must not
/// last here for much longer than an upstream's yes is believed ([`ACCESS_YES`](crate::limits::ACCESS_YES)).
const CLIENT_TOKEN_AGE: Duration = Duration::from_secs(60);

/// Registries whose challenge to `/v2/` is kept; each is at most the 16 KiB that are read of challenges, 4 MiB together.
const PINGS_MAX: usize = 256;

/// How long what `/v2/` answered is used.
const PING_AGE: Duration = Duration::from_secs(600);

/// Who asks for tokens: registries do not share them, not even when they share a realm, and neither do a registry and
/// its mirrors, nor those on whose behalf it is asked.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::upstream) struct Asker {
    pub namespace: Namespace,
    /// Scheme, host and port, and the path before `/v2/`.
    pub place: Arc<str>,
    pub who: Who,
}

/// With whose credentials a token is asked for, where the token service may see them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(in crate::upstream) enum Who {
    Nobody,
    Ours,
    Client(LoginId),
}

/// What a token is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::upstream) struct TokenKey {
    asker: Asker,
    realm: Url,
    service: Option<String>,
    /// Scopes parted by single spaces.
    scope: String,
    /// Whose token it is; `None` for nobody's.
    login: Option<LoginId>,
}

impl TokenKey {
    /// Reads what a Bearer challenge of `origin` asks for; without a scope, that is pulling from `repository`.
    ///
    /// Whether the realm may be contacted is decided when it is.
    pub fn new(
        asker: &Asker,
        origin: &Url,
        repository: &Repository,
        challenge: &Challenge,
    ) -> Result<Self, &'static str> {
        let realm = challenge.param("realm").ok_or("its challenge has no realm")?;
        let service = challenge.param("service");
        let scope = challenge.param("scope").unwrap_or_default();
        if realm.len() > REALM_BYTES_MAX
            || service.is_some_and(|service| service.len() > SERVICE_BYTES_MAX)
            || scope.len() > SCOPE_BYTES_MAX
        {
            return Err("its challenge is too long");
        }
        let mut realm = Url::parse(realm).map_err(|_| "the realm of its challenge is no URL")?;
        realm.set_fragment(None);
        let realm = upgraded(realm, origin);
        let mut scope = scope.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if scope.is_empty() {
            scope = format!("repository:{repository}:pull");
        }
        Ok(TokenKey {
            asker: asker.clone(),
            realm,
            service: service.map(str::to_owned),
            scope,
            login: None,
        })
    }

    /// The same token, but got with these credentials.
    pub fn with_login(mut self, login: LoginId) -> Self {
        self.login = Some(login);
        self
    }

    pub fn realm(&self) -> &Url {
        &self.realm
    }

    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }

    /// Scopes parted by single spaces.
    pub fn scope(&self) -> &str {
        &self.scope
    }

    /// The request for the token by GET. The realm keeps its own query.
    pub fn url(&self) -> Url {
        let mut url = self.realm.clone();
        let mut query = url.query_pairs_mut();
        if let Some(service) = &self.service {
            query.append_pair("service", service);
        }
        for scope in self.scope.split(' ') {
            query.append_pair("scope", scope);
        }
        drop(query);
        url
    }
}

/// A token, and when it was asked for.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Token {
    pub secret: Secret,
    pub fetched: Instant,
}

/// The tokens of the registries of one entry of the configuration, of Docker Hub, or of all other registries together: no
/// number of repositories or registries that clients name drops the tokens of another entry.
#[derive(Default)]
pub(in crate::upstream) struct Tokens(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    slots: HashMap<TokenKey, Arc<Slot>>,
    /// What last worked for a repository.
    first: HashMap<(Asker, Repository), First>,
    /// What `/v2/` answered, by registry and place.
    pings: HashMap<(Namespace, Arc<str>), Arc<PingSlot>>,
}

/// Locked while `/v2/` is asked: this is what makes it one question for all.
#[derive(Default)]
pub(in crate::upstream) struct PingSlot(tokio::sync::Mutex<Option<Pinged>>);

struct Pinged {
    challenges: Arc<[Challenge]>,
    until: Instant,
}

impl PingSlot {
    /// The challenges of `/v2/`, by `ask` unless they are known. `ask` gives `None` where there was no answer.
    pub async fn challenges(&self, ask: impl Future<Output = Option<Vec<Challenge>>>) -> Arc<[Challenge]> {
        let mut kept = self.0.lock().await;
        if let Some(kept) = &*kept
            && Instant::now() < kept.until
        {
            return kept.challenges.clone();
        }
        let answer = ask.await;
        let age = if answer.is_some() { PING_AGE } else { FAILURE_AGE };
        let pinged = Pinged {
            challenges: answer.unwrap_or_default().into(),
            until: Instant::now() + age,
        };
        kept.insert(pinged).challenges.clone()
    }
}

/// What to send to a repository before being asked.
#[derive(Clone)]
pub(in crate::upstream) enum First {
    Token(Arc<Slot>),
    /// The credentials themselves.
    Login,
}

impl Tokens {
    /// The place of the token for `key`.
    pub fn slot(&self, key: TokenKey) -> Arc<Slot> {
        let mut tables = self.tables();
        if tables.slots.len() >= TOKENS_MAX && !tables.slots.contains_key(&key) {
            tables.first.clear();
            // A slot somebody holds may be fetching; forgetting it would let a second fetch begin.
            tables.slots.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        tables
            .slots
            .entry(key)
            .or_insert_with_key(|key| Arc::new(Slot::new(key.clone())))
            .clone()
    }

    /// What to send to `repository` before being asked.
    pub fn first(&self, asker: &Asker, repository: &Repository) -> Option<First> {
        self.tables()
            .first
            .get(&(asker.clone(), repository.clone()))
            .cloned()
    }

    /// Remembers what was asked for by `repository`.
    pub fn remember(&self, asker: &Asker, repository: &Repository, first: First) {
        let mut tables = self.tables();
        if tables.first.len() >= REPOSITORIES_MAX {
            tables.first.clear();
        }
        tables.first.insert((asker.clone(), repository.clone()), first);
    }

    /// The place of what `/v2/` of a registry answers.
    pub fn ping(&self, namespace: &Namespace, place: &Arc<str>) -> Arc<PingSlot> {
        let mut tables = self.tables();
        let key = (namespace.clone(), place.clone());
        if tables.pings.len() >= PINGS_MAX && !tables.pings.contains_key(&key) {
            // A slot in use stays, so that there is no second question.
            tables.pings.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        tables.pings.entry(key).or_default().clone()
    }

    /// Forgets what to send first, so that the next request asks for a challenge.
    pub fn forget(&self, asker: &Asker, repository: &Repository) {
        self.tables().first.remove(&(asker.clone(), repository.clone()));
    }

    fn tables(&self) -> MutexGuard<'_, Tables> {
        // The tables are whole between any two statements, so a panic elsewhere leaves them usable.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one token.
pub(in crate::upstream) struct Slot {
    key: TokenKey,
    /// Locked across the fetch: this is what makes it one fetch.
    held: tokio::sync::Mutex<Option<Held>>,
}

struct Held {
    outcome: Result<Token, UpstreamError>,
    until: Instant,
}

impl Slot {
    fn new(key: TokenKey) -> Self {
        Slot {
            key,
            held: tokio::sync::Mutex::new(None),
        }
    }

    /// Whose token it is; `None` for nobody's.
    pub fn login(&self) -> Option<LoginId> {
        self.key.login
    }

    /// Whether this is the place of the token for `key`, whosever it is.
    pub fn is_for(&self, key: &TokenKey) -> bool {
        let TokenKey {
            asker,
            realm,
            service,
            scope,
            login: _,
        } = &self.key;
        (asker, realm, service, scope) == (&key.asker, &key.realm, &key.service, &key.scope)
    }

    /// The token, if there is one that is still good and nobody is fetching another.
    pub fn kept(&self) -> Option<Token> {
        let held = self.held.try_lock().ok()?;
        let held = held.as_ref().filter(|held| Instant::now() < held.until)?;
        held.outcome.as_ref().ok().cloned()
    }

    /// Gives the token, fetching it if there is none that is still good. `endpoint` is who asks, and `login` whose
    /// token it is.
    ///
    /// # Errors
    ///
    /// What the fetch met, also for those who ask within [`FAILURE_AGE`] after it.
    ///
    /// # Cancellation
    ///
    /// A fetch ends with the caller who does it; the next in line begins another.
    pub async fn token(
        &self,
        endpoint: &Endpoint,
        login: Option<&Login>,
        deadlines: &Deadlines,
    ) -> Result<Token, UpstreamError> {
        debug_assert_eq!(
            self.key.login,
            login.map(Login::id),
            "a token belongs to one login"
        );
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && Instant::now() < held.until
        {
            return held.outcome.clone();
        }
        // Counted from before the request: the token is not younger than that.
        let asked = Instant::now();
        let outcome = match timeout(
            deadlines.token,
            grant::fetch(&self.key, endpoint, login, deadlines),
        )
        .await
        {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(UpstreamError::Timeout {
                host: host_of(&self.key.realm),
                phase: Phase::Token,
            }),
        };
        let fresh = match outcome {
            Ok(Grant { secret, life }) => Held {
                outcome: Ok(Token {
                    secret,
                    fetched: asked,
                }),
                until: asked
                    + match self.key.asker.who {
                        Who::Client(_) => life.min(CLIENT_TOKEN_AGE),
                        Who::Nobody | Who::Ours => life,
                    },
            },
            Err(error) => Held {
                outcome: Err(error),
                until: Instant::now() + FAILURE_AGE,
            },
        };
        held.insert(fresh).outcome.clone()
    }

    /// Drops the token the registry has refused, unless another has taken its place already.
    pub async fn discard(&self, refused: &Token) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| {
            held.outcome
                .as_ref()
                .is_ok_and(|token| token.fetched == refused.fetched)
        }) {
            *held = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::WWW_AUTHENTICATE;
    use http::{HeaderMap, HeaderValue};

    use super::super::challenge::parse_challenges;
    use super::*;

    fn asker() -> Asker {
        Asker {
            namespace: "r.example".parse().unwrap(),
            place: "https://r.example".into(),
            who: Who::Nobody,
        }
    }

    fn key(challenge: &str) -> Result<TokenKey, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
        let origin = "https://r.example".parse().unwrap();
        let challenges = parse_challenges(&headers);
        TokenKey::new(&asker(), &origin, &"a/b".parse().unwrap(), &challenges[0])
    }

    #[test]
    fn the_token_request_is_made_of_the_challenge() {
        let url = |challenge: &str| key(challenge).map(|key| key.url().to_string()).ok();
        let table = [
            (
                r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:x/y:pull""#,
                "https://auth.example/token?service=r.example&scope=repository%3Ax%2Fy%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example/token""#,
                "https://auth.example/token?scope=repository%3Aa%2Fb%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example/t?account=me&x=%20#frag",service="",scope="""#,
                "https://auth.example/t?account=me&x=%20&service=&scope=repository%3Aa%2Fb%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example/",scope=" repository:a:pull  repository:b:pull ""#,
                "https://auth.example/?scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull",
            ),
            (
                r#"Bearer realm="https://auth.example",service="a&b=c",scope="aws""#,
                "https://auth.example/?service=a%26b%3Dc&scope=aws",
            ),
            // The registry's own host, behind a proxy for TLS.
            (
                r#"Bearer realm="http://r.example/t",scope="aws""#,
                "https://r.example/t?scope=aws",
            ),
        ];
        for (challenge, expected) in table {
            assert_eq!(url(challenge).as_deref(), Some(expected), "{challenge}");
        }
        assert_eq!(url(r#"Bearer realm="/token""#), None, "a relative realm");
        assert_eq!(
            url(&format!(
                r#"Bearer realm="https://a.example/{}""#,
                "x".repeat(REALM_BYTES_MAX)
            )),
            None
        );
        assert_eq!(
            url(&format!(
                r#"Bearer realm="https://a.example/",scope="{}""#,
                "x".repeat(SCOPE_BYTES_MAX + 1)
            )),
            None
        );
    }

    #[test]
    fn the_tables_stay_within_their_bounds() {
        let tokens = Tokens::default();
        let repository: Repository = "a".parse().unwrap();
        let numbered = |n: usize| key(&format!(r#"Bearer realm="https://a.example/{n}""#)).unwrap();
        let in_use = tokens.slot(numbered(0));
        for n in 1..3 * TOKENS_MAX {
            let slot = tokens.slot(numbered(n));
            tokens.remember(&asker(), &repository, First::Token(slot));
            assert!(tokens.tables().slots.len() <= TOKENS_MAX);
        }
        assert!(
            Arc::ptr_eq(&in_use, &tokens.slot(numbered(0))),
            "a slot in use stays the same one"
        );
        let ping = |n: usize| tokens.ping(&asker().namespace, &format!("https://r{n}.example").into());
        let in_use = ping(0);
        for n in 1..3 * PINGS_MAX {
            ping(n);
            assert!(tokens.tables().pings.len() <= PINGS_MAX);
        }
        assert!(
            Arc::ptr_eq(&in_use, &ping(0)),
            "a ping under way stays the same one"
        );
        tokens.forget(&asker(), &repository);
        assert!(tokens.first(&asker(), &repository).is_none());
    }
}
