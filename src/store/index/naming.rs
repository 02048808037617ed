//! The images that name an entry.

use std::collections::{BTreeSet, HashSet};
use std::ops::Deref;

use foldhash::fast::RandomState;

use super::walk::for_each_slice;
use super::{Index, tag_of};
use crate::limits::INDEX_SLICE_OBJECTS;
use crate::oci::{Digest, DigestPrefix};
use crate::store::Key;
use crate::store::eviction::Kind;

/// A manifest: the number of its repository, and its digest.
type Place = (u32, DigestPrefix);
type Places = HashSet<Place, RandomState>;

/// Returns the references of the images that name the entry `key`, directly or through an index,
/// sorted, at most `count`. A manifest without a tag counts as an image if no index names it. The
/// entry itself may be missing. `lock` locks the index for a slice of its objects.
pub fn images_naming<G: Deref<Target = Index>>(lock: impl Fn() -> G, key: &Key, count: usize) -> Vec<String> {
    let mut named: Places = match key {
        Key::Blob(digest) => manifests_with(&lock, |_, link| link == digest.prefix()),
        Key::Manifest {
            namespace,
            repository,
            digest,
        } => match lock().repositories.find(namespace, repository) {
            Some(repository) => Places::from_iter([(repository, digest.prefix())]),
            None => return Vec::new(),
        },
    };
    let mut newest = named.clone();
    let mut with_parent = Places::default();
    while !newest.is_empty() {
        let mut parents = manifests_with(&lock, |repository, link| {
            let is_named = newest.contains(&(repository, link));
            if is_named {
                with_parent.insert((repository, link));
            }
            is_named
        });
        parents.retain(|parent| named.insert(*parent));
        newest = parents;
    }
    let mut references = BTreeSet::new();
    for_each_slice(&lock, INDEX_SLICE_OBJECTS, |index, slice| {
        for number in slice {
            let object = &index.objects[number as usize];
            let place = (object.repository, object.prefix());
            if object.kind() == Some(Kind::Tag)
                && named.contains(&place)
                && let Some(file_name) = index.tag_names.get(&number)
            {
                with_parent.insert(place);
                let (repository, tag) = (index.repository_name(object.repository), tag_of(file_name));
                references.insert(format!("{repository}:{tag}"));
            }
        }
    });
    let index = lock();
    for place in named.difference(&with_parent) {
        let digest = index.manifest_at(*place).unwrap_or(*key.digest());
        references.insert(format!("{}@{digest}", index.repository_name(place.0)));
    }
    references.into_iter().take(count).collect()
}

/// Returns the manifests with a link for which `is_wanted` returns true. Each call has the repository
/// of the manifest and a link.
fn manifests_with<G: Deref<Target = Index>>(
    lock: &impl Fn() -> G,
    mut is_wanted: impl FnMut(u32, DigestPrefix) -> bool,
) -> Places {
    let mut found = Places::default();
    for_each_slice(lock, INDEX_SLICE_OBJECTS, |index, slice| {
        for number in slice {
            let object = &index.objects[number as usize];
            if object.kind() != Some(Kind::Manifest) {
                continue;
            }
            let links = index.links.get(&number).into_iter().flatten();
            // Each link is visited, because a visit has an effect.
            if links.filter(|link| is_wanted(object.repository, **link)).count() > 0 {
                found.insert((object.repository, object.prefix()));
            }
        }
    });
    found
}

impl Index {
    pub(super) fn manifest_at(&self, (repository, prefix): Place) -> Option<Digest> {
        let is_wanted = |number: &&u32| {
            let object = &self.objects[**number as usize];
            object.kind() == Some(Kind::Manifest)
                && object.repository == repository
                && object.prefix() == prefix
        };
        let number = *self.table.iter_hash(prefix.0).find(is_wanted)?;
        Some(*self.key(number)?.digest())
    }

    fn repository_name(&self, number: u32) -> String {
        let origin = self.repositories.get(number);
        format!("{}/{}", origin.namespace, origin.repository)
    }
}
