//! Responses, before and after encoding.

use std::cell::OnceCell;
use std::fs::File;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::body::Body;

/// How the cache came to an answer; a closed set, for the log and for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheResult {
    /// Nothing to do with content.
    None,
    Hit,
    Miss,
    Collapsed,
    Revalidated,
    Stale,
    Bypass,
}

impl CacheResult {
    pub const fn label(self) -> &'static str {
        match self {
            CacheResult::None => "-",
            CacheResult::Hit => "hit",
            CacheResult::Miss => "miss",
            CacheResult::Collapsed => "collapsed",
            CacheResult::Revalidated => "revalidated",
            CacheResult::Stale => "stale",
            CacheResult::Bypass => "bypass",
        }
    }
}

/// A response head and its body. Framing, `Date` and `Connection` are the server's to add.
pub struct Response {
    pub status: u16,
    /// Encoded fields, each `Name: value\r\n`.
    pub fields: Fields,
    /// Bytes of the body, told to the client also when the body is not sent (HEAD). `None`: not known yet.
    pub length: Option<u64>,
    pub body: Body,
    pub cache: CacheResult,
}

/// Response fields as encoded bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<u8>);

impl Fields {
    pub fn new() -> Self {
        Fields(Vec::with_capacity(512))
    }

    /// Adds a field. A value with bytes that may not stand in a field (controls, line ends) is left out
    /// with its name: such a value came from an upstream and is nobody's to repair.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let value = value.as_ref();
        debug_assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        if value.iter().all(|&b| b == b'\t' || (b >= b' ' && b != 0x7f)) {
            self.0.extend_from_slice(name.as_bytes());
            self.0.extend_from_slice(b": ");
            self.0.extend_from_slice(value);
            self.0.extend_from_slice(b"\r\n");
        }
    }

    /// Adds a field and gives the list back, for building in one expression.
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.add(name, value);
        self
    }

    /// Adds all of `more`.
    pub fn append(&mut self, more: &Fields) {
        self.0.extend_from_slice(&more.0);
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The same fields as a map, for HTTP/2.
    pub fn to_map(&self) -> HeaderMap {
        map_of(&self.0)
    }
}

/// Field lines, each `Name: value\r\n`, as a map. What belongs to one connection of HTTP/1.1 is left out (RFC 9113,
/// 8.2.2), and so is whatever is no field.
fn map_of(lines: &[u8]) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(16);
    for line in lines.split(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = memchr::memchr(b':', line) else {
            continue;
        };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) else {
            continue;
        };
        if !matches!(name.as_str(), "connection" | "keep-alive" | "transfer-encoding") {
            map.append(name, value);
        }
    }
    map
}

/// An encoded hit, a 200: sent with one call, or with one for the head and more for a file.
pub struct Ready {
    /// Head, ended by an empty line, and a body in memory.
    pub encoded: Vec<u8>,
    pub head_len: usize,
    /// The body, if it is in memory.
    pub body: Bytes,
    /// The body, if it is not in memory, and its size; never empty.
    pub file: Option<(Arc<File>, u64)>,
    map: OnceCell<HeaderMap>,
}

impl Ready {
    pub fn new(encoded: Vec<u8>, head_len: usize, body: Bytes, file: Option<(Arc<File>, u64)>) -> Self {
        Ready {
            encoded,
            head_len,
            body,
            file,
            map: OnceCell::new(),
        }
    }

    /// The head's fields for HTTP/2; read out of the head when they are first asked for.
    pub fn map(&self) -> &HeaderMap {
        self.map.get_or_init(|| {
            let head = &self.encoded[..self.head_len];
            let fields = memchr::memchr(b'\n', head).map_or(head.len(), |end| end + 1);
            map_of(&head[fields..])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_holds_every_field_but_those_of_a_connection() {
        let fields = Fields::new()
            .with("ETag", "\"a:b\"")
            .with("Link", "<1>")
            .with("Link", "<2>")
            .with("X-Empty", "")
            .with("Connection", "close")
            .with("Transfer-Encoding", "chunked");
        let map = fields.to_map();
        let all: Vec<(&str, &[u8])> = map
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()))
            .collect();
        let wanted: [(&str, &[u8]); 4] = [
            ("etag", b"\"a:b\""),
            ("link", b"<1>"),
            ("link", b"<2>"),
            ("x-empty", b""),
        ];
        assert_eq!(all, wanted);
        let encoded = [b"HTTP/1.1 200 OK\r\n", fields.as_bytes(), b"\r\nbody: no\r\n"].concat();
        let head_len = encoded.len() - b"body: no\r\n".len();
        assert_eq!(*Ready::new(encoded, head_len, Bytes::new(), None).map(), map);
    }

    #[test]
    fn no_value_can_split_a_response() {
        for evil in [
            "a\r\nX: y",
            "a\nb",
            "a\rb",
            "a\0b",
            "\r\n\r\n<html>",
            "a\x1bb",
            "\x7f",
        ] {
            let fields = Fields::new().with("A", "1").with("Evil", evil).with("B", "2\t3");
            assert_eq!(fields.as_bytes(), b"A: 1\r\nB: 2\t3\r\n", "{evil:?}");
        }
    }
}
