//! Loads images into the store: pulls of the cache itself, without a client.

mod callers;
pub(in crate::manage) mod image;
pub(in crate::manage) mod progress;
mod referrers;
mod report;
mod request;
pub(in crate::manage) mod tags;

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;

use crossbeam_channel::{Receiver, TryRecvError};
use futures_util::future::{Either, select};
use futures_util::{StreamExt as _, stream};

use crate::cache::Cache;
use crate::config::Live;
use crate::limits::LOAD_STOP_CHECK_INTERVAL;
use crate::runtime::core;

pub use progress::{ImageInWork, LoadProgress};
pub use report::{ListedTags, LoadReport, LoadState, LoadedImage};
pub use request::{LoadRequest, LoadRule, WantedImage, WantedTags};

use image::ImagePull;

/// The parts of a cache that load images. Cheap to clone.
#[derive(Clone)]
pub struct Loader {
    pub(in crate::manage) cache: Cache,
    pub(in crate::manage) live: Live,
}

impl Loader {
    pub fn new(cache: Cache, live: Live) -> Self {
        Loader { cache, live }
    }

    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    pub fn live(&self) -> &Live {
        &self.live
    }

    /// Loads the images of `rule`, and the tags that the registries list for `rule`. An image that fails does not end the load. The drop of the sender of
    /// `stopped` ends the load. Blocks.
    ///
    /// # Errors
    ///
    /// The thread cannot wait for events, for example because the process has no free descriptor.
    pub fn run(
        &self,
        rule: &LoadRule,
        progress: &LoadProgress,
        stopped: &Receiver<()>,
    ) -> io::Result<LoadReport> {
        progress.follow(&self.cache);
        core::run_aside(async {
            let (loaded, searches) = (RefCell::new(Vec::new()), RefCell::new(Vec::new()));
            let load = async {
                let mut images = rule.images.clone();
                for wanted in &rule.tags {
                    match self.find_tags(wanted, rule).await {
                        Ok((found, listed)) => {
                            let new = found.into_iter().filter(|image| !rule.images.contains(image));
                            images.extend(new);
                            searches.borrow_mut().push(listed);
                        }
                        Err(failed) => loaded.borrow_mut().push((usize::MAX, failed)),
                    }
                }
                progress.expect(images.len() as u64, 0);
                stream::iter(images.iter().enumerate())
                    .map(|(number, wanted)| async move { (number, self.load(wanted, rule, progress).await) })
                    .buffer_unordered(rule.concurrency)
                    .for_each(|image| async { loaded.borrow_mut().push(image) })
                    .await;
            };
            let complete = match select(pin!(load), pin!(until_stopped(stopped))).await {
                Either::Left(_) => true,
                Either::Right(_) => false,
            };
            let mut images = loaded.take();
            images.sort_by_key(|(number, _)| *number);
            let images = images.into_iter().map(|(_, image)| image).collect();
            LoadReport {
                tags: searches.take(),
                ..LoadReport::of(images, complete)
            }
        })
    }

    /// Returns the images that the registry lists for `wanted`, or the failed search.
    async fn find_tags(
        &self,
        wanted: &WantedTags,
        rule: &LoadRule,
    ) -> Result<(Vec<WantedImage>, ListedTags), LoadedImage> {
        let found = tags::find(&self.cache, &self.live, wanted, rule.pull_timeout).await;
        found.map_err(|error| LoadedImage {
            image: wanted.pin.as_str().to_owned(),
            platforms: wanted.platforms.to_string(),
            state: LoadState::Failed,
            fetched_bytes: 0,
            upstream_status: error.upstream_status(),
            error: Some(error.to_string()),
            stale: None,
        })
    }

    async fn load(&self, wanted: &WantedImage, rule: &LoadRule, progress: &LoadProgress) -> LoadedImage {
        let fetched = Cell::new(0);
        let mut image = LoadedImage {
            image: wanted.name.to_string(),
            platforms: wanted.platforms.to_string(),
            state: LoadState::Failed,
            fetched_bytes: 0,
            error: None,
            upstream_status: None,
            stale: None,
        };
        let in_work = progress.begin(&wanted.name);
        let pull = async {
            ImagePull::new(&self.cache, &self.live, wanted, &in_work, &fetched)?
                .run(rule.referrers)
                .await
        };
        match monoio::time::timeout(rule.pull_timeout, pull).await {
            Ok(Ok(pulled)) => {
                image.state = LoadState::Held;
                image.stale = pulled.stale;
                progress.advance(0);
            }
            Ok(Err(error)) => {
                image.upstream_status = error.upstream_status();
                image.error = Some(error.to_string());
            }
            Err(_elapsed) => {
                image.error = Some(format!(
                    "the image was not complete within {} s; load it again to continue, or set a longer PULL_TIMEOUT",
                    rule.pull_timeout.as_secs_f64()
                ));
            }
        }
        image.fetched_bytes = fetched.get();
        image
    }
}

/// Waits until the sender of `stopped` is dropped.
pub(in crate::manage) async fn until_stopped(stopped: &Receiver<()>) {
    while stopped.try_recv() != Err(TryRecvError::Disconnected) {
        monoio::time::sleep(LOAD_STOP_CHECK_INTERVAL).await;
    }
}
