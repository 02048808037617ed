//! Where events go: standard error, one line each. (Requests have a log of their own, `server::access_log`.)

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;

/// Sends events of `level` and above to standard error; colours only on a terminal that wants them. The `h2` crate's own are
/// left out: any client could fill the log with them, and they show frames.
pub fn init(level: Level) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .finish()
        .with(filter_fn(|event| !event.target().starts_with("h2")));
    // Only a second call can fail, and then events have a place to go already.
    let _ = tracing::subscriber::set_global_default(subscriber);
}
