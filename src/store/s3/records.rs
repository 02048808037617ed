//! Records of referrers in the bucket: one small object each, replaced as a whole.
//!
//! Clients choose for which subjects there are records, so each process keeps its own within the bounds of a directory. What
//! earlier processes have left is for the bucket's lifecycle.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::S3Store;
use super::error::S3Error;
use crate::limits::{RECORD_BYTES_MAX, RECORDS_MAX, S3_RECORD_REWRITE_INTERVAL};
use crate::store::records::Records;
use crate::store::{RecordName, ReferrersRecord};

/// What this process has written.
#[derive(Default)]
pub(super) struct Written {
    records: Mutex<Records>,
    /// What lies under a name by our last request, so that the same answer of a registry does not cost a request each time.
    last: Mutex<HashMap<PathBuf, Last>>,
}

struct Last {
    /// The record without its moment; `None` when it was removed.
    content: Option<u64>,
    at: Instant,
}

impl Written {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn last(&self) -> MutexGuard<'_, HashMap<PathBuf, Last>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether our last request left `content` there, a short time ago.
    fn is(&self, path: &Path, content: Option<u64>, now: Instant) -> bool {
        let last = self.last();
        last.get(path)
            .is_some_and(|last| last.content == content && now < last.at + S3_RECORD_REWRITE_INTERVAL)
    }

    fn record(&self, path: &Path, content: Option<u64>, now: Instant) {
        let mut last = self.last();
        if last.len() >= RECORDS_MAX {
            // Forgetting costs a request each.
            last.clear();
        }
        last.insert(path.to_owned(), Last { content, at: now });
    }
}

/// What a record says, apart from when it was checked.
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
            // Somebody else has removed or damaged it.
            self.0.written.last().remove(path);
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
        self.put_small("write", &self.name(path), json).await?;
        self.0.written.record(path, content, now);
        let surplus = self.0.written.records().record(path, record.checked_at_ms, bytes);
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
        self.0.written.records().forget(path);
        self.delete(&self.name(path)).await?;
        self.0.written.record(path, None, now);
        Ok(())
    }
}
