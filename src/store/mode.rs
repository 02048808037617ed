//! Modes of what lies on disk. Content may be private to some clients, so that other users of the machine get none of it; the
//! group may read, for backups.
//!
//! They hold with any umask: `app` sets one that takes away nothing of them.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Content, sidecars, tag pointers.
pub const CONTENT: u32 = 0o640;

pub const DIRECTORY: u32 = 0o750;

/// The lock: who can open it can hold it, and so keep the cache from starting. Files of the spool, which have no readers.
pub const OURS_ALONE: u32 = 0o600;

/// Makes `dir` and what is missing above it.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(dir)
}

/// Makes a file that is not there yet, to be read and written.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

/// Takes away from the mode of `file` what `mode` does not have; an older version, or a user, may have made it.
pub fn tighten(file: &File, mode: u32) -> io::Result<()> {
    let found = file.metadata()?.permissions().mode() & 0o7777;
    let wanted = found & (mode | 0o7000);
    if wanted == found {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(wanted))
}
