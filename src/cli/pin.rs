//! The commands `pin` and `unpin`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::load::{load_images, outcome, print_report};
use super::output::{Output, OutputArgs};
use super::progress::{ProgressArgs, ProgressLine};
use super::target::{Failure, Target, ended, reader, resolve};
use super::{EXIT_NOT_FOUND, say, say_json};
use crate::config::{Environment, Layer, Setting};
use crate::manage::{LoadRequest, images_of_pin};
use crate::oci::Platforms;
use crate::store::Pin;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct PinArgs {
    /// The image, a pattern with `*`, or a repository with a range of versions such as `redis:^7.2`.
    /// Without an image, the pins are printed.
    #[arg(value_name = "REF")]
    image: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
    /// Fetch the absent content of the pinned images.
    #[arg(long, requires = "image")]
    fetch: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct UnpinArgs {
    /// The image or the pattern of the pin.
    #[arg(value_name = "REF")]
    image: String,
}

/// Adds a pin, or prints all pins.
pub(super) fn pin(args: &PinArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(match &args.image {
        Some(image) => add(image, args, flags, environment),
        None => Target::open(flags, environment).and_then(|target| print(&target, args.output.format())),
    })
}

/// Removes a pin.
pub(super) fn unpin(args: &UnpinArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(remove(&args.image, flags, environment))
}

fn add(image: &str, args: &PinArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let mut pin = Pin::parse(image).map_err(Failure::misuse)?;
    // Without the flag, a pin holds all platforms. The setting is about loads.
    if let Some(platforms) = flags.text(Setting::LoadPlatforms) {
        let platforms: Platforms = platforms.parse().map_err(Failure::misuse)?;
        pin = pin.for_platforms(platforms);
    }
    let config = resolve(flags.clone(), environment)?;
    let is_new = {
        // The load opens the store again.
        let target = Target::open(flags, environment)?;
        change(&target, &pin, true)?
    };
    let state = if is_new { "pinned" } else { "was pinned already" };
    let format = args.output.format();
    match format {
        // With a fetch, the output is the report of the fetch.
        Output::Json if args.fetch => {}
        Output::Json => say_json(&json!({"pin": pin.to_string(), "changed": is_new})),
        Output::Name => say(&pin.to_string()),
        Output::Table | Output::Wide => say(&format!("{pin} {state}")),
    }
    if !args.fetch {
        return Ok(());
    }
    let images = images_of_pin(&reader(&config)?, &pin);
    let tags_of: Vec<String> = pin
        .repository_of_tags()
        .map(|_| pin.as_str().to_owned())
        .into_iter()
        .collect();
    if images.is_empty() && tags_of.is_empty() {
        return Err(no_image(&pin, "the store has"));
    }
    let request = LoadRequest {
        images,
        tags_of,
        platforms: pin.platforms().words(),
        concurrency: None,
        pull_timeout: Some(format!("{}ms", config.pull_timeout.as_millis())),
        referrers: false,
    };
    let mut line = ProgressLine::of(args.progress);
    let report = load_images(&config, &request, &mut line);
    line.clear();
    let report = report?;
    if report.complete && report.images.is_empty() {
        return Err(no_image(&pin, "the store and the registry have"));
    }
    print_report(&report, format);
    outcome(&report)
}

fn no_image(pin: &Pin, places: &str) -> Failure {
    Failure {
        message: format!("{places} no image of the pin {pin}; load images of it, or pin a single image"),
        code: ExitCode::from(EXIT_NOT_FOUND),
    }
}

fn remove(image: &str, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let pin = Pin::parse(image).map_err(Failure::misuse)?;
    let target = Target::open(flags, environment)?;
    if change(&target, &pin, false)? {
        say(&format!("{pin} unpinned"));
        return Ok(());
    }
    Err(Failure {
        message: format!("no pin {pin}; `oci-pull-through pin` prints the pins"),
        code: ExitCode::from(EXIT_NOT_FOUND),
    })
}

fn print(target: &Target, format: Output) -> Result<(), Failure> {
    let pins = match target {
        Target::Running(cache) => cache.pins().map_err(Failure::of)?,
        Target::Directory(stores) => stores.pinned().iter().map(Pin::to_string).collect(),
    };
    match format {
        Output::Json => say_json(&pins),
        Output::Table | Output::Wide | Output::Name => pins.iter().for_each(|pin| say(pin)),
    }
    Ok(())
}

fn change(target: &Target, pin: &Pin, is_added: bool) -> Result<bool, Failure> {
    match target {
        Target::Running(cache) => cache.change_pin(pin, is_added).map_err(Failure::of),
        Target::Directory(stores) => match is_added {
            true => stores.pin(pin),
            false => stores.unpin(pin),
        }
        .map_err(Failure::of),
    }
}
