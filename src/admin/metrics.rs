//! `GET /metrics`, the state of the cache in the OpenMetrics text format. `docs/reference/metrics.md` describes the
//! families.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

mod faults;

use super::AdminSubjects;
use super::jobs::JobStatus;
use super::process_usage::ProcessUsage;
use crate::cache::{FillStatus, LookupKind, LookupResult, Lookups};
use crate::manage::active_registries;
use crate::metrics::{self, HttpMetrics, HttpTotals, LatencyTotals, registry_label};
use crate::runtime::heartbeat::Heartbeat;
use crate::runtime::memory_budget::MemoryBudget;
use crate::server::ConnectionLimits;
use crate::server::tls::Acceptor;
use crate::store::{RegistryContent, S3Store, StoreStats, StoresStats};
use crate::upstream::{AvailabilityState, RegistryStatus};

/// The `Content-Type` of a scrape.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The start of the name of each family of this cache.
const PREFIX: &str = "oci_pull_through";

/// The parts of the process that only metrics show.
#[derive(Clone)]
pub struct MeasuredParts {
    pub http: HttpMetrics,
    pub connections: ConnectionLimits,
    pub memory: MemoryBudget,
    /// The I/O driver of the cores.
    pub driver: &'static str,
    /// The kind of the store: `fs`, `s3` or `tiered`.
    pub storage: &'static str,
    /// `None` without a bucket.
    pub bucket: Option<S3Store>,
    /// `None` without TLS.
    pub tls: Option<Acceptor>,
}

/// The state of the cache at the time of a scrape.
struct Scrape {
    parts: MeasuredParts,
    requests: HttpTotals,
    lookups: BTreeMap<String, Lookups>,
    contents: Vec<RegistryContent>,
    /// The local stores by their names. None for a bucket alone.
    stores: Vec<(String, StoreStats)>,
    fills: Vec<FillStatus>,
    upstreams: Vec<RegistryStatus>,
    jobs: Vec<JobStatus>,
    process: ProcessUsage,
    /// The longest recent delay of the loop of each core.
    core_stalls: Vec<Duration>,
}

/// Returns a scrape as text. Blocks on the lock of the index.
pub(super) fn scrape(subjects: &AdminSubjects, jobs: Vec<JobStatus>) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    metrics::register(&mut registry);
    registry.register_collector(Box::new(Scrape::new(subjects, jobs)));
    let mut text = String::new();
    // Writes to a text do not fail.
    let _ = encode(&mut text, &registry);
    text
}

impl Scrape {
    fn new(subjects: &AdminSubjects, jobs: Vec<JobStatus>) -> Self {
        let upstreams = subjects.upstreams.statuses();
        let lookups = subjects.lookup_counts.totals();
        let stores = subjects.stores.as_ref();
        let active = active_registries(&upstreams, &lookups);
        Scrape {
            parts: subjects.measured.clone(),
            requests: subjects.measured.http.totals(),
            lookups: by_label(
                lookups
                    .iter()
                    .map(|(registry, lookups)| (registry.as_str(), *lookups)),
            ),
            contents: stores.map_or_else(Vec::new, |stores| stores.registry_contents(&active)),
            stores: stores.map_or_else(Vec::new, |stores| by_name(stores.stats())),
            fills: subjects.cache.fill_statuses(),
            upstreams,
            jobs,
            process: ProcessUsage::read(),
            core_stalls: subjects
                .health
                .cores()
                .iter()
                .map(Heartbeat::recent_delay_max)
                .collect(),
        }
    }
}

/// Returns the stores with their names: `default`, and the directories of the stores of registries.
fn by_name(stats: StoresStats) -> Vec<(String, StoreStats)> {
    let own = stats
        .registry_stores
        .into_iter()
        .map(|own| (own.directory, own.stats));
    std::iter::once(("default".to_owned(), stats.default))
        .chain(own)
        .collect()
}

/// Adds the lookups of the registries with the same label.
fn by_label<'a>(lookups: impl Iterator<Item = (&'a str, Lookups)>) -> BTreeMap<String, Lookups> {
    let mut sums: BTreeMap<String, Lookups> = BTreeMap::new();
    for (registry, lookups) in lookups {
        let sum = sums.entry(registry_label(registry).to_owned()).or_default();
        *sum = sum.plus(&lookups);
    }
    sums
}

/// Adds the values of the registries with the same label.
fn sums<'a>(values: impl Iterator<Item = (&'a str, u64)>) -> Vec<(Labels<'a, 1>, u64)> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (registry, value) in values {
        *sums.entry(registry_label(registry)).or_default() += value;
    }
    let sums = sums.into_iter();
    sums.map(|(registry, value)| (labels([("registry", registry)]), value))
        .collect()
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let families = &mut Families(&mut encoder);
        self.encode_process(families)?;
        self.encode_http(families)?;
        self.encode_cache(families)?;
        self.encode_store(families)?;
        self.encode_store_failures(families)?;
        self.encode_upstreams(families)
    }
}

impl Scrape {
    fn encode_process(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let build = labels([
            ("version", env!("CARGO_PKG_VERSION")),
            ("io_driver", self.parts.driver),
            ("storage", self.parts.storage),
        ]);
        families.gauges(
            "build_info",
            "Version and mode of the process; always 1",
            None,
            [(build, 1)],
        )?;
        let memory = &self.parts.memory;
        families.gauges(
            "memory_budget",
            "Memory for responses and downloads, by state",
            Some(&Unit::Bytes),
            [
                (labels([("state", "used")]), memory.used()),
                (labels([("state", "limit")]), memory.limit()),
            ],
        )?;
        families.counters(
            "memory_budget_refusals",
            "Responses and downloads refused for lack of memory",
            None,
            [(labels([]), memory.refused().count())],
        )?;
        self.process.encode(families)?;
        self.encode_core_stalls(families)?;
        self.encode_certificates(families)?;
        let mut jobs: BTreeMap<(&str, &str), u64> = BTreeMap::new();
        for job in &self.jobs {
            *jobs.entry((job.kind.word(), job.state.word())).or_default() += 1;
        }
        let jobs = jobs.into_iter();
        let jobs = jobs.map(|((kind, state), count)| (labels([("type", kind), ("state", state)]), count));
        families.gauges("jobs", "Recent jobs, by type and state", None, jobs)
    }

    fn encode_http(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let requests = self.requests.requests.iter();
        let requests = requests
            .map(|&(resource, code, count)| (labels([("route", resource.label()), ("code", code)]), count));
        families.counters("http_requests", "Requests of clients, by status", None, requests)?;
        let results = || {
            self.requests.results.iter().map(|totals| {
                let result = match totals.result.label() {
                    "-" => "none",
                    label => label,
                };
                (
                    labels([("route", totals.resource.label()), ("result", result)]),
                    totals,
                )
            })
        };
        families.counters(
            "http_response",
            "Body bytes passed to the kernel",
            Some(&Unit::Bytes),
            results().map(|(labels, totals)| (labels, totals.bytes)),
        )?;
        families.histograms(
            "http_request_duration",
            "Time from the request head to the end of the response",
            results().map(|(labels, totals)| (labels, totals.duration)),
        )?;
        families.histograms(
            "http_time_to_first_byte",
            "Time from the request head to the head of the response",
            results().map(|(labels, totals)| (labels, totals.first_byte)),
        )?;
        let limits = &self.parts.connections;
        families.gauges(
            "http_connections",
            "Open connections of clients",
            None,
            [(labels([]), limits.total() as u64)],
        )?;
        families.gauges(
            "http_connections_max",
            "Bound of the open connections of clients",
            None,
            [(labels([]), limits.max() as u64)],
        )?;
        let events = limits.events();
        families.counters(
            "http_refused_connections",
            "Connections refused by a limit",
            None,
            [
                ("process", events.process_limit.count()),
                ("client", events.client_limit.count()),
                ("descriptors", events.descriptors.count()),
            ]
            .map(|(reason, count)| (labels([("reason", reason)]), count)),
        )
    }

    fn encode_cache(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let mut lookups = Vec::new();
        for (registry, of_registry) in &self.lookups {
            for kind in LookupKind::ALL {
                for result in LookupResult::ALL {
                    let count = of_registry.of(kind, result);
                    let labels = [
                        ("registry", registry.as_str()),
                        ("kind", kind.label()),
                        ("result", result.label()),
                    ];
                    if count > 0 {
                        lookups.push((Labels(labels), count));
                    }
                }
            }
        }
        families.counters(
            "cache_lookups",
            "Answered requests for manifests and blobs, by the source of the content",
            None,
            lookups,
        )?;
        families.gauges(
            "fills_in_progress",
            "Downloads of blobs in progress",
            None,
            [(labels([]), self.fills.len() as u64)],
        )?;
        let followers = self.fills.iter().map(|fill| fill.followers as u64).sum();
        families.gauges(
            "fill_followers",
            "Responses that follow a download in progress",
            None,
            [(labels([]), followers)],
        )?;
        let damaged = self.stores.iter().map(|(_, store)| store.damaged_objects).sum();
        families.counters(
            "integrity_failures",
            "Content whose bytes do not have the digest",
            None,
            [("upstream", metrics::wrong_bodies()), ("store", damaged)]
                .map(|(place, count)| (labels([("place", place)]), count)),
        )
    }

    fn encode_store(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let contents = || {
            self.contents
                .iter()
                .map(|content| (content.registry.as_str(), content))
        };
        families.gauges(
            "registry_content",
            "Bytes on the disk, by registry; content of two registries counts for both",
            Some(&Unit::Bytes),
            sums(contents().map(|(registry, content)| (registry, content.bytes))),
        )?;
        families.gauges(
            "registry_content_objects",
            "Blobs, manifests and tags on the disk, by registry",
            None,
            sums(contents().map(|(registry, content)| (registry, content.objects))),
        )?;
        let of_stores = |value: fn(&StoreStats) -> Option<u64>| {
            let values = self
                .stores
                .iter()
                .map(move |(name, store)| (name.as_str(), value(store)));
            values.filter_map(|(name, value)| Some((labels([("store", name)]), value?)))
        };
        for StoreGauge {
            name,
            help,
            unit,
            value,
        } in &STORE_GAUGES
        {
            families.gauges(name, help, unit.as_ref(), of_stores(*value))?;
        }
        let evictions = self.stores.iter().flat_map(|(name, store)| {
            [
                ("size", store.evictions.size),
                ("free-space", store.evictions.free_space),
                ("free-inodes", store.evictions.free_inodes),
            ]
            .map(|(reason, count)| (labels([("store", name), ("reason", reason)]), count))
        });
        families.counters(
            "evictions",
            "Evicted objects, by the bound that was exceeded",
            None,
            evictions,
        )?;
        families.counters(
            "verified_objects",
            "Objects whose digest a verification has confirmed",
            None,
            of_stores(|store| Some(store.verified_objects)),
        )
    }

    fn encode_upstreams(&self, families: &mut Families<'_, '_>) -> fmt::Result {
        let labeled = || {
            let labeled = self
                .upstreams
                .iter()
                .map(|status| (status.namespace.as_str(), status));
            labeled.filter(|(registry, _)| registry_label(registry) == *registry)
        };
        let states = labeled().flat_map(|(registry, status)| {
            AvailabilityState::ALL.map(|state| {
                let labels = labels([("registry", registry), ("state", state.word())]);
                (labels, u64::from(status.state == state))
            })
        });
        families.gauges("upstream_state", "1 for the state of the registry", None, states)?;
        let suppressed = self.upstreams.iter();
        let suppressed = suppressed.map(|status| (status.namespace.as_str(), status.suppressed));
        families.counters(
            "upstream_suppressed_requests",
            "Requests that were not sent, because the registry was unavailable or limited",
            None,
            sums(suppressed),
        )?;
        let budgets = || labeled().filter_map(|(registry, status)| Some((registry, status.budget?)));
        let of = |value: &dyn Fn(&crate::upstream::Budget) -> Option<u64>| {
            let values = budgets()
                .filter_map(|(registry, budget)| Some((labels([("registry", registry)]), value(&budget)?)));
            values.collect::<Vec<_>>()
        };
        families.gauges(
            "upstream_ratelimit_limit",
            "Pulls in a window that the registry allows",
            None,
            of(&|budget| budget.limit),
        )?;
        families.gauges(
            "upstream_ratelimit_remaining",
            "Pulls that the registry allows until the end of the window",
            None,
            of(&|budget| budget.remaining),
        )?;
        families.gauges(
            "upstream_ratelimit_reset",
            "Time until the next window of the registry",
            Some(&Unit::Seconds),
            of(&|budget| budget.reset.map(|reset| reset.as_secs())),
        )
    }
}

/// A gauge of each local store.
struct StoreGauge {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    value: fn(&StoreStats) -> Option<u64>,
}

const STORE_GAUGES: [StoreGauge; 8] = [
    StoreGauge {
        name: "store",
        help: "Bytes of stored content on the disk",
        unit: Some(Unit::Bytes),
        value: |store| Some(store.bytes),
    },
    StoreGauge {
        name: "store_reserved",
        help: "Bytes reserved for downloads in progress",
        unit: Some(Unit::Bytes),
        value: |store| Some(store.reserved_bytes),
    },
    StoreGauge {
        name: "store_max",
        help: "Bound of the stored bytes",
        unit: Some(Unit::Bytes),
        value: |store| store.bytes_max,
    },
    StoreGauge {
        name: "store_free",
        help: "Free bytes of the file system",
        unit: Some(Unit::Bytes),
        value: |store| Some(store.free_bytes),
    },
    StoreGauge {
        name: "store_free_min",
        help: "Bytes of the file system that are kept free",
        unit: Some(Unit::Bytes),
        value: |store| Some(store.free_bytes_min),
    },
    StoreGauge {
        name: "store_objects",
        help: "Stored objects",
        unit: None,
        value: |store| Some(store.objects as u64),
    },
    StoreGauge {
        name: "store_scanned",
        help: "1 after the scan at start, which completes the figures of the store",
        unit: None,
        value: |store| Some(u64::from(store.scanned)),
    },
    StoreGauge {
        name: "last_evicted_age",
        help: "Time from the last use to the eviction of the content evicted last",
        unit: Some(Unit::Seconds),
        value: |store| store.last_evicted_age_seconds,
    },
];

/// Labels of a sample, with fixed names.
#[derive(Clone, Copy)]
pub(super) struct Labels<'a, const N: usize>([(&'static str, &'a str); N]);

pub(super) fn labels<'a, const N: usize>(labels: [(&'static str, &'a str); N]) -> Labels<'a, N> {
    Labels(labels)
}

impl<const N: usize> EncodeLabelSet for Labels<'_, N> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

/// The encoder of the families of a scrape.
pub(super) struct Families<'e, 's>(&'e mut DescriptorEncoder<'s>);

impl Families<'_, '_> {
    pub fn gauges<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn float_gauges<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: &Unit,
        values: impl IntoIterator<Item = (Labels<'a, N>, f64)>,
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, Some(unit), MetricType::Gauge)?;
        for (labels, value) in values {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    pub fn counters<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_counter::<NoLabelSet, u64, f64>(&value, None)?;
        }
        Ok(())
    }

    /// Encodes a counter of seconds.
    pub fn seconds(&mut self, name: &str, help: &str, seconds: f64) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        family.encode_counter::<NoLabelSet, f64, f64>(&seconds, None)
    }

    fn histograms<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl Iterator<Item = (Labels<'a, N>, LatencyTotals)>,
    ) -> fmt::Result {
        let unit = Some(&Unit::Seconds);
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, totals) in values.filter(|(_, totals)| totals.count() > 0) {
            let mut sample = family.encode_family(&labels)?;
            sample.encode_histogram::<NoLabelSet>(
                totals.sum_seconds(),
                totals.count(),
                &totals.buckets(),
                None,
            )?;
        }
        Ok(())
    }
}
