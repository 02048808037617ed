//! Converts an HTTP/2 request to HTTP/1.1 lines, so that a single parser applies the rules to both
//! versions.

use http::Request;
use http::header::HOST;

use crate::http::{RequestHead, Version};
use crate::server::h1::parse::{HeadError, parse_head};

/// Writes the head of `request` to the empty buffer `lines`.
///
/// # Errors
///
/// The host field differs from `:authority` (RFC 9113, 8.3.1).
pub fn write_lines<B>(request: &Request<B>, lines: &mut Vec<u8>) -> Result<(), HeadError> {
    let uri = request.uri();
    lines.extend_from_slice(request.method().as_str().as_bytes());
    lines.push(b' ');
    // Only CONNECT has no path. The server rejects CONNECT, like every method except GET and HEAD.
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    lines.extend_from_slice(target.as_bytes());
    lines.extend_from_slice(b" HTTP/1.1\r\n");
    let authority = uri.authority().map(|authority| authority.as_str());
    if let Some(authority) = authority {
        lines.extend_from_slice(b"host: ");
        lines.extend_from_slice(authority.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    for (name, value) in request.headers() {
        if name == HOST
            && let Some(authority) = authority
        {
            if !value.as_bytes().eq_ignore_ascii_case(authority.as_bytes()) {
                return Err(HeadError::HostDiffersFromTarget);
            }
            continue;
        }
        lines.extend_from_slice(name.as_str().as_bytes());
        lines.extend_from_slice(b": ");
        lines.extend_from_slice(value.as_bytes());
        lines.extend_from_slice(b"\r\n");
    }
    lines.extend_from_slice(b"\r\n");
    Ok(())
}

/// Parses the output of [`write_lines`].
///
/// # Errors
///
/// Returns the errors of an HTTP/1.1 head. An error ends only this stream.
pub fn read_lines(lines: &[u8]) -> Result<RequestHead<'_>, HeadError> {
    match parse_head(lines, &mut 0)? {
        Some((head, len)) if len == lines.len() => Ok(RequestHead {
            version: Version::Http2,
            keep_alive: true,
            ..head
        }),
        // A value with an empty line. `HeaderValue` admits none.
        _ => Err(HeadError::Field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(request: http::request::Builder) -> Result<Vec<u8>, HeadError> {
        let mut lines = Vec::new();
        write_lines(&request.body(()).unwrap(), &mut lines)?;
        Ok(lines)
    }

    #[test]
    fn a_request_becomes_the_head_it_would_be_in_http_1() {
        let request = Request::get("https://cache.test:8443/v2/a/manifests/v1?ns=b.c")
            .header("accept", "x/y")
            .header("accept", "*/*")
            .header("authorization", "Basic eA==")
            .header("range", "bytes=0-");
        let lines = lines(request).unwrap();
        let head = read_lines(&lines).unwrap();
        assert_eq!(head.version, Version::Http2);
        assert_eq!(
            (head.path, head.query, head.host),
            ("/v2/a/manifests/v1", Some("ns=b.c"), Some("cache.test:8443"))
        );
        assert_eq!(head.accept().collect::<Vec<_>>(), ["x/y", "*/*"]);
        assert_eq!(
            (head.authorization, head.range),
            (Some("Basic eA=="), Some("bytes=0-"))
        );
    }

    #[test]
    fn host_field_must_match_the_authority() {
        let with_host = |host: &str| {
            Request::get("http://cache.test/v2/")
                .header("host", host)
                .header("x", "y")
        };
        let same = lines(with_host("CACHE.test")).unwrap();
        assert_eq!(read_lines(&same).unwrap().host, Some("cache.test"));
        assert_eq!(
            lines(with_host("other.test")).unwrap_err(),
            HeadError::HostDiffersFromTarget
        );
        let alone = lines(Request::get("/v2/").header("host", "a")).unwrap();
        assert_eq!(read_lines(&alone).unwrap().host, Some("a"));
        let none = lines(Request::get("/v2/")).unwrap();
        assert_eq!(read_lines(&none).unwrap_err(), HeadError::HostMissing);
    }

    #[test]
    fn http2_requests_have_the_limits_of_http1() {
        let long = format!("http://a/{}", "x".repeat(8 * 1024));
        let too_long = lines(Request::get(long)).unwrap();
        assert_eq!(read_lines(&too_long).unwrap_err(), HeadError::TargetTooLong);
        let body = lines(Request::get("http://a/v2/").header("content-length", "5")).unwrap();
        assert_eq!(read_lines(&body).unwrap_err(), HeadError::Body);
        let connect = lines(Request::builder().method("CONNECT").uri("a.b:443")).unwrap();
        assert_eq!(read_lines(&connect).unwrap().method_text, "CONNECT");
        let mut many = Request::get("http://a/v2/");
        for n in 0..100 {
            many = many.header(format!("x-{n}"), "y");
        }
        assert_eq!(
            read_lines(&lines(many).unwrap()).unwrap_err(),
            HeadError::TooManyFields
        );
    }
}
