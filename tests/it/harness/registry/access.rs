//! Who may read what of the fake registry, and how they say who they are: users, rights, challenges, tokens.
//!
//! Without users and rights every token is good for what it was asked for, which is all that most scenarios need.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Answer, RecordedRequest, percent_decoded};
use crate::harness::content::{Content, sha256};
use crate::harness::fresh_seed;
use crate::harness::jwt::Signer;

/// Stands for everybody in the table of rights.
const ANYBODY: &str = "";

/// What a registry takes as a proof of who somebody is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    /// Tokens only; even what anybody may read needs one.
    Bearer,
    /// User and password with each request; what anybody may read needs nothing.
    Basic,
    /// Tokens, and user and password too.
    Either,
}

/// Under which name a token service gives its token.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenField {
    Both,
    Token,
    AccessToken,
}

/// How access is asked for. Tokens come from the first listener unless `realm` says otherwise.
#[derive(Clone)]
pub struct Auth {
    pub scheme: Scheme,
    pub service: String,
    pub token_ttl: Duration,
    /// How long before it is given a token was signed; for those a [`Signer`] makes.
    pub token_age: Duration,
    /// The realm of the challenge; `path` on the first listener unless set.
    pub realm: Option<String>,
    /// Path of the token service: `/token`, `/token/`, `/v2/token`, `/v2/auth` or `/oauth2/token`.
    pub path: &'static str,
    /// The scope of challenges, where it is not `repository:<name>:pull`. Tokens of it are good for everything that
    /// their user may read.
    pub scope: Option<&'static str>,
    /// The `Authorization` value the token endpoint wants; `None` gives tokens to anybody.
    pub token_authorization: Option<String>,
    /// `Authorization` values accepted for content besides tokens.
    pub also_accept: Vec<String>,
    pub token_field: TokenField,
    /// Whether a token comes with `expires_in`.
    pub tells_expiry: bool,
    /// What the token service answers to GET and POST where it does not serve them.
    pub get_refused: Option<u16>,
    pub post_refused: Option<u16>,
    /// What the token service answers for what the caller may not read; `None` gives a token that is good for nothing.
    pub token_refused: Option<u16>,
    /// What a token that has expired is answered with.
    pub expired: u16,
    /// What somebody who is known is answered with for what he may not read, or what is not there.
    pub hidden: u16,
    /// Challenges written before ours, each on its own line.
    pub other_challenges: Vec<&'static str>,
    /// Makes tokens that another registry can check.
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

/// `Basic …` of a user and password.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{user}:{password}").as_bytes()))
}

/// Standard base64 with padding.
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

/// The access rules in force, and the tokens given out under them.
#[derive(Default)]
pub(super) struct Access {
    pub auth: Option<Auth>,
    users: HashMap<String, String>,
    identity_tokens: HashMap<String, String>,
    /// Repository to its readers. A repository nobody may read is as good as missing.
    rights: HashMap<String, HashSet<String>>,
    tokens: HashMap<String, Token>,
    given: u64,
    /// Makes its tokens other ones than those of any other registry.
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

/// What is wrong with a request for content.
pub(super) enum Wrong {
    /// It does not say who asks, or not believably.
    Unknown,
    Expired,
    /// Whoever asks may not read this.
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

    /// The answer to a request for content that may not be read. `own` is where the first listener is.
    pub fn refusal(&self, wrong: Wrong, repository: &str, own: &str) -> Answer {
        let auth = self.auth.as_ref().expect("refused by its rules");
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

    /// A new token for `repositories`; it says who it is for and not what that user may read.
    pub fn give(&mut self, user: Option<&str>, repositories: Vec<String>) -> String {
        let auth = self.auth.as_ref().expect("there are tokens");
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

    /// The token service.
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
        // Without users nobody is known, and what is sent does not matter.
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
