//! The front door: who may use the cache at all, when the operator says so. By name and password (HTTP Basic, RFC
//! 7617) or by a client certificate; either is enough. What somebody may read once inside is told by `allow`.
//!
//! One [`FrontDoor`] per process; each core has a [`Keeper`], which remembers whom it has let in.

mod attempts;
mod desk;
mod keeper;
mod locks;
#[cfg(test)]
#[path = "tests/timing.rs"]
mod timing;
mod watch;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::FrontAuth;

use attempts::Attempts;
use desk::Desk;
use locks::Locks;

pub use keeper::{Guest, Keeper, Pass, Turned};

/// What all cores share of the door; cheap to clone.
#[derive(Clone)]
pub struct FrontDoor(Arc<Shared>);

struct Shared {
    /// Counts the changes of `locks`.
    generation: AtomicU64,
    /// What opens it; none where there is no door.
    locks: Mutex<Option<Arc<Locks>>>,
    desk: Desk,
    attempts: Attempts,
    /// Whether the thread that looks after the htpasswd file runs.
    watched: Mutex<bool>,
}

impl FrontDoor {
    /// # Errors
    ///
    /// When the threads for passwords cannot be had. Without htpasswd file none are started.
    pub fn new(auth: Option<FrontAuth>) -> io::Result<Self> {
        let door = FrontDoor(Arc::new(Shared {
            generation: AtomicU64::new(0),
            locks: Mutex::new(None),
            desk: Desk::default(),
            attempts: Attempts::default(),
            watched: Mutex::new(false),
        }));
        door.replace(auth)?;
        Ok(door)
    }

    /// Takes over what opens the door from now on. What was remembered of passwords is forgotten.
    ///
    /// # Errors
    ///
    /// As [`FrontDoor::new`]; nothing has changed then.
    pub fn replace(&self, auth: Option<FrontAuth>) -> io::Result<()> {
        if auth.as_ref().is_some_and(|auth| auth.htpasswd.is_some()) {
            self.0.desk.open()?;
            let mut watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if !*watched {
                watch::start(self.clone())?;
                *watched = true;
            }
        }
        self.put(&mut self.lock(), auth);
        Ok(())
    }

    /// Takes over `auth` if it is still `before` that opens the door.
    fn replace_if(&self, before: &Arc<Locks>, auth: FrontAuth) -> bool {
        let mut locks = self.lock();
        let unchanged = locks.as_ref().is_some_and(|now| Arc::ptr_eq(now, before));
        if unchanged {
            self.put(&mut locks, Some(auth));
        }
        unchanged
    }

    fn put(&self, locks: &mut Option<Arc<Locks>>, auth: Option<FrontAuth>) {
        *locks = auth.map(|auth| Arc::new(Locks::new(auth)));
        self.0.desk.forget();
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    /// Differs from what it was when something else opens the door.
    pub fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    fn locks(&self) -> Option<Arc<Locks>> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Locks>>> {
        self.0.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether `path` is behind the door: everything that answers with content or knowledge. Whether we live may be
/// asked by everybody.
pub fn is_guarded(path: &str) -> bool {
    (path == "/v2" || path.starts_with("/v2/") || path.starts_with("/_/")) && path != "/_/health"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_signs_of_life_are_in_front_of_the_door() {
        for guarded in ["/v2", "/v2/", "/v2/a/tags/list", "/_/stats", "/_/", "/_/health/"] {
            assert!(is_guarded(guarded), "{guarded}");
        }
        for open in ["/", "/healthz", "/livez", "/readyz", "/_/health"] {
            assert!(!is_guarded(open), "{open}");
        }
    }
}
