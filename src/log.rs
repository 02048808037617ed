//! Where events go: standard error, one line each. (Requests have a log of their own, `server::access_log`.)

use std::io::IsTerminal;

use tracing::Level;

/// Sends events of `level` and above to standard error; colours only on a terminal that wants them.
pub fn init(level: Level) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    // Only a second call can fail, and then events have a place to go already.
    let _ = subscriber.try_init();
}
