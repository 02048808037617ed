//! One flag per [`Setting`].

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches};

use crate::config::{Layer, Setting};

/// The flags as written. Their values are judged together with those of the other sources, so that all
/// mistakes are reported at once; clap would stop at the first.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(pub Layer);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        Setting::ALL.into_iter().fold(command, |command, setting| {
            command.arg(
                Arg::new(setting.flag())
                    .long(setting.flag())
                    .value_name(setting.env())
                    .global(true),
            )
        })
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
        Ok(())
    }
}
