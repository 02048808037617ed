//! Graceful shutdown after SIGINT or SIGTERM.

use std::time::{Duration, Instant};

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::runtime::shutdown::Shutdown;
use crate::systemd::Notifier;

/// The outcome of the shutdown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// All connections have finished.
    Finished,
    /// Connections were cut off at the deadline.
    Cut,
}

/// Polling interval until all connections have finished.
const LOOK: Duration = Duration::from_millis(20);

/// Extra time announced to the service manager, for the log and the exit.
const GRACE: Duration = Duration::from_secs(5);

/// Reports not ready for `delay`. Then stops accepting and waits for running connections, at most
/// for `timeout`. A second signal ends the process at once, with exit code 1. SIGHUP only reopens the
/// log file.
pub(super) fn drain(
    shutdown: &Shutdown,
    signals: Signals,
    notifier: &Notifier,
    delay: Duration,
    timeout: Duration,
) -> End {
    shutdown.leave();
    notifier.stopping(delay + timeout + GRACE);
    end_at_once_on_another(signals);
    if !delay.is_zero() {
        // A delay from the configuration is far below the largest number of milliseconds.
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        tracing::info!(delay_ms, "drain delay started");
        wait(delay, || false);
    }
    tracing::info!(connections = shutdown.running(), "shutdown started");
    notifier.status(&format!("finishing {} connections", shutdown.running()));
    shutdown.drain();
    // Waits for the acceptors first, because they still serve connections in the kernel's queue.
    wait(timeout, || shutdown.accepting() == 0 && shutdown.running() == 0);
    match shutdown.running() {
        0 => {
            tracing::info!("shutdown finished");
            End::Finished
        }
        cut => {
            tracing::warn!(connections = cut, "connections cut off at the drain timeout");
            End::Cut
        }
    }
}

/// Waits for `done`, at most for `limit`.
fn wait(limit: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        std::thread::park_timeout(LOOK.min(left));
    }
}

fn end_at_once_on_another(mut signals: Signals) {
    let second = std::thread::Builder::new()
        .name("second-signal".into())
        .spawn(move || {
            for signal in signals.forever() {
                match signal {
                    SIGHUP => crate::log::reopen(),
                    _ => break,
                }
            }
            tracing::warn!("second signal received; process ends at once");
            crate::log::flush();
            std::process::exit(1);
        });
    if let Err(error) = second {
        tracing::warn!(%error, "second signal handler not started");
    }
}
