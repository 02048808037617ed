//! The files of a directory. Symbolic links are not followed.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{SourceError, unreadable};
use crate::limits::ARCHIVE_ENTRIES_MAX;
use crate::oci::Digest;

/// Levels of directories. Names of repositories have at most 128 parts.
const DEPTH_MAX: usize = 140;

/// A regular file below a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct FoundFile {
    pub path: PathBuf,
    /// The path below the directory, with `/` between its parts.
    pub relative: String,
    /// Bytes.
    pub size: u64,
}

/// Returns the regular files below `root`, sorted. Leaves out names that are no UTF-8.
pub(super) fn files_below(root: &Path) -> Result<Vec<FoundFile>, SourceError> {
    let mut files = Vec::new();
    let mut open = vec![(root.to_owned(), String::new(), 0)];
    while let Some((dir, prefix, depth)) = open.pop() {
        let entries = fs::read_dir(&dir).map_err(unreadable(&dir))?;
        for entry in entries {
            let entry = entry.map_err(unreadable(&dir))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let relative = match prefix.is_empty() {
                true => name.to_owned(),
                false => format!("{prefix}/{name}"),
            };
            let path = entry.path();
            // The metadata of the entry itself, not of the target of a link.
            let found = entry.metadata().map_err(unreadable(&path))?;
            if found.is_dir() && depth < DEPTH_MAX {
                open.push((path, relative, depth + 1));
            } else if found.is_file() {
                let size = found.len();
                files.push(FoundFile { path, relative, size });
            }
            if files.len() + open.len() > ARCHIVE_ENTRIES_MAX {
                return Err(SourceError::TooManyFiles(root.to_owned()));
            }
        }
    }
    files.sort_by(|a, b| a.relative.cmp(&b.relative));
    Ok(files)
}

/// Reads a small file of at most `bytes_max` bytes. `None` for a larger file.
pub(super) fn read_small(path: &Path, bytes_max: u64) -> Result<Option<Vec<u8>>, SourceError> {
    let file = File::open(path).map_err(unreadable(path))?;
    let mut bytes = Vec::new();
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable(path))?;
    Ok((bytes.len() as u64 <= bytes_max).then_some(bytes))
}

/// Returns whether a file with this name is a blob: `sha256:…`.
pub(super) fn is_loose_blob(name: &str) -> bool {
    name.parse::<Digest>().is_ok()
}
