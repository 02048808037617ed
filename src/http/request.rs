//! A request's head as the rest of the cache sees it: checked once, borrowed from the receive buffer.

use std::fmt;
use std::net::IpAddr;

use memchr::memchr;

use super::headers;

/// What the cache does with methods: it reads. Everything else is answered alike.
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

/// What a client's verified certificate says about it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Certificate {
    /// The subject as RFC 4514 writes it, for the log.
    pub subject: String,
    /// The subject's common name.
    pub common_name: Option<String>,
    /// Subject alternative names: DNS names, mail addresses and URIs, in the certificate's order.
    pub names: Vec<String>,
}

/// The head of one request. Holding one means the head was unambiguous: one reading, no body to follow.
///
/// Nothing is copied or decoded: text is a part of the receive buffer, percent-escapes are as received.
#[derive(Clone, Copy)]
pub struct RequestHead<'b> {
    pub method: Method,
    pub version: Version,
    /// Whether the client wants another response on this connection: from the version and from all members
    /// of all `Connection` lines, where `close` wins.
    pub keep_alive: bool,
    /// The method as received, at most 32 bytes; for the log and for nothing else.
    pub method_text: &'b str,
    /// Path and query as received, for the log.
    pub target: &'b str,
    /// Starts with `/`; ASCII without blanks, controls and `#`; percent-escapes are not decoded.
    pub path: &'b str,
    /// What follows the first `?`, possibly empty; `None` without a `?`.
    pub query: Option<&'b str>,
    /// `host[:port]`, not empty, of checked grammar. `None` only from HTTP/1.0.
    pub host: Option<&'b str>,
    /// The `Range` value; `None` also when several lines make it, or its `If-Range`, ambiguous: such a range
    /// is ignored and the client gets the whole.
    pub range: Option<&'b str>,
    pub if_range: Option<&'b str>,
    pub authorization: Option<&'b str>,
    /// The certificate the client has proved to be its own, when one was asked for. Not from the head: the connection
    /// adds it.
    pub certificate: Option<&'b Certificate>,
    /// Whose connection it is; the connection adds it too.
    pub peer: Option<IpAddr>,
    /// The first `User-Agent`; `None` also when it is not UTF-8.
    pub user_agent: Option<&'b str>,
    pub(crate) has_accept: bool,
    pub(crate) has_if_none_match: bool,
    pub(crate) has_via: bool,
    pub(crate) has_registry: bool,
    pub(crate) fields: FieldLines<'b>,
}

impl RequestHead<'static> {
    /// Stands for a request that was refused before it had a head, in the log and when the refusal is sent.
    pub(crate) fn refused() -> Self {
        RequestHead {
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
            user_agent: None,
            has_accept: false,
            has_if_none_match: false,
            has_via: false,
            has_registry: false,
            fields: FieldLines::checked(&[]),
        }
    }
}

impl<'b> RequestHead<'b> {
    /// Whether the range, if there is one, has no end: `bytes=500-`. Clients that fetch parts side by side send such a one for
    /// each part, and close the connection when they have it.
    pub fn has_open_range(&self) -> bool {
        self.range.is_some_and(|range| range.trim_end().ends_with('-'))
    }

    /// The value of every `Accept` line in order of arrival, each a comma-separated list of its own. Docker
    /// and podman send one line per media type.
    pub fn accept(&self) -> impl Iterator<Item = &'b str> + Clone + use<'b> {
        self.values(headers::ACCEPT, self.has_accept)
    }

    /// Whether there is any `If-None-Match` line.
    pub fn has_if_none_match(&self) -> bool {
        self.has_if_none_match
    }

    /// The value of every `If-None-Match` line; several lines mean one list.
    pub fn if_none_match(&self) -> impl Iterator<Item = &'b str> + Clone + use<'b> {
        self.values(headers::IF_NONE_MATCH, self.has_if_none_match)
    }

    /// Whether there is any `X-Registry` line.
    pub fn has_registry(&self) -> bool {
        self.has_registry
    }

    /// The value of every `X-Registry` line, whatever its bytes.
    pub fn registry(&self) -> impl Iterator<Item = &'b [u8]> + Clone + use<'b> {
        self.raw_values(headers::X_REGISTRY, self.has_registry)
    }

    /// The value of every `Via` line, whatever its bytes; several lines mean one list.
    pub fn via(&self) -> impl Iterator<Item = &'b [u8]> + Clone + use<'b> {
        self.raw_values(headers::VIA, self.has_via)
    }

    /// Every field line as received, in order: name, and value without the white space around it.
    ///
    /// Names are tokens. Values hold no control but tab; bytes from 0x80 are possible.
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

/// Prints what a log may hold: no field values, since some are secrets.
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

/// Iterates over the field lines of a head that has been checked.
///
/// Keeps the bytes and not a table of slices: a table for a hundred fields is 3 KiB on every connection's
/// stack, and all but a few requests never look at it.
#[derive(Clone, Copy, Debug)]
pub struct FieldLines<'b>(&'b [u8]);

impl<'b> FieldLines<'b> {
    /// `lines` are field lines that the parser accepted, each with its CRLF, without the empty line.
    pub(crate) fn checked(lines: &'b [u8]) -> Self {
        FieldLines(lines)
    }
}

impl<'b> Iterator for FieldLines<'b> {
    type Item = (&'b str, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // An accepted line holds no CR but the one before its LF, and a colon after a name of token bytes.
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
