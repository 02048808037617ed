//! The causes of slow, stale, refused and uncached pulls.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::*;
use crate::config::tests::Machine;
use crate::config::{Allow, AllowRule, RegistryConfig};
use crate::manage::details::{BlobDetails, ManifestDetails};
use crate::manage::{Image, ImageKind, ListedImage};
use crate::oci::{Algorithm, Digest};
use crate::store::RankedBound;
use crate::upstream::{AvailabilityState, Budget};

const NOW_MS: u64 = 1_800_000_000_000;

/// Everything that decides on a pull, in the state of an undisturbed hit.
struct Case {
    name: &'static str,
    registries: Registries,
    policy: TagPolicy,
    has_client_auth: bool,
    upstream: Option<RegistryStatus>,
    checked_ms_ago: u64,
    image: Option<Image>,
    is_pinned: bool,
    missing_blob_bytes: Option<u64>,
    store: StoreStats,
    user: Option<&'static str>,
    eviction: Option<EvictionRank>,
}

fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, b"manifest")
}

fn hit() -> Case {
    Case {
        name: "registry.example/org/app:v1",
        registries: Registries {
            entries: vec![RegistryConfig::named("registry.example".parse().unwrap())],
            ..Registries::default()
        },
        policy: TagPolicy {
            cache_tags: true,
            cache_latest: false,
            always_revalidate_latest: false,
            ttl: Duration::from_secs(60),
            stale_while_revalidate: Duration::ZERO,
        },
        has_client_auth: true,
        upstream: None,
        checked_ms_ago: 1_000,
        image: Some(Image {
            repository: "registry.example/org/app".to_owned(),
            tag: Some("v1".to_owned()),
            digest: digest().to_string(),
            kind: ImageKind::Image,
            created: Some(NOW_MS / 1000 - 86_400),
            used: NOW_MS / 1000 - 3_600,
            size: 1,
            platforms: Vec::new(),
            blobs: 2,
            missing_blobs: 0,
            missing_manifests: 0,
        }),
        is_pinned: true,
        missing_blob_bytes: None,
        store: StoreStats {
            scanned: true,
            object_bytes_max: Some(1_000),
            free_bytes: 100,
            free_bytes_min: 10,
            ..StoreStats::default()
        },
        user: None,
        eviction: None,
    }
}

impl Case {
    fn explain(&self) -> Explanation {
        let pointer = TagPointer {
            digest: digest(),
            media_type: String::new(),
            size: 1,
            checked_at_ms: NOW_MS - self.checked_ms_ago,
            etag: None,
            accept_class: Accept::NATIVE.to_owned(),
            headers: BTreeMap::new(),
        };
        let missing = || {
            self.missing_blob_bytes.map(|size| BlobDetails {
                digest: digest().to_string(),
                size,
                stored: false,
            })
        };
        let images = self.image.iter().map(|image| ImageDetails {
            image: ListedImage {
                complete: image.is_complete(),
                pinned: self.is_pinned,
                image: image.clone(),
            },
            manifests: vec![ManifestDetails {
                digest: digest().to_string(),
                platform: None,
                stored: true,
                blobs: missing().into_iter().collect(),
            }],
        });
        let images: Vec<_> = images.collect();
        explain(
            &self.name.parse().unwrap(),
            &Circumstances {
                registries: &self.registries,
                tag_policy: &self.policy,
                has_client_auth: self.has_client_auth,
                user: self.user,
                eviction: self.eviction,
                upstream: self.upstream.as_ref(),
                pointer: self.image.is_some().then_some(&pointer),
                images: &images,
                store: &self.store,
                now_ms: NOW_MS,
            },
        )
    }

    fn with_upstream(mut self, state: AvailabilityState, budget: Option<Budget>) -> Self {
        self.upstream = Some(RegistryStatus {
            namespace: "registry.example".parse().unwrap(),
            state,
            lasting: Some(Duration::from_secs(90)),
            only: None,
            is_limit_on_manifests: false,
            consecutive_failures: 3,
            last_error: Some(Arc::from("no route to host")),
            budget,
            requests: 1,
            failures: 0,
            suppressed: 0,
        });
        self
    }

    fn with_pull_limit(self, budget: Option<Budget>) -> Self {
        let mut case = self.with_upstream(AvailabilityState::Limited, budget);
        if let Some(status) = &mut case.upstream {
            status.is_limit_on_manifests = true;
        }
        case
    }

    fn without_image(mut self) -> Self {
        self.image = None;
        self
    }

    fn with_image(mut self, change: impl FnOnce(&mut Image)) -> Self {
        if let Some(image) = &mut self.image {
            change(image);
        }
        self
    }
}

fn budget(limit: u64, remaining: u64) -> Budget {
    Budget {
        limit: Some(limit),
        remaining: Some(remaining),
        window: None,
        reset: None,
        source: None,
    }
}

#[test]
fn undisturbed_hit_has_no_findings_and_no_requests() {
    let explanation = hit().explain();
    assert_eq!(explanation.findings, []);
    assert_eq!(explanation.requests, [""; 0]);
    assert_eq!(explanation.pull, PullOutcome::Hit);
    assert_eq!(explanation.registry.entry.as_deref(), Some("registry.example"));
    let tag = explanation.tag.unwrap();
    assert_eq!(
        (tag.age_seconds, tag.lifetime_seconds, tag.fresh),
        (1, Some(60), true)
    );
}

#[test]
fn each_cause_is_found_with_the_result_of_the_next_pull() {
    use AvailabilityState::{Failing, Limited, Tripped};
    use PullOutcome::{Fetched, Hit, Refused, Revalidated, Stale};
    let expired = || Case {
        checked_ms_ago: 61_000,
        ..hit()
    };
    let air_gapped = |mut case: Case| {
        case.registries.air_gapped = true;
        case
    };
    let with_access = |access| {
        let mut case = hit();
        case.registries.entries[0].settings.access = Some(access);
        case
    };
    let with_store = |change: fn(&mut StoreStats)| {
        let mut case = hit();
        change(&mut case.store);
        case
    };
    let cases: Vec<(Case, Cause, PullOutcome, &str)> = vec![
        (
            Case {
                registries: Registries {
                    whitelist_mode: true,
                    ..Registries::default()
                },
                ..hit()
            },
            Cause::RegistryNotListed,
            Refused,
            "list the registry",
        ),
        (
            Case {
                registries: Registries {
                    allow: Allow {
                        everywhere: Some(vec![AllowRule::default()]),
                        own: Vec::new(),
                    },
                    ..Registries::default()
                },
                ..hit()
            },
            Cause::AccessRules,
            Hit,
            "allow",
        ),
        (air_gapped(hit()), Cause::AirGapped, Hit, "air_gapped"),
        (air_gapped(expired()), Cause::AirGapped, Stale, "stored content"),
        (
            air_gapped(hit().without_image()),
            Cause::AirGapped,
            Refused,
            "no registry",
        ),
        (
            expired().with_upstream(Tripped, None),
            Cause::UpstreamUnavailable,
            Stale,
            "no route to host",
        ),
        (
            hit().without_image().with_upstream(Tripped, None),
            Cause::UpstreamUnavailable,
            Refused,
            "90 s",
        ),
        (
            expired().with_upstream(Failing, None),
            Cause::UpstreamFailing,
            Revalidated,
            "no route to host",
        ),
        (
            hit().without_image().with_upstream(Limited, None),
            Cause::RateLimited,
            Refused,
            "credentials",
        ),
        (
            hit().without_image().with_pull_limit(None),
            Cause::PullLimited,
            Refused,
            "blobs are still fetched",
        ),
        (
            hit()
                .with_image(|image| image.missing_blobs = 1)
                .with_pull_limit(None),
            Cause::PullLimited,
            Fetched,
            "90 s",
        ),
        (expired().with_pull_limit(None), Cause::PullLimited, Stale, "429"),
        (
            hit().with_upstream(AvailabilityState::Available, Some(budget(100, 10))),
            Cause::BudgetLow,
            Hit,
            "10 of 100",
        ),
        (hit().without_image(), Cause::NotStored, Fetched, "first pull"),
        (
            hit().with_image(|image| image.missing_blobs = 1),
            Cause::Incomplete,
            Fetched,
            "1 blobs",
        ),
        (
            hit().with_image(|image| {
                image.kind = ImageKind::List;
                image.missing_manifests = 3;
                image.platforms = vec!["linux/amd64".to_owned()];
            }),
            Cause::PlatformNotStored,
            Hit,
            "linux/amd64",
        ),
        (expired(), Cause::TagExpired, Revalidated, "61 s ago"),
        (
            Case {
                name: "registry.example/org/app:latest",
                ..hit()
            },
            Cause::TagAlwaysRevalidated,
            Revalidated,
            "cache_latest_tag",
        ),
        (
            with_access(Access::Passthrough),
            Cause::Passthrough,
            Fetched,
            "passthrough",
        ),
        (
            Case {
                has_client_auth: false,
                ..hit()
            },
            Cause::PrivateContent,
            Hit,
            "credentials",
        ),
        (
            with_store(|store| store.free_bytes = 9),
            Cause::StoreFull,
            Hit,
            "CACHE_MIN_FREE",
        ),
        (
            Case {
                missing_blob_bytes: Some(1_001),
                ..hit().with_image(|image| image.missing_blobs = 1)
            },
            Cause::ObjectTooLarge,
            Fetched,
            "CACHE_MAX_OBJECT_SIZE",
        ),
        (
            with_store(|store| store.scanned = false),
            Cause::StoreNotScanned,
            Hit,
            "scan",
        ),
        (
            Case {
                is_pinned: false,
                eviction: Some(EvictionRank {
                    objects_before: 3,
                    bytes_before: 4_096,
                    bound: RankedBound::Registry,
                }),
                ..hit()
            },
            Cause::EvictionCandidate,
            Hit,
            "3600 s ago; evictions for the bound of the registry remove 4096 bytes of other content first",
        ),
    ];
    let mut seen = HashSet::new();
    for (case, cause, pull, part) in &cases {
        let explanation = case.explain();
        let found = explanation
            .findings
            .iter()
            .find(|finding| finding.cause == *cause);
        let found = found.unwrap_or_else(|| panic!("{cause:?}: {explanation:?}"));
        assert!(found.text.contains(part), "{cause:?}: {}", found.text);
        assert_eq!(explanation.pull, *pull, "{cause:?}: {explanation:?}");
        let is_asked = matches!(pull, Fetched | Revalidated);
        assert_eq!(!explanation.requests.is_empty(), is_asked, "{explanation:?}");
        seen.insert(*cause);
    }
    assert_eq!(seen.len(), 19, "each cause has a case: {seen:?}");
}

#[test]
fn rules_decide_for_the_given_user_and_the_cost_counts_manifests() {
    let allow = "allow: [{users: ['ci-*']}]\n";
    let allow = Machine::with_file(allow).config().registries.allow;
    let with_user = |user, has_client_auth| {
        let mut case = hit();
        case.registries.allow = allow.clone();
        Case {
            user: Some(user),
            has_client_auth,
            ..case
        }
        .explain()
    };
    for (user, has_client_auth, is_allowed) in [
        ("ci-1", true, true),
        ("alice", true, false),
        ("anonymous", true, false),
        // Without client authentication, each client is anonymous.
        ("ci-1", false, false),
    ] {
        let explanation = with_user(user, has_client_auth);
        let client = explanation.client.clone().unwrap();
        assert_eq!((&*client.user, client.allowed), (user, is_allowed));
        assert_eq!(explanation.pull == PullOutcome::Refused, !is_allowed);
        let denied = format!("no rule of allow lets {user} pull registry.example/org/app; add a rule");
        let has_text = explanation.findings.iter().any(|finding| finding.text == denied);
        assert_eq!(has_text, !is_allowed, "{explanation:?}");
    }
    let cost = |case: Case| {
        let case = case.with_upstream(AvailabilityState::Available, Some(budget(100, 50)));
        let budget = case.explain().budget.unwrap();
        (budget.limit, budget.remaining, budget.cost_max)
    };
    assert_eq!(cost(hit()), (Some(100), Some(50), 0));
    assert_eq!(cost(hit().without_image()), (Some(100), Some(50), 2));
    let list = hit().with_image(|image| image.missing_manifests = 1);
    assert_eq!(cost(list), (Some(100), Some(50), 1));
    assert_eq!(hit().explain().budget, None);
}
