//! The address of the cache, as its clients name it.

use std::fmt;

use crate::limits::AUTHORITY_BYTES_MAX;

/// Scheme, host and port of the cache. The host contains only characters that need no quotes in a
/// shell, in YAML, in TOML and in JSON strings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseUrl {
    is_https: bool,
    authority: String,
}

impl BaseUrl {
    /// The form of the text, for messages.
    pub const EXPECTED: &str = "none, or http://host[:port] or https://host[:port] without a path";

    /// Parses `http://host[:port]` or `https://host[:port]`, with or without a slash at the end.
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let is_https = scheme.eq_ignore_ascii_case("https");
        if !is_https && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        BaseUrl::of_host(rest.strip_suffix('/').unwrap_or(rest), is_https)
    }

    /// Returns the address that a client used. `host` is the field `Host` of its request, or
    /// `:authority` in HTTP/2. `None` for a host with characters outside of names and addresses.
    pub fn of_host(host: &str, is_https: bool) -> Option<Self> {
        let is_plain =
            |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']');
        let (name, port) = match host.rsplit_once(':') {
            // The last colon of an address without a port is inside its brackets.
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        let has_name = name.bytes().any(|b| b.is_ascii_alphanumeric() || b == b':');
        let is_one_host =
            name.starts_with('[') == name.ends_with(']') && (name.starts_with('[') || !name.contains(':'));
        let has_valid_port = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let is_valid = host.len() <= AUTHORITY_BYTES_MAX && host.bytes().all(is_plain);
        (is_valid && has_name && is_one_host && has_valid_port).then(|| BaseUrl {
            is_https,
            authority: host.to_ascii_lowercase(),
        })
    }

    pub fn is_https(&self) -> bool {
        self.is_https
    }

    /// Returns host and port, the first part of an image name.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_https { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_scheme_host_and_port() {
        for (text, url) in [
            ("http://cache:8080", "http://cache:8080"),
            ("HTTPS://Cache.Example/", "https://cache.example"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://10.0.0.1", "http://10.0.0.1"),
        ] {
            assert_eq!(BaseUrl::parse(text).unwrap().to_string(), url, "{text}");
        }
    }

    #[test]
    fn other_texts_are_no_url() {
        for text in [
            "",
            "cache:8080",
            "ftp://cache",
            "http://",
            "http://cache/path",
            "http://user@cache",
            "http://cache:0",
            "http://cache:x",
            "http://cache:65536",
            "http://a:b:1",
            "http://[::1",
            "http://$(x)",
            "http://a\"b",
            "http://a b",
            "http://-",
        ] {
            assert_eq!(BaseUrl::parse(text), None, "{text}");
        }
    }
}
