//! Evictions: the removal of content for new content.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::evicted::{Evicted, EvictionCounts};
use super::room::registry_usage;
use super::{FsStore, layout, open_regular};
use crate::limits::{EVICTION_SLICE_TIME, INDEX_COPY_OBJECTS};
use crate::oci::DigestPrefix;
use crate::shared_file::SharedFile;
use crate::store::bounds::{Bounds, EvictionReason, Shortage, Usage};
use crate::store::eviction::{Minute, Need, choose};
use crate::store::index::{Index, ObjectName, RegistryNumber, copy_of};
use crate::store::space::Space;

/// Files of an entry: the data and the sidecar.
const FILES_PER_ENTRY: u64 = 2;

/// The content that an eviction may remove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Scope {
    /// All content, for the bounds of the store.
    Store,
    /// The content that one registry alone has, for the bound of the registry.
    Registry(RegistryNumber),
}

/// The cause of the removal of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum RemovalCause {
    /// Counts for the registries of the object.
    Eviction,
    Operator,
}

/// Serializes evictions.
#[derive(Debug, Default)]
pub(super) struct Evicting {
    store: Choice,
    /// By registry with a bound.
    registries: HashMap<RegistryNumber, Choice>,
    /// The content evicted since [`FsStore::take_evicted`].
    evicted: Evicted,
}

/// The victims for one bound.
#[derive(Debug, Default)]
struct Choice {
    /// The minute in which no content could be evicted. More content is old enough a minute later.
    exhausted_at: Option<Minute>,
    /// Victims that are still stored, with their last use, chosen at `chosen_at`.
    victims: VecDeque<(u32, Minute)>,
    chosen_at: Minute,
    reason: Option<EvictionReason>,
}

impl FsStore {
    /// Makes room ahead of the next ingests, while `goes_on`.
    pub fn make_room(&self, goes_on: impl Fn() -> bool) {
        let mut scopes = vec![Scope::Store];
        scopes.extend(self.bounded_registries().into_iter().map(Scope::Registry));
        for scope in scopes {
            while goes_on() && self.evict(scope, Bounds::surplus) {}
        }
    }

    /// Returns the content evicted since the last call.
    pub fn take_evicted(&self) -> Evicted {
        std::mem::take(&mut self.evicting.lock().evicted)
    }

    /// Records the uses of content.
    pub fn record_uses(&self, digests: impl IntoIterator<Item = DigestPrefix>) {
        let now = Minute::now();
        let mut index = self.index.lock();
        for digest in digests {
            index.record_use(digest, now);
        }
    }

    /// Removes chosen victims for at most [`EVICTION_SLICE_TIME`], so that other ingests need not wait
    /// longer. Chooses victims of `scope` for `shortage` if no chosen victim is left. Evicts nothing
    /// before the index is whole. Returns false if there is no shortage, or no content that may be
    /// evicted.
    pub(super) fn evict(&self, scope: Scope, shortage: impl Fn(&Bounds, &Usage) -> Shortage) -> bool {
        let mut evicting = self.evicting.lock();
        let Evicting {
            store,
            registries,
            evicted: total,
        } = &mut *evicting;
        let (choice, only_of) = match scope {
            Scope::Store => (store, None),
            Scope::Registry(number) => (registries.entry(number).or_default(), Some(number)),
        };
        let now = Minute::now();
        // A choice is kept to its end, because the last victims complete an image, or are metadata
        // beyond the budget. In the next minute, other content may be in use.
        if choice.victims.is_empty() || choice.chosen_at != now {
            let may_choose = choice.exhausted_at != Some(now);
            let Some((need, reason)) = self.need(scope, shortage).filter(|_| may_choose) else {
                return false;
            };
            choice.victims = self.choose(scope, now, need);
            choice.chosen_at = now;
            choice.reason = Some(reason);
        }
        let began = Instant::now();
        let mut evicted = Evicted::default();
        while began.elapsed() < EVICTION_SLICE_TIME
            && let Some((number, used)) = choice.victims.pop_front()
        {
            let may_leave = |index: &Index, found: (&ObjectName, Minute)| {
                let is_own = only_of.is_none_or(|registry| index.is_only_of(number, registry));
                is_own && self.is_victim(found, used)
            };
            evicted.add(self.remove_object(number, RemovalCause::Eviction, may_leave));
        }
        if let Some(reason) = choice.reason {
            evicted.by_reason = EvictionCounts::of(reason, evicted.objects);
        }
        self.evictions.add(&evicted, now);
        self.releasing.lock().add(evicted.bytes, Instant::now());
        if evicted.objects == 0 && choice.victims.is_empty() {
            // Nothing may be evicted, all victims are in use now, or their removal fails.
            choice.exhausted_at = Some(now);
        }
        total.add(evicted);
        choice.exhausted_at != Some(now)
    }

    /// Returns the need of a shortage and its reason. `None` without a shortage or a bound, and before
    /// the index is whole.
    fn need(
        &self,
        scope: Scope,
        shortage: impl Fn(&Bounds, &Usage) -> Shortage,
    ) -> Option<(Need, EvictionReason)> {
        let space = Space::of(&self.root);
        let bounds = match scope {
            Scope::Store => Bounds::new(&self.bounds, &space),
            Scope::Registry(number) => {
                let registry = self.index.lock().usage_of(number).registry.clone();
                self.registry_bounds(&registry, &space)?
            }
        };
        let index = self.index.lock();
        let usage = match scope {
            Scope::Store => self.usage(&index, space),
            Scope::Registry(number) => registry_usage(&index, number, &space),
        };
        let shortage = shortage(&bounds, &usage);
        let reason = shortage.reason().filter(|_| index.is_whole())?;
        let need = Need {
            bytes: shortage.bytes,
            files: shortage.inodes.div_ceil(FILES_PER_ENTRY),
            metadata_bytes_max: bounds.metadata_max,
        };
        Some((need, reason))
    }

    /// Returns the victims of `scope` for `need`, with their last use. The choice among a million
    /// objects takes seconds, so it uses a copy of the index.
    fn choose(&self, scope: Scope, now: Minute, need: Need) -> VecDeque<(u32, Minute)> {
        let index = copy_of(|| self.index.lock(), INDEX_COPY_OBJECTS);
        let pins = self.pins.lock().clone();
        let objects = index.with_pins(&pins).with_held(&self.upload_holds.digests());
        let victims = match scope {
            Scope::Store => choose(&objects, now, need),
            Scope::Registry(number) => choose(&objects.of_registry(number), now, need),
        };
        let with_use = |number| Some((number, index.last_use(number)?));
        victims.into_iter().filter_map(with_use).collect()
    }

    /// Returns whether a chosen victim may still leave: the last use is still `used`, and no upload
    /// was queued since. A new object under the number has a later use.
    fn is_victim(&self, (found, last_use): (&ObjectName, Minute), used: Minute) -> bool {
        let is_held = match found {
            ObjectName::Entry(key) => self.upload_holds.contains(key.digest().prefix()),
            ObjectName::Tag { .. } => false,
        };
        last_use == used && !is_held
    }

    /// Removes the object `number` if `may_leave` returns true for the locked index, the name and the
    /// last use.
    pub(super) fn remove_object(
        &self,
        number: u32,
        cause: RemovalCause,
        may_leave: impl FnOnce(&Index, (&ObjectName, Minute)) -> bool,
    ) -> Evicted {
        let _naming = self.naming.lock();
        let (found, before, last_use) = {
            let index = self.index.lock();
            let Some((found, used)) = index.name(number) else {
                return Evicted::default();
            };
            if !may_leave(&index, (&found, used)) {
                return Evicted::default();
            }
            (found, index.bytes(), used)
        };
        // The open file keeps the blocks of the data until the closing thread releases them.
        let _data = match &found {
            ObjectName::Entry(key) => {
                let data = open_regular(&self.path(&layout::content(key)));
                if !self.remove_files(key) {
                    return Evicted::default();
                }
                self.removals.add(key.digest().prefix());
                data.ok().flatten().map(SharedFile::new)
            }
            ObjectName::Tag { origin, file_name } => {
                let path = layout::tag_file(&origin.namespace, &origin.repository, file_name);
                if !super::find::remove_file(&self.path(&path)) {
                    return Evicted::default();
                }
                None
            }
        };
        let mut index = self.index.lock();
        match cause {
            RemovalCause::Eviction => index.evict_number(number),
            RemovalCause::Operator => index.remove_number(number),
        }
        let bytes = before.saturating_sub(index.bytes());
        let emptied = index.repository_without_content(&found);
        drop(index);
        if let Some(origin) = emptied {
            self.remove_repository(&origin);
        }
        Evicted {
            objects: 1,
            bytes,
            last_use,
            by_reason: EvictionCounts::default(),
        }
    }
}
