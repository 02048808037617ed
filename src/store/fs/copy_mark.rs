//! The mark of an entry whose copy the bucket has: an extended attribute of the data file. A lost mark
//! costs one request to the bucket at the next use of the entry, so nothing syncs the mark.

use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, lremovexattr, lsetxattr};

use super::{FsStore, layout};
use crate::oci::{Algorithm, Digest, DigestPrefix};
use crate::store::Key;
use crate::store::eviction::Minute;

const NAME: &str = "user.oci_pull_through.bucket";

/// A value has 16 digits of the bucket, a space, and the seconds since 1970.
const VALUE_BYTES_MAX: usize = 16 + 1 + 20;

const DAY_SECONDS: u64 = 24 * 60 * 60;

/// The bucket behind a directory, as far as the marks depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BucketIdentity {
    pub name: String,
    /// The prefix of every key.
    pub prefix: String,
    /// The age in days at which the bucket deletes an object. 0 means never.
    pub lifecycle_days: u32,
}

/// The marks of copies in one bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct CopyMarks {
    bucket: DigestPrefix,
    lifetime_seconds: u64,
}

impl CopyMarks {
    fn of(bucket: &BucketIdentity) -> Self {
        let name = format!("{}/{}", bucket.name, bucket.prefix);
        CopyMarks {
            bucket: Digest::of(Algorithm::Sha256, name.as_bytes()).prefix(),
            lifetime_seconds: match bucket.lifecycle_days {
                0 => u64::MAX,
                days => u64::from(days) * DAY_SECONDS,
            },
        }
    }

    /// Marks the file at `path`. Returns whether the file system keeps the mark.
    fn set(self, path: &Path, now: Minute) -> bool {
        let value = format!("{:016x} {}", self.bucket.0, now.unix_seconds());
        lsetxattr(path, NAME, value.as_bytes(), XattrFlags::empty()).is_ok()
    }

    /// Returns whether the file at `path` has a mark of this bucket that is younger than the lifecycle
    /// of the bucket.
    pub fn are_on(self, path: &Path, now: Minute) -> bool {
        let mut value = [0; VALUE_BYTES_MAX];
        let read = lgetxattr(path, NAME, &mut value[..]).ok();
        let text = read.and_then(|length| std::str::from_utf8(&value[..length]).ok());
        let marked = text.and_then(|text| {
            let (bucket, seconds) = text.split_once(' ')?;
            let bucket = u64::from_str_radix(bucket, 16).ok()?;
            Some((bucket, seconds.parse::<u64>().ok()?))
        });
        marked.is_some_and(|(bucket, seconds)| {
            let age = now.unix_seconds().saturating_sub(seconds);
            bucket == self.bucket.0 && age < self.lifetime_seconds
        })
    }
}

/// Removes the mark. The file may have none.
fn clear(path: &Path) {
    let _ = lremovexattr(path, NAME);
}

impl FsStore {
    /// Returns the store in front of `bucket`. On a file system without extended attributes, evictions
    /// know the copies of this process only.
    pub fn with_bucket(self, bucket: &BucketIdentity) -> Self {
        let marks = CopyMarks::of(bucket);
        let keeps_marks = marks.set(&self.root, Minute::now());
        clear(&self.root);
        if !keeps_marks {
            tracing::warn!(
                root = %self.root.display(),
                "file system keeps no extended attributes; copies in the bucket are unknown after a restart"
            );
        }
        FsStore {
            copy_marks: Some(marks).filter(|_| keeps_marks),
            ..self
        }
    }

    /// Records whether the bucket has the entry `key`, for evictions, in the index and in the mark of
    /// the data file. Waits for the index and the disk, so for blocking threads.
    pub fn set_in_bucket(&self, key: &Key, is_in_bucket: bool) {
        self.index.lock().set_in_bucket(key, is_in_bucket);
        if let Some(marks) = self.copy_marks {
            let path = self.path(&layout::content(key));
            if is_in_bucket {
                // The entry may be gone already.
                let _ = marks.set(&path, Minute::now());
            } else {
                clear(&path);
            }
        }
    }

    #[cfg(test)]
    pub fn keeps_copy_marks(&self) -> bool {
        self.copy_marks.is_some()
    }

    /// Returns whether the data file of `key` has the mark of a copy in the bucket.
    pub(super) fn is_marked_as_copied(&self, key: &Key) -> bool {
        let is_marked = |marks: CopyMarks| marks.are_on(&self.path(&layout::content(key)), Minute::now());
        self.copy_marks.is_some_and(is_marked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::Scratch;

    #[test]
    fn mark_ends_with_the_lifecycle_of_the_bucket() {
        let scratch = Scratch::new();
        let marks = |lifecycle_days| {
            CopyMarks::of(&BucketIdentity {
                name: "bucket".into(),
                prefix: String::new(),
                lifecycle_days,
            })
        };
        let day = |number: u64| Minute::of_unix_seconds(number * DAY_SECONDS);
        if !marks(0).set(&scratch.0, day(100)) {
            return;
        }
        for (lifecycle_days, now, is_on) in
            [(0, day(100_000), true), (3, day(102), true), (3, day(103), false)]
        {
            assert_eq!(
                marks(lifecycle_days).are_on(&scratch.0, now),
                is_on,
                "{lifecycle_days}"
            );
        }
        lsetxattr(&scratch.0, NAME, b"text", XattrFlags::empty()).unwrap();
        assert!(!marks(0).are_on(&scratch.0, day(100)));
        clear(&scratch.0);
        assert!(!marks(0).are_on(&scratch.0, day(100)));
    }
}
