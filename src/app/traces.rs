//! The export of traces.

use super::AppError;
use crate::config::Config;
use crate::runtime::helper::Helper;
use crate::trace::TraceExporter;
use crate::upstream::service_client;

/// Starts the export of traces. `None` without an endpoint in the configuration.
///
/// # Errors
///
/// TLS cannot be set up.
pub(super) fn start(config: &Config, helper: &Helper) -> Result<Option<TraceExporter>, AppError> {
    let Some(settings) = config.traces.clone() else {
        return Ok(None);
    };
    // The URL has no password. The header fields may be secrets.
    tracing::info!(endpoint = %settings.endpoint, "trace export started");
    Ok(TraceExporter::start(settings, service_client()?, helper))
}
