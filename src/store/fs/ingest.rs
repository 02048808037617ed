//! An ingest, a write in progress: a file without a name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use rustix::io::Errno;

use super::room::Reservation;
use super::{FsStore, failed, layout};
use crate::fail_point::hit;
use crate::limits::DIRECTORY_ATTEMPTS;
use crate::oci::Namespace;
use crate::shared_file::SharedFile;
use crate::store::{Key, StoreError, mode};

/// Content being received. Without a commit, dropping the ingest leaves nothing in the store.
#[derive(Debug)]
pub struct Ingest {
    pub(super) key: Key,
    file: SharedFile,
    /// Bytes with reserved blocks.
    pub(super) reserved: u64,
    pub(super) room: Reservation,
    /// The temporary name, on file systems without unnamed files.
    pub(super) temporary: Option<PathBuf>,
}

impl FsStore {
    /// Begins to receive `key` from the registry `source`, `None` if unknown. Fails if `size` exceeds
    /// the free room, or the bound for an object.
    /// Reserves no room yet, so that a size declared by an upstream takes no room from other ingests,
    /// and evicts nothing.
    ///
    /// # Errors
    ///
    /// The disk is full, read-only or broken. The caller continues without the store.
    pub fn ingest(
        &self,
        key: &Key,
        source: Option<&Namespace>,
        size: Option<u64>,
    ) -> Result<Ingest, StoreError> {
        let path = layout::content(key);
        let error = || failed("begin to write", &path);
        if let Some(size) = size {
            self.check_size(size, source)
                .map_err(failed(StoreError::RESERVE, &path))?;
        }
        let dir = self.path(&path);
        let dir = dir.parent().expect("content lies in a directory below the root");
        let (file, temporary) = match unnamed(dir, OFlags::RDWR) {
            Ok(file) => (file, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let (path, file) = self.temporary_file().map_err(error())?;
                (file, Some(path))
            }
            Err(errno) => return Err(error()(errno.into())),
        };
        let ingest = Ingest {
            key: key.clone(),
            file: SharedFile::new(file),
            reserved: 0,
            room: Reservation::new(&self.index, source),
            temporary,
        };
        hit("ingest-opened");
        Ok(ingest)
    }

    /// Creates a file in the temporary directory. The next start removes leftover files.
    pub(super) fn temporary_file(&self) -> io::Result<(PathBuf, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let dir = self.root.join(layout::TEMPORARY);
        mode::create_dir_all(&dir)?;
        // The lock allows one process per root and startup removes earlier files, so the number
        // alone is unique.
        let path = dir.join(format!("{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = mode::create_new(&path, mode::CONTENT)?;
        Ok((path, file))
    }
}

/// Opens an unnamed file in `dir`. Creates the directory for the first file, and again if a removal of
/// the last content of the repository has removed the directory.
pub(super) fn unnamed(dir: &Path, access: OFlags) -> Result<File, Errno> {
    let flags = OFlags::TMPFILE | access | OFlags::CLOEXEC;
    let open = || rustix::fs::open(dir, flags, Mode::from_raw_mode(mode::CONTENT));
    let mut opened = open();
    for _ in 0..DIRECTORY_ATTEMPTS {
        if !matches!(opened, Err(Errno::NOENT)) {
            break;
        }
        mode::create_dir_all(dir).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        opened = open();
    }
    opened.map(File::from)
}

impl Ingest {
    /// Returns the file. Only written ranges may be read.
    pub fn file(&self) -> &SharedFile {
        &self.file
    }

    /// Returns the key of the content.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Returns the number of bytes with reserved room.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Releases the room reserved beyond `size`, the final size.
    pub(super) fn trim_to(&self, size: u64) -> io::Result<()> {
        if self.reserved > size {
            // Some file systems release blocks beyond the end on `set_len`, others on `fallocate`.
            self.file.set_len(size)?;
            let beyond = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE;
            let _ = fallocate(&*self.file, beyond, size, self.reserved - size);
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// The ingest is unusable afterwards, and the caller should drop it.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(failed("write", &layout::content(&self.key)))?;
        hit("ingest-written");
        Ok(())
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = fs::remove_file(path);
        }
    }
}
