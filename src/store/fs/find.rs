//! Finding an entry: sidecar first, then data, and only if they agree.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::{FsStore, failed, layout, open_regular};
use crate::fail_point::hit;
use crate::limits::SIDECAR_BYTES_MAX;
use crate::oci::{Digest, Hasher};
use crate::store::{Entry, Key, Meta, Source, StoreError, Verified, mode};

/// What lies under a key.
pub(super) enum Found {
    Entry(Entry),
    /// A pair of the older system, not hashed yet.
    Unverified(Entry),
    /// A sidecar without its data, or one that does not describe it.
    Broken(&'static str),
    Nothing,
}

impl FsStore {
    /// The entry under `key`, or `None`. What does not agree is removed; what was never verified is hashed
    /// first, which can take a while.
    ///
    /// # Errors
    ///
    /// When the file system fails; the caller treats it as a miss.
    pub fn find(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        match self.look(key).map_err(failed("read", &layout::sidecar(key)))? {
            Found::Entry(entry) => Ok(Some(entry)),
            Found::Nothing => Ok(None),
            Found::Unverified(entry) => self.adopt(key, entry),
            Found::Broken(why) => {
                self.discard_broken(key, why);
                Ok(None)
            }
        }
    }

    /// Looks for something that is not there, which takes as long as the file system does. The result is
    /// dropped: an error is an answer too.
    pub fn probe(&self) {
        static PROBES: AtomicU64 = AtomicU64::new(0);
        // Each time another name, and none that an entry can have: the kernel remembers what is not there.
        let number = PROBES.fetch_add(1, Ordering::Relaxed);
        hit("store-lookup");
        let _ = open_regular(&self.path(Path::new("blobs")).join(format!(".probe-{number}")));
    }

    pub(super) fn look(&self, key: &Key) -> io::Result<Found> {
        hit("store-lookup");
        let Some(sidecar) = open_regular(&self.path(&layout::sidecar(key)))? else {
            return Ok(Found::Nothing);
        };
        let mut json = Vec::new();
        sidecar.take(SIDECAR_BYTES_MAX).read_to_end(&mut json)?;
        let Some(meta) = Meta::parse(*key.digest(), &json) else {
            return Ok(Found::Broken("the sidecar cannot be read"));
        };
        let Some(data) = open_regular(&self.path(&layout::content(key)))? else {
            return Ok(Found::Broken("the data file is missing"));
        };
        if data.metadata()?.len() != meta.size {
            return Ok(Found::Broken(
                "the data file has another size than its sidecar says",
            ));
        }
        let verified = meta.verified;
        let entry = Entry {
            file: Arc::new(data),
            meta: Arc::new(meta),
        };
        Ok(if verified {
            Found::Entry(entry)
        } else {
            Found::Unverified(entry)
        })
    }

    /// Removes a pair that does not agree, unless it has been replaced meanwhile.
    pub(super) fn discard_broken(&self, key: &Key, why: &'static str) {
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(self.look(key), Ok(Found::Broken(_))) {
            tracing::warn!(entry = %layout::content(key).display(), why, "removing a damaged entry");
            self.remove(key);
        }
    }

    /// Sidecar first: half of a removal is a miss. A sidecar that cannot be removed keeps its data.
    pub(super) fn remove(&self, key: &Key) {
        for path in [layout::sidecar(key), layout::content(key)] {
            let path = self.path(&path);
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "cannot remove");
                return;
            }
        }
    }

    /// Hashes an entry written without our mark and marks it, or removes it. One caller does; for others it is
    /// not there yet.
    fn adopt(&self, key: &Key, entry: Entry) -> Result<Option<Entry>, StoreError> {
        let adopting = || self.adopting.lock().unwrap_or_else(PoisonError::into_inner);
        if !adopting().insert(key.clone()) {
            return Ok(None);
        }
        let adopted = self.adopt_alone(key, entry);
        adopting().remove(key);
        adopted
    }

    fn adopt_alone(&self, key: &Key, entry: Entry) -> Result<Option<Entry>, StoreError> {
        let path = layout::content(key);
        if hash(&entry.file, key).map_err(failed("hash", &path))? {
            let meta = Meta {
                verified: true,
                ..(*entry.meta).clone()
            };
            self.replace(&layout::sidecar(key), &meta.to_json())
                .map_err(failed("mark", &path))?;
            Ok(Some(Entry {
                meta: Arc::new(meta),
                ..entry
            }))
        } else {
            tracing::warn!(entry = %path.display(), "removing an entry of an older store: its content is not what its name says");
            let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
            self.remove(key);
            Ok(None)
        }
    }

    /// Records that `source` has the content of an entry too, and that it is public, if it is.
    ///
    /// # Errors
    ///
    /// It is still what it was.
    pub fn record_source(&self, key: &Key, source: &Source, public: bool) -> Result<(), StoreError> {
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        // Otherwise it is gone or unsound.
        if let Found::Entry(entry) = self.look(key).map_err(failed("read", &layout::sidecar(key)))? {
            self.learn(key, entry, std::slice::from_ref(source), public)?;
        }
        Ok(())
    }

    /// Adds to what is known of an entry. To be called by who holds `naming`.
    pub(super) fn learn(
        &self,
        key: &Key,
        entry: Entry,
        sources: &[Source],
        public: bool,
    ) -> Result<Entry, StoreError> {
        let Some(meta) = entry.meta.with(sources, public) else {
            return Ok(entry);
        };
        let sidecar = layout::sidecar(key);
        self.replace(&sidecar, &meta.to_json())
            .map_err(failed("mark", &sidecar))?;
        Ok(Entry {
            meta: Arc::new(meta),
            ..entry
        })
    }

    /// The entry under `key`, hashed anew, with its [`Verified`] value; an entry that is not right is removed.
    ///
    /// # Errors
    ///
    /// When the file system fails.
    pub fn find_sound(&self, key: &Key) -> Result<Option<(Entry, Verified)>, StoreError> {
        let Some(entry) = self.find(key)? else {
            return Ok(None);
        };
        let found = digest(&entry.file, key).map_err(failed("hash", &layout::content(key)))?;
        match Verified::check(*key.digest(), found, entry.meta.size) {
            Ok(verified) => Ok(Some((entry, verified))),
            Err(_) => {
                self.recheck(key);
                Ok(None)
            }
        }
    }

    /// Hashes an entry again and removes it unless it is right; the next request fills it anew.
    pub fn recheck(&self, key: &Key) {
        let sound = match self.look(key) {
            Ok(Found::Entry(entry) | Found::Unverified(entry)) => hash(&entry.file, key).unwrap_or(false),
            Ok(Found::Broken(_)) => false,
            Ok(Found::Nothing) | Err(_) => return,
        };
        if !sound {
            tracing::warn!(entry = %layout::content(key).display(), "removing an entry that cannot be read or has changed");
            let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
            self.remove(key);
        }
    }

    /// Removes an entry that has the bytes of its name, but not of its kind: an older store took what it was given.
    pub fn discard(&self, key: &Key, why: impl fmt::Display) {
        tracing::warn!(entry = %layout::content(key).display(), %why, "removing an entry that is not of its kind");
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove(key);
    }

    /// Replaces a small file as a whole.
    pub(super) fn replace(&self, relative: &Path, content: &[u8]) -> io::Result<()> {
        let path = self.path(relative);
        if let Some(dir) = path.parent() {
            mode::create_dir_all(dir)?;
        }
        let (temporary, mut file) = self.temporary_file()?;
        let written = io::Write::write_all(&mut file, content)
            .and_then(|()| file.sync_data())
            .inspect(|()| hit("replacement-written"))
            .and_then(|()| fs::rename(&temporary, &path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written
    }
}

fn hash(file: &File, key: &Key) -> io::Result<bool> {
    Ok(digest(file, key)? == *key.digest())
}

fn digest(file: &File, key: &Key) -> io::Result<Digest> {
    let mut hasher = Hasher::new(key.digest().algorithm());
    let mut buffer = vec![0; 256 * 1024];
    let mut offset = 0;
    loop {
        match file.read_at(&mut buffer, offset)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
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
        // No file can be removed under this name.
        fs::create_dir(&sidecar).unwrap();
        store.remove(&key);
        assert!(data.exists());
        fs::remove_dir(&sidecar).unwrap();
        store.remove(&key);
        assert!(!data.exists());
    }
}
