//! HTTP/1.1 exchanges between clients and the server. The server rejects invalid requests and
//! closes the connection, answers valid requests in order, and ends every response at its declared
//! length.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::corpus::{self, Case, Expect};
use crate::harness::client::{Why, request_bytes};
use crate::harness::*;

/// Concurrent connections. On two cores, more connections would only queue.
const DRIVERS: usize = 32;

/// The server reads and discards up to this number of bytes after a rejection. Further bytes cause
/// a reset.
const LINGER_BYTES: usize = 64 * 1024;

/// Long enough for the server to read the previous piece on nearly every run. No event signals the
/// read.
const BETWEEN_PIECES: Duration = Duration::from_micros(700);

const SMUGGLED: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: cache\r\n\r\n";
const HEALTHY: &[u8] = b"ok\n";

/// Returns the corpus without cases that begin like HTTP/2. The parser rejects such cases, but on
/// the wire the server speaks HTTP/2.
fn cases() -> Vec<Case> {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let mut cases = corpus::cases();
    cases.retain(|case| {
        case.bytes.is_empty() || !(case.bytes.starts_with(PREFACE) || PREFACE.starts_with(&case.bytes))
    });
    cases
}

/// Runs `check` for every item with concurrent threads. The first panic fails the test.
fn for_all<T: Sync>(items: &[T], check: impl Fn(usize, &T) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..DRIVERS {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    check(index, item);
                }
            });
        }
    });
}

/// Sends the pieces on a fresh connection and shuts down the sending direction. Returns all
/// responses and the kind of close.
fn exchange(cache: &Server, pieces: &[&[u8]]) -> Result<(Vec<Response>, Why), Broken> {
    let mut connection = cache.client().open();
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            std::thread::sleep(BETWEEN_PIECES);
        }
        // A server that rejected the request may already have closed.
        let _ = connection.send(piece);
    }
    connection.finish_sending();
    let sent = pieces.concat();
    let mut responses = Vec::new();
    loop {
        match connection.read("GET") {
            Ok(response) => responses.push(response),
            Err(Broken {
                why: why @ (Why::NoResponse | Why::Reset),
                head: None,
                ..
            }) => return Ok((responses, why)),
            // In the corpus, HEAD is always the last request of a case. Its response has a head and
            // no body.
            Err(Broken {
                why: Why::Truncated,
                head: Some(head),
                received: 0,
                ..
            }) if memchr::memmem::find(&sent, b"HEAD ").is_some() => {
                responses.push(*head);
                return Ok((responses, Why::NoResponse));
            }
            Err(broken) => return Err(broken),
        }
    }
}

/// Fails unless the responses to `pieces` match `case`. `how` describes the variant for the failure
/// message.
fn check(cache: &Server, case: &Case, how: &str, pieces: &[&[u8]]) {
    let fail = |what: String| -> ! {
        let bytes = pieces.concat();
        let shown = bytes[..bytes.len().min(400)].escape_ascii();
        panic!("case `{}`, {how}: {what}\n{shown}", case.name)
    };
    let (responses, end) = exchange(cache, pieces)
        .unwrap_or_else(|broken| fail(format!("not a strictly valid response: {broken:?}")));
    let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
    let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
    if end == Why::Reset && bytes <= LINGER_BYTES {
        fail(format!("reset after {statuses:?}"));
    }
    let refused = |before: usize, allowed: &[u16]| {
        if statuses.len() != before + 1 || !allowed.contains(&statuses[before]) {
            fail(format!(
                "statuses {statuses:?}; expected {before} responses and one of {allowed:?}"
            ));
        }
        let refusal = &responses[before];
        if !refusal
            .field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            fail(format!("a rejection without `Connection: close`: {refusal}"));
        }
    };
    match case.expect {
        Expect::Accept { responses: count } => {
            if statuses.len() != count {
                fail(format!("statuses {statuses:?}; expected {count} responses"));
            }
            if let Some(status) = statuses.iter().find(|&&status| status >= 500) {
                fail(format!("an accepted request has the status {status}"));
            }
        }
        Expect::Refuse(allowed) => refused(0, allowed),
        Expect::RefuseAfter {
            responses: before,
            statuses: allowed,
        } => refused(before, allowed),
        Expect::Incomplete => {
            if !statuses.is_empty() {
                fail(format!("an incomplete request has the responses {statuses:?}"));
            }
        }
    }
}

#[test]
fn corpus_requests_get_the_expected_result_whole_and_in_two_pieces() {
    let mut random = Random::for_test("corpus");
    let cases: Vec<(Case, usize)> = cases()
        .into_iter()
        .map(|case| {
            let cut = random.below(case.bytes.len() as u64 + 1) as usize;
            (case, cut)
        })
        .collect();
    assert!(cases.len() > 1_500, "{}", cases.len());
    let cache = Server::bare().cores(2).env("ACCESS_LOG", false).start();
    for_all(&cases, |_, (case, cut)| {
        check(&cache, case, "whole", &[&case.bytes]);
        let (first, second) = case.bytes.split_at(*cut);
        check(&cache, case, &format!("cut at {cut}"), &[first, second]);
    });
    assert_eq!(cache.client().get("/healthz").status, 200);
}

#[test]
fn requests_after_a_rejected_request_are_never_answered() {
    let cases = cases();
    let refused: Vec<&Case> = cases
        .iter()
        .filter(|case| matches!(case.expect, Expect::Refuse(_) | Expect::RefuseAfter { .. }))
        .collect();
    assert!(refused.len() > 500, "{}", refused.len());
    let cache = Server::bare().cores(2).env("ACCESS_LOG", false).start();
    for_all(&refused, |index, case| {
        // Sends both requests together, or the second after the rejection may have been sent.
        let pieces: &[&[u8]] = if index % 2 == 0 {
            &[&[&case.bytes, SMUGGLED].concat()]
        } else {
            &[&case.bytes, SMUGGLED]
        };
        let (responses, _) =
            exchange(&cache, pieces).unwrap_or_else(|broken| panic!("case `{}`: {broken:?}", case.name));
        assert!(
            responses.iter().all(|response| response.body != HEALTHY),
            "case `{}`: the second request has a response",
            case.name
        );
        check(&cache, case, "followed by a request", pieces);
    });
}

#[test]
fn an_invalid_request_is_rejected_if_split_within_its_first_bytes() {
    /// Within these bytes, the server can recognize an invalid request line or another protocol.
    const CUTS: usize = 12;
    let cases = cases();
    let cut: Vec<(&Case, usize)> = cases
        .iter()
        .filter(|case| matches!(case.expect, Expect::Refuse(_)))
        .flat_map(|case| (1..CUTS.min(case.bytes.len())).map(move |cut| (case, cut)))
        .collect();
    assert!(cut.len() > 5_000, "{}", cut.len());
    let cache = Server::bare().cores(2).env("ACCESS_LOG", false).start();
    for_all(&cut, |_, (case, cut)| {
        let (first, second) = case.bytes.split_at(*cut);
        check(&cache, case, &format!("cut at {cut}"), &[first, second]);
    });
}

/// All sources of responses, with the expected content.
struct Fixture {
    upstream: Registry,
    cache: Server,
    /// A content per kind of hit: from memory, by sendfile, by splice.
    contents: [(&'static str, PseudoRandom); 3],
    image: Image,
}

impl Fixture {
    fn set() -> Self {
        let upstream = Registry::new();
        let cache = Server::options(&upstream)
            .cores(2)
            .env("ACCESS_LOG", false)
            .start();
        let contents = [
            ("memory", PseudoRandom::new(fresh_seed(), 9_000)),
            ("sendfile", PseudoRandom::new(fresh_seed(), 90_000)),
            ("splice", PseudoRandom::new(fresh_seed(), 1_200_000)),
        ];
        let client = cache.client();
        for (_, content) in &contents {
            let path = upstream.blob_url("a", &upstream.blob(content.clone()));
            client.pull(&path, content);
            cache.wait_stored(&content.digest());
            wait_hit(&cache, &path);
        }
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        client
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&image.manifest);
        cache.wait_stored(&image.digest);
        Fixture {
            upstream,
            cache,
            contents,
            image,
        }
    }

    fn path(&self, content: &PseudoRandom) -> String {
        self.upstream.blob_url("a", &content.digest())
    }
}

/// Returns the body, with the multipart boundary replaced. The boundary changes every second.
fn comparable(response: &Response) -> Vec<u8> {
    let kind = response.field("content-type").unwrap_or_default();
    match kind.split_once("boundary=") {
        Some((_, boundary)) => String::from_utf8_lossy(&response.body)
            .replace(boundary, "boundary")
            .into_bytes(),
        None => response.body.clone(),
    }
}

/// A request and its expected response.
struct Exchange {
    method: &'static str,
    bytes: Vec<u8>,
    status: u16,
    /// The value of `Content-Length`. `None` for a 304.
    length: Option<u64>,
    body: Vec<u8>,
}

fn exchanges(fixture: &Fixture) -> Vec<Exchange> {
    let mut all = Vec::new();
    let mut add = |method: &'static str, path: &str, fields: &[(&str, &str)], status, body: &[u8]| {
        let silent = method == "HEAD" || status == 304;
        all.push(Exchange {
            method,
            bytes: request_bytes(method, path, fields),
            status,
            length: (status != 304).then_some(body.len() as u64),
            body: if silent { Vec::new() } else { body.to_vec() },
        });
    };
    add("GET", "/v2/", &[], 200, b"{}");
    add("GET", "/v2/", &[("Content-Length", "0")], 200, b"{}");
    add("HEAD", "/v2/", &[], 200, b"{}");
    add("GET", "/healthz", &[], 200, HEALTHY);
    for path in [
        fixture.upstream.manifest_url("a", "v1"),
        fixture.upstream.manifest_url("a", &fixture.image.digest),
    ] {
        add("GET", &path, &[], 200, &fixture.image.manifest);
        add("HEAD", &path, &[], 200, &fixture.image.manifest);
    }
    for (_, content) in &fixture.contents {
        let (path, bytes) = (fixture.path(content), content.bytes());
        let etag = format!("\"{}\"", content.digest());
        add("GET", &path, &[], 200, &bytes);
        add("HEAD", &path, &[], 200, &bytes);
        add("GET", &path, &[("Range", "bytes=5-499")], 206, &bytes[5..500]);
        add(
            "GET",
            &path,
            &[("Range", "bytes=-700")],
            206,
            &bytes[bytes.len() - 700..],
        );
        add("GET", &path, &[("If-None-Match", &etag)], 304, b"");
    }
    // Other tests check the content of errors and multi-range responses. Here the content must only
    // be equal.
    let blob = fixture.path(&fixture.contents[1].1);
    for (method, path, fields) in [
        ("GET", "/v2/a/blobs/sha256:0", &[][..]),
        ("GET", "/nowhere", &[]),
        ("DELETE", "/v2/a/manifests/v1", &[]),
        ("GET", &blob, &[("Range", "bytes=99999999-")]),
        ("GET", &blob, &[("Range", "bytes=0-9,50-99,-5")]),
    ] {
        let alone = fixture.cache.client().request(method, path, fields);
        all.push(Exchange {
            method,
            bytes: request_bytes(method, path, fields),
            status: alone.status,
            length: alone.content_length(),
            body: comparable(&alone),
        });
    }
    all
}

#[test]
fn pipelined_requests_are_answered_in_order_up_to_the_invalid_request() {
    const SEQUENCES: usize = 2_000;
    const LENGTH_MAX: u64 = 10;
    let fixture = Fixture::set();
    let exchanges = exchanges(&fixture);
    let refusals: Vec<Case> = cases()
        .into_iter()
        .filter(|case| matches!(case.expect, Expect::Refuse(_)) && case.bytes.len() <= 2_000)
        // After a request, the parser skips an empty line. Cases that begin with empty lines could
        // thus change their meaning.
        .filter(|case| !case.bytes.starts_with(b"\r\n"))
        .collect();
    let mut random = Random::for_test("pipelining");
    let seeds: Vec<u64> = (0..SEQUENCES).map(|_| random.next()).collect();
    for_all(&seeds, |index, &seed| {
        let mut random = Random::new(seed);
        let count = random.below(LENGTH_MAX) + 1;
        let sequence: Vec<&Exchange> = (0..count).map(|_| random.pick(&exchanges)).collect();
        let refusal = random.pick(&refusals);
        let mut bytes = sequence
            .iter()
            .flat_map(|one| &one.bytes)
            .copied()
            .collect::<Vec<u8>>();
        bytes.extend_from_slice(&refusal.bytes);
        bytes.extend_from_slice(SMUGGLED);
        let mut connection = fixture.cache.client().open();
        if random.chance(3) {
            let (first, second) = bytes.split_at(random.below(bytes.len() as u64) as usize);
            connection.send(first).unwrap();
            std::thread::sleep(BETWEEN_PIECES);
            let _ = connection.send(second);
        } else {
            connection.send(&bytes).unwrap();
        }
        connection.finish_sending();
        for (place, one) in sequence.iter().enumerate() {
            let at = || {
                format!(
                    "sequence {index}, seed {seed}, response {place} to {}",
                    one.bytes.escape_ascii()
                )
            };
            let got = connection
                .read(one.method)
                .unwrap_or_else(|broken| panic!("{}: {broken:?}", at()));
            assert_eq!(got.status, one.status, "{}", at());
            assert_eq!(got.content_length(), one.length, "{}", at());
            assert!(comparable(&got) == one.body, "{}: wrong body: {got}", at());
        }
        let Expect::Refuse(allowed) = refusal.expect else {
            unreachable!("the filter keeps only rejected cases")
        };
        let got = connection
            .read("GET")
            .unwrap_or_else(|broken| panic!("sequence {index}, `{}`: {broken:?}", refusal.name));
        assert!(
            allowed.contains(&got.status),
            "sequence {index}, `{}`: {got}",
            refusal.name
        );
        let (rest, why) = connection.read_to_close();
        assert!(
            rest.is_empty() && why == Why::Truncated,
            "sequence {index}, `{}`: {why:?}, {}",
            refusal.name,
            rest.escape_ascii()
        );
    });
}

/// Name, extra request field, status, body.
type LastAnswer = (&'static str, Option<(&'static str, String)>, u16, Vec<u8>);

/// Returns the kinds of response that a connection can end with.
fn last_answers(content: &PseudoRandom) -> Vec<LastAnswer> {
    let bytes = content.bytes();
    let end = bytes.len() - 1;
    vec![
        ("whole", None, 200, bytes.clone()),
        (
            "range",
            Some(("Range", format!("bytes=1-{end}"))),
            206,
            bytes[1..].to_vec(),
        ),
        (
            "not modified",
            Some(("If-None-Match", format!("\"{}\"", content.digest()))),
            304,
            Vec::new(),
        ),
    ]
}

fn raw_request(method: &str, path: &str, version: &str, fields: &[(&str, &str)]) -> Vec<u8> {
    let bytes = request_bytes(method, path, fields);
    let text = String::from_utf8(bytes).expect("ASCII");
    text.replacen("HTTP/1.1", version, 1).into_bytes()
}

/// Returns the body without multipart boundaries, because boundaries change every second.
fn without_boundary(response: &Response) -> Vec<u8> {
    let kind = response.field("content-type").unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=") else {
        return response.body.clone();
    };
    let mut body = Vec::new();
    let mut rest = &response.body[..];
    while let Some(at) = memchr::memmem::find(rest, boundary.as_bytes()) {
        body.extend_from_slice(&rest[..at]);
        rest = &rest[at + boundary.len()..];
    }
    body.extend_from_slice(rest);
    body
}

#[test]
fn a_connection_is_kept_or_closed_as_requested_for_every_response_source() {
    let fixture = Fixture::set();
    for (kind, content) in &fixture.contents {
        let path = fixture.path(content);
        for (answer, field, status, body) in last_answers(content) {
            for (version, connection, kept) in [
                ("HTTP/1.1", None, true),
                ("HTTP/1.1", Some("keep-alive"), true),
                ("HTTP/1.1", Some("close"), false),
                ("HTTP/1.0", None, false),
                ("HTTP/1.0", Some("close"), false),
                ("HTTP/1.0", Some("keep-alive"), true),
            ] {
                for method in ["GET", "HEAD"] {
                    let at = format!("{method} {kind} {answer} {version} {connection:?}");
                    let mut fields: Vec<(&str, &str)> = Vec::new();
                    fields.extend(field.iter().map(|(name, value)| (*name, value.as_str())));
                    fields.extend(connection.map(|value| ("Connection", value)));
                    let mut client = fixture.cache.client().open();
                    client
                        .send(&raw_request(method, &path, version, &fields))
                        .unwrap();
                    client.send(SMUGGLED).unwrap();
                    let got = client
                        .read(method)
                        .unwrap_or_else(|broken| panic!("{at}: {broken:?}"));
                    // Ranges apply only to GET. HEAD describes the complete content.
                    let expected = if method == "HEAD" && status == 206 {
                        200
                    } else {
                        status
                    };
                    assert_eq!(got.status, expected, "{at}: {got}");
                    if method == "GET" {
                        assert!(got.body == body, "{at}: wrong body");
                    }
                    let said = got.field("connection").map(str::to_ascii_lowercase);
                    if kept {
                        assert_ne!(said.as_deref(), Some("close"), "{at}");
                        if version == "HTTP/1.0" {
                            assert_eq!(said.as_deref(), Some("keep-alive"), "{at}");
                        }
                        client.read("GET").unwrap().expect(HEALTHY);
                    } else {
                        assert_eq!(said.as_deref(), Some("close"), "{at}");
                        assert_eq!(client.read_to_close(), (Vec::new(), Why::Truncated), "{at}");
                    }
                }
            }
        }
    }
    // Multi-range responses and errors.
    for (version, connection) in [("HTTP/1.0", "x"), ("HTTP/1.1", "close"), ("HTTP/1.1", "x, CLOSE")] {
        for (path, range, status) in [
            (fixture.path(&fixture.contents[1].1), "bytes=0-9,50-99,-5", 206),
            (fixture.path(&fixture.contents[2].1), "bytes=0-9,5000-900000", 206),
            (fixture.path(&fixture.contents[2].1), "bytes=9999999-", 416),
            ("/v2/a/blobs/sha256:0".into(), "bytes=0-", 400),
        ] {
            let reference = fixture.cache.client().get_with(&path, &[("Range", range)]);
            assert_eq!(reference.status, status, "{path}: {reference}");
            let mut client = fixture.cache.client().open();
            let fields = [("Range", range), ("Connection", connection)];
            client.send(&raw_request("GET", &path, version, &fields)).unwrap();
            client.send(SMUGGLED).unwrap();
            let got = client.read("GET").unwrap();
            assert_eq!(
                (got.status, without_boundary(&got)),
                (status, without_boundary(&reference)),
                "{path} {version}"
            );
            assert_eq!(
                client.read_to_close(),
                (Vec::new(), Why::Truncated),
                "{path} {version}"
            );
        }
    }
}

#[test]
fn a_connection_is_kept_or_closed_as_requested_after_a_fill() {
    for framing in [Framing::Length, Framing::Chunked] {
        for (version, connection, kept) in [
            ("HTTP/1.1", "x", true),
            ("HTTP/1.1", "close", false),
            ("HTTP/1.0", "x", false),
            // HTTP/1.0 has no chunks, so the end of the connection ends a body of unknown length.
            ("HTTP/1.0", "keep-alive", framing == Framing::Length),
        ] {
            let at = format!("{framing:?} {version} {connection}");
            let upstream = Registry::new();
            let cache = Server::start(&upstream);
            let content = PseudoRandom::new(fresh_seed(), 2_500_000);
            let digest = upstream.blob(content.clone());
            let gate = Gate::new();
            upstream.on(
                On::path(&digest),
                Reply::new().framing(framing).hold_at(1_800_000, &gate),
            );
            let path = upstream.blob_url("a", &digest);
            let mut client = cache.client().open();
            client
                .send(&raw_request("GET", &path, version, &[("Connection", connection)]))
                .unwrap();
            client.send(SMUGGLED).unwrap();
            // The response begins while the fill is blocked, so the response is not a hit.
            let head = client.read_head().unwrap_or_else(|why| panic!("{at}: {why:?}"));
            assert_eq!(head.status, 200, "{at}: {head}");
            let chunked = head.field("transfer-encoding").is_some();
            assert_eq!(
                chunked,
                framing == Framing::Chunked && version == "HTTP/1.1",
                "{at}: {head}"
            );
            gate.open();
            let mut body = Vec::new();
            let got = client.read_body(head, "GET", &mut |_, piece| {
                body.extend_from_slice(piece);
                client::Flow::Go
            });
            got.unwrap_or_else(|broken| panic!("{at}: {broken:?}"));
            assert!(body == content.bytes(), "{at}: {} bytes", body.len());
            if kept {
                client.read("GET").unwrap().expect(HEALTHY);
            } else {
                let (rest, why) = client.read_to_close();
                assert!(rest.is_empty(), "{at}: {}", rest.escape_ascii());
                assert_eq!(why, Why::Truncated, "{at}");
            }
        }
    }
}

#[test]
fn pipelined_head_and_get_are_answered_in_request_order() {
    let fixture = Fixture::set();
    let mut random = Random::for_test("HEAD before GET");
    for (kind, content) in &fixture.contents {
        let path = fixture.path(content);
        let methods: Vec<&str> = std::iter::once("HEAD")
            .chain((0..7).map(|_| *random.pick(&["HEAD", "GET"])))
            .chain(["GET"])
            .collect();
        let mut client = fixture.cache.client().open();
        let bytes: Vec<u8> = methods
            .iter()
            .flat_map(|method| request_bytes(method, &path, &[]))
            .collect();
        client.send(&bytes).unwrap();
        for method in &methods {
            let got = client
                .read(method)
                .unwrap_or_else(|broken| panic!("{kind} {methods:?}: {broken:?}"));
            assert_eq!(got.content_length(), Some(content.size), "{kind}: {got}");
            assert!(*method == "HEAD" || got.body == content.bytes(), "{kind}");
        }
        assert!(client.extra().is_empty(), "{kind}");
    }
    // The first response comes from a fill. The second is a follower or a hit.
    let fresh = PseudoRandom::new(fresh_seed(), 1_500_000);
    let path = fixture
        .upstream
        .blob_url("a", &fixture.upstream.blob(fresh.clone()));
    let mut client = fixture.cache.client().open();
    client
        .send(
            &[
                request_bytes("HEAD", &path, &[]),
                request_bytes("GET", &path, &[]),
            ]
            .concat(),
        )
        .unwrap();
    assert_eq!(client.read("HEAD").unwrap().content_length(), Some(fresh.size));
    client.read("GET").unwrap().expect(&fresh.bytes());
}

/// Runs a real client. Returns its success and output. If the client is missing, prints a message
/// and returns `None`.
fn real_client(program: &str, args: &[&str]) -> Option<(bool, String)> {
    match std::process::Command::new(program).args(args).output() {
        Ok(output) => {
            let text = [output.stdout, output.stderr].concat();
            Some((
                output.status.success(),
                String::from_utf8_lossy(&text).into_owned(),
            ))
        }
        Err(error) => {
            eprintln!("SKIPPED: an aborted fill seen by {program}: {error}");
            None
        }
    }
}

const PYTHON: &str = "
import http.client, sys
c = http.client.HTTPConnection(sys.argv[1], timeout=60)
c.request('GET', sys.argv[2])
r = c.getresponse()
assert r.status == 200, r.status
r.read()
";

#[test]
fn a_fill_that_breaks_is_an_error_for_every_real_client() {
    const SIZE: u64 = 2_500_000;
    let upstream = Registry::new();
    // Skopeo does not support a port inside a repository name.
    let cache = Server::options(&upstream)
        .registry("upstream.test", upstream.addr())
        .start();
    let addr = cache.addr().to_string();
    let broken: [(&str, Reply); 5] = [
        ("a cut with FIN", Reply::new().cut_at(1_500_000, Cut::Fin)),
        ("a cut with RST", Reply::new().cut_at(1_500_000, Cut::Rst)),
        (
            "chunks that end early",
            Reply::new()
                .framing(Framing::Chunked)
                .cut_at(1_500_000, Cut::LastChunk),
        ),
        ("a wrong byte", Reply::new().flip(SIZE / 2)),
        (
            "a wrong byte in chunks",
            Reply::new().framing(Framing::Chunked).flip(SIZE - 1),
        ),
    ];
    for (number, (how, reply)) in broken.into_iter().enumerate() {
        upstream.clear_rules();
        let layer = PseudoRandom::new(fresh_seed(), SIZE);
        let tag = format!("v{number}");
        Image::push(&upstream, "a", &tag, Flavor::Oci, &[layer.clone().into()]);
        let path = format!("/v2/upstream.test/a/blobs/{}", layer.digest());
        let url = format!("http://{addr}{path}");
        let image = format!("docker://{addr}/upstream.test/a:{tag}");
        let copy = cache.home().join(&tag);
        let copy_to = format!("dir:{}", copy.display());
        let tools: [(&str, Vec<&str>); 4] = [
            ("curl", vec!["-sSf", "-o", "/dev/null", &url]),
            ("curl", vec!["-sSf", "--http1.0", "-o", "/dev/null", &url]),
            ("python3", vec!["-c", PYTHON, &addr, &path]),
            (
                "skopeo",
                vec![
                    "copy",
                    "--insecure-policy",
                    "--src-tls-verify=false",
                    &image,
                    &copy_to,
                ],
            ),
        ];
        // With a good upstream, all tools succeed, so the command lines are valid. Ranges are
        // rejected, because a resumed transfer would complete the content correctly.
        for good in [false, true] {
            if good {
                upstream.clear_rules();
            } else {
                upstream.on(On::path(layer.digest()), reply.clone().range(Range::Refused));
            }
            for (program, args) in &tools {
                if let Some((content, said)) = real_client(program, args) {
                    assert_eq!(content, good, "{how}: output of {program} {args:?}:\n{said}");
                }
            }
        }
    }
}
