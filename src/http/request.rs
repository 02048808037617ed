//! The head of a request: checked once, borrowed from the receive buffer.

use std::fmt;
use std::net::IpAddr;

use memchr::memchr;

use super::{RequestId, RequestTrace, headers};

/// The supported methods. The cache only reads, so it treats all other methods alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Method {
    Get,
    Head,
    Other,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    Http10,
    Http11,
    Http2,
}

/// The names in a verified client certificate.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Certificate {
    /// The subject in the format of RFC 4514, for the log.
    pub subject: String,
    pub common_name: Option<String>,
    /// The subject alternative names (DNS names, mail addresses and URIs) in the order of the
    /// certificate.
    pub names: Vec<String>,
}

/// The head of one request. The parser guarantees an unambiguous head and no request body.
///
/// No bytes are copied or decoded. Text borrows from the receive buffer and keeps its
/// percent-escapes.
#[derive(Clone, Copy)]
pub struct RequestHead<'b> {
    /// The id of the request, for the log. Added by the connection.
    pub id: RequestId,
    pub method: Method,
    pub version: Version,
    /// Whether the client wants to keep the connection open. Depends on the version and all members
    /// of all `Connection` lines, where `close` takes precedence.
    pub keep_alive: bool,
    /// The method as received, at most 32 bytes. Only for the log.
    pub method_text: &'b str,
    /// Path and query as received, for the log.
    pub target: &'b str,
    /// The path. Starts with `/`, and is ASCII without spaces, control characters and `#`.
    /// Percent-escapes are not decoded.
    pub path: &'b str,
    /// The text after the first `?`, possibly empty. `None` without a `?`.
    pub query: Option<&'b str>,
    /// A valid, non-empty `host[:port]`. `None` only in HTTP/1.0.
    pub host: Option<&'b str>,
    /// The `Range` value. `None` also if several `Range` or `If-Range` lines make the range
    /// ambiguous. The range is then ignored, and the client receives the whole content.
    pub range: Option<&'b str>,
    pub if_range: Option<&'b str>,
    pub authorization: Option<&'b str>,
    /// The verified certificate of the client, if requested. Added by the connection.
    pub certificate: Option<&'b Certificate>,
    /// The address of the client. Added by the connection.
    pub peer: Option<IpAddr>,
    /// The trace of the request. Added by the connection.
    pub trace: Option<RequestTrace>,
    /// Whether the connection uses TLS. Added by the connection.
    pub is_tls: bool,
    /// The first valid UTF-8 `User-Agent`.
    pub user_agent: Option<&'b str>,
    pub(crate) has_accept: bool,
    pub(crate) has_if_none_match: bool,
    pub(crate) has_via: bool,
    pub(crate) has_registry: bool,
    pub(crate) has_traceparent: bool,
    pub(crate) fields: FieldLines<'b>,
}

impl RequestHead<'static> {
    /// Returns a placeholder for a rejected request without a head, for the log and for the
    /// response.
    pub(crate) fn refused() -> Self {
        RequestHead {
            id: RequestId::default(),
            method: Method::Other,
            version: Version::Http11,
            keep_alive: false,
            method_text: "-",
            target: "-",
            path: "-",
            query: None,
            host: None,
            range: None,
            if_range: None,
            authorization: None,
            certificate: None,
            peer: None,
            trace: None,
            is_tls: false,
            user_agent: None,
            has_accept: false,
            has_if_none_match: false,
            has_via: false,
            has_registry: false,
            has_traceparent: false,
            fields: FieldLines::checked(&[]),
        }
    }
}

impl<'b> RequestHead<'b> {
    /// Returns whether the range has no end, as in `bytes=500-`. Clients that fetch parts in
    /// parallel send an open range for each part, and close the connection after the part.
    pub fn has_open_range(&self) -> bool {
        self.range.is_some_and(|range| range.trim_end().ends_with('-'))
    }

    /// Returns the value of every `Accept` line in order of arrival, each a comma-separated list.
    /// Docker and Podman send one line per media type.
    pub fn accept(&self) -> impl Iterator<Item = &'b str> + Clone + use<'b> {
        self.values(headers::ACCEPT, self.has_accept)
    }

    pub fn has_if_none_match(&self) -> bool {
        self.has_if_none_match
    }

    /// Returns the value of every `If-None-Match` line. Several lines form one list.
    pub fn if_none_match(&self) -> impl Iterator<Item = &'b str> + Clone + use<'b> {
        self.values(headers::IF_NONE_MATCH, self.has_if_none_match)
    }

    pub fn has_registry(&self) -> bool {
        self.has_registry
    }

    /// Returns the raw value of every `X-Registry` line.
    pub fn registry(&self) -> impl Iterator<Item = &'b [u8]> + Clone + use<'b> {
        self.raw_values(headers::X_REGISTRY, self.has_registry)
    }

    /// Returns the raw value of every `Via` line. Several lines form one list.
    pub fn via(&self) -> impl Iterator<Item = &'b [u8]> + Clone + use<'b> {
        self.raw_values(headers::VIA, self.has_via)
    }

    /// Returns the raw value of `traceparent`. `None` if several lines make the parent ambiguous.
    pub fn traceparent(&self) -> Option<&'b [u8]> {
        let mut lines = self.raw_values(headers::TRACEPARENT, self.has_traceparent);
        let first = lines.next()?;
        lines.next().is_none().then_some(first)
    }

    /// Returns every field line as received, in order, as name and trimmed value.
    ///
    /// Names are tokens. Values contain no control characters except tab, and may contain bytes
    /// from 0x80.
    pub fn headers(&self) -> FieldLines<'b> {
        self.fields
    }

    fn values(&self, name: &'static str, present: bool) -> impl Iterator<Item = &'b str> + Clone + use<'b> {
        self.raw_values(name, present)
            .filter_map(|value| std::str::from_utf8(value).ok())
    }

    fn raw_values(
        &self,
        name: &'static str,
        present: bool,
    ) -> impl Iterator<Item = &'b [u8]> + Clone + use<'b> {
        let lines = if present { self.fields } else { FieldLines(&[]) };
        lines
            .filter(move |(found, _)| found.len() == name.len() && found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }
}

/// Prints no field values, because some are secrets.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", &self.method_text)
            .field("target", &self.target)
            .field("version", &self.version)
            .field("keep_alive", &self.keep_alive)
            .field("host", &self.host)
            .finish_non_exhaustive()
    }
}

/// Iterates over the field lines of a checked head.
///
/// Stores the bytes instead of a table of slices. A table for a hundred fields would take 3 KiB on
/// the stack of every connection, and few requests use it.
#[derive(Clone, Copy, Debug)]
pub struct FieldLines<'b>(&'b [u8]);

impl<'b> FieldLines<'b> {
    /// Creates the iterator. `lines` are field lines accepted by the parser, each with CRLF,
    /// without the empty line.
    pub(crate) fn checked(lines: &'b [u8]) -> Self {
        FieldLines(lines)
    }
}

impl<'b> Iterator for FieldLines<'b> {
    type Item = (&'b str, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // An accepted line has no CR except before the LF, and has a colon after a name of token
        // bytes.
        let end = memchr(b'\r', self.0)?;
        let (line, rest) = self.0.split_at(end);
        self.0 = rest.get(2..).unwrap_or_default();
        let colon = memchr(b':', line)?;
        let name = std::str::from_utf8(&line[..colon]).ok()?;
        Some((name, trim_ows(&line[colon + 1..])))
    }
}

fn trim_ows(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
