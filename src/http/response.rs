//! Responses, before and after encoding.

use std::cell::OnceCell;
use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::body::Body;
use super::{ContentName, Resource};
use crate::shared_file::SharedFile;

/// The source of a response. A closed set, for the log and for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheResult {
    /// Not a response with content.
    None,
    Hit,
    Miss,
    Collapsed,
    Revalidated,
    Stale,
    Bypass,
}

impl CacheResult {
    pub const ALL: [CacheResult; 7] = [
        CacheResult::None,
        CacheResult::Hit,
        CacheResult::Miss,
        CacheResult::Collapsed,
        CacheResult::Revalidated,
        CacheResult::Stale,
        CacheResult::Bypass,
    ];

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

/// A response head and body. The server adds framing, `Date` and `Connection`.
pub struct Response {
    pub status: u16,
    /// Encoded fields, each `Name: value\r\n`.
    pub fields: Fields,
    /// The length of the body, also for a HEAD response. `None` if unknown.
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

    /// Adds a field. Omits the field if the value contains bytes that are invalid in a field
    /// (control characters, line ends). Such a value comes from an upstream, and the cache does not
    /// repair it.
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

    /// Adds a field and returns the fields, for use in one expression.
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.add(name, value);
        self
    }

    pub fn append(&mut self, more: &Fields) {
        self.0.extend_from_slice(&more.0);
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the fields as a map, for HTTP/2.
    pub fn to_map(&self) -> HeaderMap {
        map_of(&self.0)
    }
}

/// Returns field lines, each `Name: value\r\n`, as a map. Omits the connection fields of HTTP/1.1
/// (RFC 9113, 8.2.2) and invalid lines.
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

/// An encoded hit with status 200. Sent with one call, or with one call for the head and more for a
/// file.
pub struct Ready {
    /// The head, its empty line, and a body in memory. The only copy of both.
    pub encoded: Bytes,
    pub head_len: usize,
    /// The range of the fields that describe the content, inside the head. Excludes the status
    /// line, `Date`, `Age` and `Content-Length`.
    pub fields: Range<usize>,
    /// A body in a file, and its size. Never empty.
    pub file: Option<(SharedFile, u64)>,
    /// The name of the content, for the access log.
    pub content: Option<Rc<ContentName>>,
    /// The kind of the content, for the metrics.
    pub resource: Resource,
    map: OnceCell<HeaderMap>,
}

impl Ready {
    pub fn new(
        encoded: Vec<u8>,
        head_len: usize,
        fields: Range<usize>,
        file: Option<(SharedFile, u64)>,
    ) -> Self {
        Ready {
            encoded: Bytes::from(encoded),
            head_len,
            fields,
            file,
            content: None,
            resource: Resource::Other,
            map: OnceCell::new(),
        }
    }

    /// Returns the body, if in memory.
    pub fn body(&self) -> Bytes {
        self.encoded.slice(self.head_len..)
    }

    /// Returns the fields of the head for HTTP/2. Parsed on first use.
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
    fn header_map_contains_all_fields_except_connection_fields() {
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
        assert_eq!(*Ready::new(encoded, head_len, 0..0, None).map(), map);
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
