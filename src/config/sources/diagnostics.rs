//! Messages about settings. A message names the place, the value, and the repair.

use std::fmt;
use std::path::PathBuf;

/// The place of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Flag(&'static str),
    Environment(&'static str),
    /// The key as written, with its path inside the file (`registries[2].url`). Lines count from 1.
    File {
        path: PathBuf,
        line: u64,
        key: String,
    },
}

impl Place {
    /// Returns the assignment as written.
    pub(crate) fn with_value(&self, value: &str) -> String {
        match self {
            Place::Flag(name) => format!("--{name} {value:?}"),
            Place::Environment(name) => format!("{name}={value:?}"),
            Place::File { path, line, key } if key.is_empty() => {
                format!("{}:{line}: {value:?}", path.display())
            }
            Place::File { path, line, key } => format!("{}:{line}: {key}: {value:?}", path.display()),
        }
    }

    /// Returns the setting without the value, for secrets and for values that explain nothing.
    pub(crate) fn alone(&self) -> String {
        match self {
            Place::Flag(name) => format!("--{name}"),
            Place::Environment(name) => (*name).to_owned(),
            Place::File { path, line, key } if key.is_empty() => format!("{}:{line}", path.display()),
            Place::File { path, line, key } => format!("{}:{line}: {key}", path.display()),
        }
    }
}

/// A message about a setting that has no effect, or that is probably a mistake. The cache starts nevertheless.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The setting, in the form of a diagnostic.
    pub what: String,
    pub why: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// An error in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The setting and its value as written.
    pub what: String,
    /// The error and the expected form.
    pub why: String,
}

/// All errors of a configuration. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "error" } else { "errors" };
        write!(f, "{} {plural} in the configuration:", self.0.len())?;
        for Diagnostic { what, why } in &self.0 {
            write!(f, "\n  {what}: {why}")?;
        }
        Ok(())
    }
}
