//! The command `stats`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::output::{Output, OutputArgs};
use super::target::{Failure, Target, ended};
use super::{say, say_json};
use crate::config::{Environment, Layer};
use crate::store::{StoreStats, StoresStats};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(super) struct StatsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

/// Prints the state of each store.
pub(super) fn run(args: StatsArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(print(args.output, flags, environment))
}

fn print(output: OutputArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let format = output.format_without_names()?;
    let stats = match Target::open(flags, environment)? {
        Target::Running(cache) => cache.stats().map_err(Failure::of)?,
        Target::Directory(stores) => stores.stats(),
    };
    match format {
        Output::Json => say_json(&stats),
        _ => say(text(&stats).trim_end()),
    }
    Ok(())
}

fn text(stats: &StoresStats) -> String {
    let mut text = text_of(&stats.default);
    for store in &stats.registry_stores {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "\n{:<22} {}", "directory", store.directory);
        let _ = writeln!(text, "{:<22} {}", "registries", store.registries.join(", "));
        text += &text_of(&store.stats);
    }
    text
}

fn text_of(stats: &StoreStats) -> String {
    let value = serde_json::to_value(stats).expect("the state is numbers");
    let members = value.as_object().into_iter().flatten();
    members.fold(String::new(), |mut text, (name, value)| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{name:<22} {value}");
        text
    })
}
