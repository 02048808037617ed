//! Wiring: a [`Config`] in, a running server out. The only file that knows every part.

use std::rc::Rc;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cache::{Cache, Storage, StorageError, TagPolicy};
use crate::config::{self, Config, ListenAddr, Mistakes, RootChoice};
use crate::limits::DRAIN;
use crate::registry::{FrontDoor, Options, Registry};
use crate::runtime::core::CoreSettings;
use crate::runtime::driver::{self, IoDriver};
use crate::runtime::helper::Helper;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{core, cores};
use crate::server::{AccessLogWriter, Listener, Server, bind, serve};
use crate::upstream::{BuildError, Upstreams};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error("cannot listen on {addr}: {source}{hint}")]
    Listen {
        addr: ListenAddr,
        source: std::io::Error,
        hint: &'static str,
    },
    #[error(transparent)]
    Store(#[from] StorageError),
    #[error(transparent)]
    Upstream(#[from] BuildError),
    #[error("{0}")]
    Driver(String),
    #[error("cannot start threads: {0}")]
    Threads(#[from] std::io::Error),
}

/// Serves until asked to stop: on SIGINT or SIGTERM it stops accepting, finishes what runs within
/// [`DRAIN`], and returns. A second signal ends the process at once. On SIGHUP it goes on with the registries that
/// `read` gives; mistakes change nothing.
///
/// # Errors
///
/// The store, the address or the machine cannot be used. Nothing has been served then.
pub fn run(config: Config, read: &dyn Fn() -> Result<Config, Mistakes>) -> Result<(), AppError> {
    crate::log::init(config.log_level.into());
    raise_descriptor_limit();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM])?;
    let helper = Helper::start(config.helper_threads)?;
    let storage = Storage::open(&config.storage, &helper)?;
    let (choice, modern_ring) = driver::choose(wanted_driver(config.io_driver)).map_err(AppError::Driver)?;
    let plan = cores::plan(config.cores);

    let mut addresses = Vec::new();
    let mut listeners: Vec<Vec<Listener>> = plan.iter().map(|_| Vec::new()).collect();
    for addr in &config.listen {
        let (local, sockets) = bind(addr.host, addr.port, plan.len()).map_err(|source| {
            let hint = match source.kind() {
                std::io::ErrorKind::AddrInUse => "; another process has it, choose another with LISTEN_ADDR",
                std::io::ErrorKind::PermissionDenied => {
                    "; ports below 1024 need a privilege, choose another with LISTEN_ADDR"
                }
                _ => "",
            };
            AppError::Listen {
                addr: *addr,
                source,
                hint,
            }
        })?;
        addresses.push(local);
        for (core, socket) in listeners.iter_mut().zip(sockets) {
            core.push(Listener { socket, tls: false });
        }
    }

    let upstreams = Upstreams::new(config.registries.clone(), config.proxies.clone())?;
    let policy = TagPolicy {
        cache_tags: config.cache_tag_manifests,
        cache_latest: config.cache_latest_tag,
        always_ask_latest: config.always_pull_latest,
        ttl: config.tag_ttl,
        stale_while_revalidate: config.stale_while_revalidate,
    };
    let cache = Cache::new(storage, upstreams.clone(), helper.clone(), policy);
    let access_log = if config.access_log {
        Some(AccessLogWriter::start()?)
    } else {
        None
    };
    let shutdown = Shutdown::default();

    if choice.fell_back {
        tracing::warn!("io driver: {} ({})", choice.driver.name(), choice.why);
    } else {
        tracing::info!("io driver: {} ({})", choice.driver.name(), choice.why);
    }
    match config.storage.root() {
        None | Some((_, RootChoice::Given | RootChoice::Default)) => {}
        Some((root, RootChoice::UserCache)) => {
            tracing::info!(root = %root.display(), "the default store cannot be written; using the user's cache directory");
        }
        Some((root, RootChoice::Temporary)) => {
            tracing::warn!(root = %root.display(), "no lasting place can be written; the store may be gone after a restart, set FS_ROOT");
        }
    }
    tell(&config);
    let settings = CoreSettings {
        driver: choice.driver,
        modern_ring,
    };
    let front = Options {
        default_registry: config.default_registry.clone(),
        memory_bytes_max: config.memory_cache_bytes,
        registry_header: config.registry_header,
        client_login: config.client_login,
        front: config
            .front_auth
            .as_ref()
            .map(|(username, password)| FrontDoor::new(username, password.reveal())),
    };
    for (index, (cpu, sockets)) in plan.iter().zip(listeners).enumerate() {
        let (cache, helper, shutdown) = (cache.clone(), helper.clone(), shutdown.clone());
        let log = access_log.as_ref().map(AccessLogWriter::log);
        let front = front.clone();
        core::start(index, *cpu, settings, move || async move {
            let registry = Rc::new(Registry::new(cache, front));
            let server = Server::new(registry, helper, shutdown, log);
            serve(server, sockets).await;
        })?;
    }
    for addr in &addresses {
        tracing::info!(
            "oci-pull-through {} listening on {addr}, store {}, io driver {}, {} cores",
            env!("CARGO_PKG_VERSION"),
            config.storage,
            choice.driver.name(),
            plan.len()
        );
    }
    cache.scan_in_background();

    for signal in signals.forever() {
        match signal {
            SIGHUP => reload(&config, read(), &upstreams),
            _ => break,
        }
    }
    drain(&shutdown, signals);
    if let Some(log) = access_log {
        log.finish();
    }
    Ok(())
}

/// Says what the operator ought to know about a configuration that is used.
fn tell(config: &Config) {
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
fn reload(running: &Config, read: Result<Config, Mistakes>, upstreams: &Upstreams) {
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
    if let Err(error) = upstreams.reload(new.registries.clone()) {
        return tracing::error!(%error, "configuration not reloaded; the old one stays");
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

/// Waits until nothing runs, for [`DRAIN`] at most.
fn drain(shutdown: &Shutdown, mut signals: Signals) {
    tracing::info!(
        running = shutdown.running(),
        "stopping; a second signal ends at once"
    );
    shutdown.drain();
    let second = std::thread::Builder::new()
        .name("second-signal".into())
        .spawn(move || {
            signals.forever().find(|signal| *signal != SIGHUP);
            tracing::warn!("second signal; ending at once");
            std::process::exit(1);
        });
    if let Err(error) = second {
        tracing::warn!(%error, "a second signal will not be noticed");
    }
    let deadline = Instant::now() + DRAIN;
    // Cores need a moment to notice and to take what the kernel has already accepted for them.
    std::thread::park_timeout(Duration::from_millis(250));
    while shutdown.running() > 0 && Instant::now() < deadline {
        std::thread::park_timeout(Duration::from_millis(50));
    }
    match shutdown.running() {
        0 => tracing::info!("stopped"),
        left => tracing::warn!(left, "stopped; connections were cut off"),
    }
}

fn wanted_driver(config: config::IoDriver) -> IoDriver {
    match config {
        config::IoDriver::Auto => IoDriver::Auto,
        config::IoDriver::IoUring => IoDriver::IoUring,
        config::IoDriver::Epoll => IoDriver::Epoll,
    }
}

/// Takes as many file descriptors as the hard limit grants: connections and open blobs are descriptors.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}
