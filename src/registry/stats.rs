//! `GET /_/stats`: how the registries are, as JSON. Names of what is pulled are nobody's business: it is served only
//! where the cache has a front door.
//!
//! One object per registry, keyed by its name. `RateLimit` has what the registry has told of our budget, without
//! the address or account it counts by.

use serde_json::{Map, Value, json};

use super::Registry;
use super::error::PullError;
use super::respond::common;
use super::route::RouteError;
use crate::http::{Body, CacheResult, Response};
use crate::upstream::{Budget, RegistryCondition, Source, State};

impl Registry {
    pub(super) async fn stats(&self) -> Result<Response, PullError> {
        if !self.keeper.has_door() {
            return Err(RouteError::NotFound.into());
        }
        let conditions = self.cache.conditions().await?;
        Ok(response(&conditions))
    }
}

fn response(conditions: &[RegistryCondition]) -> Response {
    let registries: Map<String, Value> = conditions
        .iter()
        .map(|condition| (condition.namespace.to_string(), registry(condition)))
        .collect();
    let body = Value::Object(registries).to_string();
    Response {
        status: 200,
        fields: common()
            .with("Content-Type", "application/json")
            .with("Cache-Control", "no-store"),
        length: Some(body.len() as u64),
        body: Body::Bytes(body.into()),
        cache: CacheResult::None,
    }
}

fn registry(condition: &RegistryCondition) -> Value {
    let state = match condition.state {
        State::Well => "well",
        State::Failing => "failing",
        State::Down => "down",
        State::Limited => "limited",
    };
    json!({
        "State": state,
        "StateSeconds": condition.lasting.map(|lasting| lasting.as_secs()),
        "Repository": condition.only.as_ref().map(ToString::to_string),
        "ConsecutiveFailures": condition.consecutive_failures,
        "LastError": condition.last_error.as_deref(),
        "RateLimit": condition.budget.as_ref().map(budget),
        "Requests": condition.requests,
        "Failures": condition.failures,
        "HeldBack": condition.held_back,
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
        let condition = RegistryCondition {
            namespace: "docker.io".parse().unwrap(),
            state: State::Limited,
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
            held_back: 7,
        };
        let Body::Bytes(body) = response(&[condition]).body else {
            panic!("a short body");
        };
        let told: Value = serde_json::from_slice(&body).unwrap();
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
        assert_eq!(told, expected);
    }
}
