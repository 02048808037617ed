//! Room for content, reserved before each write within the bounds of the store.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::io::Errno;

use super::evict::Scope;
use super::{FsStore, Ingest, failed, layout, space};
use crate::oci::Namespace;
use crate::store::StoreError;
use crate::store::bounds::{Bounds, Usage};
use crate::store::index::{Index, RegistryNumber};
use crate::store::no_room::NoRoom;
use crate::store::space::Space;
use crate::sync::Mutex;

/// The disk blocks of a sidecar.
pub(super) const SIDECAR_BYTES: u64 = 4096;

/// Bytes that an ingest takes from the bounds. Released by the drop.
#[derive(Debug)]
pub(super) struct Reservation {
    index: Arc<Mutex<Index>>,
    bytes: u64,
    /// The registry that delivers the content.
    registry: Option<RegistryNumber>,
    /// The name of the registry.
    source: Option<Namespace>,
}

impl Reservation {
    /// Returns a reservation of no bytes for content of the registry `source`.
    pub fn new(index: &Arc<Mutex<Index>>, source: Option<&Namespace>) -> Self {
        Reservation {
            index: index.clone(),
            bytes: 0,
            registry: source.and_then(|source| index.lock().registry_number(source)),
            source: source.cloned(),
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.index.lock().release(self.registry, self.bytes);
    }
}

impl FsStore {
    /// Returns the bytes that unfinished ingests may still take. Content that an eviction can
    /// remove counts as free.
    pub fn free_room(&self) -> u64 {
        let space = Space::of(&self.root);
        let bounds = Bounds::new(&self.bounds, &space);
        let index = self.index.lock();
        // Before the scan has ended, nothing can be evicted, and all used space may be content.
        let (evictable, content) = if index.is_whole() {
            (index.bytes(), 0)
        } else {
            (0, space.used_bytes)
        };
        let by_size = bounds
            .size_max
            .map_or(u64::MAX, |max| max.saturating_sub(content + index.reserved()));
        let by_space = match space.bytes {
            0 => u64::MAX,
            _ => (space.free_bytes + evictable).saturating_sub(bounds.free_min),
        };
        by_size.min(by_space)
    }

    /// Returns the bounds of the content of `registry`, if any.
    pub(super) fn registry_bounds(&self, registry: &Namespace, space: &Space) -> Option<Bounds> {
        let registries = self.registries.registries();
        let (settings, _) = registries.settings(registry);
        Bounds::of_registry(settings.cache_max_size, space)
    }

    /// Returns the registries with content and a bound.
    pub(super) fn bounded_registries(&self) -> Vec<RegistryNumber> {
        let registries = self.registries.registries();
        let index = self.index.lock();
        let numbered = (0..).zip(index.registry_usages());
        let bounded = numbered.filter(|(_, usage)| {
            let (settings, _) = registries.settings(&usage.registry);
            usage.bytes > 0 && settings.cache_max_size.is_some()
        });
        bounded.map(|(number, _)| number).collect()
    }

    /// Checks that an object of `size` bytes from the registry `source` may be stored.
    pub(super) fn check_size(&self, size: u64, source: Option<&Namespace>) -> io::Result<()> {
        let space = Space::of(&self.root);
        if let Some(source) = source
            && let Some(bounds) = self.registry_bounds(source, &space)
        {
            if size > bounds.object_max {
                return Err(NoRoom::ObjectOfRegistry(source.clone()).into());
            }
            let mut index = self.index.lock();
            let number = index.registry_number(source);
            let fixed = number.map_or(0, |number| fixed_bytes(&index, number, &space));
            if size > bounds.object_max.saturating_sub(fixed) {
                return Err(registry_is_full(source, index.is_whole()));
            }
        }
        let bounds = Bounds::new(&self.bounds, &space);
        if size > bounds.object_max {
            return Err(NoRoom::Object.into());
        }
        if size > self.free_room() {
            return Err(Errno::NOSPC.into());
        }
        Ok(())
    }

    /// Reserves room for the first `end` bytes of `ingest`, so that a full disk is detected before
    /// the write. Evicts content that is in the way.
    ///
    /// # Errors
    ///
    /// There is not enough room. The caller should drop the ingest.
    pub fn reserve(&self, ingest: &mut Ingest, end: u64) -> Result<(), StoreError> {
        if end > ingest.reserved {
            let path = layout::content(&ingest.key);
            self.take_room(ingest, end)?;
            space::reserve(ingest.file(), ingest.reserved, end)
                .map_err(failed(StoreError::RESERVE, &path))?;
            ingest.reserved = end;
        }
        Ok(())
    }

    /// Takes room for the first `end` bytes of `ingest` from the bounds of the store, but no blocks
    /// of the file system.
    ///
    /// # Errors
    ///
    /// There is not enough room.
    pub fn take_room(&self, ingest: &mut Ingest, end: u64) -> Result<(), StoreError> {
        let taken = self.take(&mut ingest.room, end);
        taken.map_err(failed(StoreError::RESERVE, &layout::content(&ingest.key)))
    }

    fn take(&self, room: &mut Reservation, end: u64) -> io::Result<()> {
        let more = (end + SIDECAR_BYTES).saturating_sub(room.bytes);
        loop {
            let space = Space::of(&self.root);
            let bounds = Bounds::new(&self.bounds, &space);
            let source = room.source.as_ref();
            let of_registry = source.and_then(|source| self.registry_bounds(source, &space));
            let object_max = of_registry.map_or(u64::MAX, |bounds| bounds.object_max);
            if end > bounds.object_max.min(object_max) {
                return self.check_size(end, source);
            }
            let (scope, is_whole) = {
                let mut index = self.index.lock();
                let usage = self.usage(&index, space);
                let is_short = |bounds: &Bounds, usage: Usage| !bounds.shortage(&usage, more).is_none();
                let full = of_registry.zip(room.registry).filter(|(bounds, number)| {
                    let usage = registry_usage(&index, *number, &space);
                    is_short(bounds, usage)
                });
                if let Some((_, number)) = full {
                    (Scope::Registry(number), index.is_whole())
                } else if is_short(&bounds, usage) {
                    (Scope::Store, index.is_whole())
                } else {
                    index.reserve(room.registry, more);
                    room.bytes += more;
                    return Ok(());
                }
            };
            if !self.evict(scope, |bounds, usage| bounds.shortage_with_margin(usage, more)) {
                return Err(match (scope, source) {
                    (Scope::Registry(_), Some(source)) => registry_is_full(source, is_whole),
                    _ => Errno::NOSPC.into(),
                });
            }
        }
    }

    /// The bytes of the store, before the scan has ended those of the whole file system.
    pub(super) fn usage(&self, index: &Index, space: Space) -> Usage {
        let content = if index.is_whole() {
            index.bytes() + self.records.lock().bytes()
        } else {
            space.used_bytes
        };
        let bytes = content + index.reserved();
        let releasing = self.releasing.lock().bytes(Instant::now());
        Usage {
            bytes,
            releasing,
            space,
        }
    }
}

/// Returns the bytes of a registry. Before the scan has ended, all used space may be its content.
pub(super) fn registry_usage(index: &Index, number: RegistryNumber, space: &Space) -> Usage {
    let usage = index.usage_of(number);
    let content = if index.is_whole() {
        usage.bytes
    } else {
        unscanned_bytes(space)
    };
    Usage::of_registry(content.saturating_add(usage.reserved))
}

/// Returns the bytes that no eviction for the bound of the registry may remove. Content of several
/// registries never leaves for the bound of one, and nothing leaves before the scan has ended.
fn fixed_bytes(index: &Index, number: RegistryNumber, space: &Space) -> u64 {
    let usage = index.usage_of(number);
    let content = if index.is_whole() {
        usage.bytes - usage.bytes_alone
    } else {
        unscanned_bytes(space)
    };
    content.saturating_add(usage.reserved)
}

/// Returns the most bytes that a registry can have before the scan has ended. A file system that does
/// not report its size may hold any number of bytes.
fn unscanned_bytes(space: &Space) -> u64 {
    match space.bytes {
        0 => u64::MAX,
        _ => space.used_bytes,
    }
}

/// `is_scanned` is false before the scan has ended.
fn registry_is_full(registry: &Namespace, is_scanned: bool) -> io::Error {
    let registry = registry.clone();
    if is_scanned {
        NoRoom::Registry(registry).into()
    } else {
        NoRoom::Unscanned(registry).into()
    }
}
