//! Computes how long a cached tag may be served. Pure functions of settings and times.

use std::time::Duration;

use crate::config::{TagFreshness, TagRule, Values};
use crate::limits::DERIVED_TAG_TTL_MAX;
use crate::oci::Tag;

/// Default settings for tags. A matching rule of a registry takes precedence.
#[derive(Clone, Copy, Debug)]
pub struct TagPolicy {
    /// Whether tags are cached.
    pub cache_tags: bool,
    /// Whether the default lifetime also applies to `latest`.
    pub cache_latest: bool,
    /// Whether each request for `latest` is revalidated, regardless of the rules.
    pub always_revalidate_latest: bool,
    /// Freshness lifetime.
    pub ttl: Duration,
    /// Time after the lifetime during which a tag is served stale at once and revalidated in the
    /// background.
    pub stale_while_revalidate: Duration,
}

impl TagPolicy {
    /// Returns the policy of a configuration.
    pub fn of(config: &Values) -> Self {
        TagPolicy {
            cache_tags: config.cache_tag_manifests,
            cache_latest: config.cache_latest_tag,
            always_revalidate_latest: config.always_pull_latest,
            ttl: config.tag_ttl,
            stale_while_revalidate: config.stale_while_revalidate,
        }
    }
}

/// The caching terms of one tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagTerms {
    /// Time after a check during which a pointer is served without revalidation, in milliseconds.
    pub lifetime_ms: u64,
    /// Further time during which the pointer is served while a revalidation runs, in milliseconds.
    pub grace_ms: u64,
    /// Whether the cached tag is served after the upstream returned 404.
    pub keep_on_404: bool,
}

/// Returns the terms of `tag` at a registry with these `rules`.
pub fn terms(policy: &TagPolicy, rules: &[TagRule], tag: &Tag) -> TagTerms {
    let rule = rules.iter().find(|rule| rule.pattern.matches(tag));
    let freshness = match rule {
        _ if !policy.cache_tags => TagFreshness::AlwaysAsk,
        _ if policy.always_revalidate_latest && tag.is_latest() => TagFreshness::AlwaysAsk,
        Some(rule) => rule.freshness,
        // The pointer is kept, and is served while the upstream is unavailable.
        None if tag.is_latest() && !policy.cache_latest => TagFreshness::AlwaysAsk,
        None => TagFreshness::For(policy.ttl),
    };
    let derived_ms = millis(DERIVED_TAG_TTL_MAX);
    let lifetime_ms = match freshness {
        TagFreshness::AlwaysAsk => 0,
        TagFreshness::For(ttl) if tag.is_derived() => millis(ttl).min(derived_ms),
        // Signatures are replaced under the same name, and rules for version tags are not meant for
        // signatures.
        TagFreshness::NeverAsk if tag.is_derived() => derived_ms,
        TagFreshness::For(ttl) => millis(ttl),
        TagFreshness::NeverAsk => u64::MAX,
    };
    TagTerms {
        lifetime_ms,
        // A tag that is always revalidated is never served stale.
        grace_ms: if lifetime_ms == 0 {
            0
        } else {
            millis(policy.stale_while_revalidate)
        },
        keep_on_404: rule.is_some_and(|rule| rule.keep_on_404),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Returns whether a pointer checked at `checked_ms` may be served at `now_ms` without
/// revalidation.
///
/// If the check is in the future, the clock was set back. The pointer is then stale, which costs
/// one request.
pub fn is_fresh(checked_ms: u64, now_ms: u64, lifetime_ms: u64) -> bool {
    now_ms
        .checked_sub(checked_ms)
        .is_some_and(|age| age < lifetime_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TagPattern;

    const POLICY: TagPolicy = TagPolicy {
        cache_tags: true,
        cache_latest: false,
        always_revalidate_latest: false,
        ttl: Duration::from_secs(60),
        stale_while_revalidate: Duration::ZERO,
    };

    fn lifetime(policy: &TagPolicy, rules: &[TagRule], tag: &str) -> u64 {
        terms(policy, rules, &tag.parse().unwrap()).lifetime_ms
    }

    fn rule(pattern: &str, freshness: TagFreshness) -> TagRule {
        TagRule {
            pattern: TagPattern::new(pattern).unwrap(),
            freshness,
            keep_on_404: pattern == "kept",
        }
    }

    #[test]
    fn a_pointer_is_fresh_for_its_lifetime_and_never_longer() {
        assert!(is_fresh(1_000, 1_000, 60_000));
        assert!(is_fresh(1_000, 60_999, 60_000));
        assert!(!is_fresh(1_000, 61_000, 60_000));
        assert!(!is_fresh(1_000, 1_000, 0));
    }

    #[test]
    fn pointer_is_stale_if_checked_in_the_future() {
        assert!(!is_fresh(1_000_000, 999_999, 60_000));
        assert!(!is_fresh(u64::MAX, 0, u64::MAX));
    }

    #[test]
    fn latest_is_revalidated_every_time_unless_it_is_cached_too() {
        assert_eq!(lifetime(&POLICY, &[], "v1"), 60_000);
        assert_eq!(lifetime(&POLICY, &[], "latest"), 0);
        let cached = TagPolicy {
            cache_latest: true,
            ..POLICY
        };
        assert_eq!(lifetime(&cached, &[], "latest"), 60_000);
        let always = TagPolicy {
            always_revalidate_latest: true,
            ..cached
        };
        assert_eq!(
            lifetime(&always, &[rule("*", TagFreshness::NeverAsk)], "latest"),
            0
        );
        let nothing = TagPolicy {
            cache_tags: false,
            ..cached
        };
        assert_eq!(lifetime(&nothing, &[rule("*", TagFreshness::NeverAsk)], "v1"), 0);
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = [
            rule("v1", TagFreshness::AlwaysAsk),
            rule("v*", TagFreshness::NeverAsk),
            rule("kept", TagFreshness::For(Duration::from_secs(5))),
            rule("*", TagFreshness::For(Duration::from_secs(300))),
        ];
        assert_eq!(lifetime(&POLICY, &rules, "v1"), 0);
        assert_eq!(lifetime(&POLICY, &rules, "v2"), u64::MAX);
        assert_eq!(lifetime(&POLICY, &rules, "kept"), 5_000);
        assert_eq!(lifetime(&POLICY, &rules, "latest"), 300_000);
        assert!(terms(&POLICY, &rules, &"kept".parse().unwrap()).keep_on_404);
        assert!(!terms(&POLICY, &rules, &"v1".parse().unwrap()).keep_on_404);
    }

    #[test]
    fn tags_made_from_digests_live_for_seconds_whatever_the_rules_say() {
        let hex = "0a".repeat(32);
        for tag in ["", ".sig", ".att", ".sbom"].map(|end| format!("sha256-{hex}{end}")) {
            for rules in [&[][..], &[rule("*", TagFreshness::NeverAsk)]] {
                assert_eq!(lifetime(&POLICY, rules, &tag), 10_000, "{tag}");
            }
        }
        assert_eq!(lifetime(&POLICY, &[], "sha256-short"), 60_000);
    }

    #[test]
    fn a_tag_that_is_revalidated_every_time_has_no_grace() {
        let policy = TagPolicy {
            stale_while_revalidate: Duration::from_secs(30),
            ..POLICY
        };
        assert_eq!(terms(&policy, &[], &"v1".parse().unwrap()).grace_ms, 30_000);
        assert_eq!(terms(&policy, &[], &"latest".parse().unwrap()).grace_ms, 0);
    }
}
