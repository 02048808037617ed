//! The manifests of an archive, in a temporary file until the names of the images are known.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::limits::IMPORT_MANIFESTS_BYTES_MAX;

/// A file without a name. The drop releases its blocks.
#[derive(Debug)]
pub(super) struct ManifestFile {
    file: File,
    end: u64,
}

/// The place of a manifest in the file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ManifestPlace {
    offset: u64,
    length: u32,
}

impl ManifestFile {
    /// Creates the file in `dir`.
    pub fn create(dir: &Path) -> io::Result<Self> {
        Ok(ManifestFile {
            file: tempfile::tempfile_in(dir)?,
            end: 0,
        })
    }

    /// Adds a manifest.
    ///
    /// # Errors
    ///
    /// The disk failed, or the manifests take more than [`IMPORT_MANIFESTS_BYTES_MAX`].
    pub fn add(&mut self, body: &[u8]) -> io::Result<ManifestPlace> {
        let place = ManifestPlace {
            offset: self.end,
            length: u32::try_from(body.len()).map_err(io::Error::other)?,
        };
        let end = self.end + u64::from(place.length);
        if end > IMPORT_MANIFESTS_BYTES_MAX {
            return Err(io::Error::other(format!(
                "the manifests take more than {} MiB; split the archive",
                IMPORT_MANIFESTS_BYTES_MAX >> 20
            )));
        }
        self.file.write_all_at(body, place.offset)?;
        self.end = end;
        Ok(place)
    }

    /// Returns a manifest.
    ///
    /// # Errors
    ///
    /// The disk failed.
    pub fn get(&self, place: ManifestPlace) -> io::Result<Vec<u8>> {
        let mut body = vec![0; place.length as usize];
        self.file.read_exact_at(&mut body, place.offset)?;
        Ok(body)
    }
}
