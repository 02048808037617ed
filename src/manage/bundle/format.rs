//! The files in a bundle and beside a bundle. `docs/reference/bundle-format.md` describes the format.
//! Performs no I/O.

mod layout;
mod volumes;

use std::fmt::Display;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{BUNDLE_BLOBS_MAX, BUNDLE_IMAGES_MAX, BUNDLE_JSON_BYTES_MAX};
use crate::oci::{Digest, ImageName};

pub use layout::{
    CONTAINERD_NAME, DockerArchiveImage, INDEX_JSON, MANIFEST_JSON, OCI_LAYOUT, OCI_LAYOUT_CONTENT,
    OciDescriptor, OciIndex, REF_NAME, blob_path,
};
pub use volumes::{BundleVolume, BundleVolumes, VOLUMES_SUFFIX};

/// The first entry of every bundle. The same bytes are in `NAME.index.json` beside the bundle `NAME`.
pub const BUNDLE_JSON: &str = "bundle.json";
/// The suffix of the file with the content of a bundle, for later bundles with `--base`.
pub const INDEX_SUFFIX: &str = ".index.json";
const BUNDLE_TYPE: &str = "application/vnd.oci-pull-through.bundle.v1+json";

/// The reason why a file is no description of a bundle.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error("the file is larger than {} MiB", BUNDLE_JSON_BYTES_MAX >> 20)]
    TooLarge,
    #[error("the file is no {expected}: {source}")]
    Syntax {
        expected: &'static str,
        source: serde_json::Error,
    },
    #[error("the file has the type {found:?}; expected {expected:?}, or use a newer version")]
    Type { found: String, expected: &'static str },
    #[error("{0}")]
    Content(String),
}

/// The content of a bundle: `bundle.json`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleContents {
    media_type: String,
    /// The SHA-256 of the `bundle.json` of the base. `None` for a bundle without a base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<Digest>,
    /// Sorted by name, each name once.
    pub images: Vec<BundledImage>,
    /// Sorted by repository, subject and digest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<BundledReferrer>,
    /// The manifests and the blobs of the images and referrers. Sorted by digest, each once.
    pub blobs: Vec<BundledBlob>,
}

/// An image with a name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundledImage {
    /// With a tag or a digest.
    #[serde(with = "text")]
    pub name: ImageName,
    pub descriptor: OciDescriptor,
    /// The platforms of an index with their content in the bundle or the base. Empty for an image
    /// without an index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub platforms: Vec<String>,
}

/// A manifest without a tag that refers to an image, such as a signature.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundledReferrer {
    /// Without a tag and a digest.
    #[serde(with = "text")]
    pub repository: ImageName,
    /// The manifest to which the referrer refers.
    pub subject: Digest,
    /// The descriptor in the list of referrers of the registry.
    pub descriptor: OciDescriptor,
}

/// A manifest or a blob.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundledBlob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    pub kind: BlobKind,
    #[serde(rename = "in")]
    pub place: BlobPlace,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobKind {
    /// A manifest or an index.
    Manifest,
    /// A config or a layer.
    Blob,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BlobPlace {
    Bundle,
    Base,
}

impl BundleContents {
    /// Creates the list of a bundle. Sorts `images`, `referrers` and `blobs`.
    pub fn new(
        base: Option<Digest>,
        mut images: Vec<BundledImage>,
        mut referrers: Vec<BundledReferrer>,
        mut blobs: Vec<BundledBlob>,
    ) -> Self {
        images.sort_by_cached_key(|image| image.name.to_string());
        referrers.sort_by_cached_key(|referrer| {
            let BundledReferrer {
                repository,
                subject,
                descriptor,
            } = referrer;
            (repository.to_string(), *subject, descriptor.digest)
        });
        blobs.sort_by_key(|blob| blob.digest);
        BundleContents {
            media_type: BUNDLE_TYPE.to_owned(),
            base,
            images,
            referrers,
            blobs,
        }
    }

    /// Parses `bundle.json`, or `NAME.index.json`.
    ///
    /// # Errors
    ///
    /// The file is too large, of another type, or contradicts itself.
    pub fn parse(json: &[u8]) -> Result<Self, FormatError> {
        let contents: BundleContents = parse(json, "list of the content of a bundle")?;
        check_type(&contents.media_type, BUNDLE_TYPE)?;
        contents.check().map_err(FormatError::Content)?;
        Ok(contents)
    }

    fn check(&self) -> Result<(), String> {
        if self.images.len() > BUNDLE_IMAGES_MAX || self.referrers.len() > BUNDLE_BLOBS_MAX {
            return Err(format!("the bundle has more than {BUNDLE_IMAGES_MAX} images"));
        }
        if self.blobs.len() > BUNDLE_BLOBS_MAX {
            return Err(format!("the bundle has more than {BUNDLE_BLOBS_MAX} blobs"));
        }
        if !self.blobs.is_sorted_by(|a, b| a.digest < b.digest) {
            return Err("the blobs are not sorted by digest, each once".to_owned());
        }
        if let Some(image) = self.images.iter().find(|image| image.name.reference.is_none()) {
            return Err(format!("the image {} has no tag and no digest", image.name));
        }
        let total = self
            .blobs
            .iter()
            .try_fold(0_u64, |sum, blob| sum.checked_add(blob.size));
        if total.is_none() {
            return Err("the sizes of the blobs are too large".to_owned());
        }
        let images = self.images.iter().map(|image| &image.descriptor);
        let referrers = self.referrers.iter().map(|referrer| &referrer.descriptor);
        for descriptor in images.chain(referrers) {
            let blob = self.blob(&descriptor.digest);
            if blob.is_none_or(|blob| blob.size != descriptor.size || blob.kind != BlobKind::Manifest) {
                return Err(format!(
                    "the manifest {} is not in the list of blobs",
                    descriptor.digest
                ));
            }
        }
        Ok(())
    }

    /// Returns the blob `digest`. `None` if no image of the bundle names the blob.
    pub fn blob(&self, digest: &Digest) -> Option<&BundledBlob> {
        let found = self.blobs.binary_search_by_key(digest, |blob| blob.digest);
        found.ok().map(|at| &self.blobs[at])
    }

    /// Returns the file as bytes. Equal contents have equal bytes.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Returns `index.json`: a descriptor for each image, and one without a name for each referrer.
    pub fn index(&self) -> OciIndex {
        let images = self.images.iter();
        let images = images.map(|image| image.descriptor.clone().named(&image.name));
        let mut referrers: Vec<OciDescriptor> = self
            .referrers
            .iter()
            .map(|referrer| referrer.descriptor.clone())
            .collect();
        referrers.sort_by_key(|descriptor| descriptor.digest);
        referrers.dedup_by_key(|descriptor| descriptor.digest);
        OciIndex {
            schema_version: 2,
            media_type: Some(layout::INDEX_TYPE.to_owned()),
            manifests: images.chain(referrers).collect(),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(json: &'a [u8], expected: &'static str) -> Result<T, FormatError> {
    if json.len() as u64 > BUNDLE_JSON_BYTES_MAX {
        return Err(FormatError::TooLarge);
    }
    serde_json::from_slice(json).map_err(|source| FormatError::Syntax { expected, source })
}

fn check_type(found: &str, expected: &'static str) -> Result<(), FormatError> {
    match found == expected {
        true => Ok(()),
        false => Err(FormatError::Type {
            found: found.to_owned(),
            expected,
        }),
    }
}

/// Returns `value` as one line of JSON.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    let mut json = serde_json::to_vec(value).expect("the value is strings, numbers, lists and maps");
    json.push(b'\n');
    json
}

/// Names in JSON.
mod text {
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Display, FromStr};

    pub fn serialize<T: Display, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests;
