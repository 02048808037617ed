//! Reads a list of images from a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{ImageList, ListError};
use crate::limits::IMAGE_LIST_BYTES_MAX;

/// The path of standard input.
const STDIN: &str = "-";

/// The reason why a file is no list of images.
#[derive(Debug, thiserror::Error)]
pub enum ReadListError {
    #[error("cannot read the list of images {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the list of images {path} is unusable: {source}")]
    Invalid { path: PathBuf, source: ListError },
}

/// Reads the list in the file `path`, or for `-` from standard input. Blocks.
///
/// # Errors
///
/// The file cannot be read, or is no list.
pub fn read_image_list(path: &Path) -> Result<ImageList, ReadListError> {
    let unreadable = |source| ReadListError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let read = match path.to_str() {
        Some(STDIN) => read_bounded(io::stdin().lock(), &mut bytes),
        _ => File::open(path).and_then(|file| read_bounded(file, &mut bytes)),
    };
    read.map_err(unreadable)?;
    ImageList::parse(&bytes).map_err(|source| ReadListError::Invalid {
        path: path.to_owned(),
        source,
    })
}

/// Reads one byte more than a list may have, so that a larger list is known as such.
fn read_bounded(source: impl Read, bytes: &mut Vec<u8>) -> io::Result<usize> {
    source.take(IMAGE_LIST_BYTES_MAX + 1).read_to_end(bytes)
}
