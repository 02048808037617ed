//! Finds entries. A lookup reads the sidecar, then the data, and succeeds only if both match.

use std::fmt;
use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::verify::{ReadPages, hash};
use super::{FsStore, failed, layout, open_regular};
use crate::fail_point::hit;
use crate::limits::{DIRECTORY_ATTEMPTS, SIDECAR_BYTES_MAX};
use crate::shared_file::SharedFile;
use crate::store::{Key, Meta, Source, StoreError, StoredEntry, mode};

/// The result of a lookup.
pub(super) enum EntryState {
    Entry(StoredEntry),
    /// A pair of the older system, not hashed yet.
    Unverified(StoredEntry),
    /// An unreadable sidecar, or a sidecar with missing or mismatched data.
    Broken(&'static str),
    Nothing,
}

/// Looks up the entry under `key` in the store at `root`. Changes nothing.
pub(super) fn look(root: &Path, key: &Key) -> io::Result<EntryState> {
    hit("store-lookup");
    let Some(sidecar) = open_regular(&root.join(layout::sidecar(key)))? else {
        return Ok(EntryState::Nothing);
    };
    let mut json = Vec::new();
    sidecar.take(SIDECAR_BYTES_MAX).read_to_end(&mut json)?;
    let Some(meta) = Meta::parse(*key.digest(), &json) else {
        return Ok(EntryState::Broken("invalid sidecar"));
    };
    let Some(data) = open_regular(&root.join(layout::content(key)))? else {
        return Ok(EntryState::Broken("the data file is missing"));
    };
    if data.metadata()?.len() != meta.size {
        return Ok(EntryState::Broken("the sizes of data file and sidecar differ"));
    }
    let verified = meta.verified;
    let entry = StoredEntry {
        file: SharedFile::new(data),
        meta: Arc::new(meta),
    };
    Ok(if verified {
        EntryState::Entry(entry)
    } else {
        EntryState::Unverified(entry)
    })
}

impl FsStore {
    /// Returns the entry under `key`, or `None`. Removes a mismatched pair. Hashes an unverified
    /// entry first, which can take a while.
    ///
    /// # Errors
    ///
    /// The file system failed. The caller treats the error as a miss.
    pub fn find(&self, key: &Key) -> Result<Option<StoredEntry>, StoreError> {
        match self.look(key).map_err(failed("read", &layout::sidecar(key)))? {
            EntryState::Entry(entry) => Ok(Some(entry)),
            EntryState::Nothing => Ok(None),
            EntryState::Unverified(entry) => self.adopt(key, entry),
            EntryState::Broken(why) => {
                self.discard_broken(key, why);
                Ok(None)
            }
        }
    }

    /// Looks up a nonexistent file, to measure the response time of the file system. The result is
    /// ignored, because an error is a response too.
    pub fn probe(&self) {
        static PROBES: AtomicU64 = AtomicU64::new(0);
        // The kernel caches failed lookups, so each probe uses a new name. No entry can have such a
        // name.
        let number = PROBES.fetch_add(1, Ordering::Relaxed);
        hit("store-lookup");
        let _ = open_regular(&self.path(Path::new("blobs")).join(format!(".probe-{number}")));
    }

    pub(super) fn look(&self, key: &Key) -> io::Result<EntryState> {
        look(&self.root, key)
    }

    /// Removes a mismatched pair, unless the pair has been replaced meanwhile.
    pub(super) fn discard_broken(&self, key: &Key, why: &'static str) {
        let _naming = self.naming.lock();
        if matches!(self.look(key), Ok(EntryState::Broken(_))) {
            tracing::warn!(entry = %layout::content(key).display(), reason = why, "damaged entry removed");
            self.remove(key);
        }
    }

    /// Removes an entry. Returns whether the files are gone. The caller must hold `naming`.
    pub(super) fn remove(&self, key: &Key) -> bool {
        let is_gone = self.remove_files(key);
        if is_gone {
            self.index.lock().remove(key);
            self.removals.add(key.digest().prefix());
        }
        is_gone
    }

    /// Removes the sidecar first, so that half a removal is a miss. If the sidecar cannot be
    /// removed, the data stays. Returns whether both files are gone.
    pub(super) fn remove_files(&self, key: &Key) -> bool {
        let mut paths = [layout::sidecar(key), layout::content(key)].into_iter();
        paths.all(|path| remove_file(&self.path(&path)))
    }

    /// Hashes an entry without verification mark, and marks or removes the entry. Only one caller
    /// hashes the entry. Meanwhile the lookup is a miss for other callers.
    fn adopt(&self, key: &Key, entry: StoredEntry) -> Result<Option<StoredEntry>, StoreError> {
        match self.adopting.take(key) {
            Some(_claim) => self.adopt_alone(key, entry),
            None => Ok(None),
        }
    }

    fn adopt_alone(&self, key: &Key, entry: StoredEntry) -> Result<Option<StoredEntry>, StoreError> {
        let path = layout::content(key);
        let hashed = hash(&entry.file, key, ReadPages::Kept, &mut |_| true).map_err(failed("hash", &path))?;
        if hashed.is_some_and(|(found, _)| found == *key.digest()) {
            let meta = self.mark(key, &entry).map_err(failed("mark", &path))?;
            self.index.lock().set_verified(key, true);
            Ok(Some(StoredEntry {
                meta: Arc::new(meta),
                ..entry
            }))
        } else {
            tracing::warn!(entry = %path.display(), reason = "the content does not match its digest", "damaged entry removed");
            let _naming = self.naming.lock();
            self.remove(key);
            Ok(None)
        }
    }

    /// Marks an entry as verified. Returns the new sidecar.
    pub(super) fn mark(&self, key: &Key, entry: &StoredEntry) -> io::Result<Meta> {
        let meta = Meta {
            verified: true,
            ..(*entry.meta).clone()
        };
        self.replace(&layout::sidecar(key), &meta.to_json())?;
        Ok(meta)
    }

    /// Records `source` as a source of an entry, and marks the entry as public if `public` is set.
    ///
    /// # Errors
    ///
    /// The entry is unchanged.
    pub fn record_source(&self, key: &Key, source: &Source, public: bool) -> Result<(), StoreError> {
        let _naming = self.naming.lock();
        // Otherwise the entry is missing, damaged or unverified.
        if let EntryState::Entry(entry) = self.look(key).map_err(failed("read", &layout::sidecar(key)))? {
            self.learn(key, &entry, std::slice::from_ref(source), public)?;
        }
        Ok(())
    }

    /// Adds sources and the public flag to an entry. The caller must hold `naming`.
    pub(super) fn learn(
        &self,
        key: &Key,
        entry: &StoredEntry,
        sources: &[Source],
        public: bool,
    ) -> Result<(), StoreError> {
        let Some(meta) = entry.meta.with(sources, public) else {
            return Ok(());
        };
        let sidecar = layout::sidecar(key);
        self.replace(&sidecar, &meta.to_json())
            .map_err(failed("mark", &sidecar))?;
        // Also adds an entry that the scan has not reached, because the scan may have read the old
        // sidecar already.
        if let Ok(data) = entry.file.metadata() {
            self.index_found(key, &data, &meta.sources);
        }
        Ok(())
    }

    /// Removes an entry with the correct digest but content of the wrong kind. Older stores
    /// accepted any content.
    pub fn discard(&self, key: &Key, reason: impl fmt::Display) {
        tracing::warn!(entry = %layout::content(key).display(), %reason, "entry of the wrong kind removed");
        let _naming = self.naming.lock();
        self.remove(key);
    }

    /// Replaces a small file atomically.
    pub(super) fn replace(&self, relative: &Path, content: &[u8]) -> io::Result<()> {
        let path = self.path(relative);
        if let Some(dir) = path.parent() {
            mode::create_dir_all(dir)?;
        }
        let (temporary, mut file) = self.temporary_file()?;
        let written = io::Write::write_all(&mut file, content)
            .and_then(|()| file.sync_data())
            .inspect(|()| hit("replacement-written"))
            .and_then(|()| rename_into_dir(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

/// Renames a file. Creates the directory of `to` again if a removal of the last content of the
/// repository has removed the directory.
fn rename_into_dir(from: &Path, to: &Path) -> io::Result<()> {
    let mut renamed = fs::rename(from, to);
    for _ in 0..DIRECTORY_ATTEMPTS {
        match (&renamed, to.parent()) {
            (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
                mode::create_dir_all(dir)?;
                renamed = fs::rename(from, to);
            }
            _ => break,
        }
    }
    renamed
}

/// Returns whether the file at `path` is gone. A failure is logged.
pub(super) fn remove_file(path: &Path) -> bool {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "entry not removed");
            false
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest};
    use crate::store::tests::Scratch;

    #[test]
    fn a_sidecar_that_cannot_be_removed_keeps_its_data() {
        let scratch = Scratch::new();
        let store = FsStore::open(&scratch.0).unwrap();
        let key = Key::Blob(Digest::of(Algorithm::Sha256, b"content"));
        let (data, sidecar) = (
            store.path(&layout::content(&key)),
            store.path(&layout::sidecar(&key)),
        );
        fs::write(&data, b"content").unwrap();
        // A directory at this path cannot be removed as a file.
        fs::create_dir(&sidecar).unwrap();
        store.remove(&key);
        assert!(data.exists());
        fs::remove_dir(&sidecar).unwrap();
        store.remove(&key);
        assert!(!data.exists());
    }
}
