//! What the operator asked for.
//!
//! Flags, environment, file and defaults are read once, at start, into [`Config`]; nothing behind this
//! module parses a setting again. Every diagnostic is collected before the report, so that an operator
//! repairs all errors in one restart.
//!
//! Not here: the command line's commands ([`crate::cli`]) and acting on any of it.

mod allow;
mod auth;
mod client_auth;
mod diagnostics;
mod entry;
mod environment;
mod file;
mod glob;
mod htpasswd;
mod listen;
mod live;
mod partial_registry;
mod print;
mod proxy;
mod reader;
mod registry;
mod reload;
mod resolve;
mod s3;
mod schema;
mod schema_tables;
mod secret;
mod server_tls;
mod setting;
mod suggest;
mod systemd_env;
mod tag_rule;
mod tls;
mod units;
mod yaml;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use allow::{ANONYMOUS, Allow, AllowRule};
pub use client_auth::{CertificatePattern, ClientAuthConfig};
pub use diagnostics::{Diagnostic, Diagnostics, Warning};
pub use environment::{Environment, FileText};
pub use glob::Glob;
pub use htpasswd::{HTPASSWD_BYTES_MAX, Htpasswd};
pub use listen::ListenAddr;
pub use live::Live;
pub use print::print;
pub use registry::{
    Access, Auth, FollowRedirects, Mirror, Named, Pem, Proxy, ProxyUrl, Registries, RegistryConfig,
    RegistryName, RegistrySettings, TagFreshness, Tls,
};
pub use resolve::{listen_addresses, resolve};
pub use s3::S3Settings;
pub use schema::schema;
pub use secret::SecretText;
pub use server_tls::{ClientCertificateConfig, ServerIdentityConfig, ServerTls};
pub use setting::{Group, Layer, Setting};
pub use systemd_env::{SocketName, SystemdEnvironment};
pub use tag_rule::{TagPattern, TagRule};

/// Whether a text is one of the values that a switch takes.
pub fn is_switch_value(text: &str) -> bool {
    units::parse_bool(text).is_some()
}

use crate::oci::Namespace;

#[cfg(test)]
pub(crate) mod tests;

/// Everything the operator can choose, resolved and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where the data port listens; never empty.
    pub listen: Vec<ListenAddr>,
    /// What its TLS listeners show; some when there is one.
    pub tls: Option<ServerTls>,
    pub kernel_tls: KernelTls,
    pub storage: StorageConfig,
    /// How many cores serve; `None` means as many as the process may use.
    pub cores: Option<NonZeroUsize>,
    pub io_driver: IoDriver,
    /// Threads of the helper pool, 1 to [`HELPER_THREADS_MAX`].
    pub helper_threads: NonZeroUsize,
    /// Connections of all clients together; `None`: what descriptors allow.
    pub max_connections: Option<NonZeroUsize>,
    /// Connections of one client address, or IPv6 network; 0: any number.
    pub max_connections_per_client: usize,
    /// Bytes that fetches and responses in flight may take; `None`: a share of the memory that the process may use.
    pub memory_budget: Option<u64>,
    /// The registry of requests that name none; `None`: they have to name one.
    pub default_registry: Option<Namespace>,
    /// Whether tags are remembered at all. Manifests by digest always are.
    pub cache_tag_manifests: bool,
    /// Whether the tag `latest` is remembered too; needs `cache_tag_manifests`.
    pub cache_latest_tag: bool,
    /// How long a tag is served without asking its upstream again.
    pub tag_ttl: Duration,
    pub log_level: LogLevel,
    /// Whether each request gets a line in the log.
    pub access_log: bool,
    /// How long running responses may take after a stop signal.
    pub drain_timeout: Duration,
    /// How long after a stop signal everything but readiness goes on.
    pub drain_delay: Duration,
    /// The environment that systemd passes.
    pub systemd: SystemdEnvironment,
    /// Bytes each core may spend on hot small objects; 0 turns that cache off.
    pub memory_cache_bytes: u64,
    /// What is chosen for upstreams, named and unnamed.
    pub registries: Registries,
    /// Proxies of the environment.
    pub proxies: ProxyEnvironment,
    /// Whether `latest` is asked for every time, whatever `cache_latest_tag` and the tag rules say.
    pub always_pull_latest: bool,
    /// How long after its lifetime a tag is still answered at once, and asked for in the background.
    pub stale_while_revalidate: Duration,
    /// Whether a request may choose its registry with the field `X-Registry`.
    pub registry_header: bool,
    /// Whether `/v2/` requests the registry credentials of clients; never together with `client_auth`.
    pub client_login: bool,
    /// Client authentication; `None`: every client is accepted.
    pub client_auth: Option<ClientAuthConfig>,
    /// What is understood and not done, or allowed and probably not meant; for the log.
    pub warnings: Vec<Warning>,
}

/// `HTTPS_PROXY` and its relatives, as the environment has them; empty ones count as absent.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ProxyEnvironment {
    pub https: Option<ProxyUrl>,
    pub http: Option<ProxyUrl>,
    /// `NO_PROXY`: hosts, domains, addresses and networks, comma-separated.
    pub no_proxy: String,
}

impl std::fmt::Debug for ProxyEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyEnvironment")
            .field("https", &self.https)
            .field("http", &self.http)
            .field("no_proxy", &self.no_proxy)
            .finish()
    }
}

/// Upper bound of `HELPER_THREADS`: upstream traffic is bounded by the network long before 64 threads are busy.
pub const HELPER_THREADS_MAX: usize = 64;

/// Upper bound of `CORES`: what `cpu_set_t` can name, so that a larger number is certainly a typing error.
pub const CORES_MAX: usize = 1024;

/// Upper bound of `MAX_CONNECTIONS`: what a process can have as descriptors on usual kernels (`fs.nr_open`).
pub const MAX_CONNECTIONS_MAX: usize = 1_048_576;

/// Where content is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageConfig {
    /// A directory of a local file system.
    Fs { root: PathBuf, chosen: RootChoice },
    /// A bucket alone; what is on its way there waits in `spool`.
    S3 { s3: S3Settings, spool: PathBuf },
    /// A directory in front of a bucket.
    Tiered {
        root: PathBuf,
        chosen: RootChoice,
        s3: S3Settings,
        spool: PathBuf,
    },
}

impl StorageConfig {
    /// The local store, where there is one.
    pub fn root(&self) -> Option<(&Path, RootChoice)> {
        match self {
            StorageConfig::Fs { root, chosen } | StorageConfig::Tiered { root, chosen, .. } => {
                Some((root, *chosen))
            }
            StorageConfig::S3 { .. } => None,
        }
    }

    /// The bucket, where there is one.
    pub fn s3(&self) -> Option<&S3Settings> {
        match self {
            StorageConfig::S3 { s3, .. } | StorageConfig::Tiered { s3, .. } => Some(s3),
            StorageConfig::Fs { .. } => None,
        }
    }

    /// As `STORAGE_BACKEND` names it.
    pub fn backend(&self) -> &'static str {
        match self {
            StorageConfig::Fs { .. } => "fs",
            StorageConfig::S3 { .. } => "s3",
            StorageConfig::Tiered { .. } => "tiered",
        }
    }
}

impl std::fmt::Display for StorageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.backend())?;
        let root = self.root().map(|(root, _)| root.display().to_string());
        let bucket = self.s3().map(|s3| format!("{}/{}", s3.bucket, s3.prefix));
        let places: Vec<String> = root.into_iter().chain(bucket).collect();
        write!(f, ":{}", places.join(" before "))
    }
}

/// Why the store is where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootChoice {
    /// The operator said so.
    Given,
    /// Nobody said anything, and the usual place is usable.
    Default,
    /// Nobody said anything and the usual place cannot be written: the user's cache directory. Worth a log line.
    UserCache,
    /// As `UserCache`, but there is no home either: a place below the temporary directory, which the
    /// system may clear. Worth a warning.
    Temporary,
}

/// Who encrypts what TLS clients are sent, after their handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelTls {
    /// This process.
    Off,
    /// The kernel, where it can and the session is of a kind that it knows; else this process.
    Auto,
}

/// How the cores wait for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring where the kernel allows it, otherwise epoll.
    Auto,
    /// io_uring, or the start fails.
    IoUring,
    Epoll,
}

/// The least important line that is still written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Trace => tracing::Level::TRACE,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Error => tracing::Level::ERROR,
        }
    }
}
