//! Families that threads outside of the cores count in: requests to registries, fills, checks of tags
//! and of content. The number of series is bounded, because all labels but the registry are from closed
//! sets.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::latency::bounds_seconds;
use super::registry_labels::registry_label;

static FAMILIES: LazyLock<Families> = LazyLock::new(Families::new);

type HistogramFamily<L> = Family<L, Histogram, fn() -> Histogram>;

struct Families {
    upstream_requests: Family<UpstreamLabels, Counter>,
    upstream_duration: HistogramFamily<UpstreamDurationLabels>,
    upstream_bytes: Family<RegistryLabels, Counter>,
    fills: Family<FillLabels, Counter>,
    fill_duration: HistogramFamily<FillLabels>,
    tag_checks: Family<TagCheckLabels, Counter>,
    wrong_bodies: Counter,
    trace_spans: Family<TraceSpanLabels, Counter>,
}

/// The kind of a request to a registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum UpstreamKind {
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// A request to a token service, or for the challenge of a registry.
    Token,
}

/// The end of a fill.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FillEnd {
    Completed,
    /// No registry or mirror began to send the content.
    NotBegun,
    /// The body was incomplete.
    Broken,
    /// The body has another digest.
    Mismatch,
    /// The cache ended the fill, for example because another fetch needed its slot.
    Abandoned,
}

/// The result of a check of a tag at its registry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TagCheck {
    Unchanged,
    Changed,
    /// The registry has no such tag any more.
    Gone,
    Failed,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct RegistryLabels {
    registry: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct UpstreamLabels {
    registry: String,
    kind: UpstreamKind,
    code: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct UpstreamDurationLabels {
    registry: String,
    kind: UpstreamKind,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct FillLabels {
    registry: String,
    result: FillEnd,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TraceSpanLabels {
    result: &'static str,
}

/// The counters of spans by their end. A count takes no lock.
#[derive(Clone, Debug)]
pub struct TraceCounters {
    /// The collector has accepted the span.
    pub exported: Counter,
    /// The queue was full.
    pub dropped: Counter,
    /// The request with the span has failed.
    pub failed: Counter,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct TagCheckLabels {
    registry: String,
    result: TagCheck,
}

/// Encodes the variants of an enum as label values.
macro_rules! label_values {
    ($name:ident { $($variant:ident => $text:literal,)* }) => {
        impl $name {
            /// Returns the label value.
            pub const fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
                EncodeLabelValue::encode(&self.label(), encoder)
            }
        }
    };
}

label_values!(UpstreamKind {
    Manifest => "manifest",
    Blob => "blob",
    Tags => "tags",
    Referrers => "referrers",
    Token => "token",
});
label_values!(FillEnd {
    Completed => "completed",
    NotBegun => "not-begun",
    Broken => "broken",
    Mismatch => "mismatch",
    Abandoned => "abandoned",
});
label_values!(TagCheck {
    Unchanged => "unchanged",
    Changed => "changed",
    Gone => "gone",
    Failed => "failed",
});

impl Families {
    fn new() -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(bounds_seconds());
        Families {
            upstream_requests: Family::default(),
            upstream_duration: Family::new_with_constructor(histogram),
            upstream_bytes: Family::default(),
            fills: Family::default(),
            fill_duration: Family::new_with_constructor(histogram),
            tag_checks: Family::default(),
            wrong_bodies: Counter::default(),
            trace_spans: Family::default(),
        }
    }
}

/// Counts a request that was sent to `registry`, or to a mirror or a token service for the registry.
/// `status` is `None` without a response.
pub fn count_upstream_request(registry: &str, kind: UpstreamKind, status: Option<u16>, duration: Duration) {
    let registry = registry_label(registry).to_owned();
    let code = match status {
        // A client cannot choose the status, but an upstream can.
        Some(status @ (100..=599)) => match known_status(status) {
            true => status.to_string(),
            false => format!("{}xx", status / 100),
        },
        Some(_) => "other".to_owned(),
        None => "error".to_owned(),
    };
    let families = &*FAMILIES;
    let labels = UpstreamDurationLabels {
        registry: registry.clone(),
        kind,
    };
    let duration_of = families.upstream_duration.get_or_create(&labels);
    duration_of.observe(duration.as_secs_f64());
    drop(duration_of);
    let labels = UpstreamLabels { registry, kind, code };
    families.upstream_requests.get_or_create(&labels).inc();
}

/// Returns whether `status` has a label of its own.
fn known_status(status: u16) -> bool {
    matches!(
        status,
        200 | 206
            | 301
            | 302
            | 303
            | 304
            | 307
            | 308
            | 400
            | 401
            | 403
            | 404
            | 416
            | 429
            | 500
            | 502
            | 503
            | 504
    )
}

/// Returns the counter of body bytes from `registry` and its mirrors.
pub fn received_bytes(registry: &str) -> Counter {
    let registry = registry_label(registry).to_owned();
    FAMILIES
        .upstream_bytes
        .get_or_create_owned(&RegistryLabels { registry })
}

/// Counts a fill that has ended, and observes the time since its start.
pub fn observe_fill(registry: &str, result: FillEnd, duration: Duration) {
    let registry = registry_label(registry).to_owned();
    let labels = FillLabels { registry, result };
    FAMILIES.fills.get_or_create(&labels).inc();
    let histogram = FAMILIES.fill_duration.get_or_create(&labels);
    histogram.observe(duration.as_secs_f64());
}

pub fn count_tag_check(registry: &str, result: TagCheck) {
    let registry = registry_label(registry).to_owned();
    let labels = TagCheckLabels { registry, result };
    FAMILIES.tag_checks.get_or_create(&labels).inc();
}

/// Counts content of a registry, a mirror or the bucket with another digest.
pub fn count_wrong_body() {
    FAMILIES.wrong_bodies.inc();
}

pub fn wrong_bodies() -> u64 {
    FAMILIES.wrong_bodies.get()
}

/// Returns the counters of spans.
pub fn trace_counters() -> TraceCounters {
    let counter = |result| {
        let labels = TraceSpanLabels { result };
        FAMILIES.trace_spans.get_or_create_owned(&labels)
    };
    TraceCounters {
        exported: counter("exported"),
        dropped: counter("dropped"),
        failed: counter("failed"),
    }
}

/// Adds the families to a scrape.
pub fn register(registry: &mut Registry) {
    let families = &*FAMILIES;
    registry.register(
        "upstream_requests",
        "HTTP requests to registries, mirrors and token services",
        families.upstream_requests.clone(),
    );
    registry.register_with_unit(
        "upstream_request_duration",
        "Time from an HTTP request to the head of the response",
        Unit::Seconds,
        families.upstream_duration.clone(),
    );
    registry.register_with_unit(
        "upstream_received",
        "Body bytes from registries and mirrors",
        Unit::Bytes,
        families.upstream_bytes.clone(),
    );
    registry.register(
        "fills",
        "Downloads of blobs that have ended, by result",
        families.fills.clone(),
    );
    registry.register_with_unit(
        "fill_duration",
        "Time from the start to the end of a download of a blob",
        Unit::Seconds,
        families.fill_duration.clone(),
    );
    registry.register(
        "tag_checks",
        "Checks of stored tags at their registries",
        families.tag_checks.clone(),
    );
    // The counters exist with the value 0 also without traces.
    trace_counters();
    registry.register(
        "trace_spans",
        "Spans of traces, by their end",
        families.trace_spans.clone(),
    );
}
