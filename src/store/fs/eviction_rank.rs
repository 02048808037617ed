//! The place of an image in the order of evictions.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::FsStore;
use crate::oci::{Digest, DigestPrefix};
use crate::store::eviction::{Minute, Need, Objects, choose};
use crate::store::index::ObjectName;

/// The content that leaves before an image if evictions go on and no content is used meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvictionRank {
    pub objects_before: u64,
    /// Bytes on the disk.
    pub bytes_before: u64,
}

impl FsStore {
    /// Returns the content that leaves before the first of `digests`. `None` if no eviction may remove
    /// any of them, and before the index is whole. Blocks.
    pub fn eviction_rank(&self, digests: &[Digest]) -> Option<EvictionRank> {
        let everything = Need {
            bytes: u64::MAX,
            files: u64::MAX,
            metadata_bytes_max: u64::MAX,
        };
        let index = self.whole_index()?;
        let pins = self.pins.lock().clone();
        let objects = index.with_pins(&pins).with_held(&self.upload_holds.digests());
        let digests: HashSet<DigestPrefix> = digests.iter().map(Digest::prefix).collect();
        let mut before = EvictionRank {
            objects_before: 0,
            bytes_before: 0,
        };
        for number in choose(&objects, Minute::now(), everything) {
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
}
