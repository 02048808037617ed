//! The command `stats`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::target::{Failure, Target, ended};
use super::{say, say_json};
use crate::config::{Environment, Layer};
use crate::store::StoreStats;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(super) struct StatsArgs {
    /// Print the numbers as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the state of the store.
pub(super) fn run(args: StatsArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let stats = Target::open(flags, environment).and_then(|target| match target {
        Target::Running(cache) => cache.stats().map_err(Failure::of),
        Target::Directory(store) => Ok(store.stats()),
    });
    ended(stats.map(|stats| match args.json {
        true => say_json(&stats),
        false => say(text(&stats).trim_end()),
    }))
}

fn text(stats: &StoreStats) -> String {
    let value = serde_json::to_value(stats).expect("the state is numbers");
    let members = value.as_object().into_iter().flatten();
    members.fold(String::new(), |mut text, (name, value)| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
        text
    })
}
