//! The process environment: variables and files.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::diagnostics::Warning;

/// The process environment as functions, so that tests need neither environment variables nor a disk.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Returns a variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Reads a file with its mode.
    pub read_file: &'a dyn Fn(&Path) -> io::Result<FileText>,
    /// Creates a directory if absent, and returns whether the directory is writable.
    pub is_writable_dir: &'a dyn Fn(&Path) -> bool,
    /// Returns the directory of temporary files.
    pub temp_dir: &'a dyn Fn() -> PathBuf,
}

/// Returns the variables `env` as the function of an [`Environment`].
#[cfg(test)]
pub(in crate::config) fn variables<'e>(env: &'e [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'e {
    move |name| {
        let found = env.iter().find(|(key, _)| *key == name);
        found.map(|(_, value)| (*value).to_owned())
    }
}

/// The content of a file, with its mode.
#[derive(Clone, Debug)]
pub struct FileText {
    pub text: String,
    /// The permission bits at the time of opening.
    pub mode: u32,
}

impl FileText {
    fn read(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(FileText { text, mode })
    }

    /// Returns a warning if every user of the machine can read the file. For files with a secret.
    pub(in crate::config) fn exposed(&self, path: &Path) -> Option<Warning> {
        (self.mode & 0o004 != 0).then(|| exposed(path, self.mode))
    }
}

/// Returns the warning about a file with a secret that every user of the machine can read.
fn exposed(path: &Path, mode: u32) -> Warning {
    let path = path.display();
    Warning {
        what: format!("{path} (mode {:04o})", mode & 0o7777),
        why: format!("holds a secret that every user of this machine may read; run chmod o-rwx {path}"),
    }
}

impl Environment<'_> {
    /// Reads a file without secrets.
    pub(in crate::config) fn read(&self, path: &Path) -> io::Result<String> {
        (self.read_file)(path).map(|file| file.text)
    }

    /// Reads a file with a secret, and warns if every user of the machine can read the file.
    pub(in crate::config) fn read_secret(
        &self,
        path: &Path,
        warnings: &mut Vec<Warning>,
    ) -> io::Result<String> {
        let file = (self.read_file)(path)?;
        warnings.extend(file.exposed(path).filter(|warning| !warnings.contains(warning)));
        Ok(file.text)
    }

    /// Returns the environment of this process.
    pub fn of_process() -> Environment<'static> {
        Environment {
            env: &environment_variable,
            read_file: &FileText::read,
            is_writable_dir: &is_writable_dir,
            temp_dir: &std::env::temp_dir,
        }
    }

    /// Returns an environment for commands that create no directory.
    pub fn looking_only(self) -> Self {
        Environment {
            is_writable_dir: &could_be_writable_dir,
            ..self
        }
    }
}

// No other function reads the environment.
#[allow(clippy::disallowed_methods)]
fn environment_variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn is_writable_dir(path: &Path) -> bool {
    // `access(2)` also detects read-only mounts, unlike a comparison of owners and modes.
    // Content may be private. The store's own directories therefore have the mode 0750 too.
    DirBuilder::new().recursive(true).mode(0o750).create(path).is_ok()
        && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Returns whether the directory is writable, or could be created.
fn could_be_writable_dir(path: &Path) -> bool {
    let nearest = path.ancestors().find(|path| path.exists());
    nearest.is_some_and(|path| {
        path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    })
}
