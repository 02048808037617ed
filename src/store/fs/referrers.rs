//! Records of referrers on disk: found by name, bounded in number and bytes. The oldest are removed first.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use super::{FsStore, failed, layout, open_regular};
use crate::limits::{RECORD_BYTES_MAX, RECORDS_BYTES_MAX, RECORDS_MAX};
use crate::oci::{Namespace, Repository};
use crate::store::{RecordName, ReferrersRecord, StoreError};

/// The records that are known to be on disk, the oldest first. The scan at the start finds those of earlier runs.
#[derive(Debug)]
pub(super) struct Records {
    known: HashMap<Arc<Path>, Known>,
    by_age: BTreeSet<(u64, Arc<Path>)>,
    bytes: u64,
    bytes_max: u64,
    count_max: usize,
}

#[derive(Clone, Copy, Debug)]
struct Known {
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

    /// Notes a record; returns those that have to go.
    fn note(&mut self, path: &Path, checked_at_ms: u64, bytes: u64) -> Vec<Arc<Path>> {
        self.forget(path);
        let path: Arc<Path> = path.into();
        self.by_age.insert((checked_at_ms, path.clone()));
        let known = Known { checked_at_ms, bytes };
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

    fn forget(&mut self, path: &Path) {
        if let Some((path, known)) = self.known.remove_entry(path) {
            self.bytes -= known.bytes;
            self.by_age.remove(&(known.checked_at_ms, path));
        }
    }
}

impl FsStore {
    /// A record; `None` when there is none or it cannot be read, which the next answer of the registry repairs.
    ///
    /// # Errors
    ///
    /// When the file system fails.
    pub fn record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
    ) -> Result<Option<ReferrersRecord>, StoreError> {
        let path = layout::record(namespace, repository, name);
        let Some(file) = open_regular(&self.path(&path)).map_err(failed("open", &path))? else {
            return Ok(None);
        };
        let mut json = Vec::new();
        file.take(RECORD_BYTES_MAX)
            .read_to_end(&mut json)
            .map_err(failed("read", &path))?;
        let record = serde_json::from_slice::<ReferrersRecord>(&json).ok();
        Ok(record.filter(|record| match name {
            RecordName::Page { query, .. } => record.index.is_some() && record.query == *query,
            RecordName::Unsupported | RecordName::AbsentTag(_) => record.index.is_none(),
        }))
    }

    /// Replaces a record. One that is too large is not kept, and neither is the old one.
    ///
    /// # Errors
    ///
    /// The old record, or none, is still there.
    pub fn set_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
        record: &ReferrersRecord,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_vec(record).expect("a record is strings, numbers and JSON");
        if json.len() as u64 >= RECORD_BYTES_MAX {
            return self.remove_record(namespace, repository, name);
        }
        let path = layout::record(namespace, repository, name);
        self.replace(&path, &json).map_err(failed("write", &path))?;
        let mut records = self.records();
        for surplus in records.note(&path, record.checked_at_ms, json.len() as u64) {
            let _ = fs::remove_file(self.path(&surplus));
        }
        Ok(())
    }

    /// Removes a record, if it is there.
    ///
    /// # Errors
    ///
    /// It is still there.
    pub fn remove_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
    ) -> Result<(), StoreError> {
        let path = layout::record(namespace, repository, name);
        self.records().forget(&path);
        match fs::remove_file(self.path(&path)) {
            Err(error) if !is_nothing(&error) => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Notes a record that an earlier run has left at `path`, and removes what is beyond the bounds.
    pub(super) fn found_record(&self, path: &Path, metadata: &fs::Metadata) {
        let Ok(relative) = path.strip_prefix(&self.root).map(PathBuf::from) else {
            return;
        };
        let modified = metadata.modified().ok();
        let age = modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
        let modified_ms = age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let mut records = self.records();
        if records.known.contains_key(&*relative) {
            return;
        }
        for surplus in records.note(&relative, modified_ms, metadata.len()) {
            let _ = fs::remove_file(self.path(&surplus));
        }
    }

    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_nothing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
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
            assert!(records.note(Path::new(name), ms, 10).is_empty());
        }
        assert_eq!(names(records.note(Path::new("d"), 4, 10)), ["a"]);
        // A record that is written again is as young as its last check.
        assert!(records.note(Path::new("b"), 5, 10).is_empty());
        assert_eq!(names(records.note(Path::new("e"), 6, 75)), ["c"]);
        assert_eq!(names(records.note(Path::new("e"), 7, 85)), ["d"]);
        records.forget(Path::new("e"));
        assert_eq!(
            (records.bytes, records.known.len(), records.by_age.len()),
            (10, 1, 1)
        );
        assert_eq!(names(records.note(Path::new("f"), 8, 101)), ["b", "f"]);
        assert_eq!(records.bytes, 0);
    }
}
