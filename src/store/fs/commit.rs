//! Commits a verified ingest as an entry.
//!
//! The steps are `fdatasync(data)`, name the data, `fdatasync(sidecar)`, name the sidecar. The
//! sidecar's name is the commit point. On ext4, xfs and btrfs, a name for data not yet durable
//! became an empty or zeroed file in a power cut. A lost name is only a miss, so no directory is
//! synced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, OFlags, linkat};
use rustix::io::Errno;

use super::find::EntryState;
use super::ingest::{Ingest, unnamed};
use super::room::SIDECAR_BYTES;
use super::{FsStore, failed, layout};
use crate::fail_point::hit;
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::ManifestLinks;
use crate::store::eviction::Minute;
use crate::store::index::ObjectFacts;
use crate::store::{Key, Meta, Source, StoreError, Verified, mode};

impl FsStore {
    /// Makes `ingest` an entry. If the content was already committed, adds the sources and the public
    /// flag of `meta` to the existing entry.
    ///
    /// # Errors
    ///
    /// The store has no entry, or keeps the previous entry. A failed sync is never retried. The
    /// kernel may have dropped the data and report success for a second sync.
    pub fn commit(&self, ingest: Ingest, verified: &Verified, meta: Meta) -> Result<(), StoreError> {
        assert!(verified.digest() == ingest.key.digest() && verified.size() == meta.size && meta.verified);
        let key = ingest.key.clone();
        let data_path = layout::content(&key);
        let sidecar_path = layout::sidecar(&key);

        let written = ingest
            .file()
            .metadata()
            .map_err(failed("stat", &data_path))?
            .len();
        if written != meta.size {
            let found = format!("the file has {written} of {} bytes", meta.size);
            return Err(failed("commit", &data_path)(io::Error::other(found)));
        }
        ingest.trim_to(written).map_err(failed("trim", &data_path))?;
        ingest.file().sync_data().map_err(failed("sync", &data_path))?;
        hit("data-synced");
        let sidecar = self
            .write_sidecar(&sidecar_path, &meta)
            .map_err(failed("write", &sidecar_path))?;
        hit("sidecar-written");

        let _naming = self.naming.lock();
        match self.look(&key) {
            Ok(EntryState::Entry(entry)) => return self.learn(&key, &entry, &meta.sources, meta.public),
            // A mismatched pair, or an unhashed pair that this commit replaces.
            Ok(EntryState::Broken(_) | EntryState::Unverified(_)) => {
                remove_leftover(&self.path(&sidecar_path));
                remove_leftover(&self.path(&data_path));
            }
            Ok(EntryState::Nothing) => {}
            Err(error) => return Err(failed("look at", &sidecar_path)(error)),
        }
        self.name(ingest.file(), ingest.temporary.as_deref(), &self.path(&data_path))
            .map_err(failed("name", &data_path))?;
        hit("data-named");
        if let Err(error) = self.name(
            &sidecar.file,
            sidecar.temporary.as_deref(),
            &self.path(&sidecar_path),
        ) {
            let _ = fs::remove_file(self.path(&data_path));
            return Err(failed("name", &sidecar_path)(error));
        }
        hit("sidecar-named");
        self.index_entry(&key, ingest.file(), &meta.sources);
        Ok(())
    }

    /// Adds the entry that was just committed to the index.
    fn index_entry(&self, key: &Key, data: &File, sources: &[Source]) {
        // An entry without facts counts as one block until the next start.
        let bytes = data.metadata().map_or(0, |found| found.blocks() * 512);
        let facts = ObjectFacts::of_new(bytes + SIDECAR_BYTES, Minute::now());
        let links = links(key, data);
        let mut index = self.index.lock();
        index.insert(key, facts, links.as_ref());
        index.add_sources(key, sources);
    }

    fn write_sidecar(&self, relative: &Path, meta: &Meta) -> io::Result<Sidecar> {
        let path = self.path(relative);
        let dir = path
            .parent()
            .expect("a sidecar lies in a directory below the root");
        let mut sidecar = match unnamed(dir, OFlags::WRONLY) {
            Ok(file) => Sidecar {
                file,
                temporary: None,
            },
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let (path, file) = self.temporary_file()?;
                Sidecar {
                    file,
                    temporary: Some(path),
                }
            }
            Err(errno) => return Err(errno.into()),
        };
        sidecar.file.write_all(&meta.to_json())?;
        sidecar.file.sync_data()?;
        Ok(sidecar)
    }

    /// Names `file`. Replaces a leftover at `path`, such as data without a sidecar.
    fn name(&self, file: &File, temporary: Option<&Path>, path: &Path) -> io::Result<()> {
        match link(file, temporary, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                remove_leftover(path);
                link(file, temporary, path)
            }
            // The directory was removed with the last content of the repository. `naming` is held, so
            // nothing removes the directory now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(dir) = path.parent() {
                    mode::create_dir_all(dir)?;
                }
                link(file, temporary, path)
            }
            result => result,
        }
    }
}

/// Returns the content that the manifest `key` names. `None` for a blob and for unreadable content.
pub(super) fn links(key: &Key, data: &File) -> Option<ManifestLinks> {
    let Key::Manifest { .. } = key else { return None };
    let size = data.metadata().ok()?.len();
    let size = usize::try_from(size)
        .ok()
        .filter(|&size| size <= MANIFEST_BYTES_MAX)?;
    let mut body = vec![0; size];
    data.read_exact_at(&mut body, 0).ok()?;
    ManifestLinks::parse(&body)
}

struct Sidecar {
    file: File,
    temporary: Option<std::path::PathBuf>,
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary {
            let _ = fs::remove_file(path);
        }
    }
}

/// Removes the file or the empty directory at `path`. The caller detects a failure by the name that
/// remains.
fn remove_leftover(path: &Path) {
    let _ = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => Ok(()),
    };
}

fn link(file: &File, temporary: Option<&Path>, path: &Path) -> io::Result<()> {
    match temporary {
        // A hard link never replaces an existing file. Replacing a file by rename has lost both
        // files in a power cut on xfs and btrfs.
        Some(temporary) => fs::hard_link(temporary, path).or_else(|error| match error.raw_os_error() {
            // A file system without hard links. `naming` is held, so nothing creates the path now.
            Some(libc::EPERM | libc::EOPNOTSUPP) => {
                remove_leftover(path);
                fs::rename(temporary, path)
            }
            _ => Err(error),
        }),
        None => link_unnamed(file.as_raw_fd(), path),
    }
}

/// Names a file created with `O_TMPFILE`. Uses `/proc`, because linking by descriptor requires a
/// capability.
fn link_unnamed(fd: RawFd, path: &Path) -> io::Result<()> {
    let source = format!("/proc/self/fd/{fd}");
    linkat(CWD, source.as_str(), CWD, path, AtFlags::SYMLINK_FOLLOW)?;
    Ok(())
}
