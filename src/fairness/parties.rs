//! The parties that hold shares. A party is a registry or a group of registries. Registries without
//! an entry are proven by verified content.

use std::sync::Arc;

use crate::config::Live;
use crate::limits::PROVEN_REGISTRIES_MAX;
use crate::lru::Lru;
use crate::oci::Namespace;
use crate::sync::Mutex;

/// The holder of a share.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Party {
    /// An entry of the configuration, by name. All registries under a suffix are a single party.
    Named(Arc<str>),
    /// A registry without an entry that has recently sent verified content.
    Proven(Namespace),
    /// Any other registry.
    Unproven(Namespace),
}

/// Assigns each registry to its party. Cheap to clone.
#[derive(Clone)]
pub struct Parties {
    live: Live,
    /// Registries without an entry that have recently sent verified content.
    proven: Arc<Mutex<Lru<Namespace, ()>>>,
}

impl Parties {
    pub fn new(live: Live) -> Self {
        let proven = Lru::new(u64::MAX, PROVEN_REGISTRIES_MAX);
        Parties {
            live,
            proven: Arc::new(Mutex::new(proven)),
        }
    }

    /// Returns the party that the fetches from `namespace` count for.
    pub fn of(&self, namespace: &Namespace) -> Party {
        if let Some(name) = self.live.registries().entry_name(namespace) {
            return Party::Named(name.into());
        }
        // Names without a registry mean Docker Hub, so Docker Hub needs no entry.
        if namespace.is_docker_hub() {
            return Party::Named(namespace.as_str().into());
        }
        if self.proven.lock().get(namespace).is_some() {
            Party::Proven(namespace.clone())
        } else {
            Party::Unproven(namespace.clone())
        }
    }

    /// Records that `namespace` sent verified content.
    pub fn record_proof(&self, namespace: &Namespace) {
        self.proven.lock().insert(namespace.clone(), (), 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Registries;

    #[test]
    fn a_registry_without_an_entry_is_proven_by_verified_content() {
        let parties = Parties::new(Live::new(Registries::default()));
        let [hub, other] = ["docker.io", "r.example"].map(|name| name.parse::<Namespace>().unwrap());
        assert_eq!(parties.of(&hub), Party::Named("docker.io".into()));
        assert_eq!(parties.of(&other), Party::Unproven(other.clone()));
        parties.record_proof(&other);
        assert_eq!(parties.clone().of(&other), Party::Proven(other.clone()));
    }
}
