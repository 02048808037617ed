//! The explanation of an image: the settings and the state that decide how a pull is answered. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ImageDetails, show_images};
use crate::cache::{TagPolicy, TagTerms, is_fresh, tag_terms};
use crate::config::{Access, Registries};
use crate::limits::EVICTION_AGE_MIN;
use crate::oci::{Accept, ImageName, Reference, Tag};
use crate::runtime::clock::unix_millis;
use crate::store::{FsStore, StoreReader, StoreStats, TagPointer};
use crate::upstream::{AvailabilityState, RegistryStatus};

/// The settings and the state of a cache.
struct Circumstances<'a> {
    registries: &'a Registries,
    tag_policy: &'a TagPolicy,
    has_client_auth: bool,
    /// The availability of the registry. `None` without a recent request, and without a running cache.
    upstream: Option<&'a RegistryStatus>,
    /// The native pointer of the tag.
    pointer: Option<&'a TagPointer>,
    /// The stored images with the tag or the digest.
    images: &'a [ImageDetails],
    store: &'a StoreStats,
    /// Milliseconds since 1970.
    now_ms: u64,
}

/// The explanation of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub name: String,
    pub registry: RegistryChoice,
    /// `None` for a name with a digest, and for a tag that is not stored.
    pub tag: Option<TagState>,
    /// The result of the next pull.
    pub pull: PullOutcome,
    /// The requests of the next pull to the upstream.
    pub requests: Vec<String>,
    /// The conditions that make a pull slow, stale, refused or uncached, the most important first.
    pub findings: Vec<Finding>,
}

/// The settings of the registry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryChoice {
    pub name: String,
    /// The name in `registries` whose settings apply. `None`: the settings of `defaults` apply.
    pub entry: Option<String>,
    /// The mirrors, which get a request before the registry.
    pub mirrors: Vec<String>,
    /// `verify`, `shared` or `passthrough`.
    pub access: String,
}

/// A stored tag.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagState {
    pub digest: String,
    /// Time since the last confirmation by the upstream.
    pub age_seconds: u64,
    /// Time for which the tag is served without a request. `None`: without an end.
    pub lifetime_seconds: Option<u64>,
    pub fresh: bool,
}

/// The result of a pull.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PullOutcome {
    /// From the store, without a request to the upstream.
    Hit,
    /// From the store, after a confirmation of the tag.
    Revalidated,
    /// From the store, although the tag is not confirmed.
    Stale,
    /// From the upstream, in whole or in part.
    Fetched,
    /// An error.
    Refused,
}

/// A condition that makes a pull slow, stale, refused or uncached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finding {
    pub cause: Cause,
    /// The condition and the remedy.
    pub text: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    RegistryNotListed,
    AccessRules,
    AirGapped,
    UpstreamUnavailable,
    UpstreamFailing,
    RateLimited,
    BudgetLow,
    NotStored,
    Incomplete,
    PlatformNotStored,
    TagExpired,
    TagAlwaysRevalidated,
    Passthrough,
    PrivateContent,
    StoreFull,
    ObjectTooLarge,
    StoreNotScanned,
    EvictionCandidate,
}

/// The part of a budget below which the budget counts as low: a tenth.
const BUDGET_LOW_DIVISOR: u64 = 10;

/// The settings of a cache that decide on pulls.
#[derive(Clone, Copy, Debug)]
pub struct PullSettings<'a> {
    pub registries: &'a Registries,
    pub tag_policy: &'a TagPolicy,
    pub has_client_auth: bool,
}

/// Explains how the next pull of `name` from a cache with `store` is answered. A name without a tag
/// and a digest means the tag `latest`. Blocks.
///
/// # Errors
///
/// The store cannot be read.
pub fn explain_stored(
    store: &FsStore,
    settings: PullSettings<'_>,
    upstream: Option<&RegistryStatus>,
    name: ImageName,
) -> std::io::Result<Explanation> {
    let latest = || Reference::Tag("latest".parse().expect("`latest` is a valid tag"));
    let name = ImageName {
        reference: Some(name.reference.unwrap_or_else(latest)),
        ..name
    };
    let reader = StoreReader::open(store.root())?;
    let pointer = match &name.reference {
        Some(Reference::Tag(tag)) => {
            let origin = &name.origin;
            let found = store.tag(&origin.namespace, &origin.repository, tag, Accept::NATIVE);
            found.ok().flatten()
        }
        _ => None,
    };
    let circumstances = Circumstances {
        registries: settings.registries,
        tag_policy: settings.tag_policy,
        has_client_auth: settings.has_client_auth,
        upstream,
        pointer: pointer.as_ref(),
        images: &show_images(store, &reader, &name),
        store: &store.stats(),
        now_ms: unix_millis(),
    };
    Ok(explain(&name, &circumstances))
}

/// Explains how the next pull of `name` is answered.
fn explain(name: &ImageName, circumstances: &Circumstances<'_>) -> Explanation {
    let Circumstances { registries, .. } = circumstances;
    let namespace = &name.origin.namespace;
    let (settings, _) = registries.settings(namespace);
    let access = settings.access();
    let terms = match &name.reference {
        Some(Reference::Tag(tag)) => {
            Some((tag, tag_terms(circumstances.tag_policy, &settings.tag_rules, tag)))
        }
        _ => None,
    };
    let tag = terms.as_ref().zip(circumstances.pointer);
    let tag = tag.map(|((_, terms), pointer)| tag_state(pointer, terms, circumstances.now_ms));
    let mut explanation = Explanation {
        name: name.to_string(),
        registry: RegistryChoice {
            name: namespace.to_string(),
            entry: registries.entry_name(namespace),
            mirrors: settings
                .mirrors
                .iter()
                .map(|mirror| mirror.url.to_string())
                .collect(),
            access: match access {
                Access::Verify => "verify",
                Access::Shared => "shared",
                Access::Passthrough => "passthrough",
            }
            .to_owned(),
        },
        pull: PullOutcome::Hit,
        requests: Vec::new(),
        findings: Vec::new(),
        tag,
    };
    explanation.judge(name, access, terms, circumstances);
    explanation
}

fn tag_state(pointer: &TagPointer, terms: &TagTerms, now_ms: u64) -> TagState {
    let age = Duration::from_millis(now_ms.saturating_sub(pointer.checked_at_ms));
    TagState {
        digest: pointer.digest.to_string(),
        age_seconds: age.as_secs(),
        lifetime_seconds: (terms.lifetime_ms != u64::MAX).then_some(terms.lifetime_ms / 1000),
        fresh: is_fresh(pointer.checked_at_ms, now_ms, terms.lifetime_ms),
    }
}

impl Explanation {
    fn find(&mut self, cause: Cause, text: String) {
        self.findings.push(Finding { cause, text });
    }

    fn has(&self, causes: &[Cause]) -> bool {
        self.findings
            .iter()
            .any(|finding| causes.contains(&finding.cause))
    }

    fn judge(
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
        if !registries.allow.is_empty() {
            self.find(
                Cause::AccessRules,
                "the rules of allow decide which clients may pull; the others get 403".to_owned(),
            );
        }
        self.judge_upstream(registries.air_gapped, &registry, circumstances.upstream);
        self.judge_stored(circumstances);
        if let Some((tag, terms)) = terms {
            self.judge_tag(tag, &terms);
        }
        self.judge_access(access, circumstances.has_client_auth);
        self.judge_store(circumstances);
        self.conclude(name);
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
            let text = format!(
                "without a pin, the image may be evicted; its last use was {idle} s ago; `pin` keeps it"
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

    /// Derives the result and the requests of the next pull from the findings.
    fn conclude(&mut self, name: &ImageName) {
        let cannot_ask = self.has(&[Cause::AirGapped, Cause::UpstreamUnavailable, Cause::RateLimited]);
        let is_unconfirmed = self.has(&[Cause::TagExpired, Cause::TagAlwaysRevalidated]);
        let is_missing = self.has(&[Cause::NotStored, Cause::Incomplete, Cause::Passthrough]);
        let repository = &name.origin.repository;
        let reference = match &name.reference {
            Some(Reference::Tag(tag)) => tag.to_string(),
            Some(Reference::Digest(digest)) => digest.to_string(),
            None => "latest".to_owned(),
        };
        self.pull = match (cannot_ask, is_missing, is_unconfirmed) {
            _ if self.has(&[Cause::RegistryNotListed]) => PullOutcome::Refused,
            (true, true, _) => PullOutcome::Refused,
            (true, false, true) => PullOutcome::Stale,
            (false, true, _) => PullOutcome::Fetched,
            (false, false, true) => PullOutcome::Revalidated,
            (_, false, false) => PullOutcome::Hit,
        };
        if self.pull == PullOutcome::Revalidated {
            self.requests
                .push(format!("HEAD /v2/{repository}/manifests/{reference}"));
        }
        if self.pull == PullOutcome::Fetched && self.has(&[Cause::NotStored, Cause::Passthrough]) {
            self.requests
                .push(format!("GET /v2/{repository}/manifests/{reference}"));
        }
        if self.pull == PullOutcome::Fetched {
            self.requests
                .push(format!("GET /v2/{repository}/blobs/... for each missing blob"));
        }
    }
}

#[cfg(test)]
#[path = "tests/explain.rs"]
mod tests;
