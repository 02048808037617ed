//! Valid, borderline and invalid HTTP/1.1 requests with the expected result of each.
//!
//! Self-contained, because the parser's unit tests also include this file. A test driver sends
//! `bytes`, shuts down its sending direction, and reads to the end.
//!
//! [`CASES`] contains hand-written cases. [`cases`] adds combinations of a few short lists. A HEAD
//! request is always the last of a case, so that a driver can find the ends of all responses by
//! `Content-Length`.

use std::borrow::Cow;
use std::collections::HashSet;

/// A byte stream that a client sends on a fresh connection.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: Cow<'static, str>,
    pub bytes: Cow<'static, [u8]>,
    pub expect: Expect,
}

/// The required reaction of a server to a case.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// Exactly this number of responses. Other tests check the statuses.
    Accept { responses: usize },
    /// A single response with a status of this list, then close. Later bytes do not matter.
    Refuse(&'static [u16]),
    /// This number of responses, then a response with a status of this list, then close.
    RefuseAfter {
        responses: usize,
        statuses: &'static [u16],
    },
    /// No response that depends on the request, because more bytes could complete a valid request.
    /// A server may send 408 or close if no more bytes arrive.
    Incomplete,
}

const ONE: Expect = Expect::Accept { responses: 1 };
const TWO: Expect = Expect::Accept { responses: 2 };
const BAD: Expect = Expect::Refuse(&[400]);
const BAD_SECOND: Expect = Expect::RefuseAfter {
    responses: 1,
    statuses: &[400],
};

const fn case(name: &'static str, bytes: &'static [u8], expect: Expect) -> Case {
    Case {
        name: Cow::Borrowed(name),
        bytes: Cow::Borrowed(bytes),
        expect,
    }
}

#[rustfmt::skip] // A table with one case per line of any length.
pub const CASES: &[Case] = &[
    // Line ends and empty lines.
    case("a plain request", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", ONE),
    case("one empty line before the request", b"\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", ONE),
    case("two empty lines before the request", b"\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("a bare LF before the request", b"\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("a bare CR before the request", b"\rGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("a blank before the request", b" GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("an empty line between two requests", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", TWO),
    case("two empty lines between two requests", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD_SECOND),
    case("a line of LF only does not end the head", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\nGET /smuggled HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("LF LF inside a head", b"GET /v2/ HTTP/1.1\r\nHost: cache\n\nX: y\r\n\r\n", BAD),
    case("LF at every line end", b"GET /v2/ HTTP/1.1\nHost: cache\n\n", BAD),
    case("CR at every line end", b"GET /v2/ HTTP/1.1\rHost: cache\r\r", BAD),
    case("CR at the end of a value", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\r\n\r\n", BAD),
    case("CR LF reversed", b"GET /v2/ HTTP/1.1\n\rHost: cache\n\r\n\r", BAD),

    // Other protocols on this port.
    case("HTTP/0.9", b"GET /v2/\r\n", BAD),
    case("HTTP/0.9 with a blank", b"GET /v2/ \r\n", BAD),
    case("nothing", b"", Expect::Incomplete),
    case("an empty line only", b"\r\n", Expect::Incomplete),
    case("a CR only", b"\r", Expect::Incomplete),
    case("TLS 1.3 client hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x52\xe1\x0b", BAD),
    case("TLS record, one byte", b"\x16", BAD),
    case("SSL 2 client hello", b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", BAD),
    case("SSH", b"SSH-2.0-OpenSSH_9.2p1\r\n", BAD),
    case("SMTP", b"EHLO cache\r\n", BAD),
    case("Redis", b"*1\r\n$4\r\nPING\r\n", BAD),
    case("PROXY protocol 1", b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("PROXY protocol 2", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c", BAD),
    case("zeros", b"\0\0\0\0\0\0\0\0", BAD),
    case("HTTP/2 preface and settings", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", Expect::Refuse(&[505])),
    case("HTTP/2 preface after a request", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Expect::RefuseAfter { responses: 1, statuses: &[505] }),
    case("PRI over HTTP/1.1", b"PRI * HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),

    // Field lines.
    case("no fields, HTTP/1.0", b"GET /v2/ HTTP/1.0\r\n\r\n", ONE),
    case("no colon", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nAccept\r\n\r\n", BAD),
    case("two colons", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nAccept:: x\r\n\r\n", ONE),
    case("no blank after the colon", b"GET /v2/ HTTP/1.1\r\nHost:cache\r\n\r\n", ONE),
    case("much white space around a value", b"GET /v2/ HTTP/1.1\r\nHost: \t  cache \t \r\n\r\n", ONE),
    case("a field before Host that folds", b"GET /v2/ HTTP/1.1\r\n Host: cache\r\n\r\n", BAD),
    case("fold with a blank", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nX: a\r\n b\r\n\r\n", BAD),
    case("fold with a tab", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nX: a\r\n\tb\r\n\r\n", BAD),
    case("fold without text", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nX: a\r\n \r\n\r\n", BAD),
    case("fold of an empty value", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nX:\r\n b\r\n\r\n", BAD),
    case("fold that hides a coding", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", BAD),
    case("a folded Host", b"GET /v2/ HTTP/1.1\r\nHost:\r\n cache\r\n\r\n", BAD),
    case("a repeated Authorization", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer a\r\nauthorization: Bearer a\r\n\r\n", BAD),
    case("an Authorization that is no text", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nAuthorization: Bearer \xff\r\n\r\n", BAD),
    case("an underscore in a name is no dash", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\n\r\n", ONE),
    case("six Accept lines", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nAccept: a/a\r\nAccept: b/b\r\nAccept: c/c\r\nAccept: d/d\r\nAccept: e/e\r\nAccept: */*\r\n\r\n", ONE),
    case("two Ranges", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nRange: bytes=0-0\r\nRange: bytes=1-1\r\n\r\n", ONE),
    case("a malformed Range", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nRange: bytes=9-1,,x\r\n\r\n", ONE),

    // Bodies.
    case("a body with the bytes of a request", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nContent-Length: 38\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("a body without Content-Length", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n{\"a\":1}\r\n", BAD_SECOND),
    case("a length of zero, then a request", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nContent-Length: 0\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", TWO),
    case("an empty POST", b"POST /v2/ HTTP/1.1\r\nHost: cache\r\nContent-Length: 0\r\n\r\n", ONE),
    case("a POST with a body", b"POST /v2/ HTTP/1.1\r\nHost: cache\r\nContent-Length: 2\r\n\r\n{}", Expect::Refuse(&[400, 405])),
    case("a PUT that waits for 100", b"PUT /v2/ HTTP/1.1\r\nHost: cache\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n", Expect::Refuse(&[417])),
    case("chunked, complete", b"POST /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", BAD),
    case("chunked, empty", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", BAD),
    case("chunked, empty size", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n\r\n\r\n", BAD),
    case("chunked, 0x size", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n", BAD),
    case("chunked, signed size", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n0\r\n\r\n", BAD),
    case("chunked, 17 digits", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\na\r\n0\r\n\r\n", BAD),
    case("chunked, extension with LF", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n1;a=\"\n\"\r\na\r\n0\r\n\r\n", BAD),
    case("chunked, trailers", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\nHost: other\r\n\r\n", BAD),
    case("chunked, a request after the last chunk", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),

    // Upgrades and options.
    case("Upgrade to h2c", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", ONE),
    case("Upgrade to h2c, and another request", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", TWO),
    case("Upgrade to a websocket", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", ONE),
    case("Upgrade with a body", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello", BAD),
    case("Upgrade, HTTP/1.0", b"GET /v2/ HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", ONE),
    case("TE: trailers", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTE: trailers\r\nConnection: TE\r\n\r\n", ONE),
    case("Trailer", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nTrailer: X\r\n\r\n", ONE),
    case("CONNECT", b"CONNECT cache:443 HTTP/1.1\r\nHost: cache:443\r\n\r\n", BAD),
    case("TRACE", b"TRACE /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", ONE),
    case("OPTIONS *", b"OPTIONS * HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),

    // Pipelined requests.
    case("three requests in one write", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\nHEAD /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", Expect::Accept { responses: 3 }),
    case("valid, invalid, valid", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\nGET /v2/ HTTP/1.1\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD_SECOND),
    case("valid, valid, invalid, valid", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\nGET  /v2/ HTTP/1.1\r\nHost: cache\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", Expect::RefuseAfter { responses: 2, statuses: &[400] }),
    case("invalid, valid", b"GET /v2/ HTTP/1.1\r\nHost: a b\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", BAD),
    case("Connection: close, then another request", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n", ONE),
    case("Connection: close, then invalid bytes", b"GET /v2/ HTTP/1.1\r\nHost: cache\r\nConnection: close\r\n\r\n\0\0\0", ONE),
];

/// Limits of the server, in bytes. A test compares these limits with the real limits.
pub const HEAD_BYTES_MAX: usize = 65_536;
pub const TARGET_BYTES_MAX: usize = 8_192;
pub const METHOD_BYTES_MAX: usize = 32;
pub const FIELDS_MAX: usize = 100;

const GOOD: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: cache\r\n\r\n";

/// Returns all cases without duplicate byte streams: [`CASES`] and the combinations.
pub fn cases() -> Vec<Case> {
    let mut table = Table(CASES.to_vec());
    cuts(&mut table);
    line_ends(&mut table);
    request_lines(&mut table);
    versions(&mut table);
    methods(&mut table);
    targets(&mut table);
    names(&mut table);
    values(&mut table);
    hosts(&mut table);
    lengths(&mut table);
    codings(&mut table);
    expectations(&mut table);
    connections(&mut table);
    bounds(&mut table);
    after_a_good_one(&mut table);
    let mut seen = HashSet::new();
    table.0.retain(|case| seen.insert(case.bytes.clone()));
    table.0
}

struct Table(Vec<Case>);

impl Table {
    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>, expect: Expect) {
        self.0.push(Case {
            name: Cow::Owned(name.into()),
            bytes: Cow::Owned(bytes.into()),
            expect,
        });
    }
}

/// Joins the lines of a request with CR LF.
fn lines(lines: &[&[u8]]) -> Vec<u8> {
    let mut bytes = lines.join(&b"\r\n"[..]);
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes
}

fn show(bytes: &[u8]) -> String {
    let text = bytes.escape_ascii().to_string();
    if text.len() <= 60 {
        text
    } else {
        format!("{}… ({} bytes)", &text[..60], bytes.len())
    }
}

fn cuts(table: &mut Table) {
    for len in 1..GOOD.len() {
        table.add(
            format!("a request cut after {len} bytes"),
            &GOOD[..len],
            Expect::Incomplete,
        );
    }
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let line = b"PRI * HTTP/2.0\r\n".len();
    for len in 1..=preface.len() {
        let expect = if len < line {
            Expect::Incomplete
        } else {
            Expect::Refuse(&[505])
        };
        table.add(
            format!("HTTP/2 preface cut after {len} bytes"),
            &preface[..len],
            expect,
        );
    }
}

fn line_ends(table: &mut Table) {
    let heads: [&[u8]; 4] = [b"GET /v2/ HTTP/1.1", b"Host: cache", b"Accept: */*", b""];
    let ends: [&[u8]; 12] = [
        b"\n",
        b"\r",
        b"\r\r\n",
        b"\r\0\n",
        b"\n\r",
        b"\0",
        b"\x0b",
        b"\x0c",
        b"\r \n",
        b" \n",
        b"\xc2\x85",
        b"\xe2\x80\xa8",
    ];
    for wrong in ends {
        for place in 0..heads.len() {
            let mut bytes = Vec::new();
            for (index, line) in heads.iter().enumerate() {
                bytes.extend_from_slice(line);
                bytes.extend_from_slice(if index == place { wrong } else { b"\r\n" });
            }
            // A parser that does not accept the wrong line end finds the end of the head here.
            bytes.extend_from_slice(b"\r\n\r\n");
            // A value may contain non-ASCII bytes. There these bytes are neither line ends nor
            // errors.
            let text = wrong[0] >= 0x80 && place == 2;
            table.add(
                format!("line {place} ends with {}", show(wrong)),
                bytes,
                if text { ONE } else { BAD },
            );
        }
    }
}

fn request_lines(table: &mut Table) {
    let parts: [&[u8]; 5] = [b"", b"GET", b"/v2/", b"HTTP/1.1", b""];
    let places = [
        "before the method",
        "before the target",
        "before the version",
        "after the version",
    ];
    for blank in [
        &b"  "[..],
        b"\t",
        b" \t",
        b"\t ",
        b"\x0b",
        b"\x0c",
        b"\xa0",
        b"\0",
        b"",
        b"\r",
        b"%20",
        b"+",
    ] {
        for (place, place_name) in places.iter().enumerate() {
            let mut line = Vec::new();
            for (index, part) in parts.iter().enumerate() {
                line.extend_from_slice(part);
                if index == place {
                    line.extend_from_slice(blank);
                } else if index == 1 || index == 2 {
                    line.push(b' ');
                }
            }
            // Nothing belongs before the method and after the version. `+` and `%20` become part of
            // an unknown method.
            let outer = place == 0 || place == 3;
            let method = place == 0 && matches!(blank, b"%20" | b"+");
            let expect = if outer && blank.is_empty() || method {
                ONE
            } else {
                BAD
            };
            table.add(
                format!("{} {place_name}", show(blank)),
                lines(&[&line, b"Host: cache"]),
                expect,
            );
        }
    }
}

fn versions(table: &mut Table) {
    for method in ["GET", "HEAD", "POST"] {
        for version in [
            "HTTP/0.9", "HTTP/1.2", "HTTP/1.9", "HTTP/2.0", "HTTP/3.0", "HTTP/0.0",
        ] {
            let line = format!("{method} /v2/ {version}");
            let bytes = lines(&[line.as_bytes(), b"Host: cache"]);
            table.add(format!("{method} with {version}"), bytes, Expect::Refuse(&[505]));
        }
        for version in [
            "HTTP/1.1x",
            "HTTP/1",
            "HTTP/1.",
            "HTTP/1.10",
            "HTTP/11.1",
            "HTTP/01.1",
            "http/1.1",
            "Http/1.1",
            "HTTP/1,1",
            "HTTP /1.1",
            "HTTP/ 1.1",
            "HTTPS/1.1",
            "XHTTP/1.1",
            "HTTP/1.1.1",
            "HTTP/+1.1",
            "HTTP/-1.1",
            "HTTP/1.-1",
            "HTTP\\1.1",
            "HTTP//1.1",
            "ICY/1.1",
            "HTTP/x.y",
            "HTTP/２.0",
        ] {
            let line = format!("{method} /v2/ {version}");
            table.add(
                format!("{method} with {version}"),
                lines(&[line.as_bytes(), b"Host: cache"]),
                BAD,
            );
        }
    }
}

fn methods(table: &mut Table) {
    let long = "A".repeat(METHOD_BYTES_MAX);
    for method in [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "CONNECT",
        "PROPFIND",
        "M-SEARCH",
        "get",
        "Get",
        "GETX",
        "G",
        "!#$%&'*+-.^_`|~",
        &long,
    ] {
        let line = format!("{method} /v2/ HTTP/1.1");
        table.add(
            format!("method {method}"),
            lines(&[line.as_bytes(), b"Host: cache"]),
            ONE,
        );
    }
    for method in [
        "G(T", "G@T", "G/T", "\"GET\"", "{GET}", "GÉT", "G\0T", "GET:", "GET,", "[GET]", "G\x7fT", "GE T",
    ] {
        let line = format!("{method} /v2/ HTTP/1.1");
        table.add(
            format!("method {}", show(method.as_bytes())),
            lines(&[line.as_bytes(), b"Host: cache"]),
            BAD,
        );
    }
    for len in [METHOD_BYTES_MAX + 1, 1_024, 20_000, 100_000] {
        let line = format!("{} /v2/ HTTP/1.1", "A".repeat(len));
        let bytes = lines(&[line.as_bytes(), b"Host: cache"]);
        table.add(format!("a method of {len} bytes"), bytes, Expect::Refuse(&[501]));
    }
}

fn targets(table: &mut Table) {
    let good: [&[u8]; 34] = [
        b"/",
        b"//",
        b"//cache/v2/",
        b"/./",
        b"/../",
        b"/v2/../../etc/passwd",
        b"/%2e%2e/",
        b"/%2E%2E%2Fv2/",
        b"/v2/%2f",
        b"/v2/%5c",
        b"/v2/%00",
        b"/v2/%25",
        b"/v2/%0d%0aX:%20y",
        b"/v2/%zz",
        b"/v2/%",
        b"/v2/%f",
        b"/v2/?",
        b"/v2/??",
        b"/v2/?ns=docker.io",
        b"/v2/?ns=a&ns=b",
        b"/v2/?/../",
        b"/?http://other/",
        b"/v2/;a",
        b"/a:b@c",
        b"/http://other/",
        b"/*",
        b"/v2/\\..\\",
        b"/~`!@$^&()[]{}|\"'<>",
        b"http://cache/v2/",
        b"HTTP://CACHE/v2/",
        b"https://cache/v2/",
        b"http://cache",
        b"http://cache?ns=a",
        b"http://cache/?http://other/",
    ];
    let bad: [&[u8]; 30] = [
        b"*",
        b"v2/",
        b"v2",
        b".",
        b"?",
        b"cache",
        b"cache:80",
        b"cache:80/v2/",
        b"http:/v2/",
        b"http:///v2/",
        b"http://",
        b"http://other/v2/",
        b"http://cache.other/v2/",
        b"http://cache:80/v2/",
        b"http://cache:/v2/",
        b"http://user@cache/v2/",
        b"http://cache@other/v2/",
        b"http://cache\\@other/v2/",
        b"ftp://cache/v2/",
        b"unix:///v2/",
        b"://cache/v2/",
        b"/v2/#",
        b"/#/v2/",
        b"http://cache#/v2/",
        b"/v2/?a#b",
        b"/\xc3\xa9",
        b"/\xff",
        b"/v2/\x7f",
        b"/v2/\x01",
        b"/v2/\x1b[0m",
    ];
    for (method, version) in [
        ("GET", "1.1"),
        ("HEAD", "1.1"),
        ("GET", "1.0"),
        ("OPTIONS", "1.1"),
    ] {
        for (list, expect) in [(&good[..], ONE), (&bad[..], BAD)] {
            for target in list {
                let line = [method.as_bytes(), b" ", target, b" HTTP/", version.as_bytes()].concat();
                let name = format!("{method} {} over {version}", show(target));
                table.add(name, lines(&[&line, b"Host: cache"]), expect);
            }
        }
    }
    table.add(
        "absolute-form without Host over 1.0",
        lines(&[b"GET http://cache/v2/ HTTP/1.0"]),
        BAD,
    );
    table.add(
        "absolute-form without Host over 1.1",
        lines(&[b"GET http://cache/v2/ HTTP/1.1"]),
        BAD,
    );
    let with_port = lines(&[b"GET http://cache:8080/v2/ HTTP/1.1", b"Host: Cache:8080"]);
    table.add("absolute-form with a port", with_port, ONE);
    for (len, expect) in [
        (TARGET_BYTES_MAX - 1, ONE),
        (TARGET_BYTES_MAX, ONE),
        (TARGET_BYTES_MAX + 1, Expect::Refuse(&[414])),
        (TARGET_BYTES_MAX + 100, Expect::Refuse(&[414])),
        (HEAD_BYTES_MAX, Expect::Refuse(&[414])),
    ] {
        for (form, start) in [
            ("a path", "/v2/"),
            ("a query", "/v2/?a="),
            ("absolute-form", "http://cache/v2/"),
        ] {
            let target = format!("{start}{}", "a".repeat(len - start.len()));
            let line = format!("GET {target} HTTP/1.1");
            let bytes = lines(&[line.as_bytes(), b"Host: cache"]);
            table.add(format!("a target of {len} bytes, {form}"), bytes, expect);
        }
    }
    table.add(
        "a target without an end",
        [b"GET /", &[b'a'; 10_000][..]].concat(),
        Expect::Refuse(&[414]),
    );
}

fn names(table: &mut Table) {
    let request = b"GET /v2/ HTTP/1.1";
    for name in [
        &b""[..],
        b" ",
        b"\t",
        b"X ",
        b"X\t",
        b" X",
        b"\tX",
        b"X Y",
        b"X(",
        b"X/Y",
        b"X@",
        b"[X]",
        b"X,",
        b"X;",
        b"X=",
        b"{X}",
        b"\"X\"",
        b"X\\",
        b"X\0",
        b"X\x01",
        b"X\x7f",
        b"X\x80",
        b"\xc3\xa9",
        b"X\r",
        b"X\n",
        b"X\x0b",
        b"Content-Length ",
        b"Transfer-Encoding\t",
        b"Host ",
        b"Transfer-Encoding\x0b",
        b"\x0cContent-Length",
    ] {
        let field = [name, b": 0"].concat();
        for (place, head) in [
            ("first", [&request[..], &field, b"Host: cache", b"Accept: */*"]),
            ("middle", [&request[..], b"Host: cache", &field, b"Accept: */*"]),
            ("last", [&request[..], b"Host: cache", b"Accept: */*", &field]),
        ] {
            table.add(format!("name {}, {place}", show(name)), lines(&head), BAD);
        }
    }
    for (len, expect) in [(1_000, ONE), (60_000, ONE), (65_536, Expect::Refuse(&[431]))] {
        let field = [&vec![b'x'; len][..], b": y"].concat();
        table.add(
            format!("a name of {len} bytes"),
            lines(&[request, b"Host: cache", &field]),
            expect,
        );
    }
}

fn values(table: &mut Table) {
    let field = |before: &[u8], middle: &[u8], after: &[u8]| {
        let field = [b"X: ", before, middle, after].concat();
        lines(&[b"GET /v2/ HTTP/1.1", b"Host: cache", &field, b"Accept: */*"])
    };
    // `line_ends` covers CR and LF.
    for control in (0..b' ').chain([0x7f]).filter(|byte| !b"\t\r\n".contains(byte)) {
        for (place, before, after) in [
            ("at the start", "", "b"),
            ("inside", "a", "b"),
            ("at the end", "a", ""),
        ] {
            let bytes = field(before.as_bytes(), &[control], after.as_bytes());
            table.add(format!("control {control:#04x} {place} of a value"), bytes, BAD);
        }
    }
    for text in [
        &b""[..],
        b" ",
        b"\t",
        b" \t ",
        b"a\tb",
        b"\x80",
        b"\xff",
        b"\xc3\xa9",
        b"\xe2\x80\xa8",
        b":",
        b"a: b",
        b"(,;\"\\",
        b"${jndi:ldap://other/a}",
        b"%0d%0aY: z",
        b"<script>",
    ] {
        table.add(format!("value {}", show(text)), field(b"", text, b""), ONE);
    }
    for (len, expect) in [(10_000, ONE), (60_000, ONE), (65_536, Expect::Refuse(&[431]))] {
        table.add(
            format!("a value of {len} bytes"),
            field(b"", &vec![b'x'; len], b""),
            expect,
        );
    }
}

fn hosts(table: &mut Table) {
    let label = "a".repeat(253);
    for host in [
        "cache",
        "CACHE",
        "cache:80",
        "cache:65535",
        "cache.example",
        "cache.example.",
        "my_cache:5000",
        "a-b",
        "127.0.0.1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:8080",
        "[2001:DB8::1]",
        "[::ffff:127.0.0.1]",
        "1",
        &label,
    ] {
        let field = format!("Host: {host}");
        for version in ["1.0", "1.1"] {
            let line = format!("GET /v2/ HTTP/{version}");
            let bytes = lines(&[line.as_bytes(), field.as_bytes()]);
            table.add(
                format!("host {} over {version}", show(host.as_bytes())),
                bytes,
                ONE,
            );
        }
    }
    let too_long = "a".repeat(300);
    for host in [
        "",
        " ",
        "a b",
        "a\tb",
        "a,b",
        "a, b",
        "cache/",
        "cache/v2",
        "cache?",
        "cache#",
        "user@cache",
        "http://cache",
        "cache:",
        "cache:x",
        "cache:-1",
        "cache:+1",
        "cache:0",
        "cache:65536",
        "cache:123456",
        "cache:000080",
        "cache:80:80",
        ":80",
        "[::1",
        "::1",
        "[]",
        "[::1]x",
        "[::1]:",
        "[::1]:x",
        "[1.2.3.4]",
        "[::g]",
        "[::1%25eth0]",
        "[v1.a]",
        "a%2eb",
        "a%00",
        "a\\b",
        "a'b",
        "a;b",
        "a|b",
        "<a>",
        "{a}",
        "a\"b",
        "a`b",
        "$a",
        "é",
        "cache。example",
        &too_long,
    ] {
        let field = format!("Host: {host}");
        for version in ["1.0", "1.1"] {
            let line = format!("GET /v2/ HTTP/{version}");
            let bytes = lines(&[line.as_bytes(), field.as_bytes()]);
            table.add(
                format!("host {} over {version}", show(host.as_bytes())),
                bytes,
                BAD,
            );
        }
    }
    let get = b"GET /v2/ HTTP/1.1";
    table.add("no Host", lines(&[get]), BAD);
    table.add("no Host but X-Host", lines(&[get, b"X-Host: cache"]), BAD);
    table.add(
        "no Host but X-Forwarded-Host",
        lines(&[get, b"X-Forwarded-Host: cache"]),
        BAD,
    );
    for second in [
        "Host: cache",
        "Host: other",
        "host: cache",
        "HOST: cache",
        "Host:",
        "hOsT: other",
    ] {
        for version in ["1.0", "1.1"] {
            let line = format!("GET /v2/ HTTP/{version}");
            let bytes = lines(&[line.as_bytes(), b"Host: cache", b"Accept: */*", second.as_bytes()]);
            table.add(format!("a second {second} over {version}"), bytes, BAD);
        }
    }
}

fn lengths(table: &mut Table) {
    const NAMES: [&str; 3] = ["Content-Length", "content-length", "CONTENT-LENGTH"];
    let digits = "9".repeat(40);
    let zeros = "0".repeat(1_000);
    for (method, version) in [
        ("GET", "1.1"),
        ("HEAD", "1.1"),
        ("GET", "1.0"),
        ("POST", "1.1"),
        ("DELETE", "1.1"),
    ] {
        let line = format!("{method} /v2/ HTTP/{version}");
        let mut add = |fields: &[&str], expect| {
            let mut head = vec![line.as_bytes(), b"Host: cache"];
            head.extend(fields.iter().map(|field| field.as_bytes()));
            let name = format!(
                "{method} over {version} with {}",
                show(fields.join(", ").as_bytes())
            );
            table.add(name, lines(&head), expect);
        };
        for name in NAMES {
            add(&[&format!("{name}: 0")], ONE);
            add(&[&format!("{name}:0")], ONE);
            add(&[&format!("{name}: \t0 \t")], ONE);
            add(&[&format!("{name}: 0"), "content-length: 0"], ONE);
            add(
                &[&format!("{name}: 0"), "Content-Length: 0", "Content-Length: 0"],
                ONE,
            );
        }
        for value in [
            "+5",
            "-1",
            "+0",
            "-0",
            "5,5",
            "5, 6",
            "0,0",
            "0, 0",
            "5;",
            "0x5",
            "0X0",
            "5.0",
            "0.0",
            "5e1",
            "05",
            "00",
            "5 5",
            "0 0",
            "5\t",
            "",
            " ",
            ",",
            "a",
            "５",
            "²",
            "18446744073709551616",
            &digits,
            &zeros,
            "0_0",
            "\"0\"",
            "0\u{a0}",
            "NaN",
        ] {
            // A length followed by white space is valid.
            let expect = if value == "5\t" { announced(method) } else { BAD };
            add(&[&format!("{}: {value}", NAMES[value.len() % 3])], expect);
        }
        for value in ["5", "1", "10", "9223372036854775807", "9223372036854775808"] {
            add(&[&format!("Content-Length: {value}")], announced(method));
            add(
                &[
                    &format!("Content-Length: {value}"),
                    &format!("Content-Length: {value}"),
                ],
                announced(method),
            );
        }
        add(&["Content-Length: 0", "Content-Length: 5"], BAD);
        add(&["Content-Length: 5", "Content-Length: 0"], BAD);
        add(&["Content-Length: 5", "Content-Length: 6"], BAD);
        add(&["Content-Length: 0", "Content-Length: 00"], BAD);
        add(&["Content-Length: 0", "Content-Length:"], BAD);
        add(&["Content-Length: 0", "Content-Length : 0"], BAD);
    }
}

/// Returns the expected result for a well-formed length above zero.
fn announced(method: &str) -> Expect {
    if matches!(method, "GET" | "HEAD") {
        BAD
    } else {
        Expect::Refuse(&[400, 405])
    }
}

fn codings(table: &mut Table) {
    for coding in [
        " chunked",
        "chunked",
        " Chunked",
        " CHUNKED",
        "  chunked",
        " chunked ",
        " chunked,",
        " ,chunked",
        " x,chunked",
        " chunked,x",
        " chunked,chunked",
        " chunked, identity",
        " identity",
        " gzip",
        " gzip, chunked",
        " chunked;q=1",
        " \"chunked\"",
        " xchunked",
        " chunke",
        "",
        " ",
        " ,",
        "\tchunked",
        "\x0bchunked",
        "\x0cchunked",
        " \0chunked",
        " chunked\x0b",
    ] {
        let field = format!("Transfer-Encoding:{coding}");
        for (line, context) in [
            ("GET /v2/ HTTP/1.1", None),
            ("GET /v2/ HTTP/1.0", None),
            ("POST /v2/ HTTP/1.1", None),
            ("GET /v2/ HTTP/1.1", Some("Content-Length: 0")),
            ("POST /v2/ HTTP/1.1", Some("Content-Length: 5")),
        ] {
            let shown = show(coding.as_bytes());
            let with = context.unwrap_or("nothing");
            let mut head = vec![line.as_bytes(), b"Host: cache"];
            head.extend(context.map(str::as_bytes));
            head.push(field.as_bytes());
            table.add(format!("{line}: coding {shown} after {with}"), lines(&head), BAD);
            if let Some(context) = context {
                let head = [
                    line.as_bytes(),
                    b"Host: cache",
                    field.as_bytes(),
                    context.as_bytes(),
                ];
                table.add(format!("{line}: coding {shown} before {with}"), lines(&head), BAD);
            }
        }
    }
    for (first, second) in [
        ("chunked", "identity"),
        ("identity", "chunked"),
        ("chunked", "chunked"),
        ("", "chunked"),
    ] {
        for name in ["Transfer-Encoding", "transfer-encoding", "TRANSFER-ENCODING"] {
            let fields = [format!("{name}: {first}"), format!("Transfer-Encoding: {second}")];
            let head = [
                b"GET /v2/ HTTP/1.1",
                &b"Host: cache"[..],
                fields[0].as_bytes(),
                fields[1].as_bytes(),
            ];
            table.add(format!("{name} {first} and {second}"), lines(&head), BAD);
        }
    }
}

fn expectations(table: &mut Table) {
    let refused = Expect::Refuse(&[417]);
    for version in ["1.0", "1.1"] {
        for method in ["GET", "HEAD", "PUT"] {
            let line = format!("{method} /v2/ HTTP/{version}");
            for value in [
                "100-continue",
                "100-Continue",
                "",
                "200-ok",
                "100-continue, x",
                "x=y;z",
            ] {
                let field = format!("Expect: {value}");
                let head = [line.as_bytes(), b"Host: cache", field.as_bytes()];
                table.add(format!("{line} expects {value}"), lines(&head), refused);
            }
            let head = [
                line.as_bytes(),
                b"Host: cache",
                b"Expect: 100-continue",
                b"expect: 100-continue",
            ];
            table.add(format!("{line} expects twice"), lines(&head), refused);
        }
    }
}

/// Adds pairs of requests, the first with these options. Checks whether both are answered.
fn connections(table: &mut Table) {
    for (version, fields, expect) in [
        ("1.1", &[][..], TWO),
        ("1.1", &["Connection: keep-alive"], TWO),
        ("1.1", &["Connection:"], TWO),
        ("1.1", &["Connection: ,"], TWO),
        ("1.1", &["Connection: closed"], TWO),
        ("1.1", &["Connection: not-close"], TWO),
        ("1.1", &["Connection: Authorization"], TWO),
        ("1.1", &["Connection: keep-alive, Authorization"], TWO),
        ("1.1", &["Connection: Host"], TWO),
        ("1.1", &["Proxy-Connection: close"], TWO),
        ("1.1", &["Keep-Alive: timeout=0"], TWO),
        ("1.1", &["Connection: close"], ONE),
        ("1.1", &["connection: Close"], ONE),
        ("1.1", &["CONNECTION: CLOSE"], ONE),
        ("1.1", &["Connection:\tclose\t"], ONE),
        ("1.1", &["Connection: ,close,"], ONE),
        ("1.1", &["Connection: x,close"], ONE),
        ("1.1", &["Connection: close, keep-alive"], ONE),
        ("1.1", &["Connection: keep-alive, close"], ONE),
        ("1.1", &["Connection: close, keep-alive, Authorization"], ONE),
        ("1.1", &["Connection: keep-alive", "Connection: close"], ONE),
        ("1.1", &["Connection: close", "Connection: keep-alive"], ONE),
        ("1.1", &["Connection: close", "Connection: close"], ONE),
        ("1.0", &[], ONE),
        ("1.0", &["Connection: close"], ONE),
        ("1.0", &["Connection: x"], ONE),
        ("1.0", &["Connection: keep-alives"], ONE),
        ("1.0", &["Proxy-Connection: keep-alive"], ONE),
        ("1.0", &["Keep-Alive: timeout=5"], ONE),
        ("1.0", &["Connection: keep-alive, close"], ONE),
        ("1.0", &["Connection: keep-alive", "Connection: close"], ONE),
        ("1.0", &["Connection: keep-alive"], TWO),
        ("1.0", &["Connection: Keep-Alive"], TWO),
        ("1.0", &["connection: x, KEEP-ALIVE"], TWO),
        ("1.0", &["Connection: x", "Connection: keep-alive"], TWO),
    ] {
        let line = format!("GET /v2/ HTTP/{version}");
        let mut head = vec![line.as_bytes(), b"Host: cache"];
        head.extend(fields.iter().map(|field| field.as_bytes()));
        let mut bytes = lines(&head);
        bytes.extend_from_slice(GOOD);
        table.add(format!("{version} with {}", fields.join(" and ")), bytes, expect);
    }
}

fn bounds(table: &mut Table) {
    let too_much = Expect::Refuse(&[431]);
    for (count, expect) in [
        (FIELDS_MAX - 1, ONE),
        (FIELDS_MAX, ONE),
        (FIELDS_MAX + 1, too_much),
        (1_000, too_much),
    ] {
        let mut head = vec![&b"GET /v2/ HTTP/1.1"[..], b"Host: cache"];
        head.resize(1 + count, b"X: y");
        table.add(format!("{count} fields"), lines(&head), expect);
    }
    for (len, expect) in [
        (HEAD_BYTES_MAX - 1, ONE),
        (HEAD_BYTES_MAX, ONE),
        (HEAD_BYTES_MAX + 1, too_much),
        (HEAD_BYTES_MAX + 2, too_much),
        (1 << 20, too_much),
    ] {
        let rest = len - GOOD.len() - b"X: \r\n".len();
        let field = [b"X: ", &vec![b'x'; rest][..]].concat();
        let bytes = lines(&[b"GET /v2/ HTTP/1.1", b"Host: cache", &field]);
        assert_eq!(bytes.len(), len);
        table.add(format!("a head of {len} bytes"), bytes, expect);
    }
    let endless = [&GOOD[..GOOD.len() - 2], b"X: ", &vec![b'x'; HEAD_BYTES_MAX][..]].concat();
    table.add("a field without an end", endless, too_much);
    table.add("a thousand empty lines", b"\r\n".repeat(1_000), BAD);
    table.add("a thousand line feeds", b"\n".repeat(1_000), BAD);
    let many = GOOD.repeat(100);
    table.add(
        "a hundred requests in one write",
        many,
        Expect::Accept { responses: 100 },
    );
}

/// Adds cases for invalid requests on a used connection. The result must match the result on a
/// fresh connection.
fn after_a_good_one(table: &mut Table) {
    for Case { name, bytes, expect } in CASES {
        if let Expect::Refuse(statuses) = *expect {
            // After a request, the parser also skips an empty line.
            let both = [GOOD, bytes].concat();
            table.add(
                format!("a valid request, then {name}"),
                both,
                Expect::RefuseAfter {
                    responses: 1,
                    statuses,
                },
            );
        }
    }
}
