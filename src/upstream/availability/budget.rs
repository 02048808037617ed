//! The remaining request budget of a registry, as stated in its answers. Pure.
//!
//! Parses Docker Hub's format (`ratelimit-limit: 100;w=21600`) and the drafts of the IETF's
//! `RateLimit` fields (draft-ietf-httpapi-ratelimit-headers). Drafts up to 06 have three fields, 07
//! has `limit=, remaining=, reset=`, and later drafts have named policies.

use std::net::IpAddr;
use std::time::Duration;

use http::HeaderMap;

use crate::limits::BUDGET_RESERVE_REQUESTS_MIN;

/// Longer windows are errors or absolute times (GitLab's `RateLimit-Reset`).
const WINDOW_MAX: Duration = Duration::from_secs(31 * 86_400);

/// Below a tenth, the rest of the budget is reserved for requests without a held copy.
const SCARCE_BELOW_ONE_IN: u64 = 10;

/// A budget of requests.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Budget {
    /// Requests per window.
    pub limit: Option<u64>,
    /// Requests left in the window.
    pub remaining: Option<u64>,
    /// The length of the window.
    pub window: Option<Duration>,
    /// The time from the answer to the next window.
    pub reset: Option<Duration>,
    /// The key of the registry's request count.
    pub source: Option<Source>,
}

/// The key of a registry's request count (`docker-ratelimit-source`). The value itself is not kept,
/// because it is our address or account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    Address,
    Account,
}

impl Budget {
    /// Parses the budget in the headers of an answer. Returns `None` without a budget.
    pub(super) fn of(headers: &HeaderMap) -> Option<Budget> {
        let mut budget = combined(headers).or_else(|| separate(headers))?;
        budget.source = text(headers, "docker-ratelimit-source").map(|source| {
            // An IP address or an IPv6 network.
            let address = source.split('/').next().unwrap_or_default().trim();
            match address.parse::<IpAddr>() {
                Ok(_) => Source::Address,
                Err(_) if address.contains(':') => Source::Address,
                Err(_) => Source::Account,
            }
        });
        Some(budget)
    }

    /// Returns whether the budget is reserved for requests without a held copy.
    pub(super) fn is_scarce(&self) -> bool {
        match (self.limit, self.remaining) {
            (Some(limit), Some(remaining)) => remaining.saturating_mul(SCARCE_BELOW_ONE_IN) < limit,
            _ => false,
        }
    }

    /// Returns the requests above a reserve of `percent` of the limit, at least
    /// [`BUDGET_RESERVE_REQUESTS_MIN`]. `None` if the remaining requests are unknown.
    pub fn spare(&self, percent: u64) -> Option<u64> {
        let part = self.limit.unwrap_or(0).saturating_mul(percent).div_ceil(100);
        let reserve = part.max(BUDGET_RESERVE_REQUESTS_MIN);
        Some(self.remaining?.saturating_sub(reserve))
    }

    /// Returns whether the budget is exhausted.
    pub(super) fn is_spent(&self) -> bool {
        self.remaining == Some(0)
    }

    /// Returns how long the budget is valid. Then another window starts.
    pub(super) fn lasts(&self) -> Option<Duration> {
        self.reset.or(self.window)
    }
}

/// Parses `RateLimit`, a single field.
fn combined(headers: &HeaderMap) -> Option<Budget> {
    let states: Vec<Item<'_>> = items(text(headers, "ratelimit")?).collect();
    let policies: Vec<Item<'_>> = items(text(headers, "ratelimit-policy").unwrap_or_default()).collect();
    // Draft 07: a list of `key=value`.
    if states.iter().any(|item| item.value.starts_with("remaining=")) {
        let named = |key: &str| {
            states
                .iter()
                .find_map(|item| number(item.value.strip_prefix(key)?.strip_prefix('=')?))
        };
        return Some(Budget {
            limit: named("limit"),
            remaining: named("remaining"),
            window: policies.first().and_then(|policy| seconds(policy.number("w")?)),
            reset: named("reset").and_then(seconds),
            source: None,
        });
    }
    // Draft 08 and later: the state of each policy. The policy with the fewest remaining requests
    // counts.
    let tightest = states
        .iter()
        .filter(|item| item.number("r").is_some())
        .min_by_key(|item| item.number("r"))?;
    let policy = policies.iter().find(|policy| policy.value == tightest.value);
    Some(Budget {
        limit: policy.and_then(|policy| policy.number("q")),
        remaining: tightest.number("r"),
        window: policy.and_then(|policy| policy.number("w")).and_then(seconds),
        reset: tightest.number("t").and_then(seconds),
        source: None,
    })
}

/// Parses `RateLimit-Limit` and the related fields.
fn separate(headers: &HeaderMap) -> Option<Budget> {
    let first = |name: &str| items(text(headers, name)?).next();
    let (limit, remaining) = (first("ratelimit-limit"), first("ratelimit-remaining"));
    if limit.is_none() && remaining.is_none() {
        return None;
    }
    let window = [&limit, &remaining]
        .into_iter()
        .flatten()
        .find_map(|item| item.number("w"));
    Some(Budget {
        limit: limit.as_ref().and_then(|item| number(item.value)),
        remaining: remaining.as_ref().and_then(|item| number(item.value)),
        window: window.and_then(seconds),
        reset: first("ratelimit-reset")
            .and_then(|item| number(item.value))
            .and_then(seconds),
        source: None,
    })
}

/// A list member: a value and its parameters.
struct Item<'a> {
    value: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Item<'_> {
    fn number(&self, key: &str) -> Option<u64> {
        let (_, value) = self.parameters.iter().find(|(name, _)| *name == key)?;
        number(value)
    }
}

/// Returns the members of a list. Policy names with commas or semicolons are not supported.
fn items(text: &str) -> impl Iterator<Item = Item<'_>> {
    text.split(',').map(|member| {
        let mut parts = member.split(';').map(str::trim);
        Item {
            value: parts.next().unwrap_or_default(),
            parameters: parts.filter_map(|part| part.split_once('=')).collect(),
        }
    })
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn seconds(number: u64) -> Option<Duration> {
    Some(Duration::from_secs(number)).filter(|duration| *duration <= WINDOW_MAX)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn budget(lines: &[(&str, &str)]) -> Option<Budget> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            );
        }
        Budget::of(&headers)
    }

    fn known(limit: u64, remaining: u64, window: Option<u64>, reset: Option<u64>) -> Option<Budget> {
        Some(Budget {
            limit: Some(limit),
            remaining: Some(remaining),
            window: window.map(Duration::from_secs),
            reset: reset.map(Duration::from_secs),
            source: None,
        })
    }

    #[test]
    fn docker_hub_rate_limit_fields_are_parsed() {
        let limits = [
            ("ratelimit-limit", "100;w=21600"),
            ("ratelimit-remaining", "96;w=21600"),
        ];
        assert_eq!(budget(&limits), known(100, 96, Some(21_600), None));
        for (source, kind) in [
            ("203.0.113.7", Source::Address),
            ("2001:db8::", Source::Address),
            ("2001:db8::/64", Source::Address),
            ("2001:db8:1:2", Source::Address),
            ("7b1c4a5e-0000-4000-8000-000000000000", Source::Account),
        ] {
            let mut lines = limits.to_vec();
            lines.push(("docker-ratelimit-source", source));
            assert_eq!(budget(&lines).unwrap().source, Some(kind), "{source}");
        }
    }

    #[test]
    fn rate_limit_fields_of_all_drafts_are_parsed() {
        let three = [
            ("RateLimit-Limit", "10, 10;w=1, 50;w=60"),
            ("RateLimit-Remaining", "9"),
            ("RateLimit-Reset", "1"),
        ];
        assert_eq!(budget(&three), known(10, 9, None, Some(1)));
        let one = [
            ("RateLimit", "limit=100, remaining=50, reset=5"),
            ("RateLimit-Policy", "100;w=60"),
        ];
        assert_eq!(budget(&one), known(100, 50, Some(60), Some(5)));
        let named = [
            ("RateLimit", "\"burst\";r=50;t=30, \"day\";r=3;t=4000"),
            ("RateLimit-Policy", "\"burst\";q=100;w=60, \"day\";q=1000;w=86400"),
        ];
        assert_eq!(budget(&named), known(1000, 3, Some(86_400), Some(4_000)));
    }

    #[test]
    fn invalid_rate_limit_values_are_unknown_and_timestamps_are_no_window() {
        assert_eq!(budget(&[]), None);
        assert_eq!(budget(&[("ratelimit-policy", "100;w=60")]), None);
        assert_eq!(budget(&[("ratelimit-limit", "many")]), Some(Budget::default()));
        let gitlab = [
            ("RateLimit-Limit", "60"),
            ("RateLimit-Remaining", "59"),
            ("RateLimit-Reset", "1609844400"),
        ];
        assert_eq!(budget(&gitlab), known(60, 59, None, None));
    }

    #[test]
    fn spare_requests_are_above_a_part_of_the_limit_and_the_last_ten() {
        let spare = |limit, remaining, percent| {
            let budget = known(limit, remaining, None, None).unwrap();
            budget.spare(percent).unwrap()
        };
        assert_eq!(spare(100, 100, 30), 70);
        assert_eq!(spare(100, 31, 30), 1);
        assert_eq!(spare(100, 30, 30), 0);
        assert_eq!(spare(10, 10, 30), 0);
        assert_eq!(spare(100, 12, 0), 2);
        assert_eq!(spare(u64::MAX, u64::MAX, 100), u64::MAX - u64::MAX.div_ceil(100));
        assert_eq!(Budget::default().spare(30), None);
    }

    #[test]
    fn the_last_tenth_is_scarce() {
        let scarce = |limit, remaining| known(limit, remaining, None, None).unwrap().is_scarce();
        assert!(!scarce(100, 10) && scarce(100, 9) && scarce(100, 0));
        assert!(!scarce(5, 1) && scarce(5, 0));
        assert!(!scarce(0, 0), "a limit of 0 is no limit");
        assert!(!scarce(u64::MAX, u64::MAX));
        assert!(!Budget::default().is_scarce());
    }

    proptest! {
        #[test]
        fn rate_limit_parser_does_not_panic_on_any_text(name in "(ratelimit|ratelimit-(limit|remaining|reset|policy)|docker-ratelimit-source)",
                         value in "[ -~]{0,60}", other in "[\"a-z0-9=;, ]{0,40}") {
            budget(&[(&name, &value), ("ratelimit-policy", &other), ("ratelimit-limit", &other)]);
        }
    }
}
