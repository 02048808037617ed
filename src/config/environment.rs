//! The process environment that configuration reads.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::diagnostics::Warning;

/// The process environment as functions, so that tests need neither environment variables nor a disk.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// A variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub read_file: &'a dyn Fn(&Path) -> io::Result<FileText>,
    /// Makes a directory if need be and says whether files can be made in it.
    pub is_writable_dir: &'a dyn Fn(&Path) -> bool,
    /// Where temporary files go.
    pub temp_dir: &'a dyn Fn() -> PathBuf,
}

/// What a file holds, and who may read it.
#[derive(Clone, Debug)]
pub struct FileText {
    pub text: String,
    /// The permission bits that the file had when it was opened.
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

    /// What to say about a file that holds a secret and that every user of the machine may read.
    pub(super) fn exposed(&self, path: &Path) -> Option<Warning> {
        (self.mode & 0o004 != 0).then(|| exposed(path, self.mode))
    }
}

/// The warning about a file with a secret that every user of the machine may read.
fn exposed(path: &Path, mode: u32) -> Warning {
    let path = path.display();
    Warning {
        what: format!("{path} (mode {:04o})", mode & 0o7777),
        why: format!("it holds a secret that every user of this machine may read; run chmod o-rwx {path}"),
    }
}

impl Environment<'_> {
    /// The content of a file without secrets.
    pub(super) fn read(&self, path: &Path) -> io::Result<String> {
        (self.read_file)(path).map(|file| file.text)
    }

    /// The content of a file that is a secret.
    pub(super) fn read_secret(&self, path: &Path, warnings: &mut Vec<Warning>) -> io::Result<String> {
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

    /// The same for commands that only look: no directory is made.
    pub fn looking_only(self) -> Self {
        Environment {
            is_writable_dir: &could_be_writable_dir,
            ..self
        }
    }
}

// The one place that reads the environment.
#[allow(clippy::disallowed_methods)]
fn environment_variable(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn is_writable_dir(path: &Path) -> bool {
    // Asking the kernel rather than comparing owners and modes covers read-only mounts as well.
    // The mode of the store's own directories: content may be private.
    DirBuilder::new().recursive(true).mode(0o750).create(path).is_ok()
        && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether the directory is there and can be written, or could be made where it would be.
fn could_be_writable_dir(path: &Path) -> bool {
    let nearest = path.ancestors().find(|path| path.exists());
    nearest.is_some_and(|path| {
        path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    })
}
