//! The command line: commands, flags and exit codes.
//!
//! Exit codes:
//! - 0: success.
//! - 1: failure, or ended by a second signal.
//! - 2: the command line, the configuration or a system resource is unusable.
//! - 3: stopped with connections cut off; nothing matches.
//! - 4: refused.

mod bucket;
mod explain;
mod export;
mod flags;
mod healthcheck;
mod healthcheck_tls;
mod help;
mod import;
mod jobs;
mod list;
mod load;
mod load_archives;
mod output;
mod pin;
mod progress;
mod progress_bars;
mod ready;
mod removal;
mod report;
mod stats;
mod target;
mod top;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;

use crate::app::{self, AppError, End, HelloWorld};
use crate::config::{self, Auth, Config, Environment, Layer};
use crate::log;
use explain::ExplainArgs;
use export::ExportArgs;
use flags::Flags;
use import::ImportArgs;
use jobs::JobsArgs;
use list::ListArgs;
use load::LoadArgs;
use pin::{PinArgs, UnpinArgs};
use ready::ReadyArgs;
use removal::{PruneArgs, PurgeArgs};
use report::ReportArgs;
use stats::StatsArgs;
use top::TopArgs;
use verify::VerifyArgs;

/// The exit code for a wrong command line or configuration. clap uses the same code.
const EXIT_MISUSE: u8 = 2;

/// The exit code of a command whose subject does not exist.
const EXIT_NOT_FOUND: u8 = 3;

/// The exit code of a command without a confirmation, or of a store in use.
const EXIT_REFUSED: u8 = 4;

/// The exit code of a shutdown that cut off connections.
const EXIT_CUT: u8 = 3;

#[derive(Debug, Parser)]
#[command(name = "oci-pull-through", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    flags: Flags,
}

#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
enum Command {
    /// Run the cache (the default command).
    Serve,
    /// Check, print or describe the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// List the stored images.
    List(ListArgs),
    /// Fetch images into the store.
    Load(LoadArgs),
    /// Write images into a bundle: an OCI image layout in a tar file.
    Export(ExportArgs),
    /// Add the images of an archive or of a directory to the store.
    Import(ImportArgs),
    /// Remove an image.
    Purge(PurgeArgs),
    /// Remove the images that rules select.
    Prune(PruneArgs),
    /// Protect an image from eviction and removal.
    Pin(PinArgs),
    /// Remove a pin.
    Unpin(UnpinArgs),
    /// Explain how the next pull of an image is answered.
    Explain(ExplainArgs),
    /// Report the references that clients requested and the store lacks.
    Report(ReportArgs),
    /// Check that an air-gapped cache over the store serves images whole.
    OfflineReady(ReadyArgs),
    /// Print the state of the store.
    Stats(StatsArgs),
    /// Show the work of the running cache: requests, hit ratio, fills, upstreams and jobs.
    Top(TopArgs),
    /// Hash the stored content, and remove damaged content.
    Verify(VerifyArgs),
    /// Print or cancel the jobs of the running cache.
    Jobs(JobsArgs),
    /// Check whether the cache on this machine is alive.
    Healthcheck,
    /// Print the version.
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
enum ConfigCommand {
    /// Check the configuration: exit 0 if valid, otherwise 2 with all diagnostics.
    Check,
    /// Print the configuration as a file, with the source of each value.
    Print,
    /// Print the JSON Schema of the configuration file.
    Schema,
}

/// Runs the command of this process.
pub fn main() -> ExitCode {
    run(std::env::args_os(), Environment::of_process())
}

/// Runs the command in `args`. The first argument is the program's name.
pub fn run(args: impl IntoIterator<Item = OsString>, environment: Environment<'_>) -> ExitCode {
    let cli = match parse(args) {
        Ok(cli) => cli,
        Err(error) => {
            // The write fails if the terminal is closed. There is no other place to report the
            // error, and no reason to panic.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_MISUSE));
        }
    };
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(&cli.flags.0, environment),
        Command::Config(command) => about_config(command, cli.flags.0, environment.looking_only()),
        Command::List(args) => list::run(&args, cli.flags.0, environment.looking_only()),
        Command::Load(args) => load::run(&args, cli.flags.0, environment.looking_only()),
        Command::Export(args) => export::run(&args, cli.flags.0, environment.looking_only()),
        Command::Import(args) => import::run(&args, cli.flags.0, environment.looking_only()),
        Command::Purge(args) => removal::purge(&args, cli.flags.0, environment.looking_only()),
        Command::Prune(args) => removal::prune(&args, cli.flags.0, environment.looking_only()),
        Command::Pin(args) => pin::pin(&args, cli.flags.0, environment.looking_only()),
        Command::Unpin(args) => pin::unpin(&args, cli.flags.0, environment.looking_only()),
        Command::Explain(args) => explain::run(&args, cli.flags.0, environment.looking_only()),
        Command::Report(args) => report::run(&args, cli.flags.0, environment.looking_only()),
        Command::OfflineReady(args) => ready::run(&args, cli.flags.0, environment.looking_only()),
        Command::Stats(args) => stats::run(args, cli.flags.0, environment.looking_only()),
        Command::Top(args) => top::run(args, cli.flags.0, environment.looking_only()),
        Command::Verify(args) => verify::run(&args, cli.flags.0, environment.looking_only()),
        Command::Jobs(args) => jobs::run(&args, cli.flags.0, environment.looking_only()),
        Command::Healthcheck => match config::listen_addresses(cli.flags.0, environment) {
            Ok(listen) => match healthcheck::check_any(&listen, healthcheck::DEADLINE) {
                Ok(line) => {
                    say(&line);
                    ExitCode::SUCCESS
                }
                Err(line) => fail(&line, ExitCode::FAILURE),
            },
            Err(diagnostics) => fail(&diagnostics, ExitCode::FAILURE),
        },
        Command::Version => {
            say(concat!("oci-pull-through ", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}

fn serve(flags: &Layer, environment: Environment<'_>) -> ExitCode {
    app::set_umask();
    app::outlive_terminal();
    let read = || config::resolve(flags.clone(), environment);
    let config = match read() {
        Ok(config) => config,
        Err(diagnostics) => return fail_serving(&diagnostics, ExitCode::from(EXIT_MISUSE)),
    };
    let hello_world = match config.hello_world.then(HelloWorld::create).transpose() {
        Ok(hello_world) => hello_world,
        Err(error) => return fail_serving(&error, ExitCode::FAILURE),
    };
    let end = match &hello_world {
        Some(hello_world) => {
            let read = || read().map(|config| hello_world.configure(config));
            app::run(hello_world.configure(config), &read)
        }
        None => app::run(config, &read),
    };
    match end {
        Ok(end) => {
            log::flush();
            match end {
                End::Finished => ExitCode::SUCCESS,
                End::Cut => ExitCode::from(EXIT_CUT),
            }
        }
        Err(error @ (AppError::Driver(_) | AppError::Tls(_) | AppError::PassedTls(_))) => {
            fail_serving(&error, ExitCode::from(EXIT_MISUSE))
        }
        Err(error) => fail_serving(&error, ExitCode::FAILURE),
    }
}

fn about_config(command: ConfigCommand, flags: Layer, environment: Environment<'_>) -> ExitCode {
    let text = match command {
        ConfigCommand::Check => config::resolve(flags, environment).map(|config| {
            for warning in &config.warnings {
                let _ = writeln!(std::io::stderr(), "warning: {warning}");
            }
            summary(&config)
        }),
        ConfigCommand::Print => config::print(flags, environment),
        ConfigCommand::Schema => Ok(format!("{:#}", config::schema())),
    };
    match text {
        Ok(text) => {
            say(text.trim_end());
            ExitCode::SUCCESS
        }
        Err(diagnostics) => fail(&diagnostics, ExitCode::from(EXIT_MISUSE)),
    }
}

/// Returns one line about a valid configuration.
fn summary(config: &Config) -> String {
    let registries = &config.registries;
    let with_auth = registries
        .entries
        .iter()
        .filter(|entry| entry.settings.auth != Auth::Anonymous);
    let shared: Vec<String> = registries.shared_by_default().map(ToString::to_string).collect();
    let mut line = format!(
        "the configuration is valid: {} listed, {} with credentials",
        counted(registries.entries.len(), "registry", "registries"),
        with_auth.count()
    );
    if !shared.is_empty() {
        line += &format!(
            "; all clients can read with the credentials for {}",
            shared.join(", ")
        );
    }
    line += &match config.warnings.len() {
        0 => String::new(),
        count => format!("; {}", counted(count, "warning", "warnings")),
    };
    line
}

fn counted(count: usize, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    // The older system used this spelling, and existing health checks still do.
    let args = args.into_iter().map(|arg| match arg.to_str() {
        Some("-healthcheck" | "--healthcheck") => "healthcheck".into(),
        _ => arg,
    });
    let args = flags::complete_switches(args);
    let command = Cli::command().override_help(help::text());
    Cli::from_arg_matches(&command.try_get_matches_from(args)?)
}

fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints `content` as JSON.
fn say_json(content: &impl Serialize) {
    say(&serde_json::to_string_pretty(content).expect("the content is strings and numbers"));
}

/// Reports an error like [`fail`], for the service. The exit must not block on standard error,
/// because the service manager waits for the exit.
fn fail_serving(error: &dyn std::fmt::Display, code: ExitCode) -> ExitCode {
    log::fatal(error);
    code
}

fn fail(error: &dyn std::fmt::Display, code: ExitCode) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "oci-pull-through: {error}");
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Setting;

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
    fn flag_of_a_switch_without_a_value_means_true() {
        let on = layer(&[(Setting::AirGapped, "true")]);
        assert_eq!(parsed(&["--air-gapped"]), Ok((None, on.clone())));
        assert_eq!(
            parsed(&["--air-gapped", "serve"]),
            Ok((Some(Command::Serve), on.clone()))
        );
        assert_eq!(parsed(&["--air-gapped", "true"]), Ok((None, on)));
        let off = layer(&[(Setting::AirGapped, "off"), (Setting::TagTtl, "5s")]);
        assert_eq!(
            parsed(&["--air-gapped", "off", "--tag-ttl", "5s"]),
            Ok((None, off.clone()))
        );
        assert_eq!(parsed(&["--air-gapped=off", "--tag-ttl=5s"]), Ok((None, off)));
    }

    #[test]
    fn flags_of_other_systems_are_understood() {
        let check = Some(Command::Config(ConfigCommand::Check));
        let file = layer(&[(Setting::ConfigFile, "f.yaml")]);
        for args in [
            ["-c", "f.yaml"],
            ["--config-path", "f.yaml"],
            ["--config-file", "f.yaml"],
        ] {
            let args: Vec<&str> = args.into_iter().chain(["config", "check"]).collect();
            assert_eq!(parsed(&args), Ok((check.clone(), file.clone())), "{args:?}");
        }
        let layer = parsed(&["--image-path", "/x", "serve", "--port", "8081"])
            .unwrap()
            .1;
        assert_eq!(layer.text(Setting::FsRoot), Some("/x"));
        assert_eq!(layer.text(Setting::ListenAddr), Some(":8081"));
        let both = parsed(&["--port", "1", "--listen-addr", ":2"]);
        assert_eq!(both, Err(clap::error::ErrorKind::ArgumentConflict));
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
