//! The verification of stored content: of the whole store, or of selected images.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};

use super::removal::reference;
use super::{PlanError, VerifyRule};
use crate::limits::{DAMAGED_IMAGES_MAX, VERIFY_DETAILS_MAX, VERIFY_PART_OBJECTS};
use crate::oci::{ImageName, Reference};
use crate::runtime::pacer::Pacer;
use crate::store::{EntrySet, FsStore, IndexedImage, Key, ReadPages, Stores, Verification, VerifyOptions};
use crate::sys;

/// The result of a verification.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyReport {
    /// The number of selected images.
    pub images: u64,
    /// Manifests and blobs that were hashed.
    pub objects: u64,
    /// Bytes that were read.
    pub bytes: u64,
    /// Objects whose content does not match the digest, or cannot be read from the disk.
    pub damaged_objects: u64,
    /// Damaged objects that were removed.
    pub removed_objects: u64,
    /// Objects that could not be examined.
    pub unreadable_objects: u64,
    /// Whether every selected object was examined.
    pub complete: bool,
    /// The first [`VERIFY_DETAILS_MAX`] damaged objects.
    pub damaged: Vec<DamagedObject>,
    /// The first [`VERIFY_DETAILS_MAX`] unreadable objects.
    pub unreadable: Vec<UnreadableObject>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DamagedObject {
    /// The path of the file below the directory of the store.
    pub object: String,
    /// The directory of the store of a registry with `cache_dir`. `None` for the default store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    pub reason: String,
    /// References of images that name the object, at most [`DAMAGED_IMAGES_MAX`].
    pub images: Vec<String>,
    pub removed: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnreadableObject {
    /// The path of the file below the directory of the store.
    pub object: String,
    /// The directory of the store of a registry with `cache_dir`. `None` for the default store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    pub reason: String,
}

/// The progress of a running verification, for other threads.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    objects: AtomicU64,
    bytes: AtomicU64,
}

/// The progress of a job.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgressCounts {
    pub objects: u64,
    pub objects_total: u64,
    pub bytes: u64,
    /// An estimate by the blocks on the disk.
    pub bytes_total: u64,
}

/// A verification that can be run.
#[derive(Debug)]
pub struct PlannedVerification {
    /// The number of selected images.
    images: u64,
    objects: u64,
    bytes: u64,
    /// The objects of each store, in the order of the stores.
    parts: Vec<Part>,
    rate: u64,
    dry_run: bool,
}

/// The objects of a store. `None` means the whole store.
type Part = Option<Vec<Key>>;

/// Plans the verification of the images that `rule` selects, with everything that the images name.
///
/// # Errors
///
/// The scan of the store has not ended.
pub fn plan_verify(stores: &Stores, rule: &VerifyRule) -> Result<PlannedVerification, PlanError> {
    let mut planned = PlannedVerification {
        images: 0,
        objects: 0,
        bytes: 0,
        parts: Vec::new(),
        rate: rule.rate,
        dry_run: rule.dry_run,
    };
    for store in stores.iter() {
        let (images, objects, bytes, part) = part_of(store, rule).ok_or(PlanError::NotScanned)?;
        planned.images += images;
        planned.objects += objects;
        planned.bytes += bytes;
        planned.parts.push(part);
    }
    Ok(planned)
}

/// Returns the numbers of images, objects and bytes that `rule` selects in a store, and the objects.
/// `None` before the scan has ended.
fn part_of(store: &FsStore, rule: &VerifyRule) -> Option<(u64, u64, u64, Part)> {
    if rule.image.is_none() && rule.filter.is_empty() {
        let (images, objects, bytes) = store.entry_totals()?;
        return Some((images, objects, bytes, None));
    }
    let selected = store.select_entries(|images| images.retain(|image| rule.selects(image)));
    let (images, EntrySet { keys, bytes }) = selected?;
    Some((images, keys.len() as u64, bytes, Some(keys)))
}

impl VerifyRule {
    fn selects(&self, image: &IndexedImage) -> bool {
        let is_named = |name: &ImageName| {
            *image.origin == name.origin
                && match &name.reference {
                    None => true,
                    Some(Reference::Tag(tag)) => image.tag.as_deref() == Some(tag.as_str()),
                    Some(Reference::Digest(digest)) => image.digest == Some(*digest),
                }
        };
        self.image.as_ref().is_none_or(is_named) && self.filter.matches(&reference(image))
    }
}

impl PlannedVerification {
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Returns whether damaged objects stay.
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    pub fn counts(&self, progress: &VerifyProgress) -> ProgressCounts {
        ProgressCounts {
            objects: progress.objects.load(Ordering::Relaxed),
            objects_total: self.objects,
            bytes: progress.bytes.load(Ordering::Relaxed),
            bytes_total: self.bytes,
        }
    }

    /// Hashes the objects of each store in the order of their digests, at the idle I/O priority, which the calling
    /// thread keeps. The drop of the sender of `stopped` ends the work. Blocks.
    pub fn run(&self, stores: &Stores, progress: &VerifyProgress, stopped: Receiver<()>) -> VerifyReport {
        sys::lower_io_priority();
        let mut run = Run {
            store: stores.default_store(),
            progress,
            pacer: Pacer::new(self.rate, stopped),
            dry_run: self.dry_run,
            report: VerifyReport {
                images: self.images,
                ..VerifyReport::default()
            },
        };
        run.report.complete = stores.iter().zip(&self.parts).all(|(store, part)| {
            run.store = store;
            match part {
                Some(keys) => keys.iter().all(|key| run.verify(key)),
                None => run.verify_all(),
            }
        });
        run.report
    }
}

/// A running verification, of one store after the other.
struct Run<'a> {
    store: &'a FsStore,
    progress: &'a VerifyProgress,
    pacer: Pacer,
    dry_run: bool,
    report: VerifyReport,
}

impl Run<'_> {
    /// Returns false after a stop.
    fn verify_all(&mut self) -> bool {
        let mut position = None;
        loop {
            let keys = self.store.entries_after(position.as_ref(), VERIFY_PART_OBJECTS);
            let Some(last) = keys.last() else { return true };
            position = Some(*last.digest());
            if !keys.iter().all(|key| self.verify(key)) {
                return false;
            }
        }
    }

    /// Returns false after a stop.
    fn verify(&mut self, key: &Key) -> bool {
        let report = &mut self.report;
        let has_room = report.damaged.len() < VERIFY_DETAILS_MAX;
        let options = VerifyOptions {
            pages: ReadPages::Dropped,
            is_changing: !self.dry_run,
            images_max: if has_room { DAMAGED_IMAGES_MAX } else { 0 },
        };
        // The progress has the bytes of the object, and not the extra cost of each object.
        let mut is_begun = false;
        let mut may_read = |bytes| {
            if std::mem::replace(&mut is_begun, true) {
                self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            self.pacer.take(bytes)
        };
        match self.store.verify(key, options, &mut may_read) {
            Verification::Stopped => return false,
            Verification::Absent => {}
            Verification::Intact { bytes } => {
                report.objects += 1;
                report.bytes += bytes;
            }
            Verification::Damaged(damage) => {
                report.objects += 1;
                report.bytes += damage.bytes;
                report.damaged_objects += 1;
                report.removed_objects += u64::from(damage.is_removed);
                if has_room {
                    report.damaged.push(DamagedObject {
                        object: key.path(),
                        directory: self.store.registry_dir(),
                        reason: damage.reason.to_owned(),
                        images: damage.images,
                        removed: damage.is_removed,
                    });
                }
            }
            Verification::Unreadable(error) => {
                report.unreadable_objects += 1;
                if report.unreadable.len() < VERIFY_DETAILS_MAX {
                    report.unreadable.push(UnreadableObject {
                        object: key.path(),
                        directory: self.store.registry_dir(),
                        reason: error.source.to_string(),
                    });
                }
            }
        }
        self.progress.objects.fetch_add(1, Ordering::Relaxed);
        true
    }
}
