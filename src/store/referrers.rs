//! What a registry last answered about referrers: a page of a list, or 404.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::limits::RECORD_BYTES_MAX;
use crate::oci::{Digest, Tag};

/// Which answer of a repository a record keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordName {
    /// A page of the list of the referrers of `subject`, under the query of its request.
    Page { subject: Digest, query: String },
    /// The repository has no referrers API.
    Unsupported,
    /// A tag that is derived from a digest does not exist.
    AbsentTag(Tag),
}

/// One self-contained JSON file, replaced as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReferrersRecord {
    /// Time of the request to the upstream, in milliseconds since 1970.
    pub checked_at_ms: u64,
    /// The upstream answered without credentials.
    #[serde(default)]
    pub public: bool,
    /// The query of the page.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub query: String,
    /// The query of the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
    /// `index` holds only what the `artifactType` of the query selects.
    #[serde(default)]
    pub filtered: bool,
    /// The image index, verbatim; none in a record of a 404.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<Box<RawValue>>,
}

impl ReferrersRecord {
    /// Reads a record of `name`; `None` where it is none.
    pub(super) fn parse(name: &RecordName, json: &[u8]) -> Option<Self> {
        let record: ReferrersRecord = serde_json::from_slice(json).ok()?;
        let fits = match name {
            RecordName::Page { query, .. } => record.index.is_some() && record.query == *query,
            RecordName::Unsupported | RecordName::AbsentTag(_) => record.index.is_none(),
        };
        fits.then_some(record)
    }

    /// As it is stored; `None` when it is too large to be.
    pub(super) fn to_json(&self) -> Option<Vec<u8>> {
        let json = serde_json::to_vec(self).expect("a record is strings, numbers and JSON");
        ((json.len() as u64) < RECORD_BYTES_MAX).then_some(json)
    }

    /// The record of a 404.
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
