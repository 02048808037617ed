//! The stored images: one per tag, and one per manifest without a tag.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::{fmt, io};

use serde::Serialize;

use crate::oci::{Descriptor, Digest, ManifestLinks, Origin};
use crate::store::{Meta, StoreReader, StoredManifest, StoredRepository};

/// Levels of indexes below an index. The specification allows any depth, and clients read one.
const INDEX_DEPTH_MAX: usize = 4;

/// A stored image, artifact or index.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Image {
    /// Registry and repository, as in a reference of Docker.
    pub repository: String,
    /// `None` for a manifest that no stored tag names.
    pub tag: Option<String>,
    pub digest: String,
    pub kind: ImageKind,
    /// Time of storage, in seconds since 1970. `None` if an older system stored the manifest.
    pub created: Option<u64>,
    /// The last use of the manifest, in seconds since 1970. Up to an hour late.
    pub used: u64,
    /// Bytes of the stored content that the image names, each object once.
    pub size: u64,
    /// The platforms with at least a stored manifest.
    pub platforms: Vec<String>,
    /// Stored configs and layers.
    pub blobs: u64,
    /// Configs and layers that the stored manifests name and the store lacks.
    pub missing_blobs: u64,
    /// Manifests that the index names and the store lacks.
    pub missing_manifests: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageKind {
    /// An index, or a manifest list of Docker.
    List,
    /// An image or another artifact.
    Image,
}

impl Image {
    /// Returns the reference: repository and tag, or repository and digest.
    pub fn reference(&self) -> String {
        match &self.tag {
            Some(tag) => format!("{}:{tag}", self.repository),
            None => format!("{}@{}", self.repository, self.digest),
        }
    }
}

/// The images of a store.
#[derive(Debug, Default)]
pub struct Listing {
    /// Sorted by repository. Within a repository, tags come first.
    pub images: Vec<Image>,
    /// A message for each file or directory that could not be read.
    pub failures: Vec<String>,
}

/// Lists the images in the directory of a store. Changes nothing, and needs no lock, so a cache may
/// run beside it. Blocks.
pub fn list(store: &StoreReader) -> Listing {
    let mut listing = Listing::default();
    let mut failures = Vec::new();
    let mut blobs = BlobSizes::default();
    store.repositories(
        &mut |repository| add_repository(store, repository, &mut blobs, &mut listing),
        &mut |path, error| failures.push(unreadable(&path.display(), error)),
    );
    listing.failures.append(&mut failures);
    listing
}

fn unreadable(place: &dyn fmt::Display, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run the command as the user of the cache",
        _ => "; check the disk",
    };
    format!("cannot read {place}: {error}{remedy}")
}

/// Returns registry and repository, as in a reference of Docker.
fn name_of(origin: &Origin) -> String {
    format!("{}/{}", origin.namespace.as_str(), origin.repository)
}

/// The sizes of blobs, looked up once per listing. `None` for a blob that is not stored.
#[derive(Default)]
struct BlobSizes(HashMap<Digest, Option<u64>>);

impl BlobSizes {
    fn of(&mut self, store: &StoreReader, digest: &Digest) -> Option<u64> {
        *self.0.entry(*digest).or_insert_with(|| store.blob_size(digest))
    }
}

/// A stored manifest.
struct Manifest {
    meta: Meta,
    /// The last use, in seconds since 1970.
    used: u64,
    /// `None` for a manifest of an unknown kind.
    links: Option<ManifestLinks>,
}

fn add_repository(
    store: &StoreReader,
    repository: StoredRepository,
    blobs: &mut BlobSizes,
    listing: &mut Listing,
) {
    let StoredRepository {
        origin,
        tags,
        manifests: digests,
    } = repository;
    let mut manifests = BTreeMap::new();
    for digest in digests {
        match store.manifest(&origin, &digest) {
            Ok(Some(StoredManifest { meta, body, used })) => {
                let links = ManifestLinks::parse(&body);
                manifests.insert(digest, Manifest { meta, links, used });
            }
            // Removed meanwhile.
            Ok(None) => {}
            Err(error) => {
                let name = format!("manifest {digest} of {}", name_of(&origin));
                listing.failures.push(unreadable(&name, &error));
            }
        }
    }
    let tagged: BTreeSet<_> = tags
        .iter()
        .map(|(tag, pointer)| (tag.as_str(), pointer.digest))
        .collect();
    let mut with_tag = HashSet::new();
    for (tag, digest) in &tagged {
        with_tag.insert(*digest);
        if let Some(found) = manifests.get(digest) {
            let image = image(&origin, Some(tag), digest, found, &manifests, store, blobs);
            listing.images.push(image);
        }
    }
    for (digest, found) in &manifests {
        if !with_tag.contains(digest) {
            let image = image(&origin, None, digest, found, &manifests, store, blobs);
            listing.images.push(image);
        }
    }
}

fn image(
    origin: &Origin,
    tag: Option<&str>,
    digest: &Digest,
    manifest: &Manifest,
    manifests: &BTreeMap<Digest, Manifest>,
    store: &StoreReader,
    blobs: &mut BlobSizes,
) -> Image {
    let mut image = Image {
        repository: name_of(origin),
        tag: tag.map(str::to_owned),
        digest: digest.to_string(),
        kind: match manifest.links {
            Some(ManifestLinks::Index(_)) => ImageKind::List,
            _ => ImageKind::Image,
        },
        created: Some(manifest.meta.created).filter(|created| *created > 0),
        used: manifest.used,
        size: manifest.meta.size,
        platforms: Vec::new(),
        blobs: 0,
        missing_blobs: 0,
        missing_manifests: 0,
    };
    let mut counter = Counter {
        store,
        manifests,
        blobs,
        counted: HashSet::from([*digest]),
        image: &mut image,
    };
    counter.count(manifest, 0);
    image.platforms.sort_unstable();
    image.platforms.dedup();
    image
}

/// Counts the content below a manifest into an image.
struct Counter<'a> {
    store: &'a StoreReader,
    manifests: &'a BTreeMap<Digest, Manifest>,
    blobs: &'a mut BlobSizes,
    counted: HashSet<Digest>,
    image: &'a mut Image,
}

impl Counter<'_> {
    fn count(&mut self, manifest: &Manifest, depth: usize) {
        match &manifest.links {
            None => {}
            Some(ManifestLinks::Image(descriptors)) => {
                for Descriptor { digest, .. } in descriptors {
                    self.count_blob(digest);
                }
            }
            Some(ManifestLinks::Index(children)) => {
                for child in children {
                    let digest = &child.descriptor.digest;
                    if depth == INDEX_DEPTH_MAX || !self.counted.insert(*digest) {
                        continue;
                    }
                    let Some(manifest) = self.manifests.get(digest) else {
                        self.image.missing_manifests += 1;
                        continue;
                    };
                    self.image.size += manifest.meta.size;
                    self.image.platforms.extend(child.platform.clone());
                    self.count(manifest, depth + 1);
                }
            }
        }
    }

    fn count_blob(&mut self, digest: &Digest) {
        if !self.counted.insert(*digest) {
            return;
        }
        match self.blobs.of(self.store, digest) {
            Some(size) => {
                self.image.blobs += 1;
                self.image.size += size;
            }
            None => self.image.missing_blobs += 1,
        }
    }
}
