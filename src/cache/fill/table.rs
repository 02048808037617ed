//! The fills in progress, by digest and registry, shared by all cores. Cache hits do not use this
//! table.
//!
//! A registry must not delay another registry's clients, nor grant access to another registry's
//! content. So each registry has its own fills. If two fills receive equal content, the second
//! commit is dropped.

use std::collections::HashMap;
use std::sync::Arc;

use super::Fill;
use crate::cache::access::Caller;
use crate::cache::priority::Priority;
use crate::oci::{Digest, Namespace, Origin};
use crate::storage::RemoteBlob;
use crate::sync::Mutex;
use crate::trace::{self, OpenSpan, Operation};

#[derive(Default)]
pub struct FillTable(Mutex<HashMap<FillKey, Arc<Fill>>>);

type FillKey = (Digest, Namespace);

/// The right to run a fill. After the drop, no new client joins the fill.
pub struct Ticket {
    pub fill: Arc<Fill>,
    /// The span of the fill. `None` if the fill works for no sampled request.
    pub span: Option<OpenSpan>,
}

impl FillTable {
    pub fn has(&self, digest: &Digest, origin: &Origin) -> bool {
        self.0.lock().contains_key(&(*digest, origin.namespace.clone()))
    }

    pub fn all(&self) -> Vec<Arc<Fill>> {
        self.0.lock().values().cloned().collect()
    }

    /// Returns the fill in progress, or a new fill with the ticket to run it. A new fill replaces
    /// `not`, which lost bytes or was denied access that this caller may have. If `remote` is
    /// given, a new fill reads from the bucket first. Raises a fill of a lower priority to `priority`.
    pub fn join(
        &self,
        digest: Digest,
        origin: &Origin,
        caller: &Caller,
        not: Option<&Arc<Fill>>,
        remote: Option<RemoteBlob>,
        priority: Priority,
    ) -> (Arc<Fill>, Option<Ticket>) {
        let mut fills = self.0.lock();
        let key = (digest, origin.namespace.clone());
        if let Some(fill) = fills.get(&key)
            && not.is_none_or(|not| !Arc::ptr_eq(not, fill))
        {
            fill.raise(&mut fill.lock(), priority);
            return (fill.clone(), None);
        }
        let span = trace::child(Operation::Fill);
        let context = span.as_ref().map(OpenSpan::context);
        let fill = Fill::new(digest, origin.clone(), caller.clone(), remote, priority, context);
        fills.insert(key, fill.clone());
        (fill.clone(), Some(Ticket { fill, span }))
    }

    /// Removes `fill`, unless a newer fill has replaced it.
    pub fn remove(&self, fill: &Arc<Fill>) {
        let mut fills = self.0.lock();
        let key = (fill.digest, fill.origin.namespace.clone());
        if fills.get(&key).is_some_and(|current| Arc::ptr_eq(current, fill)) {
            fills.remove(&key);
        }
    }
}
