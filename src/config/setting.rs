//! The table of settings: every scalar the operator can choose, under the three names it has.

use std::collections::BTreeMap;

use super::mistake::Place;

/// One scalar setting. Flags, environment, file and `--help` all read this table, so none can lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    ListenAddr,
    Cores,
    IoDriver,
    HelperThreads,
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
    LogLevel,
    AccessLog,
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
    /// Notes a value from the command line.
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
    /// In the order of `--help`.
    pub const ALL: [Setting; 26] = [
        Setting::ListenAddr,
        Setting::Cores,
        Setting::IoDriver,
        Setting::HelperThreads,
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
        Setting::LogLevel,
        Setting::AccessLog,
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
            Setting::Cores => ("CORES", "cores", "cores"),
            Setting::IoDriver => ("IO_DRIVER", "io-driver", "io_driver"),
            Setting::HelperThreads => ("HELPER_THREADS", "helper-threads", "helper_threads"),
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
            Setting::LogLevel => ("LOG_LEVEL", "log-level", "log_level"),
            Setting::AccessLog => ("ACCESS_LOG", "access-log", "access_log"),
            Setting::ConfigFile => ("CONFIG_FILE", "config-file", "config_file"),
        }
    }

    fn description(self) -> (Group, &'static str, &'static str) {
        match self {
            Setting::ListenAddr => (Group::Serving, ":8080", "address to listen on, or --port"),
            Setting::Cores => (Group::Serving, "auto", "cores that serve"),
            Setting::IoDriver => (Group::Serving, "auto", "auto, io_uring or epoll"),
            Setting::HelperThreads => (Group::Serving, "2", "threads that talk to upstreams"),
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
            Setting::LogLevel => (Group::Operation, "info", "trace, debug, info, warn or error"),
            Setting::AccessLog => (Group::Operation, "on", "one log line per request"),
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
