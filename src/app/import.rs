//! Imports an archive without a running cache: this process opens the store.

use std::io::Read;

use super::AppError;
use super::cache_parts::CacheParts;
use crate::config::Config;
use crate::manage::{ImportReport, ImportRule, Importer};

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
    let parts = CacheParts::open_for_command(config)?;
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
