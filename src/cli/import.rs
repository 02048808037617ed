//! The command `import`. A running cache imports the archive that this process reads. Without a cache, this
//! process imports the archive into the store.

use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Args;

use super::output::{Output, OutputArgs};
use super::progress::ProgressLine;
use super::say_json;
use super::target::{Failure, ended, resolve, root};
use crate::admin::AdminClient;
use crate::app;
use crate::config::{Config, Environment, Layer};
use crate::manage::{ImportReport, ImportRule, ImportSource, ImportState, ImportedImage, aligned};
use crate::oci::Namespace;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct ImportArgs {
    /// A bundle, an archive of an image layout or of `docker save`, a list of volumes, or a directory. `-` is
    /// standard input.
    #[arg(value_name = "FILE|DIR|-")]
    path: PathBuf,
    /// Let each client read the content, without a check by its registry.
    #[arg(long)]
    public: bool,
    /// Read and hash the archive only.
    #[arg(long)]
    dry_run: bool,
    /// The name of the image, for an archive with one image.
    #[arg(long, value_name = "REF")]
    resolve_ref: Option<String>,
    /// The registry of a directory that does not name its registry.
    #[arg(long, value_name = "NAME")]
    registry: Option<Namespace>,
    #[command(flatten)]
    output: OutputArgs,
    /// Print no progress.
    #[arg(long)]
    quiet: bool,
}

pub(super) fn run(args: &ImportArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(import(args, flags, environment))
}

fn import(args: &ImportArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let config = resolve(flags, environment)?;
    let rule = ImportRule::new(args.public, args.dry_run, args.resolve_ref.as_deref());
    let rule = rule.map_err(Failure::misuse)?;
    let mut line = ProgressLine::new(args.quiet);
    let report = import_path(&config, &args.path, args.registry.as_ref(), &rule, &mut line);
    line.clear();
    let report = report?;
    print_report(&report, args.output.format());
    outcome(&report)
}

/// Imports the input `path` by the running cache, or by this process.
pub(super) fn import_path(
    config: &Config,
    path: &Path,
    registry: Option<&Namespace>,
    rule: &ImportRule,
    line: &mut ProgressLine,
) -> Result<ImportReport, Failure> {
    let cache = AdminClient::of_running(root(config)?).map_err(Failure::of)?;
    let source = ImportSource::open(path, registry).map_err(Failure::misuse)?;
    let read = Arc::new(AtomicU64::new(0));
    let archive = Counted {
        source: source.reader,
        count: read.clone(),
    };
    let text = || read_text(read.load(Ordering::Relaxed), source.bytes);
    match cache {
        Some(cache) => line
            .show_while(text, || cache.import(archive, rule))?
            .map_err(Failure::of),
        None => {
            app::set_umask();
            let imported = line.show_while(text, || app::import(config, archive, rule))?;
            let imported = imported.map_err(|error| {
                error
                    .store_in_use()
                    .map_or_else(|| Failure::of(&error), Failure::in_use)
            })?;
            imported.ok_or_else(|| {
                Failure::misuse("the store is a bucket, and an import needs a directory; set FS_ROOT")
            })
        }
    }
}

/// Counts the bytes of an archive.
struct Counted {
    source: Box<dyn Read + Send>,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.count.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

fn read_text(read: u64, all: Option<u64>) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    match all {
        Some(all) => format!("{:.1} of {:.1} MB read", megabytes(read), megabytes(all)),
        None => format!("{:.1} MB read", megabytes(read)),
    }
}

fn print_report(report: &ImportReport, format: Output) {
    let text = match format {
        Output::Json => return say_json(report),
        Output::Name => names(report),
        Output::Table | Output::Wide => table(report),
    };
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// Returns the names of the images in the store.
fn names(report: &ImportReport) -> String {
    let held = report.images.iter();
    let held = held.filter(|image| image.state == ImportState::Held);
    held.map(|image| image.image.clone() + "\n").collect()
}

fn table(report: &ImportReport) -> String {
    let head = ["IMAGE", "PLATFORM", "STATE", "ERROR"].map(str::to_owned);
    let mut rows = vec![head.to_vec()];
    rows.extend(report.images.iter().map(row));
    let mut text = aligned(&rows);
    let missing = report.images.iter().flat_map(|image| {
        let missing = image.missing.iter();
        missing.map(|object| format!("{}: missing {object}\n", image.image))
    });
    text.extend(missing);
    text.extend(report.damaged.iter().map(|object| format!("damaged {object}\n")));
    text += &format!(
        "{} held, {} failed, {} objects of {:.1} MB, {} blobs added\n",
        report.held,
        report.failed,
        report.objects,
        report.bytes as f64 / 1e6,
        report.added
    );
    text
}

fn row(image: &ImportedImage) -> Vec<String> {
    let state = match image.state {
        ImportState::Held => "held",
        ImportState::Failed => "failed",
    };
    vec![
        image.image.clone(),
        image.platforms.join(","),
        state.to_owned(),
        image.error.as_deref().unwrap_or_default().replace('\n', " "),
    ]
}

/// Returns an error unless the whole archive is in the store.
fn outcome(report: &ImportReport) -> Result<(), Failure> {
    if let Some(error) = &report.error {
        return Err(Failure::of(match report.held {
            0 => format!("no image was imported: {error}"),
            held => format!("{held} images were imported before an error: {error}"),
        }));
    }
    if report.is_whole() {
        return Ok(());
    }
    Err(Failure::of(format!(
        "{} of {} images were not imported, and {} objects of the archive are damaged",
        report.failed,
        report.images.len(),
        report.damaged.len()
    )))
}
