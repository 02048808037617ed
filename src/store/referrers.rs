//! Records of a registry's last response about referrers: a page of a list, or a 404.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::limits::RECORD_BYTES_MAX;
use crate::oci::{Digest, Tag};

/// Identifies a recorded response within a repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordName {
    /// A page of the list of referrers of `subject`, for the query of the request.
    Page { subject: Digest, query: String },
    /// The repository has no referrers API.
    Unsupported,
    /// A tag derived from a digest does not exist.
    AbsentTag(Tag),
}

/// A record of one response, stored as one self-contained JSON file and replaced atomically.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrersRecord {
    /// Time of the request to the upstream, in milliseconds since 1970.
    pub checked_at_ms: u64,
    /// Whether the upstream responded without credentials.
    #[serde(default)]
    pub public: bool,
    /// The query of the page.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// The query of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// Whether `index` holds only entries selected by `artifactType` in the query.
    #[serde(default)]
    pub filtered: bool,
    /// The image index, verbatim. `None` in a record of a 404.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Box<RawValue>>,
}

impl ReferrersRecord {
    /// Parses a record of `name`. Returns `None` if `json` is not a matching record.
    pub(super) fn parse(name: &RecordName, json: &[u8]) -> Option<Self> {
        let record: ReferrersRecord = serde_json::from_slice(json).ok()?;
        let fits = match name {
            RecordName::Page { query, .. } => record.index.is_some() && record.query == *query,
            RecordName::Unsupported | RecordName::AbsentTag(_) => record.index.is_none(),
        };
        fits.then_some(record)
    }

    /// Returns the stored form. Returns `None` if the record is too large.
    pub(super) fn to_json(&self) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(self).expect("a record is strings, numbers and JSON");
        ((json.len() as u64) < RECORD_BYTES_MAX).then_some(json)
    }

    /// Returns the record of a 404.
    pub fn absent(checked_at_ms: u64, public: bool) -> Self {
        ReferrersRecord {
            checked_at_ms,
            public,
            query: String::new(),
            next: None,
            filtered: false,
            index: None,
        }
    }
}
