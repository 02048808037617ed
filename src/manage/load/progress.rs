//! The progress of a running load, for other threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::cache::Cache;
use crate::manage::ProgressCounts;
use crate::oci::{Digest, ImageName};
use crate::sync::Mutex;

/// The progress of a running load. The totals grow with each manifest.
#[derive(Default)]
pub struct LoadProgress {
    objects: AtomicU64,
    objects_total: AtomicU64,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    /// The images that the load pulls now, at most `LOAD_CONCURRENCY_MAX`.
    running: Mutex<Vec<Arc<RunningImage>>>,
    /// The cache with the fills of the load. Empty before the load begins.
    cache: OnceLock<Cache>,
}

/// An image that a load pulls now.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageInWork {
    pub image: String,
    pub registry: String,
    /// Bytes in the store, and bytes of unfinished blobs that have arrived.
    pub bytes: u64,
    /// Bytes of all blobs by the manifests so far.
    pub bytes_total: u64,
}

struct RunningImage {
    name: ImageName,
    bytes: AtomicU64,
    bytes_total: AtomicU64,
    /// The blobs in transfer, with their sizes by the manifest.
    fetching: Mutex<BTreeMap<Digest, u64>>,
}

/// The progress of one image. The drop ends the image.
pub struct ImageProgress<'a> {
    load: &'a LoadProgress,
    image: Arc<RunningImage>,
}

impl LoadProgress {
    /// Returns the counts of the whole load, with the arrived bytes of unfinished blobs.
    pub fn counts(&self) -> ProgressCounts {
        let arrived: u64 = self.running.lock().iter().map(|image| self.arrived(image)).sum();
        ProgressCounts {
            objects: self.objects.load(Ordering::Relaxed),
            objects_total: self.objects_total.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed) + arrived,
            bytes_total: self.bytes_total.load(Ordering::Relaxed),
        }
    }

    /// Returns the images that the load pulls now, in the order of their begin.
    pub fn images(&self) -> Vec<ImageInWork> {
        let running = self.running.lock();
        let images = running.iter().map(|image| ImageInWork {
            image: image.name.to_string(),
            registry: image.name.origin.namespace.to_string(),
            bytes: image.bytes.load(Ordering::Relaxed) + self.arrived(image),
            bytes_total: image.bytes_total.load(Ordering::Relaxed),
        });
        images.collect()
    }

    /// Sets the cache with the fills of the load.
    pub(in crate::manage) fn follow(&self, cache: &Cache) {
        // A load runs once, so the cell is empty.
        let _ = self.cache.set(cache.clone());
    }

    /// Adds an image to the images in work.
    pub(in crate::manage) fn begin(&self, name: &ImageName) -> ImageProgress<'_> {
        let image = Arc::new(RunningImage {
            name: name.clone(),
            bytes: AtomicU64::new(0),
            bytes_total: AtomicU64::new(0),
            fetching: Mutex::default(),
        });
        self.running.lock().push(image.clone());
        ImageProgress { load: self, image }
    }

    /// Adds to the totals of the load.
    pub(in crate::manage) fn expect(&self, objects: u64, bytes: u64) {
        self.objects_total.fetch_add(objects, Ordering::Relaxed);
        self.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records an object of `bytes` that is in the store.
    pub(in crate::manage) fn advance(&self, bytes: u64) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the arrived bytes of the blobs of `image` in transfer.
    fn arrived(&self, image: &RunningImage) -> u64 {
        let Some(cache) = self.cache.get() else { return 0 };
        let fetching = image.fetching.lock();
        let arrived = fetching
            .iter()
            .map(|(digest, size)| cache.arrived_bytes(digest).min(*size));
        arrived.sum()
    }
}

impl ImageProgress<'_> {
    /// Adds to the totals of the image and of the load.
    pub fn expect(&self, objects: u64, bytes: u64) {
        self.load.expect(objects, bytes);
        self.image.bytes_total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Records a manifest that is in the store.
    pub fn advance(&self) {
        self.load.advance(0);
    }

    /// Records the begin of the fetch of a blob.
    pub fn begin_blob(&self, digest: Digest, size: u64) {
        self.image.fetching.lock().insert(digest, size);
    }

    /// Records the end of the fetch of a blob, which is in the store if `is_held`.
    pub fn end_blob(&self, digest: &Digest, size: u64, is_held: bool) {
        self.image.fetching.lock().remove(digest);
        if is_held {
            self.load.advance(size);
            self.image.bytes.fetch_add(size, Ordering::Relaxed);
        }
    }
}

impl Drop for ImageProgress<'_> {
    fn drop(&mut self) {
        let mut running = self.load.running.lock();
        running.retain(|image| !Arc::ptr_eq(image, &self.image));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn image_in_work_has_its_bytes_until_its_end() {
        let progress = LoadProgress::default();
        let name: ImageName = "quay.io/a:1".parse().unwrap();
        let image = progress.begin(&name);
        image.expect(2, 30);
        let digest = Digest::of(Algorithm::Sha256, b"blob");
        image.begin_blob(digest, 10);
        image.end_blob(&digest, 10, true);
        assert_eq!(
            progress.images(),
            [ImageInWork {
                image: "quay.io/a:1".to_owned(),
                registry: "quay.io".to_owned(),
                bytes: 10,
                bytes_total: 30,
            }]
        );
        drop(image);
        assert_eq!(progress.images(), []);
        let counts = progress.counts();
        assert_eq!((counts.objects, counts.objects_total), (1, 2));
        assert_eq!((counts.bytes, counts.bytes_total), (10, 30));
    }
}
