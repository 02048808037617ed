//! The table of settings: every scalar the operator can choose, under the three names it has.

use std::collections::BTreeMap;

use super::diagnostics::Place;

/// One scalar setting. Flags, environment, file and `--help` all read this table, so none can lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    ListenAddr,
    TlsCertFile,
    TlsKeyFile,
    TlsClientCaFile,
    TlsClientAuth,
    GenerateSelfSignedTls,
    KernelTls,
    Cores,
    IoDriver,
    HelperThreads,
    MaxConnections,
    MaxConnectionsPerClient,
    MemoryBudget,
    StorageBackend,
    FsRoot,
    SpoolDir,
    S3Bucket,
    S3Prefix,
    S3ForcePathStyle,
    S3LifecycleDays,
    S3Redirect,
    MemoryCache,
    DefaultRegistry,
    CacheTagManifests,
    CacheLatestTag,
    TagTtl,
    AlwaysPullLatest,
    StaleWhileRevalidate,
    WhitelistMode,
    AirGapped,
    RegistryHeader,
    ClientLogin,
    AuthUsername,
    AuthPassword,
    AuthPasswordFile,
    AuthHtpasswdFile,
    LogLevel,
    AccessLog,
    DrainTimeout,
    DrainDelay,
    ConfigFile,
}

/// A heading of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Serving,
    Storage,
    Content,
    Operation,
}

/// A value as written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub text: String,
    pub place: Place,
}

/// What one source (flags, environment, file) says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layer(BTreeMap<Setting, Given>);

impl Layer {
    /// Inserts a value from the command line.
    pub fn insert_flag(&mut self, setting: Setting, text: String) {
        self.insert(
            setting,
            Given {
                text,
                place: Place::Flag(setting.flag()),
            },
        );
    }

    /// What it says about `setting`, as written.
    pub fn text(&self, setting: Setting) -> Option<&str> {
        self.find(setting).map(|given| given.text.as_str())
    }

    pub(crate) fn insert(&mut self, setting: Setting, given: Given) {
        self.0.insert(setting, given);
    }

    pub(crate) fn find(&self, setting: Setting) -> Option<&Given> {
        self.0.get(&setting)
    }
}

impl Setting {
    /// Returns whether it is a setting of client authentication; those make one value together.
    pub(super) fn is_client_auth(self) -> bool {
        matches!(
            self,
            Setting::AuthUsername
                | Setting::AuthPassword
                | Setting::AuthPasswordFile
                | Setting::AuthHtpasswdFile
        )
    }

    /// In the order of `--help`.
    pub const ALL: [Setting; 41] = [
        Setting::ListenAddr,
        Setting::TlsCertFile,
        Setting::TlsKeyFile,
        Setting::TlsClientCaFile,
        Setting::TlsClientAuth,
        Setting::GenerateSelfSignedTls,
        Setting::KernelTls,
        Setting::Cores,
        Setting::IoDriver,
        Setting::HelperThreads,
        Setting::MaxConnections,
        Setting::MaxConnectionsPerClient,
        Setting::MemoryBudget,
        Setting::StorageBackend,
        Setting::FsRoot,
        Setting::SpoolDir,
        Setting::S3Bucket,
        Setting::S3Prefix,
        Setting::S3ForcePathStyle,
        Setting::S3LifecycleDays,
        Setting::S3Redirect,
        Setting::MemoryCache,
        Setting::DefaultRegistry,
        Setting::CacheTagManifests,
        Setting::CacheLatestTag,
        Setting::TagTtl,
        Setting::AlwaysPullLatest,
        Setting::StaleWhileRevalidate,
        Setting::WhitelistMode,
        Setting::AirGapped,
        Setting::RegistryHeader,
        Setting::ClientLogin,
        Setting::AuthUsername,
        Setting::AuthPassword,
        Setting::AuthPasswordFile,
        Setting::AuthHtpasswdFile,
        Setting::LogLevel,
        Setting::AccessLog,
        Setting::DrainTimeout,
        Setting::DrainDelay,
        Setting::ConfigFile,
    ];

    /// Name in the environment.
    pub fn env(self) -> &'static str {
        self.names().0
    }

    /// Name of the flag, without its dashes.
    pub fn flag(self) -> &'static str {
        self.names().1
    }

    /// Key in the file; the configuration file cannot name a configuration file.
    pub fn key(self) -> Option<&'static str> {
        (self != Setting::ConfigFile).then(|| self.names().2)
    }

    /// What an absent value means, in the words an operator would use; it is parsed like any other.
    pub fn default_text(self) -> &'static str {
        self.description().1
    }

    /// Whether an absent value means that there is none, so that nothing could be written for it.
    pub(super) fn is_nothing_by_default(self) -> bool {
        self.default_text() == "none"
    }

    pub fn group(self) -> Group {
        self.description().0
    }

    /// Half a line for `--help`.
    pub fn summary(self) -> &'static str {
        self.description().2
    }

    fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Setting::ListenAddr => ("LISTEN_ADDR", "listen-addr", "listen_addr"),
            Setting::TlsCertFile => ("TLS_CERT_FILE", "tls-cert-file", "tls_cert_file"),
            Setting::TlsKeyFile => ("TLS_KEY_FILE", "tls-key-file", "tls_key_file"),
            Setting::TlsClientCaFile => ("TLS_CLIENT_CA_FILE", "tls-client-ca-file", "tls_client_ca_file"),
            Setting::TlsClientAuth => ("TLS_CLIENT_AUTH", "tls-client-auth", "tls_client_auth"),
            Setting::GenerateSelfSignedTls => (
                "GENERATE_SELF_SIGNED_TLS",
                "generate-self-signed-tls",
                "generate_self_signed_tls",
            ),
            Setting::KernelTls => ("KERNEL_TLS", "kernel-tls", "kernel_tls"),
            Setting::Cores => ("CORES", "cores", "cores"),
            Setting::IoDriver => ("IO_DRIVER", "io-driver", "io_driver"),
            Setting::HelperThreads => ("HELPER_THREADS", "helper-threads", "helper_threads"),
            Setting::MaxConnections => ("MAX_CONNECTIONS", "max-connections", "max_connections"),
            Setting::MaxConnectionsPerClient => (
                "MAX_CONNECTIONS_PER_CLIENT",
                "max-connections-per-client",
                "max_connections_per_client",
            ),
            Setting::MemoryBudget => ("MEMORY_BUDGET", "memory-budget", "memory_budget"),
            Setting::StorageBackend => ("STORAGE_BACKEND", "storage-backend", "storage_backend"),
            Setting::FsRoot => ("FS_ROOT", "fs-root", "fs_root"),
            Setting::SpoolDir => ("SPOOL_DIR", "spool-dir", "spool_dir"),
            Setting::S3Bucket => ("S3_BUCKET", "s3-bucket", "s3_bucket"),
            Setting::S3Prefix => ("S3_PREFIX", "s3-prefix", "s3_prefix"),
            Setting::S3ForcePathStyle => (
                "S3_FORCE_PATH_STYLE",
                "s3-force-path-style",
                "s3_force_path_style",
            ),
            Setting::S3LifecycleDays => ("S3_LIFECYCLE_DAYS", "s3-lifecycle-days", "s3_lifecycle_days"),
            Setting::S3Redirect => ("S3_REDIRECT", "s3-redirect", "s3_redirect"),
            Setting::MemoryCache => ("MEMORY_CACHE", "memory-cache", "memory_cache"),
            Setting::DefaultRegistry => ("DEFAULT_REGISTRY", "default-registry", "default_registry"),
            Setting::CacheTagManifests => (
                "CACHE_TAG_MANIFESTS",
                "cache-tag-manifests",
                "cache_tag_manifests",
            ),
            Setting::CacheLatestTag => ("CACHE_LATEST_TAG", "cache-latest-tag", "cache_latest_tag"),
            Setting::TagTtl => ("TAG_TTL", "tag-ttl", "tag_ttl"),
            Setting::AlwaysPullLatest => ("ALWAYS_PULL_LATEST", "always-pull-latest", "always_pull_latest"),
            Setting::StaleWhileRevalidate => (
                "STALE_WHILE_REVALIDATE",
                "stale-while-revalidate",
                "stale_while_revalidate",
            ),
            Setting::WhitelistMode => ("WHITELIST_MODE", "whitelist-mode", "whitelist_mode"),
            Setting::AirGapped => ("AIR_GAPPED", "air-gapped", "air_gapped"),
            Setting::RegistryHeader => ("REGISTRY_HEADER", "registry-header", "registry_header"),
            Setting::ClientLogin => ("CLIENT_LOGIN", "client-login", "client_login"),
            Setting::AuthUsername => ("AUTH_USERNAME", "auth-username", "auth_username"),
            Setting::AuthPassword => ("AUTH_PASSWORD", "auth-password", "auth_password"),
            Setting::AuthPasswordFile => ("AUTH_PASSWORD_FILE", "auth-password-file", "auth_password_file"),
            Setting::AuthHtpasswdFile => ("AUTH_HTPASSWD_FILE", "auth-htpasswd-file", "auth_htpasswd_file"),
            Setting::LogLevel => ("LOG_LEVEL", "log-level", "log_level"),
            Setting::AccessLog => ("ACCESS_LOG", "access-log", "access_log"),
            Setting::DrainTimeout => ("DRAIN_TIMEOUT", "drain-timeout", "drain_timeout"),
            Setting::DrainDelay => ("DRAIN_DELAY", "drain-delay", "drain_delay"),
            Setting::ConfigFile => ("CONFIG_FILE", "config-file", "config_file"),
        }
    }

    fn description(self) -> (Group, &'static str, &'static str) {
        match self {
            Setting::ListenAddr => (Group::Serving, ":8080", "address to listen on, or --port"),
            Setting::TlsCertFile => (Group::Serving, "none", "certificate and chain for https, PEM"),
            Setting::TlsKeyFile => (Group::Serving, "none", "its key, PEM"),
            Setting::TlsClientCaFile => (Group::Serving, "none", "authority of clients' certificates"),
            Setting::TlsClientAuth => (Group::Serving, "auto", "auto, none, optional or verify"),
            Setting::GenerateSelfSignedTls => (Group::Serving, "false", "https with a certificate made here"),
            Setting::KernelTls => (Group::Serving, "off", "off, or auto: the kernel encrypts"),
            Setting::Cores => (Group::Serving, "auto", "cores that serve"),
            Setting::IoDriver => (Group::Serving, "auto", "auto, io_uring or epoll"),
            Setting::HelperThreads => (Group::Serving, "2", "threads that talk to upstreams"),
            Setting::MaxConnections => (Group::Serving, "auto", "connections of all clients"),
            Setting::MaxConnectionsPerClient => (Group::Serving, "1000", "of one address; 0: any number"),
            Setting::MemoryBudget => (Group::Serving, "auto", "memory for requests in progress"),
            Setting::StorageBackend => (Group::Storage, "auto", "fs, s3, or tiered: fs in front of s3"),
            Setting::FsRoot => (
                Group::Storage,
                super::resolve::FS_ROOT_DEFAULT,
                "directory of the store",
            ),
            Setting::SpoolDir => (Group::Storage, "auto", "where what is uploaded waits"),
            Setting::S3Bucket => (Group::Storage, "oci-cache", "bucket of the shared store"),
            Setting::S3Prefix => (Group::Storage, "none", "what keys in it begin with"),
            Setting::S3ForcePathStyle => (Group::Storage, "true", "bucket in the path, not in the host"),
            Setting::S3LifecycleDays => (Group::Storage, "28", "removed by the bucket after; 0: never"),
            Setting::S3Redirect => (Group::Storage, "false", "send clients to the bucket"),
            Setting::MemoryCache => (Group::Storage, "64MiB", "memory per core for small objects"),
            Setting::DefaultRegistry => (Group::Content, "docker.io", "registry of names without one"),
            Setting::CacheTagManifests => (Group::Content, "true", "remember which digest a tag means"),
            Setting::CacheLatestTag => (Group::Content, "false", "do so for the tag `latest` too"),
            Setting::TagTtl => (Group::Content, "60s", "how long a tag is believed"),
            Setting::AlwaysPullLatest => (Group::Content, "false", "ask for `latest` each time"),
            Setting::StaleWhileRevalidate => (Group::Content, "0s", "then: answer first, ask behind"),
            Setting::WhitelistMode => (Group::Content, "false", "only registries of the file exist"),
            Setting::AirGapped => (Group::Content, "false", "never contact a registry"),
            Setting::RegistryHeader => (Group::Content, "false", "X-Registry may choose the registry"),
            Setting::ClientLogin => (Group::Content, "false", "ask clients for their own logins"),
            Setting::AuthUsername => (Group::Content, "none", "who may use the cache at all"),
            Setting::AuthPassword => (Group::Content, "none", "better in AUTH_PASSWORD_FILE"),
            Setting::AuthPasswordFile => (Group::Content, "none", "file with that password"),
            Setting::AuthHtpasswdFile => (Group::Content, "none", "file with users and bcrypt hashes"),
            Setting::LogLevel => (Group::Operation, "info", "trace, debug, info, warn or error"),
            Setting::AccessLog => (Group::Operation, "on", "one log line per request"),
            Setting::DrainTimeout => (Group::Operation, "30s", "for running responses after SIGTERM"),
            Setting::DrainDelay => (Group::Operation, "0s", "before that: not ready, still serving"),
            Setting::ConfigFile => (Group::Operation, "none", "or -c; YAML: all of these and more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_names_of_a_setting_follow_from_each_other() {
        for setting in Setting::ALL {
            assert_eq!(
                setting.env().to_ascii_lowercase(),
                setting.flag().replace('-', "_")
            );
            assert!(
                setting
                    .key()
                    .is_none_or(|key| key == setting.env().to_ascii_lowercase())
            );
        }
    }
}
