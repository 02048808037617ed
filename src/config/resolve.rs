//! From what was written in four places to one [`Config`].

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use super::allow;
use super::draft::Entry;
use super::file::{self, File};
use super::front::FrontOrigins;
use super::mistake::{Mistake, Mistakes, Place, Warning};
use super::server_tls::Clients;
use super::setting::{Given, Layer, Setting};
use super::units::{self, BOOL_ACCEPTED, BYTES_ACCEPTED, DURATION_ACCEPTED};
use super::{
    CORES_MAX, Config, HELPER_THREADS_MAX, IoDriver, ListenAddr, LogLevel, MAX_CONNECTIONS_MAX, Named,
    Registries, RootChoice, Storage, Supervisor, Surroundings, proxy,
};
use crate::oci::Namespace;

/// Where the store is when nobody says otherwise and it can be written.
pub(super) const FS_ROOT_DEFAULT: &str = "/data/oci-cache";

/// The directory's name below a user's cache directory.
const USER_CACHE_NAME: &str = "oci-pull-through";

/// Environment that selects S3 in the absence of `STORAGE_BACKEND`.
const S3_SIGNS: [&str; 2] = ["S3_BUCKET", "AWS_ENDPOINT_URL"];

/// Resolves the whole configuration: flag over environment over file over default.
///
/// A value that is overridden is not judged, so a flag can repair a broken environment. A variable that
/// is set but empty counts as absent: that is how compose files and unit files say "not set".
///
/// # Errors
///
/// Every mistake there is, at once.
pub fn resolve(flags: Layer, surroundings: Surroundings<'_>) -> Result<Config, Mistakes> {
    load(flags, surroundings).map(|(config, _)| config)
}

/// As [`resolve`], with the places that the values came from.
pub(super) fn load<'a>(
    flags: Layer,
    surroundings: Surroundings<'a>,
) -> Result<(Config, Sources<'a>), Mistakes> {
    let mut sources = Sources::load(flags, surroundings);

    let listen = sources.listen();
    let noted = sources.mistakes.len();
    let tls = sources.server_tls();
    // Where something about TLS was wrong, what follows from it would be told twice.
    let clients = (sources.mistakes.len() == noted)
        .then(|| tls.as_ref().map_or(Clients::NotAsked, |tls| tls.clients.clone()));
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
        "a registry, `host` or `host:port`",
        |text| text.parse::<Namespace>().ok(),
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
    let proxies = proxy::of_environment(surroundings, &mut sources.mistakes);
    let supervisor = Supervisor::of_environment(surroundings, &mut sources.mistakes);
    sources.check_backend();
    let front_auth = sources.front_auth(clients.as_ref());
    sources.check_listen(listen.as_deref());
    sources.check_client_login(client_login == Some(true));

    if !sources.mistakes.is_empty() {
        return Err(Mistakes(sources.mistakes));
    }
    // Only now, because looking for a usable root makes directories: a refused start leaves no trace.
    let storage = sources.storage();
    let (
        Some(listen),
        Some(cores),
        Some(io_driver),
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
        listen,
        cores,
        io_driver,
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
        unreachable!("`Sources::parse` gives `None` only after noting a mistake, and there is none");
    };
    let registries = Registries {
        entries: sources.file.registries.iter().map(Entry::config).collect(),
        unlisted: sources.file.defaults.without_secrets().settings(),
        whitelist_mode,
        air_gapped,
        allow: allow::collect(sources.file.allow.as_ref(), &sources.file.registries),
    };
    if front_auth.is_none() && registries.allow.names_users() {
        sources.warnings.push(Warning {
            what: "allow names users".into(),
            why: "without auth nobody has a name, so those rules let nobody in".into(),
        });
    }
    if whitelist_mode && registries.settings(&default_registry).1 == Named::No {
        sources.warnings.push(Warning {
            what: format!("whitelist_mode with default_registry {default_registry}"),
            why: "names without a registry do not exist, because that registry is not among registries"
                .into(),
        });
    }
    if !whitelist_mode {
        sources.warnings.extend(sources.file.open_doors());
    }
    let config = Config {
        listen,
        tls,
        storage,
        cores,
        io_driver,
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
        supervisor,
        memory_cache_bytes,
        registries,
        proxies,
        always_pull_latest,
        stale_while_revalidate,
        registry_header,
        client_login,
        front_auth,
        warnings: std::mem::take(&mut sources.warnings),
    };
    Ok((config, sources))
}

/// Resolves the listen addresses alone, for a command that talks to a server which is already running:
/// other mistakes are that server's business.
///
/// # Errors
///
/// When the address, or the file that may hold it, cannot be read.
pub fn listen_addresses(flags: Layer, surroundings: Surroundings<'_>) -> Result<Vec<ListenAddr>, Mistakes> {
    let mut sources = Sources::load(flags, surroundings);
    let listen = sources.listen();
    listen.ok_or(Mistakes(sources.mistakes))
}

/// The places values come from, and what was found wrong so far.
pub(super) struct Sources<'a> {
    flags: Layer,
    environment: Layer,
    pub file: File,
    pub front_origins: FrontOrigins,
    pub(super) surroundings: Surroundings<'a>,
    pub(super) mistakes: Vec<Mistake>,
    warnings: Vec<Warning>,
}

impl<'a> Sources<'a> {
    fn load(flags: Layer, surroundings: Surroundings<'a>) -> Self {
        let mut environment = Layer::default();
        for setting in Setting::ALL {
            if let Some(text) = (surroundings.env)(setting.env()).filter(|text| !text.is_empty()) {
                environment.insert(
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
            environment,
            file: File::default(),
            front_origins: FrontOrigins::default(),
            surroundings,
            mistakes: Vec::new(),
            warnings: Vec::new(),
        };
        if let Some(given) = sources.find(Setting::ConfigFile).cloned() {
            let path = Path::new(&given.text);
            match (surroundings.read_file)(path) {
                Ok(text) => {
                    sources.file = file::parse(
                        path,
                        &text,
                        surroundings,
                        &mut sources.mistakes,
                        &mut sources.warnings,
                    );
                }
                Err(error) => sources.mistakes.push(Mistake {
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
            .or_else(|| self.environment.find(setting))
            .or_else(|| self.file.settings.find(setting))
    }

    /// The value of `setting`, or `None` after noting what is wrong with it.
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
            self.mistakes.push(Mistake {
                what,
                why: format!("accepted is {accepted}"),
            });
        }
        value
    }

    fn check_backend(&mut self) {
        let unavailable = |what| Mistake {
            what,
            why: "S3 is not available in this version; accepted is fs".into(),
        };
        let mistake = match self.find(Setting::StorageBackend) {
            Some(given) => match given.text.trim() {
                "fs" => return,
                "s3" | "tiered" => unavailable(given.place.with_value(&given.text)),
                _ => Mistake {
                    what: given.place.with_value(&given.text),
                    why: "accepted is fs".into(),
                },
            },
            // Silently keeping everything on a local disk is not what somebody who names a bucket wants.
            None => match S3_SIGNS.iter().find_map(|name| {
                (self.surroundings.env)(name)
                    .filter(|v| !v.is_empty())
                    .map(|v| (name, v))
            }) {
                Some((name, value)) => Mistake {
                    what: format!("{name}={value:?}"),
                    why: "S3 is not available in this version; unset it, or set STORAGE_BACKEND=fs".into(),
                },
                None => return,
            },
        };
        self.mistakes.push(mistake);
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
            self.note_setting(
                Setting::ListenAddr,
                "https needs a certificate: TLS_CERT_FILE and TLS_KEY_FILE, or GENERATE_SELF_SIGNED_TLS",
            );
        }
        if wanted && !any {
            self.note_setting(
                Setting::ListenAddr,
                "TLS is configured, and no address here is for https",
            );
        }
    }

    /// What clients send is either for us or for their registries.
    fn check_client_login(&mut self, wanted: bool) {
        if let Some(front) = self.front_place().filter(|_| wanted) {
            let what = match self.find(Setting::ClientLogin) {
                Some(given) => given.place.with_value(&given.text),
                None => Setting::ClientLogin.env().to_owned(),
            };
            let why = format!(
                "not together with {front}: clients have one login for the cache, and it is either the cache's own or their registry's"
            );
            self.mistakes.push(Mistake { what, why });
        }
    }

    fn storage(&self) -> Storage {
        if let Some(given) = self.find(Setting::FsRoot) {
            return Storage::Fs {
                root: PathBuf::from(&given.text),
                chosen: RootChoice::Given,
            };
        }
        let env_dir = |name: &str| {
            (self.surroundings.env)(name)
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
            if let Some(root) = root.filter(|root| (self.surroundings.is_writable_dir)(root)) {
                return Storage::Fs { root, chosen };
            }
        }
        Storage::Fs {
            root: (self.surroundings.temp_dir)().join(USER_CACHE_NAME),
            chosen: RootChoice::Temporary,
        }
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
