//! The fills in progress, for operators.

use serde::Serialize;

use super::{Fill, FillTable};
use crate::cache::Cache;
use crate::oci::Digest;
use crate::runtime::clock::monotonic_millis;

/// A fill in progress.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FillStatus {
    pub registry: String,
    pub repository: String,
    pub digest: String,
    /// `upstream`, or `bucket` if the bucket is the first source.
    pub source: &'static str,
    /// `host` or `host:port` of the mirror or registry that sends the body, before redirects. `None`
    /// before the head has arrived, and while the bucket sends the body.
    pub upstream: Option<String>,
    /// Bytes of the body that have arrived.
    pub bytes: u64,
    /// Bytes of the whole body. `None` before the head has arrived, and if the head has no length.
    pub bytes_total: Option<u64>,
    /// Callers that wait for the fill or read from it: clients, loads, rules of `warm`, and a prefetch.
    pub followers: usize,
    /// Seconds since the first request of a client.
    pub age_seconds: u64,
}

impl Cache {
    /// Returns the fills in progress, the oldest first.
    pub fn fill_statuses(&self) -> Vec<FillStatus> {
        self.0.fills.statuses()
    }

    /// Returns the bytes of the blob `digest` that have arrived in unfinished fills. 0 without a fill.
    pub fn arrived_bytes(&self, digest: &Digest) -> u64 {
        let fills = self.0.fills.all();
        let fills = fills.iter().filter(|fill| fill.digest == *digest);
        fills.map(|fill| fill.lock().window.end()).max().unwrap_or(0)
    }
}

impl FillTable {
    fn statuses(&self) -> Vec<FillStatus> {
        let now = monotonic_millis();
        let mut statuses: Vec<FillStatus> = self.all().iter().map(|fill| fill.status(now)).collect();
        statuses.sort_by(|a, b| {
            let place = |status: &FillStatus| (status.digest.clone(), status.registry.clone());
            b.age_seconds
                .cmp(&a.age_seconds)
                .then_with(|| place(a).cmp(&place(b)))
        });
        statuses
    }
}

impl Fill {
    fn status(&self, now: u64) -> FillStatus {
        let state = self.lock();
        FillStatus {
            registry: self.origin.namespace.to_string(),
            repository: self.origin.repository.to_string(),
            digest: self.digest.to_string(),
            source: match &self.remote {
                Some(_) => "bucket",
                None => "upstream",
            },
            upstream: state.endpoint.as_ref().map(ToString::to_string),
            bytes: state.window.end(),
            bytes_total: state.head.as_ref().and_then(|head| head.size),
            followers: state.callers(),
            age_seconds: now.saturating_sub(self.began) / 1000,
        }
    }
}
