//! The registries with a label of their own. Clients choose names of registries, so the number of
//! labels has a bound.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use crate::limits::{METRICS_CONFIGURED_REGISTRIES_MAX, METRICS_FURTHER_REGISTRIES_MAX};
use crate::sync::RwLock;

/// The label of all registries without a label of their own.
pub const OTHER_REGISTRIES: &str = "other";

static LABELS: LazyLock<RwLock<Labels>> = LazyLock::new(RwLock::default);

#[derive(Default)]
struct Labels {
    configured: BTreeSet<Arc<str>>,
    further: BTreeSet<Arc<str>>,
}

/// Gives the configured registries labels, at most [`METRICS_CONFIGURED_REGISTRIES_MAX`]. Labels that
/// exist stay.
pub fn configure_registries<'a>(registries: impl Iterator<Item = &'a str>) {
    LABELS.write().configure(registries);
}

/// Gives `registry` a label, if fewer than [`METRICS_FURTHER_REGISTRIES_MAX`] registries without an
/// entry in the configuration have labels. For registries that have answered.
pub fn admit_registry(registry: &str) {
    if registry_label(registry) == OTHER_REGISTRIES {
        LABELS.write().admit(registry);
    }
}

/// Returns the label of `registry`.
pub fn registry_label(registry: &str) -> &str {
    match LABELS.read().has(registry) {
        true => registry,
        false => OTHER_REGISTRIES,
    }
}

impl Labels {
    fn configure<'a>(&mut self, registries: impl Iterator<Item = &'a str>) {
        for registry in registries {
            if self.configured.len() < METRICS_CONFIGURED_REGISTRIES_MAX {
                self.configured.insert(registry.into());
            }
        }
    }

    fn admit(&mut self, registry: &str) {
        if self.further.len() < METRICS_FURTHER_REGISTRIES_MAX && !self.has(registry) {
            self.further.insert(registry.into());
        }
    }

    fn has(&self, registry: &str) -> bool {
        self.configured.contains(registry) || self.further.contains(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_beyond_the_bounds_have_no_label() {
        let mut labels = Labels::default();
        let names: Vec<String> = (0..100_000).map(|number| format!("r{number}.example")).collect();
        labels.configure(["mine.example"].into_iter());
        names.iter().for_each(|name| labels.admit(name));
        assert!(labels.has("mine.example") && labels.has("r0.example"));
        assert!(!labels.has("r99999.example"));
        assert_eq!(labels.further.len(), METRICS_FURTHER_REGISTRIES_MAX);
        labels.configure(names.iter().map(String::as_str));
        assert_eq!(labels.configured.len(), METRICS_CONFIGURED_REGISTRIES_MAX);
    }
}
