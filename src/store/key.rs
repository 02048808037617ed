//! Keys of stored content.

use crate::oci::{Digest, Namespace, Origin, Repository};

/// The key of an entry. All registries share blobs. A manifest belongs to one repository.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Key {
    Blob(Digest),
    Manifest {
        namespace: Namespace,
        repository: Repository,
        digest: Digest,
    },
}

impl Key {
    /// Returns the key of the manifest `digest` in the repository `origin`.
    pub fn manifest(origin: &Origin, digest: &Digest) -> Self {
        Key::Manifest {
            namespace: origin.namespace.clone(),
            repository: origin.repository.clone(),
            digest: *digest,
        }
    }

    /// Returns the path of the data file below the directory of a store, or below the prefix of a
    /// bucket.
    pub fn path(&self) -> String {
        super::layout::content(self).display().to_string()
    }

    pub fn digest(&self) -> &Digest {
        match self {
            Key::Blob(digest) | Key::Manifest { digest, .. } => digest,
        }
    }
}
