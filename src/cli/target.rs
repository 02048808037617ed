//! The store that a command changes: of a running cache through its admin socket, or a directory
//! without a cache.

use std::process::ExitCode;

use super::{EXIT_MISUSE, EXIT_REFUSED, fail};
use crate::admin::AdminClient;
use crate::config::{self, Environment, Layer};
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
    /// Finds the running cache, or opens and scans the directory.
    pub fn open(flags: Layer, environment: Environment<'_>) -> Result<Self, Failure> {
        let misuse = |message: String| Failure {
            message,
            code: ExitCode::from(EXIT_MISUSE),
        };
        let config = config::resolve(flags, environment).map_err(|error| misuse(error.to_string()))?;
        let Some((root, _)) = config.storage.root() else {
            let message = "the store is a bucket, and this command needs a directory; set FS_ROOT, or use the bucket's lifecycle rule";
            return Err(misuse(message.to_owned()));
        };
        if let Some(cache) = AdminClient::of_running(root).map_err(Failure::of)? {
            return Ok(Target::Running(cache));
        }
        match FsStore::open_existing(config.store_bounds(), root) {
            Ok(store) => {
                store.scan();
                Ok(Target::Directory(Box::new(store)))
            }
            Err(error @ OpenError::InUse(_)) => Err(Failure {
                message: format!("{error}, or stop the cache and repeat the command"),
                code: ExitCode::from(EXIT_REFUSED),
            }),
            Err(error) => Err(Failure::of(error)),
        }
    }
}

impl Failure {
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
