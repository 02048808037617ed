//! A reference that clients requested and the store lacked.

use serde::{Deserialize, Serialize};

/// A reference that clients requested and the store lacked. Times are in seconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MissingReference {
    /// `registry/repository`, with a tag or a digest.
    pub reference: String,
    /// The first and the last request without an answer.
    pub first_at: u64,
    pub last_at: u64,
    /// Requests without an answer.
    pub requests: u64,
}
