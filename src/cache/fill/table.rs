//! The fills under way, by digest; shared by all cores. A hit does not come here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::Fill;
use crate::cache::Origin;
use crate::cache::access::Caller;
use crate::oci::Digest;

#[derive(Default)]
pub struct FillTable(Mutex<HashMap<Digest, Arc<Fill>>>);

/// Proof of being the one who fills. Dropping it ends the fill for newcomers.
pub struct Ticket {
    pub fill: Arc<Fill>,
}

impl FillTable {
    /// The fill of `digest` under way.
    pub fn get(&self, digest: &Digest) -> Option<Arc<Fill>> {
        self.lock().get(digest).cloned()
    }

    /// The fill under way, or a new one with the ticket to run it. A fill other than `not` is wanted: `not` has
    /// lost bytes that the caller needs, or was refused what this caller may be given.
    pub fn join(
        &self,
        digest: Digest,
        origin: &Origin,
        caller: &Caller,
        not: Option<&Arc<Fill>>,
    ) -> (Arc<Fill>, Option<Ticket>) {
        let mut fills = self.lock();
        if let Some(fill) = fills.get(&digest)
            && not.is_none_or(|not| !Arc::ptr_eq(not, fill))
        {
            return (fill.clone(), None);
        }
        let fill = Fill::new(digest, origin.clone(), caller.clone());
        fills.insert(digest, fill.clone());
        (fill.clone(), Some(Ticket { fill }))
    }

    /// Ends `fill` for newcomers, unless it has been replaced already.
    pub fn remove(&self, fill: &Arc<Fill>) {
        let mut fills = self.lock();
        if fills
            .get(fill.digest())
            .is_some_and(|current| Arc::ptr_eq(current, fill))
        {
            fills.remove(fill.digest());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, Arc<Fill>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
