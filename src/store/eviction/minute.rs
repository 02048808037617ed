//! A moment, to the minute.

use std::time::SystemTime;

use crate::limits::REUSE_AGE_MIN;

/// Minutes since 1970. Half the size of a second counter for the same years, and precise enough for
/// the age of content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Minute(pub u32);

impl Minute {
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Minute::of_unix_seconds(since.map_or(0, |since| since.as_secs()))
    }

    /// Rounds down.
    pub fn of_unix_seconds(seconds: u64) -> Self {
        Minute(u32::try_from(seconds / 60).unwrap_or(u32::MAX))
    }

    pub fn unix_seconds(self) -> u64 {
        u64::from(self.0) * 60
    }

    pub fn plus(self, minutes: u32) -> Self {
        Minute(self.0.saturating_add(minutes))
    }

    /// Returns the minutes from `earlier` to `self`. A moment in the future, from a clock that was
    /// set back, counts as now.
    pub fn since(self, earlier: Minute) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns whether a use at `self` is another use than one at `first`. Requests within
    /// [`REUSE_AGE_MIN`] are one use: the ranges, the retries and the hosts of one rollout.
    pub fn is_reuse_after(self, first: Minute) -> bool {
        u64::from(self.since(first)) * 60 >= REUSE_AGE_MIN.as_secs()
    }

    /// Returns whether a use at `self` counts, after a use at `last` of an object stored at `first`.
    /// All uses in one window of [`REUSE_AGE_MIN`] from `first` count once.
    pub fn is_another_use(self, last: Minute, first: Minute) -> bool {
        let window = |moment: Minute| u64::from(moment.since(first)) * 60 / REUSE_AGE_MIN.as_secs();
        window(self) > window(last)
    }
}
