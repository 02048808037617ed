//! SIGHUP: applies configuration changes without a restart.

use std::sync::Arc;

use super::AppError;
use crate::auth::ClientAuth;
use crate::config::{ClientAuthConfig, Config, Diagnostics, Live, Registries, RegistryName, ServerTls};
use crate::fail_point::hit;
use crate::manage::{BackgroundPrune, BackgroundWarm};
use crate::metrics;
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

/// The parts of the process that a reload changes.
pub(super) struct Parts<'a> {
    pub live: &'a Live,
    pub upstreams: &'a Upstreams,
    pub client_auth: &'a ClientAuth,
    pub acceptor: Option<&'a Acceptor>,
    pub prune: Option<&'a BackgroundPrune>,
    pub warm: Option<&'a BackgroundWarm>,
}

impl Parts<'_> {
    /// Applies the settings that can change at runtime, and logs the settings that need a restart.
    /// Requests in progress keep the earlier settings. An error changes nothing.
    pub(super) fn reload(&self, running: &Config, read: Result<Config, Diagnostics>) {
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
        let registries = Arc::new(new.registries.clone());
        if let Err(error) = self.apply(registries, new.tls.as_ref(), new.client_auth.clone()) {
            return tracing::error!(%error, "configuration not reloaded");
        }
        if let Some(prune) = self.prune {
            prune.replace(&new.prune);
        }
        if let Some(warm) = self.warm {
            warm.replace(&new.warm);
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

    fn apply(
        &self,
        registries: Arc<Registries>,
        tls: Option<&ServerTls>,
        client_auth: Option<ClientAuthConfig>,
    ) -> Result<(), AppError> {
        // Every step that can fail comes before the first change.
        let client_auth = self.client_auth.prepare(client_auth).map_err(AppError::threads)?;
        let material = match (self.acceptor, tls) {
            (Some(acceptor), Some(tls)) => acceptor.prepare(super::tls::material(tls))?,
            _ => None,
        };
        self.upstreams.reload(registries.clone())?;
        label_registries(&registries);
        self.live.replace(registries);
        client_auth.apply();
        if let Some(material) = material {
            material.apply();
        }
        Ok(())
    }
}

/// Gives the configured registries labels of their own in the metrics.
pub(super) fn label_registries(registries: &Registries) {
    let exact = registries.entries.iter().filter_map(|entry| match &entry.name {
        RegistryName::Exact(name) => Some(name.as_str()),
        RegistryName::Suffix(_) => None,
    });
    metrics::configure_registries(exact);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::tls::material;
    use crate::config::{
        ClientCertificateConfig, Pem, ProxyEnvironment, RegistryConfig, SecretText, ServerIdentityConfig,
    };
    use crate::server::tls::KtlsSupport;

    fn registries(names: &[&str]) -> Arc<Registries> {
        let entries = names
            .iter()
            .map(|name| RegistryConfig::named(name.parse().unwrap()));
        Arc::new(Registries {
            entries: entries.collect(),
            ..Registries::default()
        })
    }

    /// Returns a self-signed identity that requests client certificates of the authority `roots`.
    fn tls(roots: Option<&str>) -> ServerTls {
        ServerTls {
            identity: ServerIdentityConfig::SelfSigned,
            clients: roots.map_or(ClientCertificateConfig::NotRequested, |text| {
                ClientCertificateConfig::Requested {
                    roots: Some(Pem {
                        path: "roots.pem".into(),
                        text: SecretText::new(text.to_owned()),
                    }),
                    required: true,
                }
            }),
        }
    }

    #[test]
    fn reload_with_an_unusable_part_changes_nothing() {
        let live = Live::new(Registries::default());
        let upstreams = Upstreams::new(live.registries(), ProxyEnvironment::default()).unwrap();
        let client_auth = ClientAuth::new(None).unwrap();
        let acceptor = Acceptor::new(material(&tls(None)), KtlsSupport::NONE).unwrap();
        let parts = Parts {
            live: &live,
            upstreams: &upstreams,
            client_auth: &client_auth,
            acceptor: Some(&acceptor),
            prune: None,
            warm: None,
        };
        let generations = || (live.generation(), client_auth.generation());
        let before = generations();
        let roots = rcgen::generate_simple_self_signed(["a".to_owned()])
            .unwrap()
            .cert
            .pem();
        let new = || Some(ClientAuthConfig::default());

        // Two names of one registry.
        let twice = registries(&["docker.io", "index.docker.io"]);
        let result = parts.apply(twice, Some(&tls(Some(&roots))), new());
        assert!(matches!(result, Err(AppError::Upstream(_))), "{result:?}");
        let once = registries(&["docker.io"]);
        let result = parts.apply(once.clone(), Some(&tls(Some("no certificate"))), new());
        assert!(matches!(result, Err(AppError::Tls(_))), "{result:?}");
        assert_eq!(generations(), before);
        assert!(!acceptor.replace(material(&tls(None))).unwrap());

        parts.apply(once, Some(&tls(Some(&roots))), new()).unwrap();
        assert!(live.generation() > before.0 && client_auth.generation() > before.1);
        assert!(!acceptor.replace(material(&tls(Some(&roots)))).unwrap());
    }
}
