//! Imports images from an archive into the store.
//!
//! The whole archive is read and hashed before an image gets its name, so an incomplete image is never
//! visible. Blobs are in the store when the archive has been read, and no second copy of the archive exists.

mod admit;
mod contents;
mod docker_archive;
mod images;
mod intake;
mod manifest_file;
mod referrers;
mod report;
mod request;
mod source;
mod tree;

use std::io::Read;
use std::sync::Arc;

use crate::cache::Cache;
use crate::limits::{IMPORT_NAMED_MAX, IMPORT_OBJECTS_MAX};
use crate::manage::archive::{ArchiveError, decoded};
use crate::manage::bundle::format::FormatError;
use crate::oci::Origin;
use crate::store::{FsStore, StoreError, Stores};

pub use report::{ImportReport, ImportState, ImportedImage};
pub use request::ImportRule;
pub use source::{ForeignStore, ImportSource, SourceError};

use admit::Admission;
use intake::Intake;

/// The parts of a cache that import images. Cheap to clone.
#[derive(Clone)]
pub struct Importer {
    cache: Cache,
    stores: Stores,
    /// The default store, which gets the content.
    store: Arc<FsStore>,
}

/// The reason why an archive was not read to its end.
#[derive(Debug, thiserror::Error)]
enum ImportError {
    #[error(transparent)]
    Read(#[from] ArchiveError),
    #[error("{0}")]
    Archive(String),
    #[error("{path} in the archive is unusable: {source}")]
    Description { path: String, source: FormatError },
    #[error("the archive has more than {IMPORT_OBJECTS_MAX} objects; split the archive")]
    TooManyObjects,
    #[error("cannot keep the manifests of the archive: {0}")]
    Manifests(std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Importer {
    /// Creates the parts for the stores of `cache`.
    pub fn new(cache: Cache, stores: Stores) -> Self {
        let store = stores.default_store().clone();
        Importer { cache, stores, store }
    }

    fn has_own_store(&self, origin: &Origin) -> bool {
        self.stores.dirs().place_of(&origin.namespace).is_some()
    }

    /// Imports `archive`: a bundle, an OCI image layout or a docker-archive, as tar, plain or compressed.
    /// An image without all its content stays invisible, and the report names the missing content. Blocks, and
    /// must not be called on the helper pool.
    pub fn run(&self, archive: impl Read + Send + 'static, rule: &ImportRule) -> ImportReport {
        let mut report = ImportReport::default();
        match Intake::new(&self.store, &self.store.temporary_dir(), rule) {
            Ok(mut intake) => {
                let read = decoded(archive)
                    .map_err(|error| ImportError::Read(error.into()))
                    .and_then(|archive| intake.read(archive));
                let mut admission = Admission::new(self, rule, intake);
                let named = read.and_then(|()| admission.images());
                report.error = named.err().map(|error| error.to_string());
                admission.finish(&mut report);
            }
            Err(error) => report.error = Some(ImportError::Manifests(error).to_string()),
        }
        report.damaged.truncate(IMPORT_NAMED_MAX);
        report.count();
        report
    }
}

#[cfg(test)]
mod tests;
