//! What content is kept under.

use crate::oci::{Digest, Namespace, Origin, Repository};

/// Blobs are shared by all registries; manifests belong to a repository.
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

    pub fn digest(&self) -> &Digest {
        match self {
            Key::Blob(digest) | Key::Manifest { digest, .. } => digest,
        }
    }
}
