//! The store on disk: kills, power cuts, faults, slow disks.

/// Kills, restarts, garbage in the store.
mod crash;

/// Every state that a crash can leave, from the system calls of a real run.
mod crash_states;

/// Power cuts, disks that fail late, quotas.
mod powercut;

/// Full, read-only and vanished stores.
mod faults;

/// Bounds of the store and evictions.
mod eviction;

/// Bounds of single registries.
mod registry_bounds;

/// Evictions beside a scan, many readers, few inodes, and a disk that cannot read.
mod eviction_faults;

/// The scan and the list of a large store.
mod large_store;

/// Every errno of every system call of the store.
mod errno_matrix;

/// Slow disks and short memory.
mod slow_disk;
