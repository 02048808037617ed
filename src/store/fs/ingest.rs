//! A write in progress: a file without a name.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};
use rustix::io::Errno;

use super::{FsStore, failed, layout};
use crate::fail_point::reach;
use crate::store::{Key, StoreError, mode};

/// Content being received. Dropping it without a commit leaves nothing in the store.
#[derive(Debug)]
pub struct Ingest {
    pub(super) key: Key,
    file: Arc<File>,
    /// The name, on file systems that cannot make files without one.
    pub(super) temporary: Option<PathBuf>,
}

impl FsStore {
    /// Begins to receive `key`; `size` reserves the room, so that a full disk is noticed before the work.
    ///
    /// # Errors
    ///
    /// Full, read-only or broken: the caller goes on without the store.
    pub fn ingest(&self, key: &Key, size: Option<u64>) -> Result<Ingest, StoreError> {
        let path = layout::content(key);
        let error = || failed("begin to write", &path);
        let dir = self.path(&path);
        let dir = dir.parent().expect("content lies in a directory below the root");
        mode::create_dir_all(dir).map_err(error())?;
        let (file, temporary) = match unnamed(dir) {
            Ok(file) => (file, None),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let (path, file) = self.temporary_file().map_err(error())?;
                (file, Some(path))
            }
            Err(errno) => return Err(error()(errno.into())),
        };
        let ingest = Ingest {
            key: key.clone(),
            file: Arc::new(file),
            temporary,
        };
        reach("ingest-opened");
        if let Some(size) = size.filter(|&size| size > 0) {
            // Without growing the file: a size that runs ahead of the data would survive a power cut as zeros.
            match fallocate(&*ingest.file, FallocateFlags::KEEP_SIZE, 0, size) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(errno) => return Err(failed(StoreError::RESERVE, &path)(errno.into())),
            }
        }
        Ok(ingest)
    }

    /// A new file below the temporary directory, cleared at the next start if we do not get to remove it.
    pub(super) fn temporary_file(&self) -> io::Result<(PathBuf, File)> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let dir = self.root.join(layout::TEMPORARY);
        mode::create_dir_all(&dir)?;
        // One process per root, so the number alone is unique; start-up has removed earlier ones.
        let path = dir.join(format!("{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        let file = mode::create_new(&path, mode::CONTENT)?;
        Ok((path, file))
    }
}

fn unnamed(dir: &std::path::Path) -> Result<File, Errno> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::from_raw_mode(mode::CONTENT)).map(File::from)
}

impl Ingest {
    /// The file, to be read below what has been written.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// The ingest is good for nothing then and should be dropped.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(failed("write", &layout::content(&self.key)))?;
        reach("ingest-written");
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
