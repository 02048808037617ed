//! The command `verify`. A running cache verifies its store in a job. A store without a cache is
//! verified by this process.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Args;
use crossbeam_channel::bounded;

use super::output::{Output, OutputArgs};
use super::progress::{OTHER_JOB, Progress, ProgressArgs, ProgressLine};
use super::target::{Failure, Target, ended};
use super::{EXIT_NOT_FOUND, say_json};
use crate::admin::{AdminClient, JobReport};
use crate::config::{BYTES_EXPECTED, Environment, Layer, parse_bytes};
use crate::manage::{VerifyProgress, VerifyReport, VerifyRequest, VerifyRule, plan_verify};
use crate::store::Stores;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct VerifyArgs {
    /// The image: `[registry/]repository[:tag][@digest]`. Without an image, the whole store is
    /// verified.
    #[arg(value_name = "REF")]
    image: Option<String>,
    /// Images whose reference matches one of these regular expressions, separated by commas.
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,
    /// Bytes per second, such as 100m; 0 means no bound.
    #[arg(long, value_name = "BYTES", default_value = "50m")]
    rate: String,
    /// Report damage, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(super) fn run(args: &VerifyArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(verify(args, flags, environment))
}

fn verify(args: &VerifyArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let request = args.request()?;
    let rule = request.rule().map_err(Failure::misuse)?;
    let target = Target::open_unchanged(flags, environment)?;
    let mut line = ProgressLine::of(args.progress);
    let report = match &target {
        Target::Running(cache) => by_cache(cache, &request, &mut line),
        Target::Directory(stores) => by_this_process(stores, &rule, &mut line),
    };
    line.clear();
    let report = report?;
    print(&report, args.output.format());
    outcome(&report, &request)
}

impl VerifyArgs {
    fn request(&self) -> Result<VerifyRequest, Failure> {
        let rate = parse_bytes(&self.rate).ok_or_else(|| {
            Failure::misuse(format!(
                "--rate {:?} is no size; expected {BYTES_EXPECTED}, or 0 for no bound",
                self.rate
            ))
        })?;
        Ok(VerifyRequest {
            image: self.image.clone(),
            pattern: self.pattern.clone(),
            rate: Some(rate),
            dry_run: self.dry_run,
        })
    }
}

/// Starts a job of the cache, and waits for its end.
fn by_cache(
    cache: &AdminClient,
    request: &VerifyRequest,
    line: &mut ProgressLine,
) -> Result<VerifyReport, Failure> {
    let id = cache.start_verify(request).map_err(Failure::of)?;
    match line.follow_job(cache, id)? {
        JobReport::Verify(report) => Ok(report),
        JobReport::Load(_) | JobReport::Warm(_) => Err(Failure::of(OTHER_JOB)),
    }
}

/// Verifies the store on a thread of this process.
fn by_this_process(
    stores: &Stores,
    rule: &VerifyRule,
    line: &mut ProgressLine,
) -> Result<VerifyReport, Failure> {
    let plan = plan_verify(stores, rule).map_err(Failure::of)?;
    let progress = VerifyProgress::default();
    let (_not_stopped, stopped) = bounded(0);
    line.show_progress_while(
        || Progress::of(plan.counts(&progress)),
        || plan.run(stores, &progress, stopped),
    )
}

fn print(report: &VerifyReport, format: Output) {
    let text = match format {
        Output::Json => return say_json(report),
        Output::Name => report
            .damaged
            .iter()
            .map(|damaged| path_of(damaged.directory.as_deref(), &damaged.object) + "\n")
            .collect(),
        Output::Table | Output::Wide => text(report),
    };
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Returns the path of an object: below the default store, or with the directory of another store.
fn path_of(directory: Option<&str>, object: &str) -> String {
    match directory {
        Some(directory) => format!("{directory}/{object}"),
        None => object.to_owned(),
    }
}

fn text(report: &VerifyReport) -> String {
    let mut text = String::new();
    for object in &report.damaged {
        let state = if object.removed { "removed" } else { "not removed" };
        let path = path_of(object.directory.as_deref(), &object.object);
        text += &format!("{path} damaged, {state}: {}", object.reason);
        if !object.images.is_empty() {
            text += &format!("; images: {}", object.images.join(", "));
        }
        text.push('\n');
    }
    for object in &report.unreadable {
        let path = path_of(object.directory.as_deref(), &object.object);
        text += &format!("{path} unreadable: {}\n", object.reason);
    }
    text += &format!(
        "{} images, {} objects, {:.1} MB verified; {} damaged, {} removed, {} unreadable\n",
        report.images,
        report.objects,
        report.bytes as f64 / 1e6,
        report.damaged_objects,
        report.removed_objects,
        report.unreadable_objects
    );
    text
}

fn outcome(report: &VerifyReport, request: &VerifyRequest) -> Result<(), Failure> {
    if report.images == 0 && request.is_selective() {
        return Err(Failure {
            message: "no stored image matches; `oci-pull-through list` prints the stored images".to_owned(),
            code: ExitCode::from(EXIT_NOT_FOUND),
        });
    }
    if !report.complete {
        return Err(Failure::of("the verification was canceled before its end"));
    }
    let message = match (
        report.damaged_objects,
        report.damaged_objects - report.removed_objects,
        report.unreadable_objects,
    ) {
        (0, _, 0) => return Ok(()),
        (0, _, _) => {
            "some content is unreadable; run the command as the user of the cache, or check the disk"
        }
        (_, 0, _) => "damaged content was removed; the next pull fetches the content again; check the disk",
        _ => "damaged content stays in the store; repeat the command without --dry-run, and check the disk",
    };
    Err(Failure::of(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(report: &VerifyReport, image: Option<&str>) -> ExitCode {
        let request = VerifyRequest {
            image: image.map(str::to_owned),
            ..VerifyRequest::default()
        };
        outcome(report, &request).map_or_else(|failure| failure.code, |()| ExitCode::SUCCESS)
    }

    #[test]
    fn exit_code_differs_for_damage_and_for_missing_images() {
        let intact = VerifyReport {
            images: 1,
            complete: true,
            ..VerifyReport::default()
        };
        assert_eq!(code(&intact, Some("a")), ExitCode::SUCCESS);
        let empty = VerifyReport {
            images: 0,
            ..intact.clone()
        };
        assert_eq!(code(&empty, None), ExitCode::SUCCESS);
        assert_eq!(code(&empty, Some("a")), ExitCode::from(EXIT_NOT_FOUND));
        for (damaged_objects, removed_objects, unreadable_objects, complete) in [
            (1, 1, 0, true),
            (1, 0, 0, true),
            (0, 0, 1, true),
            (0, 0, 0, false),
        ] {
            let report = VerifyReport {
                damaged_objects,
                removed_objects,
                unreadable_objects,
                complete,
                ..intact.clone()
            };
            assert_eq!(code(&report, None), ExitCode::FAILURE, "{report:?}");
        }
    }
}
