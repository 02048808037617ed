//! What is wrong with a setting, said so that it can be repaired without a manual.

use std::fmt;
use std::path::PathBuf;

/// Where a value was written.
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
    /// The assignment as the operator wrote it.
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
}

impl Place {
    /// The setting, for a value that is a secret or says nothing.
    pub(crate) fn alone(&self) -> String {
        match self {
            Place::Flag(name) => format!("--{name}"),
            Place::Environment(name) => (*name).to_owned(),
            Place::File { path, line, key } if key.is_empty() => format!("{}:{line}", path.display()),
            Place::File { path, line, key } => format!("{}:{line}: {key}", path.display()),
        }
    }
}

/// Something that is understood and not done, or allowed and probably not meant. The cache starts all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The setting, as a diagnostic names it.
    pub what: String,
    pub why: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)
    }
}

/// One thing to repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The setting and its value as written.
    pub what: String,
    /// Why it cannot be used and what can.
    pub why: String,
}

/// Everything to repair; never empty.
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
