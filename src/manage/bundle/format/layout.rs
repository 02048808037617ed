//! The files of an OCI image layout, and of a docker-archive.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{FormatError, parse, to_json};
use crate::oci::{Digest, ImageName, Reference};

/// The entry point of an OCI image layout.
pub const INDEX_JSON: &str = "index.json";
/// The entry point of a docker-archive. Present if each image has one platform and all its blobs.
pub const MANIFEST_JSON: &str = "manifest.json";
pub const OCI_LAYOUT: &str = "oci-layout";
/// The content of [`OCI_LAYOUT`].
pub const OCI_LAYOUT_CONTENT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

/// The annotation of the reference, by the image specification.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of the reference for containerd.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";

pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// A descriptor of the image specification.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciDescriptor {
    pub media_type: String,
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The entry point of an OCI image layout: `index.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OciIndex {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<OciDescriptor>,
}

/// An image of a docker-archive: an element of the list in `manifest.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerArchiveImage {
    /// The path of the config in the archive.
    pub config: String,
    /// The references with a tag. Null in the archives of some tools.
    pub repo_tags: Option<Vec<String>>,
    /// The paths of the layers in the archive, the base layer first.
    pub layers: Vec<String>,
}

/// Returns the path of a blob in a bundle: `blobs/sha256/<hex>`.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

impl OciDescriptor {
    /// Returns a descriptor without annotations.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        OciDescriptor {
            media_type: media_type.into(),
            digest,
            size,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Returns the descriptor with the annotations of the reference `name`.
    pub fn named(mut self, name: &ImageName) -> Self {
        for key in [REF_NAME, CONTAINERD_NAME] {
            self.annotations.insert(key.to_owned(), name.to_string());
        }
        self
    }
}

impl OciIndex {
    /// Returns the index of an image layout.
    pub fn of_layout(manifests: Vec<OciDescriptor>) -> Self {
        OciIndex {
            schema_version: 2,
            media_type: None,
            manifests,
        }
    }

    /// Parses `index.json`.
    ///
    /// # Errors
    ///
    /// The file is too large, or no index.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        parse(json, "index of an OCI image layout")
    }

    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl DockerArchiveImage {
    /// Creates the entry of an image. `layers` has the base layer first.
    pub fn new(name: &ImageName, config: &Digest, layers: &[Digest]) -> Self {
        let is_tagged = matches!(name.reference, Some(Reference::Tag(_)));
        DockerArchiveImage {
            config: blob_path(config),
            repo_tags: Some(is_tagged.then(|| name.to_string()).into_iter().collect()),
            layers: layers.iter().map(blob_path).collect(),
        }
    }

    /// Parses `manifest.json`.
    ///
    /// # Errors
    ///
    /// The file is too large, or no list of images.
    pub fn parse_all(json: &[u8]) -> Result<Vec<Self>, FormatError> {
        parse(json, "list of the images of a docker-archive")
    }

    /// Returns `manifest.json`.
    pub fn all_to_json(images: &[Self]) -> Vec<u8> {
        to_json(&images)
    }
}
