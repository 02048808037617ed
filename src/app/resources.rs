//! Resources of the system: I/O driver, file descriptors, and the location of the store.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::config::{self, Config, RootChoice};
use crate::limits::{OPEN_FILES_PER_CORE_MAX, OPEN_FILES_PER_CORE_MIN};
use crate::runtime::driver::IoDriver;
use crate::server::default_max;

pub(super) fn wanted_driver(config: config::IoDriver) -> IoDriver {
    match config {
        config::IoDriver::Auto => IoDriver::Auto,
        config::IoDriver::IoUring => IoDriver::IoUring,
        config::IoDriver::Epoll => IoDriver::Epoll,
    }
}

/// How many connections there may be. What an operator chose is taken, and doubted where it cannot be.
pub(super) fn connections_max(config: &Config, descriptors: u64) -> usize {
    let possible = default_max(descriptors);
    let Some(wanted) = config.max_connections else {
        return possible;
    };
    if wanted.get() as u64 >= descriptors {
        tracing::warn!(
            wanted,
            descriptors,
            "max_connections needs more file descriptors than the process may have; raise the limit (LimitNOFILE=, --ulimit nofile)"
        );
    }
    wanted.get()
}

/// How many connections one client may have: as many as the operator chose, and no more than leave a quarter of all to other
/// clients. 0: any number.
pub(super) fn connections_per_client_max(wanted: usize, all: usize) -> usize {
    wanted.min((all - all / 4).max(1))
}

/// Open files that each core may keep: together a tenth of the descriptors.
pub(super) fn open_files_max(descriptors: u64, cores: usize) -> usize {
    let share = descriptors / 10 / cores as u64;
    usize::try_from(share)
        .unwrap_or(usize::MAX)
        .clamp(OPEN_FILES_PER_CORE_MIN, OPEN_FILES_PER_CORE_MAX)
}

/// Takes as many file descriptors as the hard limit grants: connections and open blobs are descriptors. Gives their
/// number.
pub(super) fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Has a limit of the file size be an error of the write that meets it (`EFBIG`) and not the end of the process: the kernel
/// sends SIGXFSZ too, which ends a process that does not handle it. SIGPIPE stands for `EPIPE` and is ignored by Rust's
/// runtime. A handler is not passed on to the programs we start, as an ignored signal would be.
///
/// # Errors
///
/// When the signal cannot be handled.
pub(super) fn survive_limits() -> std::io::Result<()> {
    let met = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(libc::SIGXFSZ, met).map(drop)
}

/// Lets the process log from the background of a terminal. Before other threads are started.
pub fn outlive_terminal() {
    crate::sys::block_terminal_stops();
}

/// Has files and directories have the modes they are made with, whatever umask the process was started with: nothing that
/// others may read or write, or that the group may write. To be called before the configuration makes a directory.
pub fn set_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
}

/// Says where the store lies when nobody chose that.
pub(super) fn log_root(root: &Path, choice: RootChoice) {
    match choice {
        RootChoice::Given | RootChoice::Default => {}
        RootChoice::UserCache => {
            tracing::info!(root = %root.display(), "the default store cannot be written; using the user's cache directory");
        }
        RootChoice::Temporary => {
            tracing::warn!(root = %root.display(), "no lasting place can be written; the store may be gone after a restart, set FS_ROOT");
        }
    }
}
