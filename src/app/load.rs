//! Loads images without a running cache: this process opens the store and contacts the registries.

use crossbeam_channel::Receiver;

use super::AppError;
use super::cache_parts::CacheParts;
use super::preload::wait_for_scan;
use crate::config::Config;
use crate::manage::{LoadProgress, LoadReport, LoadRule};

/// Loads the images of `rule` into the store of `config`, which no other process may use. The drop of
/// the sender of `stopped` ends the load. Blocks.
///
/// # Errors
///
/// The store, a registry's settings, or a system resource cannot be used.
pub fn load(
    config: &Config,
    rule: &LoadRule,
    progress: &LoadProgress,
    stopped: &Receiver<()>,
) -> Result<LoadReport, AppError> {
    let parts = CacheParts::open_for_command(config)?;
    // The bounds of the store hold for loads too.
    let maintenance = parts.storages.start_maintenance().map_err(AppError::threads)?;
    // A stop during the scan also ends the load, which returns a report without images.
    wait_for_scan(parts.storages.local_stores().as_ref(), stopped);
    let report = parts.loader().run(rule, progress, stopped);
    drop(maintenance);
    report.map_err(AppError::threads)
}
