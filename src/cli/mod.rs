//! The command line: which command, with which flags, and what the process's exit code says.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line or the configuration cannot be used.

mod flags;
mod healthcheck;
mod help;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::app;
use crate::config::{self, Surroundings};
use flags::Flags;

/// The code for mistakes of the operator; clap uses the same one.
const EXIT_MISUSE: u8 = 2;

#[derive(Debug, Parser)]
#[command(name = "oci-pull-through", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Run the cache; this is what happens without a command.
    Serve,
    /// Ask the cache on this machine whether it is alive.
    Healthcheck,
    /// Print the version.
    Version,
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os(), Surroundings::of_process())
}

/// Runs the command in `args`, whose first is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>, surroundings: Surroundings<'_>) -> ExitCode {
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed terminal is no reason to panic, and there is nobody left to tell.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_MISUSE));
        }
    };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => match config::resolve(cli.flags.0, surroundings) {
            Ok(config) => match app::run(config) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, ExitCode::FAILURE),
            },
            Err(mistakes) => fail(&mistakes, ExitCode::from(EXIT_MISUSE)),
        },
        Command::Healthcheck => match config::listen_addresses(cli.flags.0, surroundings) {
            Ok(listen) => match healthcheck::check_any(&listen, healthcheck::DEADLINE) {
                Ok(line) => {
                    say(&line);
                    ExitCode::SUCCESS
                }
                Err(line) => fail(&line, ExitCode::FAILURE),
            },
            Err(mistakes) => fail(&mistakes, ExitCode::FAILURE),
        },
        Command::Version => {
            say(concat!("oci-pull-through ", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    // The spelling of the system we descend from; health checks in the field are written that way.
    let args = args.into_iter().map(|arg| match arg.to_str() {
        Some("-healthcheck" | "--healthcheck") => "healthcheck".into(),
        _ => arg,
    });
    let command = Cli::command().override_help(help::text());
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

fn fail(error: &dyn std::fmt::Display, code: ExitCode) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "oci-pull-through: {error}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layer, Setting};

    fn parsed(args: &[&str]) -> Result<(Option<Command>, Layer), clap::error::ErrorKind> {
        let args = std::iter::once("oci-pull-through")
            .chain(args.iter().copied())
            .map(OsString::from);
        parse(args)
            .map(|cli| (cli.command, cli.flags.0))
            .map_err(|error| error.kind())
    }

    fn layer(values: &[(Setting, &str)]) -> Layer {
        let mut layer = Layer::default();
        for (setting, text) in values {
            layer.insert_flag(*setting, (*text).to_owned());
        }
        layer
    }

    #[test]
    fn commands_and_flags_come_in_any_order() {
        let flag = layer(&[(Setting::TagTtl, "5s")]);
        assert_eq!(parsed(&[]), Ok((None, Layer::default())));
        assert_eq!(parsed(&["--tag-ttl", "5s"]), Ok((None, flag.clone())));
        assert_eq!(
            parsed(&["serve", "--tag-ttl=5s"]),
            Ok((Some(Command::Serve), flag.clone()))
        );
        assert_eq!(
            parsed(&["--tag-ttl=5s", "serve"]),
            Ok((Some(Command::Serve), flag))
        );
        assert_eq!(
            parsed(&["version"]),
            Ok((Some(Command::Version), Layer::default()))
        );
    }

    #[test]
    fn the_health_check_has_an_old_spelling() {
        for spelling in ["healthcheck", "-healthcheck", "--healthcheck"] {
            assert_eq!(
                parsed(&[spelling]),
                Ok((Some(Command::Healthcheck), Layer::default())),
                "{spelling}"
            );
        }
        let flag = layer(&[(Setting::ListenAddr, ":9")]);
        assert_eq!(
            parsed(&["--listen-addr", ":9", "-healthcheck"]),
            Ok((Some(Command::Healthcheck), flag))
        );
    }

    #[test]
    fn every_setting_has_a_flag() {
        for setting in Setting::ALL {
            assert_eq!(
                parsed(&[&format!("--{}=x", setting.flag())]),
                Ok((None, layer(&[(setting, "x")])))
            );
        }
        assert_eq!(
            parsed(&["--tag-tll=x"]),
            Err(clap::error::ErrorKind::UnknownArgument)
        );
        assert_eq!(parsed(&["sevre"]), Err(clap::error::ErrorKind::InvalidSubcommand));
        assert_eq!(parsed(&["--help"]), Err(clap::error::ErrorKind::DisplayHelp));
        assert_eq!(
            parsed(&["--version"]),
            Err(clap::error::ErrorKind::DisplayVersion)
        );
    }
}
