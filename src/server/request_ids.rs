//! Generates the ids of the requests of one core.

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

use crate::http::RequestId;
use crate::runtime::split_mix::mixed;

/// The bits of an id for the number of a request. The other bits are for the core.
const NUMBER_BITS: u32 = 48;

/// The generator of one core.
pub struct RequestIds {
    seed: u64,
    next: Cell<u64>,
}

impl RequestIds {
    pub fn new(core: usize) -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        // The keys of `RandomState` are random, so ids of different processes differ.
        let seed = *SEED.get_or_init(|| RandomState::new().hash_one(()));
        Self::with_seed(core, seed)
    }

    fn with_seed(core: usize, seed: u64) -> Self {
        RequestIds {
            seed,
            next: Cell::new((core as u64) << NUMBER_BITS),
        }
    }

    pub fn next(&self) -> RequestId {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        RequestId(mixed(number.wrapping_add(self.seed)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_all_cores_are_unique_and_depend_on_the_seed() {
        let mut seen = HashSet::new();
        for core in 0..4 {
            let ids = RequestIds::with_seed(core, 7);
            for _ in 0..1_000 {
                assert!(seen.insert(ids.next().0));
            }
        }
        let other = RequestIds::with_seed(0, 8_000_000_000);
        assert!((0..1_000).all(|_| seen.insert(other.next().0)));
    }
}
