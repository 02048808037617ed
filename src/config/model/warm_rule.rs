//! Rules that keep images in the store up to date.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::{DailyWindow, ImagePattern};
use crate::oci::Platforms;

/// A rule that checks the tags of `pattern` at their registries, and fetches tags that have moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WarmRuleConfig {
    /// The place in the file, for the log: `warm[0]`.
    pub place: String,
    /// Never a pattern of digests. With `newest`, a pattern of tags of one repository.
    pub pattern: ImagePattern,
    /// The tags with the highest versions that the rule takes. `None` means all tags of the pattern.
    pub newest: Option<NonZeroUsize>,
    /// The platforms to fetch of an index. `None` means the platforms of loads.
    pub platforms: Option<Platforms>,
    /// The time from the start of a run to the next run.
    pub every: Duration,
    /// The time of day in which a run may start. `None` means any time.
    pub window: Option<DailyWindow>,
    /// Whether a run pins the pattern. Never set with `newest`.
    pub pin: bool,
    /// The part of the request budget of a registry that a run leaves to clients, in percent, at most 100.
    pub reserve_percent: u64,
}

impl WarmRuleConfig {
    /// Returns whether a run takes the tags that the registry lists. Other runs take the stored tags.
    pub fn lists_tags(&self) -> bool {
        self.newest.is_some() || self.pattern.is_range()
    }
}
