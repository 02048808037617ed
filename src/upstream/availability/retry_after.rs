//! Parses `Retry-After` (RFC 9110, 10.2.3), a number of seconds or a date. Pure.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};

/// The longest accepted wait. Docker Hub's window is six hours.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// Returns the wait stated by an answer. A date is relative to the answer's own `Date`, because our
/// clock may be wrong. A date without `Date` is ignored.
pub(in crate::upstream) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // An overflowing number exceeds the maximum anyway.
        text.parse().map_or(WAIT_MAX, Duration::from_secs)
    } else {
        let date = |text| httpdate::parse_http_date(text).ok();
        let sent = date(headers.get(DATE)?.to_str().ok()?)?;
        date(text)?.duration_since(sent).unwrap_or_default()
    };
    Some(wait.min(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn seconds(retry: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(retry).unwrap());
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_understood() {
        assert_eq!(retry_after(&HeaderMap::new()), None);
        for (text, wait) in [
            ("0", 0),
            ("17", 17),
            (" 5 ", 5),
            ("99999999999999999999999", 86_400),
        ] {
            assert_eq!(seconds(text, None), Some(wait), "{text}");
        }
        for text in ["", "-1", "+1", "1.5", "soon", "5s"] {
            assert_eq!(seconds(text, None), None, "{text}");
        }
        let now = "Sun, 06 Nov 1994 08:49:37 GMT";
        for (text, wait) in [
            ("Sun, 06 Nov 1994 08:50:07 GMT", 30),
            ("Sunday, 06-Nov-94 08:50:07 GMT", 30),
            ("Sun Nov  6 08:50:07 1994", 30),
            ("Sun, 06 Nov 1994 08:00:00 GMT", 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 86_400),
        ] {
            assert_eq!(seconds(text, Some(now)), Some(wait), "{text}");
            assert_eq!(seconds(text, None), None, "the local clock is not read");
        }
    }
}
