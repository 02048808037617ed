//! The shape of the table of settings: the columns of a row, and the macro that reads the rows.

use super::super::value::Kind;

/// A heading of `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    Serving,
    Storage,
    Content,
    Operation,
}

/// The effect of a changed value on SIGHUP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Reload {
    /// The reload applies the value.
    Live,
    /// The cache reads the value at start only. The reload logs that the setting needs a restart.
    Restart,
    /// The setting is part of a larger value. `reload.rs` compares the larger value.
    Part,
}

/// The place of a setting in the configuration file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum InFile {
    /// A top-level key.
    Key,
    /// A top-level key. `config print` writes the value in the map `auth`.
    Auth,
    /// No key: the file cannot name a configuration file.
    Nowhere,
}

/// A row of the table.
#[derive(Debug)]
pub(super) struct Row {
    /// The name in CamelCase.
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub group: Group,
    pub reload: Reload,
    pub help: &'static str,
    pub aliases: &'static [&'static str],
    pub file: InFile,
}

/// Turns the rows into the enum `Setting`, the table `ROWS`, and the struct `Values` with its parser.
macro_rules! settings {
    ($(
        #[$doc:meta]
        $name:ident $(=> $vis:vis $field:ident: $type:ty)? {
            value: $value:expr,
            default: $default:expr,
            group: $group:ident,
            reload: $reload:ident,
            help: $help:literal,
            $(aliases: $aliases:expr,)?
            $(file: $file:ident,)?
        }
    )*) => {
        /// The name of a row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Setting {
            $( #[$doc] $name, )*
        }

        impl Setting {
            /// Every setting, in the order of `--help`.
            pub const ALL: [Setting; [$(stringify!($name)),*].len()] = [$(Setting::$name),*];
        }

        /// The rows, in the order of [`Setting`].
        static ROWS: [Row; Setting::ALL.len()] = [
            $( Row {
                name: stringify!($name),
                kind: $value.kind,
                default: $default,
                group: Group::$group,
                reload: Reload::$reload,
                help: $help,
                aliases: first_or(&[$($aliases)?], &[]),
                file: first_or(&[$(InFile::$file)?], InFile::Key),
            }, )*
        ];

        /// The values of all settings that have a field.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Values {
            $($( #[$doc] $vis $field: $type, )?)*
        }

        impl Default for Values {
            fn default() -> Self {
                Values {
                    $($( $field: $value.read($default).expect("each default of the table is valid"), )?)*
                }
            }
        }

        impl Values {
            /// Parses `text` into the field of `setting`. Ignores a setting without a field.
            ///
            /// # Errors
            ///
            /// Returns the expected form.
            pub(super) fn set(&mut self, setting: Setting, text: &str) -> Result<(), String> {
                match setting {
                    $( Setting::$name => { $( self.$field = $value.read(text)?; )? } )*
                }
                Ok(())
            }

            /// Returns the settings whose fields differ.
            pub(super) fn changed(&self, new: &Values) -> Vec<Setting> {
                let mut changed = Vec::new();
                $($( if self.$field != new.$field { changed.push(Setting::$name); } )?)*
                changed
            }
        }
    };
}
pub(super) use settings;

/// Returns the value of an optional column.
pub(super) const fn first_or<T: Copy>(given: &[T], default: T) -> T {
    match given {
        [given, ..] => *given,
        [] => default,
    }
}

/// The names of a setting, derived from the name of the row.
pub(super) struct Names {
    pub env: String,
    pub flag: String,
    pub key: String,
}

impl Names {
    /// Derives the names: `DrainDelay` becomes `DRAIN_DELAY`, `drain-delay` and `drain_delay`.
    pub(super) fn of(row: &Row) -> Self {
        let mut key = String::new();
        for letter in row.name.chars() {
            if letter.is_ascii_uppercase() && !key.is_empty() {
                key.push('_');
            }
            key.push(letter.to_ascii_lowercase());
        }
        Names {
            env: key.to_ascii_uppercase(),
            flag: key.replace('_', "-"),
            key,
        }
    }
}
