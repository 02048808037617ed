//! Anonymous tokens: fetched once, kept until they are about to expire, sent first.
//!
//! A [`Slot`] is the place of one token. Whoever needs it and finds it empty fetches while holding the slot's
//! lock; the others wait there and find the outcome, good or bad.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{ACCEPT, WWW_AUTHENTICATE};
use reqwest::Url;
use serde::Deserialize;
use tokio::time::{Instant, timeout};

use super::Secret;
use super::challenge::Challenge;
use crate::oci::{Namespace, Repository};
use crate::upstream::Deadlines;
use crate::upstream::endpoint::Endpoint;
use crate::upstream::error::{Phase, UpstreamError};
use crate::upstream::exchange::{self, Question, host_of};
use crate::upstream::{headers, redirect};

/// Size of a token service's answer. Tokens of registries with long access lists reach 10 KiB.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Size of a token; more does not fit the request heads registries accept.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Tokens kept. Clients choose repositories, so there is no end to them; 2 048 × 16 KiB are 32 MiB at
/// worst, and real tokens are below 4 KiB.
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

/// Life of a token whose answer does not say (distribution's rule).
const LIFE_DEFAULT_SECONDS: f64 = 60.0;
const LIFE_MIN_SECONDS: f64 = 1.0;
const LIFE_MAX_SECONDS: f64 = 3600.0;

/// The part of a token's life in which it is used: a request begun with it should also end with it.
const LIFE_USED: f64 = 0.8;

/// What a token is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(in crate::upstream) struct TokenKey {
    /// Registries do not share tokens, not even when they share a realm.
    namespace: Namespace,
    realm: Url,
    service: Option<String>,
    /// Scopes parted by single spaces.
    scope: String,
}

impl TokenKey {
    /// Reads what a Bearer challenge asks for; without a scope, that is pulling from `repository`.
    ///
    /// Whether the realm may be contacted is decided when it is.
    pub fn new(
        namespace: &Namespace,
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
        let mut scope = scope.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
        if scope.is_empty() {
            scope = format!("repository:{repository}:pull");
        }
        Ok(TokenKey {
            namespace: namespace.clone(),
            realm,
            service: service.map(str::to_owned),
            scope,
        })
    }

    /// The request for the token. The realm keeps its own query.
    fn url(&self) -> Url {
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

/// All tokens of the process. Shared by everything that runs on the helper pool.
#[derive(Default)]
pub(in crate::upstream) struct Tokens(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    slots: HashMap<TokenKey, Arc<Slot>>,
    /// The token that last worked for a repository.
    first: HashMap<(Namespace, Repository), Arc<Slot>>,
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

    /// The place of the token to send to `repository` before being asked.
    pub fn first(&self, namespace: &Namespace, repository: &Repository) -> Option<Arc<Slot>> {
        self.tables()
            .first
            .get(&(namespace.clone(), repository.clone()))
            .cloned()
    }

    /// Remembers that the token of `slot` was good for `repository`.
    pub fn remember(&self, namespace: &Namespace, repository: &Repository, slot: &Arc<Slot>) {
        let mut tables = self.tables();
        if tables.first.len() >= REPOSITORIES_MAX {
            tables.first.clear();
        }
        tables
            .first
            .insert((namespace.clone(), repository.clone()), slot.clone());
    }

    /// Forgets what to send first, so that the next request asks for a challenge.
    pub fn forget(&self, namespace: &Namespace, repository: &Repository) {
        self.tables()
            .first
            .remove(&(namespace.clone(), repository.clone()));
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

    /// Gives the token, fetching it if there is none that is still good.
    ///
    /// # Errors
    ///
    /// What the fetch met, also for those who ask within [`FAILURE_AGE`] after it.
    ///
    /// # Cancellation
    ///
    /// A fetch ends with the caller who does it; the next in line begins another.
    pub async fn token(&self, endpoint: &Endpoint, deadlines: &Deadlines) -> Result<Token, UpstreamError> {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && Instant::now() < held.until
        {
            return held.outcome.clone();
        }
        // Counted from before the request: the token is not younger than that.
        let asked = Instant::now();
        let outcome = match timeout(deadlines.token, fetch(&self.key, endpoint, deadlines)).await {
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
                until: asked + life,
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

/// What a token service gave.
#[derive(Debug)]
struct Grant {
    secret: Secret,
    /// How long to use it.
    life: Duration,
}

async fn fetch(key: &TokenKey, endpoint: &Endpoint, deadlines: &Deadlines) -> Result<Grant, UpstreamError> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, http::HeaderValue::from_static("application/json"));
    let question = Question {
        method: http::Method::GET,
        headers,
        redirects: true,
    };
    let mut url = key.url();
    for _ in 0..=redirect::REDIRECTS_MAX {
        let host = host_of(&url);
        let wrong = |what: String| UpstreamError::protocol(&host, what);
        let response = exchange::send(endpoint, &url, &question, None, deadlines).await?;
        match response.status().as_u16() {
            200 => {
                if !headers::is_identity(response.headers()) {
                    return Err(wrong(
                        "its token answer is compressed, although a plain one was asked for".into(),
                    ));
                }
                let answer = read_all(response, &host).await?;
                return parse_grant(&answer).map_err(|what| wrong(what.into()));
            }
            status if redirect::is_redirect(status) => {
                let next = redirect::target(&url, response.headers()).map_err(|what| wrong(what.into()))?;
                // Tokens are handed out by the realm the registry named, and by nobody else.
                if !redirect::same_origin(&next, &url) {
                    return Err(wrong("its token service redirected to another origin".into()));
                }
                exchange::read_bounded(response, exchange::ERROR_BODY_BYTES_MAX).await;
                url = next;
            }
            // These say something about the client's wish: GHCR answers 403 here for what does not exist.
            401 | 403 | 408 | 429 | 500..=599 => {
                let mut refusal = exchange::refusal(response, host, Phase::Token).await;
                if let UpstreamError::Status { headers, .. } = &mut refusal {
                    // The challenge of the token service is not for our clients.
                    headers.remove(WWW_AUTHENTICATE);
                }
                return Err(refusal);
            }
            // A 404 of the token service must not read as a missing manifest.
            status => return Err(wrong(format!("its token service answered {status}"))),
        }
    }
    Err(UpstreamError::protocol(
        &host_of(&url),
        "its token service redirects without end",
    ))
}

async fn read_all(mut response: reqwest::Response, host: &Arc<str>) -> Result<Bytes, UpstreamError> {
    let mut answer = BytesMut::new();
    loop {
        match response.chunk().await {
            Ok(Some(bytes)) if answer.len() + bytes.len() > ANSWER_BYTES_MAX => {
                return Err(UpstreamError::protocol(
                    host,
                    "its token answer is larger than 64 KiB",
                ));
            }
            Ok(Some(bytes)) => answer.extend_from_slice(&bytes),
            Ok(None) => return Ok(answer.freeze()),
            Err(error) => {
                return Err(UpstreamError::Body {
                    host: host.clone(),
                    cause: exchange::cause(error).into(),
                });
            }
        }
    }
}

/// What we read of a token service's answer.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    /// Seconds; a number, but a string has been seen.
    expires_in: Option<serde_json::Value>,
}

fn parse_grant(answer: &[u8]) -> Result<Grant, &'static str> {
    let answer: TokenAnswer =
        serde_json::from_slice(answer).map_err(|_| "its token answer is not the JSON that was expected")?;
    let token = [answer.token, answer.access_token]
        .into_iter()
        .flatten()
        .find(|token| !token.is_empty());
    let token = token.ok_or("its token answer has no token")?;
    if token.len() > TOKEN_BYTES_MAX {
        return Err("its token is longer than 16 KiB");
    }
    let secret = Secret::bearer(&token).ok_or("its token has characters that no header may have")?;
    let told = match &answer.expires_in {
        Some(serde_json::Value::Number(seconds)) => seconds.as_f64(),
        Some(serde_json::Value::String(seconds)) => seconds.parse().ok(),
        _ => None,
    };
    let told = told
        .filter(|seconds: &f64| seconds.is_finite())
        .unwrap_or(LIFE_DEFAULT_SECONDS);
    // Finite, positive and below an hour, so the conversion cannot panic.
    let life = Duration::from_secs_f64(told.clamp(LIFE_MIN_SECONDS, LIFE_MAX_SECONDS) * LIFE_USED);
    Ok(Grant { secret, life })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::super::challenge::parse_challenges;
    use super::*;

    fn key(challenge: &str) -> Result<TokenKey, &'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_str(challenge).unwrap());
        TokenKey::new(
            &"r.example".parse().unwrap(),
            &"a/b".parse().unwrap(),
            &parse_challenges(&headers)[0],
        )
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
    fn a_grant_has_a_token_and_a_bounded_life() {
        let life = |answer: &str| {
            parse_grant(answer.as_bytes())
                .map(|grant| grant.life.as_millis())
                .ok()
        };
        assert_eq!(life(r#"{"token":"a"}"#), Some(48_000));
        assert_eq!(life(r#"{"token":"a","expires_in":300}"#), Some(240_000));
        assert_eq!(life(r#"{"token":"a","expires_in":"300"}"#), Some(240_000));
        assert_eq!(life(r#"{"token":"a","expires_in":0}"#), Some(800));
        assert_eq!(life(r#"{"token":"a","expires_in":-5}"#), Some(800));
        assert_eq!(life(r#"{"token":"a","expires_in":1e300}"#), Some(2_880_000));
        assert_eq!(life(r#"{"token":"a","expires_in":"inf"}"#), Some(48_000));
        assert_eq!(life(r#"{"token":"a","expires_in":null}"#), Some(48_000));
        assert_eq!(life(r#"{"token":"a","expires_in":{}}"#), Some(48_000));

        let value = |answer: &str| {
            let grant = parse_grant(answer.as_bytes()).ok()?;
            Some(grant.secret.header_value().to_str().unwrap().to_owned())
        };
        assert_eq!(
            value(r#"{"token":"a","access_token":"b"}"#).as_deref(),
            Some("Bearer a")
        );
        assert_eq!(
            value(r#"{"token":"","access_token":"b"}"#).as_deref(),
            Some("Bearer b")
        );
        assert_eq!(
            value(r#"{"access_token":"b","issued_at":"x","other":[1]}"#).as_deref(),
            Some("Bearer b")
        );
        for bad in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"token":5}"#,
            r#"{"token":"a\r\nb"}"#,
            r#"{"token":""}"#,
            r#"{"token":"a"} x"#,
            "<html>",
        ] {
            assert_eq!(value(bad), None, "{bad}");
        }
        assert_eq!(
            value(&format!(r#"{{"token":"{}"}}"#, "x".repeat(TOKEN_BYTES_MAX + 1))),
            None
        );
    }

    #[test]
    fn the_tables_stay_within_their_bounds() {
        let tokens = Tokens::default();
        let (namespace, repository): (Namespace, Repository) =
            ("r.example".parse().unwrap(), "a".parse().unwrap());
        let numbered = |n: usize| key(&format!(r#"Bearer realm="https://a.example/{n}""#)).unwrap();
        let in_use = tokens.slot(numbered(0));
        for n in 1..3 * TOKENS_MAX {
            let slot = tokens.slot(numbered(n));
            tokens.remember(&namespace, &repository, &slot);
            assert!(tokens.tables().slots.len() <= TOKENS_MAX);
        }
        assert!(
            Arc::ptr_eq(&in_use, &tokens.slot(numbered(0))),
            "a slot in use stays the same one"
        );
        tokens.forget(&namespace, &repository);
        assert!(tokens.first(&namespace, &repository).is_none());
    }
}
