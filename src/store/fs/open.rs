//! Opens a store: creates directories, takes the lock, removes leftovers.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::FsStore;
use super::layout::{BLOBS, LOCK, MANIFESTS, TEMPORARY};
use super::verify::VerificationCounts;
use crate::config::{Live, Overlap, Registries, StoreBounds};
use crate::store::claims::Claims;
use crate::store::eviction::Minute;
use crate::store::index::Index;
use crate::store::mode;
use crate::store::removals::Removals;
use crate::store::upload_holds::UploadHolds;
use crate::sync::Mutex;

/// The reason why a directory cannot be used as a store.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(
        "another process uses the store {0}; each process needs its own directory; set FS_ROOT to another directory"
    )]
    InUse(PathBuf),
    #[error("cannot use {path} as the store: {source}; set FS_ROOT to another directory")]
    Unusable { path: PathBuf, source: io::Error },
    #[error(
        "another process uses the store {0}; each process needs its own directory; set cache_dir of the registry to another directory"
    )]
    OfRegistryInUse(PathBuf),
    #[error(
        "cannot use {path} as the store of a registry: {source}; set cache_dir of the registry to another directory"
    )]
    OfRegistryUnusable { path: PathBuf, source: io::Error },
    #[error(
        "cannot use {path} as the store of a registry: the directory {overlap} {other}, another store; set cache_dir to a directory outside all other stores"
    )]
    Overlaps {
        path: PathBuf,
        overlap: Overlap,
        other: PathBuf,
    },
}

impl OpenError {
    /// Returns whether another process uses the store.
    pub fn is_in_use(&self) -> bool {
        matches!(self, OpenError::InUse(_) | OpenError::OfRegistryInUse(_))
    }

    /// Returns the error for the store of a registry.
    pub(in crate::store) fn of_registry(self) -> Self {
        match self {
            OpenError::InUse(root) => OpenError::OfRegistryInUse(root),
            OpenError::Unusable { path, source } => OpenError::OfRegistryUnusable { path, source },
            other => other,
        }
    }
}

impl FsStore {
    /// Opens the store in `root` with the default bounds, like [`FsStore::open_within`].
    ///
    /// # Errors
    ///
    /// Another process holds the lock, or the directory is not writable.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        Self::open_within(StoreBounds::default(), root)
    }

    /// Opens the store in `root` like [`FsStore::open_within`], for a command. Creates no store.
    ///
    /// # Errors
    ///
    /// `root` is not the directory of a store, another process holds the lock, or the directory is
    /// not writable.
    pub fn open_existing(bounds: StoreBounds, root: &Path) -> Result<Self, OpenError> {
        let blobs = root.join(BLOBS);
        if let Err(source) = fs::read_dir(&blobs) {
            return Err(OpenError::Unusable { path: blobs, source });
        }
        Self::open_within(bounds, root)
    }

    /// Creates the directories, takes the lock, and removes temporary files of earlier processes.
    ///
    /// # Errors
    ///
    /// Another process holds the lock, or the directory is not writable.
    pub fn open_within(bounds: StoreBounds, root: &Path) -> Result<Self, OpenError> {
        let unusable = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Unusable { path, source }
        };
        mode::create_dir_all(root).map_err(unusable(root))?;
        let lock_path = root.join(LOCK);
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(mode::OURS_ALONE)
            .open(&lock_path)
            .map_err(unusable(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::InUse(root.to_owned())),
            Err(TryLockError::Error(source)) => {
                return Err(OpenError::Unusable {
                    path: lock_path,
                    source,
                });
            }
        }
        tighten(&lock, &lock_path, mode::OURS_ALONE);
        for dir in [BLOBS, MANIFESTS, TEMPORARY] {
            let dir = root.join(dir);
            // A foreign file in place of a directory is moved aside, not deleted.
            if fs::symlink_metadata(&dir).is_ok_and(|found| !found.is_dir()) {
                let aside = dir.with_extension("not-a-directory");
                fs::rename(&dir, &aside).map_err(unusable(&dir))?;
                tracing::warn!(path = %dir.display(), moved_to = %aside.display(), "file in place of a store directory moved");
            }
            mode::create_dir_all(&dir).map_err(unusable(&dir))?;
            // Also protects files that an older version created in the directory, without a
            // recursive walk.
            if let Ok(opened) = File::open(&dir) {
                tighten(&opened, &dir, mode::DIRECTORY);
            }
        }
        clear(&root.join(TEMPORARY));
        Ok(FsStore {
            root: root.to_owned(),
            _lock: lock,
            naming: Mutex::new(()),
            adopting: Claims::default(),
            records: Mutex::default(),
            bounds,
            registries: Live::new(Registries::default()),
            index: Arc::new(Mutex::new(Index::new(Minute::now()))),
            evicting: Mutex::default(),
            releasing: Mutex::default(),
            evictions: Default::default(),
            removals: Removals::default(),
            is_of_registries: false,
            upload_holds: UploadHolds::default(),
            copy_marks: None,
            pins: Mutex::new(super::pins::read(root)),
            damage_watch: super::damaged_pins::DamageWatch::default(),
            verifications: VerificationCounts::new(super::scrub_record::read(root).completed_at),
        })
    }
}

/// Tightens the mode of `file`. A failure is only logged, because the store still works with a file
/// of an older version or of another user.
fn tighten(file: &File, path: &Path, wanted: u32) {
    if let Err(error) = mode::tighten(file, wanted) {
        tracing::warn!(
            path = %path.display(),
            mode = format_args!("{wanted:04o}"),
            %error,
            "file mode not set"
        );
    }
}

/// Removes temporary files of a killed process. The held lock proves that the process has ended.
fn clear(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = match entry.file_type() {
            Ok(kind) if kind.is_dir() => fs::remove_dir_all(&path),
            _ => fs::remove_file(&path),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "temporary file not removed");
        }
    }
}
