//! The use, the content and the availability of the registries as JSON, for the data port and the
//! admin API.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cache::Lookups;
use crate::oci::Namespace;
use crate::store::RegistryContent;
use crate::upstream::{Budget, RegistryStatus, Source};

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
            state: status.state.word(),
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

/// The use and the content of a registry, with the spelling of oci-proxy.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ContentReport {
    hits: u64,
    misses: u64,
    evictions: u64,
    items: u64,
    current_size: u64,
    /// 0 without a bound.
    max_size: u64,
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

/// Returns the registries that got a request since the start.
pub fn active_registries(
    statuses: &[RegistryStatus],
    requests: &BTreeMap<Namespace, Lookups>,
) -> BTreeSet<Namespace> {
    let contacted = statuses.iter().map(|status| &status.namespace);
    contacted.chain(requests.keys()).cloned().collect()
}

/// Returns a report for each registry of the arguments, by the name of the registry. The spelling is that of the data port: `LastError` instead of `lastError`.
pub fn registry_stats(
    statuses: &[RegistryStatus],
    contents: Vec<RegistryContent>,
    requests: BTreeMap<Namespace, Lookups>,
) -> Value {
    let availability = statuses
        .iter()
        .map(|status| (status.namespace.clone(), status.clone()));
    let mut availability: BTreeMap<Namespace, RegistryStatus> = availability.collect();
    let mut reports: BTreeMap<Namespace, ContentReport> = BTreeMap::new();
    for content in contents {
        let report = reports.entry(content.registry).or_default();
        report.evictions = content.evictions;
        report.items = content.objects;
        report.current_size = content.bytes;
        report.max_size = content.bytes_max.unwrap_or(0);
    }
    for (registry, lookups) in requests {
        let report = reports.entry(registry).or_default();
        report.hits = lookups.hits();
        report.misses = lookups.misses();
    }
    for registry in availability.keys() {
        reports.entry(registry.clone()).or_default();
    }
    let registries = reports.into_iter().map(|(registry, content)| {
        let status = availability.remove(&registry);
        let status = status.unwrap_or_else(|| RegistryStatus::idle(registry.clone()));
        let mut members = Map::new();
        for report in [
            serde_json::to_value(content),
            serde_json::to_value(UpstreamReport::new(&status)),
        ] {
            if let Value::Object(more) = capitalized(report.expect("a report is strings and numbers")) {
                members.extend(more);
            }
        }
        // The name is the key.
        members.remove("Registry");
        (registry.to_string(), Value::Object(members))
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
    use crate::cache::{LookupKind, LookupResult};
    use crate::upstream::AvailabilityState;

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
        let content = |registry: &str, objects, bytes_max| RegistryContent {
            registry: registry.parse().unwrap(),
            objects,
            bytes: objects * 4096,
            bytes_max,
            evictions: 0,
        };
        let contents = vec![
            content("docker.io", 3, Some(1 << 30)),
            content("quay.io", 1, None),
        ];
        let lookups = Lookups::default()
            .with(LookupKind::Tag, LookupResult::Memory, 5)
            .with(LookupKind::Blob, LookupResult::Miss, 4);
        let requests = BTreeMap::from([("docker.io".parse().unwrap(), lookups)]);
        let expected = json!({ "docker.io": {
            "Hits": 5,
            "Misses": 4,
            "Evictions": 0,
            "Items": 3,
            "CurrentSize": 12_288,
            "MaxSize": 1_073_741_824,
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
        }, "quay.io": {
            "Hits": 0,
            "Misses": 0,
            "Evictions": 0,
            "Items": 1,
            "CurrentSize": 4096,
            "MaxSize": 0,
            "State": "available",
            "StateSeconds": null,
            "Repository": null,
            "ConsecutiveFailures": 0,
            "LastError": null,
            "RateLimit": null,
            "Requests": 0,
            "Failures": 0,
            "Suppressed": 0,
        }});
        assert_eq!(registry_stats(&[status], contents, requests), expected);
    }
}
