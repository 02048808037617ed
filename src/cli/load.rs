//! The command `load`. A running cache loads the images in a job. Without a cache, this process loads
//! them into the store.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use crossbeam_channel::bounded;

use super::load_archives::{Words, archives_of_line, load_archives};
use super::output::{Output, OutputArgs};
use super::progress::{OTHER_JOB, Progress, ProgressArgs, ProgressLine};
use super::say_json;
use super::target::{Failure, ended, resolve, root};
use crate::admin::{AdminClient, JobReport};
use crate::app;
use crate::config::{Config, Environment, Layer, Setting};
use crate::manage::{
    ImageList, ImportRule, ListedTags, LoadProgress, LoadReport, LoadRequest, LoadRule, LoadState,
    LoadedImage, aligned, read_image_list,
};
use crate::oci::{ImageName, Platform};

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct LoadArgs {
    /// The images: `[registry/]repository[:tag][@digest]`, or files with archives. Further images come from
    /// `--image-file`.
    #[arg(value_name = "REF")]
    images: Vec<String>,
    /// Images at once.
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<usize>,
    /// The operating system, short for a part of `--platform`.
    #[arg(long, value_name = "OS")]
    os: Option<String>,
    /// The architecture, short for a part of `--platform`.
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Also fetch the referrers of each manifest, and its signatures under the tags of cosign.
    #[arg(long)]
    referrers: bool,
    /// The name of the image, for an archive with one image.
    #[arg(long, value_name = "REF")]
    resolve_ref: Option<String>,
    /// Let each client read the content of archives, without a check by its registry.
    #[arg(long)]
    public: bool,
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    progress: ProgressArgs,
}

pub(super) fn run(args: &LoadArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(load(args, flags, environment))
}

fn load(args: &LoadArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let given = Given {
        list: flags.text(Setting::ImageFile).is_some(),
        platforms: flags.text(Setting::LoadPlatforms).is_some(),
    };
    let config = resolve(flags, environment)?;
    let words = Words::of(&args.images);
    let (request, mistakes) = args.request(&config, given, &words)?;
    let rule = ImportRule::new(args.public, false, args.resolve_ref.as_deref()).map_err(Failure::misuse)?;
    let (archives, mistakes) = with_archives(words.archives, mistakes);
    let mut line = ProgressLine::of(args.progress);
    let report = match request.images[..] {
        [] => Ok(LoadReport::of(Vec::new(), true)),
        _ => load_images(&config, &request, &mut line),
    };
    let imported = load_archives(&config, &archives, &rule, &mut line);
    line.clear();
    let mut report = report?;
    report.images.extend(imported?);
    report.images.extend(mistakes);
    let report = LoadReport::of(report.images, report.complete);
    print_report(&report, args.output.format());
    outcome(&report)
}

/// The settings with a flag on the command line.
#[derive(Clone, Copy)]
struct Given {
    list: bool,
    platforms: bool,
}

impl LoadArgs {
    /// Returns the request, and the entries of the list that are no names of images.
    fn request(
        &self,
        config: &Config,
        given: Given,
        words: &Words,
    ) -> Result<(LoadRequest, Vec<LoadedImage>), Failure> {
        let mut images = Vec::new();
        for image in &words.references {
            let name: ImageName = image.parse().map_err(Failure::misuse)?;
            images.push(name.to_string());
        }
        let mut list = ImageList::default();
        // The list of the configuration is for a command line without images.
        let path = config
            .image_file
            .as_ref()
            .filter(|_| given.list || (images.is_empty() && words.archives.is_empty()));
        if let Some(path) = path {
            list = read_image_list(path).map_err(Failure::misuse)?;
        } else if images.is_empty() && words.archives.is_empty() {
            return Err(Failure::misuse(
                "no image is named; name images, or a list with --image-file FILE (- for standard input)",
            ));
        }
        for image in list.images {
            if !images.contains(&image) {
                images.push(image);
            }
        }
        let request = LoadRequest {
            images,
            tags_of: Vec::new(),
            platforms: self.platforms(config, given.platforms)?,
            concurrency: self.concurrency,
            pull_timeout: Some(format!("{}ms", config.pull_timeout.as_millis())),
            referrers: self.referrers,
        };
        if !request.images.is_empty() {
            request.rule(&config.load_settings()).map_err(Failure::misuse)?;
        }
        let mistakes = list.mistakes.into_iter().map(|mistake| LoadedImage {
            image: mistake.text,
            platforms: String::new(),
            state: LoadState::Failed,
            fetched_bytes: 0,
            error: Some(format!("line {}: {}", mistake.line, mistake.why)),
            upstream_status: None,
            stale: None,
        });
        Ok((request, mistakes.collect()))
    }

    fn platforms(&self, config: &Config, has_platforms: bool) -> Result<Vec<String>, Failure> {
        if self.os.is_none() && self.arch.is_none() {
            return Ok(config.load_platforms.words());
        }
        if has_platforms {
            return Err(Failure::misuse(
                "--platform conflicts with --os and --arch; use --platform alone",
            ));
        }
        let host = Platform::host().to_string();
        let (host_os, host_arch) = host.split_once('/').unwrap_or_default();
        let os = self.os.as_deref().unwrap_or(host_os);
        let arch = self.arch.as_deref().unwrap_or(host_arch);
        Ok(vec![format!("{os}/{arch}")])
    }
}

/// Adds the archives that lines of the list name to `archives`. Returns the other mistakes of the list.
fn with_archives(mut archives: Vec<PathBuf>, mistakes: Vec<LoadedImage>) -> (Vec<PathBuf>, Vec<LoadedImage>) {
    let mut others = Vec::new();
    for mistake in mistakes {
        match archives_of_line(&mistake.image) {
            found if found.is_empty() => others.push(mistake),
            found => archives.extend(found),
        }
    }
    (archives, others)
}

/// Loads the images by the running cache, or by this process.
pub(super) fn load_images(
    config: &Config,
    request: &LoadRequest,
    line: &mut ProgressLine,
) -> Result<LoadReport, Failure> {
    match AdminClient::of_running(root(config)?).map_err(Failure::of)? {
        Some(cache) => by_cache(&cache, request, line),
        None => {
            let rule = request.rule(&config.load_settings()).map_err(Failure::misuse)?;
            by_this_process(config, &rule, line)
        }
    }
}

/// Starts a job of the cache, and waits for its end.
fn by_cache(
    cache: &AdminClient,
    request: &LoadRequest,
    line: &mut ProgressLine,
) -> Result<LoadReport, Failure> {
    let id = cache.start_load(request).map_err(Failure::of)?;
    match line.follow_job(cache, id)? {
        JobReport::Load(report) => Ok(report),
        JobReport::Verify(_) | JobReport::Warm(_) => Err(Failure::of(OTHER_JOB)),
    }
}

/// Loads the images on a thread of this process.
fn by_this_process(config: &Config, rule: &LoadRule, line: &mut ProgressLine) -> Result<LoadReport, Failure> {
    app::set_umask();
    let progress = LoadProgress::default();
    let (_not_stopped, stopped) = bounded(0);
    let now = || Progress {
        images: progress.images(),
        ..Progress::of(progress.counts())
    };
    let loaded = line.show_progress_while(now, || app::load(config, rule, &progress, &stopped))?;
    loaded.map_err(|error| {
        error
            .store_in_use()
            .map_or_else(|| Failure::of(&error), Failure::in_use)
    })
}

pub(super) fn print_report(report: &LoadReport, format: Output) {
    let text = match format {
        Output::Json => return say_json(report),
        Output::Name => names(report),
        Output::Table | Output::Wide => table(report),
    };
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Returns the names of the images in the store.
fn names(report: &LoadReport) -> String {
    let held = report.images.iter();
    let held = held.filter(|image| image.state == LoadState::Held);
    held.map(|image| image.image.clone() + "\n").collect()
}

fn table(report: &LoadReport) -> String {
    let head = ["IMAGE", "PLATFORM", "STATE", "FETCHED", "ERROR"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(report.images.iter().map(row));
    let searches = report.tags.iter().map(search).collect::<String>();
    format!(
        "{}{searches}{} held, {} failed, {:.1} MB fetched\n",
        aligned(&rows),
        report.held,
        report.failed,
        report.fetched_bytes as f64 / 1e6
    )
}

fn search(tags: &ListedTags) -> String {
    let ListedTags {
        pattern,
        listed,
        matching,
    } = tags;
    format!("{pattern} has {matching} of {listed} tags of the registry\n")
}

fn row(image: &LoadedImage) -> Vec<String> {
    let state = match (image.state, &image.stale) {
        (LoadState::Held, None) => "held",
        (LoadState::Held, Some(_)) => "stale",
        (LoadState::Failed, _) => "failed",
    };
    let status = image.upstream_status.map(|status| format!("status {status}: "));
    let error = image
        .error
        .as_deref()
        .or(image.stale.as_deref())
        .unwrap_or_default();
    vec![
        image.image.clone(),
        image.platforms.clone(),
        state.to_owned(),
        format!("{:.1} MB", image.fetched_bytes as f64 / 1e6),
        format!("{}{}", status.unwrap_or_default(), error.replace('\n', " ")),
    ]
}

/// Returns an error unless every image is in the store.
pub(super) fn outcome(report: &LoadReport) -> Result<(), Failure> {
    if !report.complete {
        return Err(Failure::of(
            "the load was canceled before its end; repeat the command to continue",
        ));
    }
    match report.failed {
        0 => Ok(()),
        failed => Err(Failure::of(format!(
            "{failed} of {} images were not loaded; repeat the command to continue",
            report.images.len()
        ))),
    }
}
