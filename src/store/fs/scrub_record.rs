//! The progress of the scrub of a store, in a file that a restart continues from.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FsStore, layout};
use crate::oci::Digest;

/// The progress of the scrub. Times are in seconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ScrubRecord {
    /// The begin of the current or last pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass_began_at: Option<u64>,
    /// The digest up to which the current pass has read. `None` between two passes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Digest>,
    /// The end of the last pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<u64>,
}

impl ScrubRecord {
    /// Returns the time until the next part of a pass. A pass in progress continues at once. Otherwise
    /// a pass begins `interval` after the begin of the last pass.
    pub fn due_in(&self, now: u64, interval: Duration) -> Duration {
        match (self.position, self.pass_began_at) {
            (Some(_), _) | (None, None) => Duration::ZERO,
            // A later begin comes from a wrong clock.
            (None, Some(began)) => interval.saturating_sub(Duration::from_secs(now.saturating_sub(began))),
        }
    }

    /// Returns the record after the end of a pass.
    pub fn completed(self, now: u64) -> Self {
        ScrubRecord {
            position: None,
            completed_at: Some(now),
            ..self
        }
    }
}

impl FsStore {
    /// Returns the progress of the scrub, by the file. Without a readable file, the scrub begins anew.
    pub fn read_scrub_record(&self) -> ScrubRecord {
        read(&self.root)
    }

    /// Writes the progress of the scrub. The file survives a kill.
    ///
    /// # Errors
    ///
    /// The file system failed. The file is unchanged.
    pub fn write_scrub_record(&self, record: &ScrubRecord) -> io::Result<()> {
        let json = serde_json::to_vec(record).expect("a record is numbers and a text");
        self.replace(Path::new(layout::SCRUB), &json)
    }

    /// Records the end of a scrub of the whole store, for the statistics.
    pub fn record_scrub_end(&self, at: u64) {
        self.verifications.scrub_completed_at.store(at, Ordering::Relaxed);
    }
}

/// Reads the record of the store in `root`.
pub(super) fn read(root: &Path) -> ScrubRecord {
    let path = root.join(layout::SCRUB);
    match fs::read(&path) {
        Ok(json) => serde_json::from_slice(&json).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "scrub record unreadable");
            ScrubRecord::default()
        }),
        Err(_) => ScrubRecord::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use crate::store::tests::Scratch;

    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn record_survives_a_restart_and_a_damaged_file_means_no_record() {
        let scratch = Scratch::new();
        let record = ScrubRecord {
            pass_began_at: Some(1_767_225_600),
            position: Some(Digest::of(Algorithm::Sha512, b"content")),
            completed_at: None,
        };
        {
            let store = FsStore::open(&scratch.0).unwrap();
            assert_eq!(store.read_scrub_record(), ScrubRecord::default());
            store.write_scrub_record(&record).unwrap();
        }
        let store = FsStore::open(&scratch.0).unwrap();
        assert_eq!(store.read_scrub_record(), record);
        assert_eq!(store.stats().scrub_completed_at, None);
        store
            .write_scrub_record(&record.completed(1_767_225_700))
            .unwrap();
        drop(store);
        let store = FsStore::open(&scratch.0).unwrap();
        assert_eq!(store.stats().scrub_completed_at, Some(1_767_225_700));
        for damaged in ["", "{", r#"{"position": "sha256:12"}"#, r#"{"passBeganAt": -1}"#] {
            fs::write(scratch.0.join(layout::SCRUB), damaged).unwrap();
            assert_eq!(store.read_scrub_record(), ScrubRecord::default(), "{damaged}");
        }
    }

    #[test]
    fn pass_in_progress_continues_and_the_next_pass_waits_for_the_interval() {
        let none = ScrubRecord::default();
        assert_eq!(none.due_in(1_000, HOUR), Duration::ZERO);
        let running = ScrubRecord {
            pass_began_at: Some(1_000),
            position: Some(Digest::of(Algorithm::Sha256, b"content")),
            completed_at: None,
        };
        assert_eq!(running.due_in(1_001, HOUR), Duration::ZERO);
        let ended = running.completed(1_500);
        assert_eq!(ended.due_in(1_600, HOUR), HOUR - Duration::from_secs(600));
        assert_eq!(ended.due_in(9_000, HOUR), Duration::ZERO);
        assert_eq!(ended.due_in(0, HOUR), HOUR, "the clock was ahead");
    }
}
