//! What configuration needs to know about the process it runs in.

use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

/// The outside, as functions, so that tests need neither a process environment nor a disk.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// A variable of the environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    pub read_file: &'a dyn Fn(&Path) -> io::Result<String>,
    /// Makes a directory if need be and says whether files can be made in it.
    pub is_writable_dir: &'a dyn Fn(&Path) -> bool,
    /// Where temporary files go.
    pub temp_dir: &'a dyn Fn() -> PathBuf,
}

impl Surroundings<'_> {
    /// Those of this process.
    pub fn of_process() -> Surroundings<'static> {
        Surroundings {
            env: &environment_variable,
            read_file: &|path| std::fs::read_to_string(path),
            is_writable_dir: &is_writable_dir,
            temp_dir: &std::env::temp_dir,
        }
    }

    /// The same for commands that only look: no directory is made.
    pub fn looking_only(self) -> Self {
        Surroundings {
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
    std::fs::create_dir_all(path).is_ok()
        && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether the directory is there and can be written, or could be made where it would be.
fn could_be_writable_dir(path: &Path) -> bool {
    let nearest = path.ancestors().find(|path| path.exists());
    nearest.is_some_and(|path| {
        path.is_dir() && rustix::fs::access(path, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    })
}
