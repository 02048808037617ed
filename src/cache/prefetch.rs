//! Fetches the missing blobs of an image as soon as a client has received the image's manifest. The
//! client fetches a few blobs at once, so the later blobs arrive while the client reads the first.
//!
//! A prefetch runs on the helper pool with the caller of the manifest, so a client receives no content
//! that its own requests would not get. The fills have [`Priority::Prefetch`]. A client that requests
//! a blob joins the fill of the blob and raises its priority.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::{StreamExt as _, stream};
use tokio::sync::Notify;

use super::fill::{self, PrefetchedFill};
use super::slots::Class;
use super::{Cache, ManifestAnswer, ManifestKey, Priority, Shared, unless};
use crate::config::Prefetch;
use crate::http::{CacheResult, Method};
use crate::limits::{
    BUDGET_RESERVE_PERCENT, PREFETCH_BLOBS_MAX, PREFETCH_BYTES_MAX, PREFETCH_HEADS_MAX, PREFETCH_HEADS_TTL,
    PREFETCH_IMAGES_MAX,
};
use crate::oci::{Descriptor, Digest, ManifestLinks, Origin, required_blobs};
use crate::runtime::clock::monotonic_millis;
use crate::runtime::single_flight::Role;
use crate::sync::Mutex;
use crate::trace;

/// The prefetches in progress, and the manifests that may start one.
#[derive(Default)]
pub(super) struct Prefetches {
    images: Mutex<Vec<Arc<PrefetchedImage>>>,
    /// The number of `images`. Read without a lock.
    running: AtomicUsize,
    /// Manifests that a HEAD request has fetched, with the end of the time in which a GET request
    /// starts a prefetch. In milliseconds of the monotonic clock.
    heads: Mutex<HashMap<(Origin, Digest), u64>>,
    /// The number of `heads`. Read without a lock.
    heads_count: AtomicUsize,
}

/// An image with a prefetch in progress.
struct PrefetchedImage {
    blobs: HashSet<Digest>,
    /// A client has requested one of the blobs.
    used: AtomicBool,
    first_use: Notify,
}

impl PrefetchedImage {
    fn record_use(&self) {
        if !self.used.swap(true, Ordering::AcqRel) {
            self.first_use.notify_waiters();
        }
    }

    /// Waits until a client has requested one of the blobs.
    async fn used(&self) {
        loop {
            // Created before the check, so that no notification is lost.
            let notified = self.first_use.notified();
            if self.used.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }
}

/// The entry of a prefetch in the table. Removed on drop.
struct Running {
    shared: Arc<Shared>,
    image: Arc<PrefetchedImage>,
}

impl Cache {
    /// Starts a prefetch if the manifest in `answer` was fetched for this GET request, or for a HEAD
    /// request just before. Costs a hit one load of memory that no hit writes.
    pub fn prefetch(&self, method: Method, key: &ManifestKey, answer: &ManifestAnswer, role: Role) {
        let shared = &self.0;
        if shared.prefetch.mode == Prefetch::Off {
            return;
        }
        let is_fetched = answer.cache == CacheResult::Miss && role == Role::Leader;
        let digest = answer.manifest.digest;
        match method {
            Method::Get if is_fetched || shared.prefetches.take_head(&key.origin, digest) => {}
            Method::Head if is_fetched => return shared.prefetches.record_head(&key.origin, digest),
            _ => return,
        }
        let (shared, key, manifest) = (shared.clone(), key.clone(), answer.manifest.clone());
        // The fills belong to the trace of the request for the manifest.
        let context = trace::current();
        self.0.helper.spawn(trace::within(context, async move {
            let blobs = wanted_blobs(&manifest.body, shared.prefetch.mode);
            run(shared, &key, &blobs).await;
        }));
    }
}

impl Prefetches {
    /// Records that a client has requested a blob.
    pub fn record_request(&self, digest: &Digest) {
        if self.running.load(Ordering::Relaxed) == 0 {
            return;
        }
        for image in &*self.images.lock() {
            if image.blobs.contains(digest) {
                image.record_use();
            }
        }
    }

    fn record_head(&self, origin: &Origin, digest: Digest) {
        let now = monotonic_millis();
        let mut heads = self.heads.lock();
        if heads.len() >= PREFETCH_HEADS_MAX {
            heads.retain(|_, until| now < *until);
        }
        if heads.len() < PREFETCH_HEADS_MAX {
            let life = u64::try_from(PREFETCH_HEADS_TTL.as_millis()).unwrap_or(u64::MAX);
            heads.insert((origin.clone(), digest), now.saturating_add(life));
        }
        self.heads_count.store(heads.len(), Ordering::Relaxed);
    }

    /// Returns whether a HEAD request has just fetched the manifest, once.
    fn take_head(&self, origin: &Origin, digest: Digest) -> bool {
        if self.heads_count.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let mut heads = self.heads.lock();
        let until = heads.remove(&(origin.clone(), digest));
        self.heads_count.store(heads.len(), Ordering::Relaxed);
        until.is_some_and(|until| monotonic_millis() < until)
    }
}

impl Running {
    /// Enters a prefetch of `blobs`. `None` if too many prefetches run.
    fn begin(shared: &Arc<Shared>, blobs: &[Digest]) -> Option<Self> {
        let image = Arc::new(PrefetchedImage {
            blobs: blobs.iter().copied().collect(),
            used: AtomicBool::new(false),
            first_use: Notify::new(),
        });
        let mut images = shared.prefetches.images.lock();
        if images.len() >= PREFETCH_IMAGES_MAX {
            return None;
        }
        images.push(image.clone());
        shared.prefetches.running.store(images.len(), Ordering::Relaxed);
        drop(images);
        let shared = shared.clone();
        Some(Running { shared, image })
    }

    /// Waits until no client has used the image for the whole time limit.
    async fn unused(&self) {
        tokio::time::sleep(self.shared.prefetch.timeout).await;
        if self.image.used.load(Ordering::Acquire) {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let prefetches = &self.shared.prefetches;
        let mut images = prefetches.images.lock();
        images.retain(|image| !Arc::ptr_eq(image, &self.image));
        prefetches.running.store(images.len(), Ordering::Relaxed);
    }
}

/// Returns the blobs of an image in the order of its manifest, the config first. Only the config of
/// an image with more than [`PREFETCH_BYTES_MAX`] bytes.
fn wanted_blobs(body: &[u8], mode: Prefetch) -> Vec<Digest> {
    let Some(ManifestLinks::Image(named)) = ManifestLinks::parse(body) else {
        return Vec::new();
    };
    let required: HashSet<Digest> = required_blobs(body).into_iter().collect();
    let bytes = |sum: u64, blob: &Descriptor| sum.saturating_add(blob.size);
    let is_whole = mode == Prefetch::Image && named.iter().fold(0, bytes) <= PREFETCH_BYTES_MAX;
    let first = if is_whole { named.len() } else { 1 };
    let mut seen = HashSet::new();
    let blobs = named.iter().take(first).map(|blob| blob.digest);
    blobs
        .filter(|digest| required.contains(digest) && seen.insert(*digest))
        .collect()
}

/// Fetches `blobs`, until no client has requested one of the blobs within the time limit. Blobs beyond
/// the first [`PREFETCH_BLOBS_MAX`] wait for the first request of a client.
async fn run(shared: Arc<Shared>, key: &ManifestKey, blobs: &[Digest]) {
    if blobs.is_empty() || !shared.may_prefetch(&key.origin) {
        return;
    }
    let Some(running) = &Running::begin(&shared, blobs) else {
        return;
    };
    // The drop of the fetches cancels the fills without clients.
    let fetch_in_turn = async |(number, digest): (usize, &Digest)| {
        if number >= PREFETCH_BLOBS_MAX {
            running.image.used().await;
        }
        fetch(&shared, key, *digest).await;
    };
    let numbered = stream::iter(blobs.iter().enumerate());
    let fetches = numbered.for_each_concurrent(PREFETCH_BLOBS_MAX, fetch_in_turn);
    let unused = pin!(running.unused());
    if unless(unused, fetches).await.is_err() {
        let Origin {
            namespace,
            repository,
        } = &key.origin;
        tracing::debug!(registry = %namespace, %repository, "prefetch canceled");
    }
}

/// Fetches a blob, unless the blob is stored or a fill is in progress.
async fn fetch(shared: &Arc<Shared>, key: &ManifestKey, digest: Digest) {
    let origin = &key.origin;
    let is_held =
        shared.fills.has(&digest, origin) || shared.storage(&origin.namespace).has_blob(&digest).await;
    if is_held
        || !shared.may_prefetch(origin)
        || !shared.has_spare_slot(Class::Blob, &origin.namespace, Priority::Prefetch)
    {
        return;
    }
    let (fill, ticket) = shared
        .fills
        .join(digest, origin, &key.caller, None, None, Priority::Prefetch);
    if let Some(ticket) = ticket {
        let _prefetched = PrefetchedFill::new(fill);
        let fill = tokio::spawn(fill::run(ticket, shared.clone()));
        // A fill that fails has a log line, and the client's request is the next attempt.
        let _ = fill.await;
    }
}

impl Shared {
    /// Returns whether the registry and the store take requests without a client.
    fn may_prefetch(&self, origin: &Origin) -> bool {
        let Origin {
            namespace,
            repository,
        } = origin;
        let spare = self.upstreams.spare_budget(namespace, BUDGET_RESERVE_PERCENT);
        self.storage(namespace).is_writable()
            && !self.upstreams.is_suspended(namespace, repository)
            && spare.is_none_or(|spare| spare > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn digest(name: &str) -> Digest {
        Digest::of(Algorithm::Sha256, name.as_bytes())
    }

    fn manifest(layers: &[(&str, u64)]) -> Vec<u8> {
        let layers: Vec<_> = layers
            .iter()
            .map(|(name, size)| serde_json::json!({"digest": digest(name).to_string(), "size": size}))
            .collect();
        let config = serde_json::json!({"digest": digest("config").to_string(), "size": 100});
        serde_json::to_vec(&serde_json::json!({"config": config, "layers": layers})).unwrap()
    }

    #[test]
    fn blobs_are_fetched_in_the_order_of_the_manifest_each_once() {
        let body = manifest(&[("z", 5), ("a", 6), ("z", 5)]);
        let expected = ["config", "z", "a"].map(digest);
        assert_eq!(wanted_blobs(&body, Prefetch::Image), expected);
        assert_eq!(wanted_blobs(&body, Prefetch::Config), expected[..1]);
    }

    #[test]
    fn config_alone_is_fetched_of_an_image_above_the_bound() {
        let body = manifest(&[("a", PREFETCH_BYTES_MAX), ("b", 1)]);
        assert_eq!(wanted_blobs(&body, Prefetch::Image), [digest("config")]);
        let huge = manifest(&[("a", u64::MAX), ("b", u64::MAX)]);
        assert_eq!(wanted_blobs(&huge, Prefetch::Image), [digest("config")]);
    }

    #[test]
    fn index_and_other_content_have_no_blobs_to_fetch() {
        let index = format!(r#"{{"manifests":[{{"digest":"{}"}}]}}"#, digest("child"));
        for body in [index.as_bytes(), b"{}", b"no JSON"] {
            assert_eq!(wanted_blobs(body, Prefetch::Image), []);
        }
    }

    #[test]
    fn manifest_of_a_head_request_starts_one_prefetch() {
        let prefetches = Prefetches::default();
        let origin = Origin {
            namespace: "a.example".parse().unwrap(),
            repository: "r".parse().unwrap(),
        };
        assert!(!prefetches.take_head(&origin, digest("m")));
        prefetches.record_head(&origin, digest("m"));
        assert!(!prefetches.take_head(&origin, digest("other")));
        assert!(prefetches.take_head(&origin, digest("m")));
        assert!(!prefetches.take_head(&origin, digest("m")));
        for n in 0..=PREFETCH_HEADS_MAX {
            prefetches.record_head(&origin, digest(&n.to_string()));
        }
        assert_eq!(prefetches.heads.lock().len(), PREFETCH_HEADS_MAX);
    }
}
