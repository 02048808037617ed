//! The rules of `warm`. Each run is a job with log lines.

use std::io;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};

use crate::admin::{JobReport, Jobs};
use crate::config::Config;
use crate::manage::{BackgroundWarm, Loader, WarmReport, WarmRun};
use crate::storage::Storages;

/// Starts the rules of `warm`. `None` without a local store of tags. The configuration then has a warning.
///
/// # Errors
///
/// The thread cannot be created.
pub(super) fn start(
    config: &Config,
    storages: &Storages,
    loader: &Loader,
    jobs: &Arc<Jobs>,
) -> io::Result<Option<BackgroundWarm>> {
    let stores = storages.local_stores().filter(|_| config.cache_tag_manifests);
    let Some(stores) = stores else { return Ok(None) };
    let jobs = jobs.clone();
    let start = Box::new(move |run| start_job(run, &jobs));
    let settings = config.load_settings();
    BackgroundWarm::start(stores, loader.clone(), settings, &config.warm, start).map(Some)
}

fn start_job(run: WarmRun, jobs: &Jobs) -> Result<Receiver<WarmReport>, String> {
    let (sender, receiver) = bounded(1);
    let rule = run.rule.place.clone();
    let (pattern, platforms) = (run.rule.pattern.as_str().to_owned(), run.platforms().to_string());
    let place = rule.clone();
    let began = move |job| tracing::info!(rule = place, job, pattern, platforms, "warm rule started");
    let ended = move |job, outcome: &io::Result<JobReport>| match outcome {
        Ok(JobReport::Warm(report)) => {
            log_end(job, report);
            // The receiver is absent at the stop of the cache.
            let _ = sender.send(report.clone());
        }
        Ok(_) => {}
        Err(error) => tracing::warn!(rule, job, %error, "warm rule failed"),
    };
    let started = jobs.warm(run, began, ended);
    started.map(|_| receiver).map_err(|problem| problem.to_string())
}

fn log_end(job: u64, report: &WarmReport) {
    let rule = &report.rule;
    for failed in &report.failures {
        let (image, error) = (&failed.image, &failed.error);
        tracing::warn!(rule, job, image, error, "image not kept warm");
    }
    tracing::info!(
        rule,
        job,
        images = report.images,
        checked = report.checked,
        changed = report.changed,
        recent = report.recent,
        failed = report.failed,
        held_back = report.held_back,
        held_back_by = report.held_back_by,
        left_out = report.left_out,
        bytes = report.fetched_bytes,
        complete = report.complete,
        "warm rule completed"
    );
}
