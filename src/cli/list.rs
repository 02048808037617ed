//! The command `list`.

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::Args;

use super::bucket::BucketCopy;
use super::output::{Output, OutputArgs};
use super::progress::ProgressArgs;
use super::target::ended;
use super::{EXIT_MISUSE, fail};
use crate::config::{self, Environment, ImageFilter, Layer, StoreDirs};
use crate::manage::{self, Image, TableColumns, TableStyle};
use crate::store::StoreReader;

#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Only images whose reference matches one of these regular expressions, separated by commas.
    #[arg(long, default_value = "", hide_default_value = true)]
    pattern: String,
    /// Add a line with the names of the columns.
    #[arg(long)]
    header: bool,
    /// Cut digests to 10 digits.
    #[arg(long)]
    short_digest: bool,
    /// List the bucket behind the directory.
    #[arg(long)]
    bucket: bool,
    #[command(flatten)]
    progress: ProgressArgs,
}

/// Lists the images in the directories of the stores, beside a running cache or without one, or in the
/// bucket.
pub(super) fn run(args: &ListArgs, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let misuse = ExitCode::from(EXIT_MISUSE);
    let filter = match ImageFilter::parse(&args.pattern) {
        Ok(filter) => filter,
        Err(error) => return fail(&error, misuse),
    };
    let config = match config::resolve(flags, environment) {
        Ok(config) => config,
        Err(diagnostics) => return fail(&diagnostics, misuse),
    };
    let copy = match BucketCopy::of(&config.storage, args.bucket, args.progress) {
        Ok(copy) => copy,
        Err(failure) => return ended(Err(failure)),
    };
    let directory = config.storage.root().map(|(root, _)| root);
    let root = copy.as_ref().map(BucketCopy::root).or(directory);
    let root = root.expect("a store is a directory or a bucket");
    let dirs = match copy {
        // The bucket has the content of all registries.
        Some(_) => StoreDirs::default(),
        None => StoreDirs::of(&config.registries),
    };
    let store = match StoreReader::open_all(root, dirs) {
        Ok(store) => store,
        Err(error) => {
            let error = format!(
                "cannot read the store in {}: {error}; set FS_ROOT (--fs-root) to the directory of a cache",
                root.display()
            );
            return fail(&error, ExitCode::FAILURE);
        }
    };
    let mut listing = manage::list(&store);
    listing.images.retain(|image| filter.matches(&image.reference()));
    let text = text(args, &listing.images);
    // The write fails if the reader of a pipe has left, which is no error of the command.
    let _ = std::io::stdout().write_all(text.as_bytes());
    let mut code = ExitCode::SUCCESS;
    for failure in &listing.failures {
        code = fail(failure, ExitCode::FAILURE);
    }
    code
}

fn text(args: &ListArgs, images: &[Image]) -> String {
    let table = |columns| {
        let style = TableStyle {
            columns,
            header: args.header,
            short_digests: args.short_digest,
            // Scripts for other caches read columns that a single space separates.
            is_aligned: std::io::stdout().is_terminal(),
        };
        manage::table(images, style)
    };
    match args.output.format() {
        Output::Table => table(TableColumns::Short),
        Output::Wide => table(TableColumns::Wide),
        Output::Name => images.iter().map(|image| image.reference() + "\n").collect(),
        Output::Json => {
            let json = serde_json::to_string_pretty(images).expect("images are strings and numbers");
            json + "\n"
        }
    }
}
