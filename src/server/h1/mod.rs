//! HTTP/1.1: what a head means, and how a response head is written.

pub mod encode;
pub mod parse;
pub mod send;

/// The answer to plain HTTP on a TLS listener; the connection is closed after it.
pub(super) const HTTPS_WANTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 57\r\nConnection: close\r\n\r\nThis port speaks TLS: the URL has to begin with https://\n";

use crate::http::{Body, CacheResult, Fields, Response};
use parse::HeadError;

/// The answer to a head that is refused; the connection is closed after it.
pub(super) fn refusal(error: &HeadError) -> Response {
    // Registry clients show the message of this form; nothing in it came from the request.
    let body = format!(
        "{{\"errors\":[{{\"code\":\"UNSUPPORTED\",\"message\":\"{}\"}}]}}\n",
        error.reason()
    );
    let mut fields = Fields::new().with("Content-Type", "application/json");
    if error.status() == 405 {
        fields.add("Allow", "GET, HEAD");
    }
    Response {
        status: error.status(),
        fields,
        length: Some(body.len() as u64),
        body: Body::Bytes(body.into()),
        cache: CacheResult::None,
    }
}
