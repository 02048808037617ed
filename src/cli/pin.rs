//! The commands `pin` and `unpin`.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::output::{Output, OutputArgs};
use super::target::{Failure, Target, ended};
use super::{EXIT_MISUSE, EXIT_NOT_FOUND, fail, say, say_json};
use crate::config::{Environment, Layer};
use crate::store::Pin;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct PinArgs {
    /// The image, or a pattern with `*`. Without an image, the pins are printed.
    #[arg(value_name = "REF")]
    image: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct UnpinArgs {
    /// The image or the pattern of the pin.
    #[arg(value_name = "REF")]
    image: String,
}

/// Adds a pin, or prints all pins.
pub(super) fn pin(args: &PinArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let format = args.output.format();
    let Some(image) = &args.image else {
        return ended(Target::open(flags, environment).and_then(|target| print(&target, format)));
    };
    match Pin::parse(image) {
        Ok(pin) => ended(Target::open(flags, environment).and_then(|target| {
            let is_new = change(&target, &pin, true)?;
            let state = if is_new { "pinned" } else { "was pinned already" };
            match format {
                Output::Json => say_json(&json!({"pin": pin.as_str(), "changed": is_new})),
                Output::Name => say(pin.as_str()),
                Output::Table | Output::Wide => say(&format!("{} {state}", pin.as_str())),
            }
            Ok(())
        })),
        Err(error) => fail(&error, ExitCode::from(EXIT_MISUSE)),
    }
}

/// Removes a pin.
pub(super) fn unpin(args: &UnpinArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    match Pin::parse(&args.image) {
        Ok(pin) => ended(Target::open(flags, environment).and_then(|target| {
            if change(&target, &pin, false)? {
                say(&format!("{} unpinned", pin.as_str()));
                return Ok(());
            }
            Err(Failure {
                message: format!("no pin {}; `oci-pull-through pin` prints the pins", pin.as_str()),
                code: ExitCode::from(EXIT_NOT_FOUND),
            })
        })),
        Err(error) => fail(&error, ExitCode::from(EXIT_MISUSE)),
    }
}

fn print(target: &Target, format: Output) -> Result<(), Failure> {
    let pins = match target {
        Target::Running(cache) => cache.pins().map_err(Failure::of)?,
        Target::Directory(store) => store.pins(),
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
        Target::Directory(store) if is_added => store.pin(pin.clone()).map_err(Failure::of),
        Target::Directory(store) => store.unpin(pin).map_err(Failure::of),
    }
}
