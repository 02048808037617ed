//! A bounded map that evicts the least recently used entries. Used by a single core, without locks.

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash};

use foldhash::fast::RandomState;
use hashbrown::HashTable;

/// Index value for "no slot", at both ends of the list.
const NONE: usize = usize::MAX;

/// Map of values by key. Bounded in the number of values and in the sum of their weights.
pub struct Lru<K, V> {
    /// Slot numbers, indexed by the hash of the key.
    index: HashTable<usize>,
    hasher: RandomState,
    slots: Vec<Option<Slot<K, V>>>,
    free: Vec<usize>,
    /// The most and the least recently used slot.
    newest: usize,
    oldest: usize,
    weight: u64,
    weight_max: u64,
    count_max: usize,
}

struct Slot<K, V> {
    key: K,
    value: V,
    weight: u64,
    newer: usize,
    older: usize,
}

impl<K: Hash + Eq, V> Lru<K, V> {
    /// The most bytes that an entry takes in the tables of the map, without memory that key and
    /// value own. Tables grow by doubling, so half of a table may be free: two slots, two indexes
    /// with a control byte each at a load of 7/8, and two free slot numbers.
    pub const ENTRY_BYTES_MAX: usize =
        2 * size_of::<Option<Slot<K, V>>>() + 2 * (size_of::<usize>() + 1) * 8 / 7 + 2 * size_of::<usize>();

    pub fn new(weight_max: u64, count_max: usize) -> Self {
        Lru {
            index: HashTable::new(),
            hasher: RandomState::default(),
            slots: Vec::new(),
            free: Vec::new(),
            newest: NONE,
            oldest: NONE,
            weight: 0,
            weight_max,
            count_max,
        }
    }

    /// Returns the value under `key` and makes it the most recently used.
    pub fn get<Q>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let at = self.find(key)?;
        if self.newest != at {
            self.unlink(at);
            self.link(at);
        }
        self.slots[at].as_mut().map(|slot| &mut slot.value)
    }

    /// Inserts `value`, replacing a previous value, and evicts the oldest entries until the bounds
    /// hold. A `value` heavier than the bound is not kept.
    pub fn insert(&mut self, key: K, value: V, weight: u64) {
        self.remove(&key);
        if weight > self.weight_max || self.count_max == 0 {
            return;
        }
        let hash = self.hasher.hash_one(&key);
        let slot = Some(Slot {
            key,
            value,
            weight,
            newer: NONE,
            older: NONE,
        });
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() - 1
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.index.insert_unique(hash, at, |&at| {
            hasher.hash_one(&slots[at].as_ref().expect("an indexed slot is in use").key)
        });
        self.link(at);
        self.weight += weight;
        self.evict();
    }

    /// Adds `more` to the weight of `key`, and evicts the oldest entries until the bounds hold.
    pub fn add_weight<Q>(&mut self, key: &Q, more: u64)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(at) = self.find(key)
            && let Some(slot) = self.slot(at)
        {
            slot.weight += more;
            self.weight += more;
            self.evict();
        }
    }

    /// Removes each entry for which `is_kept` returns false. Visits all entries.
    pub fn retain(&mut self, is_kept: impl Fn(&K, &V) -> bool) {
        let mut at = self.oldest;
        while at != NONE {
            let Some(slot) = &self.slots[at] else { break };
            let newer = slot.newer;
            if !is_kept(&slot.key, &slot.value) {
                self.forget(at);
            }
            at = newer;
        }
    }

    fn evict(&mut self) {
        while self.weight > self.weight_max || self.index.len() > self.count_max {
            self.forget(self.oldest);
        }
    }

    /// Removes all entries.
    pub fn clear(&mut self) {
        while self.oldest != NONE {
            self.forget(self.oldest);
        }
    }

    /// Removes `key`.
    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(at) = self.find(key) {
            self.forget(at);
        }
    }

    fn find<Q>(&self, key: &Q) -> Option<usize>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let slots = &self.slots;
        let found = self.index.find(self.hasher.hash_one(key), |&at| {
            slots[at].as_ref().is_some_and(|slot| slot.key.borrow() == key)
        });
        found.copied()
    }

    fn forget(&mut self, at: usize) {
        self.unlink(at);
        let slot = self.slots[at].take().expect("a listed slot is in use");
        if let Ok(entry) = self
            .index
            .find_entry(self.hasher.hash_one(&slot.key), |&other| other == at)
        {
            entry.remove();
        }
        self.weight -= slot.weight;
        self.free.push(at);
    }

    fn slot(&mut self, at: usize) -> Option<&mut Slot<K, V>> {
        self.slots.get_mut(at).and_then(Option::as_mut)
    }

    fn unlink(&mut self, at: usize) {
        let Some(slot) = self.slot(at) else { return };
        let (newer, older) = (slot.newer, slot.older);
        match self.slot(newer) {
            Some(slot) => slot.older = older,
            None => self.newest = older,
        }
        match self.slot(older) {
            Some(slot) => slot.newer = newer,
            None => self.oldest = newer,
        }
    }

    fn link(&mut self, at: usize) {
        let before = std::mem::replace(&mut self.newest, at);
        if let Some(slot) = self.slot(at) {
            slot.newer = NONE;
            slot.older = before;
        }
        match self.slot(before) {
            Some(slot) => slot.newer = at,
            None => self.oldest = at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn least_recently_used_entry_is_evicted_first() {
        let mut lru = Lru::new(10, 3);
        for key in ["a", "b", "c"] {
            lru.insert(key, key, 1);
        }
        assert!(lru.get("a").is_some());
        lru.insert("d", "d", 1);
        assert!(lru.get("b").is_none());
        lru.insert("e", "e", 9);
        assert_eq!(
            ["a", "c", "d", "e"].map(|key| lru.get(key).is_some()),
            [false, false, true, true]
        );
        lru.insert("f", "f", 11);
        assert!(lru.get("f").is_none());
    }

    #[test]
    fn retain_removes_the_other_entries_and_keeps_the_order() {
        let mut lru = Lru::new(10, 4);
        for key in [1, 2, 3, 4] {
            lru.insert(key, key, 1);
        }
        lru.retain(|key, _| key % 2 == 0);
        assert_eq!(
            [1, 2, 3, 4].map(|key| lru.find(&key).is_some()),
            [false, true, false, true]
        );
        for key in [5, 6, 7] {
            lru.insert(key, key, 1);
        }
        assert_eq!(
            [2, 4, 5, 6, 7].map(|key| lru.find(&key).is_some()),
            [false, true, true, true, true]
        );
        lru.retain(|_, _| false);
        assert_eq!((lru.index.len(), lru.weight), (0, 0));
    }

    #[test]
    fn added_weight_evicts_the_least_recently_used_entries() {
        let mut lru = Lru::new(10, 9);
        for key in ["a", "b", "c"] {
            lru.insert(key, key, 3);
        }
        lru.add_weight("c", 1);
        lru.add_weight("absent", 100);
        assert_eq!(["a", "b", "c"].map(|key| lru.get(key).is_some()), [true; 3]);
        lru.add_weight("c", 1);
        assert_eq!(
            ["a", "b", "c"].map(|key| lru.get(key).is_some()),
            [false, true, true]
        );
        // An entry that has become heavier than the bound leaves alone.
        lru.add_weight("b", 20);
        assert_eq!(["b", "c"].map(|key| lru.get(key).is_some()), [false, true]);
        lru.insert("d", "d", 10);
        assert!(lru.get("d").is_some());
    }

    proptest! {
        /// Compares the map with a plain list of (key, weight), newest last.
        #[test]
        fn lru_agrees_with_a_list_model(operations in prop::collection::vec((0_u8..12, 0_u64..5, any::<bool>()), 0..200)) {
            let mut lru = Lru::new(12, 5);
            let mut model: Vec<(u8, u64)> = Vec::new();
            for (key, weight, insert) in operations {
                if insert {
                    lru.insert(key, weight, weight);
                    model.retain(|(k, _)| *k != key);
                    model.push((key, weight));
                    while model.len() > 5 || model.iter().map(|(_, w)| w).sum::<u64>() > 12 {
                        model.remove(0);
                    }
                } else {
                    let found = lru.get(&key).copied();
                    let at = model.iter().position(|(k, _)| *k == key);
                    prop_assert_eq!(found, at.map(|at| model[at].1));
                    if let Some(at) = at {
                        let entry = model.remove(at);
                        model.push(entry);
                    }
                }
            }
        }
    }
}
