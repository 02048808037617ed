//! Finds, parses and checks response heads.

use std::fmt;

/// Maximum number of fields in a response head. Registries send about ten.
const MAX_FIELDS: usize = 64;

/// The properties of a complete head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Size of the head in bytes, including the blank line.
    pub size: usize,
    /// Size of the following body in bytes.
    pub body: u64,
    /// Whether the server closes the connection after this response.
    pub closes: bool,
}

/// The reason why a response is not the expected one. Caused by the server or by wrong options.
#[derive(Debug)]
pub enum Wrong {
    Malformed(httparse::Error),
    Status(u16),
    NoLength,
    Length { expected: u64, found: u64 },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(error) => write!(f, "the response head cannot be parsed: {error}"),
            Self::Status(status) => write!(f, "unexpected status {status}"),
            Self::NoLength => f.write_str("the response has no Content-Length"),
            Self::Length { expected, found } => write!(f, "Content-Length is {found}, expected {expected}"),
        }
    }
}

/// Checks heads against one expectation, and caches the last correct head.
///
/// A server sends equal heads for equal requests until its `Date` changes. Comparing most heads
/// with the previous one costs a fraction of parsing them.
pub struct HeadReader {
    status: u16,
    length: Option<u64>,
    head_only: bool,
    known: Vec<u8>,
    verdict: Head,
}

impl HeadReader {
    pub fn new(target: &crate::target::Target) -> Self {
        Self {
            status: target.status,
            length: target.length,
            head_only: target.head_only,
            known: Vec::new(),
            verdict: Head {
                size: 0,
                body: 0,
                closes: false,
            },
        }
    }

    /// Returns the head at the start of `bytes`. Returns `None` while the head is incomplete.
    pub fn read(&mut self, bytes: &[u8]) -> Result<Option<Head>, Wrong> {
        if !self.known.is_empty() && bytes.starts_with(&self.known) {
            return Ok(Some(self.verdict));
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let size = match response.parse(bytes).map_err(Wrong::Malformed)? {
            httparse::Status::Complete(size) => size,
            httparse::Status::Partial => return Ok(None),
        };
        let status = response.code.unwrap_or(0);
        if status != self.status {
            return Err(Wrong::Status(status));
        }
        let value = |name: &str| {
            let field = response
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case(name));
            field.and_then(|field| std::str::from_utf8(field.value).ok())
        };
        let found: u64 = value("content-length")
            .and_then(|text| text.parse().ok())
            .ok_or(Wrong::NoLength)?;
        let expected = *self.length.get_or_insert(found);
        if found != expected {
            return Err(Wrong::Length { expected, found });
        }
        let closes = value("connection").is_some_and(|text| text.eq_ignore_ascii_case("close"));
        self.verdict = Head {
            size,
            body: if self.head_only { 0 } else { found },
            closes,
        };
        self.known.clear();
        self.known.extend_from_slice(&bytes[..size]);
        Ok(Some(self.verdict))
    }
}
