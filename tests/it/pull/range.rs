//! Compares ranges and conditional requests with a model.

use crate::harness::*;

const SIZE: u64 = 3_000_000;

/// The expected result of a `Range` value for content of `size` bytes.
#[derive(Debug, PartialEq)]
enum Want {
    /// An invalid value: status 200 and the complete content.
    Everything,
    /// Status 206 and these spans, in this order.
    Spans(Vec<std::ops::Range<u64>>),
    /// Status 416.
    Nothing,
}

/// Implements RFC 9110, section 14, for the unit `bytes`.
fn model(value: &str, size: u64) -> Want {
    let Some(list) = value.strip_prefix("bytes=") else {
        return Want::Everything;
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Positions beyond 64 bits are valid, but beyond the end.
    let number = |text: &str| text.parse::<u64>().unwrap_or(u64::MAX);
    let mut spans = Vec::new();
    for item in list.split(',').map(|item| item.trim_matches([' ', '\t'])) {
        let Some((from, to)) = item.split_once('-') else {
            return Want::Everything;
        };
        match (digits(from), digits(to)) {
            (true, true) if number(from) > number(to) => return Want::Everything,
            (true, true) => spans.push(number(from)..number(to).saturating_add(1).min(size)),
            (true, false) if to.is_empty() => spans.push(number(from)..size),
            (false, true) if from.is_empty() => spans.push(size.saturating_sub(number(to))..size),
            _ => return Want::Everything,
        }
    }
    spans.retain(|span| span.start < span.end);
    if spans.is_empty() {
        Want::Nothing
    } else {
        Want::Spans(spans)
    }
}

/// Parses `multipart/byteranges` strictly. Returns the span, total and bytes of each part.
fn parts(response: &Response) -> Vec<(std::ops::Range<u64>, u64, Vec<u8>)> {
    let kind = response.field("content-type").unwrap();
    let boundary = kind
        .strip_prefix("multipart/byteranges; boundary=")
        .unwrap_or_else(|| panic!("{kind}"));
    let boundary = boundary.trim_matches('"');
    let mut rest = response.body.as_slice();
    let mut parts = Vec::new();
    let opening = format!("--{boundary}\r\n");
    rest = rest.strip_prefix(b"\r\n").unwrap_or(rest);
    rest = rest
        .strip_prefix(opening.as_bytes())
        .expect("a boundary starts the part");
    loop {
        let end = memchr::memmem::find(rest, b"\r\n\r\n").expect("the head of the part ends");
        let head = std::str::from_utf8(&rest[..end]).unwrap().to_ascii_lowercase();
        let line = head
            .lines()
            .find_map(|l| l.strip_prefix("content-range: bytes "))
            .expect("content-range");
        let (span, total) = content_range(line);
        let len = (span.end - span.start) as usize;
        rest = &rest[end + 4..];
        parts.push((span, total, rest[..len].to_vec()));
        rest = &rest[len..];
        if let Some(tail) = rest.strip_prefix(format!("\r\n--{boundary}--").as_bytes()) {
            assert!(tail.is_empty() || tail == b"\r\n", "bytes after the end boundary");
            return parts;
        }
        rest = rest
            .strip_prefix(format!("\r\n{opening}").as_bytes())
            .expect("a boundary after the part");
    }
}

/// Parses `a-b/total` to a half-open span and the total.
fn content_range(text: &str) -> (std::ops::Range<u64>, u64) {
    let (span, total) = text.split_once('/').unwrap();
    let (from, last) = span.split_once('-').unwrap();
    (
        from.parse().unwrap()..last.parse::<u64>().unwrap() + 1,
        total.parse().unwrap(),
    )
}

#[track_caller]
fn check(response: &Response, value: &str, content: &PseudoRandom) {
    let size = content.size;
    let full = |response: &Response| {
        assert_eq!((response.status, response.received), (200, size), "{value}");
        assert_eq!(content.compare(0, &response.body), Ok(()), "{value}");
    };
    match model(value, size) {
        Want::Everything => full(response),
        Want::Nothing => {
            assert_eq!(response.status, 416, "{value}: {response}");
            assert_eq!(
                response.field("content-range"),
                Some(format!("bytes */{size}").as_str()),
                "{value}"
            );
        }
        Want::Spans(spans) => {
            // A server may answer several ranges with the complete content.
            if response.status == 200 && spans.len() > 1 {
                return full(response);
            }
            assert_eq!(response.status, 206, "{value}: {response}");
            let got = match response.field("content-range") {
                Some(text) => {
                    let (span, total) = content_range(text.strip_prefix("bytes ").unwrap());
                    vec![(span, total, response.body.clone())]
                }
                None => parts(response),
            };
            let got_spans: Vec<_> = got.iter().map(|(span, ..)| span.clone()).collect();
            assert_eq!(got_spans, spans, "{value}");
            for (span, total, bytes) in got {
                assert_eq!(
                    (total, bytes.len() as u64),
                    (size, span.end - span.start),
                    "{value}"
                );
                assert_eq!(content.compare(span.start, &bytes), Ok(()), "{value}");
            }
        }
    }
}

fn position(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.below(10),
        1 => SIZE - random.below(10),
        2 => SIZE + random.below(10),
        3 => random.below(8) * 65_536 + random.below(3),
        _ => random.below(SIZE),
    }
}

fn any_value(random: &mut Random) -> String {
    let one = |random: &mut Random| {
        let (a, b) = (position(random), position(random));
        match random.below(10) {
            0 => format!("{a}-"),
            1 => format!("-{}", random.below(100_000)),
            2 => format!("-{a}"),
            3 => format!("{a}-{b}"),
            // Short ranges, as requested by lazy-pulling snapshotters.
            _ => format!("{a}-{}", a + random.below(70_000)),
        }
    };
    if random.chance(4) {
        // Ordered and disjoint, so that the server must not merge or drop a range.
        let mut starts: Vec<_> = (0..2 + random.below(3))
            .map(|_| random.below(SIZE / 100_000))
            .collect();
        starts.sort_unstable();
        starts.dedup();
        let separator = *random.pick::<&str>(&[",", ", ", " ,\t"]);
        let items: Vec<_> = starts
            .iter()
            .map(|s| format!("{}-{}", s * 100_000, s * 100_000 + random.below(50_000)))
            .collect();
        return format!("bytes={}", items.join(separator));
    }
    format!("bytes={}", one(random))
}

const ODD: [&str; 30] = [
    "bytes=0-0",
    "bytes=0-",
    "bytes=-1",
    "bytes=-0",
    "bytes=2999999-",
    "bytes=2999999-2999999",
    "bytes=3000000-",
    "bytes=3000000-3000001",
    "bytes=-3000000",
    "bytes=-3000001",
    "bytes=0-2999999",
    "bytes=0-3000000",
    "bytes=0-18446744073709551615",
    "bytes=0-18446744073709551616",
    "bytes=18446744073709551615-",
    "bytes=18446744073709551616-",
    "bytes=-18446744073709551615",
    "bytes=-18446744073709551616",
    "bytes=99999999999999999999999999999-",
    "bytes=5-4",
    "bytes=a-b",
    "bytes=-",
    "bytes=5",
    "bytes=0x1-5",
    "bytes=+1-5",
    "bytes=1-+5",
    "bytes=--5",
    "bites=0-5",
    "0-5",
    "bytes",
];

#[test]
fn ranges_of_a_hit_are_exact() {
    let (upstream, cache, content, path) = stored(SIZE);
    let mut random = Random::for_test("ranges of a hit");
    let mut connection = cache.client().open();
    let values = ODD
        .map(str::to_owned)
        .into_iter()
        .chain((0..500).map(|_| any_value(&mut random)));
    for value in values.collect::<Vec<_>>() {
        connection.request("GET", &path, &[("Range", &value)]).unwrap();
        let response = connection
            .read("GET")
            .unwrap_or_else(|broken| panic!("{value}: {broken:?}"));
        check(&response, &value, &content);
    }
    assert_eq!(upstream.gets(&content.digest()), 1);
}

#[test]
fn ranges_during_a_fill_are_exact() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let mut random = Random::for_test("ranges in a fill");
    for round in 0..4 {
        let content = PseudoRandom::new(random.next(), SIZE);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        let gate = Gate::new();
        upstream.on(
            On::path(&digest),
            Reply::new().hold_at(SIZE / 4 * round + 1, &gate),
        );
        let values: Vec<_> = (0..40).map(|_| any_value(&mut random)).collect();
        std::thread::scope(|scope| {
            let clients: Vec<_> = values
                .iter()
                .map(|value| {
                    let (client, path) = (cache.client(), &path);
                    scope.spawn(move || (value, client.get_with(path, &[("Range", value)])))
                })
                .collect();
            gate.wait_arrived(1);
            gate.open();
            for client in clients {
                let (value, response) = client.join().unwrap();
                check(&response, value, &content);
            }
        });
        assert_eq!(upstream.gets(&digest), 1, "all ranges of a miss use one fill");
        assert_eq!(upstream.count(|seen| seen.has_range()), 0);
    }
}

#[test]
fn an_empty_blob_satisfies_no_range() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("");
    let path = upstream.blob_url("a", &digest);
    cache.client().get(&path).expect(b"");
    cache.wait_stored(&digest);
    for value in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
        let got = cache.client().get_with(&path, &[("Range", value)]);
        assert_eq!(
            (got.status, got.field("content-range")),
            (416, Some("bytes */0")),
            "{value}: {got}"
        );
    }
}

#[test]
fn head_ignores_range() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("hello");
    let path = upstream.blob_url("a", &digest);
    cache.client().get(&path).expect(b"hello");
    let head = cache.client().request("HEAD", &path, &[("Range", "bytes=1-2")]);
    assert_eq!((head.status, head.content_length()), (200, Some(5)), "{head}");
}

#[test]
fn if_range_gives_the_part_only_of_the_same_content() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("hello");
    let path = upstream.blob_url("a", &digest);
    cache.client().get(&path).expect(b"hello");
    for (validator, status) in [
        (format!("\"{digest}\""), 206),
        ("\"other\"".into(), 200),
        (format!("W/\"{digest}\""), 200),
        (digest.clone(), 200),
        ("Tue, 01 Jul 2025 12:00:00 GMT".into(), 200),
    ] {
        let got = cache
            .client()
            .get_with(&path, &[("Range", "bytes=1-2"), ("If-Range", &validator)]);
        assert_eq!(got.status, status, "{validator}: {got}");
        assert_eq!(got.body, if status == 206 { &b"el"[..] } else { b"hello" });
    }
}

#[test]
fn if_none_match_answers_304_to_who_has_it() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let blob = &image.blobs[0].0;
    for (path, digest) in [
        (upstream.blob_url("a", blob), blob),
        (upstream.manifest_url("a", &image.digest), &image.digest),
        (upstream.manifest_url("a", "v1"), &image.digest),
    ] {
        assert_eq!(cache.client().get(&path).status, 200);
        for (value, status) in [
            (format!("\"{digest}\""), 304),
            (format!("W/\"{digest}\""), 304),
            (format!("\"x\", \"{digest}\" , \"y\""), 304),
            ("*".into(), 304),
            ("\"x\"".into(), 200),
            (format!("\"{}\"", digest.replace("sha256", "sha512")), 200),
            ("\"\"".into(), 200),
        ] {
            for method in ["GET", "HEAD"] {
                let got = cache
                    .client()
                    .request(method, &path, &[("If-None-Match", &value)]);
                assert_eq!(got.status, status, "{method} {path} {value}: {got}");
                assert_eq!(got.field("etag"), Some(format!("\"{digest}\"").as_str()));
            }
        }
        // The condition takes precedence over the range.
        let both = [
            ("If-None-Match", format!("\"{digest}\"")),
            ("Range", "bytes=0-1".into()),
        ];
        let both: Vec<_> = both.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(cache.client().get_with(&path, &both).status, 304);
    }
    assert_eq!(upstream.gets(blob), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order_after_a_304() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("hello");
    let path = upstream.blob_url("a", &digest);
    cache.client().get(&path);
    let etag = format!("\"{digest}\"");
    let mut connection = cache.client().open();
    for _ in 0..3 {
        connection
            .request("GET", &path, &[("If-None-Match", &etag)])
            .unwrap();
        connection
            .request("GET", &path, &[("Range", "bytes=9-")])
            .unwrap();
        connection
            .request("GET", &path, &[("Range", "bytes=0-1,3-4")])
            .unwrap();
        connection.request("GET", &path, &[]).unwrap();
    }
    for _ in 0..3 {
        assert_eq!(connection.read("GET").unwrap().status, 304);
        assert_eq!(connection.read("GET").unwrap().status, 416);
        assert!(matches!(connection.read("GET").unwrap().status, 200 | 206));
        connection.read("GET").unwrap().expect(b"hello");
    }
}
