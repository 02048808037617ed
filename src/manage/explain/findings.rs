//! The conditions that make a pull slow, stale, refused or uncached. Pure.

/// The part of a budget below which the budget counts as low: a tenth.
const BUDGET_LOW_DIVISOR: u64 = 10;

use super::{Cause, Circumstances, Explanation, Finding};
use crate::cache::TagTerms;
use crate::config::Access;
use crate::limits::EVICTION_AGE_MIN;
use crate::oci::{ImageName, Tag};
use crate::store::RankedBound;
use crate::upstream::{AvailabilityState, RegistryStatus};

impl Explanation {
    fn find(&mut self, cause: Cause, text: String) {
        self.findings.push(Finding { cause, text });
    }

    pub(super) fn has(&self, causes: &[Cause]) -> bool {
        self.findings
            .iter()
            .any(|finding| causes.contains(&finding.cause))
    }

    /// Adds the findings, the most important first.
    pub(super) fn judge(
        &mut self,
        name: &ImageName,
        access: Access,
        terms: Option<(&Tag, TagTerms)>,
        circumstances: &Circumstances<'_>,
    ) {
        let registry = self.registry.name.clone();
        let registries = circumstances.registries;
        if !registries.exists(&name.origin.namespace) {
            self.find(
                Cause::RegistryNotListed,
                format!("whitelist_mode is on and registries does not list {registry}; list the registry"),
            );
        }
        match &self.client {
            Some(client) if !client.allowed => {
                let repository = &name.origin.repository;
                let text = format!(
                    "no rule of allow lets {} pull {registry}/{repository}; add a rule",
                    client.user
                );
                self.find(Cause::AccessRules, text);
            }
            None if !registries.allow.is_empty() => self.find(
                Cause::AccessRules,
                "the rules of allow decide which clients may pull; the others get 403".to_owned(),
            ),
            _ => {}
        }
        self.judge_upstream(registries.air_gapped, &registry, circumstances.upstream);
        self.judge_stored(circumstances);
        if let Some((tag, terms)) = terms {
            self.judge_tag(tag, &terms);
        }
        self.judge_access(access, circumstances.has_client_auth);
        self.judge_store(circumstances);
    }

    fn judge_upstream(&mut self, is_air_gapped: bool, registry: &str, status: Option<&RegistryStatus>) {
        if is_air_gapped {
            self.find(
                Cause::AirGapped,
                "air_gapped is on, so the cache contacts no registry; only stored content is served"
                    .to_owned(),
            );
            return;
        }
        let Some(status) = status else { return };
        let error = status.last_error.as_deref().unwrap_or("no error text");
        let lasting = status.lasting.unwrap_or_default().as_secs();
        match status.state {
            AvailabilityState::Available => {}
            AvailabilityState::Failing => self.find(
                Cause::UpstreamFailing,
                format!(
                    "the last {} requests to {registry} have failed: {error}",
                    status.consecutive_failures
                ),
            ),
            AvailabilityState::Tripped => self.find(
                Cause::UpstreamUnavailable,
                format!(
                    "{registry} has been unavailable for {lasting} s: {error}; the cache sends probes only"
                ),
            ),
            AvailabilityState::Limited if status.is_limit_on_manifests => self.find(
                Cause::PullLimited,
                format!(
                    "{registry} answered 429 to a manifest {lasting} s ago; blobs are still fetched; set credentials with a higher limit, or wait"
                ),
            ),
            AvailabilityState::Limited => self.find(
                Cause::RateLimited,
                format!(
                    "{registry} answered 429 {lasting} s ago; set credentials with a higher limit, or wait"
                ),
            ),
        }
        let budget = status.budget.as_ref();
        if let Some((limit, remaining)) = budget.and_then(|budget| budget.limit.zip(budget.remaining))
            && remaining.saturating_mul(BUDGET_LOW_DIVISOR) <= limit
        {
            self.find(
                Cause::BudgetLow,
                format!("{remaining} of {limit} requests to {registry} are left in this window"),
            );
        }
    }

    fn judge_stored(&mut self, circumstances: &Circumstances<'_>) {
        let Some(listed) = circumstances.images.first().map(|details| &details.image) else {
            let text = "the manifest is not stored; the first pull fetches it";
            self.find(Cause::NotStored, text.to_owned());
            return;
        };
        let image = &listed.image;
        let (blobs, manifests) = (image.missing_blobs, image.missing_manifests);
        if !listed.complete {
            let text = format!("{blobs} blobs and {manifests} manifests are not stored; a pull fetches them");
            self.find(Cause::Incomplete, text);
        } else if manifests > 0 {
            let stored = image.platforms.join(", ");
            let text =
                format!("{manifests} manifests of the list are not stored; stored platforms: {stored}");
            self.find(Cause::PlatformNotStored, text);
        }
        let idle = (circumstances.now_ms / 1000).saturating_sub(image.used);
        let stored = image.created.unwrap_or(0);
        let is_young = circumstances.now_ms / 1000 < stored + EVICTION_AGE_MIN.as_secs();
        if !listed.pinned && !is_young {
            let before = self.eviction.map_or_else(String::new, |rank| {
                let bound = match rank.bound {
                    RankedBound::Store => "",
                    RankedBound::Registry => " for the bound of the registry",
                };
                let bytes = rank.bytes_before;
                format!("; evictions{bound} remove {bytes} bytes of other content first")
            });
            let text = format!(
                "without a pin, the image may be evicted; its last use was {idle} s ago{before}; `pin` keeps it"
            );
            self.find(Cause::EvictionCandidate, text);
        }
    }

    fn judge_tag(&mut self, tag: &Tag, terms: &TagTerms) {
        if terms.lifetime_ms == 0 {
            let text = format!(
                "each pull of the tag {tag} is confirmed by the registry; set cache_tag_manifests, cache_latest_tag or a tag rule"
            );
            self.find(Cause::TagAlwaysRevalidated, text);
            return;
        }
        if let Some(state) = self.tag.as_ref().filter(|state| !state.fresh) {
            let text = format!(
                "the tag was confirmed {} s ago and is fresh for {} s; the next pull confirms the tag",
                state.age_seconds,
                state.lifetime_seconds.unwrap_or_default()
            );
            self.find(Cause::TagExpired, text);
        }
    }

    fn judge_access(&mut self, access: Access, has_client_auth: bool) {
        match access {
            Access::Passthrough => self.find(
                Cause::Passthrough,
                "the access of the registry is passthrough, so nothing is cached".to_owned(),
            ),
            Access::Verify if !has_client_auth => self.find(
                Cause::PrivateContent,
                "private content needs the client's own credentials, which the registry confirms each minute"
                    .to_owned(),
            ),
            Access::Verify | Access::Shared => {}
        }
    }

    fn judge_store(&mut self, circumstances: &Circumstances<'_>) {
        let store = circumstances.store;
        if !store.scanned {
            let text = "the scan of the store has not ended, so nothing is evicted to make room";
            self.find(Cause::StoreNotScanned, text.to_owned());
        }
        if store.free_bytes < store.free_bytes_min {
            let text = format!(
                "the file system has {} free bytes, and CACHE_MIN_FREE is {}; new content is not stored without an eviction",
                store.free_bytes, store.free_bytes_min
            );
            self.find(Cause::StoreFull, text);
        }
        let manifests = circumstances.images.iter().flat_map(|image| &image.manifests);
        let blobs = manifests.flat_map(|manifest| &manifest.blobs);
        let largest = blobs.filter(|blob| !blob.stored).map(|blob| blob.size).max();
        if let Some((largest, bound)) = largest.zip(store.object_bytes_max)
            && largest > bound
        {
            let text = format!(
                "a blob of {largest} bytes is larger than CACHE_MAX_OBJECT_SIZE, {bound} bytes, and is not stored"
            );
            self.find(Cause::ObjectTooLarge, text);
        }
    }
}
