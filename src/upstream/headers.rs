//! Selects and checks response headers. Pure.

use http::header::{self, HeaderMap, HeaderName};

/// Hop-by-hop headers (RFC 9110, 7.6.1, and the pair of a forward proxy).
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes the hop-by-hop headers, including the names listed in `Connection`.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|&byte| byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Returns the headers of a refusal for use by clients.
pub(super) fn keep_for_errors(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| {
        **name == header::WWW_AUTHENTICATE
            || **name == header::RETRY_AFTER
            || **name == header::WARNING
            // The base of a date in `Retry-After`.
            || **name == header::DATE
            || name.as_str().starts_with("docker-ratelimit")
            || name.as_str().starts_with("ratelimit")
    });
    let mut map = HeaderMap::new();
    for (name, value) in kept {
        map.append(name, value.clone());
    }
    map
}

/// Returns the body length in the headers. Fails for several different lengths, for invalid
/// numbers, and in combination with `Transfer-Encoding`.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, &'static str> {
    let mut length = None;
    for value in headers.get_all(header::CONTENT_LENGTH) {
        // A recipient may accept a list of equal lengths, but no registry sends a list.
        let text = value
            .to_str()
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        let number: u64 = text
            .and_then(|text| text.parse().ok())
            .ok_or("Content-Length is not a number")?;
        if length.is_some_and(|known| known != number) {
            return Err("two different values of Content-Length");
        }
        length = Some(number);
    }
    if length.is_some() && headers.contains_key(header::TRANSFER_ENCODING) {
        return Err("both Content-Length and Transfer-Encoding are present");
    }
    Ok(length)
}

/// Returns whether the body has no content coding.
pub(super) fn is_identity(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_ENCODING).iter().all(|value| {
        let coding = value.as_bytes().trim_ascii();
        coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let pairs = lines.iter().map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        });
        let mut map = HeaderMap::new();
        pairs.for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn connection_headers_and_what_connection_names_are_removed() {
        let mut map = headers(&[
            ("Connection", "close, X-Private ,, bad name"),
            ("Connection", "X-Other"),
            ("X-Private", "1"),
            ("X-Other", "1"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("Proxy-Authenticate", "Basic"),
            ("TE", "trailers"),
            ("Trailer", "X"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "h2c"),
            ("ETag", "\"a\""),
            ("Content-Type", "a/b"),
            ("X-Two", "1"),
            ("X-Two", "2"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(names(&map), ["content-type", "etag", "x-two", "x-two"]);
    }

    #[test]
    fn rejection_keeps_only_the_fields_for_clients() {
        let map = headers(&[
            ("WWW-Authenticate", "Basic"),
            ("WWW-Authenticate", "Bearer realm=a"),
            ("Retry-After", "3"),
            ("Warning", "299 - \"x\""),
            ("Docker-RateLimit-Source", "1.2.3.4"),
            ("RateLimit-Limit", "100;w=21600"),
            ("RateLimit", "limit=100, remaining=0, reset=5"),
            ("Date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("Set-Cookie", "a=b"),
            ("Server", "nginx"),
        ]);
        let expected = [
            "date",
            "docker-ratelimit-source",
            "ratelimit",
            "ratelimit-limit",
            "retry-after",
            "warning",
            "www-authenticate",
            "www-authenticate",
        ];
        assert_eq!(names(&keep_for_errors(&map)), expected);
    }

    #[test]
    fn conflicting_content_lengths_are_rejected() {
        let length = |lines: &[(&str, &str)]| content_length(&headers(lines)).ok();
        assert_eq!(length(&[]), Some(None));
        assert_eq!(length(&[("Content-Length", "0")]), Some(Some(0)));
        assert_eq!(
            length(&[("Content-Length", "5"), ("Content-Length", "5")]),
            Some(Some(5))
        );
        assert_eq!(length(&[("Content-Length", "5"), ("Content-Length", "6")]), None);
        assert_eq!(
            length(&[("Content-Length", "5"), ("Transfer-Encoding", "chunked")]),
            None
        );
        for bad in ["", "+5", "-1", "5,5", "0x5", "5.0", "18446744073709551616", "5 5"] {
            assert_eq!(length(&[("Content-Length", bad)]), None, "{bad}");
        }
    }

    #[test]
    fn content_encodings_other_than_identity_are_rejected() {
        assert!(is_identity(&headers(&[])));
        assert!(is_identity(&headers(&[("Content-Encoding", "Identity")])));
        assert!(!is_identity(&headers(&[("Content-Encoding", "gzip")])));
        assert!(!is_identity(&headers(&[
            ("Content-Encoding", "identity"),
            ("Content-Encoding", "br")
        ])));
    }
}
