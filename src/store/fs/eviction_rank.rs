//! The place of an image in the order of evictions.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::FsStore;
use super::room::registry_usage;
use crate::oci::{Digest, DigestPrefix, Namespace};
use crate::store::bounds::Bounds;
use crate::store::eviction::{Minute, Need, Objects, choose};
use crate::store::index::{Index, ObjectName, RegistryNumber};
use crate::store::space::Space;

/// The content that leaves before an image if evictions go on and no content is used meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvictionRank {
    pub objects_before: u64,
    /// Bytes on the disk.
    pub bytes_before: u64,
    #[serde(default)]
    pub bound: RankedBound,
}

/// The bound whose evictions reach an image first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RankedBound {
    /// A bound of the whole store.
    #[default]
    Store,
    /// `cache_max_size` of the registry, which evicts content of the registry only.
    Registry,
}

impl FsStore {
    /// Returns the content that leaves before the first of `digests`, content of `registry`. If the bound
    /// of the registry is nearer than the bounds of the store, only content of the registry counts.
    /// `None` if no eviction may remove any of them, and before the index is whole. Blocks.
    pub fn eviction_rank(&self, registry: &Namespace, digests: &[Digest]) -> Option<EvictionRank> {
        let index = self.whole_index()?;
        let pins = self.pins.lock().clone();
        let held = self.upload_holds.digests();
        let digests: HashSet<DigestPrefix> = digests.iter().map(Digest::prefix).collect();
        let objects = || index.with_pins(&pins).with_held(&held);
        let of_registry = self.nearer_registry_bound(registry).and_then(|number| {
            let objects = objects().of_registry(number);
            rank_among(&index, &objects, &digests, RankedBound::Registry)
        });
        of_registry.or_else(|| rank_among(&index, &objects(), &digests, RankedBound::Store))
    }

    /// Returns the number of `registry` if its bound leaves less room than the bounds of the store.
    fn nearer_registry_bound(&self, registry: &Namespace) -> Option<RegistryNumber> {
        let space = Space::of(&self.root);
        let of_registry = self.registry_bounds(registry, &space)?;
        let of_store = Bounds::new(&self.bounds, &space);
        let mut index = self.index.lock();
        let number = index.registry_number(registry)?;
        let usage = registry_usage(&index, number, &space);
        let room = of_registry.room(&usage);
        (room < of_store.room(&self.usage(&index, space))).then_some(number)
    }
}

/// Returns the rank of the first of `digests` among `objects` of `index`.
fn rank_among(
    index: &Index,
    objects: &impl Objects,
    digests: &HashSet<DigestPrefix>,
    bound: RankedBound,
) -> Option<EvictionRank> {
    let everything = Need {
        bytes: u64::MAX,
        files: u64::MAX,
        metadata_bytes_max: u64::MAX,
    };
    let mut before = EvictionRank {
        objects_before: 0,
        bytes_before: 0,
        bound,
    };
    for number in choose(objects, Minute::now(), everything) {
        match index.name(number) {
            Some((ObjectName::Entry(key), _)) if digests.contains(&key.digest().prefix()) => {
                return Some(before);
            }
            _ => {}
        }
        before.objects_before += 1;
        before.bytes_before += objects.get(number).map_or(0, |object| object.bytes);
    }
    None
}
