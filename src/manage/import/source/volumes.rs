//! A split bundle as one stream. Each volume is hashed, and a damaged volume ends the stream with its name.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::files::read_small;
use super::{ImportSource, SourceError};
use crate::limits::BUNDLE_JSON_BYTES_MAX;
use crate::manage::bundle::format::{BundleVolume, BundleVolumes, FormatError};
use crate::oci::Hasher;

/// Opens the volumes of the list `path`.
///
/// # Errors
///
/// The list cannot be read, or is no list of volumes.
pub(super) fn open(path: &Path) -> Result<ImportSource, SourceError> {
    let format = |source| SourceError::Format {
        path: path.to_owned(),
        source,
    };
    let json = read_small(path, BUNDLE_JSON_BYTES_MAX)?.ok_or_else(|| format(FormatError::TooLarge))?;
    let list = BundleVolumes::parse(&json).map_err(format)?;
    let bytes = list.volumes.iter().map(|volume| volume.size).sum();
    Ok(ImportSource {
        reader: Box::new(VolumeReader {
            dir: path.parent().map_or_else(PathBuf::new, Path::to_owned),
            volumes: list.volumes.into(),
            current: None,
        }),
        bytes: Some(bytes),
    })
}

struct VolumeReader {
    dir: PathBuf,
    volumes: VecDeque<BundleVolume>,
    current: Option<OpenVolume>,
}

struct OpenVolume {
    volume: BundleVolume,
    file: File,
    hasher: Hasher,
    /// Bytes so far.
    length: u64,
}

impl Read for VolumeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let current = match &mut self.current {
                Some(current) => current,
                None => {
                    let Some(volume) = self.volumes.pop_front() else {
                        return Ok(0);
                    };
                    self.current.insert(OpenVolume::open(&self.dir, volume)?)
                }
            };
            let length = current.file.read(buffer)?;
            if length > 0 || buffer.is_empty() {
                current.hasher.update(&buffer[..length]);
                current.length += length as u64;
                return Ok(length);
            }
            if let Some(ended) = self.current.take() {
                ended.check()?;
            }
        }
    }
}

impl OpenVolume {
    fn open(dir: &Path, volume: BundleVolume) -> io::Result<Self> {
        let file = File::open(dir.join(&volume.name)).map_err(|error| {
            let message = format!("cannot read the volume {}: {error}", volume.name);
            io::Error::new(error.kind(), message)
        })?;
        Ok(OpenVolume {
            file,
            hasher: Hasher::new(volume.digest.algorithm()),
            length: 0,
            volume,
        })
    }

    fn check(self) -> io::Result<()> {
        let OpenVolume {
            volume,
            hasher,
            length,
            ..
        } = self;
        if length == volume.size && hasher.finish() == volume.digest {
            return Ok(());
        }
        Err(io::Error::other(format!(
            "the volume {} is damaged: {length} of {} bytes do not have the SHA-256 of the list; copy the volume again",
            volume.name, volume.size
        )))
    }
}
