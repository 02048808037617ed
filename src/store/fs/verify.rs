//! Verifies entries: hashes stored content again, and removes content that does not match its digest.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Advice, fadvise};

use super::find::EntryState;
use super::{FsStore, failed, layout};
use crate::limits::{VERIFY_OBJECT_BYTES, VERIFY_STEP_BYTES};
use crate::oci::{Digest, Hasher};
use crate::store::index::{EntrySet, IndexedImage, entries_after, images_naming};
use crate::store::{Key, StoreError, StoredEntry, Verified};
use crate::sys::{Inode, is_absent};

/// The treatment of an entry by [`FsStore::verify`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerifyOptions {
    pub pages: ReadPages,
    /// Removes a damaged entry, and marks an intact entry of an older system as verified.
    pub is_changing: bool,
    /// The images to find that name a damaged entry. A search in a store of a million
    /// objects takes some 0.06 s.
    pub images_max: usize,
}

/// The pages of the page cache that a verification reads from the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadPages {
    /// The pages stay, because the content is about to be sent.
    Kept,
    /// The pages leave again, so that content in use stays in memory.
    Dropped,
}

/// The outcome of a verification.
#[derive(Debug)]
pub enum Verification {
    Intact {
        /// Bytes of the content.
        bytes: u64,
    },
    Damaged(Damage),
    /// The file system failed in a way that says nothing about the content. The entry stays.
    Unreadable(StoreError),
    /// The store has no such entry, or no longer.
    Absent,
    /// The caller has stopped the verification.
    Stopped,
}

/// A damaged entry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    pub reason: &'static str,
    /// Bytes that were read.
    pub bytes: u64,
    /// References of images that name the entry, sorted.
    pub images: Vec<String>,
    pub is_removed: bool,
}

/// The verifications of this process, and the last scrub.
#[derive(Debug, Default)]
pub(super) struct VerificationCounts {
    pub verified: AtomicU64,
    pub damaged: AtomicU64,
    /// The end of the last whole scrub, in seconds since 1970. 0 before the first end.
    pub scrub_completed_at: AtomicU64,
}

impl VerificationCounts {
    pub fn new(scrub_completed_at: Option<u64>) -> Self {
        VerificationCounts {
            scrub_completed_at: scrub_completed_at.unwrap_or(0).into(),
            ..VerificationCounts::default()
        }
    }
}

const WRONG_DIGEST: &str = "the content does not match its digest";
const READ_ERROR: &str = "the disk cannot read the content";

impl FsStore {
    /// Hashes the entry under `key`. Calls `may_read` with [`VERIFY_OBJECT_BYTES`] before the first read,
    /// and with the bytes of each read, at most [`VERIFY_STEP_BYTES`], after the read. The verification
    /// stops if `may_read` returns false. Blocks.
    pub fn verify(
        &self,
        key: &Key,
        options: VerifyOptions,
        may_read: &mut dyn FnMut(u64) -> bool,
    ) -> Verification {
        if !may_read(VERIFY_OBJECT_BYTES) {
            return Verification::Stopped;
        }
        let entry = match self.look(key) {
            Ok(EntryState::Entry(entry) | EntryState::Unverified(entry)) => entry,
            Ok(EntryState::Broken(why)) => return self.damaged(key, None, options, why, 0),
            Ok(EntryState::Nothing) => return Verification::Absent,
            Err(error) if is_damage(&error) => return self.damaged(key, None, options, READ_ERROR, 0),
            Err(error) => return Verification::Unreadable(failed("read", &layout::sidecar(key))(error)),
        };
        match hash(&entry.file, key, options.pages, may_read) {
            Ok(None) => Verification::Stopped,
            Ok(Some((found, bytes))) if found == *key.digest() => {
                self.record_intact(key, &entry, options);
                Verification::Intact { bytes }
            }
            Ok(Some((_, bytes))) => self.damaged(key, Some(&entry.file), options, WRONG_DIGEST, bytes),
            Err(error) if is_damage(&error) => self.damaged(key, Some(&entry.file), options, READ_ERROR, 0),
            Err(error) => Verification::Unreadable(failed("read", &layout::content(key))(error)),
        }
    }

    /// Hashes an entry again and removes a damaged or unreadable entry. The next request fills a removed
    /// entry again.
    pub fn recheck(&self, key: &Key) {
        let options = VerifyOptions {
            pages: ReadPages::Kept,
            is_changing: true,
            images_max: 0,
        };
        if let Verification::Unreadable(_) = self.verify(key, options, &mut |_| true) {
            let _naming = self.naming.lock();
            if let Ok(EntryState::Entry(_) | EntryState::Unverified(_)) = self.look(key) {
                log_removal(key, "unreadable content", &[]);
                self.remove(key);
            }
        }
    }

    /// Hashes the entry under `key` again, and returns the entry with its [`Verified`] value.
    /// Removes a damaged entry.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn find_sound(&self, key: &Key) -> Result<Option<(StoredEntry, Verified)>, StoreError> {
        let Some(entry) = self.find(key)? else {
            return Ok(None);
        };
        let hashed = hash(&entry.file, key, ReadPages::Kept, &mut |_| true);
        let Some((found, _)) = hashed.map_err(failed("hash", &layout::content(key)))? else {
            return Ok(None);
        };
        match Verified::check(*key.digest(), found, entry.meta.size) {
            Ok(verified) => Ok(Some((entry, verified))),
            Err(_) => {
                self.recheck(key);
                Ok(None)
            }
        }
    }

    /// Returns whether this process has hashed an entry, with success.
    pub fn is_verified(&self, key: &Key) -> bool {
        self.index.lock().is_verified(key)
    }

    /// Returns whether the scan at start has ended.
    pub fn is_scanned(&self) -> bool {
        self.index.lock().is_whole()
    }

    /// Returns some `count` entries after `after`, in an order by digest that a restart keeps. All
    /// entries of one digest are in the same part.
    pub fn entries_after(&self, after: Option<&Digest>, count: usize) -> Vec<Key> {
        entries_after(|| self.index.lock(), after, count)
    }

    /// Returns the number of images and of entries, and the bytes of the entries on the disk. `None`
    /// before the scan has ended.
    pub fn entry_totals(&self) -> Option<(u64, u64, u64)> {
        let index = self.whole_index()?;
        let (count, bytes) = index.entry_totals();
        Some((index.images().len() as u64, count, bytes))
    }

    /// Returns the number of images that `select` leaves in the list of all images, and the entries of
    /// these images. `None` before the scan has ended.
    pub fn select_entries(&self, select: impl FnOnce(&mut Vec<IndexedImage>)) -> Option<(u64, EntrySet)> {
        let index = self.whole_index()?;
        let mut images = index.images();
        select(&mut images);
        Some((images.len() as u64, index.entries_of(&images)))
    }

    /// Records that the content of `entry` matches its digest.
    fn record_intact(&self, key: &Key, entry: &StoredEntry, options: VerifyOptions) {
        self.verifications.verified.fetch_add(1, Ordering::Relaxed);
        let needs_mark = options.is_changing && !entry.meta.verified;
        if self.index.lock().set_verified(key, true) && !needs_mark {
            return;
        }
        if needs_mark
            && let Some(_claim) = self.adopting.take(key)
            && self.is_still(key, Some(&entry.file))
            && let Err(error) = self.mark(key, entry)
        {
            tracing::debug!(%error, "verification not recorded");
        }
        // The scan may not have reached the entry.
        let _naming = self.naming.lock();
        if self.is_still(key, Some(&entry.file))
            && let Ok(data) = entry.file.metadata()
        {
            self.index_found(key, &data, &entry.meta.sources);
            self.index.lock().set_verified(key, true);
        }
    }

    /// Records a damaged entry, and removes the entry with changing `options`. `hashed` is the file with
    /// the damage, `None` for a broken pair.
    fn damaged(
        &self,
        key: &Key,
        hashed: Option<&File>,
        options: VerifyOptions,
        reason: &'static str,
        bytes: u64,
    ) -> Verification {
        let pins = self.pinned();
        // Each pinned image is found, even if many other images have the content.
        let wanted = if pins.is_empty() {
            options.images_max
        } else {
            usize::MAX
        };
        let all = match wanted {
            0 => Vec::new(),
            count => images_naming(|| self.index.lock(), key, count),
        };
        let images = all[..options.images_max.min(all.len())].to_vec();
        let mut is_removed = false;
        {
            let _naming = self.naming.lock();
            // A removal and a new fill may have replaced the entry meanwhile.
            if !self.is_still(key, hashed) {
                return Verification::Absent;
            }
            if options.is_changing {
                log_removal(key, reason, &images);
                is_removed = self.remove(key);
            }
        }
        if is_removed {
            self.report_damaged_pins(&pins, &all);
        }
        self.verifications.damaged.fetch_add(1, Ordering::Relaxed);
        self.index.lock().set_verified(key, false);
        Verification::Damaged(Damage {
            reason,
            bytes,
            images,
            is_removed,
        })
    }

    /// Returns whether `key` still names the file `seen`, or for `None` a broken pair. The result can
    /// change at any time unless the caller holds `naming`.
    fn is_still(&self, key: &Key, seen: Option<&File>) -> bool {
        match (self.look(key), seen) {
            (Ok(EntryState::Entry(now) | EntryState::Unverified(now)), Some(seen)) => {
                is_same_file(&now.file, seen)
            }
            (Ok(EntryState::Broken(_)), _) => true,
            (Err(error), None) => is_damage(&error),
            _ => false,
        }
    }
}

fn log_removal(key: &Key, reason: &str, images: &[String]) {
    let entry = layout::content(key);
    if images.is_empty() {
        tracing::warn!(entry = %entry.display(), reason, "damaged entry removed");
    } else {
        tracing::warn!(entry = %entry.display(), reason, images = images.join(","), "damaged entry removed");
    }
}

fn is_same_file(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// Returns whether a failed read means that the medium has lost data. File systems with checksums
/// report a changed block by such an error.
fn is_damage(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EUCLEAN | libc::EBADMSG | libc::ENODATA)
    )
}

/// Returns the digest and the size of the content of `file`. `None` if `may_read` returns false.
pub(super) fn hash(
    file: &File,
    key: &Key,
    pages: ReadPages,
    may_read: &mut dyn FnMut(u64) -> bool,
) -> io::Result<Option<(Digest, u64)>> {
    let inode = match pages {
        ReadPages::Kept => None,
        ReadPages::Dropped => {
            // Otherwise the kernel reads ahead, and the pages ahead would count as pages in use.
            let _ = fadvise(file, 0, None, Advice::Random);
            Inode::of(file)
        }
    };
    let mut hasher = Hasher::new(key.digest().algorithm());
    let mut buffer = vec![0; VERIFY_STEP_BYTES];
    let mut offset = 0;
    loop {
        let is_unused = |inode: &Inode| is_absent(file, inode, offset, buffer.len() as u64);
        let is_dropped = inode.as_ref().is_some_and(is_unused);
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok(Some((hasher.finish(), offset)));
        }
        hasher.update(&buffer[..read]);
        if is_dropped {
            let _ = fadvise(file, offset, NonZeroU64::new(read as u64), Advice::DontNeed);
        }
        offset += read as u64;
        if !may_read(read as u64) {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_the_medium_count_as_damage() {
        for (errno, damage) in [
            (libc::EIO, true),
            (libc::EUCLEAN, true),
            (libc::EBADMSG, true),
            (libc::EACCES, false),
            (libc::EMFILE, false),
            (libc::ENOMEM, false),
            (libc::ESTALE, false),
        ] {
            assert_eq!(is_damage(&io::Error::from_raw_os_error(errno)), damage, "{errno}");
        }
        assert!(!is_damage(&io::ErrorKind::UnexpectedEof.into()));
    }
}
