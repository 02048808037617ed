//! The stored images: one per tag, and one per manifest without a tag.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::{fmt, io};

use serde::Serialize;

use crate::oci::{Descriptor, Digest, ManifestLinks, Namespace, Origin};
use crate::store::{Meta, StoreReader, StoredManifest, StoredRepository};

/// Levels of indexes below an index. The specification allows any depth, and clients read one.
pub(super) const INDEX_DEPTH_MAX: usize = 4;

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

    /// Returns whether the store can serve a pull: of an image all blobs, of a list at least a
    /// platform with all blobs.
    pub fn is_complete(&self) -> bool {
        let has_platform = self.kind == ImageKind::Image || !self.platforms.is_empty();
        self.missing_blobs == 0 && (has_platform || self.missing_manifests == 0)
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
    let visit = &mut |repository| {
        let mut images = RepositoryImages::new(store, repository);
        for name in images.names() {
            listing.images.extend(images.image(&name, &mut blobs));
        }
        listing.failures.append(&mut images.failures);
        ControlFlow::Continue(())
    };
    let _all = store.repositories(&|_| true, visit, &mut |path, error| {
        failures.push(unreadable(&path.display(), error));
    });
    listing.failures.append(&mut failures);
    listing
}

pub(super) fn unreadable(place: &dyn fmt::Display, error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => "; run the command as the user of the cache",
        _ => "; check the disk",
    };
    format!("cannot read {place}: {error}{remedy}")
}

/// Returns registry and repository, as in a reference of Docker.
pub(super) fn name_of(origin: &Origin) -> String {
    format!("{}/{}", origin.namespace.as_str(), origin.repository)
}

/// The sizes of blobs by the places of their stores, looked up once per listing. `None` for a blob that is not stored.
#[derive(Default)]
pub(super) struct BlobSizes(HashMap<(Option<usize>, Digest), Option<u64>>);

impl BlobSizes {
    pub fn of(&mut self, store: &StoreReader, namespace: &Namespace, digest: &Digest) -> Option<u64> {
        let key = (store.place_of(namespace), *digest);
        let size = || store.blob_size(namespace, digest);
        *self.0.entry(key).or_insert_with(size)
    }
}

/// A stored manifest.
pub(super) struct Manifest {
    pub meta: Meta,
    /// The last use, in seconds since 1970.
    pub used: u64,
    /// `None` for a manifest of an unknown kind.
    pub links: Option<ManifestLinks>,
}

/// The place of an image in its repository. Tags come first.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct NameInRepository {
    pub is_untagged: bool,
    /// Empty without a tag.
    pub tag: String,
    pub digest: String,
}

/// The images of a repository. Manifests are read when an image needs them.
pub(super) struct RepositoryImages<'a> {
    store: &'a StoreReader,
    pub repository: StoredRepository,
    manifests: HashMap<Digest, Option<Rc<Manifest>>>,
    pub failures: Vec<String>,
}

impl<'a> RepositoryImages<'a> {
    pub fn new(store: &'a StoreReader, repository: StoredRepository) -> Self {
        RepositoryImages {
            store,
            repository,
            manifests: HashMap::new(),
            failures: Vec::new(),
        }
    }

    /// Returns a name for each tag, and for each manifest without a tag.
    pub fn names(&self) -> BTreeSet<NameInRepository> {
        let StoredRepository { tags, manifests, .. } = &self.repository;
        let tagged: HashSet<&Digest> = tags.iter().map(|(_, pointer)| &pointer.digest).collect();
        let untagged = manifests.iter().filter(|digest| !tagged.contains(digest));
        let untagged = untagged.map(|digest| NameInRepository {
            is_untagged: true,
            tag: String::new(),
            digest: digest.to_string(),
        });
        let tagged = tags.iter().map(|(tag, pointer)| NameInRepository {
            is_untagged: false,
            tag: tag.to_string(),
            digest: pointer.digest.to_string(),
        });
        tagged.chain(untagged).collect()
    }

    /// Returns the image `name`. `None` if its manifest is not stored.
    pub fn image(&mut self, name: &NameInRepository, blobs: &mut BlobSizes) -> Option<Image> {
        let digest: Digest = name.digest.parse().ok()?;
        let manifest = self.manifest(&digest)?;
        let mut image = Image {
            repository: name_of(&self.repository.origin),
            tag: (!name.is_untagged).then(|| name.tag.clone()),
            digest: name.digest.clone(),
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
            repository: self,
            blobs,
            counted: HashSet::from([digest]),
            image: &mut image,
        };
        counter.count(&manifest, 0);
        image.platforms.sort_unstable();
        image.platforms.dedup();
        Some(image)
    }

    /// Returns a stored manifest. An unreadable manifest counts as absent and is a failure.
    pub fn manifest(&mut self, digest: &Digest) -> Option<Rc<Manifest>> {
        if let Some(known) = self.manifests.get(digest) {
            return known.clone();
        }
        let origin = &self.repository.origin;
        let manifest = match self.store.manifest(origin, digest) {
            Ok(Some(StoredManifest { meta, body, used })) => {
                let links = ManifestLinks::parse(&body);
                Some(Rc::new(Manifest { meta, used, links }))
            }
            // Removed meanwhile, or never stored.
            Ok(None) => None,
            Err(error) => {
                let name = format!("manifest {digest} of {}", name_of(origin));
                self.failures.push(unreadable(&name, &error));
                None
            }
        };
        self.manifests.insert(*digest, manifest.clone());
        manifest
    }
}

/// Counts the content below a manifest into an image.
struct Counter<'a, 'r> {
    repository: &'a mut RepositoryImages<'r>,
    blobs: &'a mut BlobSizes,
    counted: HashSet<Digest>,
    image: &'a mut Image,
}

impl Counter<'_, '_> {
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
                    let Some(manifest) = self.repository.manifest(digest) else {
                        self.image.missing_manifests += 1;
                        continue;
                    };
                    self.image.size += manifest.meta.size;
                    self.image.platforms.extend(child.platform.clone());
                    self.count(&manifest, depth + 1);
                }
            }
        }
    }

    fn count_blob(&mut self, digest: &Digest) {
        if !self.counted.insert(*digest) {
            return;
        }
        let (store, origin) = (self.repository.store, &self.repository.repository.origin);
        match self.blobs.of(store, &origin.namespace, digest) {
            Some(size) => {
                self.image.blobs += 1;
                self.image.size += size;
            }
            None => self.image.missing_blobs += 1,
        }
    }
}
