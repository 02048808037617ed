//! Tag pointers: the manifest of a tag and the time of its last check.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::oci::{Accept, Digest};

/// A tag pointer, stored as one self-contained JSON file and replaced atomically. Two files could
/// not be replaced atomically, because two renames are two steps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagPointer {
    pub digest: Digest,
    pub media_type: String,
    /// Size of the manifest, in bytes.
    pub size: u64,
    /// Time of the last confirmation by the upstream, in milliseconds since 1970.
    pub checked_at_ms: u64,
    /// The upstream's entity tag, if present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The class of clients with this pointer: `native`, or a set of accepted types, see
    /// [`Accept::class_name`].
    #[serde(default = "native")]
    pub accept_class: String,
    /// All end-to-end fields of the upstream's response, with canonical names.
    #[serde(default)]
    pub headers: BTreeMap<String, Vec<String>>,
}

fn native() -> String {
    Accept::NATIVE.to_owned()
}
