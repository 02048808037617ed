//! Free and reserved space of a file system.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatfs, statvfs};
use rustix::io::Errno;

/// The size of a file system. All zero for a file system that does not report its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Space {
    pub bytes: u64,
    /// Bytes free for this process.
    pub free_bytes: u64,
    pub used_bytes: u64,
    pub inodes: u64,
    pub free_inodes: u64,
}

impl Space {
    /// Returns the state of the file system of `dir`.
    pub fn of(dir: &Path) -> Self {
        let Ok(stat) = statvfs(dir) else {
            return Space::default();
        };
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Space {
            bytes: bytes(stat.f_blocks),
            free_bytes: bytes(stat.f_bavail),
            used_bytes: bytes(stat.f_blocks.saturating_sub(stat.f_bfree)),
            inodes: stat.f_files,
            free_inodes: stat.f_favail,
        }
    }
}

/// Returns the free bytes of the file system of `dir`. A file system that does not report free
/// space counts as unlimited.
pub fn free_room(dir: &Path) -> u64 {
    match Space::of(dir) {
        Space { bytes: 0, .. } => u64::MAX,
        space => space.free_bytes,
    }
}

/// Reserves room in `file` from `from` to `to` without growing the file. After a power cut, a file
/// size ahead of the data would remain, filled with zeros. A file system without support, and one in
/// memory, reserves nothing.
pub fn reserve(file: &File, from: u64, to: u64) -> io::Result<()> {
    let stat = fstatfs(file)?;
    if stat.f_type == libc::TMPFS_MAGIC {
        // On tmpfs, `fallocate` fills every page with zeros, which costs as much as a write.
        let free = stat.f_bavail.saturating_mul(stat.f_bsize.unsigned_abs());
        let is_full = stat.f_blocks > 0 && to - from > free;
        return if is_full { Err(Errno::NOSPC.into()) } else { Ok(()) };
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    #[test]
    fn file_in_memory_gets_no_pages_before_the_write() {
        let file = memfd_create("reserved", MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(file);
        reserve(&file, 0, 64 * 1024 * 1024).unwrap();
        assert_eq!(file.metadata().unwrap().blocks(), 0);
    }
}
