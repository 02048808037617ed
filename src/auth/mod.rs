//! Optional client authentication by name and password (HTTP Basic, RFC 7617) or by client
//! certificate. Either credential is enough. The rules of `allow` authorize each read.
//!
//! Each process has one [`ClientAuth`]. Each core has an [`Authenticator`] with a cache of
//! identities.

mod authenticator;
mod authorization;
mod credentials;
mod failed_logins;
pub mod forwarding;
mod htpasswd_reload;
mod password_pool;
mod rules;
#[cfg(test)]
#[path = "tests/timing.rs"]
mod timing;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::ClientAuthConfig;
use crate::sync::Mutex;

use credentials::CredentialStore;
use failed_logins::FailedLogins;
use password_pool::PasswordVerifier;

pub use authenticator::{AuthError, Authenticator, CachedAccess, Identity};
pub use authorization::{Forbidden, Readers};
pub use rules::{RuleSet, Subject};

/// The client authentication shared by all cores. Cheap to clone.
#[derive(Clone)]
pub struct ClientAuth(Arc<Shared>);

struct Shared {
    /// Counts the changes of `credentials`.
    generation: AtomicU64,
    /// The accepted credentials. `None` if client authentication is off.
    credentials: Mutex<Option<Arc<CredentialStore>>>,
    passwords: PasswordVerifier,
    failed_logins: FailedLogins,
    /// Whether the thread that reloads the htpasswd file runs.
    reload_started: Mutex<bool>,
}

impl ClientAuth {
    /// Creates the client authentication from its configuration.
    ///
    /// # Errors
    ///
    /// The threads of the password verifier cannot start. Without an htpasswd file, no thread is
    /// needed.
    pub fn new(auth: Option<ClientAuthConfig>) -> io::Result<Self> {
        let client_auth = ClientAuth(Arc::new(Shared {
            generation: AtomicU64::new(0),
            credentials: Mutex::new(None),
            passwords: PasswordVerifier::default(),
            failed_logins: FailedLogins::default(),
            reload_started: Mutex::new(false),
        }));
        client_auth.replace(auth)?;
        Ok(client_auth)
    }

    /// Replaces the accepted credentials, and clears cached password verdicts.
    ///
    /// # Errors
    ///
    /// The errors of [`ClientAuth::new`]. The credentials are unchanged after an error.
    pub fn replace(&self, auth: Option<ClientAuthConfig>) -> io::Result<()> {
        self.prepare(auth)?.apply();
        Ok(())
    }

    /// Starts the threads that `auth` needs, and changes no credentials.
    ///
    /// # Errors
    ///
    /// The errors of [`ClientAuth::new`].
    pub fn prepare(&self, auth: Option<ClientAuthConfig>) -> io::Result<Replacement<'_>> {
        if auth.as_ref().is_some_and(|auth| auth.htpasswd.is_some()) {
            self.0.passwords.start()?;
            let mut reload_started = self.0.reload_started.lock();
            if !*reload_started {
                htpasswd_reload::start(self.clone())?;
                *reload_started = true;
            }
        }
        Ok(Replacement {
            client_auth: self,
            auth,
        })
    }

    /// Replaces the credentials with `auth` if they are still `before`.
    fn replace_if(&self, before: &Arc<CredentialStore>, auth: ClientAuthConfig) -> bool {
        let mut store = self.0.credentials.lock();
        let unchanged = store.as_ref().is_some_and(|now| Arc::ptr_eq(now, before));
        if unchanged {
            self.install(&mut store, Some(auth));
        }
        unchanged
    }

    fn install(&self, store: &mut Option<Arc<CredentialStore>>, auth: Option<ClientAuthConfig>) {
        *store = auth.map(|auth| Arc::new(CredentialStore::new(auth)));
        self.0.passwords.clear();
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Returns a number that changes with each replacement of the credentials.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn credentials(&self) -> Option<Arc<CredentialStore>> {
        self.0.credentials.lock().clone()
    }
}

/// Credentials that are not accepted yet. Their threads run.
pub struct Replacement<'a> {
    client_auth: &'a ClientAuth,
    auth: Option<ClientAuthConfig>,
}

impl Replacement<'_> {
    /// Replaces the accepted credentials, and clears cached password verdicts.
    pub fn apply(self) {
        let mut store = self.client_auth.0.credentials.lock();
        self.client_auth.install(&mut store, self.auth);
    }
}

/// Returns whether `path` requires client authentication: every path with content or statistics.
/// Health checks require none.
pub fn requires_authentication(path: &str) -> bool {
    (path == "/v2" || path.starts_with("/v2/") || path.starts_with("/_/")) && path != "/_/health"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_health_checks_need_no_authentication() {
        for guarded in ["/v2", "/v2/", "/v2/a/tags/list", "/_/stats", "/_/", "/_/health/"] {
            assert!(requires_authentication(guarded), "{guarded}");
        }
        for open in ["/", "/healthz", "/livez", "/readyz", "/_/health"] {
            assert!(!requires_authentication(open), "{open}");
        }
    }
}
