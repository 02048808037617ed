//! The work of a job, with its log lines and its report.

use std::io;

use crossbeam_channel::Receiver;
use serde::{Deserialize, Serialize};

use super::change::{Change, PlannedChange};
use super::jobs::JobKind;
use crate::limits::CONNECTION_SWEEP_INTERVAL;
use crate::manage::{
    ImageInWork, LoadProgress, LoadReport, LoadRule, Loader, PlannedVerification, ProgressCounts,
    VerifyProgress, VerifyReport, WarmReport, WarmRun,
};
use crate::store::Stores;

/// The work of a job.
pub enum JobWork {
    Verify {
        stores: Stores,
        plan: PlannedVerification,
        progress: VerifyProgress,
    },
    Load {
        loader: Loader,
        rule: LoadRule,
        progress: LoadProgress,
    },
    Warm {
        run: Box<WarmRun>,
        progress: LoadProgress,
    },
}

/// The report of a job. The members of the kinds differ.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum JobReport {
    Verify(VerifyReport),
    Load(LoadReport),
    Warm(WarmReport),
}

impl JobReport {
    /// Returns whether the job came to its end. A canceled job has not.
    pub fn is_complete(&self) -> bool {
        match self {
            JobReport::Verify(report) => report.complete,
            JobReport::Load(report) => report.complete,
            JobReport::Warm(report) => report.complete,
        }
    }
}

impl JobWork {
    pub fn kind(&self) -> JobKind {
        match self {
            JobWork::Verify { .. } => JobKind::Verify,
            JobWork::Load { .. } => JobKind::Load,
            JobWork::Warm { .. } => JobKind::Warm,
        }
    }

    pub fn counts(&self) -> ProgressCounts {
        match self {
            JobWork::Verify { plan, progress, .. } => plan.counts(progress),
            JobWork::Load { progress, .. } | JobWork::Warm { progress, .. } => progress.counts(),
        }
    }

    /// Returns the images that a load or a rule of `warm` pulls now.
    pub fn images(&self) -> Vec<ImageInWork> {
        match self {
            JobWork::Verify { .. } => Vec::new(),
            JobWork::Load { progress, .. } | JobWork::Warm { progress, .. } => progress.images(),
        }
    }

    /// Does the work of the job `id` until its end, or until the drop of the sender of `stopped`. Writes
    /// a log line before and a log line after work that may change the store. Blocks.
    ///
    /// # Errors
    ///
    /// The process lacks a resource.
    pub fn run(&self, id: u64, change: &Change, stopped: &Receiver<()>) -> io::Result<JobReport> {
        match self {
            JobWork::Verify {
                stores,
                plan,
                progress,
            } => {
                let report = verify(stores, plan, progress, (id, change), stopped);
                Ok(JobReport::Verify(report))
            }
            JobWork::Load { rule, .. } => {
                change.requested(Some(PlannedChange {
                    job: Some(id),
                    images: rule.images.len() as u64,
                    objects: 0,
                    bytes: 0,
                }));
                let report = self.report(stopped)?;
                if let JobReport::Load(report) = &report {
                    change.loaded(id, report);
                }
                Ok(report)
            }
            // No client starts such a job.
            JobWork::Warm { .. } => self.report(stopped),
        }
    }

    /// Does the work without log lines of its own. Blocks.
    ///
    /// # Errors
    ///
    /// The process lacks a resource.
    pub fn report(&self, stopped: &Receiver<()>) -> io::Result<JobReport> {
        match self {
            JobWork::Verify {
                stores,
                plan,
                progress,
            } => Ok(JobReport::Verify(plan.run(stores, progress, stopped.clone()))),
            JobWork::Load {
                loader,
                rule,
                progress,
            } => Ok(JobReport::Load(loader.run(rule, progress, stopped)?)),
            JobWork::Warm { run, progress } => Ok(JobReport::Warm(run.run(progress, stopped)?)),
        }
    }
}

fn verify(
    stores: &Stores,
    plan: &PlannedVerification,
    progress: &VerifyProgress,
    (id, change): (u64, &Change),
    stopped: &Receiver<()>,
) -> VerifyReport {
    if !plan.is_dry_run() {
        let counts = plan.counts(progress);
        change.requested(Some(PlannedChange {
            job: Some(id),
            images: plan.images(),
            objects: counts.objects_total,
            bytes: counts.bytes_total,
        }));
    }
    let report = plan.run(stores, progress, stopped.clone());
    if !plan.is_dry_run() {
        change.verified(id, &report);
    }
    if report.removed_objects > 0 {
        // The next request for the content must not find it in the memory of a core.
        let _ = crossbeam_channel::after(2 * CONNECTION_SWEEP_INTERVAL).recv();
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_is_read_back_as_its_kind() {
        for report in [
            JobReport::Verify(VerifyReport::default()),
            JobReport::Load(LoadReport::default()),
            JobReport::Warm(WarmReport::default()),
        ] {
            let json = serde_json::to_string(&report).unwrap();
            assert_eq!(
                serde_json::from_str::<JobReport>(&json).unwrap(),
                report,
                "{json}"
            );
        }
    }
}
