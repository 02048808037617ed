//! Authentication and access rights of the fake registry: users, rights, challenges, tokens.
//!
//! Without users and rights, every token is valid for its requested repositories. Most tests need
//! no more.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answer, RecordedRequest, percent_decoded};
use crate::harness::content::{Content, sha256};
use crate::harness::fresh_seed;
use crate::harness::jwt::Signer;

/// The entry for anonymous access in the table of rights.
const ANYBODY: &str = "";

/// The credentials that a registry accepts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Tokens only. Public content also requires a token.
    Bearer,
    /// User and password with each request. Public content requires no credentials.
    Basic,
    /// Tokens, or user and password.
    Either,
}

/// The JSON field in which a token service returns the token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenField {
    Both,
    Token,
    AccessToken,
}

/// The authentication of a registry. The first listener serves tokens unless `realm` is set.
#[derive(Clone)]
pub struct Auth {
    pub scheme: Scheme,
    pub service: String,
    pub token_ttl: Duration,
    /// The age of a token at the time of its issue. For tokens of a [`Signer`].
    pub token_age: Duration,
    /// The realm of the challenge. `path` on the first listener unless set.
    pub realm: Option<String>,
    /// The path of the token service: `/token`, `/token/`, `/v2/token`, `/v2/auth` or
    /// `/oauth2/token`.
    pub path: &'static str,
    /// The scope of challenges, if not `repository:<name>:pull`. Tokens with this scope are valid
    /// for all repositories that the user may read.
    pub scope: Option<&'static str>,
    /// The required `Authorization` value at the token endpoint. `None` issues tokens to every
    /// client.
    pub token_authorization: Option<String>,
    /// `Authorization` values accepted for content besides tokens.
    pub also_accept: Vec<String>,
    pub token_field: TokenField,
    /// Whether the token response contains `expires_in`.
    pub tells_expiry: bool,
    /// The status for GET and for POST, if the token service does not support the method.
    pub get_refused: Option<u16>,
    pub post_refused: Option<u16>,
    /// The status for a token request beyond the client's rights. `None` returns a token without
    /// rights.
    pub token_refused: Option<u16>,
    /// The status for an expired token.
    pub expired: u16,
    /// The status for an authenticated client if content is forbidden or missing.
    pub hidden: u16,
    /// Challenges in front of the registry's own challenge, each in a separate field.
    pub other_challenges: Vec<&'static str>,
    /// Signs tokens that another registry can verify.
    pub signer: Option<Arc<Signer>>,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            scheme: Scheme::Bearer,
            service: "fake, registry".into(),
            token_ttl: Duration::from_secs(300),
            token_age: Duration::ZERO,
            realm: None,
            path: "/token",
            scope: None,
            token_authorization: None,
            also_accept: Vec::new(),
            token_field: TokenField::Both,
            tells_expiry: true,
            get_refused: None,
            post_refused: None,
            token_refused: None,
            expired: 401,
            hidden: 401,
            other_challenges: Vec::new(),
            signer: None,
        }
    }
}

impl Auth {
    pub fn basic() -> Self {
        Auth {
            scheme: Scheme::Basic,
            ..Auth::default()
        }
    }
}

/// Returns `Basic …` of a user and password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// Encodes standard base64 with padding.
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let group = three
            .iter()
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        let group = group << (8 * (3 - three.len()));
        for at in 0..4 {
            text.push(match at <= three.len() {
                true => char::from(LETTERS[(group >> (18 - 6 * at)) as usize & 63]),
                false => '=',
            });
        }
    }
    text
}

/// The current access rules, and the tokens issued by them.
#[derive(Default)]
pub(super) struct Access {
    pub auth: Option<Auth>,
    users: HashMap<String, String>,
    identity_tokens: HashMap<String, String>,
    /// The readers of each repository. A repository without readers counts as missing.
    rights: HashMap<String, HashSet<String>>,
    tokens: HashMap<String, Token>,
    given: u64,
    /// A random value that makes tokens unique among registries.
    seed: u64,
}

struct Token {
    user: Option<String>,
    repositories: Repositories,
    until: Instant,
}

enum Repositories {
    All,
    Named(Vec<String>),
}

/// The reason for rejecting a content request.
pub(super) enum Wrong {
    /// Missing or invalid credentials.
    Unknown,
    Expired,
    /// The client has no right to read the content.
    Hidden,
}

impl Access {
    pub fn user(&mut self, user: &str, password: &str) {
        self.users.insert(user.into(), password.into());
    }

    pub fn identity_token(&mut self, user: &str, token: &str) {
        self.identity_tokens.insert(token.into(), user.into());
    }

    pub fn allow(&mut self, user: Option<&str>, repository: &str) {
        let readers = self.rights.entry(repository.into()).or_default();
        readers.insert(user.unwrap_or(ANYBODY).into());
    }

    pub fn revoke(&mut self, user: Option<&str>, repository: &str) {
        if let Some(readers) = self.rights.get_mut(repository) {
            readers.remove(user.unwrap_or(ANYBODY));
        }
    }

    pub fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    pub fn expire_tokens(&mut self) {
        let now = Instant::now();
        for token in self.tokens.values_mut() {
            token.until = now;
        }
    }

    fn may(&self, user: Option<&str>, repository: &str) -> bool {
        if self.rights.is_empty() {
            return true;
        }
        self.rights.get(repository).is_some_and(|readers| {
            readers.contains(ANYBODY) || user.is_some_and(|user| readers.contains(user))
        })
    }

    fn user_of(&self, authorization: &str) -> Option<&str> {
        let known = |(user, password): &(&String, &String)| basic(user, password) == authorization;
        self.users.iter().find(known).map(|(user, _)| user.as_str())
    }

    /// Whether a request with this `Authorization` may read `repository`.
    pub fn check(&self, authorization: Option<&str>, repository: &str) -> Result<(), Wrong> {
        let Some(auth) = &self.auth else { return Ok(()) };
        let right = |user: Option<&str>| match self.may(user, repository) {
            true => Ok(()),
            false => Err(Wrong::Hidden),
        };
        let Some(given) = authorization else {
            let open = auth.scheme == Scheme::Basic && !self.rights.is_empty() && self.may(None, repository);
            return if open { Ok(()) } else { Err(Wrong::Unknown) };
        };
        if auth.also_accept.iter().any(|accepted| accepted == given) {
            return Ok(());
        }
        if let Some(token) = given.strip_prefix("Bearer ")
            && auth.scheme != Scheme::Basic
        {
            let token = self.tokens.get(token).ok_or(Wrong::Unknown)?;
            if Instant::now() >= token.until {
                return Err(Wrong::Expired);
            }
            return match &token.repositories {
                Repositories::Named(names) if !names.iter().any(|name| name == repository) => {
                    Err(Wrong::Hidden)
                }
                _ => right(token.user.as_deref()),
            };
        }
        match self.user_of(given) {
            Some(user) if auth.scheme != Scheme::Bearer => right(Some(user)),
            _ => Err(Wrong::Unknown),
        }
    }

    /// Returns the answer to a rejected content request. `own` is the address of the first
    /// listener.
    pub fn refusal(&self, wrong: Wrong, repository: &str, own: &str) -> Answer {
        let auth = self
            .auth
            .as_ref()
            .expect("only a registry with access rules rejects requests");
        let (status, error) = match wrong {
            Wrong::Unknown => (401, ""),
            Wrong::Expired => (auth.expired, ",error=\"invalid_token\""),
            Wrong::Hidden => (auth.hidden, ",error=\"insufficient_scope\""),
        };
        let mut answer = Answer::error(status);
        if status != 401 {
            return answer;
        }
        for other in &auth.other_challenges {
            answer = answer.with("WWW-Authenticate", *other);
        }
        if auth.scheme != Scheme::Basic {
            let realm = auth
                .realm
                .clone()
                .unwrap_or_else(|| format!("http://{own}{}", auth.path));
            let scope = match auth.scope {
                Some(scope) => scope.to_owned(),
                None => format!("repository:{repository}:pull"),
            };
            let service = &auth.service;
            answer = answer.with(
                "WWW-Authenticate",
                format!(r#"Bearer realm="{realm}",service="{service}",scope="{scope}"{error}"#),
            );
        }
        if auth.scheme != Scheme::Bearer {
            answer = answer.with("WWW-Authenticate", "Basic realm=\"the fake registry\"");
        }
        answer
    }

    /// Issues a new token for `repositories`. The token identifies the user; rights are checked on
    /// each request.
    pub fn give(&mut self, user: Option<&str>, repositories: Vec<String>) -> String {
        let auth = self
            .auth
            .as_ref()
            .expect("only a registry with access rules issues tokens");
        self.given += 1;
        if self.seed == 0 {
            self.seed = fresh_seed();
        }
        let token = match &auth.signer {
            Some(signer) => signer.token(auth, user, &repositories),
            None => sha256(format!("token {} of {}", self.given, self.seed).as_bytes()).replace(':', "."),
        };
        let repositories = match auth.scope {
            Some(_) => Repositories::All,
            None => Repositories::Named(repositories),
        };
        self.tokens.insert(
            token.clone(),
            Token {
                user: user.map(str::to_owned),
                repositories,
                until: Instant::now() + auth.token_ttl,
            },
        );
        token
    }

    /// Answers a request to the token service.
    pub fn token(&mut self, seen: &RecordedRequest) -> Answer {
        let Some(auth) = self.auth.clone() else {
            return Answer::error(404);
        };
        let form = match seen.method.as_str() {
            "POST" => {
                if let Some(status) = auth.post_refused {
                    return Answer::error(status);
                }
                String::from_utf8_lossy(&seen.body).into_owned()
            }
            _ => {
                if let Some(status) = auth.get_refused {
                    return Answer::error(status);
                }
                seen.target
                    .split_once('?')
                    .map_or(String::new(), |(_, query)| query.into())
            }
        };
        let fields: Vec<(String, String)> = form
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), percent_decoded(&value.replace('+', " "))))
            .collect();
        let field = |name: &str| {
            let found = fields.iter().find(|(n, _)| n == name);
            found.map(|(_, value)| value.as_str())
        };
        let authorization = seen.field("authorization");
        if auth
            .token_authorization
            .as_deref()
            .is_some_and(|wanted| authorization != Some(wanted))
        {
            return Answer::error(401);
        }
        // Without users, all clients are anonymous and sent credentials are ignored.
        let user = if self.users.is_empty() {
            None
        } else if seen.method == "POST" {
            let user = match field("grant_type") {
                Some("refresh_token") => {
                    let token = field("refresh_token").unwrap_or_default();
                    self.identity_tokens.get(token).cloned()
                }
                Some("password") => {
                    let (user, password) = (field("username"), field("password"));
                    let given = basic(user.unwrap_or_default(), password.unwrap_or_default());
                    self.user_of(&given).map(str::to_owned)
                }
                _ => None,
            };
            if user.is_none() {
                return Answer::error(401);
            }
            user
        } else if let Some(given) = authorization {
            let Some(user) = self.user_of(given) else {
                return Answer::error(401);
            };
            Some(user.to_owned())
        } else {
            None
        };

        let asked = fields.iter().filter(|(name, _)| name == "scope");
        let asked: Vec<String> = asked
            .flat_map(|(_, scopes)| scopes.split(' '))
            .filter_map(|scope| scope.strip_prefix("repository:")?.rsplit_once(':'))
            .map(|(name, _)| name.to_owned())
            .collect();
        let granted: Vec<String> = asked
            .iter()
            .filter(|name| self.may(user.as_deref(), name))
            .cloned()
            .collect();
        if granted.len() < asked.len()
            && let Some(status) = auth.token_refused
        {
            return Answer::error(status);
        }
        let token = self.give(user.as_deref(), granted);
        let mut body = serde_json::Map::new();
        if auth.token_field != TokenField::AccessToken {
            body.insert("token".into(), token.clone().into());
        }
        if auth.token_field != TokenField::Token {
            body.insert("access_token".into(), token.into());
        }
        if auth.tells_expiry {
            body.insert("expires_in".into(), auth.token_ttl.as_secs().into());
        }
        let body = serde_json::Value::from(body).to_string();
        Answer::ok("application/json", Content::from(body.as_str()))
    }
}
