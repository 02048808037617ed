//! Exclusive rights to hash the entries of an older system.

use std::collections::HashSet;
use std::sync::Arc;

use super::Key;
use crate::sync::Mutex;

/// The keys of the entries that are being hashed.
#[derive(Clone, Debug, Default)]
pub(super) struct Claims(Arc<Mutex<HashSet<Key>>>);

impl Claims {
    /// Returns the right to hash the entry under `key`. `None` if another caller has the right.
    pub fn take(&self, key: &Key) -> Option<Claim> {
        self.0.lock().insert(key.clone()).then(|| Claim {
            claims: self.clone(),
            key: key.clone(),
        })
    }

    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }
}

/// The exclusive right to hash an entry. The drop ends the right, also during a panic.
pub(super) struct Claim {
    claims: Claims,
    key: Key,
}

impl Claim {
    pub fn key(&self) -> &Key {
        &self.key
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().remove(&self.key);
    }
}
