//! The order of fetches when slots, memory and bandwidth are scarce.
//!
//! Revalidations of tags have slots of their own ([`super::slots::Class::Background`]), so they need
//! no place in the order. Verification reads the store only.

/// The purpose of a fetch, the least important first. A fetch below [`Priority::Client`] takes only
/// slots and memory beyond a reserve, never waits in a queue, and gives way to clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Priority {
    /// A client may need the content soon.
    Prefetch,
    /// A rule of `warm` keeps the content up to date.
    Warm,
    /// An operator has requested the content, or it is pinned and damaged.
    Load,
    /// A client waits for the content.
    Client,
}

impl Priority {
    /// The number of priorities.
    pub const COUNT: usize = 4;

    /// Returns whether no client waits for the content.
    pub fn is_background(self) -> bool {
        self < Priority::Client
    }

    /// Returns the part of `whole` that a fetch must leave free. Each priority leaves more than the
    /// next higher one, so a lower priority never takes the last units of a higher one.
    pub(super) fn reserve(self, whole: u64) -> u64 {
        match self {
            Priority::Client => 0,
            Priority::Load => whole / 4,
            // Three eighths, without an overflow.
            Priority::Warm => whole / 4 + whole / 8,
            Priority::Prefetch => whole / 2,
        }
    }

    /// Returns the priority with this number. Larger numbers mean [`Priority::Client`].
    pub(super) fn of_number(number: u8) -> Self {
        match number {
            0 => Priority::Prefetch,
            1 => Priority::Warm,
            2 => Priority::Load,
            _ => Priority::Client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Priority; Priority::COUNT] = [
        Priority::Prefetch,
        Priority::Warm,
        Priority::Load,
        Priority::Client,
    ];

    #[test]
    fn each_priority_leaves_at_least_as_much_as_the_next_higher_one() {
        for whole in [0, 1, 8, 160, u64::MAX] {
            let reserves = ALL.map(|priority| priority.reserve(whole));
            assert!(
                reserves.is_sorted_by(|lower, higher| lower >= higher),
                "{reserves:?}"
            );
            assert_eq!(reserves[3], 0);
        }
    }

    #[test]
    fn parts_of_the_whole_that_stay_free() {
        assert_eq!(ALL.map(|priority| priority.reserve(160)), [80, 60, 40, 0]);
        assert_eq!(ALL.map(|priority| priority.reserve(8)), [4, 3, 2, 0]);
    }

    #[test]
    fn number_of_a_priority_gives_the_priority() {
        for priority in ALL {
            assert_eq!(Priority::of_number(priority as u8), priority);
        }
    }
}
