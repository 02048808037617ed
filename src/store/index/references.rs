//! The number of manifests that name each blob.

use std::collections::BTreeMap;
use std::ops::Deref;

use super::Index;
use super::walk::for_each_slice;
use crate::limits::INDEX_SLICE_OBJECTS;
use crate::oci::{Digest, DigestPrefix};
use crate::store::Key;
use crate::store::eviction::Kind;

/// Returns the `count` lowest digests of stored blobs that `is_wanted`, each with the number of
/// manifests that name it. `lock` locks the index for a slice of its objects.
pub fn blob_references<G: Deref<Target = Index>>(
    lock: impl Fn() -> G,
    is_wanted: impl Fn(&Digest) -> bool,
    count: usize,
) -> Vec<(Digest, u64)> {
    let mut lowest: BTreeMap<Digest, u64> = BTreeMap::new();
    for_each_slice(&lock, INDEX_SLICE_OBJECTS, |index, slice| {
        for number in slice {
            if let Some(Key::Blob(digest)) = index.key(number)
                && is_wanted(&digest)
            {
                lowest.insert(digest, 0);
                if lowest.len() > count {
                    lowest.pop_last();
                }
            }
        }
    });
    let mut references: BTreeMap<DigestPrefix, u64> =
        lowest.keys().map(|digest| (digest.prefix(), 0)).collect();
    for_each_slice(&lock, INDEX_SLICE_OBJECTS, |index, slice| {
        for number in slice {
            if index.objects[number as usize].kind() != Some(Kind::Manifest) {
                continue;
            }
            for link in index.links.get(&number).into_iter().flatten() {
                if let Some(references) = references.get_mut(link) {
                    *references += 1;
                }
            }
        }
    });
    let references = |digest: &Digest| references.get(&digest.prefix()).copied().unwrap_or(0);
    lowest
        .into_keys()
        .map(|digest| (digest, references(&digest)))
        .collect()
}
