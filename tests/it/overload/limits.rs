//! Limits are exact, and a client over a limit does not disturb other clients.

use std::time::{Duration, Instant};

use crate::harness::client::{Why, request_bytes};
use crate::harness::*;

const HEAD_BYTES_MAX: usize = 64 * 1024;
const FIELDS_MAX: usize = 100;
const TARGET_BYTES_MAX: usize = 8 * 1024;
const METHOD_BYTES_MAX: usize = 32;
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(75);
const SEND_STALL: Duration = Duration::from_secs(60);
/// Tolerance of a deadline on a busy test machine.
const LATE: Duration = Duration::from_secs(20);

/// Returns a request for `/v2/` of exactly `bytes` bytes with `fields` field lines, including
/// `Host`.
fn head_of(bytes: usize, fields: usize) -> Vec<u8> {
    let mut head = b"GET /v2/ HTTP/1.1\r\nHost: x\r\n".to_vec();
    let left = bytes - head.len() - 2;
    let each = left / (fields - 1);
    for n in 0..fields - 1 {
        let len = if n == 0 { left - each * (fields - 2) } else { each };
        let name = format!("X{n}: ");
        head.extend_from_slice(name.as_bytes());
        head.resize(head.len() + len - name.len() - 2, b'v');
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    assert_eq!(head.len(), bytes);
    head
}

/// Sends `head` and a second, valid request after it. Returns the statuses of the responses.
fn statuses(cache: &Server, head: &[u8]) -> Vec<u16> {
    let mut connection = cache.client().open();
    // After a rejection, the server may have closed the connection already.
    let _ = connection.send(head);
    let _ = connection.send(&request_bytes("GET", "/v2/", &[("Connection", "close")]));
    let mut statuses = Vec::new();
    loop {
        match connection.read("GET") {
            Ok(response) => statuses.push(response.status),
            Err(broken) => {
                assert!(matches!(broken.why, Why::NoResponse | Why::Reset), "{broken:?}");
                return statuses;
            }
        }
    }
}

#[test]
fn the_head_may_have_64_kib_and_not_a_byte_more() {
    let cache = Server::bare().start();
    for (bytes, good) in [
        (200, true),
        (HEAD_BYTES_MAX - 1, true),
        (HEAD_BYTES_MAX, true),
        (HEAD_BYTES_MAX + 1, false),
    ] {
        let got = statuses(&cache, &head_of(bytes, 20));
        assert_eq!(
            got,
            if good { vec![200, 200] } else { vec![431] },
            "a head of {bytes} bytes"
        );
    }
    assert_eq!(statuses(&cache, &head_of(4 * HEAD_BYTES_MAX, 20)), [431]);
}

#[test]
fn the_head_may_have_100_fields_and_not_one_more() {
    let cache = Server::bare().start();
    for (fields, good) in [
        (FIELDS_MAX - 1, true),
        (FIELDS_MAX, true),
        (FIELDS_MAX + 1, false),
    ] {
        let got = statuses(&cache, &head_of(4_000, fields));
        assert_eq!(
            got,
            if good { vec![200, 200] } else { vec![431] },
            "a head with {fields} fields"
        );
    }
}

#[test]
fn the_target_may_have_8_kib_and_not_a_byte_more() {
    let cache = Server::bare().start();
    for (bytes, good) in [
        (TARGET_BYTES_MAX - 1, true),
        (TARGET_BYTES_MAX, true),
        (TARGET_BYTES_MAX + 1, false),
    ] {
        let target = format!("/v2/?{}", "x".repeat(bytes - 5));
        let got = statuses(&cache, &request_bytes("GET", &target, &[]));
        if good {
            assert_eq!(got, [200, 200], "a head of {bytes} bytes");
        } else {
            assert_eq!(got, [414], "a head of {bytes} bytes");
        }
    }
}

#[test]
fn the_method_may_have_32_bytes_and_not_one_more() {
    let cache = Server::bare().start();
    for (bytes, good) in [
        (METHOD_BYTES_MAX - 1, true),
        (METHOD_BYTES_MAX, true),
        (METHOD_BYTES_MAX + 1, false),
    ] {
        let got = statuses(&cache, &request_bytes(&"M".repeat(bytes), "/v2/", &[]));
        // An unknown method is a complete request, so the server also answers the next request.
        assert_eq!(
            got,
            if good { vec![405, 200] } else { vec![501] },
            "a head of {bytes} bytes"
        );
    }
}

#[test]
fn ambiguous_request_head_is_rejected_and_the_connection_closed() {
    let cache = Server::bare().start();
    for head in [
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello",
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\nhello",
        "GET /v2/ HTTP/1.1\nHost: x\n\n",
        "GET /v2/ HTTP/1.1\r\nHost : x\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        "GET http://other/v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v2/ HTTP/2.0\r\nHost: x\r\n\r\n",
        "GET  /v2/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v2/\0 HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: x\r\nX: a\rb\r\n\r\n",
    ] {
        let got = statuses(&cache, head.as_bytes());
        assert_eq!(got.len(), 1, "{head:?}: {got:?}");
        assert!(
            (400..=505).contains(&got[0]) && got[0] != 500,
            "{head:?}: {got:?}"
        );
    }
}

#[test]
fn a_head_that_does_not_arrive_in_time_ends_its_connection() {
    let cache = Server::bare().start();
    std::thread::scope(|scope| {
        // A client stalls in the middle, and another sends single bytes. The deadline covers the time
        // from the first byte to the last.
        for drip in [false, true] {
            let cache = &cache;
            scope.spawn(move || {
                let mut connection = cache.client().open();
                let started = Instant::now();
                connection.send(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX: ").unwrap();
                connection.set_read_timeout(Duration::from_millis(200));
                let (status, took) = loop {
                    match connection.read("GET") {
                        Ok(response) => break (Some(response.status), started.elapsed()),
                        Err(Broken {
                            why: Why::Timeout, ..
                        }) => {
                            assert!(
                                started.elapsed() < HEAD_DEADLINE + LATE,
                                "the connection is open after the head deadline"
                            );
                            if drip {
                                let _ = connection.send(b"x");
                            }
                        }
                        Err(_) => break (None, started.elapsed()),
                    }
                };
                assert!(matches!(status, None | Some(408)), "{status:?}");
                assert!(
                    took + Duration::from_millis(500) > HEAD_DEADLINE,
                    "drip {drip}: after {took:?}"
                );
            });
        }
        // Meanwhile the server serves other clients.
        for _ in 0..20 {
            cache.client().get("/v2/").expect(b"{}");
        }
    });
}

#[test]
#[ignore = "waits 75 s for the idle limit"]
fn idle_connection_is_closed_without_a_response() {
    let cache = Server::bare().start();
    let mut connection = cache.client().open();
    let started = Instant::now();
    connection.request("GET", "/v2/", &[]).unwrap();
    connection.read("GET").unwrap();
    connection.set_read_timeout(IDLE + LATE);
    assert_eq!(connection.read_to_close(), (Vec::new(), Why::Truncated));
    assert!(started.elapsed() >= IDLE, "{:?}", started.elapsed());
}

#[test]
#[ignore = "waits 60 s for the send limit"]
fn client_that_reads_nothing_is_closed_at_the_send_limit() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 64 * 1024 * 1024);
    let digest = upstream.blob(content);
    let mut connection = Connection::open_narrow(cache.addr(), 4096).unwrap();
    let files = cache.open_files();
    connection
        .request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    connection.read_head().unwrap();
    std::thread::sleep(SEND_STALL + LATE);
    eventually("the connection is closed", || cache.open_files() <= files);
}

#[test]
fn a_thousand_idle_connections_cost_little_and_other_clients_are_served() {
    const CONNECTIONS: usize = 1_000;
    /// The documented cost is 60 MiB for 10,000 connections. A tenth of the value, and some MiB for
    /// the allocator.
    const GROWTH_MAX: u64 = 12 * 1024 * 1024;
    raise_file_limit();
    let cache = Server::bare().start();
    cache.client().get("/v2/").expect(b"{}");
    let (idle, files) = (cache.rss_bytes(), cache.open_files());
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| cache.client().open()).collect();
    for connection in &mut connections {
        connection.request("GET", "/v2/", &[]).unwrap();
        connection.read("GET").unwrap().expect(b"{}");
    }
    cache.client().get("/v2/").expect(b"{}");
    let grown = cache.rss_bytes().saturating_sub(idle);
    assert!(grown <= GROWTH_MAX, "memory grew by {grown} bytes");
    drop(connections);
    eventually("every connection is closed", || cache.open_files() <= files + 2);
}

/// The start of a head in the packet of the previous request has the usual deadline.
#[test]
fn a_head_that_begins_behind_a_request_has_a_deadline_too() {
    let cache = Server::bare().start();
    let mut connection = cache.client().open();
    let mut bytes = request_bytes("GET", "/v2/", &[]);
    bytes.extend_from_slice(b"GET /v2/ HT");
    connection.send(&bytes).unwrap();
    connection.read("GET").unwrap().expect(b"{}");
    let begun = Instant::now();
    assert_eq!(connection.read("GET").unwrap().status, 408);
    assert!(begun.elapsed() <= HEAD_DEADLINE + LATE, "{:?}", begun.elapsed());
}
