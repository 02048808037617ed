//! The requests of clients. Each core counts in its own cells, so that a request takes no lock and
//! shares no memory with another core.

use std::sync::Arc;

use super::cell::Cell64;
use super::latency::{CoreLatency, LatencyTotals};
use crate::http::{CacheResult, Resource};
use crate::sync::Mutex;

/// The statuses with a label of their own. Other statuses have the label `other`.
const STATUSES: [(u16, &str); 19] = [
    (200, "200"),
    (206, "206"),
    (304, "304"),
    (307, "307"),
    (400, "400"),
    (401, "401"),
    (403, "403"),
    (404, "404"),
    (405, "405"),
    (406, "406"),
    (408, "408"),
    (416, "416"),
    (429, "429"),
    (431, "431"),
    (500, "500"),
    (502, "502"),
    (503, "503"),
    (504, "504"),
    // The client left before the response.
    (0, "499"),
];

const RESOURCES: usize = Resource::ALL.len();
const RESULTS: usize = CacheResult::ALL.len();
const CODES: usize = STATUSES.len() + 1;

/// The requests of all cores. Cheap to clone.
#[derive(Clone, Default)]
pub struct HttpMetrics(Arc<Mutex<Vec<Arc<CoreHttp>>>>);

/// The requests of one core: 18 KiB.
#[derive(Default)]
// The cells share no cache line with the cells of another core.
#[repr(align(128))]
pub struct CoreHttp {
    resources: [ResourceCells; RESOURCES],
}

#[derive(Default)]
struct ResourceCells {
    codes: [Cell64; CODES],
    results: [ResultCells; RESULTS],
}

#[derive(Default)]
struct ResultCells {
    bytes: Cell64,
    duration: CoreLatency,
    first_byte: CoreLatency,
}

/// A request with its response.
pub struct FinishedRequest {
    pub resource: Resource,
    pub result: CacheResult,
    /// 0 for a client that left before the response.
    pub status: u16,
    /// Body bytes passed to the kernel.
    pub bytes: u64,
    /// Microseconds from the request head to the response head, if a head was sent.
    pub first_byte_micros: Option<u64>,
    /// Microseconds from the request head to the end of the response.
    pub duration_micros: u64,
}

/// The sums over all cores. Combinations without a request are absent.
#[derive(Default)]
pub struct HttpTotals {
    pub requests: Vec<(Resource, &'static str, u64)>,
    pub results: Vec<ResultTotals>,
}

/// The responses to requests for one kind of resource, with one result.
pub struct ResultTotals {
    pub resource: Resource,
    pub result: CacheResult,
    pub bytes: u64,
    pub duration: LatencyTotals,
    pub first_byte: LatencyTotals,
}

impl HttpMetrics {
    /// Returns the cells for a further core.
    pub fn core(&self) -> Arc<CoreHttp> {
        let core = Arc::<CoreHttp>::default();
        self.0.lock().push(core.clone());
        core
    }

    /// Returns the sums over all cores.
    pub fn totals(&self) -> HttpTotals {
        let cores = self.0.lock().clone();
        let mut totals = HttpTotals::default();
        for resource in Resource::ALL {
            let of_resource = || cores.iter().map(|core| &core.resources[resource as usize]);
            for code in 0..CODES {
                let count: u64 = of_resource().map(|cells| cells.codes[code].get()).sum();
                if count > 0 {
                    let label = STATUSES.get(code).map_or("other", |(_, label)| label);
                    totals.requests.push((resource, label, count));
                }
            }
            for result in CacheResult::ALL {
                let cells = of_resource().map(|cells| &cells.results[result as usize]);
                let sums = ResultTotals::sum(resource, result, cells);
                if sums.duration.count() > 0 {
                    totals.results.push(sums);
                }
            }
        }
        totals
    }
}

impl ResultTotals {
    fn sum<'a>(
        resource: Resource,
        result: CacheResult,
        cells: impl Iterator<Item = &'a ResultCells>,
    ) -> Self {
        let mut sums = ResultTotals {
            resource,
            result,
            bytes: 0,
            duration: LatencyTotals::default(),
            first_byte: LatencyTotals::default(),
        };
        for cells in cells {
            sums.bytes += cells.bytes.get();
            sums.duration.add(&cells.duration);
            sums.first_byte.add(&cells.first_byte);
        }
        sums
    }
}

impl CoreHttp {
    /// Counts a request. Only the core itself calls.
    pub fn record(&self, request: &FinishedRequest) {
        let cells = &self.resources[request.resource as usize];
        cells.codes[code_of(request.status)].add(1);
        let cells = &cells.results[request.result as usize];
        cells.bytes.add(request.bytes);
        cells.duration.observe(request.duration_micros);
        if let Some(micros) = request.first_byte_micros {
            cells.first_byte.observe(micros);
        }
    }
}

fn code_of(status: u16) -> usize {
    let known = STATUSES.iter().position(|&(known, _)| known == status);
    known.unwrap_or(STATUSES.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(status: u16, bytes: u64) -> FinishedRequest {
        FinishedRequest {
            resource: Resource::Blob,
            result: CacheResult::Hit,
            status,
            bytes,
            first_byte_micros: Some(100),
            duration_micros: 200,
        }
    }

    #[test]
    fn totals_are_the_sums_over_all_cores() {
        let metrics = HttpMetrics::default();
        let cores = [metrics.core(), metrics.core()];
        cores.iter().for_each(|core| core.record(&blob(200, 10)));
        let totals = metrics.totals();
        assert_eq!(totals.requests, [(Resource::Blob, "200", 2)]);
        let [hits] = &totals.results[..] else {
            panic!("{} results", totals.results.len())
        };
        assert_eq!(
            (hits.bytes, hits.duration.count(), hits.first_byte.count()),
            (20, 2, 2)
        );
    }

    #[test]
    fn status_without_a_label_is_counted_as_other_and_an_absent_status_as_499() {
        let metrics = HttpMetrics::default();
        let core = metrics.core();
        core.record(&blob(418, 0));
        core.record(&blob(0, 0));
        let codes: Vec<_> = metrics
            .totals()
            .requests
            .into_iter()
            .map(|(_, code, _)| code)
            .collect();
        assert_eq!(codes, ["499", "other"]);
    }

    #[test]
    fn every_resource_and_result_is_at_its_index() {
        for (index, resource) in Resource::ALL.into_iter().enumerate() {
            assert_eq!(resource as usize, index);
        }
        for (index, result) in CacheResult::ALL.into_iter().enumerate() {
            assert_eq!(result as usize, index);
        }
    }
}
