//! Valid, borderline and invalid HTTP/1.1 responses of an upstream. If parsers could interpret a
//! response differently, the client receives an error. Leftover bytes of a response never become
//! part of the next response.

use crate::harness::*;

/// Number of registries used in parallel, because the cache repeats a request with a broken body
/// for seconds.
const UPSTREAMS: usize = 40;

/// The expected result of a response. The worst part of a response decides.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Expect {
    /// The client receives the manifest.
    Good,
    /// The client receives the manifest or an error. HTTP allows both.
    Either,
    /// The client receives an error.
    Bad,
}

use Expect::{Bad, Either, Good};

const STATUS_LINES: &[(&str, Expect)] = &[
    ("HTTP/1.1 200 OK\r\n", Good),
    ("HTTP/1.1 200 \r\n", Good),
    ("HTTP/1.1 200\r\n", Either),
    ("HTTP/1.0 200 OK\r\n", Good),
    ("HTTP/1.1 200 A long reason, with: signs\r\n", Good),
    ("HTTP/1.2 200 OK\r\n", Either),
    ("HTTP/2.0 200 OK\r\n", Bad),
    ("HTTP/0.9 200 OK\r\n", Bad),
    ("http/1.1 200 OK\r\n", Bad),
    ("ICY 200 OK\r\n", Bad),
    ("HTTP/1.1 20 OK\r\n", Bad),
    ("HTTP/1.1 2000 OK\r\n", Bad),
    ("HTTP/1.1 +200 OK\r\n", Bad),
    ("HTTP/1.1 0200 OK\r\n", Bad),
    ("HTTP/1.1 2e2 OK\r\n", Bad),
    ("HTTP/1.1 099 OK\r\n", Bad),
    ("HTTP/1.1 600 OK\r\n", Bad),
    ("HTTP/1.1 999 OK\r\n", Bad),
    ("HTTP/1.1\t200 OK\r\n", Bad),
    ("HTTP/1.1  200 OK\r\n", Either),
    (" HTTP/1.1 200 OK\r\n", Bad),
    ("\r\nHTTP/1.1 200 OK\r\n", Either),
    ("HTTP/1.1 200 O\0K\r\n", Bad),
    ("HTTP/1.1 200 OK\n", Either),
    ("", Bad),
];

/// `{L}` is the length of the manifest, `{M}` the manifest, `{X}` the length in hexadecimal. `|`
/// ends the head.
const FRAMINGS: &[(&str, Expect)] = &[
    ("Content-Length: {L}\r\n|{M}", Good),
    ("content-length:{L}\r\n|{M}", Good),
    ("Content-Length: \t {L} \t \r\n|{M}", Good),
    ("Content-Length: {L}\r\nContent-Length: {L}\r\n|{M}", Either),
    ("Content-Length: {L}, {L}\r\n|{M}", Either),
    ("Content-Length: {L}\r\nContent-Length: 1\r\n|{M}", Bad),
    ("Content-Length: 1\r\nContent-Length: {L}\r\n|{M}", Bad),
    ("Content-Length: 1, {L}\r\n|{M}", Bad),
    ("Content-Length: +{L}\r\n|{M}", Bad),
    ("Content-Length: -{L}\r\n|{M}", Bad),
    ("Content-Length: 0x{X}\r\n|{M}", Bad),
    ("Content-Length: {L}.0\r\n|{M}", Bad),
    ("Content-Length: {L} 1\r\n|{M}", Bad),
    ("Content-Length: \r\n|{M}", Bad),
    ("Content-Length: 18446744073709551616\r\n|{M}", Bad),
    (
        "Content-Length: 1000000000000000000000000000000000000000\r\n|{M}",
        Bad,
    ),
    ("Content-Length: 9{L}\r\n|{M}", Bad),
    ("Content-Length: 0\r\n|{M}", Bad),
    ("|{M}", Either),
    ("Connection: close\r\n|{M}", Either),
    ("Transfer-Encoding: chunked\r\n|{X}\r\n{M}\r\n0\r\n\r\n", Good),
    ("Transfer-Encoding: Chunked\r\n|{X}\r\n{M}\r\n0\r\n\r\n", Good),
    (
        "Transfer-Encoding: chunked\r\n|{X};a=b\r\n{M}\r\n0\r\n\r\n",
        Either,
    ),
    (
        "Transfer-Encoding: chunked\r\n|{X}\r\n{M}\r\n0\r\nX-Trailer: y\r\n\r\n",
        Either,
    ),
    (
        "Transfer-Encoding: chunked\r\nContent-Length: {L}\r\n|{X}\r\n{M}\r\n0\r\n\r\n",
        Either,
    ),
    (
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n|{X}\r\n{M}\r\n0\r\n\r\n",
        Either,
    ),
    (
        "Transfer-Encoding: chunked, chunked\r\n|{X}\r\n{M}\r\n0\r\n\r\n",
        Either,
    ),
    (
        "Transfer-Encoding: identity, chunked\r\n|{X}\r\n{M}\r\n0\r\n\r\n",
        Either,
    ),
    (
        "Transfer-Encoding: gzip, chunked\r\n|{X}\r\n{M}\r\n0\r\n\r\n",
        Either,
    ),
    ("Transfer-Encoding: chunked\r\n|{X}\r\n{M}\r\n", Bad),
    ("Transfer-Encoding: chunked\r\n|{X}\r\n{M}\r\n0\r\n", Bad),
    ("Transfer-Encoding: chunked\r\n|{M}", Bad),
    ("Transfer-Encoding: chunked\r\n|\r\n{M}\r\n0\r\n\r\n", Bad),
    ("Transfer-Encoding: chunked\r\n|+{X}\r\n{M}\r\n0\r\n\r\n", Bad),
    ("Transfer-Encoding: chunked\r\n|0x{X}\r\n{M}\r\n0\r\n\r\n", Bad),
    ("Transfer-Encoding: chunked\r\n|{X}\r\n{M}0\r\n\r\n", Bad),
    ("Transfer-Encoding: chunked\r\n|1{X}\r\n{M}\r\n0\r\n\r\n", Bad),
    (
        "Transfer-Encoding: chunked\r\n|FFFFFFFFFFFFFFFFF\r\n{M}\r\n0\r\n\r\n",
        Bad,
    ),
    (
        "Transfer-Encoding: chunked\r\n|{X};a=\"\n\"\r\n{M}\r\n0\r\n\r\n",
        Either,
    ),
];

/// Field lines in front of the framing fields.
const FIELDS: &[(&str, Expect)] = &[
    ("X: y\r\n", Good),
    ("X:\r\n", Good),
    ("X: \x7f\r\n", Either),
    ("X: a\0b\r\n", Bad),
    ("X: a\rb\r\n", Bad),
    ("X : y\r\n", Either),
    ("X\r\n", Either),
    (": y\r\n", Either),
    (" folded\r\n", Either),
    ("X: y\r\n folded\r\n", Either),
    ("X y: z\r\n", Bad),
    ("X\x0by: z\r\n", Bad),
    ("Content-Encoding: gzip\r\n", Bad),
    ("Content-Encoding: identity\r\n", Good),
    ("Content-Range: bytes 0-1/2\r\n", Either),
    ("Upgrade: h2c\r\nConnection: upgrade\r\n", Either),
    ("Connection: content-length, content-type\r\n", Either),
];

/// Interim responses in front of a valid response.
const INTERIM: &[(&str, Expect)] = &[
    ("HTTP/1.1 100 Continue\r\n\r\n", Good),
    ("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", Good),
    (
        "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
        Good,
    ),
    ("HTTP/1.1 199 What\r\n\r\n", Either),
    (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        Bad,
    ),
    ("HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n", Either),
];

struct Case {
    bytes: Vec<u8>,
    expect: Expect,
}

fn fill(text: &str, image: &Image) -> String {
    let manifest = std::str::from_utf8(&image.manifest).expect("JSON");
    text.replace("{L}", &manifest.len().to_string())
        .replace("{X}", &format!("{:x}", manifest.len()))
        .replace("{M}", manifest)
}

/// Returns the fields of every manifest response.
fn ordinary(image: &Image) -> String {
    format!(
        "Content-Type: application/vnd.oci.image.manifest.v1+json\r\nDocker-Content-Digest: {}\r\n",
        image.digest
    )
}

/// Returns a response with `fields` and a framing, followed by `behind`. `behind` may contain
/// another manifest.
fn answer(status_line: &str, fields: &str, framing: &str, behind: &str, image: &Image) -> Vec<u8> {
    let (head, body) = framing
        .split_once('|')
        .expect("the name of a framing contains `|`");
    let text = format!("{status_line}{}{fields}{head}\r\n{body}{behind}", ordinary(image));
    fill(&text, image).into_bytes()
}

fn cases(image: &Image, other: &Image) -> Vec<Case> {
    let other_manifest = std::str::from_utf8(&other.manifest).expect("JSON");
    let response = format!(
        "HTTP/1.1 200 OK\r\n{}Content-Length: {}\r\n\r\n{other_manifest}",
        ordinary(other),
        other_manifest.len()
    );
    let mut cases = Vec::new();
    // All pairs take minutes. By default, only pairs with a regular part are tested; `CASES=all`
    // adds the others.
    let all = std::env::var("CASES").is_ok_and(|cases| cases == "all");
    for (one_number, (status_line, one)) in STATUS_LINES.iter().enumerate() {
        for (two_number, (framing, two)) in FRAMINGS.iter().enumerate() {
            if !all && one_number > 0 && two_number > 0 {
                continue;
            }
            // Parsers disagree on chunks in HTTP/1.0 and on the end of a broken line.
            let two = if status_line.contains("1.0") && framing.contains("chunked") && *two == Good {
                Either
            } else {
                *two
            };
            cases.push(Case {
                bytes: answer(status_line, "", framing, "", image),
                expect: (*one).max(two),
            });
        }
    }
    let plain = FRAMINGS[0].0;
    for (fields, expect) in FIELDS {
        cases.push(Case {
            bytes: answer(STATUS_LINES[0].0, fields, plain, "", image),
            expect: *expect,
        });
    }
    for (before, expect) in INTERIM {
        for times in [1, 3, 100, 3_000] {
            let mut bytes = before.repeat(times).into_bytes();
            bytes.extend(answer(STATUS_LINES[0].0, "", plain, "", image));
            cases.push(Case {
                bytes,
                expect: if times > 3 { (*expect).max(Either) } else { *expect },
            });
        }
    }
    // Bytes after a complete response: another response, half a response, other bytes.
    for framing in [plain, FRAMINGS[20].0] {
        for behind in [
            response.as_str(),
            &response[..40],
            "\r\n",
            "x",
            "0\r\n\r\n",
            "HTTP/1.1 400 Bad\r\n\r\n",
        ] {
            cases.push(Case {
                bytes: answer(STATUS_LINES[0].0, "", framing, behind, image),
                expect: Either,
            });
        }
    }
    // Statuses that forbid or restrict content, sent with content.
    for status in [
        "204 No Content",
        "304 Not Modified",
        "205 Reset Content",
        "206 Partial Content",
    ] {
        cases.push(Case {
            bytes: answer(&format!("HTTP/1.1 {status}\r\n"), "", plain, &response, image),
            expect: Bad,
        });
    }
    // Heads with many fields, and with long fields.
    for (fields, expect) in [
        ("X: y\r\n".repeat(50), Good),
        ("X: y\r\n".repeat(20_000), Bad),
        (format!("X: {}\r\n", "y".repeat(4_000)), Good),
        (format!("X: {}\r\n", "y".repeat(2_000_000)), Bad),
        (format!("{}: y\r\n", "x".repeat(70_000)), Bad),
    ] {
        cases.push(Case {
            bytes: answer(STATUS_LINES[0].0, &fields, plain, "", image),
            expect,
        });
    }
    cases
}

#[test]
fn upstream_responses_are_read_correctly_or_rejected() {
    let (seed, other_seed) = (fresh_seed(), fresh_seed());
    // Each registry answers its cases sequentially, so leftover bytes would affect the next
    // response.
    let upstreams: Vec<_> = (0..UPSTREAMS).map(|_| Registry::new()).collect();
    let mut options = Server::bare().env("ACCESS_LOG", "off");
    let mut images = Vec::new();
    for upstream in &upstreams {
        options = options.registry(upstream.name(), upstream.addr());
        // The attacker's manifest is stored under a name that the test never requests.
        Image::small(upstream, "elsewhere", "other", other_seed);
        images.push(Image::small(upstream, "a", "good", seed));
    }
    let cache = options.start();
    let other = Image::small(&Registry::new(), "elsewhere", "other", other_seed);
    let cases = cases(&images[0], &other);
    assert!(cases.len() >= 120, "{}", cases.len());
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for (index, upstream) in upstreams.iter().enumerate() {
            let (cases, image, cache, wrong) = (&cases, &images[index], &cache, &wrong);
            scope.spawn(move || {
                for (number, case) in cases.iter().enumerate().skip(index).step_by(UPSTREAMS) {
                    if let Some(how) = outcome(cache, upstream, image, number, case) {
                        wrong.lock().unwrap().push(how);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

/// Returns a description of a wrong client response, or `None` if the response is as expected.
fn outcome(cache: &Server, upstream: &Registry, image: &Image, number: usize, case: &Case) -> Option<String> {
    // These tags are new, so the cache contains no content of an earlier case.
    let (tag, next) = (format!("t{number}"), format!("n{number}"));
    upstream.tag("a", &tag, &image.digest);
    upstream.tag("a", &next, &image.digest);
    upstream.on(
        On::path(format!("/manifests/{tag}")),
        Reply::raw(case.bytes.clone()),
    );
    let got = cache.client().try_get(&upstream.manifest_url("a", &tag));
    upstream.clear_rules();
    let shown = case.bytes[..case.bytes.len().min(300)].escape_ascii().to_string();
    // The next request must receive its own response. The registry's circuit breaker must close
    // again.
    eventually("the next manifest is served", || {
        let got = cache.client().get(&upstream.manifest_url("a", &next));
        assert!(
            got.status != 200 || got.body == image.manifest,
            "after {shown}: {got}"
        );
        got.status == 200
    });
    match got {
        Ok(got) if got.status == 200 => {
            let wrong = got.body != image.manifest || case.expect == Bad;
            wrong.then(|| format!("{:?} became 200, {} bytes: {shown}", case.expect, got.body.len()))
        }
        Ok(got) => {
            let wrong = got.status < 400 || case.expect == Good;
            wrong.then(|| format!("{:?} became {}: {shown}", case.expect, got.status))
        }
        Err(broken) => Some(format!("{:?} became {:?}: {shown}", case.expect, broken.why)),
    }
}
