//! What is told to a supervisor, and who watches over the cores.

use std::time::Duration;

use super::listen::Address;
use crate::config::Supervisor;
use crate::runtime::driver::Driver;
use crate::runtime::helper::Workers;
use crate::runtime::shutdown::Shutdown;
use crate::runtime::vitals::Vitals;
use crate::runtime::watchdog::{self, Keepalive};
use crate::systemd::Notifier;

/// How often is looked whether the cores accept.
const LOOK: Duration = Duration::from_millis(2);

/// The way to `supervisor`. One that cannot be told is no reason not to serve.
pub(super) fn notifier(supervisor: &Supervisor) -> Notifier {
    Notifier::new(supervisor.notify.as_deref()).unwrap_or_else(|error| {
        tracing::warn!(%error, "NOTIFY_SOCKET cannot be used; the service manager is told nothing");
        Notifier::default()
    })
}

/// Starts the watchdog, which tells `supervisor` that all is well twice in the time it waits for that.
pub(super) fn watch(
    vitals: Vitals,
    workers: Workers,
    supervisor: &Supervisor,
    notifier: &Notifier,
) -> std::io::Result<()> {
    let keepalive = supervisor.watchdog.map(|within| {
        let notifier = notifier.clone();
        Keepalive {
            every: within / 2,
            tell: Box::new(move || notifier.alive()),
        }
    });
    watchdog::start(vitals, workers, keepalive)
}

/// Waits until every core accepts. One that cannot start, or hangs in it, ends the process.
pub(super) fn wait_for_cores(shutdown: &Shutdown, accepting: usize) {
    while shutdown.accepting() < accepting {
        std::thread::park_timeout(LOOK);
    }
}

/// One line for `systemctl status`.
pub(super) fn status(addresses: &[Address], driver: Driver, cores: usize) -> String {
    let addresses: Vec<String> = addresses.iter().map(Address::to_string).collect();
    format!(
        "serving on {}, {}, {cores} cores",
        addresses.join(", "),
        driver.name()
    )
}
