//! The settings of loads.

use std::time::Duration;

use crate::oci::Platforms;

/// The settings of loads without settings of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadSettings {
    /// The platforms to fetch of an index.
    pub platforms: Platforms,
    /// The time for one image.
    pub pull_timeout: Duration,
}
