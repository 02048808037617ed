//! Notifications to systemd, the admin socket, and the start of the watchdog.

use std::sync::Arc;
use std::time::Duration;

use super::listen::Address;
use crate::admin::{self, AdminSettings, AdminSocket, AdminSubjects, Jobs, MeasuredParts};
use crate::cache::{Cache, TagPolicy};
use crate::config::{Config, SystemdEnvironment};
use crate::manage::{BackgroundPrune, Loader, PinRepair};
use crate::runtime::driver::Driver;
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::{Helper, Workers};
use crate::runtime::shutdown::Shutdown;
use crate::runtime::watchdog::{self, Keepalive};
use crate::storage::{Maintenance, Scrub, Storage};
use crate::systemd::Notifier;

/// Polling interval until all cores accept connections.
const LOOK: Duration = Duration::from_millis(2);

/// Opens the notifier of `systemd`. Without a usable socket, the process serves without
/// notifications.
pub(super) fn notifier(systemd: &SystemdEnvironment) -> Notifier {
    Notifier::new(systemd.notify.as_deref()).unwrap_or_else(|error| {
        tracing::warn!(%error, "systemd notification socket unusable");
        Notifier::default()
    })
}

/// Opens the admin socket of a cache with a local store, and the listeners of the admin API.
pub(super) fn open_admin(
    config: &Config,
    storage: &Storage,
    cache: &Cache,
    loader: &Loader,
    health: &Health,
    measured: MeasuredParts,
    helper: &Helper,
    jobs: &Arc<Jobs>,
) -> Option<AdminSocket> {
    let settings = AdminSettings {
        addr: config.admin_addr,
        tokens: config.admin_tokens_file.clone(),
        health_addr: config.health_addr,
        metrics_addr: config.metrics_addr,
    };
    let subjects = AdminSubjects {
        store: storage.local_store(),
        cache: cache.clone(),
        upstreams: cache.upstreams().clone(),
        lookup_counts: cache.lookup_counts().clone(),
        live: loader.live().clone(),
        tag_policy: TagPolicy::of(config),
        has_client_auth: config.client_auth.is_some(),
        health: health.clone(),
        loader: loader.clone(),
        load_settings: config.load_settings(),
        measured,
        jobs: jobs.clone(),
    };
    admin::start(settings, subjects, helper)
}

/// The threads of the local store. Their drop stops the threads in this order, the maintenance last.
pub(super) struct StoreThreads {
    _pin_repair: Option<PinRepair>,
    _scrub: Scrub,
    /// `None` for a bucket alone.
    pub prune: Option<BackgroundPrune>,
    _maintenance: Maintenance,
}

impl StoreThreads {
    /// Starts the maintenance, the scrub, the rules of `prune`, and the repair of pinned images.
    ///
    /// # Errors
    ///
    /// A thread cannot be created.
    pub fn start(storage: &Storage, config: &Config, loader: &Loader) -> std::io::Result<Self> {
        let repair = |store| PinRepair::start(&store, loader.clone(), config.load_settings());
        let prune = |store| BackgroundPrune::start(store, config.prune.clone());
        Ok(StoreThreads {
            _pin_repair: storage.local_store().map(repair).transpose()?,
            _maintenance: storage.start_maintenance()?,
            _scrub: storage.start_scrub(config.scrub_interval, config.scrub_rate)?,
            prune: storage.local_store().map(prune).transpose()?,
        })
    }
}

/// Starts the watchdog. The watchdog sends two keepalives to systemd per watchdog interval.
pub(super) fn start_watchdog(
    health: Health,
    workers: Workers,
    systemd: &SystemdEnvironment,
    notifier: &Notifier,
) -> std::io::Result<()> {
    let keepalive = systemd.watchdog.map(|within| {
        let notifier = notifier.clone();
        Keepalive {
            every: within / 2,
            send: Box::new(move || notifier.alive()),
        }
    });
    watchdog::start(health, workers, keepalive)
}

/// Waits until every core accepts connections. A core that fails or hangs during its start ends the
/// process.
pub(super) fn wait_for_cores(shutdown: &Shutdown, accepting: usize) {
    while shutdown.accepting() < accepting {
        std::thread::park_timeout(LOOK);
    }
}

/// Returns the status line for `systemctl status`.
pub(super) fn status(addresses: &[Address], driver: Driver, cores: usize) -> String {
    let addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
    format!(
        "serving on {}, driver {}, cores: {cores}",
        addresses.join(", "),
        driver.name()
    )
}
