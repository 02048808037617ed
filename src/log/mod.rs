//! The log: standard error, written by one thread. Whoever logs puts its lines into a bounded queue and goes on; a reader of
//! standard error that stops reading costs lines and nothing else.
//!
//! Events of `tracing` and the lines about requests (`server::access_log`) share the queue, and so their order.

mod queue;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;

use queue::{EVENT_BYTES_MAX, Queue, REQUEST_BYTES_MAX, Stderr};

/// How long the end of the process waits for the reader of standard error. A pipe with a living reader takes the whole queue
/// in some ten milliseconds.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// `None` where the thread could not be had: lines are written directly then.
static QUEUE: OnceLock<Option<Queue>> = OnceLock::new();

fn queue() -> Option<&'static Queue> {
    QUEUE.get_or_init(|| Queue::start(Stderr).ok()).as_ref()
}

/// Sends events of `level` and above to standard error, and what a panic says; colours only on a terminal that wants them. The
/// `h2` crate's own are left out: any client could fill the log with them, and they show frames.
pub fn init(level: Level) {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(|| Event)
        .with_max_level(level)
        .with_target(false)
        .with_ansi(io::stderr().is_terminal())
        .finish()
        .with(filter_fn(|event| !event.target().starts_with("h2")));
    // Only a second call can fail, and then events have a place to go already.
    let _ = tracing::subscriber::set_global_default(subscriber);
    // The standard hook writes by itself, and would wait for the reader of standard error.
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

/// Logs `lines` about requests, each with its end. Never waits.
pub fn requests(lines: Vec<u8>) {
    put(lines, REQUEST_BYTES_MAX);
}

/// Writes `line` as the last of a process that ends. Waits no longer than [`flush`].
pub fn last_line(line: &str) {
    put(format!("{line}\n").into_bytes(), EVENT_BYTES_MAX);
    flush();
}

/// Waits until what was logged so far is written, for a second at most. Blocking: for the end of the process.
pub fn flush() {
    if let Some(Some(queue)) = QUEUE.get() {
        queue.flush(FLUSH_WAIT);
    }
}

/// Ends the process by SIGABRT, with its last lines written if standard error is read.
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

/// Takes what is written to it at once for whole lines, which is what the subscriber does.
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
