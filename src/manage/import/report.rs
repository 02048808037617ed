//! The result of an import.

use serde::{Deserialize, Serialize};

/// The result of an import.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportReport {
    /// Images that are in the store with the content that the archive lists. In a dry run, images that
    /// would be.
    pub held: u64,
    /// Images that are not.
    pub failed: u64,
    /// Manifests and blobs of the archive with the right hash.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// Blobs that the store did not have.
    pub added: u64,
    /// Objects that no image of the archive names. The import removes them again.
    pub unnamed: u64,
    /// Entries of the archive without a meaning for images.
    pub ignored: u64,
    /// Objects whose bytes in the archive have another hash.
    pub damaged: Vec<String>,
    /// The reason why the import ended early. If the archive was not read to its end, no image is visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub images: Vec<ImportedImage>,
}

/// The outcome of one image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImportedImage {
    /// The name, or the digest of an image without a name.
    pub image: String,
    pub digest: String,
    /// The platforms of an index that are held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
    pub state: ImportState,
    /// Objects that are neither in the archive nor in the store. The first of them if there are many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// The reason of a failed image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImportState {
    Held,
    Failed,
}

impl ImportReport {
    /// Returns whether the whole archive is in the store.
    pub fn is_whole(&self) -> bool {
        self.error.is_none() && self.failed == 0 && self.damaged.is_empty()
    }

    /// Sets the counts of the images.
    pub(super) fn count(&mut self) {
        let count = |state| self.images.iter().filter(|image| image.state == state).count() as u64;
        (self.held, self.failed) = (count(ImportState::Held), count(ImportState::Failed));
    }
}
