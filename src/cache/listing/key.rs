//! The key of a page.

use crate::cache::access::Caller;
use crate::oci::Origin;
use crate::upstream::Target;

/// A page of a list, as a specific caller sees the page.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ListingKey {
    pub origin: Origin,
    /// [`Target::Tags`] or [`Target::Referrers`].
    pub target: Target,
    pub caller: Caller,
}
