//! HTTP/1.1: what a head means, and how a response head is written.

pub mod encode;
pub mod parse;
pub mod send;

/// The answer to plain HTTP on a TLS listener; the connection is closed after it.
pub(super) const HTTPS_WANTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n\
    Content-Length: 57\r\nConnection: close\r\n\r\nThis port speaks TLS: the URL has to begin with https://\n";

use crate::http::{Body, CacheResult, Fields, Response};
use parse::HeadError;

/// What a connection is told that is one too many, before it is closed; its request is not waited for.
pub(super) const CROWDED: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
Retry-After: 1\r\n\
Content-Type: application/json\r\n\
Content-Length: 84\r\n\
Connection: close\r\n\
\r\n\
{\"errors\":[{\"code\":\"UNAVAILABLE\",\"message\":\"this cache has too many connections\"}]}\n";

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_of_a_connection_says_how_long_it_is() {
        let text = std::str::from_utf8(CROWDED).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("Content-Length: "))
            .unwrap();
        assert_eq!(length, body.len().to_string());
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
