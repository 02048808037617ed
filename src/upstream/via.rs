//! Which caches a question has come through: `Via` (RFC 9110, 7.6.3).
//!
//! Caches may stand behind each other, and by mistake in a circle, where each would wait for the next for ever. So
//! everything we ask names us and those who wait for it here; who finds himself named refuses (`registry/via.rs`).
//!
//! What is asked for is shared by all who want it, so the chain is kept beside the questions: by what is waited for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::HeaderValue;

use super::{Request, Target};
use crate::oci::{Namespace, Repository};

/// What is waited for.
type Wanted = (Namespace, Repository, Target);

/// Our name in `Via`, and the chains of the requests that wait for us.
pub(super) struct Chains {
    pseudonym: String,
    waiting: Mutex<HashMap<Wanted, Vec<Arc<str>>>>,
}

/// Says that a request which came through other caches waits for something, until it is dropped.
pub struct OnBehalf {
    chains: Arc<Chains>,
    wanted: Wanted,
    chain: Arc<str>,
}

impl Chains {
    /// With a name that no other process has.
    pub fn new() -> Self {
        use std::hash::BuildHasher;
        // Keyed anew in every process, by the system's randomness.
        let number = std::hash::RandomState::new().hash_one(std::process::id());
        Chains {
            pseudonym: format!("oci-pull-through-{number:016x}"),
            waiting: Mutex::default(),
        }
    }

    pub fn pseudonym(&self) -> &str {
        &self.pseudonym
    }

    /// `Via` of a question: those who have waited longest, and us.
    pub fn via(&self, request: &Request) -> HeaderValue {
        let wanted = (
            request.namespace.clone(),
            request.repository.clone(),
            request.target.clone(),
        );
        let before = self
            .lock()
            .get(&wanted)
            .and_then(|chains| chains.first().cloned());
        let ours = format!("1.1 {}", self.pseudonym);
        before
            .and_then(|chain| HeaderValue::from_str(&format!("{chain}, {ours}")).ok())
            .unwrap_or_else(|| HeaderValue::from_str(&ours).expect("a name of letters, digits and dashes"))
    }

    pub fn wait(self: &Arc<Self>, wanted: Wanted, chain: &str) -> OnBehalf {
        let chain: Arc<str> = chain.into();
        self.lock().entry(wanted.clone()).or_default().push(chain.clone());
        OnBehalf {
            chains: self.clone(),
            wanted,
            chain,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Wanted, Vec<Arc<str>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OnBehalf {
    fn drop(&mut self) {
        let mut waiting = self.chains.lock();
        if let Some(chains) = waiting.get_mut(&self.wanted) {
            chains.retain(|chain| !Arc::ptr_eq(chain, &self.chain));
            if chains.is_empty() {
                waiting.remove(&self.wanted);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Credentials, Method, Purpose};
    use super::*;

    #[test]
    fn a_question_names_who_has_waited_longest_and_us() {
        let chains = Arc::new(Chains::new());
        assert_ne!(chains.pseudonym(), Chains::new().pseudonym());
        let target = Target::Manifest(crate::oci::Reference::Tag("1".parse().unwrap()));
        let (namespace, repository): (Namespace, Repository) =
            ("r.example".parse().unwrap(), "a".parse().unwrap());
        let request = Request {
            namespace: namespace.clone(),
            repository: repository.clone(),
            target: target.clone(),
            method: Method::Get,
            accept: Vec::new(),
            range_from: None,
            credentials: Credentials::None,
            purpose: Purpose::Pull,
        };
        let alone = format!("1.1 {}", chains.pseudonym());
        assert_eq!(chains.via(&request), alone);
        let wanted = (namespace, repository, target);
        let first = chains.wait(wanted.clone(), "1.1 a, 1.1 b");
        let second = chains.wait(wanted, "1.1 c");
        assert_eq!(chains.via(&request), format!("1.1 a, 1.1 b, {alone}"));
        drop(first);
        assert_eq!(chains.via(&request), format!("1.1 c, {alone}"));
        drop(second);
        assert_eq!(chains.via(&request), alone);
        assert!(chains.lock().is_empty());
    }
}
