//! Command line flags, one per [`Setting`].

use std::ffi::OsString;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Layer, Setting, is_switch_value};

/// A short form of the listen address.
const PORT: &str = "port";

/// The unparsed flags. The configuration checks flags together with values of other sources, so
/// that one run reports all diagnostics. clap would stop at the first error.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(pub Layer);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        let command = Setting::ALL.into_iter().fold(command, |command, setting| {
            // The help of a subcommand names the settings that choose the store only. `--help` of
            // the program has all settings.
            let is_for_commands = matches!(setting, Setting::FsRoot | Setting::ConfigFile);
            let arg = Arg::new(setting.flag())
                .long(setting.flag())
                .value_name(setting.env())
                .help(if setting == Setting::ConfigFile {
                    "configuration file, YAML"
                } else {
                    setting.summary()
                })
                .hide(!is_for_commands)
                .global(true);
            // Flag names of other caches, for users who migrate.
            command.arg(match setting {
                Setting::ConfigFile => arg.short('c').alias("config-path"),
                Setting::FsRoot => arg.alias("image-path"),
                Setting::DefaultRegistry => arg.alias("default-ns"),
                Setting::HealthAddr => arg.alias("health"),
                Setting::MetricsAddr => arg.alias("metrics"),
                Setting::LoadPlatforms => arg.alias("platform"),
                _ => arg,
            })
        });
        command.arg(
            Arg::new(PORT)
                .long(PORT)
                .value_name("PORT")
                .conflicts_with(Setting::ListenAddr.flag())
                .hide(true)
                .global(true),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Flags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for setting in Setting::ALL {
            if let Some(text) = matches.get_one::<String>(setting.flag()) {
                self.0.insert_flag(setting, text.clone());
            }
        }
        if let Some(port) = matches.get_one::<String>(PORT) {
            self.0.insert_flag(Setting::ListenAddr, format!(":{port}"));
        }
        Ok(())
    }
}

/// Changes `--air-gapped` to `--air-gapped=true` if no value follows. A switch without a value is
/// on.
pub(super) fn complete_switches(args: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut args = args.peekable();
    std::iter::from_fn(move || {
        let mut arg = args.next()?;
        let flag = arg.to_str().and_then(|arg| arg.strip_prefix("--"));
        let is_switch = Setting::ALL
            .into_iter()
            .any(|setting| setting.is_switch() && Some(setting.flag()) == flag);
        let value = args.peek().and_then(|next| next.to_str());
        if is_switch && !value.is_some_and(is_switch_value) {
            arg.push("=true");
        }
        Some(arg)
    })
}
