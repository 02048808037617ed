//! What content is kept under.

use crate::oci::{Digest, Namespace, Repository};

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
    pub fn digest(&self) -> &Digest {
        match self {
            Key::Blob(digest) | Key::Manifest { digest, .. } => digest,
        }
    }
}
