//! The load of `PRELOAD_IMAGES`, a job after the start. Its failures only have log lines, so the cache
//! serves without them.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::admin::Jobs;
use crate::config::{Config, LoadSettings};
use crate::limits::IMAGE_LIST_MISTAKES_MAX;
use crate::manage::{ImageList, LoadReport, LoadRequest, Loader, read_image_list};
use crate::runtime::clock::monotonic_millis;
use crate::store::Stores;

/// The interval of the looks whether the scan at start has ended.
const SCAN_LOOK: Duration = Duration::from_millis(200);

/// The wait for the begin of the load. The drop ends the wait.
pub(super) struct Preload {
    _stop: Sender<()>,
}

impl Preload {
    /// Starts the load of `PRELOAD_IMAGES`, if set.
    ///
    /// # Errors
    ///
    /// The thread cannot be created.
    pub fn start(
        config: &Config,
        stores: Option<Stores>,
        loader: Loader,
        jobs: Arc<Jobs>,
    ) -> io::Result<Option<Self>> {
        let Some(path) = config.preload_images.clone() else {
            return Ok(None);
        };
        let settings = config.load_settings();
        let (stop, stopped) = bounded(0);
        let work = move || {
            if !wait_for_scan(stores.as_ref(), &stopped) {
                return;
            }
            // A panic is a bug, and the cache serves.
            if catch_unwind(AssertUnwindSafe(|| start_job(&path, &settings, loader, &jobs))).is_err() {
                tracing::error!("preload panicked");
            }
        };
        thread::Builder::new().name("preload".into()).spawn(work)?;
        Ok(Some(Preload { _stop: stop }))
    }
}

/// Waits for the end of the scans at start, because a store may have no room before. Returns false if
/// the sender of `stopped` is dropped first.
pub(super) fn wait_for_scan(stores: Option<&Stores>, stopped: &Receiver<()>) -> bool {
    while stores.is_some_and(|stores| !stores.are_scanned()) {
        if stopped.recv_timeout(SCAN_LOOK) == Err(RecvTimeoutError::Disconnected) {
            return false;
        }
    }
    true
}

/// Reads the list, and starts the job.
fn start_job(path: &Path, settings: &LoadSettings, loader: Loader, jobs: &Jobs) {
    let shown = path.display();
    let list = match read_image_list(path) {
        Ok(list) => list,
        Err(error) => {
            return tracing::warn!(path = %shown, %error, "preload list unusable");
        }
    };
    let ImageList { images, mistakes, .. } = list;
    for mistake in mistakes.iter().take(IMAGE_LIST_MISTAKES_MAX) {
        tracing::warn!(path = %shown, line = mistake.line, error = mistake.why, "preload list entry ignored");
    }
    let request = LoadRequest {
        images,
        ..LoadRequest::default()
    };
    let rule = match request.rule(settings) {
        Ok(rule) => rule,
        Err(error) => {
            return tracing::warn!(path = %shown, %error, "preload list unusable");
        }
    };
    let began_at = monotonic_millis();
    let (images, platforms, list) = (
        rule.images.len(),
        settings.platforms.to_string(),
        shown.to_string(),
    );
    let began = move |job| tracing::info!(path = list, job, images, platforms, "preload started");
    let started = jobs.preload(loader, rule, began, move |report| log_end(report, began_at));
    if let Err(error) = started {
        tracing::warn!(%error, "preload failed");
    }
}

fn log_end(report: &LoadReport, began_at: u64) {
    for (image, error) in report.failures() {
        let status = image.upstream_status;
        tracing::warn!(
            image = image.image,
            upstream_status = status,
            error,
            "image not preloaded"
        );
    }
    tracing::info!(
        held = report.held,
        failed = report.failed,
        bytes = report.fetched_bytes,
        complete = report.complete,
        duration_s = (monotonic_millis() - began_at) / 1_000,
        "preload completed"
    );
}
