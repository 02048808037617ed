//! Requests for manifests and blobs by registry, answered from stored content or not. Each core counts
//! in cells of its own, so that a hit takes no lock and shares no memory with another core.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::REGISTRIES_COUNTED_MAX;
use crate::oci::Namespace;
use crate::sync::Mutex;

/// The counts of all cores; cheap to clone.
#[derive(Clone, Default)]
pub struct RequestCounts(Arc<Mutex<Vec<Counted>>>);

/// A registry with its count on one core.
type Counted = (Namespace, Arc<RegistryCount>);

/// The requests for content of one registry. Only one core counts, and any thread reads.
#[derive(Debug, Default)]
// A cell shares no cache line with the cell of another core.
#[repr(align(128))]
pub struct RegistryCount {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The answered requests for content of a registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AnsweredRequests {
    /// Requests answered from stored content.
    pub hits: u64,
    /// Requests for which the registry sent the content.
    pub misses: u64,
}

/// The counts of one core.
pub struct CoreRequestCounts {
    all: RequestCounts,
    own: RefCell<HashMap<Namespace, Arc<RegistryCount>>>,
}

impl RequestCounts {
    /// Returns the counts for a further core.
    pub fn core(&self) -> CoreRequestCounts {
        CoreRequestCounts {
            all: self.clone(),
            own: RefCell::default(),
        }
    }

    /// Returns the sums over all cores.
    pub fn totals(&self) -> BTreeMap<Namespace, AnsweredRequests> {
        let mut totals: BTreeMap<Namespace, AnsweredRequests> = BTreeMap::new();
        for (registry, count) in &*self.0.lock() {
            let total = totals.entry(registry.clone()).or_default();
            total.hits += count.hits.load(Ordering::Relaxed);
            total.misses += count.misses.load(Ordering::Relaxed);
        }
        totals
    }
}

impl CoreRequestCounts {
    /// Returns the count of `registry` on this core. `None` for a new registry beyond
    /// [`REGISTRIES_COUNTED_MAX`]. For requests with an answer only, because clients can name any
    /// registry.
    pub fn of(&self, registry: &Namespace) -> Option<Arc<RegistryCount>> {
        let mut own = self.own.borrow_mut();
        if let Some(count) = own.get(registry) {
            return Some(count.clone());
        }
        if own.len() >= REGISTRIES_COUNTED_MAX {
            return None;
        }
        let count = Arc::<RegistryCount>::default();
        own.insert(registry.clone(), count.clone());
        self.all.0.lock().push((registry.clone(), count.clone()));
        Some(count)
    }
}

impl RegistryCount {
    pub fn add_hit(&self) {
        add_one(&self.hits);
    }

    pub fn add_miss(&self) {
        add_one(&self.misses);
    }
}

/// Cheaper than an atomic addition, and as good with a single writer.
fn add_one(cell: &AtomicU64) {
    cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sums_over_all_cores() {
        let counts = RequestCounts::default();
        let cores = [counts.core(), counts.core()];
        let [a, b] = ["a.example", "b.example"].map(|name| name.parse::<Namespace>().unwrap());
        for core in &cores {
            core.of(&a).unwrap().add_hit();
            core.of(&a).unwrap().add_hit();
        }
        cores[1].of(&b).unwrap().add_miss();
        let of = |hits, misses| AnsweredRequests { hits, misses };
        assert_eq!(counts.totals(), BTreeMap::from([(a, of(4, 0)), (b, of(0, 1))]));
    }

    #[test]
    fn registries_beyond_the_limit_are_not_counted() {
        let counts = RequestCounts::default();
        let core = counts.core();
        let name = |number: usize| format!("r{number}.example").parse::<Namespace>().unwrap();
        for number in 0..REGISTRIES_COUNTED_MAX {
            assert!(core.of(&name(number)).is_some());
        }
        assert!(core.of(&name(REGISTRIES_COUNTED_MAX)).is_none());
        assert!(core.of(&name(0)).is_some());
    }
}
