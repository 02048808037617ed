//! The last use of each entry on disk: the access time of its data file, set by the store. A mount
//! without access times (`noatime`) keeps a time that a process sets.

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_OMIT, utimensat};

use super::{FsStore, layout};
use crate::limits::USE_SAVE_INTERVAL_MINUTES;

impl FsStore {
    /// Writes the last uses of at most `max` entries with an old use on disk.
    pub fn save_uses(&self, max: usize) {
        self.save(USE_SAVE_INTERVAL_MINUTES, max);
    }

    /// Writes all last uses to disk, at most `max` at once, while `goes_on`.
    pub fn save_all_uses(&self, max: usize, goes_on: impl Fn() -> bool) {
        while goes_on() && self.save(1, max) == max {}
    }

    fn save(&self, minutes: u32, max: usize) -> usize {
        let uses = self.index.lock().take_unsaved_uses(minutes, max);
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
        uses.len()
    }
}
