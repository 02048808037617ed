//! SIGHUP: what changes without a restart.

use crate::config::{Config, Mistakes};
use crate::fail_point::reach;
use crate::registry::FrontDoor;
use crate::server::tls::Acceptor;
use crate::upstream::Upstreams;

/// Runs `reload`; a panic in it is a bug, and leaves everything as it was.
pub(super) fn contained(reload: impl FnOnce()) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(reload)).is_err() {
        tracing::error!("the reload ended by a panic; this is a bug worth reporting");
    }
}

/// Says what the operator ought to know about a configuration that is used.
pub(super) fn tell(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for name in config.registries.shared_by_default() {
        tracing::info!(
            "registry {name}: everyone who reaches the cache reads what its credentials can read (access: shared)"
        );
    }
}

/// Takes over what can be, and says what cannot. Requests under way go on with what they began with.
pub(super) fn reload(
    running: &Config,
    read: Result<Config, Mistakes>,
    upstreams: &Upstreams,
    door: &FrontDoor,
    acceptor: Option<&Acceptor>,
) {
    let new = match read {
        Ok(new) => new,
        Err(mistakes) => {
            for mistake in &mistakes.0 {
                tracing::error!("{}: {}", mistake.what, mistake.why);
            }
            let count = mistakes.0.len();
            return tracing::error!(mistakes = count, "configuration not reloaded; the old one stays");
        }
    };
    reach("reload");
    if let (Some(acceptor), Some(tls)) = (acceptor, &new.tls)
        && let Err(error) = acceptor.replace(super::tls::material(tls))
    {
        return tracing::error!(%error, "configuration not reloaded; the old one stays");
    }
    if let Err(error) = upstreams.reload(new.registries.clone()) {
        return tracing::error!(%error, "configuration not reloaded; the old one stays");
    }
    if let Err(error) = door.replace(new.front_auth.clone()) {
        tracing::error!(%error, "who may come in was not reloaded; the old ones stay");
    }
    tell(&new);
    for key in running.needs_restart(&new) {
        tracing::warn!("{key} has changed and needs a restart");
    }
    tracing::info!(
        registries = new.registries.entries.len(),
        "configuration reloaded"
    );
}
