//! The command `jobs`: the jobs of a running cache.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{Output, OutputArgs};
use super::say;
use super::target::{Failure, ended, running_cache};
use crate::admin::JobStatus;
use crate::config::{Environment, Layer};
use crate::local_time::local_date_time;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct JobsArgs {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Action {
    /// Cancel a running job.
    Cancel {
        #[arg(value_name = "ID")]
        id: u64,
    },
}

/// Prints the jobs of the running cache, or cancels a job.
pub(super) fn run(args: &JobsArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(print_or_cancel(args, flags, environment))
}

fn print_or_cancel(args: &JobsArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let Some(cache) = running_cache(flags, environment)? else {
        return Err(Failure::of(
            "no cache runs with this FS_ROOT, and only a running cache has jobs",
        ));
    };
    if let Some(Action::Cancel { id }) = args.action {
        cache.cancel_job(id).map_err(Failure::of)?;
        say(&format!("job {id} canceled"));
        return Ok(());
    }
    let jobs = cache.jobs().map_err(Failure::of)?;
    let text: String = match args.output.format() {
        Output::Table => jobs.iter().map(|job| line(job) + "\n").collect(),
        Output::Wide => jobs.iter().map(|job| wide_line(job) + "\n").collect(),
        Output::Name => jobs.iter().map(|job| format!("{}\n", job.job)).collect(),
        Output::Json => serde_json::to_string_pretty(&jobs).expect("jobs are strings and numbers") + "\n",
    };
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn line(job: &JobStatus) -> String {
    let state = job.state.word();
    let progress = job.progress;
    let (objects, total) = (progress.objects, progress.objects_total);
    let kind = job.kind.word();
    format!("{:<5} {kind:<6} {state:<9} {objects} of {total} objects", job.job)
}

/// Adds the start and the bytes to [`line()`].
fn wide_line(job: &JobStatus) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "{}, {:.1} of {:.1} MB, began {}",
        line(job),
        megabytes(job.progress.bytes),
        megabytes(job.progress.bytes_total),
        local_date_time(job.began_at)
    )
}
