//! The newest pointers of recently used tags, shared by all cores. Consulted only if a core's own
//! copy is stale.

use std::collections::{HashMap, HashSet};

use crate::limits::TAGS_IN_MEMORY_MAX;
use crate::storage::{TagKey, TagPointer};
use crate::sync::Mutex;

#[derive(Default)]
pub struct TagTable(Mutex<HashMap<TagKey, TagPointer>>);

impl TagTable {
    pub fn get(&self, key: &TagKey) -> Option<TagPointer> {
        self.0.lock().get(key).cloned()
    }

    /// Stores `pointer` without the upstream's header fields. The fields are on disk, and would use
    /// most of the memory here.
    pub fn set(&self, key: &TagKey, mut pointer: TagPointer) {
        pointer.headers.clear();
        let mut table = self.0.lock();
        if table.len() >= TAGS_IN_MEMORY_MAX {
            // Removes every sixteenth entry. Any choice works, because each removed entry costs one
            // file read.
            let mut count = 0_usize;
            table.retain(|_, _| {
                count += 1;
                !count.is_multiple_of(16)
            });
        }
        table.insert(key.clone(), pointer);
    }
}

/// Tags with a background revalidation.
#[derive(Default)]
pub struct Revalidating(Mutex<HashSet<TagKey>>);

/// The right to revalidate a tag. Dropping it releases the right.
pub struct Revalidation<'a> {
    table: &'a Revalidating,
    key: TagKey,
}

impl Revalidating {
    /// Begins a revalidation, unless one is in progress.
    pub fn begin(&self, key: &TagKey) -> Option<Revalidation<'_>> {
        let started = self.0.lock().insert(key.clone());
        started.then(|| Revalidation {
            table: self,
            key: key.clone(),
        })
    }
}

impl Drop for Revalidation<'_> {
    fn drop(&mut self) {
        self.table.0.lock().remove(&self.key);
    }
}
