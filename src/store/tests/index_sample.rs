//! Sample objects of an index.

use crate::oci::{Algorithm, Descriptor, Digest, ManifestLinks, Origin};
use crate::store::Key;
use crate::store::eviction::Minute;
use crate::store::index::{Index, ObjectFacts};

pub(super) const MIB: u64 = 1024 * 1024;

pub(super) fn digest(name: &str) -> Digest {
    Digest::of(Algorithm::Sha256, name.as_bytes())
}

pub(super) fn blob(name: &str) -> Key {
    Key::Blob(digest(name))
}

pub(super) fn origin(repository: &str) -> Origin {
    Origin {
        namespace: "r.example".parse().unwrap(),
        repository: repository.parse().unwrap(),
    }
}

pub(super) fn manifest(repository: &str, name: &str) -> Key {
    Key::manifest(&origin(repository), &digest(name))
}

pub(super) fn facts(mib: u64, minute: u32) -> ObjectFacts {
    ObjectFacts::of_new(mib * MIB, Minute(minute))
}

pub(super) fn image(layers: &[&str]) -> ManifestLinks {
    let layers = layers.iter().map(|name| Descriptor {
        digest: digest(name),
        size: 1,
    });
    ManifestLinks::Image(layers.collect())
}

pub(super) fn insert_tag(index: &mut Index, repository: &str, tag: &str, names: &str) {
    let Origin {
        namespace,
        repository,
    } = origin(repository);
    let names = digest(names).prefix();
    index.insert_tag(&namespace, &repository, tag, names, facts(0, 1));
}
