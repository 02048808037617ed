//! The index of the stored records of referrers, bounded in number and bytes.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use crate::limits::{RECORDS_BYTES_MAX, RECORDS_MAX};

/// The known stored records, the oldest first.
#[derive(Debug)]
pub(super) struct Records {
    known: HashMap<Arc<Path>, RecordInfo>,
    by_age: BTreeSet<(u64, Arc<Path>)>,
    bytes: u64,
    bytes_max: u64,
    count_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct RecordInfo {
    checked_at_ms: u64,
    bytes: u64,
}

impl Default for Records {
    fn default() -> Self {
        Records::new(RECORDS_BYTES_MAX, RECORDS_MAX)
    }
}

impl Records {
    fn new(bytes_max: u64, count_max: usize) -> Self {
        Records {
            known: HashMap::new(),
            by_age: BTreeSet::new(),
            bytes: 0,
            bytes_max,
            count_max,
        }
    }

    /// Registers a record. Returns the surplus records, to be removed by the caller.
    pub fn record(&mut self, path: &Path, checked_at_ms: u64, bytes: u64) -> Vec<Arc<Path>> {
        self.forget(path);
        let path: Arc<Path> = path.into();
        self.by_age.insert((checked_at_ms, path.clone()));
        let known = RecordInfo { checked_at_ms, bytes };
        self.known.insert(path, known);
        self.bytes += bytes;
        let mut surplus = Vec::new();
        while self.bytes > self.bytes_max || self.known.len() > self.count_max {
            let Some((_, oldest)) = self.by_age.first().cloned() else {
                break;
            };
            self.forget(&oldest);
            surplus.push(oldest);
        }
        surplus
    }

    /// Returns the bytes of all records.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns whether a record is known under `path`.
    pub fn has(&self, path: &Path) -> bool {
        self.known.contains_key(path)
    }

    pub fn forget(&mut self, path: &Path) {
        if let Some((path, known)) = self.known.remove_entry(path) {
            self.bytes -= known.bytes;
            self.by_age.remove(&(known.checked_at_ms, path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(surplus: Vec<Arc<Path>>) -> Vec<String> {
        let names = surplus.iter().map(|path| path.display().to_string());
        names.collect()
    }

    #[test]
    fn the_oldest_record_goes_when_there_are_too_many_or_they_are_too_large() {
        let mut records = Records::new(100, 3);
        for (name, ms) in [("b", 2), ("a", 1), ("c", 3)] {
            assert!(records.record(Path::new(name), ms, 10).is_empty());
        }
        assert_eq!(names(records.record(Path::new("d"), 4, 10)), ["a"]);
        // Rewriting a record updates its age to the last check.
        assert!(records.record(Path::new("b"), 5, 10).is_empty());
        assert_eq!(names(records.record(Path::new("e"), 6, 75)), ["c"]);
        assert_eq!(names(records.record(Path::new("e"), 7, 85)), ["d"]);
        records.forget(Path::new("e"));
        assert_eq!(
            (records.bytes, records.known.len(), records.by_age.len()),
            (10, 1, 1)
        );
        assert_eq!(names(records.record(Path::new("f"), 8, 101)), ["b", "f"]);
        assert_eq!(records.bytes, 0);
    }
}
