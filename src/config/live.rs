//! The settings that SIGHUP can change while requests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Registries;
use crate::sync::RwLock;

/// The current registries and access rules, for the registry API, the cache and the upstream clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Live(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registries: RwLock<Arc<Registries>>,
    generation: AtomicU64,
}

impl Live {
    pub fn new(registries: impl Into<Arc<Registries>>) -> Self {
        Live(Arc::new(Shared {
            registries: RwLock::new(registries.into()),
            generation: AtomicU64::new(0),
        }))
    }

    /// Returns the current settings. Requests in progress may keep the result.
    pub fn registries(&self) -> Arc<Registries> {
        self.0.registries.read().clone()
    }

    /// Returns a number that changes with each [`Live::replace`]. A value derived from [`Live::registries`] is current
    /// while the number is the same. One atomic load, so that a hit can call it.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// Replaces the settings for all later calls of [`Live::registries`].
    pub fn replace(&self, registries: impl Into<Arc<Registries>>) {
        *self.0.registries.write() = registries.into();
        // After the settings: a reader of the new number also reads the new settings.
        self.0.generation.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_changes_the_generation_and_reaches_every_clone() {
        let live = Live::new(Registries::default());
        let (clone, before) = (live.clone(), live.generation());
        let earlier = clone.registries();
        live.replace(Registries {
            air_gapped: true,
            ..Registries::default()
        });
        assert_ne!(clone.generation(), before);
        assert!(clone.registries().air_gapped && !earlier.air_gapped);
    }
}
