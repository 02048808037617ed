//! Records of referrers in the bucket, each a small object that is replaced atomically.
//!
//! Clients choose the subjects of records, so each process keeps its own records within the bounds
//! of a directory. The bucket's lifecycle removes the records of earlier processes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::S3Operation;
use super::S3Store;
use super::error::S3Error;
use crate::limits::{RECORD_BYTES_MAX, RECORDS_MAX, S3_RECORD_REWRITE_INTERVAL};
use crate::store::records::Records;
use crate::store::{RecordName, ReferrersRecord};
use crate::sync::Mutex;

/// Records written by this process.
#[derive(Default)]
pub(super) struct Written {
    records: Mutex<Records>,
    /// State of each name after the last request of this process. With this state, a repeated
    /// response of a registry costs no further request.
    last: Mutex<HashMap<PathBuf, Last>>,
}

struct Last {
    /// Hash of the record without its check time. `None` after a removal.
    content: Option<u64>,
    at: Instant,
}

impl Written {
    /// Returns whether the last request left `content` under `path` within
    /// [`S3_RECORD_REWRITE_INTERVAL`].
    fn is(&self, path: &Path, content: Option<u64>, now: Instant) -> bool {
        let last = self.last.lock();
        last.get(path)
            .is_some_and(|last| last.content == content && now < last.at + S3_RECORD_REWRITE_INTERVAL)
    }

    fn record(&self, path: &Path, content: Option<u64>, now: Instant) {
        let mut last = self.last.lock();
        if last.len() >= RECORDS_MAX {
            // Each removed entry costs one request.
            last.clear();
        }
        last.insert(path.to_owned(), Last { content, at: now });
    }
}

/// Returns a hash of a record without its check time.
fn content_of(record: &ReferrersRecord) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    let ReferrersRecord {
        checked_at_ms: _,
        public,
        query,
        next,
        filtered,
        index,
    } = record;
    let index = index.as_ref().map(|index| index.get());
    (public, query, next, filtered, index).hash(&mut hasher);
    hasher.finish()
}

impl S3Store {
    pub(super) async fn get_record(
        &self,
        path: &Path,
        name: &RecordName,
    ) -> Result<Option<ReferrersRecord>, S3Error> {
        let json = self.get_within(&self.name(path), RECORD_BYTES_MAX).await?;
        let record = json.and_then(|json| ReferrersRecord::parse(name, &json));
        if record.is_none() {
            // The object was removed or damaged by another program.
            self.0.written.last.lock().remove(path);
        }
        Ok(record)
    }

    pub(super) async fn set_record(&self, path: &Path, record: &ReferrersRecord) -> Result<(), S3Error> {
        let (content, now) = (Some(content_of(record)), Instant::now());
        if self.0.written.is(path, content, now) {
            return Ok(());
        }
        let Some(json) = record.to_json() else {
            return self.drop_record(path).await;
        };
        let bytes = json.len() as u64;
        self.put_small(S3Operation::Write, &self.name(path), json).await?;
        self.0.written.record(path, content, now);
        let surplus = self
            .0
            .written
            .records
            .lock()
            .record(path, record.checked_at_ms, bytes);
        for surplus in surplus {
            self.drop_record(&surplus).await?;
        }
        Ok(())
    }

    pub(super) async fn drop_record(&self, path: &Path) -> Result<(), S3Error> {
        let now = Instant::now();
        if self.0.written.is(path, None, now) {
            return Ok(());
        }
        self.0.written.records.lock().forget(path);
        self.delete(&self.name(path)).await?;
        self.0.written.record(path, None, now);
        Ok(())
    }
}
