//! The store on a local file system. `docs/reference/storage-format.md` describes the files.

mod commit;
mod copy_mark;
mod damaged_pins;
mod evict;
mod evicted;
mod eviction_rank;
mod find;
mod import;
mod ingest;
mod missing;
mod open;
mod pins;
mod reader;
mod referrers;
mod releasing;
mod removal;
mod repository_dir;
mod room;
mod saved_use;
mod scan;
mod scrub_record;
mod stats;
mod stored_blob;
mod tags;
mod uploads;
mod verify;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};

use super::claims::Claims;
use super::index::Index;
use super::pins::Pins;
use super::records::Records;
use super::removals::Removals;
use super::upload_holds::UploadHolds;
use super::{StoreError, layout, space};
use crate::config::{Live, RegistryName, StoreBounds};
use crate::sync::Mutex;

pub use copy_mark::BucketIdentity;
pub use damaged_pins::DamagedPin;
pub use evicted::{Evicted, EvictionCounts};
pub use eviction_rank::{EvictionRank, RankedBound};
pub use ingest::Ingest;
pub use open::OpenError;
pub use reader::{StoreReader, StoredManifest, StoredRepository, compare_repositories};
pub use removal::{Removed, SelectedRemoval};
pub use saved_use::SaveCursor;
pub use scan::ScanReport;
pub use scrub_record::ScrubRecord;
pub use stats::{RegistryContent, StoreStats};
pub use stored_blob::StoredBlob;
pub use verify::{Damage, ReadPages, Verification, VerifyOptions};

/// A store in one directory, locked for this process.
#[derive(Debug)]
pub struct FsStore {
    root: PathBuf,
    /// Held for its lock. The kernel releases the lock when the process ends.
    _lock: File,
    /// Held while files are named or removed, so that a cleanup does not see a partial commit.
    naming: Mutex<()>,
    /// Entries of an older system that are being hashed.
    adopting: Claims,
    /// Records of referrers on disk. The scan at start registers the records of earlier runs.
    records: Mutex<Records>,
    bounds: StoreBounds,
    /// The registries of the configuration, with their bounds.
    registries: Live,
    /// Locked after `evicting` and `naming`, and before `records`.
    index: Arc<Mutex<Index>>,
    /// Locked before `naming`.
    evicting: Mutex<evict::Evicting>,
    releasing: Mutex<releasing::Releasing>,
    evictions: evicted::EvictionTotals,
    removals: Removals,
    /// Whether the store is for single registries, with `cache_dir`.
    is_of_registries: bool,
    upload_holds: UploadHolds,
    /// The marks of copies in the bucket behind the directory. `None` without such a bucket, and on a
    /// file system that keeps no marks.
    copy_marks: Option<copy_mark::CopyMarks>,
    /// Locked before `index`.
    pins: Mutex<Pins>,
    damage_watch: damaged_pins::DamageWatch,
    verifications: verify::VerificationCounts,
}

impl FsStore {
    /// Returns the store with the bounds of the single registries of `registries`. A later change of
    /// `registries` applies to the next check of a bound.
    pub fn with_registries(self, registries: Live) -> Self {
        {
            // Named registries keep their figures, however many other registries clients name.
            let mut index = self.index.lock();
            for entry in &registries.registries().entries {
                if let RegistryName::Exact(name) = &entry.name {
                    index.registry_number(name);
                }
            }
        }
        FsStore { registries, ..self }
    }

    /// Returns the store as the store of single registries, which reports its removals to `removals` too.
    /// The cores of a cache read the removals of all stores together.
    pub fn of_registries(self, removals: Removals) -> Self {
        FsStore {
            removals,
            is_of_registries: true,
            ..self
        }
    }

    /// Returns the directory of a store of single registries, for log lines. `None` for the default
    /// store.
    pub fn registry_dir(&self) -> Option<String> {
        self.is_of_registries.then(|| self.root.display().to_string())
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns whether entries of an older system are being hashed, which may take any time.
    pub fn is_adopting(&self) -> bool {
        !self.adopting.is_empty()
    }

    /// Returns the directory of files in preparation. The next start empties the directory.
    pub fn temporary_dir(&self) -> PathBuf {
        self.root.join(layout::TEMPORARY)
    }

    /// Returns the content that was removed recently.
    pub fn removals(&self) -> &Removals {
        &self.removals
    }

    fn path(&self, relative: &Path) -> PathBuf {
        self.root.join(relative)
    }
}

/// Opens a regular file for reading, never through a symbolic link. Returns `None` if there is no
/// such file.
fn open_regular(path: &Path) -> io::Result<Option<File>> {
    // `NONBLOCK` prevents a named pipe at this path from blocking the thread.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    // The access time is the last use, which the store sets itself. Only the owner of a file may
    // keep the kernel from changing the time.
    let opened = match rustix::fs::open(path, flags | OFlags::NOATIME, Mode::empty()) {
        Err(rustix::io::Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
        opened => opened,
    };
    match opened {
        Ok(fd) => {
            let file = File::from(fd);
            Ok(file.metadata()?.is_file().then_some(file))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        // The store creates no symbolic links.
        Err(rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError { doing, path, source }
}
