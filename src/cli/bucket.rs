//! The bucket as the store of the commands `list`, `purge` and `prune`: a copy of its metadata in a
//! temporary directory, and requests that remove objects.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};

use super::progress::{ProgressArgs, ProgressLine};
use super::target::Failure;
use crate::config::{S3Settings, StorageConfig, StoreBounds};
use crate::manage::{PlannedRemoval, RemovalReport, TemporaryDir};
use crate::runtime::helper::Helper;
use crate::store::{BucketListing, FsStore, LISTED_PER_REQUEST, S3Store, Stores};

/// Printed errors. An unavailable bucket has an error for each object.
const ERRORS_SHOWN_MAX: usize = 20;

/// A bucket with a copy of its metadata. The copy is removed when the value is dropped.
pub(super) struct BucketCopy {
    helper: Helper,
    bucket: S3Store,
    listing: BucketListing,
    dir: TemporaryDir,
    progress: ProgressArgs,
}

impl BucketCopy {
    /// Lists and copies the bucket if the store is a bucket, or if `is_wanted`. `None` for the directory
    /// of the store. Prints the number of requests on standard error,
    /// with the progress.
    pub fn of(
        storage: &StorageConfig,
        is_wanted: bool,
        progress: ProgressArgs,
    ) -> Result<Option<Self>, Failure> {
        match (storage.s3(), storage.root()) {
            (Some(settings), None) => Self::copy(settings, progress).map(Some),
            (Some(settings), Some(_)) if is_wanted => Self::copy(settings, progress).map(Some),
            (None, _) if is_wanted => Err(Failure::misuse(
                "--bucket needs a bucket; set STORAGE_BACKEND=s3 or tiered, and S3_BUCKET",
            )),
            _ => Ok(None),
        }
    }

    fn copy(settings: &S3Settings, progress: ProgressArgs) -> Result<Self, Failure> {
        let helper = Helper::start(NonZeroUsize::MIN).map_err(Failure::of)?;
        let bucket = helper
            .wait(S3Store::open_for_command(settings))
            .map_err(Failure::of)?;
        let dir = TemporaryDir::create("oci-pull-through-bucket.").map_err(|error| {
            Failure::of(format!(
                "cannot create a temporary directory: {error}; set TMPDIR"
            ))
        })?;
        let name = &settings.bucket;
        let mut line = ProgressLine::of(progress);
        line.note(&format!(
            "listing the bucket {name}, one request for each {LISTED_PER_REQUEST} objects"
        ));
        let done = AtomicU64::new(0);
        let so_far = || done.load(Ordering::Relaxed);
        let listing = line.show_while(
            || format!("{} objects listed", so_far()),
            || helper.wait(bucket.list(|objects| done.store(objects, Ordering::Relaxed))),
        )?;
        line.clear();
        let listing = listing.map_err(Failure::of)?;
        let (objects, reads) = (listing.count(), listing.reads());
        line.note(&format!(
            "reading manifests and tags, {reads} requests for {objects} objects"
        ));
        done.store(0, Ordering::Relaxed);
        let count = || {
            done.fetch_add(1, Ordering::Relaxed);
        };
        let copied = line.show_while(
            || format!("{} of {reads} requests", so_far()),
            || helper.wait(bucket.copy(&listing, dir.path(), count)),
        )?;
        line.clear();
        copied.map_err(Failure::of)?;
        Ok(BucketCopy {
            helper,
            bucket,
            listing,
            dir,
            progress,
        })
    }

    /// Returns the directory of the copy.
    pub fn root(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Opens the copy as a store.
    pub fn store(&self) -> Result<Stores, Failure> {
        let store = FsStore::open_existing(StoreBounds::default(), self.dir.path()).map_err(Failure::of)?;
        store.scan_only();
        Ok(Stores::alone(store))
    }

    /// Returns the content of a removal, with the sizes of the objects in the bucket.
    pub fn report(&self, plan: &PlannedRemoval) -> RemovalReport {
        RemovalReport {
            bytes: self.listing.bytes_of(plan.names()),
            ..plan.report()
        }
    }

    /// Removes the planned objects. An object stays after a failed request. The first
    /// errors are printed.
    pub fn remove(&self, plan: &PlannedRemoval) -> Result<RemovalReport, Failure> {
        let mut line = ProgressLine::of(self.progress);
        let mut report = self.report(plan);
        let (done, total) = (AtomicU64::new(0), report.objects);
        let (mut stayed, mut errors) = (Vec::new(), Vec::new());
        line.show_while(
            || format!("{} of {total} objects removed", done.load(Ordering::Relaxed)),
            || {
                for name in plan.names() {
                    if let Err(error) = self.helper.wait(self.bucket.remove_object(name)) {
                        stayed.push(name);
                        errors.extend((errors.len() < ERRORS_SHOWN_MAX).then_some(error));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            },
        )?;
        line.clear();
        for error in &errors {
            eprintln!("{error}");
        }
        report.kept = stayed.len() as u64;
        report.objects -= report.kept;
        report.bytes -= self.listing.bytes_of(stayed.into_iter());
        Ok(report)
    }
}
