//! The stores that a command changes: of a running cache through its admin socket, or a directory
//! without a cache.

use std::path::Path;
use std::process::ExitCode;

use super::{EXIT_MISUSE, EXIT_REFUSED, fail};
use crate::admin::AdminClient;
use crate::config::{self, Config, Environment, Layer, StoreDirs};
use crate::store::{FsStore, OpenError, StoreReader, Stores};

/// An error of the command, with the exit code.
pub(super) struct Failure {
    pub message: String,
    pub code: ExitCode,
}

/// The stores of a running cache, or stores without a cache.
pub(super) enum Target {
    Running(AdminClient),
    Directory(Stores),
}

impl Target {
    /// Finds the running cache, or opens and scans the directories. The scan removes damaged entries.
    pub fn open(flags: Layer, environment: Environment<'_>) -> Result<Self, Failure> {
        Self::open_with(flags, environment, |store| {
            store.scan();
        })
    }

    /// Finds the running cache, or opens and scans the directories. The scan removes nothing.
    pub fn open_unchanged(flags: Layer, environment: Environment<'_>) -> Result<Self, Failure> {
        Self::open_with(flags, environment, |store| {
            store.scan_only();
        })
    }

    fn open_with(
        flags: Layer,
        environment: Environment<'_>,
        scan: impl Fn(&FsStore),
    ) -> Result<Self, Failure> {
        let config = resolve(flags, environment)?;
        let root = root(&config)?;
        if let Some(cache) = AdminClient::of_running(root).map_err(Failure::of)? {
            return Ok(Target::Running(cache));
        }
        let dirs = StoreDirs::of(&config.registries);
        match Stores::open_existing(config.store_bounds(), root, dirs) {
            Ok(stores) => {
                stores.iter().for_each(|store| scan(store));
                Ok(Target::Directory(stores))
            }
            Err(error) if error.is_in_use() => Err(Failure::in_use(&error)),
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

/// Opens the directories of `config` for reading.
///
/// # Errors
///
/// The default store cannot be read.
pub(super) fn reader(config: &Config) -> Result<StoreReader, Failure> {
    StoreReader::open_all(root(config)?, StoreDirs::of(&config.registries)).map_err(Failure::of)
}

/// Returns the directory of the default store.
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
