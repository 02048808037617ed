//! Measures the cost of request parsing, in nanoseconds per operation, best of several rounds.
//! Usage: `cargo bench --bench parse`.

use std::hint::black_box;
use std::time::Instant;

use oci_pull_through::http::{Fields, date::http_date, parse_range};
use oci_pull_through::server::h1::encode;
use oci_pull_through::server::h1::parse::parse_head;

const ROUNDS: usize = 12;
const OPERATIONS: u32 = 100_000;

/// A containerd request for a layer, with a token.
const TYPICAL: &[u8] = b"GET /v2/library/alpine/blobs/sha256:\
    b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c?ns=docker.io HTTP/1.1\r\n\
    Host: cache.internal:8080\r\n\
    User-Agent: containerd/2.0.2\r\n\
    Accept: application/vnd.oci.image.layer.v1.tar+gzip, */*\r\n\
    Accept-Encoding: zstd;q=1.0, gzip;q=0.8, deflate;q=0.5\r\n\
    Authorization: Bearer eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.e30.c2lnbmF0dXJl\r\n\
    Range: bytes=0-1048575\r\n\
    X-Request-Id: 0123456789abcdef\r\n\
    Connection: keep-alive\r\n\r\n";

/// The shortest possible request.
const SHORT: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n";

fn main() {
    measure("parse_head, 8 fields, 450 bytes", || {
        black_box(parse_head(black_box(TYPICAL), &mut 0)).expect("the head is well-formed");
    });
    measure("parse_head, 1 field", || {
        black_box(parse_head(black_box(SHORT), &mut 0)).expect("the head is well-formed");
    });
    measure("accept(), 8 fields", {
        let (head, _) = parse_head(TYPICAL, &mut 0)
            .expect("the head is well-formed")
            .expect("the head is complete");
        move || {
            black_box(black_box(&head).accept().count());
        }
    });
    measure("parse_range, one", || {
        black_box(parse_range(black_box("bytes=0-1048575"), black_box(1 << 30)));
    });
    measure("http_date", || {
        black_box(http_date(black_box(1_790_000_000)));
    });
    let mut out = Vec::with_capacity(1_024);
    let fields = Fields::new()
        .with("Content-Type", "application/octet-stream")
        .with(
            "ETag",
            "\"sha256:b5bb9d8014a0f9b1d61e21e796d78dccdf1352f23cd32812f4850b878ae4944c\"",
        )
        .with("Accept-Ranges", "bytes")
        .with("Cache-Control", "public, max-age=31536000, immutable")
        .with("X-Cache", "HIT");
    measure("begin and content_length, 5 fields", || {
        out.clear();
        encode::begin(
            &mut out,
            200,
            black_box(784_111_777),
            black_box(fields.as_bytes()),
        );
        encode::content_length(&mut out, black_box(1_048_576));
        black_box(&out);
    });
}

fn measure(name: &str, mut operation: impl FnMut()) {
    let best = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..OPERATIONS {
                operation();
            }
            start.elapsed().as_nanos() as f64 / f64::from(OPERATIONS)
        })
        .fold(f64::INFINITY, f64::min);
    println!("{name:<34} {best:>8.1} ns");
}
