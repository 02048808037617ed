//! System resources: I/O driver, file descriptors, and the location of the store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::{self, Config, RootChoice};
use crate::limits::{OPEN_FILES_PER_CORE_MAX, OPEN_FILES_PER_CORE_MIN};
use crate::manage::ForeignStore;
use crate::runtime::driver::{Choice, IoDriver};
use crate::server::default_max;

pub(super) fn wanted_driver(config: config::IoDriver) -> IoDriver {
    match config {
        config::IoDriver::Auto => IoDriver::Auto,
        config::IoDriver::IoUring => IoDriver::IoUring,
        config::IoDriver::Epoll => IoDriver::Epoll,
    }
}

/// Returns the connection limit. A configured limit always applies, with a warning if there are too
/// few descriptors.
pub(super) fn connections_max(config: &Config, descriptors: u64) -> usize {
    let possible = default_max(descriptors);
    let Some(wanted) = config.max_connections else {
        return possible;
    };
    if wanted.get() as u64 >= descriptors {
        tracing::warn!(
            setting = %"max_connections",
            limit = wanted,
            descriptors,
            "connection limit exceeds the file descriptor limit"
        );
    }
    wanted.get()
}

/// Returns the connection limit per client. The configured limit applies, but a quarter of all
/// connections remains for other clients. 0 means no limit.
pub(super) fn connections_per_client_max(wanted: usize, all: usize) -> usize {
    wanted.min((all - all / 4).max(1))
}

/// Returns the number of open files per core. All cores together get a tenth of the descriptors.
pub(super) fn open_files_max(descriptors: u64, cores: usize) -> usize {
    let share = descriptors / 10 / cores as u64;
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(OPEN_FILES_PER_CORE_MIN, OPEN_FILES_PER_CORE_MAX)
}

/// Raises the soft limit of file descriptors to the hard limit, because connections and open blobs
/// need descriptors. Returns the resulting limit.
pub(super) fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "file descriptor limit not raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Handles SIGXFSZ, so that a write beyond the file size limit fails with `EFBIG`. Without a
/// handler, the signal ends the process. Rust's runtime already ignores SIGPIPE, so writes fail
/// with `EPIPE`. Child programs do not inherit a handler, but would inherit an ignored signal.
///
/// # Errors
///
/// The signal cannot be handled.
pub(super) fn survive_limits() -> std::io::Result<()> {
    let met = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGXFSZ, met).map(drop)
}

/// Lets the process log from the background of a terminal. Must be called before other threads
/// start.
pub fn outlive_terminal() {
    crate::sys::block_terminal_stops();
}

/// Sets a fixed umask, so that files and directories get their intended modes with any inherited
/// umask. Removes all access of others and write access of the group. Must be called before the
/// configuration creates a directory.
pub fn set_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
}

/// Logs the driver, with the reason.
pub(super) fn log_driver(choice: &Choice) {
    let (driver, reason) = (choice.driver.name(), choice.why.as_str());
    if choice.fell_back {
        tracing::warn!(%driver, %reason, "io driver selected");
    } else {
        tracing::info!(%driver, %reason, "io driver selected");
    }
}

/// Logs the command that takes over the content of another system in `root`. The store leaves such content
/// alone.
pub(super) fn log_foreign_store(root: &Path) {
    let Some(found) = ForeignStore::of(root) else {
        return;
    };
    let registry = if found.needs_registry() {
        " --registry NAME"
    } else {
        ""
    };
    tracing::info!(
        path = %root.display(),
        system = found.system(),
        command = format!("oci-pull-through import {}{registry}", root.display()),
        "store of another system found"
    );
}

/// Logs the location of the store, if a fallback was chosen.
pub(super) fn log_root(root: &Path, choice: RootChoice) {
    match choice {
        RootChoice::Given | RootChoice::Default => {}
        RootChoice::UserCache => {
            tracing::info!(path = %root.display(), "store placed in the user cache directory");
        }
        RootChoice::Temporary => {
            tracing::warn!(path = %root.display(), "store placed in a temporary directory");
        }
    }
}
