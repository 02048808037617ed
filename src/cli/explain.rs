//! The command `explain`.

use std::fmt::Write as _;
use std::process::ExitCode;

use clap::Args;

use super::output::{Output, OutputArgs};
use super::target::{Failure, Target, ended};
use super::{EXIT_MISUSE, fail, say, say_json};
use crate::cache::TagPolicy;
use crate::config::{self, Environment, Layer};
use crate::manage::{Explanation, PullSettings, explain_stored};
use crate::oci::ImageName;
use crate::store::RankedBound;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct ExplainArgs {
    /// The image: `[registry/]repository[:tag][@digest]`.
    #[arg(value_name = "REF")]
    image: String,
    /// The user of the pull, such as `alice` or `anonymous`. Default: any client.
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

/// Explains how the next pull of an image is answered.
pub(super) fn run(args: &ExplainArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let name: ImageName = match args.image.parse() {
        Ok(name) => name,
        Err(error) => return fail(&error, ExitCode::from(EXIT_MISUSE)),
    };
    let format = match args.output.format_without_names() {
        Ok(format) => format,
        Err(failure) => return ended(Err(failure)),
    };
    let explained = Target::open(flags.clone(), environment).and_then(|target| match target {
        Target::Running(cache) => cache.explain(&name, args.user.as_deref()).map_err(Failure::of),
        Target::Directory(stores) => {
            let config = config::resolve(flags, environment).map_err(Failure::of)?;
            let settings = PullSettings {
                registries: &config.registries,
                tag_policy: &TagPolicy::of(&config),
                has_client_auth: config.client_auth.is_some(),
            };
            explain_stored(&stores, settings, None, name.clone(), args.user.as_deref()).map_err(Failure::of)
        }
    });
    ended(explained.map(|explanation| match format {
        Output::Json => say_json(&explanation),
        _ => say(text(&explanation).trim_end()),
    }))
}

fn text(explanation: &Explanation) -> String {
    let mut text = format!("{}\n", explanation.name);
    let mut line = |name: &str, value: &str| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "  {name:<10} {value}");
    };
    let pull = serde_json::to_value(explanation.pull).expect("an outcome is a word");
    line("next pull", pull.as_str().unwrap_or_default());
    let registry = &explanation.registry;
    let entry = registry.entry.as_deref().unwrap_or("defaults");
    line(
        "registry",
        &format!(
            "{}, settings of {entry}, access {}",
            registry.name, registry.access
        ),
    );
    for mirror in &registry.mirrors {
        line("mirror", mirror);
    }
    if let Some(client) = &explanation.client {
        let verdict = if client.allowed { "allowed" } else { "denied" };
        line("client", &format!("{}, {verdict}", client.user));
    }
    if let Some(tag) = &explanation.tag {
        let lifetime = match tag.lifetime_seconds {
            Some(seconds) => format!("fresh for {seconds} s"),
            None => "fresh without an end".to_owned(),
        };
        line(
            "tag",
            &format!("{}, confirmed {} s ago, {lifetime}", tag.digest, tag.age_seconds),
        );
    }
    for request in &explanation.requests {
        line("request", request);
    }
    if let Some(budget) = &explanation.budget {
        let number = |value: Option<u64>| value.map_or("?".to_owned(), |value| value.to_string());
        let (remaining, limit) = (number(budget.remaining), number(budget.limit));
        let cost = budget.cost_max;
        line(
            "budget",
            &format!("{remaining} of {limit} requests left; the pull costs at most {cost}"),
        );
    }
    if let Some(rank) = &explanation.eviction {
        let (objects, bytes) = (rank.objects_before, rank.bytes_before);
        let scope = match rank.bound {
            RankedBound::Store => "",
            RankedBound::Registry => " of the registry",
        };
        line(
            "eviction",
            &format!("after {objects} objects{scope} with {bytes} bytes"),
        );
    }
    for finding in &explanation.findings {
        let cause = serde_json::to_value(finding.cause).expect("a cause is a word");
        line(
            "finding",
            &format!("{}: {}", cause.as_str().unwrap_or_default(), finding.text),
        );
    }
    text
}
