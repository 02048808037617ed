//! HTTP/1.1: parses request heads and encodes responses.

pub mod encode;
pub mod parse;
pub mod send;
mod turn;

use crate::http::{Body, CacheResult, Fields, Response};
use parse::HeadError;

/// The response to plain HTTP on a TLS listener; the server then closes the connection. Docker
/// without a login requests the manifest over plain HTTP after HTTPS has rejected the request.
/// Docker does so only for a loopback address or for a cache listed in `insecure-registries`.
/// Docker reports the error in this body.
pub(super) const HTTPS_WANTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; sandbox\r\n\
    Content-Length: 170\r\nConnection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"this port expects TLS: use a URL with https://; \
    docker tries plain HTTP after a rejected https login: check the password\"}]}\n";

/// The response to the first plain HTTP request of Docker on a TLS listener. After a rejected
/// password, Docker falls back from HTTPS to HTTP for a loopback address or an entry of
/// `insecure-registries`. Docker reports the status of this response, and a 400 would hide the
/// cause. The response contains no challenge, so no client sends a password.
pub(super) const HTTPS_WANTED_BY_DOCKER: &[u8] =
    b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; sandbox\r\n\
    Content-Length: 170\r\nConnection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"this port expects TLS: use a URL with https://; \
    docker tries plain HTTP after a rejected https login: check the password\"}]}\n";

/// The response to a connection above a limit, sent without reading a request.
pub(super) const CONNECTION_LIMIT_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
Retry-After: 1\r\n\
Content-Type: application/json\r\n\
X-Content-Type-Options: nosniff\r\n\
Content-Security-Policy: default-src 'none'; sandbox\r\n\
Content-Length: 93\r\n\
Connection: close\r\n\
\r\n\
{\"errors\":[{\"code\":\"UNAVAILABLE\",\"message\":\"the connection limit is reached; retry later\"}]}\n";

/// Returns the response to a rejected head. The connection is closed afterwards.
pub(super) fn refusal(error: &HeadError) -> Response {
    // Registry clients show a message in this format. No part of the body comes from the request.
    let body = format!(
        "{{\"errors\":[{{\"code\":\"UNSUPPORTED\",\"message\":\"{}\"}}]}}\n",
        error.reason()
    );
    let mut fields = Fields::new()
        .with("Content-Type", "application/json")
        .with("X-Content-Type-Options", "nosniff")
        .with("Content-Security-Policy", "default-src 'none'; sandbox");
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
    fn static_responses_have_a_correct_content_length() {
        for answer in [CONNECTION_LIMIT_RESPONSE, HTTPS_WANTED, HTTPS_WANTED_BY_DOCKER] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("Content-Length: "))
                .unwrap();
            assert_eq!(length, body.len().to_string(), "{text}");
            let is_json = serde_json::from_str::<serde_json::Value>(body).is_ok();
            assert_eq!(is_json, head.contains("application/json"), "{text}");
        }
    }

    #[test]
    fn static_responses_contain_the_browser_policy_fields() {
        let refused = refusal(&HeadError::Timeout).fields.to_map();
        for answer in [CONNECTION_LIMIT_RESPONSE, HTTPS_WANTED, HTTPS_WANTED_BY_DOCKER] {
            let text = std::str::from_utf8(answer).unwrap();
            let (head, _) = text.split_once("\r\n\r\n").unwrap();
            for name in ["X-Content-Type-Options", "Content-Security-Policy"] {
                let value = refused[name].to_str().unwrap();
                assert!(
                    head.lines().any(|line| line == format!("{name}: {value}")),
                    "{text}"
                );
            }
        }
    }
}
