//! The result of a load.

use serde::{Deserialize, Serialize};

/// The result of a load.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadReport {
    /// Images that are in the store with the wanted platforms.
    pub held: u64,
    /// Images that are not.
    pub failed: u64,
    /// Bytes that the load itself has fetched from registries.
    pub fetched_bytes: u64,
    /// Whether the load has come to its end. A canceled load has not.
    pub complete: bool,
    /// The images, in the order of the request. A canceled load has the images so far.
    pub images: Vec<LoadedImage>,
    /// The searches for tags that have ended with success.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<ListedTags>,
}

/// A search for the tags of a repository.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ListedTags {
    /// The repository with the range or the pattern.
    pub pattern: String,
    /// Tags that the registry lists.
    pub listed: u64,
    /// Tags that match.
    pub matching: u64,
}

/// The outcome of one image.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LoadedImage {
    pub image: String,
    /// The wanted platforms.
    pub platforms: String,
    pub state: LoadState,
    /// Bytes that the load itself has fetched from the registry.
    pub fetched_bytes: u64,
    /// The reason of a failed image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The status of the upstream response that caused the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_status: Option<u16>,
    /// The reason why the registry has not confirmed the tag of a held image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadState {
    Held,
    Failed,
}

impl LoadReport {
    /// Returns the report of these images.
    pub fn of(images: Vec<LoadedImage>, complete: bool) -> Self {
        let count = |state| images.iter().filter(|image| image.state == state).count() as u64;
        LoadReport {
            held: count(LoadState::Held),
            failed: count(LoadState::Failed),
            fetched_bytes: images.iter().map(|image| image.fetched_bytes).sum(),
            complete,
            images,
            tags: Vec::new(),
        }
    }

    /// Returns the failed images with their errors.
    pub fn failures(&self) -> impl Iterator<Item = (&LoadedImage, &str)> {
        let failed = self.images.iter();
        failed.filter_map(|image| Some((image, image.error.as_deref()?)))
    }
}
