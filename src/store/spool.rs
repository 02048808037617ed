//! Unnamed files for content waiting for its upload to a bucket. The files disappear with the
//! process.
//!
//! The `cache` decides how to use the files. Files that become entries are in [`super::Ingest`].

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::no_room::NoRoom;
use super::{StoreError, mode, space};
use crate::shared_file::SharedFile;

/// A directory for spool files, with a limit on their total size.
#[derive(Debug)]
pub struct SpoolDir {
    dir: PathBuf,
    bytes_max: u64,
    /// Bytes held or reserved by open spool files.
    bytes: Arc<AtomicU64>,
    /// Counter for the temporary names of files, on file systems without unnamed files.
    names: AtomicU64,
}

/// An open spool file. Its room in the spool is released when the file and all copies of
/// [`Spooled::room`] are dropped.
#[derive(Debug)]
pub struct Spooled {
    file: SharedFile,
    room: Arc<Room>,
    /// Bytes with reserved room.
    reserved: u64,
}

/// Room taken in a spool. Must be kept for as long as the file is open.
#[derive(Debug)]
pub struct Room {
    /// Bytes taken.
    taken: AtomicU64,
    bytes: Arc<AtomicU64>,
    bytes_max: u64,
    dir: PathBuf,
}

impl SpoolDir {
    /// Opens `dir` for at most `bytes_max` bytes. Creates a missing directory.
    ///
    /// # Errors
    ///
    /// No file can be created in `dir`.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        mode::create_dir_all(dir).map_err(failed("create the spool directory", dir))?;
        let spool = SpoolDir {
            dir: dir.to_owned(),
            bytes_max,
            bytes: Arc::default(),
            names: AtomicU64::new(0),
        };
        spool.begin(None)?;
        Ok(spool)
    }

    /// Returns the free bytes.
    pub fn free_room(&self) -> u64 {
        let left = self.bytes_max.saturating_sub(self.bytes.load(Ordering::Relaxed));
        left.min(space::free_room(&self.dir))
    }

    /// Creates a spool file. Fails if `size` exceeds the free room. Reserves no room yet, so that a
    /// size declared by an upstream takes no room from other files.
    ///
    /// # Errors
    ///
    /// The spool or its disk is full or broken. The caller continues without the spool.
    pub fn begin(&self, size: Option<u64>) -> Result<Spooled, StoreError> {
        let room = Room {
            taken: AtomicU64::new(0),
            bytes: self.bytes.clone(),
            bytes_max: self.bytes_max,
            dir: self.dir.clone(),
        };
        if size.is_some_and(|size| size > self.free_room()) {
            return Err(room.full());
        }
        let file = self
            .unnamed()
            .map_err(failed("create a file in the spool directory", &self.dir))?;
        Ok(Spooled {
            file: SharedFile::new(file),
            room: Arc::new(room),
            reserved: 0,
        })
    }

    fn unnamed(&self) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&self.dir, flags, Mode::from_raw_mode(mode::OURS_ALONE)) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                // Other processes may use the same directory, so the number alone is not unique.
                let number = self.names.fetch_add(1, Ordering::Relaxed);
                let name = format!(".oci-pull-through-{}-{number}", std::process::id());
                let path = self.dir.join(name);
                let file = mode::create_new(&path, mode::OURS_ALONE)?;
                fs::remove_file(&path)?;
                Ok(file)
            }
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Spooled {
    /// Returns the file. Only written ranges may be read.
    pub fn file(&self) -> &SharedFile {
        &self.file
    }

    /// Returns the room of the file. Must be kept for as long as the file.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Returns the number of bytes with reserved room.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Reserves room for `end` bytes, so that a full spool or disk is detected before the write.
    ///
    /// # Errors
    ///
    /// There is not enough room. The caller should drop the file.
    pub fn reserve_to(&mut self, end: u64) -> Result<(), StoreError> {
        if end > self.reserved {
            self.room.grow_to(end)?;
            space::reserve(&self.file, self.reserved, end)
                .map_err(failed(StoreError::RESERVE, &self.room.dir))?;
            self.reserved = end;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// The file is unusable afterwards, and the caller should drop it.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.room.grow_to(offset + bytes.len() as u64)?;
        self.file
            .write_all_at(bytes, offset)
            .map_err(failed("write to a file in the spool directory", &self.room.dir))
    }
}

impl Room {
    /// Called by the only writer of the file, never concurrently.
    fn grow_to(&self, size: u64) -> Result<(), StoreError> {
        let more = size.saturating_sub(self.taken.load(Ordering::Relaxed));
        if more == 0 {
            return Ok(());
        }
        let fits = |bytes: u64| bytes.checked_add(more).filter(|sum| *sum <= self.bytes_max);
        match self
            .bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
        {
            Ok(_) => {
                self.taken.fetch_add(more, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => Err(self.full()),
        }
    }

    fn full(&self) -> StoreError {
        failed(StoreError::RESERVE, &self.dir)(NoRoom::Spool.into())
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.bytes
            .fetch_sub(self.taken.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.display().to_string();
    move |source| StoreError { doing, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spool(bytes_max: u64) -> SpoolDir {
        SpoolDir::open(&std::env::temp_dir(), bytes_max).unwrap()
    }

    #[test]
    fn spool_file_returns_the_written_bytes() {
        let file = spool(100).begin(Some(6)).unwrap();
        file.write_at(b"def", 3).unwrap();
        file.write_at(b"abc", 0).unwrap();
        assert_eq!(crate::sys::read_exact_at(file.file(), 0, 6).unwrap(), b"abcdef");
    }

    #[test]
    fn all_files_together_stay_within_the_bound() {
        let spool = spool(100);
        let claimed = spool.begin(Some(90)).unwrap();
        let mut known = spool.begin(Some(60)).unwrap();
        assert_eq!(claimed.reserved(), 0, "a claim reserves no space");
        known.reserve_to(60).unwrap();
        assert!(spool.begin(Some(41)).unwrap_err().is_about_size());
        let unknown = spool.begin(None).unwrap();
        unknown.write_at(&[0; 40], 0).unwrap();
        assert!(unknown.write_at(&[0; 1], 40).is_err());
        known.write_at(&[0; 60], 0).unwrap();
        assert!(
            known.write_at(&[0; 1], 60).is_err(),
            "a write above the announced size fails"
        );
        let room = known.room().clone();
        drop(known);
        assert!(spool.begin(Some(1)).is_err(), "a file is still open");
        drop(room);
        assert!(spool.begin(Some(60)).is_ok());
    }
}
