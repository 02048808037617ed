//! A copy of the index, for long computations beside the use of the index.

use std::ops::Deref;

use hashbrown::HashTable;

use super::walk::for_each_slice;
use super::{Index, hash_of};
use crate::store::eviction::Kind;

/// Returns a copy of the index as of one moment, without the content of each registry. `lock` locks the index for a slice of `slice_objects`.
/// Other threads use the index between two slices. The slots that change meanwhile are copied again
/// at the end, and the whole index after too many changes.
pub fn copy_of<G: Deref<Target = Index>>(lock: impl Fn() -> G, slice_objects: u32) -> Index {
    loop {
        let (seen, objects, links, tags) = {
            let index = lock();
            let (objects, tags) = (index.objects.len(), index.tag_names.len());
            (index.changes.count(), objects, index.links.len(), tags)
        };
        let mut copy = Index::default();
        // Allocations of many pages, without the lock.
        copy.objects.reserve(objects);
        copy.links.reserve(links);
        copy.tag_names.reserve(tags);
        for_each_slice(&lock, slice_objects, |index, slice| {
            for number in slice {
                copy.copy_slot(index, number);
            }
        });
        let is_complete = {
            let index = lock();
            copy.copy_rest(&index, seen).is_some()
        };
        if is_complete {
            copy.fill_tables();
            return copy;
        }
    }
}

impl Index {
    /// Copies what changed after the first `seen` changes. `None` if too much changed.
    fn copy_rest(&mut self, index: &Index, seen: u64) -> Option<()> {
        let changed = index.changes.since(seen)?;
        for number in self.objects.len()..index.objects.len() {
            self.copy_slot(index, number as u32);
        }
        for number in changed {
            self.copy_slot(index, number);
        }
        self.repositories.copy_origins(&index.repositories);
        self.source_sets.clone_from(&index.source_sets);
        self.child_platforms.copy_known(&index.child_platforms);
        self.free.clone_from(&index.free);
        (self.bytes, self.reserved) = (index.bytes, index.reserved);
        (self.started, self.is_whole) = (index.started, index.is_whole);
        Some(())
    }

    /// Copies the slot `number`, which replaces an earlier copy.
    fn copy_slot(&mut self, index: &Index, number: u32) {
        let object = index.objects[number as usize].clone();
        self.long_digests.remove(&number);
        self.tag_names.remove(&number);
        self.links.remove(&number);
        self.child_platforms.remove(number);
        if object.is_long()
            && let Some(rest) = index.long_digests.get(&number)
        {
            self.long_digests.insert(number, *rest);
        }
        match object.kind() {
            Some(Kind::Tag) => {
                let name = index.tag_names.get(&number);
                self.tag_names.extend(name.map(|name| (number, name.clone())));
            }
            Some(Kind::Manifest) => {
                let links = index.links.get(&number);
                self.links.extend(links.map(|links| (number, links.clone())));
                self.child_platforms.copy(&index.child_platforms, number);
            }
            Some(Kind::Blob) | None => {}
        }
        match self.objects.get_mut(number as usize) {
            Some(slot) => *slot = object,
            None => self.objects.push(object),
        }
    }

    /// Fills the tables of a copy.
    fn fill_tables(&mut self) {
        self.repositories.fill_numbers();
        let (objects, names, hasher) = (&self.objects, &self.tag_names, &self.hasher);
        let hash = |&number: &u32| hash_of(objects, names, hasher, number);
        let mut table = HashTable::with_capacity(objects.len() - self.free.len());
        for (number, object) in objects.iter().enumerate() {
            if object.kind().is_some() {
                let number = number as u32;
                table.insert_unique(hash(&number), number, hash);
            }
        }
        self.table = table;
    }
}
