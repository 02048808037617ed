//! The command `offline-ready`: whether an air-gapped cache over the store serves images whole. Reads the
//! directory, beside a running cache or without one.

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::Args;

use super::output::{Output, OutputArgs};
use super::say_json;
use super::target::{Failure, ended, resolve, root};
use crate::config::{Config, Environment, Layer, Setting, StoreDirs};
use crate::manage::{
    AirGapSettings, ImageList, ImageReadiness, LoadRequest, ProblemKind, ReadinessProblem, aligned,
    check_readiness, read_image_list,
};
use crate::oci::ImageName;
use crate::store::StoreReader;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct ReadyArgs {
    /// Images, `[registry/]repository[:tag][@digest]`, or files with lists of images. A file has a slash
    /// at its start, or `./`; `-` is standard input.
    #[arg(value_name = "FILE|REF")]
    subjects: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &ReadyArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(check(args, flags, environment))
}

fn check(args: &ReadyArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let is_list_given = flags.text(Setting::ImageFile).is_some();
    let config = resolve(flags, environment)?;
    let list = args.images(&config, is_list_given)?;
    let reader =
        StoreReader::open_all(root(&config)?, StoreDirs::of(&config.registries)).map_err(|error| {
            Failure::of(format!(
                "cannot read the store: {error}; set FS_ROOT to the directory of a cache"
            ))
        })?;
    let mut images = Vec::new();
    if !list.images.is_empty() {
        let request = LoadRequest {
            images: list.images,
            ..LoadRequest::default()
        };
        let settings = config.load_settings();
        let air_gap = AirGapSettings {
            registries: &config.registries,
            caches_tags: config.cache_tag_manifests,
        };
        images = check_readiness(&reader, air_gap, &request, &settings).map_err(Failure::misuse)?;
    }
    // Otherwise a list with mistakes would be ready.
    images.extend(list.mistakes.into_iter().map(|mistake| ImageReadiness {
        image: mistake.text,
        platforms: String::new(),
        ready: false,
        problems: vec![ReadinessProblem {
            kind: ProblemKind::UnknownTag,
            text: format!("line {}: {}", mistake.line, mistake.why),
        }],
    }));
    print(&images, args.output.format());
    match images.iter().filter(|image| !image.ready).count() {
        0 => Ok(()),
        count => Err(Failure::of(format!(
            "{count} of {} images are not ready; load them while the registries can be reached",
            images.len()
        ))),
    }
}

impl ReadyArgs {
    /// Returns the images of the command line and of the lists.
    fn images(&self, config: &Config, is_list_given: bool) -> Result<ImageList, Failure> {
        let mut all = ImageList::default();
        let mut add = |list: ImageList| {
            for image in list.images {
                if !all.images.contains(&image) {
                    all.images.push(image);
                }
            }
            all.mistakes.extend(list.mistakes);
        };
        for subject in &self.subjects {
            // A name of an image starts with no slash and no dot.
            if subject == "-" || subject.starts_with(['/', '.']) {
                add(read_image_list(Path::new(subject)).map_err(Failure::misuse)?);
                continue;
            }
            match subject.parse::<ImageName>() {
                // A list in the working directory, unless its name is that of an image.
                Err(_) if Path::new(subject).is_file() => {
                    add(read_image_list(Path::new(subject)).map_err(Failure::misuse)?);
                }
                Err(error) => return Err(Failure::misuse(error)),
                Ok(_) if Path::new(subject).is_file() => {
                    return Err(Failure::misuse(format!(
                        "{subject} is the name of an image and of a file; write ./{subject} for the file, or docker.io/library/{subject} for the image"
                    )));
                }
                Ok(name) => add(ImageList {
                    images: vec![name.to_string()],
                    ..ImageList::default()
                }),
            }
        }
        let path = config
            .image_file
            .as_ref()
            .filter(|_| is_list_given || self.subjects.is_empty());
        match path {
            Some(path) => add(read_image_list(path).map_err(Failure::misuse)?),
            None if self.subjects.is_empty() => {
                return Err(Failure::misuse(
                    "no image is named; name images, or a list such as ./images.txt (- for standard input)",
                ));
            }
            None => {}
        }
        Ok(all)
    }
}

fn print(images: &[ImageReadiness], format: Output) {
    let text = match format {
        Output::Json => return say_json(&images),
        Output::Name => images
            .iter()
            .filter(|image| image.ready)
            .map(|image| image.image.clone() + "\n")
            .collect(),
        Output::Table | Output::Wide => table(images),
    };
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn table(images: &[ImageReadiness]) -> String {
    let head = ["IMAGE", "PLATFORM", "STATE", "PROBLEM"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    for image in images {
        let row = |state: &str, problem: &str| {
            vec![
                image.image.clone(),
                image.platforms.clone(),
                state.to_owned(),
                problem.replace('\n', " "),
            ]
        };
        if image.ready {
            rows.push(row("complete", ""));
        }
        rows.extend(
            image
                .problems
                .iter()
                .map(|problem| row("not ready", &problem.text)),
        );
    }
    let ready = images.iter().filter(|image| image.ready).count();
    format!("{}{ready} of {} images are ready\n", aligned(&rows), images.len())
}
