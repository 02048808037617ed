//! Planned removals that wait for their application.

use std::collections::HashMap;
use std::time::Duration;

use crate::limits::{PLAN_LIFETIME, PLANS_MAX};
use crate::manage::PlannedRemoval;
use crate::runtime::clock::monotonic_millis;
use crate::sync::Mutex;

/// The plans by their identifier.
#[derive(Default)]
pub struct Plans(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    plans: HashMap<u64, (PlannedRemoval, u64)>,
}

impl Plans {
    /// Keeps `plan` for [`PLAN_LIFETIME`]. Returns its identifier.
    pub fn add(&self, plan: PlannedRemoval) -> u64 {
        let mut table = self.0.lock();
        let now = monotonic_millis();
        table.plans.retain(|_, (_, added)| is_valid(*added, now));
        if table.plans.len() == PLANS_MAX
            && let Some(oldest) = table.plans.keys().min().copied()
        {
            table.plans.remove(&oldest);
        }
        table.next += 1;
        let id = table.next;
        table.plans.insert(id, (plan, now));
        id
    }

    /// Removes and returns a plan. `None` if the plan is unknown or too old.
    pub fn take(&self, id: u64) -> Option<PlannedRemoval> {
        let (plan, added) = self.0.lock().plans.remove(&id)?;
        is_valid(added, monotonic_millis()).then_some(plan)
    }
}

fn is_valid(added: u64, now: u64) -> bool {
    Duration::from_millis(now - added) < PLAN_LIFETIME
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plan_is_returned_once_and_the_oldest_leaves_first() {
        let plans = Plans::default();
        let first = plans.add(PlannedRemoval::default());
        let others: Vec<_> = (0..PLANS_MAX)
            .map(|_| plans.add(PlannedRemoval::default()))
            .collect();
        assert!(plans.take(first).is_none());
        assert!(plans.take(others[0]).is_some());
        assert!(plans.take(others[0]).is_none());
    }

    #[test]
    fn plan_is_valid_for_its_lifetime() {
        let lifetime = PLAN_LIFETIME.as_millis() as u64;
        assert!(is_valid(5, 5 + lifetime - 1));
        assert!(!is_valid(5, 5 + lifetime));
    }
}
