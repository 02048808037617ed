//! HTTP/1.1: what a head means, and how a response head is written.

pub mod encode;
pub mod parse;
pub mod send;

use crate::http::{Body, CacheResult, Fields, Response};
use parse::HeadError;

/// The answer to plain HTTP on a TLS listener; the connection is closed after it. Docker without a login, and only on a loopback
/// address or where the cache is among its `insecure-registries`, asks for the manifest in plain HTTP after https has refused
/// it, and reports the error in this body.
pub(super) const HTTPS_WANTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; sandbox\r\n\
    Content-Length: 178\r\nConnection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"this port speaks TLS: the URL has to begin with https://; \
    docker tries plain HTTP after https has refused it, so check the login\"}]}\n";

/// The answer to the first request of Docker in plain HTTP on a TLS listener. Docker goes on from https to http when a
/// registry on a loopback address, or one among its `insecure-registries`, has refused a password, and reports the status
/// of this answer: a 400 would hide what went wrong. There is no challenge in it that a client could answer with a password.
pub(super) const HTTPS_WANTED_BY_DOCKER: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\n\
    X-Content-Type-Options: nosniff\r\nContent-Security-Policy: default-src 'none'; sandbox\r\n\
    Content-Length: 178\r\nConnection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"this port speaks TLS: the URL has to begin with https://; \
    docker tries plain HTTP after https has refused it, so check the login\"}]}\n";

/// The response to a connection above a limit, sent before the connection is closed without reading a request.
pub(super) const CONNECTION_LIMIT_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
Retry-After: 1\r\n\
Content-Type: application/json\r\n\
X-Content-Type-Options: nosniff\r\n\
Content-Security-Policy: default-src 'none'; sandbox\r\n\
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
    fn answers_without_a_request_say_how_long_they_are() {
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
    fn answers_without_a_request_carry_the_policy_of_all_others() {
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
