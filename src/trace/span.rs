//! A finished span, with its closed set of names and attributes.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::http::{Resource, SpanId, TraceContext};
use crate::limits::TRACE_TEXT_BYTES_MAX;
use crate::metrics::UpstreamKind;

/// A finished span. Times are nanoseconds since 1970.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    pub context: TraceContext,
    /// `None` for the root of a trace.
    pub parent: Option<SpanId>,
    pub operation: Operation,
    pub start: u64,
    pub end: u64,
    pub attributes: Vec<Attribute>,
    /// The fill of another request that this request followed.
    pub link: Option<TraceContext>,
    pub is_error: bool,
}

/// The work of a span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// A request of a client.
    Request(Resource),
    /// A lookup in the store.
    Lookup,
    /// A check at the upstream that a caller may read stored content.
    Access,
    /// A check of a stored tag at the upstream.
    Revalidate,
    /// A download of a blob.
    Fill,
    /// An HTTP request to a registry, a mirror or a token service.
    UpstreamRequest(UpstreamKind),
    /// The commit of fetched content.
    Store,
}

/// The side of a span in a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Internal,
    Server,
    Client,
}

/// An attribute. Its key is from the OpenTelemetry conventions for HTTP, or begins with the name of the
/// cache. No attribute has credentials, a query or a user name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attribute {
    Method(&'static str),
    Status(u16),
    /// The status of the upstream response that decided the response to the client.
    UpstreamStatus(u16),
    /// The path without the query.
    Path(Box<str>),
    Client(SocketAddr),
    UserAgent(Box<str>),
    /// Body bytes passed to the kernel.
    ResponseBytes(u64),
    /// The host of an upstream, perhaps with its port.
    Server(Arc<str>),
    Registry(Box<str>),
    Repository(Box<str>),
    Tag(Box<str>),
    Digest(Box<str>),
    /// The result from a closed set: of a lookup, a fill or a check.
    Result(&'static str),
    /// The id of the request in the log.
    RequestId(u64),
}

/// The value of an attribute.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum AttributeValue {
    Text(String),
    Number(u64),
}

impl Operation {
    /// Returns the name of the span.
    pub(super) fn name(self) -> String {
        match self {
            Operation::Request(resource) => format!("request {}", resource.label()),
            Operation::Lookup => "lookup".to_owned(),
            Operation::Access => "access".to_owned(),
            Operation::Revalidate => "revalidate".to_owned(),
            Operation::Fill => "fill".to_owned(),
            Operation::UpstreamRequest(kind) => format!("upstream {}", kind.label()),
            Operation::Store => "store".to_owned(),
        }
    }

    pub(super) fn side(self) -> Side {
        match self {
            Operation::Request(_) => Side::Server,
            Operation::UpstreamRequest(_) => Side::Client,
            _ => Side::Internal,
        }
    }
}

impl Attribute {
    /// Returns the first [`TRACE_TEXT_BYTES_MAX`] bytes of a text of a client, as an attribute's value.
    pub fn text(text: &str) -> Box<str> {
        text[..text.floor_char_boundary(TRACE_TEXT_BYTES_MAX)].into()
    }

    pub(super) fn key(&self) -> &'static str {
        match self {
            Attribute::Method(_) => "http.request.method",
            Attribute::Status(_) => "http.response.status_code",
            Attribute::UpstreamStatus(_) => "oci_pull_through.upstream_status",
            Attribute::Path(_) => "url.path",
            Attribute::Client(_) => "client.address",
            Attribute::UserAgent(_) => "user_agent.original",
            Attribute::ResponseBytes(_) => "http.response.body.size",
            Attribute::Server(_) => "server.address",
            Attribute::Registry(_) => "oci_pull_through.registry",
            Attribute::Repository(_) => "oci_pull_through.repository",
            Attribute::Tag(_) => "oci_pull_through.tag",
            Attribute::Digest(_) => "oci_pull_through.digest",
            Attribute::Result(_) => "oci_pull_through.result",
            Attribute::RequestId(_) => "oci_pull_through.request_id",
        }
    }

    pub(super) fn value(&self) -> AttributeValue {
        match self {
            Attribute::Method(text) | Attribute::Result(text) => AttributeValue::Text((*text).to_owned()),
            Attribute::Path(text)
            | Attribute::UserAgent(text)
            | Attribute::Registry(text)
            | Attribute::Repository(text)
            | Attribute::Tag(text)
            | Attribute::Digest(text) => AttributeValue::Text(text.to_string()),
            Attribute::Server(host) => AttributeValue::Text(host.to_string()),
            Attribute::Client(address) => AttributeValue::Text(address.ip().to_string()),
            Attribute::RequestId(id) => AttributeValue::Text(format!("{id:016x}")),
            Attribute::Status(status) | Attribute::UpstreamStatus(status) => {
                AttributeValue::Number((*status).into())
            }
            Attribute::ResponseBytes(bytes) => AttributeValue::Number(*bytes),
        }
    }
}
