//! The stores of a cache: the default store, and the stores of registries with `cache_dir`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::fs::{BucketIdentity, FsStore, OpenError, RegistryContent, StoreReader, StoreStats};
use super::pins::{Pin, PinError, Pins};
use crate::config::{Live, Overlap, StoreBounds, StoreDirs};
use crate::oci::{Digest, Namespace};

/// The stores of a cache. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stores(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    default: Arc<FsStore>,
    dirs: StoreDirs,
    /// The store of each directory in `dirs`. A command does not create an absent store: `None`.
    of_registries: Vec<Option<Arc<FsStore>>>,
}

/// The state of all stores of a cache.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoresStats {
    /// The default store.
    #[serde(flatten)]
    pub default: StoreStats,
    /// The stores of registries with `cache_dir`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registry_stores: Vec<RegistryStoreStats>,
}

/// The state of the store of registries with `cache_dir`.
#[derive(Clone, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RegistryStoreStats {
    pub directory: String,
    /// The names of the registries, as in the configuration.
    pub registries: Vec<String>,
    pub stats: StoreStats,
}

impl Stores {
    /// Returns a default store without stores of registries.
    pub fn alone(default: impl Into<Arc<FsStore>>) -> Self {
        Stores(Arc::new(Shared {
            default: default.into(),
            dirs: StoreDirs::default(),
            of_registries: Vec::new(),
        }))
    }

    /// Opens and creates the default store in `root`, and the stores in `dirs`. The size of `bounds` is
    /// that of the default store, and the other bounds are those of each store. The registries with
    /// bounds of their own are in `registries`. The stores are in front of `bucket`, if any.
    ///
    /// # Errors
    ///
    /// A directory contains another one, another process holds a lock, or a directory is not writable.
    pub fn open(
        bounds: StoreBounds,
        root: &Path,
        dirs: StoreDirs,
        registries: &Live,
        bucket: Option<&BucketIdentity>,
    ) -> Result<Self, OpenError> {
        check_apart(root, dirs.dirs())?;
        let before_bucket = |store: FsStore| {
            let store = store.with_registries(registries.clone());
            match bucket {
                Some(bucket) => store.with_bucket(bucket),
                None => store,
            }
        };
        let default = before_bucket(FsStore::open_within(bounds, root)?);
        let of_registries = dirs.dirs().iter().map(|dir| {
            let store = FsStore::open_within(of_registries(bounds), dir).map_err(OpenError::of_registry)?;
            let store = before_bucket(store);
            Ok(Some(Arc::new(store.of_registries(default.removals().clone()))))
        });
        let of_registries = of_registries.collect::<Result<_, OpenError>>()?;
        Ok(Self::of(default, dirs, of_registries))
    }

    /// Opens the stores like [`Stores::open`], for a command. Creates no store. An absent store of a
    /// registry is left out.
    ///
    /// # Errors
    ///
    /// As for [`Stores::open`], or `root` is not the directory of a store.
    pub fn open_existing(bounds: StoreBounds, root: &Path, dirs: StoreDirs) -> Result<Self, OpenError> {
        check_apart(root, dirs.dirs())?;
        let default = FsStore::open_existing(bounds, root)?;
        let of_registries = dirs.dirs().iter().map(|dir| {
            let opened = FsStore::open_existing(of_registries(bounds), dir);
            match opened.map_err(OpenError::of_registry) {
                Ok(store) => Ok(Some(Arc::new(store.of_registries(default.removals().clone())))),
                Err(OpenError::OfRegistryUnusable { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    Ok(None)
                }
                Err(error) => Err(error),
            }
        });
        let of_registries = of_registries.collect::<Result<_, OpenError>>()?;
        Ok(Self::of(default, dirs, of_registries))
    }

    fn of(default: FsStore, dirs: StoreDirs, of_registries: Vec<Option<Arc<FsStore>>>) -> Self {
        let stores = Stores(Arc::new(Shared {
            default: Arc::new(default),
            dirs,
            of_registries,
        }));
        stores.join_pins();
        stores
    }

    /// The store of all registries without a store of their own.
    pub fn default_store(&self) -> &Arc<FsStore> {
        &self.0.default
    }

    /// Returns the store with the content of a registry.
    pub fn of_registry(&self, namespace: &Namespace) -> &Arc<FsStore> {
        let place = self.0.dirs.place_of(namespace);
        let own = place.and_then(|place| self.0.of_registries[place].as_ref());
        own.unwrap_or(&self.0.default)
    }

    /// Returns all stores, the default store first. The order never changes.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<FsStore>> {
        std::iter::once(&self.0.default).chain(self.0.of_registries.iter().flatten())
    }

    /// The directories of the registries with a store of their own.
    pub fn dirs(&self) -> &StoreDirs {
        &self.0.dirs
    }

    /// Returns whether the scan at start has ended in every store.
    pub fn are_scanned(&self) -> bool {
        self.iter().all(|store| store.is_scanned())
    }

    /// Opens all stores for reading.
    ///
    /// # Errors
    ///
    /// The default store cannot be read.
    pub fn reader(&self) -> io::Result<StoreReader> {
        StoreReader::open_all(self.0.default.root(), self.0.dirs.clone())
    }

    /// Returns the state of each store.
    pub fn stats(&self) -> StoresStats {
        let Shared {
            dirs, of_registries, ..
        } = &*self.0;
        let places = of_registries.iter().enumerate();
        let opened = places.filter_map(|(place, store)| Some((place, store.as_ref()?)));
        StoresStats {
            default: self.0.default.stats(),
            registry_stores: opened
                .map(|(place, store)| RegistryStoreStats {
                    directory: store.root().display().to_string(),
                    registries: dirs.registries_at(place).map(ToString::to_string).collect(),
                    stats: store.stats(),
                })
                .collect(),
        }
    }

    /// Returns the `count` lowest digests of blobs in all stores, like [`FsStore::blob_references`].
    pub fn blob_references(&self, is_wanted: impl Fn(&Digest) -> bool, count: usize) -> Vec<(Digest, u64)> {
        let mut found: BTreeMap<String, (Digest, u64)> = BTreeMap::new();
        for store in self.iter() {
            for (digest, references) in store.blob_references(&is_wanted, count) {
                found.entry(digest.to_string()).or_insert((digest, 0)).1 += references;
            }
        }
        found.into_values().take(count).collect()
    }

    /// Returns the content of each registry in all stores, like [`FsStore::registry_contents`]. The bound
    /// is that of the registry's own store.
    pub fn registry_contents(&self, also: &BTreeSet<Namespace>) -> Vec<RegistryContent> {
        let mut all: BTreeMap<Namespace, RegistryContent> = BTreeMap::new();
        for store in self.iter() {
            for content in store.registry_contents(also) {
                let is_own = Arc::ptr_eq(store, self.of_registry(&content.registry));
                match all.get_mut(&content.registry) {
                    None => {
                        all.insert(content.registry.clone(), content);
                    }
                    Some(known) => {
                        known.objects += content.objects;
                        known.bytes += content.bytes;
                        known.evictions += content.evictions;
                        if is_own {
                            known.bytes_max = content.bytes_max;
                        }
                    }
                }
            }
        }
        all.into_values().collect()
    }
}

impl Stores {
    /// Returns the pins at this moment. All stores have the same pins.
    pub fn pinned(&self) -> Pins {
        self.0.default.pinned()
    }

    /// Adds a pin to every store. Returns whether the pin is new in a store.
    ///
    /// # Errors
    ///
    /// As for [`FsStore::pin`], of the first store that fails. The other stores have the pin.
    pub fn pin(&self, pin: &Pin) -> Result<bool, PinError> {
        self.change_pins(|store| store.pin(pin.clone()))
    }

    /// Removes a pin from every store. Returns whether a store had the pin.
    ///
    /// # Errors
    ///
    /// As for [`FsStore::unpin`], of the first store that fails. The other stores do not have the pin.
    pub fn unpin(&self, pin: &Pin) -> Result<bool, PinError> {
        self.change_pins(|store| store.unpin(pin))
    }

    fn change_pins(&self, change: impl Fn(&FsStore) -> Result<bool, PinError>) -> Result<bool, PinError> {
        let changes: Vec<_> = self.iter().map(|store| change(store)).collect();
        changes
            .into_iter()
            .try_fold(false, |is_changed, change| Ok(change? || is_changed))
    }

    /// Adds the pins of each store to the other stores. A directory may be new, or may have had no write
    /// at an earlier change.
    fn join_pins(&self) {
        if self.0.of_registries.is_empty() {
            return;
        }
        let mut known: BTreeMap<String, Pin> = BTreeMap::new();
        for pin in self
            .iter()
            .flat_map(|store| store.pinned().iter().cloned().collect::<Vec<_>>())
        {
            // The platforms of the default store have precedence.
            known.entry(pin.as_str().to_owned()).or_insert(pin);
        }
        for store in self.iter() {
            if let Err(error) = store.add_pins(known.values()) {
                let directory = store.root().display();
                tracing::warn!(%directory, %error, "pins of other stores not added");
            }
        }
    }
}

/// Returns the bounds of a store of registries. `cache_max_size` of a registry bounds its content in any
/// store, and also after a reload.
fn of_registries(bounds: StoreBounds) -> StoreBounds {
    StoreBounds {
        size_max: None,
        ..bounds
    }
}

/// Checks that no store contains another one, after all symbolic links.
fn check_apart(root: &Path, dirs: &[PathBuf]) -> Result<(), OpenError> {
    let mut known = vec![resolved(root)];
    for dir in dirs {
        let path = resolved(dir);
        for other in &known {
            if let Some(overlap) = Overlap::of(&path, other) {
                return Err(OpenError::Overlaps {
                    path: dir.clone(),
                    overlap,
                    other: other.clone(),
                });
            }
        }
        known.push(path);
    }
    Ok(())
}

/// Returns the path without symbolic links and `..`. The end of the path may be absent.
fn resolved(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for known in path.ancestors() {
        if let Ok(mut found) = fs::canonicalize(known)
            && let Ok(rest) = path.strip_prefix(known)
        {
            for part in rest.components() {
                match part {
                    Component::ParentDir => drop(found.pop()),
                    part => found.push(part),
                }
            }
            return found;
        }
    }
    path
}

#[cfg(test)]
#[path = "tests/stores.rs"]
mod tests;
