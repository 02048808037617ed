//! SIGHUP: applies configuration changes without a restart.

use std::sync::Arc;

use crate::auth::ClientAuth;
use crate::config::{Config, Diagnostics, Live};
use crate::fail_point::hit;
use crate::server::tls::Acceptor;
use crate::upstream::Upstreams;

/// Runs `reload`. A panic in `reload` is a bug, and leaves the configuration unchanged.
pub(super) fn contained(reload: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(reload)).is_err() {
        tracing::error!("configuration reload panicked");
    }
}

/// Logs warnings and notices about the configuration in use.
pub(super) fn log_settings(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!(setting = %warning.what, reason = %warning.why, "configuration warning");
    }
    for name in config.registries.shared_by_default() {
        tracing::info!(registry = %name, access = "shared", "registry credentials used for all clients");
    }
}

/// Applies the settings that can change at runtime, and logs the settings that need a restart.
/// Requests in progress keep the earlier settings.
pub(super) fn reload(
    running: &Config,
    read: Result<Config, Diagnostics>,
    live: &Live,
    upstreams: &Upstreams,
    client_auth: &ClientAuth,
    acceptor: Option<&Acceptor>,
) {
    let new = match read {
        Ok(new) => new,
        Err(diagnostics) => {
            for diagnostic in &diagnostics.0 {
                tracing::error!(setting = %diagnostic.what, error = %diagnostic.why, "invalid setting");
            }
            let count = diagnostics.0.len();
            return tracing::error!(diagnostics = count, "configuration not reloaded");
        }
    };
    hit("reload");
    if let (Some(acceptor), Some(tls)) = (acceptor, &new.tls)
        && let Err(error) = acceptor.replace(super::tls::material(tls))
    {
        return tracing::error!(%error, "configuration not reloaded");
    }
    let registries = Arc::new(new.registries.clone());
    if let Err(error) = upstreams.reload(registries.clone()) {
        return tracing::error!(%error, "configuration not reloaded");
    }
    live.replace(registries);
    if let Err(error) = client_auth.replace(new.client_auth.clone()) {
        tracing::error!(%error, "client authentication not reloaded");
    }
    log_settings(&new);
    for key in running.needs_restart(&new) {
        tracing::warn!(setting = %key, "setting needs a restart");
    }
    tracing::info!(
        registries = new.registries.entries.len(),
        "configuration reloaded"
    );
}
