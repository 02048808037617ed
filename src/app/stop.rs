//! SIGINT and SIGTERM: the end, in order.

use std::time::{Duration, Instant};

use signal_hook::consts::SIGHUP;
use signal_hook::iterator::Signals;

use crate::limits::DRAIN;
use crate::runtime::shutdown::Shutdown;

/// Waits until nothing runs, for [`DRAIN`] at most.
pub(super) fn drain(shutdown: &Shutdown, mut signals: Signals) {
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
