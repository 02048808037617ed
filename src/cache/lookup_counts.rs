//! Lookups of manifests and blobs by registry, with their results. Each core counts in cells of its
//! own, so that a hit takes no lock and shares no memory with another core.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::http::CacheResult;
use crate::limits::REGISTRIES_COUNTED_MAX;
use crate::metrics::{self, Cell64};
use crate::oci::Namespace;
use crate::sync::Mutex;

/// The counts of all cores; cheap to clone.
#[derive(Clone, Default)]
pub struct LookupCounts(Arc<Mutex<Vec<Counted>>>);

/// A registry with its cells on one core.
type Counted = (Namespace, Arc<RegistryLookups>);

/// The kind of the looked up content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupKind {
    Tag,
    /// A manifest by its digest.
    Manifest,
    Blob,
}

/// The source of the content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LookupResult {
    /// An encoded response in the memory of the core.
    Memory,
    Hit,
    /// Stored content, confirmed by the registry.
    Revalidated,
    /// Stored content, not confirmed.
    Stale,
    /// Content that another request fetched.
    Joined,
    Miss,
    /// Content that the cache does not store.
    Bypass,
}

/// The lookups of one registry on one core. Only the core counts, and any thread reads.
#[derive(Debug, Default)]
// The cells share no cache line with the cells of another core.
#[repr(align(128))]
pub struct RegistryLookups([[Cell64; LookupResult::ALL.len()]; LookupKind::ALL.len()]);

/// The sums over all cores for one registry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lookups([[u64; LookupResult::ALL.len()]; LookupKind::ALL.len()]);

/// The counts of one core.
pub struct CoreLookupCounts {
    all: LookupCounts,
    own: RefCell<HashMap<Namespace, Arc<RegistryLookups>>>,
}

impl LookupKind {
    pub const ALL: [LookupKind; 3] = [LookupKind::Tag, LookupKind::Manifest, LookupKind::Blob];

    pub const fn label(self) -> &'static str {
        match self {
            LookupKind::Tag => "tag",
            LookupKind::Manifest => "manifest",
            LookupKind::Blob => "blob",
        }
    }
}

impl LookupResult {
    pub const ALL: [LookupResult; 7] = [
        LookupResult::Memory,
        LookupResult::Hit,
        LookupResult::Revalidated,
        LookupResult::Stale,
        LookupResult::Joined,
        LookupResult::Miss,
        LookupResult::Bypass,
    ];

    /// Returns the result of a response that is not from the memory of the core. `None` for a response
    /// without content.
    pub fn of(cache: CacheResult) -> Option<Self> {
        Some(match cache {
            CacheResult::None => return None,
            CacheResult::Hit => LookupResult::Hit,
            CacheResult::Miss => LookupResult::Miss,
            CacheResult::Collapsed => LookupResult::Joined,
            CacheResult::Revalidated => LookupResult::Revalidated,
            CacheResult::Stale => LookupResult::Stale,
            CacheResult::Bypass => LookupResult::Bypass,
        })
    }

    pub const fn label(self) -> &'static str {
        match self {
            LookupResult::Memory => "memory",
            LookupResult::Hit => "hit",
            LookupResult::Revalidated => "revalidated",
            LookupResult::Stale => "stale",
            LookupResult::Joined => "joined",
            LookupResult::Miss => "miss",
            LookupResult::Bypass => "bypass",
        }
    }
}

impl LookupCounts {
    /// Returns the counts for a further core.
    pub fn core(&self) -> CoreLookupCounts {
        CoreLookupCounts {
            all: self.clone(),
            own: RefCell::default(),
        }
    }

    /// Returns the sums over all cores.
    pub fn totals(&self) -> BTreeMap<Namespace, Lookups> {
        let mut totals: BTreeMap<Namespace, Lookups> = BTreeMap::new();
        for (registry, cells) in &*self.0.lock() {
            let sums = totals.entry(registry.clone()).or_default();
            for (sums, cells) in sums.0.iter_mut().zip(&cells.0) {
                for (sum, cell) in sums.iter_mut().zip(cells) {
                    *sum += cell.get();
                }
            }
        }
        totals
    }
}

impl CoreLookupCounts {
    /// Returns the cells of `registry` on this core. `None` for a new registry beyond
    /// [`REGISTRIES_COUNTED_MAX`]. For requests with an answer only, because clients can name any
    /// registry.
    pub fn of(&self, registry: &Namespace) -> Option<Arc<RegistryLookups>> {
        let mut own = self.own.borrow_mut();
        if let Some(cells) = own.get(registry) {
            return Some(cells.clone());
        }
        if own.len() >= REGISTRIES_COUNTED_MAX {
            return None;
        }
        metrics::admit_registry(registry.as_str());
        let cells = Arc::<RegistryLookups>::default();
        own.insert(registry.clone(), cells.clone());
        self.all.0.lock().push((registry.clone(), cells.clone()));
        Some(cells)
    }
}

impl RegistryLookups {
    pub fn add(&self, kind: LookupKind, result: LookupResult) {
        self.0[kind as usize][result as usize].add(1);
    }
}

impl Lookups {
    pub fn of(&self, kind: LookupKind, result: LookupResult) -> u64 {
        self.0[kind as usize][result as usize]
    }

    /// Returns the lookups that were answered from stored content.
    pub fn hits(&self) -> u64 {
        let results = [
            LookupResult::Memory,
            LookupResult::Hit,
            LookupResult::Revalidated,
            LookupResult::Stale,
        ];
        self.sum(&results)
    }

    /// Returns the lookups for which the registry sent the content.
    pub fn misses(&self) -> u64 {
        self.sum(&[LookupResult::Miss, LookupResult::Joined])
    }

    fn sum(&self, results: &[LookupResult]) -> u64 {
        let kinds = LookupKind::ALL.into_iter();
        kinds
            .flat_map(|kind| results.iter().map(move |&result| self.of(kind, result)))
            .sum()
    }

    /// Returns the sums with the sums of another registry.
    #[must_use]
    pub fn plus(mut self, other: &Lookups) -> Self {
        for (sums, others) in self.0.iter_mut().zip(&other.0) {
            for (sum, other) in sums.iter_mut().zip(others) {
                *sum += other;
            }
        }
        self
    }

    #[cfg(test)]
    pub fn with(mut self, kind: LookupKind, result: LookupResult, count: u64) -> Self {
        self.0[kind as usize][result as usize] = count;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_the_sums_over_all_cores() {
        let counts = LookupCounts::default();
        let cores = [counts.core(), counts.core()];
        let [a, b] = ["a.example", "b.example"].map(|name| name.parse::<Namespace>().unwrap());
        for core in &cores {
            core.of(&a).unwrap().add(LookupKind::Blob, LookupResult::Hit);
            core.of(&a).unwrap().add(LookupKind::Tag, LookupResult::Stale);
        }
        cores[1]
            .of(&b)
            .unwrap()
            .add(LookupKind::Blob, LookupResult::Joined);
        let totals = counts.totals();
        let of = |registry| (totals[registry].hits(), totals[registry].misses());
        assert_eq!((of(&a), of(&b)), ((4, 0), (0, 1)));
        assert_eq!(totals[&a].of(LookupKind::Blob, LookupResult::Hit), 2);
    }

    #[test]
    fn registries_beyond_the_limit_are_not_counted() {
        let counts = LookupCounts::default();
        let core = counts.core();
        let name = |number: usize| format!("r{number}.example").parse::<Namespace>().unwrap();
        for number in 0..REGISTRIES_COUNTED_MAX {
            assert!(core.of(&name(number)).is_some());
        }
        assert!(core.of(&name(REGISTRIES_COUNTED_MAX)).is_none());
        assert!(core.of(&name(0)).is_some());
    }

    #[test]
    fn every_kind_and_result_is_at_its_index() {
        assert!(
            LookupKind::ALL
                .into_iter()
                .enumerate()
                .all(|(index, kind)| kind as usize == index)
        );
        assert!(
            LookupResult::ALL
                .into_iter()
                .enumerate()
                .all(|(index, result)| result as usize == index)
        );
    }
}
