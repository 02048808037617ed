//! How long a tag is taken as known. Pure: settings and times in, verdicts out.

use std::time::Duration;

use crate::config::{TagFreshness, TagRule};
use crate::limits::DERIVED_TAG_TTL_MAX;
use crate::oci::Tag;

/// How tags are cached, where no rule of a registry says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct TagPolicy {
    /// Whether it is remembered at all what tags mean.
    pub cache_tags: bool,
    /// Whether that goes for `latest`.
    pub cache_latest: bool,
    /// Whether each request for `latest` is revalidated, regardless of the rules.
    pub always_revalidate_latest: bool,
    /// Freshness lifetime.
    pub ttl: Duration,
    /// How long after it a tag is still answered at once, and revalidated in the background.
    pub stale_while_revalidate: Duration,
}

/// What holds for one tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TagTerms {
    /// How long a pointer may be served without revalidation, in milliseconds after it was checked.
    pub lifetime_ms: u64,
    /// How much longer it may be served during a revalidation, in milliseconds.
    pub grace_ms: u64,
    /// A tag the upstream no longer has is served as it was.
    pub keep_on_404: bool,
}

/// What holds for `tag` of a registry with these `rules`.
pub fn terms(policy: &TagPolicy, rules: &[TagRule], tag: &Tag) -> TagTerms {
    let rule = rules.iter().find(|rule| rule.pattern.matches(tag));
    let freshness = match rule {
        _ if !policy.cache_tags => TagFreshness::AlwaysAsk,
        _ if policy.always_revalidate_latest && tag.is_latest() => TagFreshness::AlwaysAsk,
        Some(rule) => rule.freshness,
        // The kept pointer serves while the upstream is unavailable.
        None if tag.is_latest() && !policy.cache_latest => TagFreshness::AlwaysAsk,
        None => TagFreshness::For(policy.ttl),
    };
    let derived_ms = millis(DERIVED_TAG_TTL_MAX);
    let lifetime_ms = match freshness {
        TagFreshness::AlwaysAsk => 0,
        TagFreshness::For(ttl) if tag.is_derived() => millis(ttl).min(derived_ms),
        // Signatures are replaced under the same name: no rule for version tags is meant for them.
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

/// Whether a pointer checked at `checked_ms` may be served at `now_ms` without revalidation.
///
/// A check in the future means that the clock was set back: the pointer is stale, which costs one request.
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
    fn a_clock_that_jumps_back_makes_it_stale() {
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
