//! The explanation of an image: the settings and the state that decide how a pull is answered.

mod findings;
mod outcome;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ImageDetails, show_images};
use crate::auth::Subject;
use crate::cache::{TagPolicy, TagTerms, is_fresh, tag_terms};
use crate::config::{ANONYMOUS, Access, Registries};
use crate::oci::{Accept, Digest, ImageName, Reference};
use crate::runtime::clock::unix_millis;
use crate::store::{EvictionRank, StoreStats, Stores, TagPointer};
use crate::upstream::RegistryStatus;

/// The settings and the state of a cache.
struct Circumstances<'a> {
    registries: &'a Registries,
    tag_policy: &'a TagPolicy,
    has_client_auth: bool,
    /// The name of the client. `None`: any client.
    user: Option<&'a str>,
    /// The availability of the registry. `None` without a recent request, and without a running cache.
    upstream: Option<&'a RegistryStatus>,
    /// The native pointer of the tag.
    pointer: Option<&'a TagPointer>,
    /// The stored images with the tag or the digest.
    images: &'a [ImageDetails],
    store: &'a StoreStats,
    /// `None` for an image that no eviction may remove.
    eviction: Option<EvictionRank>,
    /// Milliseconds since 1970.
    now_ms: u64,
}

/// The explanation of an image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    pub name: String,
    pub registry: RegistryChoice,
    /// The client of the pull. `None`: any client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientAccess>,
    /// `None` for a name with a digest, and for a tag that is not stored.
    pub tag: Option<TagState>,
    /// The result of the next pull.
    pub pull: PullOutcome,
    /// The requests of the next pull to the upstream.
    pub requests: Vec<String>,
    /// `None` without a budget in the last responses of the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetCost>,
    /// `None` for an image that no eviction may remove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eviction: Option<EvictionRank>,
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

/// The verdict of the rules of `allow` for one client.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientAccess {
    /// The name of the user. `anonymous` for a client without credentials.
    pub user: String,
    pub allowed: bool,
}

/// The request budget of a registry, such as Docker Hub.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BudgetCost {
    /// Requests per window.
    pub limit: Option<u64>,
    /// Requests left in the window.
    pub remaining: Option<u64>,
    /// The most `GET` requests for manifests that the next pull of one platform makes. Docker Hub
    /// counts neither `HEAD` nor blobs.
    pub cost_max: u64,
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
    PullLimited,
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

/// The settings of a cache that decide on pulls.
#[derive(Clone, Copy, Debug)]
pub struct PullSettings<'a> {
    pub registries: &'a Registries,
    pub tag_policy: &'a TagPolicy,
    pub has_client_auth: bool,
}

/// Explains how the next pull of `name` by `user` from a cache with `stores` is answered. A name without a tag
/// and a digest means the tag `latest`. Without `user`, the client may be any client. Blocks.
///
/// # Errors
///
/// The default store cannot be read.
pub fn explain_stored(
    stores: &Stores,
    settings: PullSettings<'_>,
    upstream: Option<&RegistryStatus>,
    name: ImageName,
    user: Option<&str>,
) -> std::io::Result<Explanation> {
    let latest = || Reference::Tag("latest".parse().expect("`latest` is a valid tag"));
    let name = ImageName {
        reference: Some(name.reference.unwrap_or_else(latest)),
        ..name
    };
    let reader = stores.reader()?;
    let store = stores.of_registry(&name.origin.namespace);
    let pointer = match &name.reference {
        Some(Reference::Tag(tag)) => {
            let origin = &name.origin;
            let found = store.tag(&origin.namespace, &origin.repository, tag, Accept::NATIVE);
            found.ok().flatten()
        }
        _ => None,
    };
    let images = show_images(&store.pinned(), &reader, &name);
    let circumstances = Circumstances {
        registries: settings.registries,
        tag_policy: settings.tag_policy,
        has_client_auth: settings.has_client_auth,
        user,
        upstream,
        pointer: pointer.as_ref(),
        images: &images,
        store: &store.stats(),
        eviction: store.eviction_rank(&name.origin.namespace, &digests(&images)),
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
        client: circumstances
            .user
            .map(|user| client_access(name, user, circumstances)),
        pull: PullOutcome::Hit,
        requests: Vec::new(),
        budget: None,
        eviction: circumstances.eviction,
        findings: Vec::new(),
        tag,
    };
    explanation.judge(name, access, terms, circumstances);
    explanation.conclude(name, circumstances);
    explanation
}

fn client_access(name: &ImageName, user: &str, circumstances: &Circumstances<'_>) -> ClientAccess {
    let subject = match user {
        ANONYMOUS => Subject::Anonymous,
        user => Subject::User(user),
    };
    let Circumstances { registries, .. } = circumstances;
    let origin = &name.origin;
    ClientAccess {
        user: user.to_owned(),
        allowed: registries.allows(
            subject,
            circumstances.has_client_auth,
            &origin.namespace,
            &origin.repository,
        ),
    }
}

/// Returns the manifests and the blobs of `images`.
fn digests(images: &[ImageDetails]) -> Vec<Digest> {
    let manifests = images.iter().flat_map(|image| &image.manifests);
    let texts = manifests.flat_map(|manifest| {
        let blobs = manifest.blobs.iter().map(|blob| &blob.digest);
        blobs.chain([&manifest.digest])
    });
    texts.filter_map(|text| text.parse().ok()).collect()
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

#[cfg(test)]
mod tests;
