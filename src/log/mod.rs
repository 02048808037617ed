//! The log on standard error. Threads put lines into a bounded queue without waiting, and a single
//! thread writes the lines. If the reader of standard error stops reading, only lines are lost.
//!
//! Events of `tracing` and the lines about requests (`server::access_log`) share the queue, and so
//! keep their order.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;

use queue::{EVENT_BYTES_MAX, Queue, REQUEST_BYTES_MAX, Stderr};

/// The longest wait for the reader of standard error at the end of the process. A pipe with an
/// active reader takes the whole queue in some ten milliseconds.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// `None` if the thread could not be started. Lines are then written directly.
static QUEUE: OnceLock<Option<Queue>> = OnceLock::new();

fn queue() -> Option<&'static Queue> {
    QUEUE.get_or_init(|| Queue::start(Stderr).ok()).as_ref()
}

/// Sends events of `level` and above, and panic messages, to standard error. Colors are used only
/// on a terminal. Events of the `h2` crate are omitted. Any client could fill the log with events
/// of `h2`, and the events show frames.
pub fn init(level: Level) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(|| Event)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .finish()
        .with(filter_fn(|event| !event.target().starts_with("h2")));
    // Only a second call can fail, and a subscriber is then already installed.
    let _ = tracing::subscriber::set_global_default(subscriber);
    // The default hook writes directly, and would wait for the reader of standard error.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        let backtrace = Backtrace::capture();
        let backtrace = match backtrace.status() {
            BacktraceStatus::Captured => format!("{backtrace}"),
            _ => String::new(),
        };
        put(
            format!("thread '{name}' {panic}\n{backtrace}").into_bytes(),
            EVENT_BYTES_MAX,
        );
    }));
}

/// Logs `lines` about requests, each with a newline. Never waits.
pub fn requests(lines: Vec<u8>) {
    put(lines, REQUEST_BYTES_MAX);
}

/// Writes the last line of the process. Waits no longer than [`flush`].
pub fn last_line(line: &str) {
    put(format!("{line}\n").into_bytes(), EVENT_BYTES_MAX);
    flush();
}

/// Waits until all earlier lines are written, for a second at most. Blocks, so call this only at
/// the end of the process.
pub fn flush() {
    if let Some(Some(queue)) = QUEUE.get() {
        queue.flush(FLUSH_WAIT);
    }
}

/// Ends the process by SIGABRT, after writing the last lines if standard error is read.
pub fn abort() -> ! {
    flush();
    std::process::abort();
}

fn put(text: Vec<u8>, bytes_max: usize) {
    match queue() {
        Some(queue) => queue.put(text, bytes_max),
        None => {
            let _ = io::stderr().write_all(&text);
        }
    }
}

/// The writer for the subscriber. Each write contains whole lines.
struct Event;

impl Write for Event {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        put(text.to_vec(), EVENT_BYTES_MAX);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
