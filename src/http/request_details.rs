//! Facts about a request for the access log and the metrics, which the handler of the request adds.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

use super::{Ready, TraceContext};

/// The name of the requested content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentName {
    pub registry: String,
    pub repository: String,
    pub item: ContentItem,
}

/// The last element of the path of a manifest or a blob.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ContentItem {
    Tag(String),
    Digest(String),
    /// A list.
    None,
}

/// The kind of the requested resource. A closed set, for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Resource {
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// `/v2/`, the check for a registry.
    Base,
    Health,
    Stats,
    /// No route of this cache.
    #[default]
    Other,
}

impl Resource {
    pub const ALL: [Resource; 8] = [
        Resource::Manifest,
        Resource::Blob,
        Resource::Tags,
        Resource::Referrers,
        Resource::Base,
        Resource::Health,
        Resource::Stats,
        Resource::Other,
    ];

    pub const fn label(self) -> &'static str {
        match self {
            Resource::Manifest => "manifest",
            Resource::Blob => "blob",
            Resource::Tags => "tags",
            Resource::Referrers => "referrers",
            Resource::Base => "base",
            Resource::Health => "health",
            Resource::Stats => "stats",
            Resource::Other => "other",
        }
    }
}

/// Facts that the handler sets as soon as they are known. A cancelled request keeps the facts.
#[derive(Default)]
pub struct RequestDetails {
    /// Absent for a request without a valid route to content.
    pub content: OnceCell<Rc<ContentName>>,
    /// The status of the upstream response that decided the response to the client.
    pub upstream_status: Cell<Option<u16>>,
    pub resource: Cell<Resource>,
    /// The fill of another request that the response follows, if its trace is recorded.
    pub joined_fill: Cell<Option<TraceContext>>,
}

impl RequestDetails {
    /// Creates the details of a hit.
    pub fn of_hit(ready: &Ready) -> Self {
        let content = ready.content.clone();
        RequestDetails {
            content: content.map_or_else(OnceCell::new, OnceCell::from),
            upstream_status: Cell::new(None),
            resource: Cell::new(ready.resource),
            joined_fill: Cell::new(None),
        }
    }
}
