//! The figures of `top`: the difference of two snapshots.

use serde::Serialize;

use super::counters::Counters;
use crate::admin::{CacheView, FillView, JobState, JobStatus, UpstreamView};
use crate::store::StoreStats;

/// The state of the cache, with the time of the request.
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    /// Milliseconds of the monotonic clock.
    pub at: u64,
    pub counters: Counters,
    pub cache: CacheView,
}

/// Rates are `None` without time between the snapshots.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct View {
    pub requests_per_second: Option<f64>,
    /// Bytes to clients.
    pub sent_bytes_per_second: Option<u64>,
    /// Bytes from upstreams.
    pub received_bytes_per_second: Option<u64>,
    pub connections: u64,
    pub connections_max: u64,
    /// From 0 to 1, since the start of the cache. `None` without lookups.
    pub hit_ratio: Option<f64>,
    /// From 0 to 1, between the snapshots. `None` without lookups.
    pub recent_hit_ratio: Option<f64>,
    pub stores: Vec<StoreRow>,
    pub fills: Vec<FillRow>,
    pub upstreams: Vec<UpstreamView>,
    /// The running jobs.
    pub jobs: Vec<JobStatus>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StoreRow {
    /// `default`, or the directory of a store of registries.
    pub store: String,
    pub bytes: u64,
    pub bytes_max: Option<u64>,
    pub reserved_bytes: u64,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FillRow {
    #[serde(flatten)]
    pub fill: FillView,
    /// From 0 to 100. `None` without a known length.
    pub percent: Option<u64>,
    pub bytes_per_second: Option<u64>,
}

impl Snapshot {
    pub fn new(at: u64, cache: CacheView) -> Self {
        Snapshot {
            at,
            counters: Counters::parse(&cache.metrics),
            cache,
        }
    }
}

impl View {
    /// Returns the state of `after`, with the rates since `before`.
    pub fn between(before: &Snapshot, after: &Snapshot) -> Self {
        let millis = after.at.saturating_sub(before.at);
        let (old, new) = (&before.counters, &after.counters);
        let rate = |old, new| per_second(difference(old, new), millis);
        let requests = difference(old.requests, new.requests);
        let (hits, lookups) = (
            difference(old.hits, new.hits),
            difference(old.lookups, new.lookups),
        );
        let cache = &after.cache;
        View {
            requests_per_second: (millis > 0).then(|| requests as f64 * 1e3 / millis as f64),
            sent_bytes_per_second: rate(old.sent_bytes, new.sent_bytes),
            received_bytes_per_second: rate(old.received_bytes, new.received_bytes),
            connections: new.connections,
            connections_max: new.connections_max,
            hit_ratio: ratio(new.hits, new.lookups),
            recent_hit_ratio: ratio(hits, lookups),
            stores: stores(cache),
            fills: cache
                .fills
                .iter()
                .map(|fill| FillRow::new(fill, &before.cache, millis))
                .collect(),
            upstreams: cache.upstreams.clone(),
            jobs: cache
                .jobs
                .iter()
                .filter(|job| job.state == JobState::Running)
                .cloned()
                .collect(),
        }
    }
}

impl FillRow {
    /// Compares the fill with the same fill of `before`, `millis` earlier.
    fn new(fill: &FillView, before: &CacheView, millis: u64) -> Self {
        let place = |fill: &FillView| (fill.registry.clone(), fill.digest.clone());
        let old = before.fills.iter().find(|old| place(old) == place(fill));
        // A fill without an earlier state has begun since then.
        let old = old.map_or(0, |old| old.bytes);
        FillRow {
            percent: fill
                .bytes_total
                .filter(|total| *total > 0)
                .map(|total| fill.bytes.min(total).saturating_mul(100) / total),
            bytes_per_second: per_second(difference(old, fill.bytes), millis),
            fill: fill.clone(),
        }
    }
}

fn stores(cache: &CacheView) -> Vec<StoreRow> {
    let row = |store: &str, stats: &StoreStats| StoreRow {
        store: store.to_owned(),
        bytes: stats.bytes,
        bytes_max: stats.bytes_max,
        reserved_bytes: stats.reserved_bytes,
    };
    let stats = &cache.stores;
    let further = stats.registry_stores.iter();
    std::iter::once(row("default", &stats.default))
        .chain(further.map(|store| row(&store.directory, &store.stats)))
        .collect()
}

/// Returns the growth of a counter. A smaller value means a restart, after which the counter began at 0.
fn difference(old: u64, new: u64) -> u64 {
    new.checked_sub(old).unwrap_or(new)
}

fn per_second(growth: u64, millis: u64) -> Option<u64> {
    growth.saturating_mul(1_000).checked_div(millis)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}
