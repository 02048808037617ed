//! Facts about a request for the access log, which the handler of the request adds.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;

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

/// Facts that the handler sets as soon as they are known. A cancelled request keeps the facts.
#[derive(Default)]
pub struct RequestDetails {
    /// Absent for a request without a valid route to content.
    pub content: OnceCell<Rc<ContentName>>,
    /// The status of the upstream response that decided the response to the client.
    pub upstream_status: Cell<Option<u16>>,
}

impl RequestDetails {
    /// Creates the details of a hit.
    pub fn of_hit(content: Option<Rc<ContentName>>) -> Self {
        RequestDetails {
            content: content.map_or_else(OnceCell::new, OnceCell::from),
            upstream_status: Cell::new(None),
        }
    }
}
