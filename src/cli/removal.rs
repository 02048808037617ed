//! The commands `purge` and `prune`. They change the store of a running cache through its admin
//! socket, and a store without a cache or a bucket directly.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;

use super::bucket::BucketCopy;
use super::output::{Output, OutputArgs};
use super::progress::ProgressArgs;
use super::target::{Failure, Target, ended};
use super::{EXIT_MISUSE, EXIT_NOT_FOUND, EXIT_REFUSED, fail, say_json};
use crate::admin::ServerPlan;
use crate::calendar::date_time;
use crate::config::{self, Environment, Layer};
use crate::local_time::unix_seconds_of_local;
use crate::manage::{self, PlannedRemoval, PruneRequest, RemovalReport};
use crate::oci::ImageName;
use crate::store::Stores;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct PurgeArgs {
    /// The image: `[registry/]repository[:tag][@digest]`. Without tag and digest: all images of the
    /// repository.
    #[arg(value_name = "REF")]
    image: String,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct PruneArgs {
    /// Images whose reference matches one of these regular expressions, separated by commas.
    #[arg(long, value_name = "REGEX")]
    pattern: Option<String>,
    /// Images stored before this time, in the zone of this machine (TZ).
    #[arg(long, alias = "prune-before", value_name = "YYYY-MM-DDTHH:MM:SS")]
    date: Option<String>,
    /// Images stored longer ago.
    #[arg(long, value_name = "30d")]
    older_than: Option<String>,
    /// Images without a use for this time.
    #[arg(long, value_name = "7d")]
    unused_for: Option<String>,
    /// The tags of each repository that stay: those stored last.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    keep_newest: usize,
    /// Remove every image.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
struct How {
    /// Print the removal, and remove nothing.
    #[arg(long)]
    dry_run: bool,
    /// Remove without a question.
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    output: OutputArgs,
    /// Remove from the bucket behind the directory.
    #[arg(long)]
    bucket: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// A removal, planned by a running cache or by this process.
enum Plan {
    Purge(ImageName, RemovalReport),
    OfServer(ServerPlan),
    Own(PlannedRemoval),
    OfBucket(PlannedRemoval, RemovalReport),
}

/// The place of the content.
enum Place {
    Target(Target),
    /// The bucket, and the copy of its metadata.
    Bucket(BucketCopy, Stores),
}

pub(super) fn purge(args: &PurgeArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let name: ImageName = match args.image.parse() {
        Ok(name) => name,
        Err(error) => return fail(&error, ExitCode::from(EXIT_MISUSE)),
    };
    let plan = |place: &Place| match place {
        Place::Bucket(copy, store) => manage::plan_purge(store, &name)
            .map(|plan| Plan::of_bucket(copy, plan))
            .map_err(Failure::of),
        Place::Target(Target::Running(cache)) => {
            let report = cache.purge(&name, true).map_err(Failure::of)?;
            Ok(Plan::Purge(name.clone(), report))
        }
        Place::Target(Target::Directory(store)) => manage::plan_purge(store, &name)
            .map(Plan::Own)
            .map_err(Failure::of),
    };
    ended(remove(args.how, flags, environment, plan))
}

pub(super) fn prune(args: &PruneArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let before = match args.date.as_deref().map(in_utc).transpose() {
        Ok(before) => before,
        Err(error) => return fail(&error, ExitCode::from(EXIT_MISUSE)),
    };
    let request = PruneRequest {
        pattern: args.pattern.clone(),
        before,
        older_than: args.older_than.clone(),
        unused_for: args.unused_for.clone(),
        keep_newest: args.keep_newest,
        all: args.all,
    };
    let rule = match request.rule() {
        Ok(rule) => rule,
        Err(error) => return fail(&error, ExitCode::from(EXIT_MISUSE)),
    };
    let plan = |place: &Place| match place {
        Place::Bucket(..) if rule.unused_for.is_some() => Err(Failure::misuse(
            "a bucket has no record of uses, so --unused-for has no effect there; use --older-than",
        )),
        Place::Bucket(copy, store) => manage::plan_prune(store, &rule)
            .map(|plan| Plan::of_bucket(copy, plan))
            .map_err(Failure::of),
        Place::Target(Target::Running(cache)) => cache
            .plan_prune(&request)
            .map(Plan::OfServer)
            .map_err(Failure::of),
        Place::Target(Target::Directory(store)) => manage::plan_prune(store, &rule)
            .map(Plan::Own)
            .map_err(Failure::of),
    };
    match remove(args.how, flags, environment, plan) {
        // Rules may select nothing.
        Err(failure) if failure.code == ExitCode::from(EXIT_NOT_FOUND) => ExitCode::SUCCESS,
        ended_with => ended(ended_with),
    }
}

/// Converts a time in the zone of this machine to UTC.
fn in_utc(text: &str) -> Result<String, String> {
    let seconds = unix_seconds_of_local(text).ok_or_else(|| {
        format!("the time {text:?} is invalid; expected YYYY-MM-DDTHH:MM:SS in the zone of this machine (TZ)")
    })?;
    Ok(String::from_utf8_lossy(&date_time(seconds)).into_owned())
}

/// Plans a removal, prints it, and applies it after a confirmation.
fn remove(
    how: How,
    flags: Layer,
    environment: Environment<'_>,
    plan: impl FnOnce(&Place) -> Result<Plan, Failure>,
) -> Result<(), Failure> {
    let format = how.output.format();
    let place = Place::open(how, flags, environment)?;
    let plan = plan(&place)?;
    let planned = plan.report();
    if planned.objects == 0 {
        if format == Output::Json {
            say_json(&planned);
        }
        return Err(Failure {
            message: "no stored image matches; `oci-pull-through list` prints the stored images".to_owned(),
            code: ExitCode::from(EXIT_NOT_FOUND),
        });
    }
    if how.dry_run {
        print(&planned, format, "would be removed");
        return Ok(());
    }
    if !how.yes {
        print(&planned, Output::Table, "will be removed");
        confirm()?;
    }
    let removed = plan.apply(&place)?;
    print(&removed, format, "removed");
    if removed.kept > 0 {
        return Err(Failure {
            message: format!(
                "{} objects stayed, because they changed or could not be removed",
                removed.kept
            ),
            code: ExitCode::FAILURE,
        });
    }
    Ok(())
}

fn print(report: &RemovalReport, format: Output, state: &str) {
    if format == Output::Json {
        return say_json(report);
    }
    let mut text = String::new();
    for image in &report.images {
        text.push_str(image);
        text.push('\n');
    }
    let (images, objects) = (report.images.len(), report.objects);
    let megabytes = report.bytes as f64 / 1e6;
    if format != Output::Name {
        text += &format!("{images} images, {objects} objects, {megabytes:.1} MB {state}\n");
    }
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Reads a confirmation from the terminal.
fn confirm() -> Result<(), Failure> {
    let refused = |message: &str| {
        Err(Failure {
            message: message.to_owned(),
            code: ExitCode::from(EXIT_REFUSED),
        })
    };
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return refused("standard input is no terminal, so nothing is removed; add --yes to remove");
    }
    let _ = write!(std::io::stdout(), "Remove? [y/N] ");
    let _ = std::io::stdout().flush();
    let mut line = String::new();
    let _ = stdin.lock().read_line(&mut line);
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => refused("nothing is removed"),
    }
}

impl Place {
    fn open(how: How, flags: Layer, environment: Environment<'_>) -> Result<Self, Failure> {
        let config = config::resolve(flags.clone(), environment).map_err(Failure::misuse)?;
        match BucketCopy::of(&config.storage, how.bucket, how.progress)? {
            Some(copy) => {
                let store = copy.store()?;
                Ok(Place::Bucket(copy, store))
            }
            None => Target::open(flags, environment).map(Place::Target),
        }
    }
}

impl Plan {
    fn of_bucket(copy: &BucketCopy, plan: PlannedRemoval) -> Self {
        let report = copy.report(&plan);
        Plan::OfBucket(plan, report)
    }

    fn report(&self) -> RemovalReport {
        match self {
            Plan::Purge(_, report) => report.clone(),
            Plan::OfServer(plan) => plan.removal.clone(),
            Plan::Own(plan) => plan.report(),
            Plan::OfBucket(_, report) => report.clone(),
        }
    }

    fn apply(self, place: &Place) -> Result<RemovalReport, Failure> {
        let target = match (self, place) {
            (Plan::OfBucket(plan, _), Place::Bucket(copy, _)) => return copy.remove(&plan),
            (plan, Place::Target(target)) => (plan, target),
            _ => unreachable!("a plan is applied where it was made"),
        };
        match target {
            (Plan::Purge(name, _), Target::Running(cache)) => cache.purge(&name, false).map_err(Failure::of),
            (Plan::OfServer(plan), Target::Running(cache)) => cache.apply(&plan).map_err(Failure::of),
            (Plan::Own(plan), Target::Directory(store)) => Ok(plan.apply(store)),
            _ => unreachable!("a plan is applied where it was made"),
        }
    }
}
