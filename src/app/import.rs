//! Imports an archive without a running cache: this process opens the store.

use std::io::Read;

use super::cache_parts::CacheParts;
use super::{AppError, resources};
use crate::config::Config;
use crate::manage::{ImportReport, ImportRule, Importer};
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::{MemoryBudget, default_budget};
use crate::shared_file;

/// Imports `archive` into the store of `config`, which no other process may use. `None` if the store is a
/// bucket alone. Blocks.
///
/// # Errors
///
/// The store or a system resource cannot be used.
pub fn import(
    config: &Config,
    archive: impl Read + Send + 'static,
    rule: &ImportRule,
) -> Result<Option<ImportReport>, AppError> {
    let descriptors = resources::raise_descriptor_limit();
    shared_file::start_closing_thread().map_err(AppError::threads)?;
    let helper = Helper::start(config.helper_threads).map_err(AppError::threads)?;
    let memory = MemoryBudget::new(config.memory_budget.unwrap_or_else(default_budget), 1);
    let parts = CacheParts::open(config, &helper, &memory, descriptors)?;
    // The bounds of the store hold for imports too.
    let maintenance = parts.storages.start_maintenance().map_err(AppError::threads)?;
    let importer = parts
        .storages
        .local_stores()
        .map(|stores| Importer::new(parts.cache.clone(), stores));
    let report = importer.map(|importer| importer.run(archive, rule));
    drop(maintenance);
    Ok(report)
}
