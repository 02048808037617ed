//! The format of the output: the flags `--output` and `--json` of all commands that print content.

use clap::{Args, ValueEnum};

use super::target::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Args)]
pub(super) struct OutputArgs {
    /// Format of the output.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
    /// Short for `--output json`.
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// Text for people.
    Table,
    /// Text with further columns, if the command has any.
    Wide,
    Json,
    /// Names only, one per line.
    Name,
}

impl OutputArgs {
    pub fn format(self) -> Output {
        match self.json {
            true => Output::Json,
            false => self.output,
        }
    }

    /// Returns the format of a command whose output has no names.
    ///
    /// # Errors
    ///
    /// The format is [`Output::Name`].
    pub fn format_without_names(self) -> Result<Output, Failure> {
        match self.format() {
            Output::Name => Err(Failure::misuse(
                "the output of this command has no names; give --output table, wide or json",
            )),
            format => Ok(format),
        }
    }
}
