//! The newest pointer of tags seen lately, shared by all cores. Consulted only when a core's own copy is stale.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::Origin;
use crate::limits::TAGS_IN_MEMORY_MAX;
use crate::oci::Tag;
use crate::store::TagPointer;

/// A tag as clients of one accept class see it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TagKey {
    pub origin: Origin,
    pub tag: Tag,
    /// See [`crate::oci::Accept::class_name`].
    pub class: String,
}

#[derive(Default)]
pub struct TagTable(Mutex<HashMap<TagKey, TagPointer>>);

impl TagTable {
    pub fn get(&self, key: &TagKey) -> Option<TagPointer> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Keeps `pointer`, without the upstream's fields: they are on disk, and here they would be most of the memory.
    pub fn set(&self, key: &TagKey, mut pointer: TagPointer) {
        pointer.headers.clear();
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() >= TAGS_IN_MEMORY_MAX {
            // Forgetting costs a file read each. Any sixteenth will do.
            let mut count = 0_usize;
            table.retain(|_, _| {
                count += 1;
                !count.is_multiple_of(16)
            });
        }
        table.insert(key.clone(), pointer);
    }
}

/// Tags that are being asked for in the background.
#[derive(Default)]
pub struct Revalidating(Mutex<HashSet<TagKey>>);

/// Proof of being the one who asks. Dropping it lets somebody else.
pub struct Asking<'a> {
    table: &'a Revalidating,
    key: TagKey,
}

impl Revalidating {
    /// Begins to ask, unless somebody does already.
    pub fn begin(&self, key: &TagKey) -> Option<Asking<'_>> {
        let begun = self.lock().insert(key.clone());
        begun.then(|| Asking {
            table: self,
            key: key.clone(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<TagKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.table.lock().remove(&self.key);
    }
}
