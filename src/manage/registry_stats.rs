//! The availability of the registries as JSON, for the data port and the admin API.

use serde_json::{Map, Value, json};

use crate::upstream::{AvailabilityState, Budget, RegistryStatus, Source};

/// Returns an object per registry, keyed by name. `RateLimit` is the budget reported by the registry,
/// without the address or account.
pub fn registry_stats(statuses: &[RegistryStatus]) -> Value {
    let registries: Map<String, Value> = statuses
        .iter()
        .map(|status| (status.namespace.to_string(), registry(status)))
        .collect();
    Value::Object(registries)
}

fn registry(status: &RegistryStatus) -> Value {
    let state = match status.state {
        AvailabilityState::Available => "well",
        AvailabilityState::Failing => "failing",
        AvailabilityState::Tripped => "down",
        AvailabilityState::Limited => "limited",
    };
    json!({
        "State": state,
        "StateSeconds": status.lasting.map(|lasting| lasting.as_secs()),
        "Repository": status.only.as_ref().map(ToString::to_string),
        "ConsecutiveFailures": status.consecutive_failures,
        "LastError": status.last_error.as_deref(),
        "RateLimit": status.budget.as_ref().map(budget),
        "Requests": status.requests,
        "Failures": status.failures,
        "HeldBack": status.suppressed,
    })
}

fn budget(budget: &Budget) -> Value {
    json!({
        "Limit": budget.limit,
        "Remaining": budget.remaining,
        "WindowSeconds": budget.window.map(|window| window.as_secs()),
        "ResetSeconds": budget.reset.map(|reset| reset.as_secs()),
        "Source": budget.source.map(|source| match source {
            Source::Address => "address",
            Source::Account => "account",
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_registry_is_an_object_under_its_name() {
        let status = RegistryStatus {
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
            "HeldBack": 7,
        }});
        assert_eq!(registry_stats(&[status]), expected);
    }
}
