//! The scan at start. Removes files that can never become a hit, while requests are already served.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::Path;
use std::time::SystemTime;

use rustix::fs::{Mode, OFlags};

use super::commit::links;
use super::find::EntryState;
use super::layout::{self, RECORD_SUFFIX, REFERRERS, REPOSITORY_DEPTH_MAX, SIDECAR_SUFFIX, TAGS};
use super::room::SIDECAR_BYTES;
use super::tags::{TAG_BYTES, read_pointer};
use super::{FsStore, open_regular};
use crate::limits::SCAN_PART_ENTRIES;
use crate::oci::{Digest, Namespace, Repository};
use crate::store::eviction::Minute;
use crate::store::index::ObjectFacts;
use crate::store::{Key, Meta, Source};

/// Larger than almost every sidecar.
const USUAL_SIDECAR_BYTES: usize = 8 * 1024;

/// The manner of a scan.
#[derive(Clone, Copy)]
struct Manner {
    started: SystemTime,
    /// Whether files that can never become a hit are removed.
    removes: bool,
}

/// The results of a scan.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScanReport {
    pub entries: u64,
    pub bytes: u64,
    /// Data without a sidecar, left by a kill between the two names.
    pub orphans: u64,
    /// Mismatched pairs.
    pub broken: u64,
    /// Files that do not belong to the store. Left alone.
    pub foreign: u64,
    /// Unreadable files and directories. Left alone.
    pub unreadable: u64,
}

impl FsStore {
    /// Scans the store, and removes damaged entries. Never fails, but counts unreadable files.
    /// Directories are read in parts, so that only the index grows with the store.
    pub fn scan(&self) -> ScanReport {
        self.scan_in(Manner {
            started: SystemTime::now(),
            removes: true,
        })
    }

    /// Scans the store like [`FsStore::scan`], and removes nothing. Mismatched pairs are in the index.
    pub fn scan_only(&self) -> ScanReport {
        self.scan_in(Manner {
            started: SystemTime::now(),
            removes: false,
        })
    }

    fn scan_in(&self, manner: Manner) -> ScanReport {
        let mut report = ScanReport::default();
        for entry in entries(&self.path(Path::new(layout::BLOBS)), &mut report) {
            self.scan_file(&entry, manner, &mut report, &Key::Blob);
        }
        let manifests = self.path(Path::new(layout::MANIFESTS));
        for registry in entries(&manifests, &mut report) {
            let Some(namespace) = name_of(&registry).and_then(|name| name.parse::<Namespace>().ok()) else {
                report.foreign += 1;
                continue;
            };
            self.scan_repositories(&registry.path(), &namespace, "", 0, manner, &mut report);
        }
        self.index.lock().set_whole();
        report
    }

    fn scan_repositories(
        &self,
        dir: &Path,
        namespace: &Namespace,
        name: &str,
        depth: usize,
        manner: Manner,
        report: &mut ScanReport,
    ) {
        if depth > REPOSITORY_DEPTH_MAX {
            return;
        }
        let repository = name.parse::<Repository>().ok();
        for entry in entries(dir, report) {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                if let Some(repository) = &repository {
                    self.scan_file(&entry, manner, report, &|digest| Key::Manifest {
                        namespace: namespace.clone(),
                        repository: repository.clone(),
                        digest,
                    });
                }
                continue;
            }
            let Some(part) = name_of(&entry) else { continue };
            if part == REFERRERS {
                self.scan_records(&entry.path(), report);
                continue;
            }
            if part == TAGS {
                if let Some(repository) = &repository {
                    self.scan_tags(&entry.path(), namespace, repository, report);
                }
                continue;
            }
            let Some(part) = layout::repository_part(&part) else {
                report.foreign += 1;
                continue;
            };
            let name = if name.is_empty() {
                part.to_owned()
            } else {
                format!("{name}/{part}")
            };
            self.scan_repositories(&entry.path(), namespace, &name, depth + 1, manner, report);
        }
    }

    /// Registers the records of referrers in `dir`, so that the bounds include them.
    fn scan_records(&self, dir: &Path, report: &mut ScanReport) {
        for entry in entries(dir, report) {
            match entry.metadata() {
                Ok(found)
                    if found.is_file()
                        && name_of(&entry).is_some_and(|name| name.ends_with(RECORD_SUFFIX)) =>
                {
                    self.found_record(&entry.path(), &found);
                }
                Ok(_) => report.foreign += 1,
                Err(_) => report.unreadable += 1,
            }
        }
    }

    /// Adds the tag pointers in `dir` to the index.
    fn scan_tags(&self, dir: &Path, namespace: &Namespace, repository: &Repository, report: &mut ScanReport) {
        for entry in entries(dir, report) {
            let Some(name) = name_of(&entry) else { continue };
            let Ok(Some(pointer)) = read_pointer(&entry.path()) else {
                // The next check of the tag repairs an unreadable pointer.
                continue;
            };
            let stored = Minute::of_unix_seconds(pointer.checked_at_ms / 1000);
            let facts = ObjectFacts::of_new(TAG_BYTES, stored);
            let mut index = self.index.lock();
            index.insert_found_tag(namespace, repository, &name, pointer.digest.prefix(), facts);
        }
    }

    /// Returns the size of the entry of `key` and adds the entry to the index, with few system calls.
    /// `None` for an unusual entry.
    fn index_usual(&self, key: &Key) -> Option<u64> {
        let sidecar = read_usual_sidecar(&self.path(&layout::sidecar(key)))?;
        let meta = Meta::parse(*key.digest(), &sidecar)?;
        let data = fs::symlink_metadata(self.path(&layout::content(key))).ok()?;
        if !data.is_file() || data.len() != meta.size {
            return None;
        }
        self.index_found(key, &data, &meta.sources);
        Some(meta.size)
    }

    /// Adds an entry with the data file `data` to the index, with the registries `sources`.
    pub(super) fn index_found(&self, key: &Key, data: &Metadata, sources: &[Source]) {
        let minute = |seconds: i64| Minute::of_unix_seconds(seconds.try_into().unwrap_or(0));
        let facts = ObjectFacts {
            bytes: data.blocks() * 512 + SIDECAR_BYTES,
            stored: minute(data.mtime()),
            used: minute(data.atime()),
        };
        let links = match key {
            Key::Blob(_) => None,
            Key::Manifest { .. } => {
                let data = open_regular(&self.path(&layout::content(key)));
                data.ok().flatten().and_then(|data| links(key, &data))
            }
        };
        let is_in_bucket = self.is_marked_as_copied(key);
        let mut index = self.index.lock();
        index.insert_found(key, facts, links.as_ref());
        index.add_sources(key, sources);
        if is_in_bucket {
            index.set_in_bucket(key, true);
        }
    }

    /// Scans a file of a directory with content.
    fn scan_file(
        &self,
        entry: &DirEntry,
        manner: Manner,
        report: &mut ScanReport,
        key_of: &dyn Fn(Digest) -> Key,
    ) {
        let Some(name) = name_of(entry) else {
            report.foreign += 1;
            return;
        };
        let (bare, is_sidecar) = match name.strip_suffix(SIDECAR_SUFFIX) {
            Some(bare) => (bare, true),
            None => (&*name, false),
        };
        let Some(key) = Digest::from_file_name(bare).map(key_of) else {
            let dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            report.foreign += u64::from(!dir);
            return;
        };
        if !is_sidecar {
            let has_sidecar = !is_missing(&fs::symlink_metadata(self.path(&layout::sidecar(&key))));
            if !has_sidecar && manner.removes {
                self.remove_orphan(&key, entry, manner.started, report);
            }
            return;
        }
        if let Some(size) = self.index_usual(&key) {
            report.entries += 1;
            report.bytes += size;
            return;
        }
        match self.look(&key) {
            Ok(EntryState::Entry(found) | EntryState::Unverified(found)) => {
                report.entries += 1;
                report.bytes += found.meta.size;
                if let Ok(data) = found.file.metadata() {
                    self.index_found(&key, &data, &found.meta.sources);
                }
            }
            Ok(EntryState::Broken(why)) => {
                report.broken += 1;
                if manner.removes {
                    self.discard_broken(&key, why);
                } else {
                    let facts = ObjectFacts::of_new(0, Minute::default());
                    self.index.lock().insert_found(&key, facts, None);
                }
            }
            // A sidecar that is not a regular file.
            Ok(EntryState::Nothing) => report.foreign += 1,
            Err(_) => report.unreadable += 1,
        }
    }

    /// Removes data without a sidecar, except new data of a possible commit in progress.
    fn remove_orphan(&self, key: &Key, entry: &DirEntry, started: SystemTime, report: &mut ScanReport) {
        let _naming = self.naming.lock();
        let path = entry.path();
        // The sidecar may have been written after the directory was listed.
        if !is_missing(&fs::symlink_metadata(self.path(&layout::sidecar(key)))) {
            return;
        }
        let Ok(found) = fs::symlink_metadata(&path) else {
            return;
        };
        if !found.is_file() {
            report.foreign += 1;
            return;
        }
        let old = found.modified().is_ok_and(|modified| modified < started);
        if old && fs::remove_file(&path).is_ok() {
            report.orphans += 1;
        }
    }
}

/// Reads a sidecar of at most [`USUAL_SIDECAR_BYTES`]. `None` for any other file.
fn read_usual_sidecar(path: &Path) -> Option<Vec<u8>> {
    // `NONBLOCK` prevents a named pipe at this path from blocking the thread.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    let mut bytes = vec![0; USUAL_SIDECAR_BYTES];
    // A short read of a regular file is the whole file. The parser rejects a part.
    let read = rustix::io::read(&file, &mut bytes).ok()?;
    bytes.truncate(read);
    (read < USUAL_SIDECAR_BYTES).then_some(bytes)
}

/// Returns whether the file system reports that a file does not exist. After any other error, the
/// file may exist.
fn is_missing(looked: &io::Result<Metadata>) -> bool {
    matches!(looked, Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Reads the entries of `dir` in parts of [`SCAN_PART_ENTRIES`], each in the order of the inodes. The
/// order of a directory on ext4 is random, and costs a disk read for each file. Counts a directory
/// that cannot be read.
fn entries(dir: &Path, report: &mut ScanReport) -> impl Iterator<Item = DirEntry> + use<> {
    let opened = fs::read_dir(dir);
    if let Err(error) = &opened
        && error.kind() != io::ErrorKind::NotFound
        && error.kind() != io::ErrorKind::NotADirectory
    {
        report.unreadable += 1;
    }
    let mut entries = opened.into_iter().flatten().flatten();
    std::iter::from_fn(move || {
        let mut part: Vec<DirEntry> = entries.by_ref().take(SCAN_PART_ENTRIES).collect();
        part.sort_unstable_by_key(DirEntry::ino);
        (!part.is_empty()).then_some(part)
    })
    .flatten()
}

fn name_of(entry: &DirEntry) -> Option<String> {
    entry.file_name().into_string().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecar_counts_as_missing_only_after_enoent() {
        for (errno, missing) in [
            (libc::ENOENT, true),
            (libc::EACCES, false),
            (libc::EIO, false),
            (libc::EMFILE, false),
            (libc::ENOTDIR, false),
        ] {
            let looked = Err(io::Error::from_raw_os_error(errno));
            assert_eq!(is_missing(&looked), missing, "{errno}");
        }
        assert!(!is_missing(&fs::symlink_metadata("/")));
    }
}
