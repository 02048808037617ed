//! The inputs of an import: a file, a split bundle, standard input, or a directory. Each becomes one stream
//! of bytes in the form of a tar file.

mod distribution;
mod files;
mod go_store;
mod kinds;
mod layout_dir;
mod loose_blobs;
mod ociregistry;
mod tar_stream;
mod volumes;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::limits::ARCHIVE_ENTRIES_MAX;
use crate::manage::bundle::format::{FormatError, VOLUMES_SUFFIX};
use crate::oci::Namespace;

pub use kinds::ForeignStore;

/// The path of standard input.
const STDIN: &str = "-";

/// An input of an import.
pub struct ImportSource {
    pub reader: Box<dyn Read + Send>,
    /// All bytes, if known.
    pub bytes: Option<u64>,
}

/// The reason why a path is no input of an import.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{path} is unusable: {source}")]
    Format { path: PathBuf, source: FormatError },
    #[error(
        "the directory {0} is neither an image layout nor a store of a known system; name an archive, or the directory with `index.json` or `blobs`"
    )]
    Unknown(PathBuf),
    #[error("the directory {0} does not name its registry; add --registry, for example --registry docker.io")]
    NoRegistry(PathBuf),
    #[error("the directory {0} has more than {ARCHIVE_ENTRIES_MAX} files; import a part of it")]
    TooManyFiles(PathBuf),
}

impl ImportSource {
    /// Opens the input `path`, `-` for standard input. `registry` is the registry of a store that does not
    /// name its registry. Blocks.
    ///
    /// # Errors
    ///
    /// The path cannot be read, or is no input of an import.
    pub fn open(path: &Path, registry: Option<&Namespace>) -> Result<Self, SourceError> {
        if path.to_str() == Some(STDIN) {
            return Ok(ImportSource {
                reader: Box::new(io::stdin()),
                bytes: None,
            });
        }
        let found = fs::metadata(path).map_err(unreadable(path))?;
        if found.is_dir() {
            return directory(path, registry);
        }
        if let Some(volumes) = volumes_of(path) {
            return volumes::open(&volumes);
        }
        let file = File::open(path).map_err(unreadable(path))?;
        let length = found.is_file().then_some(found.len());
        Ok(ImportSource {
            reader: Box::new(file),
            bytes: length,
        })
    }
}

/// Opens a directory as a tar file that is made while it is read.
fn directory(path: &Path, registry: Option<&Namespace>) -> Result<ImportSource, SourceError> {
    let parts = match kinds::DirectoryKind::of(path) {
        Some(kinds::DirectoryKind::Layout) => layout_dir::parts(path)?,
        Some(kinds::DirectoryKind::Foreign(store)) => match store {
            ForeignStore::Ociregistry => ociregistry::parts(path)?,
            ForeignStore::Distribution => {
                let registry = registry.ok_or_else(|| SourceError::NoRegistry(path.to_owned()))?;
                distribution::parts(path, registry)?
            }
            ForeignStore::OciPullThroughGo => go_store::parts(path)?,
            ForeignStore::OciProxy | ForeignStore::OciRemoteCache => loose_blobs::parts(path)?,
        },
        None => return Err(SourceError::Unknown(path.to_owned())),
    };
    let stream = tar_stream::TarStream::new(parts);
    Ok(ImportSource {
        bytes: Some(stream.length()),
        reader: Box::new(stream),
    })
}

/// Returns the list of the volumes of `path`: the list itself, or a volume with a list beside it.
fn volumes_of(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    if name.ends_with(VOLUMES_SUFFIX) {
        return Some(path.to_owned());
    }
    let (stem, number) = name.rsplit_once('.')?;
    let is_volume = number.len() == 3 && number.bytes().all(|byte| byte.is_ascii_digit());
    let list = path.with_file_name(format!("{stem}{VOLUMES_SUFFIX}"));
    (is_volume && list.is_file()).then_some(list)
}

fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> SourceError {
    let path = path.to_owned();
    move |source| SourceError::Unreadable { path, source }
}

#[cfg(test)]
mod tests;
