//! Builds a running server from a [`Config`]. The only module that depends on every other module.

mod cache_parts;
mod hello_world;
mod import;
mod listen;
mod load;
mod missing_file;
mod preload;
mod reload;
mod resources;
mod serving_cores;
mod stop;
mod supervise;
mod tls;
mod traces;
mod warm;

use std::sync::Arc;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::admin::{Jobs, LegacyAdmin, MeasuredParts};
use crate::auth::ClientAuth;
use crate::config::{Config, Diagnostics, ListenAddr};
use crate::log;
use crate::metrics::HttpMetrics;
use crate::registry::Options;
use crate::runtime::core::CoreSettings;
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::Helper;
use crate::runtime::memory_budget::{MemoryBudget, default_budget};
use crate::runtime::shutdown::Shutdown;
use crate::runtime::{cores, driver};
use crate::server::tls::MaterialError;
use crate::server::{AccessLog, ConnectionLimits, HandoffQueues};
use crate::shared_file;
use crate::storage::StorageError;
use crate::store::OpenError;
use crate::systemd::{TakeError, take_sockets};
use crate::upstream::BuildError;
use crate::web::WebSite;

use cache_parts::CacheParts;
use missing_file::MissingFile;
use preload::Preload;
use serving_cores::ServingCores;

pub use hello_world::{HelloWorld, HelloWorldError};
pub use import::import;
pub use load::load;
pub use resources::{outlive_terminal, set_umask};
pub use stop::End;

/// The reason why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Log(#[from] log::InitError),
    #[error("cannot listen on {addr}: {source}{hint}")]
    Listen {
        addr: ListenAddr,
        source: std::io::Error,
        hint: &'static str,
    },
    #[error("cannot use the sockets of the service manager (LISTEN_FDS): {0}")]
    InheritedSockets(#[from] TakeError),
    #[error(
        "the service manager passed the socket {0} for https; set TLS_CERT_FILE and TLS_KEY_FILE, or GENERATE_SELF_SIGNED_TLS"
    )]
    PassedTls(std::net::SocketAddr),
    #[error(transparent)]
    Store(#[from] StorageError),
    #[error(transparent)]
    Upstream(#[from] BuildError),
    #[error(transparent)]
    Tls(#[from] MaterialError),
    #[error("{0}")]
    Driver(String),
    #[error("cannot {action}: {source}{hint}")]
    System {
        action: &'static str,
        source: std::io::Error,
        hint: &'static str,
    },
}

impl AppError {
    /// Returns the error of a store that another process uses.
    pub fn store_in_use(&self) -> Option<&OpenError> {
        match self {
            AppError::Store(StorageError::Fs(error)) if error.is_in_use() => Some(error),
            _ => None,
        }
    }

    fn threads(source: std::io::Error) -> Self {
        AppError::System {
            action: "start threads",
            source,
            hint: "; increase the limits on processes (ulimit -u, TasksMax) and open files (ulimit -n)",
        }
    }

    fn signals(source: std::io::Error) -> Self {
        AppError::System {
            action: "handle signals",
            source,
            hint: "; increase the limit on open files (ulimit -n)",
        }
    }

    fn passed_socket(source: std::io::Error) -> Self {
        AppError::System {
            action: "duplicate a socket of the service manager (LISTEN_FDS)",
            source,
            hint: "; increase the limit on open files (ulimit -n)",
        }
    }
}

/// Serves requests until SIGINT or SIGTERM, and returns the outcome of the shutdown.
///
/// After the signal, readiness fails for `drain_delay`. The process then stops accepting and
/// finishes running requests within `drain_timeout`. A second signal ends the process at once.
/// SIGHUP reopens the log file and applies the registries returned by `read`. A configuration with
/// diagnostics changes nothing.
///
/// # Errors
///
/// The store, the address, or a system resource cannot be used. No request has been served in this
/// case.
pub fn run(config: Config, read: &dyn Fn() -> Result<Config, Diagnostics>) -> Result<End, AppError> {
    // Taken before the process opens a file, because systemd has chosen the descriptor numbers.
    let passed = match config.systemd.sockets.len() {
        0 => Vec::new(),
        count => take_sockets(count)?,
    };
    let level = config.log_level;
    let format = log::init(level, config.log_format, config.log_file.clone())?;
    resources::survive_limits().map_err(AppError::signals)?;
    let descriptors = resources::raise_descriptor_limit();
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(AppError::signals)?;
    shared_file::start_closing_thread().map_err(AppError::threads)?;
    let helper = Helper::start(config.helper_threads).map_err(AppError::threads)?;
    let traces = traces::start(&config, &helper)?;
    let plan = cores::plan(config.cores);
    let memory = MemoryBudget::new(config.memory_budget.unwrap_or_else(default_budget), plan.len());
    if let Some((root, _)) = config.storage.root() {
        resources::log_foreign_store(root);
    }
    let parts = CacheParts::open(&config, &helper, &memory, descriptors)?;
    let (choice, modern_ring) =
        driver::choose(resources::wanted_driver(config.io_driver), plan.len()).map_err(AppError::Driver)?;
    let notifier = supervise::notifier(&config.systemd);
    let listening = listen::open(&config, passed, plan.len())?;

    let loader = parts.loader();
    let CacheParts {
        live,
        storages,
        upstreams,
        cache,
    } = parts;
    let connections_max = resources::connections_max(&config, descriptors);
    let limits = ConnectionLimits::new(
        connections_max,
        resources::connections_per_client_max(config.max_connections_per_client, connections_max),
        plan.len(),
    );
    let http_metrics = HttpMetrics::default();
    reload::label_registries(&config.registries);
    let shutdown = Shutdown::default();
    let health = Health::new(plan.len(), config.helper_threads.get(), shutdown.clone());

    resources::log_driver(&choice);
    if let Some((root, chosen)) = config.storage.root() {
        resources::log_root(root, chosen);
    }
    reload::log_settings(&config);
    let settings = CoreSettings {
        driver: choice.driver,
        modern_ring,
    };
    let web = config.web_ui.then(|| WebSite::new(config.base_url.clone()));
    let options = Options {
        default_registry: config.default_registry.clone(),
        response_cache_bytes_max: config.memory_cache_bytes / plan.len() as u64,
        open_files_max: resources::open_files_max(descriptors, plan.len()),
        registry_header: config.registry_header,
        client_login: config.client_login,
        legacy_admin: config
            .legacy_admin
            .then(|| LegacyAdmin::new(storages.local_stores(), helper.clone())),
        web: web.clone(),
        health: health.clone(),
    };
    let acceptor = tls::open(config.tls.as_ref(), config.kernel_tls)?;
    let accepting = listening.addresses.len() * plan.len();
    let client_auth = ClientAuth::new(config.client_auth.clone()).map_err(AppError::threads)?;
    let cores = ServingCores {
        settings,
        cache: cache.clone(),
        live: live.clone(),
        helper: helper.clone(),
        shutdown: shutdown.clone(),
        options,
        client_auth: client_auth.clone(),
        acceptor: acceptor.clone(),
        access_log: config.access_log.then_some((level, format)),
        limits: limits.clone(),
        handoff_queues: HandoffQueues::new(plan.len()),
        memory: memory.clone(),
        metrics: http_metrics.clone(),
        health: health.clone(),
    };
    for (index, (cpu, sockets)) in plan.iter().zip(listening.listeners).enumerate() {
        cores.start(index, *cpu, sockets).map_err(AppError::threads)?;
    }
    cache.run_heartbeats(&health);
    supervise::start_watchdog(health.clone(), helper.workers(), &config.systemd, &notifier)
        .map_err(AppError::threads)?;
    supervise::wait_for_cores(&shutdown, accepting);
    let measured = MeasuredParts {
        http: http_metrics,
        connections: limits,
        memory,
        driver: choice.driver.name(),
        storage: config.storage.backend(),
        bucket: storages.bucket_store(),
        tls: acceptor.clone(),
    };
    let jobs = Arc::new(Jobs::default());
    let subjects = supervise::admin_subjects(&config, &storages, &loader, &health, measured, &jobs, web);
    let admin_socket = supervise::open_admin(&config, subjects, &helper);
    for addr in &listening.addresses {
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            address = %addr.url(),
            store = %config.storage,
            driver = choice.driver.name(),
            cores = plan.len(),
            "listening"
        );
    }
    let status = supervise::status(&listening.addresses, choice.driver, plan.len());
    notifier.ready(&status);
    let missing_file = storages
        .local_stores()
        .map(|stores| MissingFile::start(stores.default_store().clone(), cache.clone()))
        .transpose()
        .map_err(AppError::threads)?;
    let store_threads =
        supervise::StoreThreads::start(&storages, &config, &loader).map_err(AppError::threads)?;
    let warm = warm::start(&config, &storages, &loader, &jobs).map_err(AppError::threads)?;
    let preload = Preload::start(&config, storages.local_stores(), loader, jobs.clone());
    let preload = preload.map_err(AppError::threads)?;

    let reloaded = reload::Parts {
        live: &live,
        upstreams: &upstreams,
        client_auth: &client_auth,
        acceptor: acceptor.as_ref(),
        prune: store_threads.prune.as_ref(),
        warm: warm.as_ref(),
    };
    while signals.forever().next() == Some(SIGHUP) {
        log::reopen();
        notifier.reloading();
        reload::contained(|| reloaded.reload(&config, read()));
        notifier.ready(&status);
    }
    let end = stop::drain(
        &shutdown,
        signals,
        &notifier,
        config.drain_delay,
        config.drain_timeout,
    );
    drop(preload);
    drop(warm);
    jobs.cancel_all();
    drop(admin_socket);
    drop(missing_file);
    drop(store_threads);
    if config.access_log {
        AccessLog::wait_for_cores();
    }
    if let Some(traces) = traces {
        traces.stop();
    }
    Ok(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_a_system_resource_names_the_failed_action_and_its_limit() {
        let full = || std::io::Error::from_raw_os_error(libc::EMFILE);
        for (error, action, limit) in [
            (AppError::threads(full()), "cannot start threads: ", "ulimit -u"),
            (AppError::signals(full()), "cannot handle signals: ", "ulimit -n"),
            (
                AppError::passed_socket(full()),
                "cannot duplicate a socket of the service manager (LISTEN_FDS): ",
                "ulimit -n",
            ),
        ] {
            let text = error.to_string();
            assert!(text.starts_with(action) && text.contains(limit), "{text}");
        }
    }
}
