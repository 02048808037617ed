//! `GET /_/stats`, the availability of the registries as JSON. The names of pulled content are
//! private, so the statistics require client authentication.
//!
//! The response has an object per registry, keyed by name. `RateLimit` is the budget reported by
//! the registry, without the address or account.

use serde_json::{Map, Value, json};

use super::Registry;
use super::error::PullError;
use super::respond::{common, in_memory};
use super::route_error::RouteError;
use crate::http::{CacheResult, Response};
use crate::upstream::{AvailabilityState, Budget, RegistryStatus, Source};

impl Registry {
    pub(super) async fn stats(&self) -> Result<Response, PullError> {
        if !self.authenticator.is_enabled() {
            return Err(RouteError::NotFound.into());
        }
        let statuses = self.cache.registry_statuses().await?;
        Ok(response(&statuses))
    }
}

fn response(statuses: &[RegistryStatus]) -> Response {
    let registries: Map<String, Value> = statuses
        .iter()
        .map(|status| (status.namespace.to_string(), registry(status)))
        .collect();
    let body = Value::Object(registries).to_string();
    let fields = common()
        .with("Content-Type", "application/json")
        .with("Cache-Control", "no-store");
    in_memory(200, fields, body.into(), CacheResult::None)
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
    use crate::http::Body;

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
        let Body::Bytes(body) = response(&[status]).body else {
            panic!("a short body");
        };
        let parsed: Value = serde_json::from_slice(&body).unwrap();
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
        assert_eq!(parsed, expected);
    }
}
