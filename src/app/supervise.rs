//! Notifications to systemd, the admin socket, and the start of the watchdog.

use std::sync::Arc;
use std::time::Duration;

use super::listen::Address;
use crate::admin::{self, AdminSettings, AdminSocket, AdminSubjects, Jobs, MeasuredParts};
use crate::cache::TagPolicy;
use crate::config::{Config, SystemdEnvironment};
use crate::manage::{BackgroundPrune, Loader, PinRepair};
use crate::runtime::driver::Driver;
use crate::runtime::heartbeat::Health;
use crate::runtime::helper::{Helper, Workers};
use crate::runtime::shutdown::Shutdown;
use crate::runtime::watchdog::{self, Keepalive};
use crate::storage::{Maintenance, Scrub, Storages};
use crate::systemd::Notifier;
use crate::web::WebSite;

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
pub(super) fn open_admin(config: &Config, subjects: AdminSubjects, helper: &Helper) -> Option<AdminSocket> {
    let settings = AdminSettings {
        addr: config.admin_addr,
        tokens: config.admin_tokens_file.clone(),
        health_addr: config.health_addr,
        metrics_addr: config.metrics_addr,
    };
    admin::start(settings, subjects, helper)
}

/// Returns the parts of the process for the admin API.
pub(super) fn admin_subjects(
    config: &Config,
    storages: &Storages,
    loader: &Loader,
    health: &Health,
    measured: MeasuredParts,
    jobs: &Arc<Jobs>,
    web: Option<WebSite>,
) -> AdminSubjects {
    let cache = loader.cache();
    AdminSubjects {
        stores: storages.local_stores(),
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
        web,
    }
}

/// The threads of the local stores. Their drop stops the threads in this order, the maintenance last.
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
    pub fn start(storages: &Storages, config: &Config, loader: &Loader) -> std::io::Result<Self> {
        let stores = storages.local_stores();
        let repair = |stores| PinRepair::start(stores, loader, &config.load_settings());
        let prune = |stores| BackgroundPrune::start(stores, &config.prune);
        Ok(StoreThreads {
            _pin_repair: stores.as_ref().map(repair).transpose()?,
            _maintenance: storages.start_maintenance()?,
            _scrub: storages.start_scrub(config.scrub_interval, config.scrub_rate)?,
            prune: stores.as_ref().map(prune).transpose()?,
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
