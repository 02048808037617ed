//! Counters for conditions in the log. Each occurrence is counted, and the log gets one line at the
//! start and one at the end.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::CONDITION_QUIET_TIME;
use crate::sync::Mutex;

const QUIET_SECONDS: u32 = CONDITION_QUIET_TIME.as_secs() as u32;

/// A logged condition. Any thread records occurrences, and a periodic caller reads the transitions.
#[derive(Debug, Default)]
pub struct LoggedCondition {
    count: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The count at the last call of [`LoggedCondition::transition`].
    seen: u64,
    /// The count before the active condition started.
    before: u64,
    active: bool,
    last_second: u32,
}

/// A change to be logged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transition {
    Started,
    /// No occurrence for [`CONDITION_QUIET_TIME`]. Contains the number of occurrences since the
    /// start.
    Ended(u64),
}

impl LoggedCondition {
    /// Adds `times` occurrences.
    pub fn record(&self, times: u64) {
        self.count.fetch_add(times, Ordering::Relaxed);
    }

    /// Returns the number of occurrences since the process started.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the transition since the last call. Several threads may call; each transition is
    /// returned once.
    pub fn transition(&self, now_seconds: u32) -> Option<Transition> {
        let times = self.count();
        let mut state = self.state.lock();
        if times > state.seen {
            let before = std::mem::replace(&mut state.seen, times);
            state.last_second = now_seconds;
            if !state.active {
                state.active = true;
                state.before = before;
                return Some(Transition::Started);
            }
        } else if state.active && now_seconds.saturating_sub(state.last_second) >= QUIET_SECONDS {
            state.active = false;
            return Some(Transition::Ended(times - state.before));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_transition_is_returned_once() {
        let condition = LoggedCondition::default();
        assert_eq!(condition.transition(100), None);
        for round in 0..2 {
            let now = 200 + 100 * round;
            condition.record(3);
            assert_eq!(condition.transition(now), Some(Transition::Started));
            condition.record(1);
            assert_eq!(condition.transition(now + QUIET_SECONDS), None);
            assert_eq!(condition.transition(now + 2 * QUIET_SECONDS - 1), None);
            assert_eq!(
                condition.transition(now + 2 * QUIET_SECONDS),
                Some(Transition::Ended(4))
            );
            assert_eq!(condition.transition(now + 2 * QUIET_SECONDS), None);
        }
        assert_eq!(condition.count(), 8);
    }
}
