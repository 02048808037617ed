//! The number of cores to run, and their CPUs.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use core_affinity::CoreId;

/// Returns the CPU of each core, or `None` for an unpinned core. The default is one core per CPU of
/// the cpuset, at most the cgroup limit `cpu.max` (rounded up). `wanted` overrides the number. If
/// there are more cores than CPUs, no core is pinned.
pub fn plan(wanted: Option<NonZeroUsize>) -> Vec<Option<CoreId>> {
    let available = core_affinity::get_core_ids().unwrap_or_default();
    let allowed = quota_cpus(Path::new("/sys/fs/cgroup"), &own_cgroup());
    choose(&available, allowed, wanted)
}

fn choose(
    available: &[CoreId],
    allowed: Option<NonZeroUsize>,
    wanted: Option<NonZeroUsize>,
) -> Vec<Option<CoreId>> {
    let count = wanted.map_or_else(
        || {
            available
                .len()
                .min(allowed.map_or(usize::MAX, NonZeroUsize::get))
                .max(1)
        },
        NonZeroUsize::get,
    );
    // With more cores than CPUs, pinning would only restrict the scheduler.
    (0..count)
        .map(|core| {
            if count <= available.len() {
                available.get(core).copied()
            } else {
                None
            }
        })
        .collect()
}

/// Returns the cgroup (version 2) of the process, relative to the mount.
pub(super) fn own_cgroup() -> PathBuf {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = text
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .unwrap_or("/");
    PathBuf::from(path.trim_start_matches('/'))
}

/// Returns the smallest `cpu.max` from `cgroup` up to the root, in whole CPUs, rounded up.
fn quota_cpus(mount: &Path, cgroup: &Path) -> Option<NonZeroUsize> {
    cgroup
        .ancestors()
        .filter_map(|dir| std::fs::read_to_string(mount.join(dir).join("cpu.max")).ok())
        .filter_map(|text| parse_cpu_max(&text))
        .min()
}

/// Parses `quota period` in microseconds, or `max period`.
fn parse_cpu_max(text: &str) -> Option<NonZeroUsize> {
    let mut parts = text.split_ascii_whitespace();
    let quota: u64 = parts.next()?.parse().ok()?;
    let period: u64 = parts.next()?.parse().ok().filter(|&period| period > 0)?;
    NonZeroUsize::new(usize::try_from(quota.div_ceil(period)).ok()?.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(n: usize) -> Vec<CoreId> {
        (0..n).map(|id| CoreId { id }).collect()
    }

    #[test]
    fn the_quota_limits_the_cores_and_is_rounded_up() {
        assert_eq!(parse_cpu_max("150000 100000\n"), NonZeroUsize::new(2));
        assert_eq!(parse_cpu_max("10000 100000\n"), NonZeroUsize::new(1));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
        assert_eq!(parse_cpu_max(""), None);
        assert_eq!(choose(&cpus(8), NonZeroUsize::new(2), None).len(), 2);
        assert_eq!(choose(&cpus(2), NonZeroUsize::new(64), None).len(), 2);
        assert_eq!(choose(&[], None, None).len(), 1);
    }

    #[test]
    fn an_explicit_number_wins_and_is_not_pinned_beyond_the_cpus() {
        assert_eq!(
            choose(&cpus(2), NonZeroUsize::new(1), NonZeroUsize::new(4)),
            vec![None; 4]
        );
        assert_eq!(
            choose(&cpus(2), None, NonZeroUsize::new(1)),
            vec![Some(CoreId { id: 0 })]
        );
    }
}
