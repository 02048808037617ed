//! A secret header value. Sent to upstreams, but never printed.

use std::fmt;

use http::HeaderValue;

/// The value of an `Authorization` header. Prints as `***`. Only `upstream/` can read it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(HeaderValue);

impl Secret {
    /// Stores the header value sent by the client. Returns `None` for an invalid header value.
    pub fn new(authorization: &[u8]) -> Option<Self> {
        let mut value = HeaderValue::from_bytes(authorization).ok()?;
        // Also hides the value in the debug output of libraries.
        value.set_sensitive(true);
        Some(Secret(value))
    }

    /// Returns the header value with the bearer `token`. Returns `None` unless the token is visible
    /// ASCII, a superset of RFC 6750.
    pub(in crate::upstream) fn bearer(token: &str) -> Option<Self> {
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            return None;
        }
        Self::new(format!("Bearer {token}").as_bytes())
    }

    pub(in crate::upstream) fn header_value(&self) -> HeaderValue {
        self.0.clone()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_is_masked_in_formatted_output() {
        let secret = Secret::new(b"Basic aHVudGVyMg==").unwrap();
        assert_eq!(format!("{secret} {secret:?} {secret:#?}"), "*** *** ***");
        assert!(!format!("{:?}", secret.header_value()).contains("aHVu"));
    }

    #[test]
    fn token_with_invalid_header_characters_is_rejected() {
        for bad in ["", "a b", "a\r\nX: y", "a\0", "ä"] {
            assert!(Secret::bearer(bad).is_none(), "{bad:?}");
        }
        assert!(Secret::new(b"a\nb").is_none());
        assert!(Secret::bearer("abc.DEF-_~+/=").is_some());
    }
}
