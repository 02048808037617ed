//! Measurements of the process. `docs/reference/metrics.md` describes the exposed families.
//!
//! Each core counts its requests in cells of its own, and a scrape adds the cells. Other threads count
//! in families of [`prometheus_client`].

mod cell;
mod http;
mod latency;
mod process;
mod registry_labels;
mod store_failures;

pub use cell::Cell64;
pub use http::{CoreHttp, FinishedRequest, HttpMetrics, HttpTotals};
pub use latency::LatencyTotals;
pub use process::{
    FillEnd, TagCheck, TraceCounters, UpstreamKind, count_tag_check, count_upstream_request,
    count_wrong_body, observe_fill, received_bytes, register, trace_counters, wrong_bodies,
};
pub use registry_labels::{OTHER_REGISTRIES, admit_registry, configure_registries, registry_label};
pub use store_failures::{StoreOperation, count_store_failure, store_failures};
