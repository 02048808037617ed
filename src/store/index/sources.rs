//! The source registries of the objects of an index, and the content of each registry.
//!
//! A manifest and a tag have the registry of their repository. A blob has the registries that its
//! sidecar names.

use super::Index;
use super::registries::{RegistryNumber, RegistryUsage};
use super::source_sets::SourceSets;
use super::{IndexedObject, Repositories};
use crate::oci::Namespace;
use crate::store::eviction::Kind;
use crate::store::{Key, Source};

impl Index {
    /// Adds `sources` to the registries of a blob. A manifest has the registry of its repository.
    pub fn add_sources(&mut self, key: &Key, sources: &[Source]) {
        let Some(number) = self.find(key).filter(|_| matches!(key, Key::Blob(_))) else {
            return;
        };
        // An entry of another program may name a registry that no client can name.
        let more = sources.iter().filter_map(|source| source.registry.parse().ok());
        let more: Vec<_> = more
            .filter_map(|registry| self.registries.number(&registry))
            .collect();
        let object = &mut self.objects[number as usize];
        let bytes = object.bytes();
        self.registries
            .remove(self.source_sets.get(object.source_set()), bytes);
        let set = self.source_sets.extend(object.source_set(), more.into_iter());
        object.set_source_set(set);
        self.registries.add(self.source_sets.get(set), bytes);
        self.changes.add(number);
    }

    /// Returns the number of `registry` for [`Index::usage_of`]. `None` beyond the limit.
    pub fn registry_number(&mut self, registry: &Namespace) -> Option<RegistryNumber> {
        self.registries.number(registry)
    }

    /// Returns the content of the registry `number`, which must exist.
    pub fn usage_of(&self, number: RegistryNumber) -> &RegistryUsage {
        self.registries.usage(number)
    }

    /// Returns the content of all registries, each at the place of its number.
    pub fn registry_usages(&self) -> &[RegistryUsage] {
        self.registries.all()
    }

    /// Adds `bytes` to the reserved bytes of the store, and of `registry`.
    pub fn reserve(&mut self, registry: Option<RegistryNumber>, bytes: u64) {
        self.reserved += bytes;
        if let Some(registry) = registry {
            self.registries.reserve(registry, bytes);
        }
    }

    /// Takes back the effect of [`Index::reserve`] with the same arguments.
    pub fn release(&mut self, registry: Option<RegistryNumber>, bytes: u64) {
        self.reserved -= bytes;
        if let Some(registry) = registry {
            self.registries.release(registry, bytes);
        }
    }

    /// Returns whether the object `number` exists, and `registry` is its only registry.
    pub fn is_only_of(&self, number: u32, registry: RegistryNumber) -> bool {
        let object = self.objects.get(number as usize);
        let object = object.filter(|object| object.kind().is_some());
        object.is_some_and(|object| holders(&self.repositories, &self.source_sets, object) == [registry])
    }

    /// Removes the object `number`, which must exist, and counts the eviction for its registries.
    pub fn evict_number(&mut self, number: u32) {
        let object = &self.objects[number as usize];
        let holders = holders(&self.repositories, &self.source_sets, object);
        self.registries.count_eviction(holders);
        self.remove_number(number);
    }

    /// Returns the number of repositories that take memory.
    #[cfg(test)]
    pub fn repositories_in_memory(&self) -> usize {
        self.repositories.len()
    }

    pub(super) fn count_object(&mut self, object: &IndexedObject) {
        self.bytes += object.bytes();
        if let Some(Kind::Manifest | Kind::Tag) = object.kind() {
            self.repositories.add_object(object.repository);
        }
        let holders = holders(&self.repositories, &self.source_sets, object);
        self.registries.add(holders, object.bytes());
    }

    /// Takes the object in the slot `number` from the totals, before the slot is emptied.
    pub(super) fn uncount_object(&mut self, number: u32) {
        let object = &self.objects[number as usize];
        self.bytes -= object.bytes();
        let holders = holders(&self.repositories, &self.source_sets, object);
        self.registries.remove(holders, object.bytes());
        match object.kind() {
            Some(Kind::Blob) => self.source_sets.release(object.source_set()),
            Some(Kind::Manifest | Kind::Tag) => self.repositories.remove_object(object.repository),
            None => {}
        }
    }
}

/// Returns the registries of `object`.
fn holders<'a>(
    repositories: &'a Repositories,
    sets: &'a SourceSets,
    object: &IndexedObject,
) -> &'a [RegistryNumber] {
    match object.kind() {
        Some(Kind::Blob) => sets.get(object.source_set()),
        Some(Kind::Manifest | Kind::Tag) => repositories.registry(object.repository).as_slice(),
        None => &[],
    }
}
