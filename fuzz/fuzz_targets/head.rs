//! Parses arbitrary bytes as the client's side of a connection. Usage:
//! `cargo +nightly fuzz run head`.
//!
//! Detects panics, verdicts that depend on the fragmentation of the bytes, and accepted heads that
//! another parser would interpret differently.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_pull_through::http::{Ranges, Version, conditional, parse_range};
use oci_pull_through::server::h1::parse::{FIELDS_MAX, HEAD_BYTES_MAX, HeadError, parse_head};

fuzz_target!(|input: &[u8]| {
    let Some((&step, bytes)) = input.split_first() else {
        return;
    };
    let whole = serve(bytes, bytes.len().max(1));
    assert_eq!(
        serve(bytes, usize::from(step).max(1)),
        whole,
        "the result does not depend on the cuts"
    );
});

/// Returns the number of heads, and the outcome of the connection.
fn serve(bytes: &[u8], step: usize) -> (usize, Result<(), HeadError>) {
    let (mut from, mut to, mut heads, mut scanned) = (0, 0, 0, 0);
    loop {
        match parse_head(&bytes[from..to], &mut scanned) {
            Err(error) => {
                assert!((400..600).contains(&error.status()) && !error.reason().is_empty());
                return (heads, Err(error));
            }
            Ok(Some((head, len))) => {
                check(&bytes[from..from + len], &head);
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

/// Checks the guarantees for an accepted head, independently of the parser.
fn check(bytes: &[u8], head: &oci_pull_through::http::RequestHead<'_>) {
    assert!(bytes.len() <= HEAD_BYTES_MAX && bytes.ends_with(b"\r\n\r\n"));
    let lines: Vec<&[u8]> = split_crlf(bytes.strip_prefix(b"\r\n").unwrap_or(bytes));
    // Every line ends with CRLF, and the only empty line is at the end.
    assert!(
        lines
            .iter()
            .all(|line| !line.iter().any(|byte| b"\r\n\0".contains(byte)))
    );
    assert!(lines[..lines.len() - 2].iter().all(|line| !line.is_empty()));
    assert!(head.path.starts_with('/') && head.target.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(head.host.is_some() || head.version == Version::Http10);

    let fields: Vec<_> = head.headers().collect();
    assert_eq!(fields.len(), lines.len() - 3);
    assert!(fields.len() <= FIELDS_MAX);
    let count = |name: &str| {
        fields
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .count()
    };
    assert!(count("Host") <= 1 && count("Authorization") <= 1);
    assert!(count("Transfer-Encoding") + count("Expect") == 0);
    let is_length = |name: &str| name.eq_ignore_ascii_case("Content-Length");
    assert!(
        fields
            .iter()
            .all(|(name, value)| !is_length(name) || *value == b"0")
    );

    let _ = head.accept().count();
    let _ = conditional::if_none_match(head.if_none_match(), "\"sha256:00\"");
    if let Some(range) = head.range {
        for size in [0, 1, 1_000, u64::MAX] {
            if let Ranges::Many(spans) = parse_range(range, size) {
                assert!(
                    spans.len() > 1 && spans.iter().all(|span| span.start < span.end && span.end <= size)
                );
            }
        }
    }
}

fn split_crlf(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        lines.push(&rest[..end]);
        rest = &rest[end + 2..];
    }
    lines.push(rest);
    lines
}
