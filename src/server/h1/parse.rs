//! Parses a request head from bytes. Performs no I/O and no allocation. Fuzzed.
//!
//! The parser rejects a head that two readers could interpret differently, and the response ends
//! the connection. A cache runs behind proxies and in front of registries. If one of them reads a
//! request as two requests, requests and responses of different clients mix. No route needs a
//! request body, so the parser rejects bodies.
//!
//! Other modules read from the socket, enforce deadlines (and send the 408), and decode the path.

use std::mem::MaybeUninit;
use std::net::Ipv6Addr;

use memchr::{memchr, memchr2};

use crate::http::headers::names_field;
use crate::http::request::FieldLines;
use crate::http::{Method, RequestHead, RequestId, Version};

/// The maximum length of a head, including the request line and the empty line.
///
/// Real heads are below 2 KiB. Bearer tokens of some identity providers reach 16 KiB. The limit is
/// four times 16 KiB.
pub const HEAD_BYTES_MAX: usize = 64 * 1_024;

/// The maximum number of field lines in a head. Real heads have up to 16, six of them `Accept`.
pub const FIELDS_MAX: usize = 100;

/// The maximum length of a target. A name of 255 bytes, a digest and `ns` fit sixteen times.
pub const TARGET_BYTES_MAX: usize = 8 * 1_024;

/// The maximum length of a method. The longest registered method (UPDATEREDIRECTREF) has 17 bytes.
pub const METHOD_BYTES_MAX: usize = 32;

/// The maximum length of a host. DNS names have up to 253 bytes, and a port adds 6.
const HOST_BYTES_MAX: usize = 259;

/// The position of the CR in the longest request line: method, space, target, space, `HTTP/1.1`.
const REQUEST_LINE_BYTES_MAX: usize = METHOD_BYTES_MAX + 1 + TARGET_BYTES_MAX + 1 + 8;

const _: () = assert!(REQUEST_LINE_BYTES_MAX + 4 < HEAD_BYTES_MAX);

/// The reason for rejecting a head. Always a client error. Always ends the connection, because the
/// start of the next request is no longer certain.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{}", self.reason())]
pub enum HeadError {
    BareLineFeed,
    BareCarriageReturn,
    RequestLine,
    MethodTooLong,
    Target,
    TargetTooLong,
    Version,
    Field,
    FieldNotText,
    TooManyFields,
    HeadTooLong,
    HostMissing,
    HostRepeated,
    HostMalformed,
    HostDiffersFromTarget,
    TransferEncoding,
    ContentLength,
    /// A GET or HEAD with a body.
    Body,
    /// Another method with a body. Such a write has no use in a pull-only cache.
    WriteWithBody,
    Expect,
    AuthorizationRepeated,
    /// The head did not end before its deadline. Reported by the connection, not by the parser.
    Timeout,
}

impl HeadError {
    /// Returns the status of the response. The connection is closed afterwards.
    pub fn status(self) -> u16 {
        match self {
            HeadError::WriteWithBody => 405,
            HeadError::Timeout => 408,
            HeadError::TargetTooLong => 414,
            HeadError::Expect => 417,
            HeadError::TooManyFields | HeadError::HeadTooLong => 431,
            HeadError::MethodTooLong => 501,
            HeadError::Version => 505,
            _ => 400,
        }
    }

    /// Returns the reason for the response body and the log. Contains no part of the request.
    pub fn reason(self) -> &'static str {
        match self {
            HeadError::BareLineFeed => "a line feed without a carriage return",
            HeadError::BareCarriageReturn => "a carriage return without a line feed",
            HeadError::RequestLine => "malformed request line",
            HeadError::MethodTooLong => "method longer than 32 bytes",
            HeadError::Target => "malformed request target",
            HeadError::TargetTooLong => "request target longer than 8192 bytes",
            HeadError::Version => "unsupported HTTP version; expected HTTP/1.0 or HTTP/1.1",
            HeadError::Field => "malformed header field",
            HeadError::FieldNotText => "a header field is not valid text",
            HeadError::TooManyFields => "more than 100 header fields",
            HeadError::HeadTooLong => "request head longer than 65536 bytes",
            HeadError::HostMissing => "missing Host",
            HeadError::HostRepeated => "more than one Host",
            HeadError::HostMalformed => "malformed Host",
            HeadError::HostDiffersFromTarget => "the host of the request target differs from Host",
            HeadError::TransferEncoding => "Transfer-Encoding is not supported in requests",
            HeadError::ContentLength => "ambiguous or malformed Content-Length",
            HeadError::Body => "request bodies are not supported",
            HeadError::WriteWithBody => "this cache is read-only; push to the registry itself",
            HeadError::Expect => "Expect is not supported",
            HeadError::AuthorizationRepeated => "more than one Authorization",
            HeadError::Timeout => "the request head did not arrive in time",
        }
    }
}

/// Parses the head at the start of `buf`. Returns the head and its length in bytes, or `None` while
/// the head is incomplete.
///
/// `scanned` is the number of bytes of `buf` that earlier calls have searched. Thus a head that
/// arrives byte by byte costs no more than a head that arrives at once. The caller starts with 0
/// and keeps the value while `buf` starts with the same bytes. After a complete head the value is 0
/// again. The result depends only on the bytes, not on how they were split.
///
/// A single empty line before the head is skipped and counts towards the length (RFC 9112, 2.2).
///
/// # Errors
///
/// Returns a [`HeadError`] as early as it is certain. The caller must close the connection after
/// the response.
pub fn parse_head<'b>(
    buf: &'b [u8],
    scanned: &mut usize,
) -> Result<Option<(RequestHead<'b>, usize)>, HeadError> {
    let Some((start, end)) = find_head(buf, scanned)? else {
        return Ok(None);
    };
    *scanned = 0;
    Ok(Some((read_head(&buf[start..end])?, end)))
}

/// Finds the start and end of the head. Rejects errors that need no full parse.
///
/// httparse accepts a bare LF as a line end. A strict reader in front of the cache would then see a
/// different end of the head. Therefore this function finds the lines, and httparse only receives
/// lines that end in CRLF.
#[inline]
fn find_head(buf: &[u8], scanned: &mut usize) -> Result<Option<(usize, usize)>, HeadError> {
    let start = if buf.starts_with(b"\r\n") { 2 } else { 0 };
    match buf.get(start) {
        None => return Ok(None),
        Some(b'\r') if buf.len() == 1 => return Ok(None),
        // Rejected at once, because a TLS client waits for the response and never sends an empty
        // line.
        Some(first) if !first.is_ascii_alphanumeric() && !b"!#$%&'*+-.^_`|~".contains(first) => {
            return Err(if *first == b'\n' {
                HeadError::BareLineFeed
            } else {
                HeadError::RequestLine
            });
        }
        Some(_) => {}
    }

    let window = &buf[..buf.len().min(HEAD_BYTES_MAX)];
    let line_max = start + REQUEST_LINE_BYTES_MAX;
    let mut at = (*scanned).clamp(start, window.len());
    // Beyond `line_max`, the request line is complete. Otherwise the loop has already returned an
    // error.
    let mut in_request_line = at <= line_max && memchr(b'\n', &window[start..at]).is_none();
    loop {
        let found = memchr2(b'\r', b'\n', &window[at..]).map(|offset| at + offset);
        if in_request_line && found.unwrap_or(window.len()) > line_max {
            return Err(request_line_too_long(&window[start..]));
        }
        let Some(found) = found else {
            at = window.len();
            break;
        };
        match (window[found], window.get(found + 1)) {
            (b'\n', _) => return Err(HeadError::BareLineFeed),
            (_, Some(b'\n')) => {}
            (_, Some(_)) => return Err(HeadError::BareCarriageReturn),
            (_, None) => {
                at = found;
                break;
            }
        }
        let next = found + 2;
        if in_request_line {
            check_version(&window[start..found])?;
            in_request_line = false;
        } else if window[found - 1] == b'\n' {
            return Ok(Some((start, next)));
        }
        at = next;
    }
    if window.len() == HEAD_BYTES_MAX {
        return Err(HeadError::HeadTooLong);
    }
    *scanned = at;
    Ok(None)
}

fn request_line_too_long(line: &[u8]) -> HeadError {
    match memchr(b' ', &line[..METHOD_BYTES_MAX + 1]) {
        Some(_) => HeadError::TargetTooLong,
        None => HeadError::MethodTooLong,
    }
}

/// Checks the end of the request line as soon as it arrives, because HTTP/0.9 clients send no more
/// bytes. A connection that starts with the HTTP/2 preface is not parsed here. A preface after
/// another request is an error.
fn check_version(line: &[u8]) -> Result<(), HeadError> {
    match line {
        [.., b' ', b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'0' | b'1'] => Ok(()),
        [
            ..,
            b' ',
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'0'..=b'9',
            b'.',
            b'0'..=b'9',
        ] => Err(HeadError::Version),
        _ => Err(HeadError::RequestLine),
    }
}

/// Parses a complete head. Every line ends in CRLF, and the last line is empty.
#[inline]
fn read_head(bytes: &[u8]) -> Result<RequestHead<'_>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Ok(_) => return Err(HeadError::Field),
        Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooManyFields),
        Err(httparse::Error::Token | httparse::Error::Version) => return Err(HeadError::RequestLine),
        Err(_) => return Err(HeadError::Field),
    }
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Err(HeadError::RequestLine);
    };
    if method.len() > METHOD_BYTES_MAX {
        return Err(HeadError::MethodTooLong);
    }
    if target.len() > TARGET_BYTES_MAX {
        return Err(HeadError::TargetTooLong);
    }
    let version = if minor == 0 {
        Version::Http10
    } else {
        Version::Http11
    };
    let method_kind = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        _ => Method::Other,
    };
    let target_parts = read_target(target)?;
    let found = read_fields(request.headers)?;

    if found.has_body {
        let reads = method_kind != Method::Other;
        return Err(if reads {
            HeadError::Body
        } else {
            HeadError::WriteWithBody
        });
    }
    if version == Version::Http11 && found.host.is_none() {
        return Err(HeadError::HostMissing);
    }
    if let Some(authority) = target_parts.authority
        && !found
            .host
            .is_some_and(|host| host.eq_ignore_ascii_case(authority))
    {
        return Err(HeadError::HostDiffersFromTarget);
    }

    // httparse allows exactly one space between the parts of the request line.
    let lines_start = method.len() + 1 + target.len() + " HTTP/1.1\r\n".len();
    Ok(RequestHead {
        id: RequestId::default(),
        method: method_kind,
        version,
        keep_alive: !found.close && (version == Version::Http11 || found.keep_alive),
        method_text: method,
        target,
        path: target_parts.path,
        query: target_parts.query,
        host: found.host,
        range: found.range.single().filter(|_| !found.if_range.is_repeated()),
        if_range: found.if_range.single(),
        authorization: found.authorization,
        certificate: None,
        peer: None,
        trace: None,
        is_tls: false,
        user_agent: found.user_agent,
        has_accept: found.has_accept,
        has_if_none_match: found.has_if_none_match,
        has_via: found.has_via,
        has_registry: found.has_registry,
        has_traceparent: found.has_traceparent,
        fields: FieldLines::checked(&bytes[lines_start..bytes.len() - 2]),
    })
}

struct Target<'b> {
    authority: Option<&'b str>,
    path: &'b str,
    query: Option<&'b str>,
}

/// Parses origin-form and absolute-form (RFC 9112, 3.2). Clients of proxies send absolute-form. `*`
/// and authority-form belong to unsupported methods.
fn read_target(target: &str) -> Result<Target<'_>, HeadError> {
    // httparse has rejected spaces and control characters. The fold has no early exit, so the
    // compiler can process many bytes at once.
    let is_ascii = target.bytes().fold(0, |all, byte| all | byte) < 0x80;
    if !is_ascii || memchr(b'#', target.as_bytes()).is_some() {
        return Err(HeadError::Target);
    }
    let (authority, local) = if target.starts_with('/') {
        (None, target)
    } else {
        let (scheme, rest) = target.split_once("://").ok_or(HeadError::Target)?;
        if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
            return Err(HeadError::Target);
        }
        let (authority, local) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        (Some(authority), local)
    };
    let (path, query) = match memchr(b'?', local.as_bytes()) {
        Some(mark) => (&local[..mark], Some(&local[mark + 1..])),
        None => (local, None),
    };
    // Only absolute-form can omit the path, which then means the root.
    let path = if path.is_empty() { "/" } else { path };
    Ok(Target {
        authority,
        path,
        query,
    })
}

/// The parsed fields of a head that the server uses.
#[derive(Default)]
struct HeadFields<'b> {
    host: Option<&'b str>,
    authorization: Option<&'b str>,
    user_agent: Option<&'b str>,
    range: Once<'b>,
    if_range: Once<'b>,
    length: Option<&'b [u8]>,
    has_body: bool,
    close: bool,
    keep_alive: bool,
    has_accept: bool,
    has_if_none_match: bool,
    has_via: bool,
    has_registry: bool,
    has_traceparent: bool,
}

/// A field that is ignored if repeated.
#[derive(Default)]
enum Once<'b> {
    #[default]
    Absent,
    Single(&'b str),
    Repeated,
}

impl<'b> Once<'b> {
    fn add(&mut self, value: &'b str) {
        *self = match self {
            Once::Absent => Once::Single(value),
            _ => Once::Repeated,
        };
    }

    fn single(&self) -> Option<&'b str> {
        if let Once::Single(value) = self {
            Some(value)
        } else {
            None
        }
    }

    fn is_repeated(&self) -> bool {
        matches!(self, Once::Repeated)
    }
}

/// Reads all fields in one pass. Compares the length of a name first, which decides nearly all
/// cases.
#[inline]
fn read_fields<'b>(fields: &[httparse::Header<'b>]) -> Result<HeadFields<'b>, HeadError> {
    let mut found = HeadFields::default();
    for &httparse::Header { name, value } in fields {
        // Nearly all clients write a name in one of two ways. With a known length, each comparison
        // takes a few instructions. The general comparison is a loop.
        let is = |known: &str| name == known || name.eq_ignore_ascii_case(known);
        match name.len() {
            3 if is("Via") => found.has_via = true,
            4 if is("Host") => {
                if found.host.is_some() {
                    return Err(HeadError::HostRepeated);
                }
                let host = text(value)?;
                check_host(host)?;
                found.host = Some(host);
            }
            5 if is("Range") => found.range.add(text(value)?),
            6 if is("Accept") => found.has_accept = true,
            6 if is("Expect") => return Err(HeadError::Expect),
            8 if is("If-Range") => found.if_range.add(text(value)?),
            10 if is("Connection") => match value {
                b"close" => found.close = true,
                b"keep-alive" => found.keep_alive = true,
                _ => {
                    let value = text(value)?;
                    found.close |= names_field(value, "close");
                    found.keep_alive |= names_field(value, "keep-alive");
                }
            },
            10 if is("X-Registry") => found.has_registry = true,
            10 if is("User-Agent") => {
                found.user_agent = found.user_agent.or(std::str::from_utf8(value).ok());
            }
            11 if is("traceparent") => found.has_traceparent = true,
            13 if is("Authorization") => {
                if found.authorization.is_some() {
                    return Err(HeadError::AuthorizationRepeated);
                }
                found.authorization = Some(text(value)?);
            }
            13 if is("If-None-Match") => found.has_if_none_match = true,
            14 if is("Content-Length") => {
                if found.length.is_some_and(|before| before != value) || !is_length(value) {
                    return Err(HeadError::ContentLength);
                }
                found.length = Some(value);
                found.has_body = value != b"0";
            }
            17 if is("Transfer-Encoding") => return Err(HeadError::TransferEncoding),
            _ => {}
        }
    }
    Ok(found)
}

fn text(value: &[u8]) -> Result<&str, HeadError> {
    std::str::from_utf8(value).map_err(|_| HeadError::FieldNotText)
}

/// Returns whether `value` is one canonical number: no sign, no leading zero, no list, and below
/// 10^19 to fit a `u64`.
fn is_length(value: &[u8]) -> bool {
    match value {
        b"0" => true,
        [b'1'..=b'9', rest @ ..] => rest.len() < 19 && rest.iter().all(u8::is_ascii_digit),
        _ => false,
    }
}

/// Accepts the hosts that a client can be configured with: a DNS name, an IPv4 or bracketed IPv6
/// address, and a port. Underscores are valid, because Compose files contain them. Percent-escapes
/// and the other characters of a `reg-name` (RFC 3986) appear only in attacks.
fn check_host(host: &str) -> Result<(), HeadError> {
    let sound = if let Some(rest) = host.strip_prefix('[') {
        rest.split_once(']').is_some_and(|(address, port)| {
            address.parse::<Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_port))
        })
    } else {
        let (name, port) = match memchr(b':', host.as_bytes()) {
            Some(colon) => (&host[..colon], Some(&host[colon + 1..])),
            None => (host, None),
        };
        !name.is_empty()
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~'))
            && port.is_none_or(is_port)
    };
    if sound && host.len() <= HOST_BYTES_MAX {
        Ok(())
    } else {
        Err(HeadError::HostMalformed)
    }
}

fn is_port(digits: &str) -> bool {
    let mut port = 0_u32;
    for byte in digits.bytes() {
        if !byte.is_ascii_digit() {
            return false;
        }
        port = port.saturating_mul(10).saturating_add(u32::from(byte - b'0'));
    }
    digits.len() <= 5 && (1..=65_535).contains(&port)
}

#[cfg(test)]
#[path = "../../../tests/it/http1/corpus.rs"]
mod corpus;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::corpus::{self, Expect};
    use super::*;

    fn parsed(bytes: &[u8]) -> RequestHead<'_> {
        let (head, len) = parse_head(bytes, &mut 0).expect("well-formed").expect("complete");
        assert_eq!(len, bytes.len());
        head
    }

    /// Parses `bytes` like a connection that receives `step` bytes at a time. Returns the number of
    /// heads and the final result.
    fn serve(bytes: &[u8], step: usize) -> (usize, Result<(), HeadError>) {
        let (mut from, mut to, mut heads, mut scanned) = (0, 0, 0, 0);
        loop {
            match parse_head(&bytes[from..to], &mut scanned) {
                Err(error) => return (heads, Err(error)),
                Ok(Some((head, len))) => {
                    heads += 1;
                    from += len;
                    if !head.keep_alive {
                        return (heads, Ok(()));
                    }
                }
                Ok(None) if to == bytes.len() => return (heads, Ok(())),
                Ok(None) => to = (to + step).min(bytes.len()),
            }
        }
    }

    #[test]
    fn corpus_results_do_not_depend_on_read_sizes() {
        assert_eq!(corpus::HEAD_BYTES_MAX, HEAD_BYTES_MAX);
        assert_eq!(corpus::TARGET_BYTES_MAX, TARGET_BYTES_MAX);
        assert_eq!(corpus::METHOD_BYTES_MAX, METHOD_BYTES_MAX);
        assert_eq!(corpus::FIELDS_MAX, FIELDS_MAX);
        let cases = corpus::cases();
        let mut wrong = Vec::new();
        for case in &cases {
            let whole = serve(&case.bytes, usize::MAX / 2);
            for step in [1, 2, 7, 1_460] {
                if serve(&case.bytes, step) != whole {
                    wrong.push(format!(
                        "{}: {whole:?}, but in steps of {step} differently",
                        case.name
                    ));
                }
            }
            let right = match (case.expect, whole) {
                (Expect::Accept { responses }, (heads, Ok(()))) => heads == responses,
                (Expect::Incomplete, (0, Ok(()))) => true,
                (Expect::Refuse(statuses), (0, Err(error))) => statuses.contains(&error.status()),
                (Expect::RefuseAfter { responses, statuses }, (heads, Err(error))) => {
                    heads == responses && statuses.contains(&error.status())
                }
                _ => false,
            };
            if !right {
                wrong.push(format!(
                    "{}: expected {:?}, got {whole:?}",
                    case.name, case.expect
                ));
            }
        }
        println!("{} cases", cases.len());
        assert!(
            wrong.is_empty(),
            "{} of {}:\n{}",
            wrong.len(),
            cases.len(),
            wrong.join("\n")
        );
        assert!(cases.len() >= 1_000, "only {} cases are crossed", cases.len());
    }

    #[test]
    fn request_head_contains_the_sent_fields() {
        let head = parsed(
            b"GET /v2/a/manifests/1?ns=docker.io HTTP/1.1\r\nHost: cache:8080\r\nUser-Agent: containerd/2.0.2\r\n\
              accept: a/a\r\nACCEPT: b/b, c/c\r\nAuthorization:  Bearer x \r\nRange: bytes=0-1\r\n\
              If-Range: \"d\"\r\nIf-None-Match: \"a\"\r\nif-none-match: \"b\"\r\nX-Empty:\r\n\
              x-registry: r.example\r\nVia: 1.1 a\r\nvia:  1.0 b\r\n\r\n",
        );
        assert_eq!(
            (head.method, head.version, head.keep_alive),
            (Method::Get, Version::Http11, true)
        );
        assert_eq!(
            (head.path, head.query),
            ("/v2/a/manifests/1", Some("ns=docker.io"))
        );
        assert_eq!(head.target, "/v2/a/manifests/1?ns=docker.io");
        assert_eq!(head.host, Some("cache:8080"));
        assert_eq!(head.user_agent, Some("containerd/2.0.2"));
        assert_eq!(head.authorization, Some("Bearer x"));
        assert_eq!((head.range, head.if_range), (Some("bytes=0-1"), Some("\"d\"")));
        assert_eq!(head.accept().collect::<Vec<_>>(), ["a/a", "b/b, c/c"]);
        assert_eq!(head.if_none_match().collect::<Vec<_>>(), ["\"a\"", "\"b\""]);
        assert_eq!(head.registry().collect::<Vec<_>>(), [b"r.example"]);
        assert_eq!(head.via().collect::<Vec<_>>(), [b"1.1 a", b"1.0 b"]);
        let fields: Vec<_> = head.headers().collect();
        assert_eq!(fields.len(), 13);
        assert_eq!(fields[0], ("Host", &b"cache:8080"[..]));
        assert_eq!(fields[4], ("Authorization", &b"Bearer x"[..]));
        assert_eq!(fields[9], ("X-Empty", &b""[..]));
    }

    #[test]
    fn absolute_form_target_is_reduced_to_its_path() {
        for (target, path, query) in [
            ("http://cache/v2/", "/v2/", None),
            ("http://cache", "/", None),
            ("HTTPS://Cache?ns=a", "/", Some("ns=a")),
            ("http://cache/v2/??", "/v2/", Some("?")),
        ] {
            let bytes = format!("GET {target} HTTP/1.1\r\nHost: cache\r\n\r\n");
            let head = parsed(bytes.as_bytes());
            assert_eq!((head.path, head.query, head.target), (path, query, target));
        }
    }

    #[test]
    fn an_ambiguous_range_is_no_range() {
        for fields in [
            "Range: bytes=0-0\r\nRange: bytes=0-0",
            "Range: bytes=0-0\r\nIf-Range: a\r\nIf-Range: a",
        ] {
            let bytes = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
            assert_eq!(parsed(bytes.as_bytes()).range, None, "{fields}");
        }
    }

    #[test]
    fn what_is_printed_of_a_head_holds_no_secret() {
        let head =
            parsed(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret\r\nCookie: secret\r\n\r\n");
        assert!(!format!("{head:?}").contains("secret"));
    }

    #[test]
    fn request_head_is_at_most_256_bytes() {
        // The future of every connection that waits for an upstream contains a head.
        assert!(
            size_of::<RequestHead<'_>>() <= 256,
            "{}",
            size_of::<RequestHead<'_>>()
        );
    }

    /// A head that arrives byte by byte is searched once. With 64 KiB, a new search after each byte
    /// would read 2 GiB.
    #[test]
    fn a_drip_fed_head_costs_no_more_than_its_length() {
        let bytes = [
            b"GET / HTTP/1.1\r\nHost: a\r\nX: ",
            &[b'x'; 65_000][..],
            b"\r\n\r\n",
        ]
        .concat();
        let mut scanned = 0;
        for len in 0..bytes.len() {
            assert!(matches!(parse_head(&bytes[..len], &mut scanned), Ok(None)));
            assert!(scanned + 1 >= len, "{scanned} of {len}");
        }
        assert!(matches!(parse_head(&bytes, &mut scanned), Ok(Some((_, len))) if len == bytes.len()));
        assert_eq!(scanned, 0);
    }

    /// Generates bytes that reach deep into the parser: pieces of heads in any order, mixed with
    /// invalid bytes.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            6 => prop::sample::select(vec![
                &b"GET /v2/ HTTP/1.1\r\n"[..], b"HEAD http://a/?b HTTP/1.0\r\n", b"PUT / HTTP/2.0\r\n", b"Host: a\r\n",
                b"host: b:1\r\n", b"Connection: keep-alive, close\r\n", b"Connection: x\r\n", b"Content-Length: 0\r\n",
                b"Content-Length: 7\r\n", b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n",
                b"Range: bytes=0-1\r\n", b"Accept: */*\r\n", b"X : y\r\n", b" fold\r\n", b"Authorization: x\r\n",
            ]).prop_map(<[u8]>::to_vec),
            4 => Just(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n".to_vec()),
            4 => Just(b"\r\n".to_vec()),
            1 => prop::sample::select(b"\r\n \t:\0\x7f\x80\xffG/?#*".to_vec()).prop_map(|byte| vec![byte]),
            1 => prop::collection::vec(any::<u8>(), 0..20),
            1 => (0..10_000_usize).prop_map(|len| vec![b'a'; len]),
        ];
        prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2_000 }))]

        #[test]
        fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = serve(&bytes, usize::MAX / 2);
        }

        #[test]
        fn parse_results_do_not_depend_on_read_sizes(bytes in streams(), step in 1..50_usize) {
            prop_assert_eq!(serve(&bytes, step), serve(&bytes, usize::MAX / 2));
        }

        /// The iterator over the fields agrees with httparse, and an accepted head has the
        /// documented properties.
        #[test]
        fn accepted_head_agrees_with_httparse(bytes in streams()) {
            let Ok(Some((head, len))) = parse_head(&bytes, &mut 0) else { return Ok(()) };
            prop_assert!(bytes[..len].ends_with(b"\r\n\r\n"));
            prop_assert!(head.path.starts_with('/') && head.path.is_ascii());
            prop_assert!(head.host.is_some() || head.version == Version::Http10);
            let mut table = [httparse::EMPTY_HEADER; FIELDS_MAX];
            let mut request = httparse::Request::new(&mut table);
            prop_assert_eq!(request.parse(&bytes), Ok(httparse::Status::Complete(len)));
            let theirs: Vec<_> = request.headers.iter().map(|field| (field.name, field.value)).collect();
            prop_assert_eq!(head.headers().collect::<Vec<_>>(), theirs);
        }
    }
}
