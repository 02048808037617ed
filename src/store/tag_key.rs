//! The key of a tag pointer.

use crate::oci::{Origin, Tag};

/// A tag as seen by clients of one accept class.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TagKey {
    pub origin: Origin,
    pub tag: Tag,
    /// See [`crate::oci::Accept::class_name`].
    pub class: String,
}
