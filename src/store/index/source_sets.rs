//! Numbers for the sets of registries that have a blob. Most blobs have one of few sets, so an object
//! of the index takes 4 bytes for its registries, however many there are.

use std::collections::HashMap;
use std::sync::Arc;

use super::registries::RegistryNumber;
use crate::limits::INDEX_SOURCE_SETS_MAX;

/// The set of a blob without a known registry.
pub const NO_SOURCES: u32 = 0;

/// The sets that blobs have. The number of a set without a blob is used again.
#[derive(Clone, Debug)]
pub struct SourceSets {
    sets: Vec<SourceSet>,
    free: Vec<u32>,
    numbers: HashMap<Arc<[RegistryNumber]>, u32>,
}

#[derive(Clone, Debug)]
struct SourceSet {
    /// Sorted.
    registries: Arc<[RegistryNumber]>,
    /// The blobs with this set.
    blobs: u32,
}

impl Default for SourceSets {
    fn default() -> Self {
        SourceSets {
            sets: vec![SourceSet {
                registries: Arc::default(),
                blobs: 0,
            }],
            free: Vec::new(),
            numbers: HashMap::from([(Arc::default(), NO_SOURCES)]),
        }
    }
}

impl SourceSets {
    /// Returns the registries of the set `number`, which must have a blob or be [`NO_SOURCES`].
    pub fn get(&self, number: u32) -> &[RegistryNumber] {
        &self.sets[number as usize].registries
    }

    /// Moves a blob from the set `number` to the set that also has `more`. Returns the number of the
    /// new set. The blob stays if it would be in the [`INDEX_SOURCE_SETS_MAX`]-th set.
    pub fn extend(&mut self, number: u32, more: impl Iterator<Item = RegistryNumber>) -> u32 {
        let mut registries = self.get(number).to_vec();
        registries.extend(more);
        registries.sort_unstable();
        registries.dedup();
        let known = self.numbers.get(&*registries).copied();
        if known == Some(number) {
            return number;
        }
        let Some(new) = known.or_else(|| self.add(registries.into())) else {
            return number;
        };
        self.sets[new as usize].blobs += 1;
        self.release(number);
        new
    }

    /// Takes a blob from the set `number`.
    pub fn release(&mut self, number: u32) {
        // A blob enters the set without registries uncounted.
        if number == NO_SOURCES {
            return;
        }
        let set = &mut self.sets[number as usize];
        set.blobs -= 1;
        if set.blobs == 0 {
            self.numbers.remove(&set.registries);
            self.free.push(number);
        }
    }

    fn add(&mut self, registries: Arc<[RegistryNumber]>) -> Option<u32> {
        let set = SourceSet {
            registries: registries.clone(),
            blobs: 0,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.sets[number as usize] = set;
                number
            }
            None if self.sets.len() < INDEX_SOURCE_SETS_MAX => {
                self.sets.push(set);
                u32::try_from(self.sets.len() - 1).expect("the limit fits")
            }
            None => return None,
        };
        self.numbers.insert(registries, number);
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_with_equal_registries_share_a_set() {
        let mut sets = SourceSets::default();
        let first = sets.extend(NO_SOURCES, [3, 1].into_iter());
        let second = sets.extend(NO_SOURCES, [1].into_iter());
        let second = sets.extend(second, [3, 3].into_iter());
        assert_eq!(first, second);
        assert_eq!(sets.get(first), [1, 3]);
        assert_eq!(sets.extend(first, [1].into_iter()), first);
    }

    #[test]
    fn number_of_a_set_without_a_blob_is_used_again() {
        let mut sets = SourceSets::default();
        for registry in 0..1_000 {
            let number = sets.extend(NO_SOURCES, [registry].into_iter());
            assert_eq!((number, sets.get(number)), (1, &[registry][..]));
            sets.release(number);
        }
        assert_eq!(sets.sets.len(), 2);
    }

    #[test]
    fn blob_stays_in_its_set_if_no_further_set_fits() {
        let mut sets = SourceSets::default();
        let pair = |n: usize| [(n / 256) as RegistryNumber, (256 + n % 256) as RegistryNumber].into_iter();
        let first = sets.extend(NO_SOURCES, pair(0));
        for n in 1..INDEX_SOURCE_SETS_MAX - 1 {
            assert_ne!(sets.extend(NO_SOURCES, pair(n)), NO_SOURCES, "{n}");
        }
        assert_eq!(sets.extend(first, [999].into_iter()), first);
        assert_eq!(sets.extend(NO_SOURCES, [999].into_iter()), NO_SOURCES);
        assert_eq!(sets.get(first), [0, 256]);
    }
}
