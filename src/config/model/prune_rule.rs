//! Rules that remove stored images in the background.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{DailyWindow, ImageFilter};

/// A rule that removes the images for which all of its conditions hold. Has at least one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PruneRuleConfig {
    /// The place in the file, for the log: `prune[0]`.
    pub place: String,
    pub filter: ImageFilter,
    /// Only images without a use for this time.
    pub unused_for: Option<Duration>,
    /// Only images stored longer ago.
    pub older_than: Option<Duration>,
    /// The tags of each repository that stay: those stored last.
    pub keep_newest: usize,
    /// The time from the start of a run to the next run.
    pub every: Duration,
    /// The time of day in which a run may start. `None` means any time.
    pub window: Option<DailyWindow>,
    /// The images that a run removes at most.
    pub images_max: Option<NonZeroUsize>,
    /// Whether a run only logs the images.
    pub dry_run: bool,
}

impl PruneRuleConfig {
    /// Returns whether the rule has a condition. A rule without a condition would select every image.
    pub fn has_condition(&self) -> bool {
        !self.filter.is_empty()
            || self.unused_for.is_some()
            || self.older_than.is_some()
            || self.keep_newest > 0
    }
}
