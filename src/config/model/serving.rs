//! Choices of the process: I/O driver, encryption in the kernel, level and format of the log. Each type has the table of its words.

use crate::log::FormatChoice;

/// The place of encryption after a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelTls {
    /// This process encrypts.
    Off,
    /// The kernel encrypts if the kernel supports the kind of session. Otherwise this process encrypts.
    Auto,
}

impl KernelTls {
    pub(in crate::config) const WORDS: [(&str, Self); 2] =
        [("off", KernelTls::Off), ("auto", KernelTls::Auto)];
}

/// The interface by which the cores wait for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoDriver {
    /// io_uring if the kernel allows it, otherwise epoll.
    Auto,
    /// io_uring, or else the start fails.
    IoUring,
    Epoll,
}

impl IoDriver {
    pub(in crate::config) const WORDS: [(&str, Self); 3] = [
        ("auto", IoDriver::Auto),
        ("io_uring", IoDriver::IoUring),
        ("epoll", IoDriver::Epoll),
    ];
}

/// The lowest level of log lines that are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

impl LogLevel {
    pub(in crate::config) const WORDS: [(&str, Self); 5] = [
        ("trace", LogLevel::Trace),
        ("debug", LogLevel::Debug),
        ("info", LogLevel::Info),
        ("warn", LogLevel::Warn),
        ("error", LogLevel::Error),
    ];
}

impl From<LogLevel> for tracing::Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Trace => tracing::Level::TRACE,
            LogLevel::Debug => tracing::Level::DEBUG,
            LogLevel::Info => tracing::Level::INFO,
            LogLevel::Warn => tracing::Level::WARN,
            LogLevel::Error => tracing::Level::ERROR,
        }
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text, with colours on a terminal.
    Auto,
    Text,
    Json,
}

impl LogFormat {
    pub(in crate::config) const WORDS: [(&str, Self); 3] = [
        ("auto", LogFormat::Auto),
        ("text", LogFormat::Text),
        ("json", LogFormat::Json),
    ];
}

impl From<LogFormat> for FormatChoice {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Auto => FormatChoice::Auto,
            LogFormat::Text => FormatChoice::Text,
            LogFormat::Json => FormatChoice::Json,
        }
    }
}
