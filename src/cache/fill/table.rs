//! The fills in progress, by digest and registry; shared by all cores. A hit does not come here.
//!
//! One registry must not delay the clients of another, nor grant access to its content. So each registry has its own fills,
//! and of two fills of the same content the second to commit is dropped.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Fill;
use crate::cache::access::Caller;
use crate::oci::{Digest, Namespace, Origin};
use crate::storage::RemoteBlob;

#[derive(Default)]
pub struct FillTable(Mutex<HashMap<FillKey, Arc<Fill>>>);

type FillKey = (Digest, Namespace);

/// The right to run a fill. Dropping it ends the fill for newcomers.
pub struct Ticket {
    pub fill: Arc<Fill>,
}

impl FillTable {
    /// Whether `digest` is being filled from `origin`'s registry.
    pub fn has(&self, digest: &Digest, origin: &Origin) -> bool {
        self.lock().contains_key(&(*digest, origin.namespace.clone()))
    }

    /// The fill in progress, or a new one with the ticket to run it. A fill other than `not` is wanted: `not` has
    /// lost bytes that the caller needs, or was refused what this caller may be given. A new one reads
    /// `remote`, if that is given.
    pub fn join(
        &self,
        digest: Digest,
        origin: &Origin,
        caller: &Caller,
        not: Option<&Arc<Fill>>,
        remote: Option<RemoteBlob>,
    ) -> (Arc<Fill>, Option<Ticket>) {
        let mut fills = self.lock();
        let key = (digest, origin.namespace.clone());
        if let Some(fill) = fills.get(&key)
            && not.is_none_or(|not| !Arc::ptr_eq(not, fill))
        {
            return (fill.clone(), None);
        }
        let fill = Fill::new(digest, origin.clone(), caller.clone(), remote);
        fills.insert(key, fill.clone());
        (fill.clone(), Some(Ticket { fill }))
    }

    /// Ends `fill` for newcomers, unless it has been replaced already.
    pub fn remove(&self, fill: &Arc<Fill>) {
        let mut fills = self.lock();
        let key = (fill.digest, fill.origin.namespace.clone());
        if fills.get(&key).is_some_and(|current| Arc::ptr_eq(current, fill)) {
            fills.remove(&key);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FillKey, Arc<Fill>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
