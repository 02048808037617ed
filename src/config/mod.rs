//! The configuration.
//!
//! The cache reads flags, environment, file and defaults at start into [`Config`]. No other module parses a setting. The
//! report contains all diagnostics, so an operator repairs all errors in a single restart.
//!
//! - `options`: the table of settings, with `value`, the kinds of values.
//! - `model`: plain types of the result.
//! - `sources`: flags, environment and YAML, with the place of each value.
//! - `resolve`: all sources into a [`Config`].
//! - `reload`, `print`, `schema`: uses of the table.
//!
//! Not here: the commands of the command line ([`crate::cli`]), and the use of the settings.

mod live;
mod model;
mod options;
mod print;
mod reload;
mod resolve;
mod schema;
mod sources;
mod value;

pub use live::Live;
pub use model::units::{BYTES_EXPECTED, parse_bytes, parse_duration, parse_go_duration, parse_pull_timeout};
pub use model::{
    ANONYMOUS, Access, Allow, AllowRule, Auth, BaseUrl, CertificatePattern, ClientAuthConfig,
    ClientCertificateConfig, DailyWindow, FollowRedirects, Glob, HTPASSWD_BYTES_MAX, Htpasswd, ImageFilter,
    ImagePattern, IoDriver, KernelTls, ListenAddr, LoadSettings, Mirror, Named, Overlap, Pem, Prefetch,
    Proxy, ProxyEnvironment, ProxyUrl, PruneRuleConfig, Registries, RegistryConfig, RegistryName,
    RegistrySettings, RootChoice, S3Settings, Sampler, SecretText, ServerIdentityConfig, ServerTls,
    SizeBound, SocketName, StorageConfig, StoreBounds, StoreDirs, SystemdEnvironment, TagFreshness,
    TagPattern, TagRule, Tls, TraceSettings, VerifyOnOpen, WarmRuleConfig, retain_newest,
};
pub use options::{Group, Setting, Values};
pub use print::print;
pub use resolve::{listen_addresses, resolve};
pub use schema::schema;
pub use sources::{Diagnostic, Diagnostics, Environment, FileText, Layer, Warning};
pub use value::{CORES_MAX, HELPER_THREADS_MAX, MAX_CONNECTIONS_MAX};

/// Returns whether a text is a value of a switch.
pub fn is_switch_value(text: &str) -> bool {
    model::units::parse_bool(text).is_some()
}

#[cfg(test)]
pub(crate) mod tests;

/// The resolved and checked configuration.
///
/// The fields of [`Values`] are fields of `Config` too: `config.drain_delay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The settings that are single values: a field per row of the table.
    pub values: Values,
    /// The listeners of the data port. Never empty.
    pub listen: Vec<ListenAddr>,
    /// TLS towards clients. Set if a listener uses TLS.
    pub tls: Option<ServerTls>,
    pub storage: StorageConfig,
    /// The environment that systemd passes.
    pub systemd: SystemdEnvironment,
    /// Settings of upstreams, named and unnamed.
    pub registries: Registries,
    /// Proxies of the environment.
    pub proxies: ProxyEnvironment,
    /// The export of traces. `None` means that the cache records no traces.
    pub traces: Option<TraceSettings>,
    /// Client authentication. `None` means that every client is accepted.
    pub client_auth: Option<ClientAuthConfig>,
    /// The rules that remove stored images in the background.
    pub prune: Vec<PruneRuleConfig>,
    /// The rules that keep images in the store up to date.
    pub warm: Vec<WarmRuleConfig>,
    /// Messages for the log about settings that have no effect, or that are probably mistakes.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Returns the settings of loads.
    pub fn load_settings(&self) -> LoadSettings {
        LoadSettings {
            platforms: self.load_platforms.clone(),
            pull_timeout: self.pull_timeout,
        }
    }

    /// Returns the bounds of the local store.
    pub fn store_bounds(&self) -> StoreBounds {
        StoreBounds {
            size_max: self.cache_max_size,
            free_min: self.cache_min_free,
            object_max: self.cache_max_object_size,
        }
    }
}

impl std::ops::Deref for Config {
    type Target = Values;

    fn deref(&self) -> &Values {
        &self.values
    }
}
