//! The entries and tags of a local store in memory: their sizes, their last use, and the content that
//! each manifest names. Commits, removals and the scan at start keep the index.
//!
//! An object takes 56 bytes, 5 to 10 bytes in the table, and 8 bytes for each name in a manifest. A
//! million objects, of them 150,000 manifests, took 82 MiB.

mod changes;
mod copy;
mod leaving;
mod naming;
mod object;
mod of_registry;
mod pinned;
mod platforms;
mod references;
mod registries;
mod removal;
mod repositories;
mod source_sets;
mod sources;
mod walk;

use std::collections::HashMap;
use std::hash::BuildHasher as _;
use std::ops::Range;
use std::sync::Arc;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use super::Key;
use super::eviction::{Kind, Minute, Object, Objects};
use crate::oci::{Digest, DigestPrefix, ManifestLinks, Namespace, Origin, Platforms, Repository};

pub use copy::copy_of;
pub use leaving::Leaving;
pub use naming::images_naming;
pub use references::blob_references;
pub use registries::{RegistryNumber, RegistryUsage};
pub use removal::{IndexedImage, PlannedObject, RemovalLimits, RemovalPlan};
pub use walk::{EntrySet, entries_after};

use changes::Changes;
use object::{IndexedObject, SPLIT_BYTES};
use platforms::ChildPlatforms;
use registries::RegistryTable;
use repositories::Repositories;
use source_sets::{NO_SOURCES, SourceSets};

/// The times and the size of an object.
#[derive(Clone, Copy, Debug)]
pub struct ObjectFacts {
    /// Bytes on the disk.
    pub bytes: u64,
    pub stored: Minute,
    /// The last use, as far as known.
    pub used: Minute,
}

impl ObjectFacts {
    /// Returns the facts of an object that was just stored.
    pub fn of_new(bytes: u64, now: Minute) -> Self {
        ObjectFacts {
            bytes,
            stored: now,
            used: now,
        }
    }

    /// Returns the facts without times after `now`.
    fn until(self, now: Minute) -> Self {
        ObjectFacts {
            stored: self.stored.min(now),
            used: self.used.min(now),
            ..self
        }
    }
}

/// The name of a file, or of a file and its sidecar.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ObjectName {
    Entry(Key),
    /// A tag pointer.
    Tag {
        origin: Arc<Origin>,
        file_name: Box<str>,
    },
}

/// The index of a store.
#[derive(Debug, Default)]
pub struct Index {
    /// The start of the process. Uses of earlier processes are not counted.
    started: Minute,
    /// Slots by number. A slot without an object is in `free`.
    objects: Vec<IndexedObject>,
    free: Vec<u32>,
    /// Numbers by digest, and by repository and file name for tags.
    table: HashTable<u32>,
    hasher: RandomState,
    repositories: Repositories,
    /// The registries of blobs.
    source_sets: SourceSets,
    registries: RegistryTable,
    /// The second halves of SHA-512 digests.
    long_digests: HashMap<u32, [u8; SPLIT_BYTES]>,
    /// The file names of tags.
    tag_names: HashMap<u32, Box<str>>,
    /// The content that each manifest names.
    links: HashMap<u32, Box<[DigestPrefix]>>,
    child_platforms: ChildPlatforms,
    changes: Changes,
    /// Bytes on the disk of all objects.
    bytes: u64,
    /// Bytes that unfinished ingests may still write.
    reserved: u64,
    /// Whether the scan has seen every object of earlier processes.
    is_whole: bool,
}

impl Index {
    /// Creates the index of a process that starts at `started`.
    pub fn new(started: Minute) -> Self {
        Index {
            started,
            ..Index::default()
        }
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn len(&self) -> usize {
        self.objects.len() - self.free.len()
    }

    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Records that the scan has seen every object.
    pub fn set_whole(&mut self) {
        self.is_whole = true;
    }

    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Adds an entry that was just verified and stored, or replaces it. `links` are the links of a
    /// manifest.
    pub fn insert(&mut self, key: &Key, facts: ObjectFacts, links: Option<&ManifestLinks>) {
        self.remove(key);
        let number = self.add_entry(key, facts, links);
        self.objects[number as usize].set_verified(true);
    }

    /// Adds an entry of an earlier process, unless the entry is known. Times after the start of the
    /// process come from a wrong clock.
    pub fn insert_found(&mut self, key: &Key, facts: ObjectFacts, links: Option<&ManifestLinks>) {
        if self.find(key).is_none() {
            self.add_entry(key, facts.until(self.started), links);
        }
    }

    fn add_entry(&mut self, key: &Key, facts: ObjectFacts, links: Option<&ManifestLinks>) -> u32 {
        let (kind, repository) = match key {
            Key::Blob(_) => (Kind::Blob, NO_SOURCES),
            Key::Manifest {
                namespace,
                repository,
                ..
            } => (Kind::Manifest, self.repository_number(namespace, repository)),
        };
        let (object, rest) = IndexedObject::new(kind, repository, key.digest(), facts);
        let number = self.add(object);
        if let Some(rest) = rest {
            self.long_digests.insert(number, rest);
        }
        if let Some(links) = links {
            self.links
                .insert(number, links.digests().map(|d| d.prefix()).collect());
            self.child_platforms.insert(number, links);
        }
        self.link(number);
        number
    }

    /// Adds or replaces the tag pointer in `file_name`.
    pub fn insert_tag(
        &mut self,
        namespace: &Namespace,
        repository: &Repository,
        file_name: &str,
        names: DigestPrefix,
        facts: ObjectFacts,
    ) {
        let known = self.repositories.find(namespace, repository);
        if let Some(number) = known.and_then(|known| self.find_tag(known, file_name)) {
            self.remove_number(number);
        }
        let repository = self.repository_number(namespace, repository);
        self.add_tag(repository, file_name, names, facts);
    }

    /// Adds a tag pointer of an earlier process, like [`Index::insert_found`].
    pub fn insert_found_tag(
        &mut self,
        namespace: &Namespace,
        repository: &Repository,
        file_name: &str,
        names: DigestPrefix,
        facts: ObjectFacts,
    ) {
        let repository = self.repository_number(namespace, repository);
        if self.find_tag(repository, file_name).is_none() {
            self.add_tag(repository, file_name, names, facts.until(self.started));
        }
    }

    fn repository_number(&mut self, namespace: &Namespace, repository: &Repository) -> u32 {
        let registries = &mut self.registries;
        self.repositories
            .number(namespace, repository, || registries.number(namespace))
    }

    fn add_tag(&mut self, repository: u32, file_name: &str, names: DigestPrefix, facts: ObjectFacts) {
        let number = self.add(IndexedObject::tag(repository, names, facts));
        self.tag_names.insert(number, file_name.into());
        self.link(number);
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(number) = self.find(key) {
            self.remove_number(number);
        }
    }

    /// Returns whether this process has hashed the content of an entry, with success.
    pub fn is_verified(&self, key: &Key) -> bool {
        self.find(key)
            .is_some_and(|number| self.objects[number as usize].is_verified())
    }

    /// Records the result of a hash. Returns false if the index does not have the entry.
    pub fn set_verified(&mut self, key: &Key, is_verified: bool) -> bool {
        let found = self.find(key);
        if let Some(number) = found {
            self.objects[number as usize].set_verified(is_verified);
        }
        found.is_some()
    }

    /// Returns the numbers of the content `digest`, in every repository.
    fn entries_with(&self, digest: DigestPrefix) -> impl Iterator<Item = u32> {
        let numbers = self.table.iter_hash(digest.0).copied();
        numbers.filter(move |&number| {
            let object = &self.objects[number as usize];
            object.kind() != Some(Kind::Tag) && object.prefix() == digest
        })
    }

    /// Returns the first `count` repositories of the registry `namespace` with the manifest `digest`.
    pub fn repositories_with(
        &self,
        namespace: &Namespace,
        digest: &Digest,
        count: usize,
    ) -> Vec<Arc<Origin>> {
        let keys = self.entries_with(digest.prefix()).filter_map(|number| {
            let object = &self.objects[number as usize];
            let is_wanted = object.kind() == Some(Kind::Manifest)
                && object.digest(self.long_digests.get(&number)) == *digest;
            is_wanted.then(|| self.repositories.get(object.repository))
        });
        keys.filter(|origin| origin.namespace == *namespace)
            .take(count)
            .collect()
    }

    /// Records whether the bucket behind the directory has the entry `key`.
    pub fn set_in_bucket(&mut self, key: &Key, is_in_bucket: bool) {
        if let Some(number) = self.find(key) {
            self.objects[number as usize].set_in_bucket(is_in_bucket);
        }
    }

    #[cfg(test)]
    pub fn is_in_bucket(&self, key: &Key) -> bool {
        let number = self.find(key);
        number.is_some_and(|number| self.objects[number as usize].is_in_bucket())
    }

    /// Records a use of the content `digest`, in every repository.
    pub fn record_use(&mut self, digest: DigestPrefix, now: Minute) {
        for &number in self.table.iter_hash(digest.0) {
            let object = &mut self.objects[number as usize];
            if object.kind() != Some(Kind::Tag) && object.prefix() == digest {
                object.record_use(now);
            }
        }
    }

    /// Returns the entries among `numbers` whose last use is at least `minutes` after the last use on
    /// disk, and marks the uses as on disk.
    pub fn take_unsaved_uses(&mut self, minutes: u32, numbers: Range<u32>) -> Vec<(Key, Minute)> {
        let mut unsaved = Vec::new();
        for number in numbers.start..numbers.end.min(self.numbers()) {
            let object = &mut self.objects[number as usize];
            if object.used.since(object.saved) >= minutes {
                object.saved = object.used;
                let used = object.used;
                // A tag has no last use on disk.
                unsaved.extend(self.key(number).map(|key| (key, used)));
            }
        }
        unsaved
    }

    /// Returns the name of the object `number`, and its last use.
    pub fn name(&self, number: u32) -> Option<(ObjectName, Minute)> {
        let object = self.objects.get(number as usize)?;
        let name = match object.kind()? {
            Kind::Tag => ObjectName::Tag {
                origin: self.repositories.get(object.repository),
                file_name: self.tag_names.get(&number)?.clone(),
            },
            Kind::Blob | Kind::Manifest => ObjectName::Entry(self.key(number)?),
        };
        Some((name, object.used))
    }

    /// Returns the times and the size of an entry.
    pub fn facts(&self, key: &Key) -> Option<ObjectFacts> {
        let object = &self.objects[self.find(key)? as usize];
        Some(ObjectFacts {
            bytes: object.bytes(),
            stored: object.stored,
            used: object.used,
        })
    }

    /// Returns the repository of `name` if the repository has no manifest and no tag.
    pub fn repository_without_content(&self, name: &ObjectName) -> Option<Origin> {
        let origin = match name {
            ObjectName::Entry(Key::Manifest {
                namespace,
                repository,
                ..
            }) => Origin {
                namespace: namespace.clone(),
                repository: repository.clone(),
            },
            ObjectName::Tag { origin, .. } => Origin::clone(origin),
            ObjectName::Entry(Key::Blob(_)) => return None,
        };
        let known = self.repositories.find(&origin.namespace, &origin.repository);
        known.is_none().then_some(origin)
    }

    /// Returns the last known use of the object `number`.
    pub fn last_use(&self, number: u32) -> Option<Minute> {
        let object = self.objects.get(number as usize)?;
        object.kind().map(|_| object.used)
    }

    fn key(&self, number: u32) -> Option<Key> {
        let object = self.objects.get(number as usize)?;
        let digest = object.digest(self.long_digests.get(&number));
        match object.kind()? {
            Kind::Blob => Some(Key::Blob(digest)),
            Kind::Manifest => Some(Key::manifest(&self.repositories.get(object.repository), &digest)),
            Kind::Tag => None,
        }
    }

    fn find(&self, key: &Key) -> Option<u32> {
        let repository = match key {
            Key::Blob(_) => None,
            Key::Manifest {
                namespace,
                repository,
                ..
            } => Some(self.repositories.find(namespace, repository)?),
        };
        let is_wanted = |number: &u32| {
            let object = &self.objects[*number as usize];
            let in_place = match repository {
                None => object.kind() == Some(Kind::Blob),
                Some(place) => object.kind() == Some(Kind::Manifest) && object.repository == place,
            };
            in_place && object.digest(self.long_digests.get(number)) == *key.digest()
        };
        self.table.find(key.digest().prefix().0, is_wanted).copied()
    }

    fn find_tag(&self, repository: u32, file_name: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((repository, file_name));
        let is_wanted = |number: &u32| {
            self.objects[*number as usize].repository == repository
                && self
                    .tag_names
                    .get(number)
                    .is_some_and(|name| **name == *file_name)
        };
        self.table.find(hash, is_wanted).copied()
    }

    /// Puts `object` into a free slot, without a place in the table.
    fn add(&mut self, object: IndexedObject) -> u32 {
        self.count_object(&object);
        let number = match self.free.pop() {
            Some(number) => {
                self.objects[number as usize] = object;
                number
            }
            None => {
                self.objects.push(object);
                u32::try_from(self.objects.len() - 1).expect("objects of 4 KiB fill 16 TiB before")
            }
        };
        self.changes.add(number);
        number
    }

    fn link(&mut self, number: u32) {
        let hash = self.hash(number);
        let (objects, names, hasher) = (&self.objects, &self.tag_names, &self.hasher);
        self.table
            .insert_unique(hash, number, |&number| hash_of(objects, names, hasher, number));
    }

    fn hash(&self, number: u32) -> u64 {
        hash_of(&self.objects, &self.tag_names, &self.hasher, number)
    }

    /// Removes the object `number`, which must exist.
    pub fn remove_number(&mut self, number: u32) {
        let hash = self.hash(number);
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == number) {
            entry.remove();
        }
        self.uncount_object(number);
        self.objects[number as usize].clear();
        self.long_digests.remove(&number);
        self.tag_names.remove(&number);
        self.links.remove(&number);
        self.child_platforms.remove(number);
        self.free.push(number);
        self.changes.add(number);
    }
}

/// Returns the tag in the name of a pointer's file, which may end with a class of clients.
fn tag_of(file_name: &str) -> &str {
    file_name.split_once('@').map_or(file_name, |(tag, _class)| tag)
}

/// Digests are uniform already. An upstream that makes equal prefixes only slows its own lookups.
fn hash_of(
    objects: &[IndexedObject],
    names: &HashMap<u32, Box<str>>,
    hasher: &RandomState,
    number: u32,
) -> u64 {
    let object = &objects[number as usize];
    match names.get(&number) {
        Some(name) if object.kind() == Some(Kind::Tag) => hasher.hash_one((object.repository, &**name)),
        _ => object.prefix().0,
    }
}

impl Objects for Index {
    fn numbers(&self) -> u32 {
        self.objects.len() as u32
    }

    fn get(&self, number: u32) -> Option<Object> {
        self.objects.get(number as usize)?.object(self.started)
    }

    fn for_each_named(&self, number: u32, visit: impl FnMut(u32)) {
        self.for_each_link(number, |_| true, visit);
    }
}

impl Index {
    /// Calls `visit` with each stored object that the manifest or tag `number` names, without the
    /// manifests of an index for platforms that are not among `platforms`.
    fn for_each_selected(&self, number: u32, platforms: &Platforms, visit: impl FnMut(u32)) {
        match self.child_platforms.select(number, platforms) {
            None => self.for_each_named(number, visit),
            Some(selected) => self.for_each_link(number, |at| selected[at], visit),
        }
    }

    /// Calls `visit` with each stored object that the manifest or tag `number` names. `is_wanted`
    /// selects links of a manifest by their place. A manifest names content of its own repository, and
    /// shared blobs.
    fn for_each_link(&self, number: u32, is_wanted: impl Fn(usize) -> bool, mut visit: impl FnMut(u32)) {
        let parent = &self.objects[number as usize];
        let mut visit_all = |digest: DigestPrefix, kinds: &[Kind]| {
            for &named in self.table.iter_hash(digest.0) {
                let object = &self.objects[named as usize];
                let in_reach = object.kind() == Some(Kind::Blob) || object.repository == parent.repository;
                let is_wanted = object.kind().is_some_and(|kind| kinds.contains(&kind));
                if is_wanted && in_reach && object.prefix() == digest {
                    visit(named);
                }
            }
        };
        match parent.kind() {
            Some(Kind::Tag) => visit_all(parent.prefix(), &[Kind::Manifest]),
            Some(Kind::Manifest) => {
                let links = self.links.get(&number).into_iter().flatten().enumerate();
                for (_, &digest) in links.filter(|(at, _)| is_wanted(*at)) {
                    visit_all(digest, &[Kind::Blob, Kind::Manifest]);
                }
            }
            _ => {}
        }
    }
}
