//! The references that authorized clients requested, and that the cache could not serve because their
//! registry gets no requests or is unavailable. Hits do not use the table.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Cache, FetchError};
use crate::limits::MISSING_REFERENCES_MAX;
use crate::oci::{ImageName, Origin, Reference};
use crate::runtime::clock::unix_seconds;
use crate::storage::MissingReference;
use crate::sync::Mutex;

/// The part of the table that goes when the table is full: the references with the oldest last request.
const REMOVED_DIVISOR: usize = 16;

#[derive(Default)]
pub(super) struct MissingReferences(Mutex<Table>);

#[derive(Default)]
struct Table {
    references: HashMap<Arc<str>, Requests>,
    /// Changes since the start.
    changes: u64,
}

#[derive(Clone, Copy)]
struct Requests {
    first_at: u64,
    last_at: u64,
    count: u64,
}

impl Cache {
    /// Records that an authorized client got `error` instead of the manifest `reference`. Does nothing for
    /// the error of a registry that answered.
    pub fn record_missing(&self, origin: &Origin, reference: &Reference, error: &FetchError) {
        // Clients derive the tags of signatures from digests, and most images have no signatures.
        let is_derived = matches!(reference, Reference::Tag(tag) if tag.is_derived());
        if is_derived || !is_absence_without_answer(error) {
            return;
        }
        let name = ImageName {
            origin: origin.clone(),
            reference: Some(reference.clone()),
        };
        self.0.missing.record(name.to_string(), unix_seconds());
    }

    /// Returns the recorded references, the newest first, and the number of changes so far.
    pub fn missing(&self) -> (Vec<MissingReference>, u64) {
        self.0.missing.list()
    }

    /// Returns the number of changes of the recorded references so far.
    pub fn missing_changes(&self) -> u64 {
        self.0.missing.0.lock().changes
    }

    /// Adds the references of an earlier run.
    pub fn restore_missing(&self, references: Vec<MissingReference>) {
        self.0.missing.restore(references);
    }

    /// Forgets all references.
    pub fn clear_missing(&self) {
        let mut table = self.0.missing.0.lock();
        table.references.clear();
        table.changes += 1;
    }
}

/// Returns whether the content may exist, and the registry got no request or gave no usable answer.
fn is_absence_without_answer(error: &FetchError) -> bool {
    match error {
        FetchError::Upstream(error) => error.is_outage(),
        FetchError::Incomplete { .. } => true,
        _ => false,
    }
}

impl MissingReferences {
    fn record(&self, reference: String, now: u64) {
        let mut table = self.0.lock();
        table.changes += 1;
        if let Some(known) = table.references.get_mut(&*reference) {
            known.last_at = now;
            known.count += 1;
            return;
        }
        if table.references.len() >= MISSING_REFERENCES_MAX {
            table.remove_oldest();
        }
        let requests = Requests {
            first_at: now,
            last_at: now,
            count: 1,
        };
        table.references.insert(reference.into(), requests);
    }

    fn restore(&self, references: Vec<MissingReference>) {
        let mut table = self.0.lock();
        for known in references.into_iter().take(MISSING_REFERENCES_MAX) {
            let requests = Requests {
                first_at: known.first_at,
                last_at: known.last_at,
                count: known.requests,
            };
            table.references.insert(known.reference.into(), requests);
        }
    }

    fn list(&self) -> (Vec<MissingReference>, u64) {
        // A core may wait for the lock, so the texts are copied later.
        let (references, changes) = {
            let table = self.0.lock();
            let references = table.references.iter();
            let references: Vec<(Arc<str>, Requests)> = references
                .map(|(reference, requests)| (reference.clone(), *requests))
                .collect();
            (references, table.changes)
        };
        let references = references
            .into_iter()
            .map(|(reference, requests)| MissingReference {
                reference: reference.to_string(),
                first_at: requests.first_at,
                last_at: requests.last_at,
                requests: requests.count,
            });
        let mut references: Vec<MissingReference> = references.collect();
        references.sort_by(|a, b| {
            b.last_at
                .cmp(&a.last_at)
                .then_with(|| a.reference.cmp(&b.reference))
        });
        (references, changes)
    }
}

impl Table {
    fn remove_oldest(&mut self) {
        let mut times: Vec<u64> = self
            .references
            .values()
            .map(|requests| requests.last_at)
            .collect();
        let count = (times.len() / REMOVED_DIVISOR).max(1);
        let (_, &mut oldest_kept, _) = times.select_nth_unstable(count);
        // References of one second may all be as old as the limit.
        let mut surplus = count;
        for strictly_older in [true, false] {
            self.references.retain(|_, requests| {
                let is_old =
                    requests.last_at < oldest_kept || (!strictly_older && requests.last_at == oldest_kept);
                let is_removed = is_old && surplus > 0;
                surplus -= usize::from(is_removed);
                !is_removed
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::UpstreamError;

    #[test]
    fn oldest_references_leave_a_full_table() {
        let table = MissingReferences::default();
        for n in 0..MISSING_REFERENCES_MAX as u64 {
            table.record(format!("a:{n}"), n);
        }
        table.record("a:0".to_owned(), 1_000_000);
        table.record("b:1".to_owned(), 1_000_001);
        let (listed, _) = table.list();
        let removed = MISSING_REFERENCES_MAX / REMOVED_DIVISOR;
        assert_eq!(listed.len(), MISSING_REFERENCES_MAX - removed + 1);
        assert_eq!((&*listed[0].reference, &*listed[1].reference), ("b:1", "a:0"));
        assert_eq!((listed[1].first_at, listed[1].requests), (0, 2));
        let has = |name: &str| listed.iter().any(|known| known.reference == name);
        assert!(!has("a:1") && has(&format!("a:{}", removed + 1)));
    }

    #[test]
    fn full_table_of_one_second_stays_bounded() {
        let table = MissingReferences::default();
        for n in 0..2 * MISSING_REFERENCES_MAX {
            table.record(format!("a:{n}"), 7);
        }
        assert!(table.list().0.len() <= MISSING_REFERENCES_MAX);
    }

    #[test]
    fn answers_of_registries_are_no_absences() {
        let gap = UpstreamError::AirGapped {
            host: Arc::from("quay.io"),
        };
        assert!(is_absence_without_answer(&gap.into()));
        assert!(is_absence_without_answer(&FetchError::Incomplete {
            missing: 1,
            why: Arc::from("air gap"),
        }));
        for error in [FetchError::Overloaded, FetchError::Schema1, FetchError::Lost] {
            assert!(!is_absence_without_answer(&error), "{error}");
        }
    }
}
