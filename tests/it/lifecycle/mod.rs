//! The process: start, health, stop, restart, I/O drivers, panics and stalls.

/// Start, signals, exit codes, configuration mistakes.
mod start_and_stop;

/// The self test `HELLO_WORLD`.
mod hello_world;

/// Drain, passed sockets, messages to the service manager.
mod restart;

/// Stops and restarts with TLS and HTTP/2 clients.
mod restart_protocols;

/// The port after a kill, an unread log, resource limits, modes of files.
mod process;

/// Fields, formats, levels and secrets of log lines, and the log file.
pub mod logs;

/// Liveness and readiness while something fails.
pub mod health;

/// io_uring and epoll if the kernel rejects io_uring.
mod drivers;

/// A panic ends at most its connection or its fill.
#[cfg(feature = "fail-points")]
mod panic;

/// Cores, disks and helper threads that hang.
#[cfg(feature = "fail-points")]
mod watchdog;
