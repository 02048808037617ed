//! One image or one blob, with everything that the store knows about it.

use serde::Serialize;

use super::images::{BlobSizes, INDEX_DEPTH_MAX, RepositoryImages};
use super::page::list_page_by_name;
use super::{ImageQuery, ListedImage};
use crate::oci::{Descriptor, Digest, ImageName, ManifestLinks, Namespace, Reference};
use crate::store::{Pins, StoreReader, StoredBlob, StoredRepository, Stores};

/// The images that a tag can name: a tag has a pointer for each class of clients.
const IMAGES_OF_A_TAG_MAX: usize = 16;

/// The images of a blob in one answer. A base layer may belong to any number of images.
const IMAGES_OF_A_BLOB_MAX: usize = 1000;

/// An image with its manifests and blobs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageDetails {
    #[serde(flatten)]
    pub image: ListedImage,
    pub manifests: Vec<ManifestDetails>,
}

/// A manifest of an image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ManifestDetails {
    pub digest: String,
    /// The platform in the index that names the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    pub stored: bool,
    /// The config and the layers. Empty if the manifest is not stored.
    pub blobs: Vec<BlobDetails>,
}

/// A config or a layer of a manifest.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobDetails {
    pub digest: String,
    /// Bytes by the manifest.
    pub size: u64,
    pub stored: bool,
}

/// A stored blob.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlobUses {
    pub digest: String,
    /// Bytes on the disks.
    pub bytes: u64,
    /// Seconds since 1970.
    pub created: u64,
    pub used: u64,
    /// The references of the images that name the blob, at most 1,000.
    pub images: Vec<String>,
}

/// Returns the images with the tag or the digest of `name`. Blocks.
pub fn show_images(pins: &Pins, reader: &StoreReader, name: &ImageName) -> Vec<ImageDetails> {
    let query = ImageQuery {
        registry: Some(name.origin.namespace.clone()),
        repository: Some(name.origin.repository.clone()),
        tag: match &name.reference {
            Some(Reference::Tag(tag)) => Some(tag.to_string()),
            _ => None,
        },
        digest: match &name.reference {
            Some(Reference::Digest(digest)) => Some(*digest),
            _ => None,
        },
        limit: IMAGES_OF_A_TAG_MAX,
        ..ImageQuery::default()
    };
    let listed = list_page_by_name(reader, pins, &query, || true).images;
    let details = listed.into_iter().map(|image| ImageDetails {
        manifests: manifests(reader, name, &image.image.digest),
        image,
    });
    details.collect()
}

/// Returns the manifest `digest` of a repository, and below an index all its manifests.
fn manifests<'a>(reader: &'a StoreReader, name: &'a ImageName, digest: &str) -> Vec<ManifestDetails> {
    let repository = StoredRepository {
        origin: name.origin.clone(),
        tags: Vec::new(),
        manifests: Vec::new(),
    };
    let mut walk = Walk {
        namespace: &name.origin.namespace,
        repository: RepositoryImages::new(reader, repository),
        reader,
        sizes: BlobSizes::default(),
        found: Vec::new(),
    };
    if let Ok(digest) = digest.parse() {
        walk.add(&digest, None, 0);
    }
    walk.found
}

struct Walk<'a> {
    namespace: &'a Namespace,
    repository: RepositoryImages<'a>,
    reader: &'a StoreReader,
    sizes: BlobSizes,
    found: Vec<ManifestDetails>,
}

impl Walk<'_> {
    fn add(&mut self, digest: &Digest, platform: Option<String>, depth: usize) {
        let text = digest.to_string();
        if depth > INDEX_DEPTH_MAX || self.found.iter().any(|known| known.digest == text) {
            return;
        }
        let manifest = self.repository.manifest(digest);
        let place = self.found.len();
        self.found.push(ManifestDetails {
            digest: text,
            platform,
            stored: manifest.is_some(),
            blobs: Vec::new(),
        });
        match manifest.as_ref().and_then(|manifest| manifest.links.as_ref()) {
            None => {}
            Some(ManifestLinks::Image(descriptors)) => {
                let (reader, namespace) = (self.reader, self.namespace);
                let blobs = descriptors.iter().map(|Descriptor { digest, size }| BlobDetails {
                    digest: digest.to_string(),
                    size: *size,
                    stored: self.sizes.of(reader, namespace, digest).is_some(),
                });
                self.found[place].blobs = blobs.collect();
            }
            Some(ManifestLinks::Index(children)) => {
                for child in children {
                    self.add(&child.descriptor.digest, child.platform.clone(), depth + 1);
                }
            }
        }
    }
}

/// Returns a stored blob, with the copies of all stores. `None` if the blob is not stored, or the scan
/// has not found it yet.
pub fn show_blob(stores: &Stores, digest: &Digest) -> Option<BlobUses> {
    let mut uses: Option<BlobUses> = None;
    for store in stores.iter() {
        let Some(StoredBlob { facts, images }) = store.stored_blob(digest, IMAGES_OF_A_BLOB_MAX) else {
            continue;
        };
        let (created, used) = (facts.stored.unix_seconds(), facts.used.unix_seconds());
        let known = uses.get_or_insert_with(|| BlobUses {
            digest: digest.to_string(),
            bytes: 0,
            created,
            used,
            images: Vec::new(),
        });
        known.bytes += facts.bytes;
        known.created = known.created.min(created);
        known.used = known.used.max(used);
        known.images.extend(images);
    }
    if let Some(uses) = &mut uses {
        uses.images.sort_unstable();
        uses.images.dedup();
        uses.images.truncate(IMAGES_OF_A_BLOB_MAX);
    }
    uses
}
