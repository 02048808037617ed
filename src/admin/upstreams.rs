//! The availability of the registries, as JSON of the admin API.

use serde_json::{Value, json};

use crate::upstream::{AvailabilityState, Budget, RegistryStatus, Source};

/// Describes the registries with a recent request.
pub fn describe(statuses: &[RegistryStatus]) -> Value {
    let upstreams: Vec<Value> = statuses.iter().map(upstream).collect();
    json!({ "upstreams": upstreams })
}

fn upstream(status: &RegistryStatus) -> Value {
    let state = match status.state {
        AvailabilityState::Available => "available",
        AvailabilityState::Failing => "failing",
        AvailabilityState::Tripped => "unavailable",
        AvailabilityState::Limited => "limited",
    };
    json!({
        "registry": status.namespace.to_string(),
        "state": state,
        "stateSeconds": status.lasting.map(|lasting| lasting.as_secs()),
        "repository": status.only.as_ref().map(ToString::to_string),
        "consecutiveFailures": status.consecutive_failures,
        "lastError": status.last_error.as_deref(),
        "rateLimit": status.budget.as_ref().map(rate_limit),
        "requests": status.requests,
        "failures": status.failures,
        "suppressed": status.suppressed,
    })
}

fn rate_limit(budget: &Budget) -> Value {
    json!({
        "limit": budget.limit,
        "remaining": budget.remaining,
        "windowSeconds": budget.window.map(|window| window.as_secs()),
        "resetSeconds": budget.reset.map(|reset| reset.as_secs()),
        "source": budget.source.map(|source| match source {
            Source::Address => "address",
            Source::Account => "account",
        }),
    })
}
