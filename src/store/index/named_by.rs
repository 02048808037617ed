//! The manifests that name an entry.

use std::sync::Arc;

use super::{Index, ObjectName};
use crate::oci::{Digest, Origin};
use crate::store::Key;
use crate::store::eviction::{Kind, Minute, Objects as _};

/// A stored blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IndexedBlob {
    /// Bytes on the disk.
    pub bytes: u64,
    pub stored: Minute,
    /// The last use of the blob itself.
    pub used: Minute,
    /// The stored manifests that name the blob, by repository and digest.
    pub manifests: Vec<(Arc<Origin>, Digest)>,
}

impl Index {
    /// Returns a stored blob with the manifests that name it. Compares every link of every manifest.
    pub fn blob(&self, digest: &Digest) -> Option<IndexedBlob> {
        let number = self.find(&Key::Blob(*digest))?;
        let blob = &self.objects[number as usize];
        let mut manifests = Vec::new();
        for manifest in self.of_kind(Kind::Manifest) {
            let links = self.links.get(&manifest).into_iter().flatten();
            // The comparison of prefixes is cheaper than a lookup of each link.
            if !links.into_iter().any(|link| *link == digest.prefix()) {
                continue;
            }
            let mut names_blob = false;
            self.for_each_named(manifest, |named| names_blob |= named == number);
            if let Some((ObjectName::Entry(Key::Manifest { digest, .. }), _)) = self.name(manifest)
                && names_blob
            {
                let repository = self.objects[manifest as usize].repository;
                manifests.push((self.repositories.get(repository), digest));
            }
        }
        Some(IndexedBlob {
            bytes: blob.bytes(),
            stored: blob.stored,
            used: blob.used,
            manifests,
        })
    }
}
