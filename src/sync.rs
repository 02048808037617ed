//! Locks that ignore poisoning. `.clippy.toml` rejects the locks of the standard library elsewhere.
//!
//! A panic ends one request or one job, and the other threads continue. If a thread panics while the
//! thread holds a lock, the standard library poisons the lock, and each later call returns an error.
//! The locks here return the guard instead. This is sound for the structures of the crate:
//!
//! - A structure is a map, a queue, a few counters, or a single value. Each statement leaves the
//!   structure valid.
//! - An entry of a table is a copy of data on disk, in a bucket or at an upstream. A missing entry
//!   costs one request. A surplus entry expires or is evicted.
//! - Shares, slots and claims belong to guards. A guard gives its share back in `Drop`, also during a
//!   panic. An error of the lock would keep the share forever.
//! - A lock without data orders the changes to the files of the store. The files are valid after a
//!   loss of power between two changes, and therefore also after a panic.

#![allow(
    clippy::disallowed_types,
    reason = "these types wrap the types of the standard library"
)]

use std::sync::{self, PoisonError};

pub use std::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// A mutual exclusion lock without poisoning.
#[derive(Debug, Default)]
pub struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub const fn new(value: T) -> Self {
        Mutex(sync::Mutex::new(value))
    }

    /// Blocks the thread until the lock is free, and returns the guard of the value.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn into_inner(self) -> T {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock for several readers or one writer, without poisoning.
#[derive(Debug, Default)]
pub struct RwLock<T>(sync::RwLock<T>);

impl<T> RwLock<T> {
    pub const fn new(value: T) -> Self {
        RwLock(sync::RwLock::new(value))
    }

    /// Blocks the thread until no writer holds the lock, and returns the guard of the value.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Blocks the thread until the lock is free, and returns the guard of the value.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn locks_are_usable_after_a_panic_of_their_holder() {
        let (mutex, rw_lock) = (Mutex::new(1), RwLock::new(1));
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let (mut number, mut other) = (mutex.lock(), rw_lock.write());
            (*number, *other) = (2, 2);
            panic!("while both locks are held");
        }));
        assert!(panicked.is_err());
        assert!(mutex.0.is_poisoned() && rw_lock.0.is_poisoned());
        assert_eq!(*mutex.lock(), 2);
        assert_eq!(*rw_lock.read(), 2);
        assert_eq!(*rw_lock.write(), 2);
        assert_eq!(mutex.into_inner(), 2);
    }
}
