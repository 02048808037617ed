//! The store that a command changes: of a running cache through its admin socket, or a directory
//! without a cache.

use std::path::Path;
use std::process::ExitCode;

use super::{EXIT_MISUSE, EXIT_REFUSED, fail};
use crate::admin::AdminClient;
use crate::config::{self, Config, Environment, Layer};
use crate::store::{FsStore, OpenError};

/// An error of the command, with the exit code.
pub(super) struct Failure {
    pub message: String,
    pub code: ExitCode,
}

/// The store of a running cache, or a store without a cache.
pub(super) enum Target {
    Running(AdminClient),
    Directory(Box<FsStore>),
}

impl Target {
    /// Finds the running cache, or opens and scans the directory. The scan removes damaged entries.
    pub fn open(flags: Layer, environment: Environment<'_>) -> Result<Self, Failure> {
        Self::open_with(flags, environment, |store| {
            store.scan();
        })
    }

    /// Finds the running cache, or opens and scans the directory. The scan removes nothing.
    pub fn open_unchanged(flags: Layer, environment: Environment<'_>) -> Result<Self, Failure> {
        Self::open_with(flags, environment, |store| {
            store.scan_only();
        })
    }

    fn open_with(
        flags: Layer,
        environment: Environment<'_>,
        scan: impl FnOnce(&FsStore),
    ) -> Result<Self, Failure> {
        let config = resolve(flags, environment)?;
        let root = root(&config)?;
        if let Some(cache) = AdminClient::of_running(root).map_err(Failure::of)? {
            return Ok(Target::Running(cache));
        }
        match FsStore::open_existing(config.store_bounds(), root) {
            Ok(store) => {
                scan(&store);
                Ok(Target::Directory(Box::new(store)))
            }
            Err(error @ OpenError::InUse(_)) => Err(Failure::in_use(&error)),
            Err(error) => Err(Failure::of(error)),
        }
    }
}

/// Finds the running cache. `None` if no cache runs.
pub(super) fn running_cache(
    flags: Layer,
    environment: Environment<'_>,
) -> Result<Option<AdminClient>, Failure> {
    let config = resolve(flags, environment)?;
    AdminClient::of_running(root(&config)?).map_err(Failure::of)
}

pub(super) fn resolve(flags: Layer, environment: Environment<'_>) -> Result<Config, Failure> {
    config::resolve(flags, environment).map_err(Failure::misuse)
}

/// Returns the directory of the store.
pub(super) fn root(config: &Config) -> Result<&Path, Failure> {
    let root = config.storage.root().map(|(root, _)| root);
    root.ok_or_else(|| {
        Failure::misuse(
            "the store is a bucket, and this command needs a directory; set FS_ROOT, or use the bucket's lifecycle rule",
        )
    })
}

impl Failure {
    /// A wrong command line or configuration.
    pub fn misuse(error: impl std::fmt::Display) -> Self {
        Failure {
            message: error.to_string(),
            code: ExitCode::from(EXIT_MISUSE),
        }
    }

    /// A store that another process uses.
    pub fn in_use(error: &OpenError) -> Self {
        Failure {
            message: format!("{error}, or stop the cache and repeat the command"),
            code: ExitCode::from(EXIT_REFUSED),
        }
    }

    pub fn of(error: impl std::fmt::Display) -> Self {
        Failure {
            message: error.to_string(),
            code: ExitCode::FAILURE,
        }
    }
}

/// Returns the exit code of a command, and prints its error.
pub(super) fn ended(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure.message, failure.code),
    }
}
