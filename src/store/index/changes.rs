//! The slots of the index that changed last. A job that reads the index in slices finds here the slots
//! that changed between two slices.

use std::collections::VecDeque;

use crate::limits::INDEX_CHANGES_MAX;

/// The numbers of objects that were added or removed, in the order of the changes.
#[derive(Debug, Default)]
pub struct Changes {
    /// The number of changes since the start.
    count: u64,
    recent: VecDeque<u32>,
}

impl Changes {
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn add(&mut self, number: u32) {
        if self.recent.len() == INDEX_CHANGES_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(number);
        self.count += 1;
    }

    /// Returns the numbers that changed after the first `seen` changes. `None` if more than
    /// [`INDEX_CHANGES_MAX`] changes followed.
    pub fn since(&self, seen: u64) -> Option<impl Iterator<Item = u32> + use<'_>> {
        let missed = usize::try_from(self.count - seen).ok()?;
        let known = self.recent.len().checked_sub(missed)?;
        Some(self.recent.range(known..).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_returned_in_order_until_too_many_follow() {
        let mut changes = Changes::default();
        for number in [7, 8, 7] {
            changes.add(number);
        }
        let since = |changes: &Changes, seen| changes.since(seen).map(|numbers| numbers.collect::<Vec<_>>());
        assert_eq!(since(&changes, 0), Some(vec![7, 8, 7]));
        assert_eq!(since(&changes, 2), Some(vec![7]));
        assert_eq!(since(&changes, 3), Some(vec![]));
        for _ in 0..INDEX_CHANGES_MAX {
            changes.add(1);
        }
        assert_eq!(
            since(&changes, 3).map(|numbers| numbers.len()),
            Some(INDEX_CHANGES_MAX)
        );
        assert_eq!(since(&changes, 2), None);
    }
}
