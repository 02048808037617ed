//! The location of stored content.

use std::path::{Path, PathBuf};

use super::s3::S3Settings;

/// The location of stored content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageConfig {
    /// A directory of a local file system.
    Fs { root: PathBuf, chosen: RootChoice },
    /// A bucket without a local store. Pending uploads wait in `spool`.
    S3 { s3: S3Settings, spool: PathBuf },
    /// A directory in front of a bucket.
    Tiered {
        root: PathBuf,
        chosen: RootChoice,
        s3: S3Settings,
        spool: PathBuf,
    },
}

impl StorageConfig {
    /// Returns the local store, if any.
    pub fn root(&self) -> Option<(&Path, RootChoice)> {
        match self {
            StorageConfig::Fs { root, chosen } | StorageConfig::Tiered { root, chosen, .. } => {
                Some((root, *chosen))
            }
            StorageConfig::S3 { .. } => None,
        }
    }

    /// Returns the bucket, if any.
    pub fn s3(&self) -> Option<&S3Settings> {
        match self {
            StorageConfig::S3 { s3, .. } | StorageConfig::Tiered { s3, .. } => Some(s3),
            StorageConfig::Fs { .. } => None,
        }
    }

    /// Returns the directory of pending uploads, if any.
    pub(in crate::config) fn spool(&self) -> Option<&Path> {
        match self {
            StorageConfig::S3 { spool, .. } | StorageConfig::Tiered { spool, .. } => Some(spool),
            StorageConfig::Fs { .. } => None,
        }
    }

    /// Returns the word of `STORAGE_BACKEND`.
    pub fn backend(&self) -> &'static str {
        match self {
            StorageConfig::Fs { .. } => "fs",
            StorageConfig::S3 { .. } => "s3",
            StorageConfig::Tiered { .. } => "tiered",
        }
    }
}

impl std::fmt::Display for StorageConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.backend())?;
        let root = self.root().map(|(root, _)| root.display().to_string());
        let bucket = self.s3().map(|s3| format!("{}/{}", s3.bucket, s3.prefix));
        let places: Vec<String> = root.into_iter().chain(bucket).collect();
        write!(f, ":{}", places.join(" before "))
    }
}

/// The reason for the location of the local store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootChoice {
    /// The operator set the directory.
    Given,
    /// The default directory is writable.
    Default,
    /// The default directory is not writable. The store is in the user's cache directory. Worth a log line.
    UserCache,
    /// The default directory is not writable, and there is no home directory. The store is below the temporary
    /// directory, and the system may delete it. Worth a warning.
    Temporary,
}

/// The value of `STORAGE_BACKEND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `s3` if a setting names a bucket or an endpoint, otherwise `fs`.
    Auto,
    Fs,
    S3,
    Tiered,
}

impl Backend {
    pub const WORDS: [(&str, Self); 4] = [
        ("auto", Backend::Auto),
        ("fs", Backend::Fs),
        ("s3", Backend::S3),
        ("tiered", Backend::Tiered),
    ];
}

/// The value of `VERIFY_ON_OPEN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyOnOpen {
    Off,
    /// Each stored blob is hashed once after a start, before its first response.
    First,
}

impl VerifyOnOpen {
    pub const WORDS: [(&str, Self); 2] = [("off", VerifyOnOpen::Off), ("first", VerifyOnOpen::First)];
}
