//! Tag pointers: the manifest of a tag and the time of its last check.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::oci::{Accept, Digest};

/// A tag pointer, stored as one self-contained JSON file and replaced atomically. Two files could
/// not be replaced atomically, because two renames are two steps.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TagPointer {
    #[serde(with = "digest_text")]
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

/// Digests in JSON.
pub(super) mod digest_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::oci::Digest;

    pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
    pub mod optional {
        use serde::{Deserialize, Deserializer, Serializer};

        use crate::oci::Digest;

        pub fn serialize<S: Serializer>(digest: &Option<Digest>, serializer: S) -> Result<S::Ok, S::Error> {
            match digest {
                Some(digest) => serializer.collect_str(digest),
                None => serializer.serialize_none(),
            }
        }

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Digest>, D::Error> {
            #[derive(Deserialize)]
            struct Text(#[serde(with = "super")] Digest);
            Ok(Option::deserialize(deserializer)?.map(|Text(digest)| digest))
        }
    }
}
