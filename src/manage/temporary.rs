//! Temporary files and directories of commands. Each is locked (`flock`) while its process lives, so that a later
//! command removes what a killed command has left, and nothing of a running command.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use tempfile::{Builder, NamedTempFile, TempDir};

use crate::fail_point::hit;

/// Another process may remove a name between its creation and its lock, and rarely does so twice.
const ATTEMPTS: usize = 4;

/// The end of the names of temporary files.
const FILE_SUFFIX: &str = ".part";

/// A directory in `TMPDIR`. The drop removes the directory.
#[derive(Debug)]
pub struct TemporaryDir {
    dir: TempDir,
    _lock: File,
}

impl TemporaryDir {
    /// Creates a directory whose name starts with `prefix`. Removes the directories with this prefix that
    /// killed processes of the same user have left.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn create(prefix: &str) -> io::Result<Self> {
        remove_leftovers(&std::env::temp_dir(), prefix, "");
        let create = || Builder::new().prefix(prefix).tempdir();
        let (dir, lock) = locked(create, |dir| File::open(dir.path()), |dir| dir.path().to_owned())?;
        Ok(TemporaryDir { dir, _lock: lock })
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A file that gets its name when its content is complete. Only its owner can read the file.
#[derive(Debug)]
pub(super) struct TemporaryFile {
    file: Pending,
    dir: PathBuf,
    /// The start of a temporary name in `dir`.
    prefix: String,
}

#[derive(Debug)]
enum Pending {
    /// A file without a name, whose blocks the kernel releases with the process.
    Unnamed(File),
    /// A file with a temporary name, on a file system without such files.
    Named { file: NamedTempFile, _lock: File },
}

impl TemporaryFile {
    /// Creates a file in the directory `dir`. `prefix` is the start of the temporary names for the later name
    /// of the file. Removes the files with such names that killed processes of the same user have left.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn create(dir: &Path, prefix: &str) -> io::Result<Self> {
        remove_leftovers(dir, prefix, FILE_SUFFIX);
        let file = match unnamed(dir) {
            Some(file) => Pending::Unnamed(file),
            None => named(dir, prefix)?,
        };
        Ok(TemporaryFile {
            file,
            dir: dir.to_owned(),
            prefix: prefix.to_owned(),
        })
    }

    pub fn as_file_mut(&mut self) -> &mut File {
        match &mut self.file {
            Pending::Unnamed(file) => file,
            Pending::Named { file, .. } => file.as_file_mut(),
        }
    }

    /// Gives the file the name `path`, in its directory. Replaces an earlier file.
    ///
    /// # Errors
    ///
    /// The file system failed. `path` is unchanged.
    pub fn persist(self, path: &Path) -> io::Result<()> {
        let file = match self.file {
            Pending::Named { file, .. } => return file.persist(path).map(drop).map_err(|error| error.error),
            Pending::Unnamed(file) => file,
        };
        // `linkat` cannot replace a file, and `rename` needs a name.
        let source = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link = |name: &Path| {
            Ok(rustix::fs::linkat(
                CWD,
                &*source,
                CWD,
                name,
                AtFlags::SYMLINK_FOLLOW,
            )?)
        };
        let mut names = Builder::new();
        let named = names
            .prefix(&self.prefix)
            .suffix(FILE_SUFFIX)
            .make_in(&self.dir, link)?;
        hit("temporary-file-linked");
        named.persist(path).map(drop).map_err(|error| error.error)
    }
}

/// Opens a locked file without a name. `None` if the file system has no such files, or if another error remains for
/// a file with a name.
fn unnamed(dir: &Path) -> Option<File> {
    // Without `/proc`, the file would never get a name.
    fs::symlink_metadata("/proc/self/fd").ok()?;
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(dir, flags, Mode::RUSR | Mode::WUSR).ok()?);
    file.try_lock().ok()?;
    Some(file)
}

fn named(dir: &Path, prefix: &str) -> io::Result<Pending> {
    let create = || Builder::new().prefix(prefix).suffix(FILE_SUFFIX).tempfile_in(dir);
    let (file, lock) = locked(
        create,
        |file| file.as_file().try_clone(),
        |file| file.path().to_owned(),
    )?;
    Ok(Pending::Named { file, _lock: lock })
}

/// Creates an entry of the file system, and locks the entry before another process takes the entry for a leftover.
fn locked<T>(
    create: impl Fn() -> io::Result<T>,
    open: impl Fn(&T) -> io::Result<File>,
    path_of: impl Fn(&T) -> PathBuf,
) -> io::Result<(T, File)> {
    for _ in 0..ATTEMPTS {
        let created = create()?;
        let Ok(lock) = open(&created) else { continue };
        let path = path_of(&created);
        let is_named = || fs::symlink_metadata(&path).is_ok_and(|found| is_same(&found, &lock));
        if lock.try_lock().is_ok() && is_named() {
            return Ok((created, lock));
        }
    }
    Err(io::Error::other("another process removes temporary files"))
}

fn is_same(found: &fs::Metadata, file: &File) -> bool {
    file.metadata()
        .is_ok_and(|own| (own.dev(), own.ino()) == (found.dev(), found.ino()))
}

/// Removes the files and directories of this user in `dir` with names between `prefix` and `suffix`, unless a
/// process has locked them. Errors leave a leftover for the next command.
fn remove_leftovers(dir: &Path, prefix: &str, suffix: &str) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_temporary = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix))
            .is_some_and(|middle| !middle.is_empty());
        if is_temporary {
            let _ = remove_leftover(&entry.path());
        }
    }
}

fn remove_leftover(path: &Path) -> io::Result<()> {
    let found = fs::symlink_metadata(path)?;
    if found.uid() != rustix::process::geteuid().as_raw() || !(found.is_file() || found.is_dir()) {
        return Ok(());
    }
    let mut options = OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let lock = options.read(true).custom_flags(flags.bits() as i32).open(path)?;
    if !is_same(&found, &lock) || lock.try_lock().is_err() {
        return Ok(());
    }
    match found.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn named_file(dir: &Path, prefix: &str) -> TemporaryFile {
        TemporaryFile {
            file: named(dir, prefix).unwrap(),
            dir: dir.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    #[test]
    fn file_replaces_the_earlier_file_at_its_end_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bundle");
        for is_named in [false, true] {
            fs::write(&path, "earlier").unwrap();
            let mut file = match is_named {
                true => named_file(dir.path(), ".x-"),
                false => TemporaryFile::create(dir.path(), ".x-").unwrap(),
            };
            file.as_file_mut().write_all(b"new").unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"earlier");
            file.persist(&path).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"new");
            assert_eq!(names(dir.path()), ["bundle"]);
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn leftover_is_removed_and_a_locked_or_foreign_name_stays() {
        let dir = tempfile::tempdir().unwrap();
        let running = named_file(dir.path(), ".x-");
        fs::write(dir.path().join(".x-killed.part"), "").unwrap();
        for kept in [".x-.part", ".y-killed.part", ".x-killed", "bundle"] {
            fs::write(dir.path().join(kept), "").unwrap();
        }
        std::os::unix::fs::symlink("bundle", dir.path().join(".x-link.part")).unwrap();
        let next = TemporaryFile::create(dir.path(), ".x-").unwrap();
        let left = names(dir.path());
        assert!(!left.contains(&".x-killed.part".to_owned()), "{left:?}");
        assert!(left.len() >= 6, "{left:?}");
        drop((running, next));
        let left = names(dir.path());
        assert_eq!(
            left,
            [
                ".x-.part",
                ".x-killed",
                ".x-link.part",
                ".y-killed.part",
                "bundle"
            ]
        );
    }

    #[test]
    fn leftover_directory_is_removed_with_its_content() {
        let dir = tempfile::tempdir().unwrap();
        let leftover = dir.path().join("p.killed");
        fs::create_dir_all(leftover.join("blobs")).unwrap();
        fs::write(leftover.join("blobs/x"), "x").unwrap();
        let running = dir.path().join("p.running");
        fs::create_dir(&running).unwrap();
        let lock = File::open(&running).unwrap();
        lock.try_lock().unwrap();
        remove_leftovers(dir.path(), "p.", "");
        assert_eq!(names(dir.path()), ["p.running"]);
    }
}
