//! The log, on standard error or in a file. Threads put lines into a bounded queue without waiting,
//! and a single thread writes the lines. If the output blocks, only lines are lost.
//!
//! Events of `tracing` and the lines about requests (`server::access_log`) share the encoder and
//! the queue. An event enters the queue at once. The line of an earlier request may follow the
//! event, because each core collects lines about requests for a short time.

mod encoder;
mod events;
mod output;
mod queue;
mod time;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::ffi::OsStr;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::io::Errno;
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;

pub use encoder::{Format, LEVELS, Line};
use events::EventLines;
use output::{LogFile, Stderr};
use queue::Queue;

use crate::limits::{LOG_EVENT_BYTES_MAX, LOG_FLUSH_TIMEOUT, LOG_REQUEST_BYTES_MAX};

/// The log of this process. Lines before [`init`] use standard error.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    /// `None` if the log thread could not be started before [`init`]. Lines are then written
    /// without a queue.
    queue: Option<Queue>,
    is_file: bool,
    format: Format,
}

impl Log {
    /// Lines go to standard error.
    fn to_stderr(format: Format) -> Self {
        Log {
            queue: Queue::start(Stderr, format).ok(),
            is_file: false,
            format,
        }
    }

    fn get() -> &'static Self {
        LOG.get_or_init(|| Log::to_stderr(Format::Text))
    }
}

/// The operator's choice of the format.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FormatChoice {
    /// Text, with colours on a terminal.
    Auto,
    Text,
    Json,
}

impl FormatChoice {
    /// The words of `LOG_FORMAT`.
    pub const WORDS: [(&str, Self); 3] = [
        ("auto", FormatChoice::Auto),
        ("text", FormatChoice::Text),
        ("json", FormatChoice::Json),
    ];

    /// Returns the format. `no_color` is the variable `NO_COLOR`; any text disables colours.
    fn format(self, is_terminal: bool, no_color: Option<&OsStr>) -> Format {
        let colours = is_terminal && no_color.is_none_or(OsStr::is_empty);
        match self {
            FormatChoice::Auto if colours => Format::Coloured,
            FormatChoice::Auto | FormatChoice::Text => Format::Text,
            FormatChoice::Json => Format::Json,
        }
    }
}

/// The reason why the log cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "cannot open the log file {}: {source}; {}, or change LOG_FILE",
        path.display(),
        cure(source)
    )]
    Open { path: PathBuf, source: io::Error },
    #[error(
        "cannot start the log thread: {0}; increase the limits on processes (ulimit -u, TasksMax) and memory (ulimit -v)"
    )]
    Thread(io::Error),
}

/// Returns the remedy for an error of `open`.
fn cure(error: &io::Error) -> &'static str {
    if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) {
        "expected a file, or a named pipe with a reader; start the reader before the cache"
    } else {
        "expected a file to which the process may append; create its directory, permit the access"
    }
}

/// Sends events of `level` and above, and panic messages, to `file`, or to standard error. Returns
/// the format of all lines. Events of the `h2` crate are omitted. Any client could fill the log
/// with events of `h2`, and the events show frames. After an error, lines go to standard error.
///
/// # Errors
///
/// The file cannot be opened, or the log thread cannot be started.
pub fn init(level: Level, choice: FormatChoice, file: Option<PathBuf>) -> Result<Format, InitError> {
    let is_terminal = file.is_none() && io::stderr().is_terminal();
    // A convention of terminals, and no setting of the cache.
    #[allow(clippy::disallowed_methods)]
    let no_color = std::env::var_os("NO_COLOR");
    let format = choice.format(is_terminal, no_color.as_deref());
    let (log, result) = match open(file, format) {
        Ok(log) => (log, Ok(format)),
        Err(error) => (Log::to_stderr(format), Err(error)),
    };
    // Only a second call can fail, and the log then already exists.
    let _ = LOG.set(log);
    result?;
    let subscriber = tracing_subscriber::fmt()
        .event_format(EventLines(format))
        .with_writer(|| EventWriter)
        .with_max_level(level)
        .finish()
        .with(filter_fn(|event| !event.target().starts_with("h2")));
    let _ = tracing::subscriber::set_global_default(subscriber);
    // The default hook writes directly, and would wait for the reader of standard error.
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic_line(panic, format);
        put(text, LOG_EVENT_BYTES_MAX);
    }));
    Ok(format)
}

/// Opens the output and starts the log thread.
fn open(file: Option<PathBuf>, format: Format) -> Result<Log, InitError> {
    let is_file = file.is_some();
    let queue = match file {
        None => Queue::start(Stderr, format),
        Some(path) => match LogFile::open(&path) {
            Ok(file) => Queue::start(file, format),
            Err(source) => return Err(InitError::Open { path, source }),
        },
    };
    Ok(Log {
        queue: Some(queue.map_err(InitError::Thread)?),
        is_file,
        format,
    })
}

fn panic_line(panic: &PanicHookInfo<'_>, format: Format) -> Vec<u8> {
    let mut text = Vec::new();
    let mut line = Line::begin(&mut text, format, time::unix_millis(), Level::ERROR, "panic");
    line.text("thread", std::thread::current().name().unwrap_or("-"));
    if let Some(location) = panic.location() {
        line.display("location", location);
    }
    line.text("message", panic.payload_as_str().unwrap_or("-"));
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        line.display("backtrace", &backtrace);
    }
    line.end();
    text
}

/// Logs `lines` about requests, each with a newline. Never waits.
pub fn requests(lines: Vec<u8>) {
    put(lines, LOG_REQUEST_BYTES_MAX);
}

/// Writes the error that ends the process to standard error, also if the log is a file or if no
/// thread can be started. Waits no longer than twice [`flush`].
pub fn fatal(error: &dyn Display) {
    let log = Log::get();
    let text = fatal_line(error, log.format);
    if log.is_file {
        flush();
        match Queue::start(Stderr, log.format) {
            Ok(queue) => {
                queue.put(text, LOG_EVENT_BYTES_MAX);
                queue.flush(LOG_FLUSH_TIMEOUT);
            }
            Err(_) => output::write_to_stderr(&text, LOG_FLUSH_TIMEOUT),
        }
    } else {
        put(text, LOG_EVENT_BYTES_MAX);
        flush();
    }
}

/// Returns the line of an error that ends the process. In text, the line is a message for a person
/// at a terminal, like the messages of other commands.
fn fatal_line(error: &dyn Display, format: Format) -> Vec<u8> {
    let mut text = Vec::new();
    match format {
        Format::Text | Format::Coloured => text.extend(format!("oci-pull-through: {error}\n").bytes()),
        Format::Json => {
            let mut line = Line::begin(
                &mut text,
                format,
                time::unix_millis(),
                Level::ERROR,
                "start failed",
            );
            line.text("error", &error.to_string());
            line.end();
        }
    }
    text
}

/// Requests the log thread to open the log file again by its path, after a rotation. Never waits.
pub fn reopen() {
    if let Some(Log {
        queue: Some(queue),
        is_file: true,
        ..
    }) = LOG.get()
    {
        queue.reopen();
    }
}

/// Waits until all earlier lines are written, for a second at most. Blocks, so call this only at
/// the end of the process.
pub fn flush() {
    if let Some(Log {
        queue: Some(queue), ..
    }) = LOG.get()
    {
        queue.flush(LOG_FLUSH_TIMEOUT);
    }
}

/// Ends the process by SIGABRT, after writing the last lines if the output takes lines.
pub fn abort() -> ! {
    flush();
    std::process::abort();
}

fn put(text: Vec<u8>, bytes_max: usize) {
    match &Log::get().queue {
        Some(queue) => queue.put(text, bytes_max),
        None => output::write_to_stderr(&text, LOG_FLUSH_TIMEOUT),
    }
}

/// The writer for the subscriber. Each write contains whole lines.
struct EventWriter;

impl Write for EventWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        put(text.to_vec(), LOG_EVENT_BYTES_MAX);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_need_a_terminal_and_no_variable_no_color() {
        let auto = |is_terminal, no_color: Option<&str>| {
            FormatChoice::Auto.format(is_terminal, no_color.map(OsStr::new))
        };
        assert_eq!(auto(true, None), Format::Coloured);
        assert_eq!(auto(true, Some("")), Format::Coloured);
        assert_eq!(auto(true, Some("0")), Format::Text);
        assert_eq!(auto(false, None), Format::Text);
        assert_eq!(FormatChoice::Text.format(true, None), Format::Text);
        assert_eq!(FormatChoice::Json.format(true, None), Format::Json);
    }
}
