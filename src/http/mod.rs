//! HTTP types and pure functions for the server and the upstream client. No sockets, and
//! independent of registries.

mod body;
pub mod conditional;
pub mod content_range;
pub mod date;
pub mod headers;
pub mod link;
pub mod multipart;
pub mod range;
mod redact;
pub mod request;
mod request_details;
mod request_id;
mod response;
mod trace_context;

pub use body::{Aborted, Body, Growing, NextPiece, Piece};
pub use content_range::ContentRange;
pub use range::{Ranges, Span, parse_range};
pub use redact::redacted;
pub use request::{Certificate, Method, RequestHead, Version};
pub use request_details::{ContentItem, ContentName, RequestDetails, Resource};
pub use request_id::RequestId;
pub use response::{CacheResult, Fields, Ready, Response};
pub use trace_context::{RequestTrace, SpanId, TraceContext, TraceId};
