//! Authenticates the requests of one core, and caches identities by credential digest.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::ClientAuth;
use super::credentials::{CredentialDigest, CredentialStore, basic};
use super::password_pool::PasswordVerdict;
use super::rules::{RuleSet, Subject};
use crate::config::Allow;
use crate::http::RequestHead;
use crate::limits::{IDENTITIES_PER_CORE_MAX, IDENTITY_TTL};
use crate::lru::Lru;
use crate::runtime::clock::monotonic_seconds;

/// The identity of a client, if authentication was required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// Client authentication is off, or the path requires none.
    Open,
    /// The client sent no credentials, and some rule names `anonymous`.
    Anonymous,
    User(Rc<str>),
}

/// The reason for rejecting a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The request has no password, and a password would be accepted.
    Unauthorized,
    /// Unknown user name or wrong password. Both cases are indistinguishable.
    WrongPassword,
    /// The request has no accepted certificate, and no password would be accepted.
    CertificateRequired,
    /// Too many password checks are in flight.
    Overloaded,
}

pub struct Authenticator {
    auth: ClientAuth,
    state: RefCell<State>,
}

struct State {
    generation: u64,
    credentials: Option<Arc<CredentialStore>>,
    /// Cached identities of this core, with the rules at the time of caching. Rejected certificates
    /// are cached too.
    cached: Lru<CredentialDigest, CachedIdentity>,
    /// The rules for anonymous clients.
    anonymous: Option<Rc<RuleSet>>,
}

#[derive(Clone)]
struct CachedIdentity {
    /// `None` for a rejected certificate.
    identity: Option<(Rc<str>, Rc<RuleSet>)>,
    /// Expiry, in seconds of the monotonic clock.
    until: u32,
}

fn rejection_of(store: &CredentialStore) -> AuthError {
    if store.accepts_passwords() {
        AuthError::Unauthorized
    } else {
        AuthError::CertificateRequired
    }
}

/// The access of a client to the response cache.
#[derive(Debug)]
pub struct CachedAccess {
    /// The rules for this client.
    pub rules: Rc<RuleSet>,
    /// Whether the client may read content without any rule. True if client authentication is off.
    pub authenticated: bool,
}

impl Authenticator {
    /// Creates an authenticator with the rules of `allow`.
    pub fn new(client_auth: ClientAuth, allow: &Allow) -> Self {
        let authenticator = Authenticator {
            auth: client_auth,
            state: RefCell::new(State {
                generation: 0,
                credentials: None,
                cached: Lru::new(IDENTITIES_PER_CORE_MAX as u64, IDENTITIES_PER_CORE_MAX),
                anonymous: None,
            }),
        };
        authenticator.reload(allow);
        authenticator
    }

    /// Returns whether the cached identities belong to the current credentials.
    pub fn is_current(&self) -> bool {
        self.state.borrow().generation == self.auth.generation()
    }

    /// Clears the cached identities, and loads the current credentials and the rules of `allow`.
    pub fn reload(&self, allow: &Allow) {
        let mut state = self.state.borrow_mut();
        // Reads the generation first, so that a concurrent change appears as a later one.
        state.generation = self.auth.generation();
        state.credentials = self.auth.credentials();
        state.cached.clear();
        let rules = match &state.credentials {
            None => Some(allow.rules_for(Subject::Anonymous)),
            Some(_) => allow.names_anonymous().then(|| allow.rules_that_name_anonymous()),
        };
        state.anonymous = rules.map(Rc::new);
    }

    /// Returns the error for a rejected anonymous client.
    pub fn rejection(&self) -> AuthError {
        let state = self.state.borrow();
        state
            .credentials
            .as_deref()
            .map_or(AuthError::Unauthorized, rejection_of)
    }

    pub fn is_enabled(&self) -> bool {
        self.state.borrow().credentials.is_some()
    }

    /// Returns the cached access of the client of `head`. Returns `None` if the request needs
    /// authentication. Allocates nothing.
    pub fn cached_access(&self, head: &RequestHead<'_>) -> Option<CachedAccess> {
        let state = &mut *self.state.borrow_mut();
        let Some(store) = &state.credentials else {
            return state.anonymous.clone().map(|rules| CachedAccess {
                rules,
                authenticated: true,
            });
        };
        let now = monotonic_seconds();
        let fresh = |known: &mut CachedIdentity| (now < known.until).then(|| known.identity.clone());
        if let Some(digest) = head.certificate.and_then(|shown| store.certificate_digest(shown)) {
            // An uncached certificate may be accepted.
            if let Some((_, rules)) = state.cached.get(&digest).and_then(fresh)? {
                return Some(CachedAccess {
                    rules,
                    authenticated: true,
                });
            }
        }
        match head.authorization {
            None => state.anonymous.clone().map(|rules| CachedAccess {
                rules,
                authenticated: false,
            }),
            Some(authorization) => {
                let digest = store.digest(basic(authorization)?);
                let (_, rules) = state.cached.get(&digest).and_then(fresh)??;
                Some(CachedAccess {
                    rules,
                    authenticated: true,
                })
            }
        }
    }

    /// Authenticates the client of `head`, if the path of the request requires authentication.
    /// `allow` returns the current rules of a subject.
    ///
    /// # Cancellation
    ///
    /// An in-flight password check continues, and its verdict is cached.
    pub async fn authenticate(
        &self,
        head: &RequestHead<'_>,
        is_required: bool,
        allow: &dyn Fn(Subject<'_>) -> RuleSet,
    ) -> Result<Identity, AuthError> {
        let Some(store) = self.state.borrow().credentials.clone().filter(|_| is_required) else {
            return Ok(Identity::Open);
        };
        let remember = |digest: CredentialDigest, name: Option<&str>| {
            let identity = name.map(|name| (Rc::from(name), Rc::new(allow(Subject::User(name)))));
            let named = identity.as_ref().map(|(name, _)| Rc::clone(name));
            self.remember(&store, digest, identity);
            named
        };
        if let Some(shown) = head.certificate
            && let Some(digest) = store.certificate_digest(shown)
            && let Some(name) = remember(digest, store.certificate_user(shown).as_deref())
        {
            return Ok(Identity::User(name));
        }
        let rejection = rejection_of(&store);
        let Some(authorization) = head.authorization else {
            let anonymous_allowed = self.state.borrow().anonymous.is_some();
            return if anonymous_allowed {
                Ok(Identity::Anonymous)
            } else {
                Err(rejection)
            };
        };
        let outcome = match basic(authorization) {
            Some(credentials) => self.check(&store, credentials, head.peer).await,
            None => PasswordVerdict::Wrong,
        };
        match (outcome, basic(authorization)) {
            (PasswordVerdict::Correct(name), Some(credentials)) => {
                let digest = store.digest(credentials);
                Ok(Identity::User(
                    remember(digest, Some(&name)).unwrap_or_else(|| Rc::from(&*name)),
                ))
            }
            (PasswordVerdict::Overloaded, _) => Err(AuthError::Overloaded),
            (PasswordVerdict::Wrong | PasswordVerdict::Correct(_), _) => {
                // If no password is accepted, an `Authorization` field is not a failed login.
                if store.accepts_passwords() {
                    self.auth.0.failed_logins.record(head.peer);
                }
                // A token is not a wrong password.
                let is_password = store.accepts_passwords() && basic(authorization).is_some();
                Err(if is_password {
                    AuthError::WrongPassword
                } else {
                    rejection
                })
            }
        }
    }

    async fn check(
        &self,
        store: &CredentialStore,
        credentials: &str,
        peer: Option<IpAddr>,
    ) -> PasswordVerdict {
        if let Some(name) = store.user(credentials) {
            return PasswordVerdict::Correct(name.into());
        }
        match store.password_check(credentials) {
            Some(check) => {
                let digest = store.digest(credentials);
                self.auth.0.passwords.verify(digest, check, peer).await
            }
            None => PasswordVerdict::Wrong,
        }
    }

    /// Caches an identity, unless the credentials have changed meanwhile.
    fn remember(
        &self,
        store: &Arc<CredentialStore>,
        digest: CredentialDigest,
        identity: Option<(Rc<str>, Rc<RuleSet>)>,
    ) {
        let mut state = self.state.borrow_mut();
        let unchanged = state
            .credentials
            .as_ref()
            .is_some_and(|now| Arc::ptr_eq(now, store));
        if unchanged {
            let until = monotonic_seconds().saturating_add(IDENTITY_TTL.as_secs() as u32);
            state.cached.insert(digest, CachedIdentity { identity, until }, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::config::{AllowRule, CertificatePattern, ClientAuthConfig, Glob, SecretText};
    use crate::http::Certificate;

    fn auth(password: bool, certificates: bool) -> Option<ClientAuthConfig> {
        let pattern = CertificatePattern::new("CN=builder-*").unwrap();
        Some(ClientAuthConfig {
            user: password.then(|| ("alice".into(), SecretText::new("p".into()))),
            certificates: if certificates { vec![pattern] } else { Vec::new() },
            ..ClientAuthConfig::default()
        })
    }

    fn certificate(common_name: &str) -> Certificate {
        Certificate {
            common_name: Some(common_name.to_owned()),
            ..Certificate::default()
        }
    }

    /// Credentials `alice:p` and `alice:q`.
    const RIGHT: &str = "Basic YWxpY2U6cA==";
    const WRONG: &str = "Basic YWxpY2U6cQ==";

    /// Returns the outcome of authentication with these credentials, and the cached access
    /// afterwards.
    fn outcome(
        authenticator: &Authenticator,
        allow: &Allow,
        authorization: Option<&str>,
        common_name: Option<&str>,
    ) -> (Result<Identity, AuthError>, Option<bool>) {
        let certificate = common_name.map(certificate);
        let head = RequestHead {
            path: "/v2/",
            authorization,
            certificate: certificate.as_ref(),
            ..RequestHead::refused()
        };
        let rules = |subject: Subject<'_>| allow.rules_for(subject);
        let authenticated = authenticator.authenticate(&head, true, &rules).now_or_never();
        let authenticated = authenticated.expect("the authentication does not wait");
        (
            authenticated,
            authenticator
                .cached_access(&head)
                .map(|access| access.authenticated),
        )
    }

    fn named(name: &str) -> (Result<Identity, AuthError>, Option<bool>) {
        (Ok(Identity::User(name.into())), Some(true))
    }

    #[test]
    fn either_credential_is_enough_and_a_certificate_takes_precedence() {
        let allow = Allow::default();
        let (rejection, none) = (AuthError::Unauthorized, AuthError::CertificateRequired);
        let rejected = |error| (Err(error), None);
        for (auth, authorization, common_name, expected) in [
            (None, None, None, (Ok(Identity::Open), Some(true))),
            (None, Some(WRONG), Some("x"), (Ok(Identity::Open), Some(true))),
            (auth(true, false), None, Some("builder-1"), rejected(rejection)),
            (auth(true, false), Some(RIGHT), None, named("alice")),
            (auth(true, true), Some(RIGHT), None, named("alice")),
            (auth(true, true), Some(RIGHT), Some("x"), named("alice")),
            (
                auth(true, true),
                Some(RIGHT),
                Some("builder-1"),
                named("cert:builder-1"),
            ),
            (
                auth(true, true),
                Some(WRONG),
                Some("builder-1"),
                named("cert:builder-1"),
            ),
            (auth(true, true), None, Some("builder-1"), named("cert:builder-1")),
            (auth(true, true), None, Some("x"), rejected(rejection)),
            (
                auth(true, true),
                Some(WRONG),
                Some("x"),
                rejected(AuthError::WrongPassword),
            ),
            (
                auth(true, false),
                Some(WRONG),
                None,
                rejected(AuthError::WrongPassword),
            ),
            (auth(true, true), Some("Bearer x"), None, rejected(rejection)),
            (
                auth(false, true),
                None,
                Some("builder-1"),
                named("cert:builder-1"),
            ),
            (auth(false, true), None, None, rejected(none)),
            (auth(false, true), Some(RIGHT), Some("x"), rejected(none)),
        ] {
            let authenticator = Authenticator::new(ClientAuth::new(auth.clone()).unwrap(), &allow);
            for _ in 0..2 {
                let outcome = outcome(&authenticator, &allow, authorization, common_name);
                assert_eq!(outcome, expected, "{auth:?} {authorization:?} {common_name:?}");
            }
        }
    }

    #[test]
    fn a_reload_clears_cached_identities() {
        let allow = Allow::default();
        let client_auth = ClientAuth::new(auth(true, true)).unwrap();
        let authenticator = Authenticator::new(client_auth.clone(), &allow);
        assert_eq!(outcome(&authenticator, &allow, Some(RIGHT), None), named("alice"));
        client_auth.replace(auth(false, true)).unwrap();
        assert!(!authenticator.is_current());
        authenticator.reload(&allow);
        assert!(authenticator.is_current());
        assert_eq!(
            outcome(&authenticator, &allow, Some(RIGHT), None),
            (Err(AuthError::CertificateRequired), None)
        );
        client_auth.replace(None).unwrap();
        authenticator.reload(&allow);
        assert_eq!(
            outcome(&authenticator, &allow, None, None),
            (Ok(Identity::Open), Some(true))
        );
    }

    #[test]
    fn an_anonymous_client_is_accepted_where_a_rule_names_anonymous() {
        let rule = |users: Option<&str>| AllowRule {
            users: users.map(|name| vec![Glob::new(name, None).unwrap()]),
            ..AllowRule::default()
        };
        let rules = |rules: Vec<AllowRule>| Allow {
            everywhere: Some(rules),
            ..Allow::default()
        };
        let outcome = |allow: &Allow| {
            let authenticator = Authenticator::new(ClientAuth::new(auth(true, false)).unwrap(), allow);
            outcome(&authenticator, allow, None, None)
        };
        let rejected = (Err(AuthError::Unauthorized), None);
        assert_eq!(
            outcome(&rules(vec![rule(Some("anonymous"))])),
            (Ok(Identity::Anonymous), Some(false))
        );
        assert_eq!(
            outcome(&rules(vec![rule(None)])),
            rejected,
            "a rule for all does not accept anonymous clients"
        );
        assert_eq!(outcome(&rules(vec![rule(Some("*"))])), rejected);
    }
}
