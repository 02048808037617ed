//! The newest pointer of tags seen lately, shared by all cores. Consulted only when a core's own copy is stale.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use super::Origin;
use crate::limits::TAGS_IN_MEMORY_MAX;
use crate::oci::Tag;
use crate::store::TagPointer;

#[derive(Default)]
pub struct TagTable(Mutex<HashMap<(Origin, Tag), TagPointer>>);

impl TagTable {
    pub fn get(&self, origin: &Origin, tag: &Tag) -> Option<TagPointer> {
        let key = (origin.clone(), tag.clone());
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned()
    }

    /// Keeps `pointer`, without the upstream's fields: they are on disk, and here they would be most of the memory.
    pub fn set(&self, origin: &Origin, tag: &Tag, mut pointer: TagPointer) {
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
        table.insert((origin.clone(), tag.clone()), pointer);
    }
}

/// Tags that are being asked for in the background.
#[derive(Default)]
pub struct Revalidating(Mutex<HashSet<(Origin, Tag)>>);

/// Proof of being the one who asks. Dropping it lets somebody else.
pub struct Asking<'a> {
    table: &'a Revalidating,
    key: (Origin, Tag),
}

impl Revalidating {
    /// Begins to ask, unless somebody does already.
    pub fn begin(&self, origin: &Origin, tag: &Tag) -> Option<Asking<'_>> {
        let key = (origin.clone(), tag.clone());
        let begun = self.lock().insert(key.clone());
        begun.then_some(Asking { table: self, key })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<(Origin, Tag)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.table.lock().remove(&self.key);
    }
}
