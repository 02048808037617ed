//! The command `report`: references that clients requested and the store lacks.

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output::{Output, OutputArgs};
use super::target::{Failure, Target, ended, resolve};
use super::{say, say_json};
use crate::config::{Environment, Layer};
use crate::local_time::local_date_time;
use crate::manage::{AirGapSettings, MissingImage, report_missing};

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct ReportArgs {
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Subject {
    /// Print the references that clients requested in vain, as a list for `load`.
    Missing(MissingArgs),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
struct MissingArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Forget the references after the output.
    #[arg(long)]
    clear: bool,
}

pub(super) fn run(args: &ReportArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let Subject::Missing(args) = args.subject;
    ended(missing(args, flags, environment))
}

fn missing(args: MissingArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let config = resolve(flags.clone(), environment)?;
    let target = Target::open_unchanged(flags, environment)?;
    let missing = match &target {
        Target::Running(cache) => cache.missing().map_err(Failure::of)?,
        Target::Directory(stores) => {
            let reader = stores.reader().map_err(Failure::of)?;
            let air_gap = AirGapSettings {
                registries: &config.registries,
                caches_tags: config.cache_tag_manifests,
            };
            report_missing(&reader, air_gap, reader.missing())
        }
    };
    print(&missing, args.output.format());
    if args.clear {
        match &target {
            Target::Running(cache) => cache.clear_missing().map_err(Failure::of)?,
            Target::Directory(stores) => {
                let written = stores.default_store().write_missing(Vec::new());
                written.map_err(Failure::of)?;
            }
        }
    }
    Ok(())
}

fn print(missing: &[MissingImage], format: Output) {
    let line = |image: &MissingImage| match format {
        Output::Name => image.missing.reference.clone(),
        _ => line(image),
    };
    if format == Output::Json {
        return say_json(&missing);
    }
    let text: String = missing.iter().map(|image| line(image) + "\n").collect();
    if text.is_empty() && format != Output::Name {
        return say("# no reference is missing");
    }
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Returns a line of a list of images, with a comment.
fn line(image: &MissingImage) -> String {
    let missing = &image.missing;
    let platform = image
        .platform
        .as_ref()
        .map_or_else(String::new, |platform| format!("{platform}, "));
    let requests = match missing.requests {
        1 => "1 request".to_owned(),
        count => format!("{count} requests"),
    };
    format!(
        "{}  # {platform}{requests}, last {}",
        missing.reference,
        local_date_time(missing.last_at)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::ImageList;
    use crate::store::MissingReference;

    #[test]
    fn lines_are_a_list_of_images() {
        let image = |reference: &str, platform: Option<&str>| MissingImage {
            missing: MissingReference {
                reference: reference.to_owned(),
                first_at: 1,
                last_at: 2,
                requests: 3,
            },
            platform: platform.map(str::to_owned),
        };
        let digest = format!("quay.io/b@sha256:{}", "0".repeat(64));
        let images = [image("quay.io/a:1", None), image(&digest, Some("linux/arm64"))];
        let text: String = images.iter().map(|image| line(image) + "\n").collect();
        assert!(
            text.contains("quay.io/a:1  # 3 requests, last ") && text.contains("# linux/arm64, 3 requests"),
            "{text}"
        );
        let list = ImageList::parse(text.as_bytes()).unwrap();
        assert_eq!(list.images, ["quay.io/a:1", &digest]);
        assert_eq!(list.mistakes, []);
    }
}
