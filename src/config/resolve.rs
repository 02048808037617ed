//! From what was written in four places to one [`Config`].

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::client_auth::ClientAuthOrigins;
use super::diagnostics::{Diagnostic, Diagnostics, Place, Warning};
use super::file::{self, File};
use super::partial_registry::Entry;
use super::server_tls::ClientCertificateConfig;
use super::setting::{Given, Layer, Setting};
use super::units::{self, BOOL_ACCEPTED, BYTES_ACCEPTED, DURATION_ACCEPTED};
use super::{
    CORES_MAX, Config, Environment, HELPER_THREADS_MAX, IoDriver, KernelTls, ListenAddr, LogLevel,
    MAX_CONNECTIONS_MAX, Named, Registries, RootChoice, S3Settings, StorageConfig, SystemdEnvironment, allow,
    proxy, s3,
};
use crate::oci::Namespace;

/// Where the store is when nobody says otherwise and it can be written.
pub(super) const FS_ROOT_DEFAULT: &str = "/data/oci-cache";

/// The directory's name below a user's cache directory.
const USER_CACHE_NAME: &str = "oci-pull-through";

/// Environment that, as a named bucket does, selects S3 in the absence of `STORAGE_BACKEND`.
const S3_SIGNS: [&str; 2] = ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"];

const BACKEND_ACCEPTED: &str = "auto, fs, s3 or tiered";

/// Words of [`Setting::StorageBackend`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backend {
    Fs,
    S3,
    Tiered,
}

/// Resolves the whole configuration: flag over environment over file over default.
///
/// A value that is overridden is not judged, so a flag can repair a broken environment. A variable that
/// is set but empty counts as absent: that is how compose files and unit files say "not set".
///
/// # Errors
///
/// All diagnostics of the configuration.
pub fn resolve(flags: Layer, environment: Environment<'_>) -> Result<Config, Diagnostics> {
    load(flags, environment).map(|(config, _)| config)
}

/// As [`resolve`], with the places that the values came from.
pub(super) fn load<'a>(
    flags: Layer,
    environment: Environment<'a>,
) -> Result<(Config, Sources<'a>), Diagnostics> {
    let mut sources = Sources::load(flags, environment);

    let listen = sources.listen();
    let before = sources.diagnostics.len();
    let tls = sources.server_tls();
    // After a TLS error, a dependent check would report the same error twice.
    let clients = (sources.diagnostics.len() == before).then(|| {
        tls.as_ref()
            .map_or(ClientCertificateConfig::NotRequested, |tls| tls.clients.clone())
    });
    let cores = sources.parse(
        Setting::Cores,
        &format!("auto or a number from 1 to {CORES_MAX}"),
        |text| match text {
            "auto" => Some(None),
            _ => parse_count(text, CORES_MAX).map(Some),
        },
    );
    let io_driver = sources.parse(Setting::IoDriver, "auto, io_uring or epoll", |text| match text {
        "auto" => Some(IoDriver::Auto),
        "io_uring" => Some(IoDriver::IoUring),
        "epoll" => Some(IoDriver::Epoll),
        _ => None,
    });
    let kernel_tls = sources.parse(Setting::KernelTls, "off or auto", |text| match text {
        "off" => Some(KernelTls::Off),
        "auto" => Some(KernelTls::Auto),
        _ => None,
    });
    let helper_threads = sources.parse(
        Setting::HelperThreads,
        &format!("a number from 1 to {HELPER_THREADS_MAX}"),
        |text| parse_count(text, HELPER_THREADS_MAX),
    );
    let max_connections = sources.parse(
        Setting::MaxConnections,
        &format!("auto or a number from 1 to {MAX_CONNECTIONS_MAX}"),
        |text| match text {
            "auto" => Some(None),
            _ => parse_count(text, MAX_CONNECTIONS_MAX).map(Some),
        },
    );
    let max_connections_per_client = sources.parse(
        Setting::MaxConnectionsPerClient,
        &format!("a number from 0 to {MAX_CONNECTIONS_MAX}"),
        |text| text.parse().ok().filter(|&count| count <= MAX_CONNECTIONS_MAX),
    );
    let memory_budget = sources.parse(
        Setting::MemoryBudget,
        &format!("auto or {BYTES_ACCEPTED}"),
        |text| match text {
            "auto" => Some(None),
            _ => units::parse_bytes(text).map(Some),
        },
    );
    let default_registry = sources.parse(
        Setting::DefaultRegistry,
        "a registry, `host` or `host:port`, or none",
        |text| match text {
            // In ociregistry's files the empty text, its default, says that names need a registry.
            "" | "none" => Some(None),
            _ => text.parse::<Namespace>().ok().map(Some),
        },
    );
    let cache_tag_manifests = sources.parse(Setting::CacheTagManifests, BOOL_ACCEPTED, units::parse_bool);
    let cache_latest_tag = sources.parse(Setting::CacheLatestTag, BOOL_ACCEPTED, units::parse_bool);
    let tag_ttl = sources.parse(Setting::TagTtl, DURATION_ACCEPTED, units::parse_duration);
    let always_pull_latest = sources.parse(Setting::AlwaysPullLatest, BOOL_ACCEPTED, units::parse_bool);
    let stale_while_revalidate = sources.parse(
        Setting::StaleWhileRevalidate,
        DURATION_ACCEPTED,
        units::parse_duration,
    );
    let whitelist_mode = sources.parse(Setting::WhitelistMode, BOOL_ACCEPTED, units::parse_bool);
    let air_gapped = sources.parse(Setting::AirGapped, BOOL_ACCEPTED, units::parse_bool);
    let registry_header = sources.parse(Setting::RegistryHeader, BOOL_ACCEPTED, units::parse_bool);
    let client_login = sources.parse(Setting::ClientLogin, BOOL_ACCEPTED, units::parse_bool);
    let log_level = sources.parse(
        Setting::LogLevel,
        "trace, debug, info, warn or error",
        |text| match text.to_ascii_lowercase().as_str() {
            "trace" => Some(LogLevel::Trace),
            "debug" => Some(LogLevel::Debug),
            "info" => Some(LogLevel::Info),
            "warn" => Some(LogLevel::Warn),
            "error" => Some(LogLevel::Error),
            _ => None,
        },
    );
    let access_log = sources.parse(Setting::AccessLog, BOOL_ACCEPTED, units::parse_bool);
    let drain_timeout = sources.parse(Setting::DrainTimeout, DURATION_ACCEPTED, units::parse_duration);
    let drain_delay = sources.parse(Setting::DrainDelay, DURATION_ACCEPTED, units::parse_duration);
    let memory_cache_bytes = sources.parse(Setting::MemoryCache, BYTES_ACCEPTED, units::parse_bytes);
    let proxies = proxy::of_environment(environment, &mut sources.diagnostics);
    let systemd = SystemdEnvironment::of_environment(environment, &mut sources.diagnostics);
    let backend = sources.backend();
    let s3 = sources.s3();
    let client_auth = sources.client_auth(clients.as_ref());
    sources.check_listen(listen.as_deref());
    sources.check_client_login(client_login == Some(true));

    if !sources.diagnostics.is_empty() {
        return Err(Diagnostics(sources.diagnostics));
    }
    // Only now, because looking for a usable root makes directories: a refused start leaves no trace.
    let storage = backend.zip(s3).map(|(backend, s3)| sources.storage(backend, s3));
    if matches!(
        storage,
        Some(StorageConfig::S3 { .. } | StorageConfig::Tiered { .. })
    ) {
        let exposed = s3::exposed_credentials(sources.environment);
        sources.warnings.extend(exposed);
    }
    let (
        Some(storage),
        Some(listen),
        Some(cores),
        Some(io_driver),
        Some(kernel_tls),
        Some(helper_threads),
        Some(max_connections),
        Some(max_connections_per_client),
        Some(memory_budget),
        Some(default_registry),
        Some(cache_tag_manifests),
        Some(cache_latest_tag),
        Some(tag_ttl),
        Some(always_pull_latest),
        Some(stale_while_revalidate),
        Some(whitelist_mode),
        Some(air_gapped),
        Some(registry_header),
        Some(client_login),
        Some(log_level),
        Some(access_log),
        Some(drain_timeout),
        Some(drain_delay),
        Some(memory_cache_bytes),
    ) = (
        storage,
        listen,
        cores,
        io_driver,
        kernel_tls,
        helper_threads,
        max_connections,
        max_connections_per_client,
        memory_budget,
        default_registry,
        cache_tag_manifests,
        cache_latest_tag,
        tag_ttl,
        always_pull_latest,
        stale_while_revalidate,
        whitelist_mode,
        air_gapped,
        registry_header,
        client_login,
        log_level,
        access_log,
        drain_timeout,
        drain_delay,
        memory_cache_bytes,
    )
    else {
        unreachable!("`Sources::parse` returns `None` only after recording an error, and none is recorded");
    };
    let registries = Registries {
        entries: sources.file.registries.iter().map(Entry::config).collect(),
        unlisted: sources.file.defaults.without_secrets().settings(),
        whitelist_mode,
        air_gapped,
        allow: allow::collect(sources.file.allow.as_ref(), &sources.file.registries),
    };
    if client_auth.is_none() && registries.allow.names_users() {
        sources.warnings.push(Warning {
            what: "allow names users".into(),
            why: "without auth nobody has a name, so those rules let nobody in".into(),
        });
    }
    if whitelist_mode
        && let Some(default_registry) = &default_registry
        && registries.settings(default_registry).1 == Named::No
    {
        sources.warnings.push(Warning {
            what: format!("whitelist_mode with default_registry {default_registry}"),
            why: "names without a registry do not exist, because that registry is not among registries"
                .into(),
        });
    }
    if !whitelist_mode {
        sources.warnings.extend(sources.file.permissive_defaults());
    }
    if sources.file.holds_secret {
        sources.warnings.extend(sources.exposed.take());
    }
    let config = Config {
        listen,
        tls,
        storage,
        cores,
        io_driver,
        kernel_tls,
        helper_threads,
        max_connections,
        max_connections_per_client,
        memory_budget,
        default_registry,
        cache_tag_manifests,
        cache_latest_tag,
        tag_ttl,
        log_level,
        access_log,
        drain_timeout,
        drain_delay,
        systemd,
        memory_cache_bytes,
        registries,
        proxies,
        always_pull_latest,
        stale_while_revalidate,
        registry_header,
        client_login,
        client_auth,
        warnings: std::mem::take(&mut sources.warnings),
    };
    Ok((config, sources))
}

/// Resolves the listen addresses alone, for a command that connects to a running server.
/// Other errors of the configuration do not matter to that command.
///
/// # Errors
///
/// When the address, or the file that may hold it, cannot be read.
pub fn listen_addresses(flags: Layer, environment: Environment<'_>) -> Result<Vec<ListenAddr>, Diagnostics> {
    let mut sources = Sources::load(flags, environment);
    let listen = sources.listen();
    listen.ok_or(Diagnostics(sources.diagnostics))
}

/// The sources of values, and the diagnostics so far.
pub(super) struct Sources<'a> {
    flags: Layer,
    variables: Layer,
    pub file: File,
    pub client_auth_origins: ClientAuthOrigins,
    pub(super) environment: Environment<'a>,
    pub(super) diagnostics: Vec<Diagnostic>,
    pub(super) warnings: Vec<Warning>,
    /// What is said about the configuration file if it holds a secret.
    exposed: Option<Warning>,
}

impl<'a> Sources<'a> {
    fn load(flags: Layer, environment: Environment<'a>) -> Self {
        let mut variables = Layer::default();
        for setting in Setting::ALL {
            if let Some(text) = (environment.env)(setting.env()).filter(|text| !text.is_empty()) {
                variables.insert(
                    setting,
                    Given {
                        text,
                        place: Place::Environment(setting.env()),
                    },
                );
            }
        }
        let mut sources = Sources {
            flags,
            variables,
            file: File::default(),
            client_auth_origins: ClientAuthOrigins::default(),
            environment,
            diagnostics: Vec::new(),
            warnings: Vec::new(),
            exposed: None,
        };
        if let Some(given) = sources.find(Setting::ConfigFile).cloned() {
            let path = Path::new(&given.text);
            match (environment.read_file)(path) {
                Ok(read) => {
                    sources.exposed = read.exposed(path);
                    sources.file = file::parse(
                        path,
                        &read.text,
                        environment,
                        &mut sources.diagnostics,
                        &mut sources.warnings,
                    );
                }
                Err(error) => sources.diagnostics.push(Diagnostic {
                    what: given.place.with_value(&given.text),
                    why: format!("cannot be read: {error}"),
                }),
            }
        }
        sources
    }

    pub(super) fn find(&self, setting: Setting) -> Option<&Given> {
        self.flags
            .find(setting)
            .or_else(|| self.variables.find(setting))
            .or_else(|| self.file.settings.find(setting))
    }

    /// Returns the value of `setting`, or `None` after recording its error.
    pub(super) fn parse<T>(
        &mut self,
        setting: Setting,
        accepted: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let Some(given) = self.find(setting) else {
            return parse(setting.default_text());
        };
        let value = parse(given.text.trim());
        if value.is_none() {
            let what = given.place.with_value(&given.text);
            self.diagnostics.push(Diagnostic {
                what,
                why: format!("accepted is {accepted}"),
            });
        }
        value
    }

    fn backend(&mut self) -> Option<Backend> {
        let by_signs = match self.s3_sign() {
            Some(_) => Backend::S3,
            None => Backend::Fs,
        };
        self.parse(Setting::StorageBackend, BACKEND_ACCEPTED, |text| match text {
            "auto" => Some(by_signs),
            "fs" => Some(Backend::Fs),
            "s3" => Some(Backend::S3),
            "tiered" => Some(Backend::Tiered),
            _ => None,
        })
    }

    /// What says that a bucket is wanted although nobody named a backend: silently keeping everything on a local disk
    /// is not what somebody who names a bucket wants.
    pub(super) fn s3_sign(&self) -> Option<&'static str> {
        if self.find(Setting::S3Bucket).is_some() {
            return Some(Setting::S3Bucket.env());
        }
        let set = |name: &&str| (self.environment.env)(name).is_some_and(|value| !value.is_empty());
        S3_SIGNS.into_iter().find(set)
    }

    fn s3(&mut self) -> Option<S3Settings> {
        let bucket = self.parse(Setting::S3Bucket, s3::BUCKET_ACCEPTED, s3::parse_bucket);
        let prefix = self.parse(Setting::S3Prefix, s3::PREFIX_ACCEPTED, |text| match text {
            "none" => Some(String::new()),
            _ => s3::parse_prefix(text),
        });
        let force_path_style = self.parse(Setting::S3ForcePathStyle, BOOL_ACCEPTED, units::parse_bool);
        let days = format!("a number of days from 0 to {}", s3::LIFECYCLE_DAYS_MAX);
        let lifecycle_days = self.parse(Setting::S3LifecycleDays, &days, s3::parse_days);
        let redirect = self.parse(Setting::S3Redirect, BOOL_ACCEPTED, units::parse_bool);
        let ca_bundle = s3::ca_bundle(self.environment);
        let ca_bundle = ca_bundle
            .map_err(|diagnostic| self.diagnostics.push(diagnostic))
            .ok();
        Some(S3Settings {
            bucket: bucket?,
            prefix: prefix?,
            force_path_style: force_path_style?,
            lifecycle_days: lifecycle_days?,
            redirect: redirect?,
            ca_bundle: ca_bundle?,
        })
    }

    fn listen(&mut self) -> Option<Vec<ListenAddr>> {
        let tls = self.wants_tls();
        if tls && self.find(Setting::ListenAddr).is_none() {
            return parse_listen(LISTEN_TLS_DEFAULT, tls);
        }
        self.parse(Setting::ListenAddr, ListenAddr::ACCEPTED, |text| {
            parse_listen(text, tls)
        })
    }

    /// Whoever asks for TLS must not be served without, nor the reverse.
    fn check_listen(&mut self, listen: Option<&[ListenAddr]>) {
        let Some(listen) = listen else { return };
        let (wanted, any) = (self.wants_tls(), listen.iter().any(|addr| addr.tls));
        if any && !wanted {
            self.record_setting_error(
                Setting::ListenAddr,
                "https needs a certificate: TLS_CERT_FILE and TLS_KEY_FILE, or GENERATE_SELF_SIGNED_TLS",
            );
        }
        if wanted && !any {
            self.record_setting_error(
                Setting::ListenAddr,
                "TLS is configured, and no address here is for https",
            );
        }
    }

    /// What clients send is either for us or for their registries.
    fn check_client_login(&mut self, wanted: bool) {
        if let Some(client_auth) = self.client_auth_place().filter(|_| wanted) {
            let what = match self.find(Setting::ClientLogin) {
                Some(given) => given.place.with_value(&given.text),
                None => Setting::ClientLogin.env().to_owned(),
            };
            let why = format!(
                "not together with {client_auth}: clients have one login for the cache, and it is either the cache's own or their registry's"
            );
            self.diagnostics.push(Diagnostic { what, why });
        }
    }

    fn storage(&self, backend: Backend, s3: S3Settings) -> StorageConfig {
        let spool = self.find(Setting::SpoolDir).map(|given| given.text.trim());
        let spool = spool.filter(|text| *text != "auto").map(PathBuf::from);
        if backend == Backend::S3 {
            // Nothing is kept on this machine, so no directory is looked for either.
            let root = self.find(Setting::FsRoot).map(|given| PathBuf::from(&given.text));
            let spool = spool.or(root).unwrap_or_else(self.environment.temp_dir);
            return StorageConfig::S3 { s3, spool };
        }
        let (root, chosen) = self.root();
        match backend {
            Backend::Tiered => StorageConfig::Tiered {
                spool: spool.unwrap_or_else(|| root.clone()),
                root,
                chosen,
                s3,
            },
            _ => StorageConfig::Fs { root, chosen },
        }
    }

    fn root(&self) -> (PathBuf, RootChoice) {
        if let Some(given) = self.find(Setting::FsRoot) {
            return (PathBuf::from(&given.text), RootChoice::Given);
        }
        let env_dir = |name: &str| {
            (self.environment.env)(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let user_cache =
            env_dir("XDG_CACHE_HOME").or_else(|| env_dir("HOME").map(|home| home.join(".cache")));
        let candidates = [
            (Some(PathBuf::from(FS_ROOT_DEFAULT)), RootChoice::Default),
            (
                user_cache.map(|dir| dir.join(USER_CACHE_NAME)),
                RootChoice::UserCache,
            ),
        ];
        for (root, chosen) in candidates {
            if let Some(root) = root.filter(|root| (self.environment.is_writable_dir)(root)) {
                return (root, chosen);
            }
        }
        let root = (self.environment.temp_dir)().join(USER_CACHE_NAME);
        (root, RootChoice::Temporary)
    }
}

/// Where to listen when nobody says so and TLS is on.
const LISTEN_TLS_DEFAULT: &str = ":8443";

fn parse_listen(text: &str, tls: bool) -> Option<Vec<ListenAddr>> {
    text.split(',')
        .map(|one| ListenAddr::parse(one.trim(), tls))
        .collect()
}

fn parse_count(text: &str, max: usize) -> Option<NonZeroUsize> {
    text.parse::<NonZeroUsize>()
        .ok()
        .filter(|count| count.get() <= max)
}

#[cfg(test)]
mod tests;
