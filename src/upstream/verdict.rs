//! The meaning of an upstream's final status for the content. Pure.
//!
//! This table alone decides on statuses. The client's answer, the use of stale copies, retries, and
//! the failures of the circuit breaker all follow from a [`ResponseVerdict`].

use http::HeaderMap;
use http::header::{CONTENT_TYPE, WWW_AUTHENTICATE};

/// The class of a status from 100 to 599.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ResponseVerdict {
    /// 1xx, including 101. Not a final answer.
    NotFinal,
    /// 200, or 206 to a range request.
    Content,
    /// Another host has the content.
    Redirect,
    /// 401: the registry requires credentials.
    Challenge,
    /// 403, 451: the registry refuses the content to this caller.
    Forbidden,
    /// 404, 410: the registry does not have the content.
    Gone,
    /// 429.
    Limited,
    /// The upstream is down, overloaded or temporarily not a registry. A retry within seconds may
    /// succeed.
    Trouble,
    /// No valid answer to our requests, for example 204, 304, 400, 405 or 501. Gives no information
    /// about the content, and a retry gets the same status.
    Unfit,
}

impl ResponseVerdict {
    /// Returns the verdict of a status. HTTP defines statuses from 100 to 599 only.
    pub fn of_status(status: u16) -> ResponseVerdict {
        match status {
            100..=199 => ResponseVerdict::NotFinal,
            200 | 206 => ResponseVerdict::Content,
            301 | 302 | 303 | 307 | 308 => ResponseVerdict::Redirect,
            401 => ResponseVerdict::Challenge,
            403 | 451 => ResponseVerdict::Forbidden,
            404 | 410 => ResponseVerdict::Gone,
            429 => ResponseVerdict::Limited,
            // Timeouts of either side, and "too early", a status of the connection.
            408 | 425 | 500 | 502..=504 | 506..=599 => ResponseVerdict::Trouble,
            _ => ResponseVerdict::Unfit,
        }
    }

    /// Returns the verdict of a refusal with these headers and this body (empty for HEAD).
    ///
    /// A web page without any sign of a registry is not a registry's answer, with any status. A
    /// proxy, a login page or a default site has answered instead. All other bodies are accepted,
    /// such as Go's plain "404 page not found", an object store's XML, or an empty body.
    pub(super) fn of_refusal(status: u16, headers: &HeaderMap, body: &[u8]) -> ResponseVerdict {
        match ResponseVerdict::of_status(status) {
            ResponseVerdict::Challenge | ResponseVerdict::Forbidden | ResponseVerdict::Gone
                if is_page(headers, body) && !has_registry_sign(headers, body) =>
            {
                ResponseVerdict::Trouble
            }
            verdict => verdict,
        }
    }

    /// Returns whether the status gives no information about the content. The cache then serves a
    /// held copy, marked as stale.
    pub fn serves_stale(self) -> bool {
        match self {
            ResponseVerdict::NotFinal
            | ResponseVerdict::Content
            | ResponseVerdict::Redirect
            | ResponseVerdict::Limited
            | ResponseVerdict::Trouble
            | ResponseVerdict::Unfit => true,
            ResponseVerdict::Challenge | ResponseVerdict::Forbidden | ResponseVerdict::Gone => false,
        }
    }

    /// Returns whether the request may succeed within seconds.
    pub fn may_pass(self) -> bool {
        matches!(self, ResponseVerdict::Limited | ResponseVerdict::Trouble)
    }

    /// Returns whether the registry refused the content to this caller. Another caller may get the
    /// content.
    pub fn is_refusal(self) -> bool {
        matches!(
            self,
            ResponseVerdict::Challenge | ResponseVerdict::Forbidden | ResponseVerdict::Gone
        )
    }
}

/// Returns whether the answer is a web page.
pub(super) fn is_page(headers: &HeaderMap, body: &[u8]) -> bool {
    match headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) {
        Some(named) => {
            let named = named.split(';').next().unwrap_or_default().trim();
            named.eq_ignore_ascii_case("text/html") || named.eq_ignore_ascii_case("application/xhtml+xml")
        }
        None => {
            let text = body.trim_ascii_start();
            [&b"<!doctype html"[..], b"<html"].iter().any(|start| {
                text.get(..start.len())
                    .is_some_and(|found| found.eq_ignore_ascii_case(start))
            })
        }
    }
}

/// Returns whether a registry wrote the answer. Signs are its version header, a digest, a
/// challenge, or an OCI error.
pub(super) fn has_registry_sign(headers: &HeaderMap, body: &[u8]) -> bool {
    headers.contains_key("docker-distribution-api-version")
        || headers.contains_key("docker-content-digest")
        || headers.contains_key(WWW_AUTHENTICATE)
        || serde_json::from_slice::<serde_json::Value>(body)
            .is_ok_and(|json| json.get("errors").is_some_and(serde_json::Value::is_array))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let line = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        lines.iter().map(line).collect()
    }

    #[test]
    fn every_status_has_a_class_and_each_class_one_consequence() {
        for status in 100..=599 {
            let verdict = ResponseVerdict::of_status(status);
            let expected = match status {
                100..200 => ResponseVerdict::NotFinal,
                200 | 206 => ResponseVerdict::Content,
                301 | 302 | 303 | 307 | 308 => ResponseVerdict::Redirect,
                401 => ResponseVerdict::Challenge,
                403 | 451 => ResponseVerdict::Forbidden,
                404 | 410 => ResponseVerdict::Gone,
                429 => ResponseVerdict::Limited,
                501 | 505 => ResponseVerdict::Unfit,
                408 | 425 | 500.. => ResponseVerdict::Trouble,
                200..500 => ResponseVerdict::Unfit,
                _ => unreachable!("the walk begins at 100"),
            };
            assert_eq!(verdict, expected, "{status}");
            let about_content = matches!(status, 401 | 403 | 404 | 410 | 451);
            assert_eq!(verdict.serves_stale(), !about_content, "{status}");
            assert_eq!(verdict.is_refusal(), about_content, "{status}");
            assert!(!verdict.may_pass() || verdict.serves_stale(), "{status}");
        }
    }

    #[test]
    fn a_page_without_a_sign_of_a_registry_is_no_verdict() {
        let html = ("content-type", "text/html; charset=utf-8");
        for status in [401, 403, 404, 410, 451] {
            let expected = ResponseVerdict::of_status(status);
            let of = |lines: &[_], body: &str| {
                ResponseVerdict::of_refusal(status, &fields(lines), body.as_bytes())
            };
            assert_eq!(of(&[html], "<html>Not here</html>"), ResponseVerdict::Trouble);
            assert_eq!(of(&[html], ""), ResponseVerdict::Trouble, "HEAD");
            assert_eq!(of(&[], "\n<!DOCTYPE html><p>"), ResponseVerdict::Trouble);
            for sign in [
                ("docker-distribution-api-version", "registry/2.0"),
                ("www-authenticate", "Basic realm=\"registry\""),
            ] {
                assert_eq!(of(&[html, sign], "<html>"), expected);
            }
            assert_eq!(of(&[html], r#"{"errors":[{"code":"DENIED"}]}"#), expected);
            for (named, body) in [
                ("text/plain; charset=utf-8", "404 page not found\n"),
                ("application/xml", "<?xml version=\"1.0\"?><Error/>"),
                ("application/json", "{\"detail\":\"Not Found\"}"),
            ] {
                assert_eq!(of(&[("content-type", named)], body), expected, "{named}");
            }
            assert_eq!(of(&[], ""), expected);
        }
        assert_eq!(
            ResponseVerdict::of_refusal(429, &fields(&[html]), b""),
            ResponseVerdict::Limited
        );
    }
}
