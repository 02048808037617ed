//! Files without names for content that is on its way to a bucket. Nothing of them outlives the process.
//!
//! Not here: what is done with them (the `cache`), and files that become entries ([`super::Ingest`]).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::{StoreError, mode};

/// A directory in which files are made, and what they may hold together.
#[derive(Debug)]
pub struct SpoolDir {
    dir: PathBuf,
    bytes_max: u64,
    /// Bytes that files in progress hold or have reserved.
    bytes: Arc<AtomicU64>,
    /// Names of files that file systems without nameless ones need for a moment.
    names: AtomicU64,
}

/// A file in progress; it takes its room in the spool until it and all copies of [`Spooled::room`] are dropped.
#[derive(Debug)]
pub struct Spooled {
    file: Arc<File>,
    room: Arc<Room>,
    /// Bytes for which room was reserved.
    reserved: u64,
}

/// Room taken in a spool. Whoever keeps the file open keeps this too.
#[derive(Debug)]
pub struct Room {
    /// Bytes taken.
    taken: AtomicU64,
    bytes: Arc<AtomicU64>,
    bytes_max: u64,
    dir: PathBuf,
}

impl SpoolDir {
    /// Uses `dir`, which is made when it is missing, for `bytes_max` bytes at most.
    ///
    /// # Errors
    ///
    /// When no file can be made there.
    pub fn open(dir: &Path, bytes_max: u64) -> Result<Self, StoreError> {
        mode::create_dir_all(dir).map_err(failed("make the directory", dir))?;
        let spool = SpoolDir {
            dir: dir.to_owned(),
            bytes_max,
            bytes: Arc::default(),
            names: AtomicU64::new(0),
        };
        spool.begin(None)?;
        Ok(spool)
    }

    /// Bytes for which there is room.
    pub fn free_room(&self) -> u64 {
        let left = self.bytes_max.saturating_sub(self.bytes.load(Ordering::Relaxed));
        left.min(super::free_room(&self.dir))
    }

    /// A new file; a `size` for which there is no room is refused. None is taken yet: an upstream's word for the size takes
    /// nothing from others.
    ///
    /// # Errors
    ///
    /// The spool or its disk is full, or broken: the caller goes on without it.
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
        let file = self.unnamed().map_err(failed("make a file in", &self.dir))?;
        Ok(Spooled {
            file: Arc::new(file),
            room: Arc::new(room),
            reserved: 0,
        })
    }

    fn unnamed(&self) -> io::Result<File> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(&self.dir, flags, Mode::from_raw_mode(mode::OURS_ALONE)) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                // Other processes may spool here too, so the number alone is not unique.
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
    /// The file, to be read below what has been written.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// To be kept as long as the file is.
    pub fn room(&self) -> &Arc<Room> {
        &self.room
    }

    /// Bytes for which room was reserved.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Reserves room for `end` bytes, so that a full spool or disk is noticed before they are written.
    ///
    /// # Errors
    ///
    /// There is not that much; the file should be dropped.
    pub fn reserve_to(&mut self, end: u64) -> Result<(), StoreError> {
        if end > self.reserved {
            self.room.grow_to(end)?;
            super::reserve(&self.file, self.reserved, end)
                .map_err(failed(StoreError::RESERVE, &self.room.dir))?;
            self.reserved = end;
        }
        Ok(())
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    ///
    /// The file is good for nothing then and should be dropped.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), StoreError> {
        self.room.grow_to(offset + bytes.len() as u64)?;
        self.file
            .write_all_at(bytes, offset)
            .map_err(failed("write a file in", &self.room.dir))
    }
}

impl Room {
    /// One caller at a time: whoever writes the file.
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
        failed(StoreError::RESERVE, &self.dir)(io::Error::other(
            "the spool is full of what is on its way to the bucket",
        ))
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
    fn what_is_written_is_read_back() {
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
        assert_eq!(claimed.reserved(), 0, "a claim takes no room");
        known.reserve_to(60).unwrap();
        assert!(spool.begin(Some(41)).unwrap_err().is_about_size());
        let unknown = spool.begin(None).unwrap();
        unknown.write_at(&[0; 40], 0).unwrap();
        assert!(unknown.write_at(&[0; 1], 40).is_err());
        known.write_at(&[0; 60], 0).unwrap();
        assert!(known.write_at(&[0; 1], 60).is_err(), "more than was promised");
        let room = known.room().clone();
        drop(known);
        assert!(spool.begin(Some(1)).is_err(), "somebody still has it open");
        drop(room);
        assert!(spool.begin(Some(60)).is_ok());
    }
}
