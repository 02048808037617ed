//! The result, the requests and the cost of the next pull, by the findings. Pure.

use super::{BudgetCost, Cause, Circumstances, Explanation, PullOutcome};
use crate::oci::{ImageName, Reference};

/// The manifests of an image that is not stored: an index, and the manifest of one platform.
const MANIFESTS_OF_AN_IMAGE_MAX: u64 = 2;

impl Explanation {
    /// Derives the result, the requests and the cost of the next pull from the findings.
    pub(super) fn conclude(&mut self, name: &ImageName, circumstances: &Circumstances<'_>) {
        let image = circumstances.images.first().map(|details| &details.image.image);
        let lacks_manifest = image.is_some_and(|image| image.missing_manifests > 0);
        let is_absent = self.has(&[Cause::NotStored, Cause::Passthrough]);
        let is_missing = is_absent || self.has(&[Cause::Incomplete]);
        let needs_manifest = is_absent || (is_missing && lacks_manifest);
        let is_pull_limited = self.has(&[Cause::PullLimited]);
        let cannot_ask = self.has(&[Cause::AirGapped, Cause::UpstreamUnavailable, Cause::RateLimited]);
        let cannot_fetch = cannot_ask || (is_pull_limited && needs_manifest);
        let is_unconfirmed = self.has(&[Cause::TagExpired, Cause::TagAlwaysRevalidated]);
        let is_denied = self.client.as_ref().is_some_and(|client| !client.allowed);
        self.pull = match is_missing {
            _ if is_denied || self.has(&[Cause::RegistryNotListed]) => PullOutcome::Refused,
            true if cannot_fetch => PullOutcome::Refused,
            true => PullOutcome::Fetched,
            false if !is_unconfirmed => PullOutcome::Hit,
            false if cannot_ask || is_pull_limited => PullOutcome::Stale,
            false => PullOutcome::Revalidated,
        };
        self.list_requests(name, is_absent);
        let budget = circumstances.upstream.and_then(|status| status.budget);
        self.budget = budget.map(|budget| BudgetCost {
            limit: budget.limit,
            remaining: budget.remaining,
            cost_max: match self.pull {
                PullOutcome::Refused => 0,
                _ if is_absent => MANIFESTS_OF_AN_IMAGE_MAX,
                _ => u64::from(lacks_manifest),
            },
        });
    }

    fn list_requests(&mut self, name: &ImageName, is_absent: bool) {
        let repository = &name.origin.repository;
        let reference = match &name.reference {
            Some(Reference::Tag(tag)) => tag.to_string(),
            Some(Reference::Digest(digest)) => digest.to_string(),
            None => "latest".to_owned(),
        };
        let manifest = format!("/v2/{repository}/manifests/{reference}");
        match self.pull {
            PullOutcome::Revalidated => self.requests.push(format!("HEAD {manifest}")),
            PullOutcome::Fetched if is_absent => self.requests.push(format!("GET {manifest}")),
            _ => {}
        }
        if self.pull == PullOutcome::Fetched {
            self.requests
                .push(format!("GET /v2/{repository}/blobs/... for each missing blob"));
        }
    }
}
