//! The stored images with the digests of their blobs, for lists in the form of other caches.

use std::ops::ControlFlow;

use super::images::{RepositoryImages, name_of};
use crate::oci::{Digest, ManifestLinks};
use crate::store::{StoreReader, StoredRepository};

/// A stored image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedManifest {
    /// Registry and repository, with the tag or the digest.
    pub reference: String,
    pub digest: Digest,
    /// Time of storage, in seconds since 1970. `None` if an older system stored the manifest.
    pub created: Option<u64>,
    /// The last use of the manifest, in seconds since 1970. Up to an hour late.
    pub used: u64,
    /// The config and the layers of an image. Empty for an index.
    pub blobs: Vec<Digest>,
}

/// Lists the images that `is_wanted`, at most `count`, sorted by reference. Needs no lock of the
/// store. Leaves out content that cannot be read. Blocks.
pub fn list_manifests(
    store: &StoreReader,
    is_wanted: impl Fn(&ListedManifest) -> bool,
    count: usize,
) -> Vec<ListedManifest> {
    let mut listed = Vec::new();
    let visit = &mut |repository: StoredRepository| {
        let name = name_of(&repository.origin);
        let mut images = RepositoryImages::new(store, repository);
        for place in images.names() {
            if listed.len() == count {
                return ControlFlow::Break(());
            }
            let Ok(digest) = place.digest.parse() else {
                continue;
            };
            let Some(manifest) = images.manifest(&digest) else {
                continue;
            };
            let image = ListedManifest {
                reference: match place.is_untagged {
                    true => format!("{name}@{digest}"),
                    false => format!("{name}:{}", place.tag),
                },
                digest,
                created: Some(manifest.meta.created).filter(|created| *created > 0),
                used: manifest.used,
                blobs: match &manifest.links {
                    Some(ManifestLinks::Image(blobs)) => blobs.iter().map(|blob| blob.digest).collect(),
                    _ => Vec::new(),
                },
            };
            if is_wanted(&image) {
                listed.push(image);
            }
        }
        ControlFlow::Continue(())
    };
    let _end = store.repositories(&|_| true, visit, &mut |_, _| ());
    listed.sort_by(|a, b| a.reference.cmp(&b.reference));
    listed
}
