//! The destination of a bundle: standard output, a file, or volumes. Files get their names at the end of
//! the export, so that no part of a bundle has the name of a bundle.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::format::{BundleVolume, BundleVolumes, INDEX_SUFFIX, VOLUMES_SUFFIX};
use super::hash::ParallelHasher;
use crate::limits::BUNDLE_VOLUMES_MAX;
use crate::manage::temporary::TemporaryFile;
use crate::oci::{Algorithm, Digest};

/// The digits of the digest of a name in the temporary names. 64 bits tell the files of a directory apart.
const NAME_DIGITS: usize = 16;

/// The destination of an export, as the operator names it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Destination {
    Stdout,
    File {
        path: PathBuf,
        /// Bytes of a volume. `None` for a single file.
        split: Option<u64>,
    },
}

/// An open destination.
pub(super) enum Output {
    /// Without the buffer of the standard library, which looks for lines.
    Stdout(File),
    File {
        path: PathBuf,
        file: TemporaryFile,
    },
    Volumes(Volumes),
}

/// The volumes of a split bundle.
pub(super) struct Volumes {
    path: PathBuf,
    /// Bytes of a full volume.
    size: u64,
    /// The volume that is being written.
    current: Option<Volume>,
    full: Vec<(TemporaryFile, BundleVolume)>,
}

struct Volume {
    file: TemporaryFile,
    written: u64,
    hasher: ParallelHasher,
}

impl Destination {
    /// Opens the destination. Creates only files with temporary names.
    pub(super) fn open(&self) -> io::Result<Output> {
        let (path, split) = match self {
            Destination::Stdout => {
                let stdout = io::stdout().as_fd().try_clone_to_owned()?;
                return Ok(Output::Stdout(stdout.into()));
            }
            Destination::File { path, split } => (path.clone(), split),
        };
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            let message = "the path is no regular file; use `-o -` for a pipe or a device";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        Ok(match split {
            None => Output::File {
                file: temporary(&path)?,
                path,
            },
            Some(size) => Output::Volumes(Volumes {
                path,
                size: *size,
                current: None,
                full: Vec::new(),
            }),
        })
    }
}

impl Output {
    /// Writes a chunk to the end.
    pub fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        match self {
            Output::Stdout(file) => file.write_all(&chunk),
            Output::File { file, .. } => file.as_file_mut().write_all(&chunk),
            Output::Volumes(volumes) => volumes.write_chunk(chunk),
        }
    }

    /// Gives the files their names. Writes `bundle_json` beside them.
    pub fn finish(self, bundle_json: &[u8]) -> io::Result<()> {
        let (path, files, volumes) = match self {
            Output::Stdout(_) => return Ok(()),
            Output::File { path, file } => (path.clone(), vec![(file, path)], None),
            Output::Volumes(volumes) => {
                let (path, full) = volumes.finish()?;
                let list = full.iter().map(|(_, volume)| volume.clone()).collect();
                let named = full.into_iter().map(|(file, volume)| {
                    let volume = path.with_file_name(&volume.name);
                    (file, volume)
                });
                let files = named.collect();
                (path, files, Some(BundleVolumes::new(list).to_json()))
            }
        };
        // The lists of an earlier export do not fit the new bundle.
        let (index, list) = (beside(&path, INDEX_SUFFIX), beside(&path, VOLUMES_SUFFIX));
        for earlier in [&index, &list] {
            remove_if_present(earlier)?;
        }
        for (file, name) in files {
            file.persist(&name)?;
        }
        if let Some(volumes) = volumes {
            write_whole(&list, &volumes)?;
        }
        write_whole(&index, bundle_json)
    }
}

/// The compressed bundle. The compressor reuses its buffer, so the bytes are copied.
impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_chunk(Bytes::copy_from_slice(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Volumes {
    fn write_chunk(&mut self, mut chunk: Bytes) -> io::Result<()> {
        while !chunk.is_empty() {
            let volume = match &mut self.current {
                Some(volume) => volume,
                None => self.current.insert(Volume::create(&self.path)?),
            };
            let room = self.size - volume.written;
            let fits = usize::try_from(room).unwrap_or(usize::MAX).min(chunk.len());
            let part = chunk.split_to(fits);
            volume.file.as_file_mut().write_all(&part)?;
            volume.written += part.len() as u64;
            volume.hasher.update(part);
            if volume.written == self.size {
                self.end_volume()?;
            }
        }
        Ok(())
    }

    fn end_volume(&mut self) -> io::Result<()> {
        let Some(volume) = self.current.take() else {
            return Ok(());
        };
        if self.full.len() == BUNDLE_VOLUMES_MAX {
            return Err(io::Error::other(format!(
                "the bundle needs more than {BUNDLE_VOLUMES_MAX} volumes; give a larger --split"
            )));
        }
        let described = BundleVolume {
            name: file_name(&beside(&self.path, &format!(".{:03}", self.full.len())))?,
            size: volume.written,
            digest: volume.hasher.finish()?,
        };
        self.full.push((volume.file, described));
        Ok(())
    }

    fn finish(mut self) -> io::Result<(PathBuf, Vec<(TemporaryFile, BundleVolume)>)> {
        self.end_volume()?;
        Ok((self.path, self.full))
    }
}

impl Volume {
    fn create(path: &Path) -> io::Result<Self> {
        Ok(Volume {
            file: temporary(path)?,
            written: 0,
            hasher: ParallelHasher::start(Algorithm::Sha256)?,
        })
    }
}

/// Creates a file without a name in the directory of `path`. Only its owner can read the file, because a bundle
/// may have private content.
fn temporary(path: &Path) -> io::Result<TemporaryFile> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    let name = path.file_name().unwrap_or_default();
    // A name may be too long for a prefix, so its digest stands for the name.
    let digest = Digest::of(Algorithm::Sha256, name.as_bytes()).to_string();
    let prefix = format!(".export-{}-", &digest[digest.len() - NAME_DIGITS..]);
    TemporaryFile::create(dir.unwrap_or(Path::new(".")), &prefix)
}

/// Returns the path with `suffix` at the end of the name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn file_name(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let message = "the name of a split bundle is not UTF-8; give another name";
    name.map(str::to_owned)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = temporary(path)?;
    file.as_file_mut().write_all(content)?;
    file.persist(path)
}

fn remove_if_present(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
