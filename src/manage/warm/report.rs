//! The report of a run of a rule.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::reserve::HeldBack;
use crate::limits::WARM_IMAGES_LOGGED_MAX;
use crate::oci::Namespace;

/// The outcome of a run. Each image of the rule is in one of the counts `recent`, `checked`, `failed` and
/// `held_back`, unless the run was canceled.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WarmReport {
    /// The place of the rule in the configuration: `warm[0]`.
    pub rule: String,
    /// The images that the rule takes.
    pub images: u64,
    /// Images beyond the bound of a run.
    pub left_out: u64,
    /// Images that the registry has confirmed since the begin of this run, or of the run that this run
    /// continues.
    pub recent: u64,
    /// Images that the registry has confirmed, and that the store has complete.
    pub checked: u64,
    /// The checked images whose tag has another digest than before, or that are new in the store.
    pub changed: u64,
    pub failed: u64,
    /// Images that wait for a later run, because requests for them would use the reserve of clients, or
    /// because the registry gets no requests.
    pub held_back: u64,
    /// The first reason: `budget`, `rate_limit` or `unavailable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_back_by: Option<String>,
    pub fetched_bytes: u64,
    /// Whether the run came to its end. A canceled run has not.
    pub complete: bool,
    /// The first failures.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedImage>,
    /// The time after which the rule continues. `None` for the next run of the schedule.
    #[serde(skip)]
    pub continue_in: Option<Duration>,
    /// The registries whose images wait for their budget or for the end of their limit.
    #[serde(skip)]
    pub limited: BTreeSet<Namespace>,
}

/// An image that a run has not brought up to date.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedImage {
    pub image: String,
    pub error: String,
}

impl WarmReport {
    pub(super) fn record_failure(&mut self, image: String, error: String) {
        self.failed += 1;
        if self.failures.len() < WARM_IMAGES_LOGGED_MAX {
            self.failures.push(FailedImage { image, error });
        }
    }

    /// Records an image of `registry` that waits.
    pub(super) fn record_held_back(&mut self, held: HeldBack, registry: &Namespace) {
        self.held_back += 1;
        if held != HeldBack::Unavailable && !self.limited.contains(registry) {
            self.limited.insert(registry.clone());
        }
        self.record_held_list(held);
    }

    /// Records that the registry did not list its tags.
    pub(super) fn record_held_list(&mut self, held: HeldBack) {
        self.held_back_by.get_or_insert_with(|| held.word().to_owned());
        self.continue_in = match (self.continue_in, held.wait()) {
            (Some(known), Some(wait)) => Some(known.min(wait)),
            (known, wait) => known.or(wait),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_continues_after_the_shortest_wait_and_names_the_first_reason() {
        let seconds = Duration::from_secs;
        let mut report = WarmReport::default();
        let (a, b): (Namespace, Namespace) = ("a.example".parse().unwrap(), "b.example".parse().unwrap());
        report.record_held_back(HeldBack::Unavailable, &a);
        assert_eq!(report.continue_in, None);
        report.record_held_back(HeldBack::RateLimit { wait: seconds(9) }, &b);
        report.record_held_back(
            HeldBack::Budget {
                wait: Some(seconds(5)),
            },
            &b,
        );
        report.record_held_back(HeldBack::Budget { wait: None }, &b);
        assert_eq!((report.held_back, report.continue_in), (4, Some(seconds(5))));
        assert_eq!(report.held_back_by.as_deref(), Some("unavailable"));
        assert_eq!(report.limited, BTreeSet::from([b]));
    }

    #[test]
    fn number_of_the_reported_failures_is_bounded() {
        let mut report = WarmReport::default();
        for number in 0..=WARM_IMAGES_LOGGED_MAX {
            report.record_failure(format!("a:{number}"), "error".to_owned());
        }
        assert_eq!(report.failed, WARM_IMAGES_LOGGED_MAX as u64 + 1);
        assert_eq!(report.failures.len(), WARM_IMAGES_LOGGED_MAX);
    }
}
