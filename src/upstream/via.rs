//! The chain of caches in `Via` (RFC 9110, 7.6.3).
//!
//! Caches may be chained, and a configuration error may create a cycle of caches waiting
//! indefinitely for each other. So every request lists this cache and the caches of the waiting
//! client. A cache with its own name in the list rejects the request (`registry/via.rs`).
//!
//! A shared request serves all clients of the same content, so the chains are kept beside the
//! requests, by content.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderValue;

use super::{Target, UpstreamRequest};
use crate::oci::{Namespace, Repository};
use crate::sync::Mutex;

/// The content of a waiting request.
type Wanted = (Namespace, Repository, Target);

/// The name of this cache in `Via`, and the chains of the waiting requests.
pub(super) struct Chains {
    pseudonym: String,
    waiting: Mutex<HashMap<Wanted, Vec<Arc<str>>>>,
}

/// Registers the chain of a waiting request until dropped.
pub struct OnBehalf {
    chains: Arc<Chains>,
    wanted: Wanted,
    chain: Arc<str>,
}

impl Chains {
    /// Creates the state with a unique name for this process.
    pub fn new() -> Self {
        use std::hash::BuildHasher;
        // `RandomState` uses random keys of the system in every process.
        let number = std::hash::RandomState::new().hash_one(std::process::id());
        Chains {
            pseudonym: format!("oci-pull-through-{number:016x}"),
            waiting: Mutex::default(),
        }
    }

    pub fn pseudonym(&self) -> &str {
        &self.pseudonym
    }

    /// Returns the `Via` value of a request: the caches of the oldest waiting request, then this
    /// cache.
    pub fn via(&self, request: &UpstreamRequest) -> HeaderValue {
        let wanted = (
            request.namespace.clone(),
            request.repository.clone(),
            request.target.clone(),
        );
        let before = self
            .waiting
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
        self.waiting
            .lock()
            .entry(wanted.clone())
            .or_default()
            .push(chain.clone());
        OnBehalf {
            chains: self.clone(),
            wanted,
            chain,
        }
    }
}

impl Drop for OnBehalf {
    fn drop(&mut self) {
        let mut waiting = self.chains.waiting.lock();
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
    use super::super::{Credentials, Purpose, UpstreamMethod};
    use super::*;

    #[test]
    fn a_request_lists_the_caches_of_the_longest_wait_and_this_one() {
        let chains = Arc::new(Chains::new());
        assert_ne!(chains.pseudonym(), Chains::new().pseudonym());
        let target = Target::Manifest(crate::oci::Reference::Tag("1".parse().unwrap()));
        let (namespace, repository): (Namespace, Repository) =
            ("r.example".parse().unwrap(), "a".parse().unwrap());
        let request = UpstreamRequest {
            namespace: namespace.clone(),
            repository: repository.clone(),
            target: target.clone(),
            method: UpstreamMethod::Get,
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
        assert!(chains.waiting.lock().is_empty());
    }
}
