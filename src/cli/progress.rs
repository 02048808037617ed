//! The progress of a long command on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use clap::{Args, ValueEnum};
use crossbeam_channel::{RecvTimeoutError, after, bounded};
use serde::Serialize;

use super::progress_bars::Bars;
use super::target::Failure;
use crate::admin::{AdminClient, JobReport, JobState};
use crate::manage::{ImageInWork, ProgressCounts};

/// Interval of the looks at the progress.
const LOOK: Duration = Duration::from_millis(200);

/// The error of a report of another kind than the requested job.
pub(super) const OTHER_JOB: &str =
    "the cache sent the report of another kind of job; use the command of the same version as the cache";

/// Looks between two lines without a terminal: five seconds.
const LOOKS_PER_LINE: u32 = 25;

/// Looks between two JSON objects: one second.
const LOOKS_PER_JSON: u32 = 5;

/// The flags of commands with a progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(super) struct ProgressArgs {
    /// Form of the progress on standard error: bars on a terminal and otherwise lines, JSON, or none.
    #[arg(long, value_enum, default_value = "auto")]
    progress: ProgressForm,
    /// Print no progress.
    #[arg(long, conflicts_with = "progress")]
    quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ProgressForm {
    /// Bars on a terminal, and otherwise a line each five seconds.
    Auto,
    /// A JSON object per second, one per line.
    Json,
    None,
}

/// The progress of a command at one moment.
#[derive(Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Progress {
    /// The job of the running cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<u64>,
    /// The progress as a text, for a command without counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub counts: Option<ProgressCounts>,
    /// The images in work of a load.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<ImageInWork>,
}

/// The progress: bars on a terminal, and otherwise a line each five seconds, or JSON.
pub(super) struct ProgressLine {
    shown: Shown,
    looks: u32,
}

enum Shown {
    Nothing,
    Bars(Bars),
    Lines,
    Json,
}

impl Progress {
    /// Returns the progress of a command in objects and bytes.
    pub fn of(counts: ProgressCounts) -> Self {
        Progress {
            counts: Some(counts),
            ..Progress::default()
        }
    }

    /// Returns the progress in words, without the images in work.
    pub fn line(&self) -> String {
        match (&self.counts, &self.text) {
            (Some(counts), _) => counts_text(counts, self.job),
            (None, Some(text)) => text.clone(),
            (None, None) => String::new(),
        }
    }
}

impl ProgressLine {
    pub fn new(is_quiet: bool) -> Self {
        let form = if is_quiet {
            ProgressForm::None
        } else {
            ProgressForm::Auto
        };
        Self::in_form(form)
    }

    /// Returns the progress in the form of the flags.
    pub fn of(args: ProgressArgs) -> Self {
        match args.quiet {
            true => Self::new(true),
            false => Self::in_form(args.progress),
        }
    }

    fn in_form(form: ProgressForm) -> Self {
        let shown = match form {
            ProgressForm::None => Shown::Nothing,
            ProgressForm::Json => Shown::Json,
            ProgressForm::Auto if std::io::stderr().is_terminal() => {
                // A terminal without a movable cursor gets lines.
                Bars::new().map_or(Shown::Lines, Shown::Bars)
            }
            ProgressForm::Auto => Shown::Lines,
        };
        ProgressLine { shown, looks: 0 }
    }

    /// Prints a line about the next step of the command, unless no progress is wanted.
    pub fn note(&self, text: &str) {
        let line = match &self.shown {
            Shown::Nothing => return,
            Shown::Json => serde_json::json!({ "text": text }).to_string(),
            Shown::Bars(_) | Shown::Lines => text.to_owned(),
        };
        // A closed standard error is no reason to end the command.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Shows the progress of the job `id` of a cache until its end. Returns its report.
    pub fn follow_job(&mut self, cache: &AdminClient, id: u64) -> Result<JobReport, Failure> {
        loop {
            let job = cache.job(id).map_err(Failure::of)?;
            match (job.state, job.result) {
                (JobState::Running, _) => self.show(&Progress {
                    job: Some(id),
                    images: job.images,
                    ..Progress::of(job.progress)
                }),
                (_, Some(report)) => return Ok(report),
                (_, None) => return Err(Failure::of(job.error.unwrap_or_default())),
            }
            let _ = after(LOOK).recv();
        }
    }

    /// Runs `work` on a thread of this process, and shows `text` until its end.
    pub fn show_while<T: Send>(
        &mut self,
        text: impl Fn() -> String,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, Failure> {
        let progress = || Progress {
            text: Some(text()),
            ..Progress::default()
        };
        self.show_progress_while(progress, work)
    }

    /// Runs `work` on a thread of this process, and shows `progress` until its end.
    pub fn show_progress_while<T: Send>(
        &mut self,
        progress: impl Fn() -> Progress,
        work: impl FnOnce() -> T + Send,
    ) -> Result<T, Failure> {
        let (sender, result) = bounded(1);
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || sender.send(work()));
            loop {
                match result.recv_timeout(LOOK) {
                    Ok(result) => return Ok(result),
                    Err(RecvTimeoutError::Timeout) => self.show(&progress()),
                    Err(RecvTimeoutError::Disconnected) => {
                        // Otherwise the panic of the thread would continue here.
                        let _ = thread.join();
                        return Err(Failure::of(
                            "the command panicked, which is a bug; report the message before this line",
                        ));
                    }
                }
            }
        })
    }

    /// Prints the progress. The caller calls once in each [`LOOK`].
    fn show(&mut self, progress: &Progress) {
        let look = self.looks;
        self.looks += 1;
        let line = match &mut self.shown {
            Shown::Nothing => return,
            Shown::Bars(bars) => return bars.show(progress),
            Shown::Lines if self.looks.is_multiple_of(LOOKS_PER_LINE) => progress.line(),
            Shown::Json if look.is_multiple_of(LOOKS_PER_JSON) => {
                serde_json::to_string(progress).expect("the progress is strings and numbers")
            }
            Shown::Lines | Shown::Json => return,
        };
        // A closed standard error is no reason to end the command.
        let _ = writeln!(std::io::stderr(), "{line}");
    }

    /// Removes the bars from a terminal.
    pub fn clear(&mut self) {
        if let Shown::Bars(bars) = &mut self.shown {
            bars.clear();
        }
    }
}

/// Returns the progress in objects and bytes, of the job of a cache if there is a job.
pub(super) fn counts_text(counts: &ProgressCounts, job: Option<u64>) -> String {
    let job = job.map_or_else(String::new, |id| format!("job {id}: "));
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "{job}{} of {} objects, {:.1} of {:.1} MB",
        counts.objects,
        counts.objects_total,
        megabytes(counts.bytes),
        megabytes(counts.bytes_total)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_counts_and_the_job() {
        let counts = ProgressCounts {
            objects: 3,
            objects_total: 12,
            bytes: 1_500_000,
            bytes_total: 20_000_000,
        };
        assert_eq!(counts_text(&counts, None), "3 of 12 objects, 1.5 of 20.0 MB");
        assert_eq!(
            counts_text(&counts, Some(7)),
            "job 7: 3 of 12 objects, 1.5 of 20.0 MB"
        );
    }

    #[test]
    fn json_has_the_counts_and_the_images_in_work() {
        let progress = Progress {
            images: vec![ImageInWork {
                image: "quay.io/a:1".to_owned(),
                registry: "quay.io".to_owned(),
                bytes: 1,
                bytes_total: 2,
            }],
            ..Progress::of(ProgressCounts::default())
        };
        assert_eq!(
            serde_json::to_value(progress).unwrap(),
            serde_json::json!({
                "objects": 0, "objectsTotal": 0, "bytes": 0, "bytesTotal": 0,
                "images": [{"image": "quay.io/a:1", "registry": "quay.io", "bytes": 1, "bytesTotal": 2}],
            })
        );
        let progress = Progress {
            text: Some("3 requests".to_owned()),
            ..Progress::default()
        };
        assert_eq!(
            serde_json::to_string(&progress).unwrap(),
            r#"{"text":"3 requests"}"#
        );
    }
}
