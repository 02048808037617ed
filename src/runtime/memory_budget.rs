//! Memory budget of the work in progress: charged in round figures, rejected above the limit.
//!
//! Not counted: what has bounds of its own, such as the cores' memory for small objects, tags and lists.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::condition_log::LoggedCondition;
use super::cores::own_cgroup;
use crate::limits::{MEMORY_BUDGET_MIN, RESPONSE_BYTES};

/// The process's budget; cheap to clone.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Shared>);

struct Shared {
    limit: u64,
    /// Of work on the helper pool.
    fetches: AtomicU64,
    /// Of responses, each core its own: only that core writes there, and a hit shares no line with another core.
    cores: Box<[Line]>,
    refused: LoggedCondition,
}

/// A number in a cache line of its own.
#[repr(align(128))]
#[derive(Default)]
struct Line(AtomicU64);

/// Bytes taken from the budget; given back on drop.
pub struct Charge {
    budget: MemoryBudget,
    bytes: u64,
}

/// One core's view of the budget.
#[derive(Clone)]
pub struct CoreMemory {
    budget: MemoryBudget,
    core: usize,
}

/// A response in progress, counted as long as the value lives.
pub struct Responding<'a>(&'a Line);

impl MemoryBudget {
    /// A budget of `limit` bytes for `cores` cores and what works for them.
    pub fn new(limit: u64, cores: usize) -> Self {
        MemoryBudget(Arc::new(Shared {
            limit,
            fetches: AtomicU64::new(0),
            cores: (0..cores).map(|_| Line::default()).collect(),
            refused: LoggedCondition::default(),
        }))
    }

    /// The view of core number `core`, which alone may use it.
    pub fn core(&self, core: usize) -> CoreMemory {
        CoreMemory {
            budget: self.clone(),
            core,
        }
    }

    /// Bytes of all work in progress.
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

    /// Takes `bytes`, or nothing, which is counted. Of several who come at the edge at once all may be refused.
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

    /// Counts work that its registry's share has no room for.
    pub fn refuse(&self) {
        self.0.refused.record(1);
    }

    /// Times that work was refused for want of memory.
    pub fn refused(&self) -> &LoggedCondition {
        &self.0.refused
    }
}

impl Charge {
    /// Gives back what is not needed after all.
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
    /// Counts a response in progress: [`RESPONSE_BYTES`]. The bytes are in memory already, so the budget never
    /// rejects a response.
    pub fn response(&self) -> Responding<'_> {
        let line = &self.budget.0.cores[self.core];
        // A store and no exchange: this core is the only one that writes here.
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

/// The budget when nobody chose one: half of what the cgroup or the machine has. The other half is for what has
/// bounds of its own: `MEMORY_CACHE` of every core, connections, and the pages of files that are being sent.
pub fn default_budget() -> u64 {
    let system = rustix::system::sysinfo();
    let all = (system.totalram as u64).saturating_mul(u64::from(system.mem_unit));
    share(all, limit_of_cgroup(std::path::Path::new("/sys/fs/cgroup")))
}

fn share(system: u64, cgroup: Option<u64>) -> u64 {
    (cgroup.map_or(system, |limit| limit.min(system)) / 2).max(MEMORY_BUDGET_MIN)
}

/// The smallest `memory.max` on the way from our cgroup to the root.
fn limit_of_cgroup(mount: &std::path::Path) -> Option<u64> {
    own_cgroup()
        .ancestors()
        .filter_map(|dir| std::fs::read_to_string(mount.join(dir).join("memory.max")).ok())
        // `max` is no number, and no limit.
        .filter_map(|text| text.trim().parse().ok())
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn work_is_refused_when_it_would_be_too_much_and_taken_again_after() {
        let budget = MemoryBudget::new(10 * MIB, 2);
        let first = budget.take(6 * MIB).unwrap();
        assert!(budget.take(6 * MIB).is_none());
        assert_eq!(budget.refused().count(), 1);
        assert_eq!(budget.used(), 6 * MIB, "what was refused is not counted");
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
    fn the_default_is_half_of_what_there_is() {
        assert_eq!(share(16 << 30, None), 8 << 30);
        assert_eq!(share(16 << 30, Some(1 << 30)), 512 * MIB);
        assert_eq!(share(16 << 30, Some(u64::MAX)), 8 << 30);
        assert_eq!(share(16 << 30, Some(32 * MIB)), MEMORY_BUDGET_MIN);
    }
}
