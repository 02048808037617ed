//! The availability of the registries as JSON, for the data port and the admin API.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::upstream::{AvailabilityState, Budget, RegistryStatus, Source};

/// The availability of a registry.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamReport {
    pub registry: String,
    /// `available`, `failing`, `unavailable` or `limited`.
    pub state: &'static str,
    pub state_seconds: Option<u64>,
    /// The only affected repository, if any.
    pub repository: Option<String>,
    pub consecutive_failures: u32,
    pub last_error: Option<String>,
    /// The budget reported by the registry, without the address or account.
    pub rate_limit: Option<RateLimitReport>,
    pub requests: u64,
    pub failures: u64,
    /// Requests that were not sent.
    pub suppressed: u64,
}

/// The budget of a registry.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitReport {
    pub limit: Option<u64>,
    pub remaining: Option<u64>,
    pub window_seconds: Option<u64>,
    pub reset_seconds: Option<u64>,
    /// `address` or `account`.
    pub source: Option<&'static str>,
}

impl UpstreamReport {
    pub fn new(status: &RegistryStatus) -> Self {
        UpstreamReport {
            registry: status.namespace.to_string(),
            state: match status.state {
                AvailabilityState::Available => "available",
                AvailabilityState::Failing => "failing",
                AvailabilityState::Tripped => "unavailable",
                AvailabilityState::Limited => "limited",
            },
            state_seconds: status.lasting.map(|lasting| lasting.as_secs()),
            repository: status.only.as_ref().map(ToString::to_string),
            consecutive_failures: status.consecutive_failures,
            last_error: status.last_error.as_deref().map(str::to_owned),
            rate_limit: status.budget.as_ref().map(RateLimitReport::new),
            requests: status.requests,
            failures: status.failures,
            suppressed: status.suppressed,
        }
    }
}

impl RateLimitReport {
    fn new(budget: &Budget) -> Self {
        RateLimitReport {
            limit: budget.limit,
            remaining: budget.remaining,
            window_seconds: budget.window.map(|window| window.as_secs()),
            reset_seconds: budget.reset.map(|reset| reset.as_secs()),
            source: budget.source.map(|source| match source {
                Source::Address => "address",
                Source::Account => "account",
            }),
        }
    }
}

/// Returns the reports by the names of the registries, with the spelling of the data port: `LastError`
/// instead of `lastError`.
pub fn registry_stats(statuses: &[RegistryStatus]) -> Value {
    let registries = statuses.iter().map(|status| {
        let report = serde_json::to_value(UpstreamReport::new(status));
        let mut report = capitalized(report.expect("a report is strings and numbers"));
        // The name is the key.
        if let Value::Object(members) = &mut report {
            members.remove("Registry");
        }
        (status.namespace.to_string(), report)
    });
    Value::Object(registries.collect())
}

/// Capitalizes the names of all members.
fn capitalized(value: Value) -> Value {
    let Value::Object(members) = value else {
        return value;
    };
    let members = members.into_iter().map(|(name, value)| {
        let (first, rest) = name.split_at(1);
        (first.to_ascii_uppercase() + rest, capitalized(value))
    });
    Value::Object(members.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_registry_is_an_object_under_its_name() {
        let status = RegistryStatus {
            is_limit_on_manifests: false,
            namespace: "docker.io".parse().unwrap(),
            state: AvailabilityState::Limited,
            lasting: Some(Duration::from_secs(90)),
            only: None,
            consecutive_failures: 0,
            last_error: Some("docker.io did not answer in time (connect)".into()),
            budget: Some(Budget {
                limit: Some(100),
                remaining: Some(3),
                window: Some(Duration::from_secs(21_600)),
                reset: None,
                source: Some(Source::Address),
            }),
            requests: 42,
            failures: 2,
            suppressed: 7,
        };
        let expected = json!({ "docker.io": {
            "State": "limited",
            "StateSeconds": 90,
            "Repository": null,
            "ConsecutiveFailures": 0,
            "LastError": "docker.io did not answer in time (connect)",
            "RateLimit": {
                "Limit": 100, "Remaining": 3, "WindowSeconds": 21_600, "ResetSeconds": null, "Source": "address",
            },
            "Requests": 42,
            "Failures": 2,
            "Suppressed": 7,
        }});
        assert_eq!(registry_stats(&[status]), expected);
    }
}
