//! File modes of the store. Content may be private to some clients, so other users of the machine
//! get no access. The group may read, for backups.
//!
//! The modes apply with any umask, because `app` sets a umask that removes none of their bits.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Mode of content, sidecars and tag pointers.
pub const CONTENT: u32 = 0o640;

pub const DIRECTORY: u32 = 0o750;

/// Mode of the lock and of spool files. A user with access to the lock could hold it and prevent
/// the cache from starting. Spool files have no other readers.
pub const OURS_ALONE: u32 = 0o600;

/// Creates `dir` and its missing parents.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(DIRECTORY).create(dir)
}

/// Creates a new file for reading and writing. Fails if the file exists.
pub fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

/// Removes mode bits of `file` that are not in `mode`. An older version, or a user, may have
/// created the file.
pub fn tighten(file: &File, mode: u32) -> io::Result<()> {
    let found = file.metadata()?.permissions().mode() & 0o7777;
    let wanted = found & (mode | 0o7000);
    if wanted == found {
        return Ok(());
    }
    file.set_permissions(Permissions::from_mode(wanted))
}
