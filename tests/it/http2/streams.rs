//! HTTP/2 by prior knowledge: the same responses as over HTTP/1.1, concurrent streams, and correct
//! ends of broken bodies.

use std::time::{Duration, Instant};

use crate::harness::client::Why;
use crate::harness::h2::*;
use crate::harness::server::TempDir;
use crate::harness::*;

const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const SEND_STALL: Duration = Duration::from_secs(60);
const IDLE: Duration = Duration::from_secs(75);
/// How long the server discards an unexpected request body.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(2);
/// The tolerance for deadlines on a busy test machine.
const LATE: Duration = Duration::from_secs(10);

#[test]
fn the_first_bytes_choose_the_protocol_on_one_port() {
    let cache = Server::bare().start();
    Peer::begin(cache.addr()).get("/v2/").expect(b"{}");
    cache.client().get("/v2/").expect(b"{}");
    let upgrade = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ];
    // The server ignores an upgrade offer.
    cache.client().get_with("/v2/", &upgrade).expect(b"{}");
}

#[test]
fn alpn_selects_http2_and_responses_are_complete_over_tls() {
    let upstream = Registry::new();
    let authority = Authority::new("the authority");
    let dir = TempDir::new();
    let (certificate, key) = authority.issue("cache").write(&dir.path, "server");
    let cache = Server::options(&upstream)
        .env("LISTEN_ADDR", "https://127.0.0.1:0")
        .env("TLS_CERT_FILE", certificate.display().to_string())
        .env("TLS_KEY_FILE", key.display().to_string())
        .start();
    let content = PseudoRandom::new(fresh_seed(), 5_000_077);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = authority.client_config(&[version], &["h2", "http/1.1"], None);
        let mut peer = Peer::begin_tls(cache.addr(), config);
        // Cold in the first round, warm in the second. Concurrent large requests and a small
        // request.
        let ids: Vec<u32> = (0..20).map(|_| peer.request("GET", &path, &[])).collect();
        peer.get("/v2/").expect(b"{}");
        for id in ids {
            let answer = peer.answer(id);
            assert_eq!((answer.received, answer.ended), (content.size, true));
            assert_eq!(content.compare(0, &answer.body), Ok(()));
        }
    }
    assert_eq!(upstream.gets(&content.digest()), 1);
    // After ALPN selects HTTP/2, HTTP/1.1 is an error.
    let config = authority.client_config(rustls::ALL_VERSIONS, &["h2"], None);
    let mut wrong = Connection::open_tls(cache.addr(), config.clone()).unwrap();
    wrong.request("GET", "/v2/", &[]).unwrap();
    assert!(wrong.read("GET").is_err());
    let mut peer = Peer::begin_tls(cache.addr(), config);
    peer.get("/v2/").expect(b"{}");
    cache.sigterm();
    assert_eq!(peer.until_ended(), Why::NoResponse);
    assert_eq!(peer.goaways.last().map(|(_, code)| *code), Some(NO_ERROR));
}

#[test]
fn a_preface_may_arrive_in_pieces() {
    let cache = Server::bare().start();
    let hello = [PREFACE, &settings(&[]).bytes()].concat();
    for cut in [1, 3, 14, 16, 23, 24, 25, 32] {
        let mut peer = Peer::open(cache.addr());
        peer.raw(&hello[..cut]).unwrap();
        // No event signals that the server has read the piece. On most runs, 5 ms suffice.
        std::thread::sleep(Duration::from_millis(5));
        peer.raw(&hello[cut..]).unwrap();
        peer.get("/v2/").expect(b"{}");
    }
}

#[test]
fn an_incomplete_preface_or_settings_frame_times_out() {
    let cache = Server::bare().start();
    let hello = [PREFACE, &settings(&[(3, 1)]).bytes()].concat();
    std::thread::scope(|scope| {
        for part in [10, PREFACE.len(), PREFACE.len() + 12] {
            let (cache, hello) = (&cache, &hello);
            scope.spawn(move || {
                let mut peer = Peer::open(cache.addr());
                let begun = Instant::now();
                peer.raw(&hello[..part]).unwrap();
                peer.until_closed();
                let took = begun.elapsed();
                assert!(
                    took + Duration::from_secs(1) > HEAD_DEADLINE && took < 2 * HEAD_DEADLINE + LATE,
                    "{part} bytes: {took:?}"
                );
            });
        }
    });
}

#[test]
fn responses_have_the_same_fields_as_over_http1() {
    let (_upstream, cache, content, path) = stored(9_000);
    let mut peer = Peer::begin(cache.addr());
    // From memory, from a file, without a body, as a range, as an error.
    for (method, path, field) in [
        ("GET", path.as_str(), None),
        ("GET", &path, Some(("range", "bytes=5-99"))),
        ("GET", &path, Some(("range", "bytes=0-9,50-59"))),
        ("GET", &path, Some(("range", "bytes=99999-"))),
        ("HEAD", &path, None),
        ("GET", "/v2/", None),
        ("HEAD", "/v2/", None),
        ("GET", "/v2/a/blobs/sha256:0", None),
        ("POST", "/v2/a/blobs/uploads/", None),
        ("GET", "/nowhere", None),
    ] {
        let fields: Vec<(&str, &str)> = field.into_iter().collect();
        let one = cache.client().request(method, path, &fields);
        let id = peer.request(method, path, &fields);
        let two = peer.answer(id);
        let at = format!("{method} {path} {field:?}: {one}\n{two:?}");
        assert_eq!(
            (two.status, two.ended, two.reset),
            (one.status, true, None),
            "{at}"
        );
        let boundary =
            |kind: Option<&str>| kind.map(|kind| kind.split("boundary").next().unwrap().to_owned());
        assert_eq!(
            boundary(two.field("content-type")),
            boundary(one.field("content-type")),
            "{at}"
        );
        assert_eq!(two.body.len(), one.body.len(), "{at}");
        if !at.contains("boundary") {
            assert!(two.body == one.body, "{at}");
        }
        let names = |fields: &Fields| {
            let mut names: Vec<String> = fields.iter().map(|(name, _)| name.to_lowercase()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&two.fields), names(&one.fields), "{at}");
        for name in [
            "etag",
            "content-length",
            "docker-content-digest",
            "cache-control",
            "content-range",
        ] {
            assert_eq!(two.field(name), one.field(name), "{name}: {at}");
        }
    }
    let unchanged = [("if-none-match", format!("\"{}\"", content.digest()))];
    let fields: Vec<(&str, &str)> = unchanged
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let id = peer.request("GET", &path, &fields);
    let answer = peer.answer(id);
    assert_eq!((answer.status, answer.received), (304, 0));
}

#[test]
fn a_large_blob_arrives_byte_for_byte_cold_and_warm() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 64 * 1024 * 1024 + 77);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    for windows in [
        &[][..],
        &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff), (MAX_FRAME_SIZE, 16_777_215)],
    ] {
        let mut peer = Peer::begin_with(cache.addr(), windows);
        let answer = peer.get(&path);
        assert_eq!((answer.status, answer.ended), (200, true));
        assert_eq!(answer.received, content.size);
        assert_eq!(content.compare(0, &answer.body), Ok(()));
        cache.wait_stored(&content.digest());
    }
    let mut peer = Peer::begin(cache.addr());
    let id = peer.request("GET", &path, &[("range", "bytes=40000000-41999999")]);
    let part = peer.answer(id);
    assert_eq!((part.status, part.received), (206, 2_000_000));
    assert_eq!(content.compare(40_000_000, &part.body), Ok(()));
    assert_eq!(upstream.gets("/blobs/"), 1);
}

#[test]
fn a_file_without_cached_pages_is_served() {
    let (_upstream, cache, content, path) = stored(8 * 1024 * 1024);
    let file = std::fs::File::open(
        cache
            .root()
            .join("blobs")
            .join(content.digest().replace(':', "-")),
    )
    .unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let answer = Peer::begin(cache.addr()).get(&path);
    assert_eq!(answer.received, content.size);
    assert_eq!(content.compare(0, &answer.body), Ok(()));
}

#[test]
fn a_hundred_streams_of_one_fill_cause_one_upstream_request() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 3_000_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let gate = Gate::new();
    upstream.on(On::path(content.digest()), Reply::new().hold_at(1_500_000, &gate));
    let mut peer = Peer::begin(cache.addr());
    let ids: Vec<u32> = (0..100).map(|_| peer.request("GET", &path, &[])).collect();
    for id in &ids {
        peer.head(*id);
    }
    gate.open();
    for id in ids {
        let answer = peer.answer(id);
        assert_eq!((answer.status, answer.ended), (200, true), "{id}");
        assert_eq!(content.compare(0, &answer.body), Ok(()), "{id}");
        assert_eq!(answer.received, content.size);
    }
    assert_eq!(upstream.gets(&content.digest()), 1);
}

#[test]
fn stalled_streams_do_not_block_other_streams() {
    let (upstream, cache, content, path) = stored(5_000_000);
    let held = PseudoRandom::new(fresh_seed(), 3_000_000);
    let held_path = upstream.blob_url("a", &upstream.blob(held.clone()));
    let gate = Gate::new();
    upstream.on(On::path(held.digest()), Reply::new().hold_at(1_000_000, &gate));
    let mut peer = Peer::begin(cache.addr());
    // No window for twenty large responses from a file and a small response from memory.
    peer.send(&settings(&[(INITIAL_WINDOW_SIZE, 0)])).unwrap();
    let slow: Vec<u32> = (0..20).map(|_| peer.request("GET", &path, &[])).collect();
    let small = peer.request("GET", "/v2/", &[]);
    for id in slow.iter().chain([&small]) {
        assert_eq!(peer.head(*id).status, 200);
    }
    // Later requests have a window and are served meanwhile.
    let waiting = peer.request("GET", &held_path, &[]);
    peer.send(&window_update(waiting, 2_000_000)).unwrap();
    peer.head(waiting);
    for _ in 0..5 {
        let fast = peer.request("GET", &path, &[]);
        peer.send(&window_update(fast, 0x7fff_ffff)).unwrap();
        let answer = peer.answer(fast);
        assert_eq!((answer.received, answer.ended), (content.size, true));
        assert_eq!(content.compare(0, &answer.body), Ok(()));
    }
    for id in slow.iter().chain([&small]) {
        assert_eq!(peer.answers[id].received, 0, "{id}");
    }
    gate.open();
    for id in slow.iter().chain([&small, &waiting]) {
        peer.send(&window_update(*id, 10_000_000)).unwrap();
    }
    for id in slow {
        let answer = peer.answer(id);
        assert_eq!(content.compare(0, &answer.body), Ok(()));
        assert_eq!((answer.received, answer.ended), (content.size, true));
    }
    peer.answer(small).expect(b"{}");
    assert_eq!(peer.answer(waiting).received, held.size);
}

#[test]
fn small_windows_are_respected_and_not_treated_as_a_flood() {
    let (_upstream, cache, content, path) = stored(40_000);
    let mut peer = Peer::begin_with(cache.addr(), &[(INITIAL_WINDOW_SIZE, 1)]);
    let id = peer.request("GET", &path, &[("range", "bytes=0-4999")]);
    let answer = peer.answer(id);
    assert_eq!((answer.received, answer.ended), (5_000, true));
    assert_eq!(content.compare(0, &answer.body), Ok(()));
    // A setting that makes a window negative, and a setting that restores the window.
    peer.generous = false;
    peer.send(&settings(&[(INITIAL_WINDOW_SIZE, 10)])).unwrap();
    let id = peer.request("GET", &path, &[]);
    while peer.answers.get(&id).is_none_or(|answer| answer.received < 10) {
        peer.step().unwrap();
    }
    peer.send(&settings(&[(INITIAL_WINDOW_SIZE, 2)])).unwrap();
    peer.send(&window_update(id, 8)).unwrap();
    peer.ping();
    assert_eq!(peer.answers[&id].received, 10);
    peer.generous = true;
    peer.send(&settings(&[(INITIAL_WINDOW_SIZE, 60_000)])).unwrap();
    let answer = peer.answer(id);
    assert_eq!((answer.received, answer.ended), (content.size, true));
    assert_eq!(content.compare(0, &answer.body), Ok(()));
}

#[test]
fn a_corrupt_or_aborted_upstream_body_resets_the_stream() {
    const SIZE: u64 = 2_500_000;
    for (reply, status) in [
        (Reply::new().flip(SIZE - 1), 200),
        (Reply::new().framing(Framing::Chunked).flip(1), 200),
        (Reply::new().cut_at(1_500_000, Cut::Rst), 200),
    ] {
        let upstream = Registry::new();
        let cache = Server::start(&upstream);
        let content = PseudoRandom::new(fresh_seed(), SIZE);
        let path = upstream.blob_url("a", &upstream.blob(content.clone()));
        // An error found before the head is sent would be a clean error response. The gate ensures
        // that the head is sent first.
        let gate = Gate::new();
        let reply = reply.range(Range::Refused).hold_at(1_200_000, &gate);
        upstream.on(On::path(content.digest()), reply);
        let mut peer = Peer::begin(cache.addr());
        let id = peer.request("GET", &path, &[]);
        peer.head(id);
        gate.open();
        let beside = peer.request("GET", "/v2/", &[]);
        let answer = peer.answer(id);
        assert_eq!((answer.status, answer.ended), (status, false));
        assert_eq!(answer.reset, Some(INTERNAL_ERROR));
        assert!(answer.received < SIZE);
        peer.answer(beside).expect(b"{}");
        upstream.clear_rules();
        cache.wait_asks(&upstream, "a");
        let again = peer.get(&path);
        assert_eq!((again.received, again.ended), (SIZE, true));
    }
}

#[test]
fn a_small_corrupt_upstream_body_gets_a_502_response() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 10_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    upstream.on(On::path(content.digest()), Reply::new().flip(77));
    let answer = Peer::begin(cache.addr()).get(&path);
    assert_eq!((answer.status, answer.ended), (502, true), "{answer:?}");
}

#[test]
fn requests_rejected_in_http1_are_rejected_and_later_requests_succeed() {
    let cache = Server::bare().start();
    let mut peer = Peer::begin(cache.addr());
    let long = format!("/v2/{}", "x".repeat(8 * 1024));
    let big = "v".repeat(20_000);
    let many: Vec<(String, String)> = (0..100).map(|n| (format!("x-{n}"), "y".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    for (method, path, fields, status) in [
        ("GET", long.as_str(), &[][..], 414),
        ("GET", "/v2/", &many, 431),
        ("GET", "/v2/", &[("host", "other.test")], 400),
        ("GET", "/v2/", &[("expect", "100-continue")], 417),
        (
            "GET",
            "/v2/",
            &[("authorization", "a"), ("authorization", "b")],
            400,
        ),
        ("OPTIONS", "*", &[], 400),
        ("DELETE", "/v2/a/manifests/v1", &[], 405),
        ("GET", "/v2/", &[("host", "CACHE.test"), ("te", "trailers")], 200),
    ] {
        let id = peer.request(method, path, fields);
        let answer = peer.answer(id);
        assert_eq!(
            (answer.status, answer.ended),
            (status, true),
            "{method} {fields:?}"
        );
        peer.get("/v2/").expect(b"{}");
    }
    // Header fields above the advertised limit. The server rejects the request unread and accepts
    // the next request.
    let id = peer.next_id();
    let block = request_block("GET", "/v2/", &[("a", &big), ("b", &big)]);
    let (first, rest) = block.split_at(16_000);
    let (second, third) = rest.split_at(16_000);
    peer.send(&Frame::new(HEADERS, END_STREAM, id, first)).unwrap();
    peer.send(&Frame::new(CONTINUATION, 0, id, second)).unwrap();
    peer.send(&Frame::new(CONTINUATION, END_HEADERS, id, third))
        .unwrap();
    assert_eq!(peer.answer(id).status, 431);
    peer.get("/v2/").expect(b"{}");
}

#[test]
fn an_unexpected_request_body_is_discarded_and_then_reset() {
    let cache = Server::bare().start();
    let mut peer = Peer::begin(cache.addr());
    // A request without END_STREAM, followed by an empty body.
    let id = peer.next_id();
    let block = request_block("GET", "/v2/", &[]);
    peer.send(&Frame::new(HEADERS, END_HEADERS, id, block)).unwrap();
    peer.send(&Frame::new(DATA, END_STREAM, id, [])).unwrap();
    peer.answer(id).expect(b"{}");
    // A push.
    let id = peer.next_id();
    let block = request_block("POST", "/v2/a/blobs/uploads/", &[("content-length", "200000")]);
    let asked = Instant::now();
    peer.send(&Frame::new(HEADERS, END_HEADERS, id, block)).unwrap();
    let answer = peer.answer(id);
    assert_eq!((answer.status, answer.ended), (405, true));
    // Sends the body as fast as the stream's window permits.
    let (mut sent, mut room) = (0, 65_535);
    let mut first_window = None;
    let code = loop {
        while sent < 200_000 && room >= 10_000 {
            let flags = if sent == 190_000 { END_STREAM } else { 0 };
            peer.send(&Frame::new(DATA, flags, id, vec![0; 10_000])).unwrap();
            sent += 10_000;
            room -= 10_000;
        }
        first_window.get_or_insert_with(|| asked.elapsed());
        let frame = peer.step().unwrap();
        match frame.kind {
            RST_STREAM => break frame.code(),
            WINDOW_UPDATE if frame.stream == id => {
                room += u32::from_be_bytes(frame.payload[..].try_into().expect("four bytes"));
            }
            _ => assert_ne!(frame.kind, GOAWAY, "{frame:?}"),
        }
    };
    // A client that does not use the first window in time gets no further window.
    let late = first_window >= Some(DISCARD_TIMEOUT);
    assert!(sent >= 70_000 || late, "{sent} after {first_window:?}");
    assert!(sent < 200_000, "{sent}");
    assert_eq!(code, Some(NO_ERROR));
    peer.get("/v2/").expect(b"{}");
}

#[test]
fn cancelled_requests_do_not_affect_other_requests_of_the_fill() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 3_000_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let gate = Gate::new();
    upstream.on(On::path(content.digest()), Reply::new().hold_head(&gate));
    let mut peer = Peer::begin(cache.addr());
    let kept = peer.request("GET", &path, &[]);
    gate.wait_arrived(1);
    for _ in 0..5 {
        let ids: Vec<u32> = (0..90).map(|_| peer.request("GET", &path, &[])).collect();
        // The server has processed the requests and started the responses.
        peer.ping();
        for id in ids {
            peer.send(&reset(id, CANCEL)).unwrap();
        }
        peer.ping();
    }
    gate.open();
    let answer = peer.answer(kept);
    assert_eq!((answer.received, answer.ended), (content.size, true));
    assert_eq!(content.compare(0, &answer.body), Ok(()));
    assert_eq!(upstream.gets(&content.digest()), 1);
}

#[test]
fn streams_above_the_limit_are_refused_and_later_requests_succeed() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 1_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let gate = Gate::new();
    upstream.on(On::path(content.digest()), Reply::new().hold_head(&gate));
    let mut peer = Peer::begin(cache.addr());
    let ids: Vec<u32> = (0..110).map(|_| peer.request("GET", &path, &[])).collect();
    for id in &ids[100..] {
        assert_eq!(peer.answer(*id).reset, Some(REFUSED_STREAM));
    }
    gate.open();
    for id in &ids[..100] {
        peer.answer(*id).expect(&content.bytes());
    }
    peer.get(&path).expect(&content.bytes());
}

#[test]
fn a_stop_sends_goaway_and_finishes_running_responses() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 3_000_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let gate = Gate::new();
    upstream.on(On::path(content.digest()), Reply::new().hold_at(1_500_000, &gate));
    let mut idle = Peer::begin(cache.addr());
    idle.get("/v2/").expect(b"{}");
    let mut fresh = Peer::begin(cache.addr());
    let mut busy = Peer::begin(cache.addr());
    let id = busy.request("GET", &path, &[]);
    busy.head(id);
    cache.sigterm();
    for peer in [&mut idle, &mut fresh] {
        peer.until_ended();
        assert_eq!(peer.goaways.last().map(|(_, code)| *code), Some(NO_ERROR));
    }
    while busy.step().unwrap().kind != GOAWAY {}
    gate.open();
    let answer = busy.answer(id);
    assert_eq!((answer.received, answer.ended), (content.size, true));
    assert_eq!(content.compare(0, &answer.body), Ok(()));
    let why = busy.until_ended();
    assert!(matches!(why, Why::NoResponse | Why::Truncated), "{why:?}");
    // The first GOAWAY announces the shutdown, the last contains the last processed stream.
    assert_eq!(busy.goaways.first(), Some(&(i32::MAX as u32, NO_ERROR)));
    assert_eq!(busy.goaways.last(), Some(&(id, NO_ERROR)));
    let status = cache.wait_exit(PATIENCE).expect("the server exits");
    assert!(status.success(), "{status:?}");
}

#[test]
fn every_request_has_its_line_in_the_log() {
    let (_upstream, cache, content, path) = stored(9_000);
    wait_hit(&cache, &path);
    let mut peer = Peer::begin(cache.addr());
    let id = peer.request("GET", &path, &[("user-agent", "h2 client/1")]);
    peer.answer(id).expect(&content.bytes());
    cache.wait_stderr(&format!(" path={path} status=200 bytes=9000 "));
    cache.wait_stderr("result=hit user_agent=\"h2 client/1\"\n");
    let id = peer.request("PUT", "/v2/a/manifests/v9", &[]);
    peer.answer(id);
    cache.wait_stderr("reference=v9 path=/v2/a/manifests/v9 status=405");
}

#[test]
fn idle_connections_cost_little() {
    const CONNECTIONS: usize = 500;
    /// The specified limit is 200 MiB for 10,000 connections without a request. 500 connections get
    /// a twentieth.
    const GROWTH_MAX: u64 = 10 * 1024 * 1024;
    /// A response leaves the stream's slot and the HPACK table entries.
    const ANSWERED_MAX: u64 = GROWTH_MAX + CONNECTIONS as u64 * 6 * 1024;
    raise_file_limit();
    let cache = Server::bare().start();
    Peer::begin(cache.addr()).get("/v2/").expect(b"{}");
    let (idle, files) = (cache.rss_bytes(), cache.open_files());
    let grown = |what: &str| {
        let grown = cache.rss_bytes().saturating_sub(idle);
        eprintln!("{} bytes for each connection {what}", grown / CONNECTIONS as u64);
        grown
    };
    let mut peers: Vec<Peer> = (0..CONNECTIONS).map(|_| Peer::begin(cache.addr())).collect();
    let begun = grown("after the handshake");
    for peer in &mut peers {
        peer.get("/v2/").expect(b"{}");
    }
    let answered = grown("after one response");
    assert!(
        begun <= GROWTH_MAX,
        "memory grew by {begun} bytes after the handshakes"
    );
    assert!(
        answered <= ANSWERED_MAX,
        "memory grew by {answered} bytes after the responses"
    );
    drop(peers);
    eventually("every connection is closed", || cache.open_files() <= files + 2);
}

#[test]
#[ignore = "waits 60 s for the send limit, and 75 s for the idle limit"]
fn streams_without_a_window_time_out_alone_and_the_idle_connection_later() {
    let (_upstream, cache, content, path) = stored(5_000_000);
    let mut peer = Peer::begin_with(cache.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
    let begun = Instant::now();
    let stalled = peer.request("GET", &path, &[]);
    let small = peer.request("GET", "/v2/", &[]);
    for id in [stalled, small] {
        let answer = peer.answer(id);
        assert_eq!((answer.reset, answer.received), (Some(CANCEL), 0));
    }
    assert!(begun.elapsed() + Duration::from_secs(1) > SEND_STALL && begun.elapsed() < SEND_STALL + LATE);
    peer.send(&settings(&[(INITIAL_WINDOW_SIZE, 65_535)])).unwrap();
    let asked = Instant::now();
    let answer = peer.get(&path);
    assert_eq!((answer.received, answer.ended), (content.size, true));
    let idle = Instant::now();
    assert_eq!(peer.until_closed().0, Some(NO_ERROR));
    assert!(asked.elapsed() >= IDLE && idle.elapsed() < IDLE + LATE);
}

#[test]
#[ignore = "waits 60 s for the send limit"]
fn an_http2_client_that_reads_nothing_is_disconnected() {
    let (_upstream, cache, _content, path) = stored(32 * 1024 * 1024);
    let files = cache.open_files();
    let mut peer = Peer::begin_with(cache.addr(), &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]);
    peer.send(&window_update(0, 0x7000_0000)).unwrap();
    for _ in 0..4 {
        peer.request("GET", &path, &[]);
    }
    std::thread::sleep(SEND_STALL + LATE);
    eventually("the connection is closed", || cache.open_files() <= files);
}
