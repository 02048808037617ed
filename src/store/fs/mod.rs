//! The store on a local file system. `docs/reference/storage-format.md` describes what lies there.

mod commit;
mod find;
mod ingest;
mod open;
mod referrers;
mod scan;
mod tags;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use super::records::Records;
use super::{Key, StoreError, layout};

pub use ingest::Ingest;
pub use open::OpenError;
pub use scan::ScanReport;

/// A store under one directory, locked for this process.
#[derive(Debug)]
pub struct FsStore {
    root: PathBuf,
    /// Held for its lock, which the kernel drops with the process.
    _lock: File,
    /// Taken by whoever names or removes files, so that a cleaner does not meet a commit half-way.
    naming: Mutex<()>,
    /// Entries of an older system that are being hashed.
    adopting: Mutex<HashSet<Key>>,
    /// Records of referrers on disk. The scan at the start finds those of earlier runs.
    records: Mutex<Records>,
}

impl FsStore {
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether entries of an older system are being hashed, which takes as long as it takes.
    pub fn is_adopting(&self) -> bool {
        !self
            .adopting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty()
    }

    /// Bytes for which there is room.
    pub fn free_room(&self) -> u64 {
        super::free_room(&self.root)
    }

    fn path(&self, relative: &Path) -> PathBuf {
        self.root.join(relative)
    }
}

/// Opens a regular file for reading, never through a symbolic link; `None` when there is none.
fn open_regular(path: &Path) -> io::Result<Option<File>> {
    // NONBLOCK: a pipe somebody put there must not hold the thread.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => {
            let file = File::from(fd);
            Ok(file.metadata()?.is_file().then_some(file))
        }
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => Ok(None),
        // A symbolic link in the last place is nothing of ours.
        Err(rustix::io::Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError { doing, path, source }
}
