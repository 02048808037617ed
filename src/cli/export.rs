//! The command `export`. Reads the directory of the store, beside a running cache or without one.

use std::fs;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::progress::{ProgressLine, counts_text};
use super::target::{Failure, ended, resolve, root};
use super::{EXIT_NOT_FOUND, say};
use crate::config::{BYTES_EXPECTED, Config, Environment, Layer, Setting, StoreDirs, parse_bytes};
use crate::limits::VOLUME_BYTES_MIN;
use crate::manage::format::BundleContents;
use crate::manage::{
    self, Base, Destination, ExportError, ExportProgress, ExportReport, ExportRequest, ExportSelection,
    read_image_list,
};
use crate::oci::{Algorithm, Digest, ImageName};
use crate::store::StoreReader;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct ExportArgs {
    /// The images: `[registry/]repository[:tag][@digest]`. Further images come from `--image-file`.
    #[arg(value_name = "REF")]
    images: Vec<String>,
    /// Stored images whose reference matches one of these regular expressions, separated by commas.
    #[arg(long, value_name = "REGEX", default_value = "", hide_default_value = true)]
    pattern: String,
    /// Stored images with a pin.
    #[arg(long)]
    pinned: bool,
    /// Stored images used since this age or date, in the zone of this machine (TZ).
    #[arg(long, value_name = "7d|YYYY-MM-DD")]
    used_since: Option<String>,
    /// All stored images.
    #[arg(long)]
    all: bool,
    /// Leave out signatures and other referrers.
    #[arg(long)]
    no_referrers: bool,
    /// Leave out incomplete images, with a warning.
    #[arg(long)]
    skip_incomplete: bool,
    /// Write volumes of this size.
    #[arg(long, value_name = "4GiB")]
    split: Option<String>,
    /// Compress the bundle.
    #[arg(long)]
    zstd: bool,
    /// Leave out the blobs of an earlier bundle, named by its file `NAME.index.json`.
    #[arg(long, value_name = "FILE")]
    base: Option<PathBuf>,
    /// The bundle; - is standard output.
    #[arg(short = 'o', long = "out", value_name = "FILE")]
    out: PathBuf,
    /// Print no progress.
    #[arg(long)]
    quiet: bool,
}

/// The name of standard output.
const STDOUT: &str = "-";

pub(super) fn run(args: &ExportArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    ended(export(args, flags, environment))
}

fn export(args: &ExportArgs, flags: Layer, environment: Environment<'_>) -> Result<(), Failure> {
    let has_list = flags.text(Setting::ImageFile).is_some();
    let has_platforms = flags.text(Setting::LoadPlatforms).is_some();
    let config = resolve(flags, environment)?;
    let mut selection = args.selection(&config, has_list)?;
    if has_platforms {
        selection.platforms = Some(config.load_platforms.clone());
    }
    let request = ExportRequest {
        selection,
        base: args.base.as_deref().map(read_base).transpose()?,
        is_compressed: args.zstd,
        destination: args.destination()?,
    };
    let root = root(&config)?;
    let dirs = StoreDirs::of(&config.registries);
    let store = StoreReader::open_all(root, dirs).map_err(|error| {
        Failure::of(format!(
            "cannot read the store in {}: {error}; set FS_ROOT (--fs-root) to the directory of a cache",
            root.display()
        ))
    })?;
    let progress = ExportProgress::default();
    let mut line = ProgressLine::new(args.quiet);
    let exported = line.show_while(
        || counts_text(&progress.counts(), None),
        || manage::export(&store, &request, &progress),
    );
    line.clear();
    let report = exported?.map_err(failure)?;
    print(&report, &request.destination);
    Ok(())
}

impl ExportArgs {
    fn selection(&self, config: &Config, has_list: bool) -> Result<ExportSelection, Failure> {
        let mut names = Vec::new();
        for image in &self.images {
            let name: ImageName = image.parse().map_err(Failure::misuse)?;
            names.push(name);
        }
        if let Some(path) = config.image_file.as_ref().filter(|_| has_list) {
            let list = read_image_list(path).map_err(Failure::misuse)?;
            if let Some(mistake) = list.mistakes.first() {
                return Err(Failure::misuse(format!("line {}: {}", mistake.line, mistake.why)));
            }
            for image in list.images {
                names.push(image.parse().map_err(Failure::misuse)?);
            }
        }
        let since = self.used_since.as_deref();
        let mut selection = ExportSelection::new(names, &self.pattern, self.pinned, since, self.all)
            .map_err(Failure::misuse)?;
        selection.with_referrers = !self.no_referrers;
        selection.skip_incomplete = self.skip_incomplete;
        Ok(selection)
    }

    fn destination(&self) -> Result<Destination, Failure> {
        let split = self.split.as_deref().map(volume_size).transpose()?;
        if self.out != Path::new(STDOUT) {
            return Ok(Destination::File {
                path: self.out.clone(),
                split,
            });
        }
        if split.is_some() {
            return Err(Failure::misuse("--split needs files; give -o FILE"));
        }
        if std::io::stdout().is_terminal() {
            return Err(Failure::misuse(
                "a bundle is no text for a terminal; give -o FILE, or a pipe",
            ));
        }
        Ok(Destination::Stdout)
    }
}

fn volume_size(text: &str) -> Result<u64, Failure> {
    let size = parse_bytes(text);
    size.filter(|&size| size >= VOLUME_BYTES_MIN).ok_or_else(|| {
        Failure::misuse(format!(
            "--split {text:?} is no size of a volume; expected {BYTES_EXPECTED}, at least 1MiB"
        ))
    })
}

fn read_base(path: &Path) -> Result<Base, Failure> {
    let json = fs::read(path)
        .map_err(|error| Failure::misuse(format!("cannot read the base {}: {error}", path.display())))?;
    let contents = BundleContents::parse(&json).map_err(|error| {
        Failure::misuse(format!(
            "the base {} is unusable: {error}; expected the file NAME.index.json beside an earlier bundle",
            path.display()
        ))
    })?;
    Ok(Base {
        digest: Digest::of(Algorithm::Sha256, &json),
        contents,
    })
}

fn failure(error: ExportError) -> Failure {
    match error {
        ExportError::Nothing => Failure {
            message: error.to_string(),
            code: ExitCode::from(EXIT_NOT_FOUND),
        },
        _ => Failure::of(error),
    }
}

fn print(report: &ExportReport, destination: &Destination) {
    for image in &report.skipped {
        let _ = writeln!(std::io::stderr(), "warning: left out {image}");
    }
    let in_base = match report.blobs_in_base {
        0 => String::new(),
        count => format!(", {count} blobs in the base"),
    };
    let line = format!(
        "{} images, {} objects, {:.1} MB exported{in_base}",
        report.images,
        report.objects,
        report.bytes as f64 / 1e6
    );
    match destination {
        // Standard output is the bundle.
        Destination::Stdout => {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
        Destination::File { .. } => say(&line),
    }
}
