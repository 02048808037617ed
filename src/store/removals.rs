//! The content that a store removed recently. Cores forget responses and close files of such content.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::REMOVALS_MAX;
use crate::oci::DigestPrefix;
use crate::sync::Mutex;

/// The recent removals, shared by all threads. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Removals(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The number of removals since the start. Read without the lock.
    count: AtomicU64,
    recent: Mutex<VecDeque<DigestPrefix>>,
}

/// The removals that a reader has not seen.
#[derive(PartialEq, Eq, Debug)]
pub enum Unseen {
    Nothing,
    Some(Vec<DigestPrefix>),
    /// More than [`REMOVALS_MAX`].
    TooMany,
}

impl Removals {
    pub fn add(&self, digest: DigestPrefix) {
        let mut recent = self.0.recent.lock();
        if recent.len() == REMOVALS_MAX {
            recent.pop_front();
        }
        recent.push_back(digest);
        self.0.count.fetch_add(1, Ordering::Release);
    }

    /// Returns the removals after the first `seen`, and sets `seen` to all of them. Costs one load
    /// without new removals.
    pub fn unseen(&self, seen: &mut u64) -> Unseen {
        if self.0.count.load(Ordering::Acquire) == *seen {
            return Unseen::Nothing;
        }
        let recent = self.0.recent.lock();
        let count = self.0.count.load(Ordering::Acquire);
        let missed = usize::try_from(count - *seen).unwrap_or(usize::MAX);
        *seen = count;
        match recent.len().checked_sub(missed) {
            Some(known) => Unseen::Some(recent.range(known..).copied().collect()),
            None => Unseen::TooMany,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_sees_each_removal_once() {
        let removals = Removals::default();
        let (mut first, mut second) = (0, 0);
        assert_eq!(removals.unseen(&mut first), Unseen::Nothing);
        removals.add(DigestPrefix(1));
        removals.add(DigestPrefix(2));
        let both = || Unseen::Some(vec![DigestPrefix(1), DigestPrefix(2)]);
        assert_eq!(removals.unseen(&mut first), both());
        removals.add(DigestPrefix(3));
        assert_eq!(removals.unseen(&mut first), Unseen::Some(vec![DigestPrefix(3)]));
        assert_eq!(removals.unseen(&mut first), Unseen::Nothing);
        removals.unseen(&mut second);
        assert_eq!(removals.unseen(&mut second), Unseen::Nothing);
    }

    #[test]
    fn too_many_missed_removals_are_reported_once() {
        let removals = Removals::default();
        let mut seen = 0;
        for number in 0..=REMOVALS_MAX as u64 {
            removals.add(DigestPrefix(number));
        }
        assert_eq!(removals.unseen(&mut seen), Unseen::TooMany);
        assert_eq!(removals.unseen(&mut seen), Unseen::Nothing);
    }
}
