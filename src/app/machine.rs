//! What of the machine the operator's choices meet: driver, descriptors, the place of the store.

use std::path::Path;

use crate::config::{self, RootChoice};
use crate::runtime::driver::IoDriver;

pub(super) fn wanted_driver(config: config::IoDriver) -> IoDriver {
    match config {
        config::IoDriver::Auto => IoDriver::Auto,
        config::IoDriver::IoUring => IoDriver::IoUring,
        config::IoDriver::Epoll => IoDriver::Epoll,
    }
}

/// Takes as many file descriptors as the hard limit grants: connections and open blobs are descriptors.
pub(super) fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Says where the store lies when nobody chose that.
pub(super) fn tell_root(root: &Path, choice: RootChoice) {
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
