//! The last use of each entry on disk: the access time of its data file, set by the store. A mount
//! without access times (`noatime`) keeps a time that a process sets.

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::{FsStore, layout};
use crate::limits::{USE_SAVE_INTERVAL_MINUTES, USES_CHECKED_AT_ONCE};
use crate::store::eviction::Objects as _;

/// The place in the index from which the next uses are written.
#[derive(Debug, Default)]
pub struct SaveCursor(u32);

impl FsStore {
    /// Writes the last uses of entries with an old use on disk, among the next
    /// [`USES_CHECKED_AT_ONCE`] objects after `cursor`. The end of the index is followed by its
    /// beginning.
    pub fn save_uses(&self, cursor: &mut SaveCursor) {
        if !self.save(USE_SAVE_INTERVAL_MINUTES, cursor) {
            *cursor = SaveCursor::default();
        }
    }

    /// Writes all last uses to disk, while `goes_on`.
    pub fn save_all_uses(&self, goes_on: impl Fn() -> bool) {
        let mut cursor = SaveCursor::default();
        while goes_on() && self.save(1, &mut cursor) {}
    }

    /// Advances `cursor`. Returns false at the end of the index.
    fn save(&self, minutes: u32, cursor: &mut SaveCursor) -> bool {
        let (from, to) = (cursor.0, cursor.0 + USES_CHECKED_AT_ONCE);
        cursor.0 = to;
        let (uses, is_end) = {
            let mut index = self.index.lock();
            (index.take_unsaved_uses(minutes, from..to), to >= index.numbers())
        };
        for (key, used) in &uses {
            let times = Timestamps {
                last_access: Timespec {
                    tv_sec: used.unix_seconds().try_into().unwrap_or(i64::MAX),
                    tv_nsec: 0,
                },
                last_modification: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
            };
            // A lost time makes the entry look older. The entry may be gone already.
            let path = self.path(&layout::content(key));
            let _ = utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW);
        }
        !is_end
    }
}
