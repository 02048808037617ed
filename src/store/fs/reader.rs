//! Reads the content of all directories of a cache without their locks, beside a running cache.
//!
//! Commits and replacements are atomic, so a reader sees entries before or after a change, and
//! never a part of an entry. An entry may disappear between two calls.

use std::cmp::Ordering;
use std::fs;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::find::{EntryState, look};
use super::layout::{self, REPOSITORY_DEPTH_MAX, TAGS};
use super::open_regular;
use super::tags::read_pointer;
use crate::config::StoreDirs;
use crate::limits::{MANIFEST_BYTES_MAX, SIDECAR_BYTES_MAX};
use crate::oci::{Accept, Digest, Namespace, Origin, Repository, Tag};
use crate::store::{Key, Meta, Pins, StoredEntry, TagPointer};

/// A read-only view of a store's directory, and of the stores of registries with `cache_dir`.
#[derive(Debug)]
pub struct StoreReader {
    pub(super) root: PathBuf,
    /// The stores of registries. The content of a registry outside its own store is never served, so
    /// the reader leaves out such content.
    dirs: StoreDirs,
}

/// The stored manifests of a repository.
#[derive(Debug)]
pub struct StoredRepository {
    pub origin: Origin,
    /// Sorted by tag. A tag has one pointer per class of clients.
    pub tags: Vec<(Tag, TagPointer)>,
    /// Sorted.
    pub manifests: Vec<Digest>,
}

/// A stored manifest.
#[derive(Debug)]
pub struct StoredManifest {
    pub meta: Meta,
    pub body: Vec<u8>,
    /// The last use that was written to disk, in seconds since 1970.
    pub used: u64,
}

impl StoreReader {
    /// Opens the store in `root`.
    ///
    /// # Errors
    ///
    /// `root` is not a readable directory of a store.
    pub fn open(root: &Path) -> io::Result<Self> {
        Self::open_all(root, StoreDirs::default())
    }

    /// Opens the default store in `root`, and the stores in `dirs`. An absent store of a registry is
    /// empty.
    ///
    /// # Errors
    ///
    /// `root` is not a readable directory of a store.
    pub fn open_all(root: &Path, dirs: StoreDirs) -> io::Result<Self> {
        fs::read_dir(root.join(layout::MANIFESTS))?;
        Ok(StoreReader {
            root: root.to_owned(),
            dirs,
        })
    }

    /// Returns the directory of the store at a place of `dirs`. `None` means the default store.
    fn root_at(&self, place: Option<usize>) -> &Path {
        place.map_or(&self.root, |place| &self.dirs.dirs()[place])
    }

    /// Returns the place of the store with the content of a registry. `None` means the default store.
    pub fn place_of(&self, namespace: &Namespace) -> Option<usize> {
        self.dirs.place_of(namespace)
    }

    /// Returns the directory of the store with the content of a registry.
    fn root_of(&self, namespace: &Namespace) -> &Path {
        self.root_at(self.place_of(namespace))
    }

    /// Returns the registries in all stores, by the name of the directory in `manifests`, sorted by this
    /// name.
    fn registries(&self, failed: &mut impl FnMut(&Path, &io::Error)) -> Vec<(String, Namespace, PathBuf)> {
        let places = (0..self.dirs.dirs().len()).map(Some);
        let mut found = Vec::new();
        for place in std::iter::once(None).chain(places) {
            let manifests = self.root_at(place).join(layout::MANIFESTS);
            for name in names(&manifests, failed) {
                if let Ok(namespace) = name.parse::<Namespace>()
                    && self.place_of(&namespace) == place
                {
                    let dir = manifests.join(&name);
                    found.push((name, namespace, dir));
                }
            }
        }
        found.sort();
        found
    }

    /// Calls `visit` for each repository that `is_wanted` and has stored manifests, in the order of
    /// [`compare_repositories`], until `visit` breaks. Calls `failed` for each directory that cannot
    /// be read, and continues.
    pub fn repositories(
        &self,
        is_wanted: &dyn Fn(&Origin) -> bool,
        visit: &mut impl FnMut(StoredRepository) -> ControlFlow<()>,
        failed: &mut impl FnMut(&Path, &io::Error),
    ) -> ControlFlow<()> {
        for (_, namespace, dir) in self.registries(failed) {
            self.walk(&dir, &namespace, "", 0, is_wanted, visit, failed)?;
        }
        ControlFlow::Continue(())
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "a recursive walk with two callers' closures"
    )]
    fn walk(
        &self,
        dir: &Path,
        namespace: &Namespace,
        name: &str,
        depth: usize,
        is_wanted: &dyn Fn(&Origin) -> bool,
        visit: &mut impl FnMut(StoredRepository) -> ControlFlow<()>,
        failed: &mut impl FnMut(&Path, &io::Error),
    ) -> ControlFlow<()> {
        if depth > REPOSITORY_DEPTH_MAX {
            return ControlFlow::Continue(());
        }
        let found = names(dir, failed);
        let origin = name.parse::<Repository>().ok().map(|repository| Origin {
            namespace: namespace.clone(),
            repository,
        });
        if let Some(origin) = origin.filter(is_wanted) {
            let manifests: Vec<_> = found
                .iter()
                .filter_map(|name| Digest::from_file_name(name))
                .collect();
            let has_tags = found.iter().any(|name| name == TAGS);
            let tags = if has_tags {
                self.tags(&dir.join(TAGS), failed)
            } else {
                Vec::new()
            };
            if !manifests.is_empty() || !tags.is_empty() {
                visit(StoredRepository {
                    origin,
                    tags,
                    manifests,
                })?;
            }
        }
        for part in found {
            if let Some(part_name) = layout::repository_part(&part)
                // A symbolic link is not followed, because links can form loops.
                && fs::symlink_metadata(dir.join(&part)).is_ok_and(|found| found.is_dir())
            {
                let name = if name.is_empty() {
                    part_name.to_owned()
                } else {
                    format!("{name}/{part_name}")
                };
                let dir = dir.join(&part);
                self.walk(&dir, namespace, &name, depth + 1, is_wanted, visit, failed)?;
            }
        }
        ControlFlow::Continue(())
    }

    fn tags(&self, dir: &Path, failed: &mut impl FnMut(&Path, &io::Error)) -> Vec<(Tag, TagPointer)> {
        let mut tags = Vec::new();
        for name in names(dir, failed) {
            let tag = name.split_once('@').map_or(&*name, |(tag, _class)| tag);
            let Ok(tag) = tag.parse::<Tag>() else { continue };
            let path = dir.join(&name);
            match read_at_most(&path, SIDECAR_BYTES_MAX) {
                // The next check of the tag repairs an unreadable pointer.
                Ok(json) => tags.extend(serde_json::from_slice(&json).ok().map(|pointer| (tag, pointer))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => failed(&path, &error),
            }
        }
        tags.sort_by(|(a, _): &(Tag, TagPointer), (b, _)| a.as_str().cmp(b.as_str()));
        tags
    }

    /// Returns a manifest. `None` if the store has no such entry.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn manifest(&self, origin: &Origin, digest: &Digest) -> io::Result<Option<StoredManifest>> {
        let key = Key::manifest(origin, digest);
        let (EntryState::Entry(entry) | EntryState::Unverified(entry)) =
            look(self.root_of(&origin.namespace), &key)?
        else {
            return Ok(None);
        };
        let size = entry.meta.size.min(MANIFEST_BYTES_MAX as u64) as usize;
        let mut body = vec![0; size];
        entry.file.read_exact_at(&mut body, 0)?;
        Ok(Some(StoredManifest {
            used: entry.file.metadata()?.atime().try_into().unwrap_or(0),
            meta: Meta::clone(&entry.meta),
            body,
        }))
    }

    /// Returns the pointer of a tag for clients without an accept class of their own. `None` if the pointer
    /// is missing or unreadable.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn tag(&self, origin: &Origin, tag: &Tag) -> io::Result<Option<TagPointer>> {
        let path = layout::pointer(&origin.namespace, &origin.repository, tag, Accept::NATIVE);
        read_pointer(&self.root_of(&origin.namespace).join(path))
    }

    /// Returns the digests of the manifests of a repository, sorted. Empty if the directory cannot be read.
    pub fn manifests(&self, origin: &Origin) -> Vec<Digest> {
        let dir = layout::repository_dir(&origin.namespace, &origin.repository);
        let found = names(&self.root_of(&origin.namespace).join(dir), &mut |_, _| {});
        found
            .iter()
            .filter_map(|name| Digest::from_file_name(name))
            .collect()
    }

    /// Returns the metadata of a blob in the store of a registry, whose data has the size in its metadata.
    /// `None` if the store has no such entry.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn blob(&self, namespace: &Namespace, digest: &Digest) -> io::Result<Option<Arc<Meta>>> {
        match look(self.root_of(namespace), &Key::Blob(*digest))? {
            EntryState::Entry(entry) | EntryState::Unverified(entry) => Ok(Some(entry.meta)),
            EntryState::Broken(_) | EntryState::Nothing => Ok(None),
        }
    }

    /// Opens the content under `key`, of a blob in any store. `None` if there is no such entry.
    ///
    /// # Errors
    ///
    /// The file system failed.
    pub fn content(&self, key: &Key) -> io::Result<Option<StoredEntry>> {
        let places = (0..self.dirs.dirs().len()).map(Some);
        for place in std::iter::once(None).chain(places) {
            if let EntryState::Entry(entry) | EntryState::Unverified(entry) = look(self.root_at(place), key)?
            {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Returns the pins.
    ///
    /// # Errors
    ///
    /// The file of the pins is unreadable.
    pub fn pins(&self) -> io::Result<Pins> {
        match fs::read(self.root.join(layout::PINS)) {
            Ok(json) => Pins::parse(&json).ok_or_else(|| io::Error::other("the file of the pins is damaged")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Pins::default()),
            Err(error) => Err(error),
        }
    }

    /// Returns the size of a blob in the store of a registry. `None` if the store has no such entry.
    pub fn blob_size(&self, namespace: &Namespace, digest: &Digest) -> Option<u64> {
        let (root, key) = (self.root_of(namespace), Key::Blob(*digest));
        let data = fs::symlink_metadata(root.join(layout::content(&key))).ok()?;
        let sidecar = fs::symlink_metadata(root.join(layout::sidecar(&key))).ok()?;
        (data.is_file() && sidecar.is_file()).then_some(data.len())
    }
}

/// Compares repositories by their place in [`StoreReader::repositories`].
pub fn compare_repositories(a: &Origin, b: &Origin) -> Ordering {
    let dir = |origin: &Origin| layout::repository_dir(&origin.namespace, &origin.repository);
    dir(a).cmp(&dir(b))
}

/// Returns the names in `dir`, sorted.
fn names(dir: &Path, failed: &mut impl FnMut(&Path, &io::Error)) -> Vec<String> {
    let listed = fs::read_dir(dir).and_then(|entries| {
        entries
            .filter_map(|entry| {
                entry
                    .map(|entry| entry.file_name().into_string().ok())
                    .transpose()
            })
            .collect::<io::Result<Vec<_>>>()
    });
    match listed {
        Ok(mut names) => {
            names.sort_unstable();
            names
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound && error.kind() != io::ErrorKind::NotADirectory {
                failed(dir, &error);
            }
            Vec::new()
        }
    }
}

fn read_at_most(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let file = open_regular(path)?.ok_or(io::ErrorKind::NotFound)?;
    let mut bytes = Vec::new();
    file.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}
