//! The memory budget of work in progress. Charges are estimates, and the budget rejects charges
//! above its limit.
//!
//! Memory with limits elsewhere is not counted, such as the cores' memory for small objects, tags
//! and lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::condition_log::LoggedCondition;
use super::cores::own_cgroup;
use crate::limits::{MEMORY_BUDGET_MIN, RESPONSE_BYTES};

/// The budget of the process. Cheap to clone.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Shared>);

struct Shared {
    limit: u64,
    /// Bytes charged by work on the helper pool.
    fetches: AtomicU64,
    /// Bytes charged by responses, one counter per core. Only its core writes a counter, so hits
    /// share no cache line.
    cores: Box<[Line]>,
    refused: LoggedCondition,
}

/// A counter in its own cache line.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// Bytes charged to the budget. Released on drop.
pub struct Charge {
    budget: MemoryBudget,
    bytes: u64,
}

/// The budget, as used by one core.
#[derive(Clone)]
pub struct CoreMemory {
    budget: MemoryBudget,
    core: usize,
}

/// A response in progress. Counted until dropped.
pub struct Responding<'a>(&'a Line);

impl MemoryBudget {
    /// Creates a budget of `limit` bytes for `cores` cores and the helper pool.
    pub fn new(limit: u64, cores: usize) -> Self {
        MemoryBudget(Arc::new(Shared {
            limit,
            fetches: AtomicU64::new(0),
            cores: (0..cores).map(|_| Line::default()).collect(),
            refused: LoggedCondition::default(),
        }))
    }

    /// Returns the budget for core number `core`. Only this core may use the result.
    pub fn core(&self, core: usize) -> CoreMemory {
        CoreMemory {
            budget: self.clone(),
            core,
        }
    }

    /// Returns the bytes of all work in progress.
    pub fn used(&self) -> u64 {
        let responses: u64 = self
            .0
            .cores
            .iter()
            .map(|core| core.0.load(Ordering::Relaxed))
            .sum();
        responses + self.0.fetches.load(Ordering::Relaxed)
    }

    pub fn limit(&self) -> u64 {
        self.0.limit
    }

    /// Charges `bytes`. Returns `None` and counts a rejection if the limit is exceeded. Near the
    /// limit, all of several concurrent charges may be rejected.
    pub fn take(&self, bytes: u64) -> Option<Charge> {
        let charge = Charge {
            budget: self.clone(),
            bytes,
        };
        self.0.fetches.fetch_add(bytes, Ordering::Relaxed);
        if self.used() > self.0.limit {
            self.0.refused.record(1);
            return None;
        }
        Some(charge)
    }

    /// Counts a rejection because a registry's share is exhausted.
    pub fn refuse(&self) {
        self.0.refused.record(1);
    }

    /// Returns the counter of rejections for lack of memory.
    pub fn refused(&self) -> &LoggedCondition {
        &self.0.refused
    }
}

impl Charge {
    /// Releases the bytes above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let back = self.bytes.saturating_sub(bytes);
        self.bytes -= back;
        self.budget.0.fetches.fetch_sub(back, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.fetches.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl CoreMemory {
    /// Charges a response in progress with [`RESPONSE_BYTES`]. The bytes are already in memory, so
    /// the budget never rejects a response.
    pub fn response(&self) -> Responding<'_> {
        let line = &self.budget.0.cores[self.core];
        // A store instead of an atomic exchange. Only this core writes the counter.
        line.0
            .store(line.0.load(Ordering::Relaxed) + RESPONSE_BYTES, Ordering::Relaxed);
        Responding(line)
    }

    pub fn budget(&self) -> &MemoryBudget {
        &self.budget
    }
}

impl Drop for Responding<'_> {
    fn drop(&mut self) {
        let line = self.0;
        line.0
            .store(line.0.load(Ordering::Relaxed) - RESPONSE_BYTES, Ordering::Relaxed);
    }
}

/// Returns the default budget: half of the memory of the cgroup or the machine. The other half is
/// for memory with its own limits: `MEMORY_CACHE`, connections, and pages of files in
/// transfer.
pub fn default_budget() -> u64 {
    let system = rustix::system::sysinfo();
    let all = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    share(all, limit_of_cgroup(std::path::Path::new("/sys/fs/cgroup")))
}

fn share(system: u64, cgroup: Option<u64>) -> u64 {
    (cgroup.map_or(system, |limit| limit.min(system)) / 2).max(MEMORY_BUDGET_MIN)
}

/// Returns the smallest `memory.max` from the cgroup of the process up to the root.
fn limit_of_cgroup(mount: &std::path::Path) -> Option<u64> {
    own_cgroup()
        .ancestors()
        .filter_map(|dir| std::fs::read_to_string(mount.join(dir).join("memory.max")).ok())
        // `max` is not a number and means no limit.
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn work_over_the_budget_is_rejected_until_memory_is_released() {
        let budget = MemoryBudget::new(10 * MIB, 2);
        let first = budget.take(6 * MIB).unwrap();
        assert!(budget.take(6 * MIB).is_none());
        assert_eq!(budget.refused().count(), 1);
        assert_eq!(budget.used(), 6 * MIB, "a rejected amount is not counted");
        drop(first);
        let mut second = budget.take(10 * MIB).unwrap();
        second.shrink_to(MIB);
        second.shrink_to(2 * MIB);
        assert_eq!(budget.used(), MIB);
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn responses_count_and_are_never_refused() {
        let budget = MemoryBudget::new(2 * RESPONSE_BYTES, 2);
        let (one, two) = (budget.core(0), budget.core(1));
        let held = [one.response(), one.response(), two.response()];
        assert_eq!(budget.used(), 3 * RESPONSE_BYTES);
        assert!(budget.take(1).is_none());
        drop(held);
        assert_eq!(budget.used(), 0);
        assert!(budget.take(1).is_some());
    }

    #[test]
    fn default_memory_budget_is_half_of_the_available_memory() {
        assert_eq!(share(16 << 30, None), 8 << 30);
        assert_eq!(share(16 << 30, Some(1 << 30)), 512 * MIB);
        assert_eq!(share(16 << 30, Some(u64::MAX)), 8 << 30);
        assert_eq!(share(16 << 30, Some(32 * MIB)), MEMORY_BUDGET_MIN);
    }
}
