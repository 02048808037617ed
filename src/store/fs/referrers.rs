//! Records of referrers on disk, bounded in number and bytes. The oldest records are removed first.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use super::layout::{self, RECORD_SUFFIX};
use super::{FsStore, failed, open_regular};
use crate::limits::RECORD_BYTES_MAX;
use crate::oci::{Namespace, Repository};
use crate::store::{RecordName, ReferrersRecord, StoreError};

impl FsStore {
    /// Returns a record. Returns `None` if the record is missing or unreadable. The registry's next
    /// response repairs an unreadable record.
    ///
    /// # Errors
    ///
    /// The file system failed.
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
        Ok(ReferrersRecord::parse(name, &json))
    }

    /// Replaces a record. If the new record is too large, removes the old record and stores
    /// nothing.
    ///
    /// # Errors
    ///
    /// The old record, or no record, is still stored.
    pub fn set_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
        record: &ReferrersRecord,
    ) -> Result<(), StoreError> {
        let Some(json) = record.to_json() else {
            return self.remove_record(namespace, repository, name);
        };
        let path = layout::record(namespace, repository, name);
        self.replace(&path, &json).map_err(failed("write", &path))?;
        let mut records = self.records.lock();
        for surplus in records.record(&path, record.checked_at_ms, json.len() as u64) {
            let _ = fs::remove_file(self.path(&surplus));
        }
        Ok(())
    }

    /// Removes a record, if present.
    ///
    /// # Errors
    ///
    /// The record is still stored.
    pub fn remove_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
    ) -> Result<(), StoreError> {
        let path = layout::record(namespace, repository, name);
        self.records.lock().forget(&path);
        match fs::remove_file(self.path(&path)) {
            Err(error) if !is_nothing(&error) => Err(failed("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Removes all records in the directory `dir`.
    pub(super) fn remove_records(&self, dir: &Path) {
        let Ok(entries) = fs::read_dir(self.path(dir)) else {
            return;
        };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if name.to_str().is_some_and(|name| name.ends_with(RECORD_SUFFIX)) {
                let path = dir.join(name);
                self.records.lock().forget(&path);
                let _ = fs::remove_file(self.path(&path));
            }
        }
    }

    /// Registers a record of an earlier run at `path`, and removes the records beyond the bounds.
    pub(super) fn found_record(&self, path: &Path, metadata: &fs::Metadata) {
        let Ok(relative) = path.strip_prefix(&self.root).map(PathBuf::from) else {
            return;
        };
        let modified = metadata.modified().ok();
        let age = modified.and_then(|modified| modified.duration_since(UNIX_EPOCH).ok());
        let modified_ms = age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let mut records = self.records.lock();
        if records.has(&relative) {
            return;
        }
        for surplus in records.record(&relative, modified_ms, metadata.len()) {
            let _ = fs::remove_file(self.path(&surplus));
        }
    }
}

fn is_nothing(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
    )
}
