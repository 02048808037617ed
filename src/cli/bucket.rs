//! The bucket as the store of the commands `list`, `purge` and `prune`: a copy of its metadata in a
//! temporary directory, and requests that remove objects.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::target::Failure;
use crate::config::{S3Settings, StorageConfig, StoreBounds};
use crate::manage::{PlannedRemoval, RemovalReport};
use crate::runtime::helper::Helper;
use crate::store::{BucketListing, FsStore, LISTED_PER_REQUEST, S3Store};

/// The time between two lines of progress.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// A bucket with a copy of its metadata. The copy is removed when the value is dropped.
pub(super) struct BucketCopy {
    helper: Helper,
    bucket: S3Store,
    listing: BucketListing,
    dir: TempDir,
}

impl BucketCopy {
    /// Lists and copies the bucket if the store is a bucket, or if `is_wanted`. `None` for the directory
    /// of the store. Prints the number of requests on standard error.
    pub fn of(storage: &StorageConfig, is_wanted: bool) -> Result<Option<Self>, Failure> {
        match (storage.s3(), storage.root()) {
            (Some(settings), None) => Self::copy(settings).map(Some),
            (Some(settings), Some(_)) if is_wanted => Self::copy(settings).map(Some),
            (None, _) if is_wanted => Err(Failure::misuse(
                "--bucket needs a bucket; set STORAGE_BACKEND=s3 or tiered, and S3_BUCKET",
            )),
            _ => Ok(None),
        }
    }

    fn copy(settings: &S3Settings) -> Result<Self, Failure> {
        let helper = Helper::start(NonZeroUsize::MIN).map_err(Failure::of)?;
        let bucket = helper
            .wait(S3Store::open_for_command(settings))
            .map_err(Failure::of)?;
        let dir = tempfile::Builder::new()
            .prefix("oci-pull-through-bucket.")
            .tempdir()
            .map_err(|error| {
                Failure::of(format!(
                    "cannot create a temporary directory: {error}; set TMPDIR"
                ))
            })?;
        let name = &settings.bucket;
        eprintln!("listing the bucket {name}, one request for each {LISTED_PER_REQUEST} objects");
        let mut line = Line::new();
        let listing = helper.wait(bucket.list(|objects| line.show(|| format!("{objects} objects listed"))));
        let listing = listing.map_err(Failure::of)?;
        let (objects, reads) = (listing.count(), listing.reads());
        eprintln!("reading manifests and tags, {reads} requests for {objects} objects");
        let mut done = 0;
        let copied = helper.wait(bucket.copy(&listing, dir.path(), || {
            done += 1;
            line.show(|| format!("{done} of {reads} requests"));
        }));
        copied.map_err(Failure::of)?;
        Ok(BucketCopy {
            helper,
            bucket,
            listing,
            dir,
        })
    }

    /// Returns the directory of the copy.
    pub fn root(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Opens the copy as a store.
    pub fn store(&self) -> Result<FsStore, Failure> {
        let store = FsStore::open_existing(StoreBounds::default(), self.dir.path()).map_err(Failure::of)?;
        store.scan_only();
        Ok(store)
    }

    /// Returns the content of a removal, with the sizes of the objects in the bucket.
    pub fn report(&self, plan: &PlannedRemoval) -> RemovalReport {
        RemovalReport {
            bytes: self.listing.bytes_of(plan.names()),
            ..plan.report()
        }
    }

    /// Removes the planned objects. An object stays after a failed request, which is printed.
    pub fn remove(&self, plan: &PlannedRemoval) -> RemovalReport {
        let mut line = Line::new();
        let mut report = self.report(plan);
        let total = report.objects;
        let mut stayed = Vec::new();
        for (name, number) in plan.names().zip(1..) {
            if let Err(error) = self.helper.wait(self.bucket.remove_object(name)) {
                eprintln!("{error}");
                stayed.push(name);
            }
            line.show(|| format!("{number} of {total} objects removed"));
        }
        report.kept = stayed.len() as u64;
        report.objects -= report.kept;
        report.bytes -= self.listing.bytes_of(stayed.into_iter());
        report
    }
}

/// Lines of progress on standard error.
struct Line {
    shown: Instant,
}

impl Line {
    fn new() -> Self {
        Line {
            shown: Instant::now(),
        }
    }

    fn show(&mut self, text: impl FnOnce() -> String) {
        if self.shown.elapsed() >= LINE_INTERVAL {
            eprintln!("{}", text());
            self.shown = Instant::now();
        }
    }
}
