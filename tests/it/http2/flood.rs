//! HTTP/2 floods. The server closes the flooding connection, uses little memory, and serves other
//! clients meanwhile.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::Why;
use crate::harness::disk::{SmallDisk, on_tmpfs};
use crate::harness::h2::*;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// The specified limit is a second. Two busy cores and a debug build may need more.
const SOON: Duration = Duration::from_secs(10);

/// The maximum growth of the server's memory by a flood.
const GROWTH_MAX: u64 = 16 * MIB;

/// The maximum number of bytes sent by a flood.
const FLOOD_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Sends the pieces as fast as possible until the server closes. Returns the code of the server's
/// GOAWAY.
///
/// Meanwhile, other clients are served, and the server's memory is measured.
fn flood(name: &str, hello: &[(u16, u32)], mut piece: impl FnMut(u32) -> Vec<u8> + Send) -> Option<u32> {
    let cache = Server::bare().start();
    cache.client().get("/v2/").expect(b"{}");
    let mut peer = Peer::begin_with(cache.addr(), hello);
    peer.get("/v2/").expect(b"{}");
    let before = cache.rss_bytes();
    let mut writer = peer.writer();
    let ended = AtomicBool::new(false);
    let begun = Instant::now();
    let (code, why, took) = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut sent = 0;
            for turn in 0.. {
                let bytes = piece(turn);
                sent += bytes.len();
                if ended.load(Ordering::Relaxed)
                    || sent > FLOOD_BYTES_MAX
                    || writer.write_all(&bytes).is_err()
                {
                    return;
                }
            }
        });
        scope.spawn(|| {
            // Other clients, over HTTP/2 and HTTP/1.1.
            let mut beside = Peer::begin(cache.addr());
            while !ended.load(Ordering::Relaxed) {
                beside.get("/v2/").expect(b"{}");
                cache.client().get("/v2/").expect(b"{}");
            }
        });
        let (code, why) = peer.until_closed();
        let took = begun.elapsed();
        ended.store(true, Ordering::Relaxed);
        (code, why, took)
    });
    let grown = cache.rss_peak_bytes().saturating_sub(before);
    eprintln!("{name}: {code:?}, {why:?} after {took:?}, memory grew by {grown} bytes");
    assert!(
        matches!(why, Why::NoResponse | Why::Truncated | Why::Reset),
        "{name}: {why:?}"
    );
    assert!(took < SOON, "{name}: {took:?}");
    assert!(grown < GROWTH_MAX, "{name}: memory grew by {grown} bytes");
    cache.client().get("/v2/").expect(b"{}");
    code
}

/// Expects ENHANCE_YOUR_CALM. A reset may have destroyed the frame with the code.
fn expect_calm(name: &str, code: Option<u32>) {
    assert!(matches!(code, Some(ENHANCE_YOUR_CALM) | None), "{name}: {code:?}");
}

/// Repeats a frame 200 times per piece.
fn again(frame: &Frame) -> impl FnMut(u32) -> Vec<u8> + Send + use<> {
    let bytes = frame.bytes().repeat(200);
    move |_| bytes.clone()
}

fn request(id: u32, flags: u8, fields: &[(&str, &str)]) -> Vec<u8> {
    Frame::new(HEADERS, flags, id, request_block("GET", "/v2/", fields)).bytes()
}

#[test]
fn a_rapid_reset_flood_closes_the_connection() {
    let code = flood("rapid reset", &[], |turn| {
        (0..100)
            .flat_map(|n| {
                let id = 2 * (turn * 100 + n) + 101;
                [
                    request(id, END_STREAM | END_HEADERS, &[]),
                    reset(id, CANCEL).bytes(),
                ]
                .concat()
            })
            .collect()
    });
    expect_calm("rapid reset", code);
}

#[test]
fn a_flood_of_stream_errors_closes_the_connection() {
    // Window overflows, malformed requests and late frames are stream errors that require an
    // RST_STREAM.
    let overflow = flood("made you reset, overflow", &[], |turn| {
        let id = 2 * turn + 101;
        [
            request(id, END_HEADERS, &[]),
            window_update(id, 0x7fff_ffff).bytes(),
            window_update(id, 0x7fff_ffff).bytes(),
        ]
        .concat()
    });
    expect_calm("made you reset, overflow", overflow);
    let malformed = flood("made you reset, malformed", &[], |turn| {
        request(
            2 * turn + 101,
            END_STREAM | END_HEADERS,
            &[("connection", "close")],
        )
    });
    expect_calm("made you reset, malformed", malformed);
    let behind = flood("made you reset, frames after the end", &[], |turn| {
        let id = 2 * turn + 101;
        [
            request(id, END_STREAM | END_HEADERS, &[]),
            Frame::new(DATA, 0, id, *b"more").bytes(),
        ]
        .concat()
    });
    assert!(
        matches!(behind, None | Some(ENHANCE_YOUR_CALM | STREAM_CLOSED)),
        "{behind:?}"
    );
}

#[test]
fn an_endless_header_block_closes_the_connection() {
    for (name, payload) in [("empty", 0), ("small", 1), ("large", 16_000)] {
        let field = [&[0, 1, b'a', 0x7f, 0x81, 0x7c][..], &vec![b'v'; 15_994]].concat();
        let code = flood(&format!("CONTINUATION, {name}"), &[], move |turn| {
            let mut bytes = Vec::new();
            if turn == 0 {
                let block = request_block("GET", "/v2/", &[]);
                bytes = Frame::new(HEADERS, END_STREAM, 101, block).bytes();
            }
            bytes.extend(Frame::new(CONTINUATION, 0, 101, &field[..payload.min(field.len())]).bytes());
            bytes
        });
        assert!(
            matches!(
                code,
                None | Some(ENHANCE_YOUR_CALM | PROTOCOL_ERROR | COMPRESSION_ERROR)
            ),
            "{name}: {code:?}"
        );
    }
}

#[test]
fn a_flood_of_control_frames_closes_the_connection() {
    for (name, frame) in [
        ("PING", Frame::new(PING, 0, 0, [7; 8])),
        ("PING acknowledgements", Frame::new(PING, ACK, 0, [7; 8])),
        ("SETTINGS", settings(&[])),
        (
            "SETTINGS with values",
            settings(&[(HEADER_TABLE_SIZE, 0), (HEADER_TABLE_SIZE, 4096)]),
        ),
        ("PRIORITY", Frame::new(PRIORITY, 0, 7, [0, 0, 0, 0, 1])),
        ("WINDOW_UPDATE", window_update(0, 1)),
        ("unknown frames", Frame::new(0xbe, 0, 0, [])),
    ] {
        let code = flood(name, &[], again(&frame));
        let settled = name == "WINDOW_UPDATE" || name == "PING acknowledgements";
        assert!(
            settled || matches!(code, Some(ENHANCE_YOUR_CALM) | None),
            "{name}: {code:?}"
        );
    }
}

#[test]
fn unread_control_frame_replies_do_not_fill_memory() {
    for (name, frame) in [
        ("PING", Frame::new(PING, 0, 0, [7; 8])),
        ("SETTINGS", settings(&[])),
    ] {
        let cache = Server::bare().start();
        let mut peer = Peer::begin(cache.addr());
        let before = cache.rss_bytes();
        let bytes = frame.bytes().repeat(200);
        let begun = Instant::now();
        let mut sent = 0;
        while peer.raw(&bytes).is_ok() {
            sent += bytes.len();
            assert!(
                sent < FLOOD_BYTES_MAX && begun.elapsed() < SOON,
                "{name}: {sent} bytes"
            );
        }
        let grown = cache.rss_peak_bytes().saturating_sub(before);
        assert!(grown < GROWTH_MAX, "{name}: memory grew by {grown} bytes");
    }
}

#[test]
fn a_flood_of_empty_frames_closes_the_connection() {
    let code = flood("empty DATA", &[], |turn| {
        let mut bytes = Vec::new();
        if turn == 0 {
            bytes = Frame::new(HEADERS, END_HEADERS, 101, request_block("POST", "/v2/", &[])).bytes();
        }
        bytes.extend(Frame::new(DATA, 0, 101, []).bytes().repeat(200));
        bytes
    });
    assert!(
        matches!(code, None | Some(ENHANCE_YOUR_CALM | STREAM_CLOSED)),
        "{code:?}"
    );
    let code = flood("empty HEADERS", &[], |turn| {
        Frame::new(HEADERS, END_STREAM | END_HEADERS, 2 * turn + 101, []).bytes()
    });
    expect_calm("empty HEADERS", code);
    let code = flood("padding only", &[], |turn| {
        let mut bytes = Vec::new();
        if turn == 0 {
            bytes = Frame::new(HEADERS, END_HEADERS, 101, request_block("POST", "/v2/", &[])).bytes();
        }
        bytes.extend(Frame::new(DATA, PADDED, 101, [3, 0, 0, 0]).bytes().repeat(200));
        bytes
    });
    assert!(
        matches!(code, None | Some(ENHANCE_YOUR_CALM | STREAM_CLOSED)),
        "{code:?}"
    );
}

#[test]
fn an_hpack_bomb_closes_the_connection() {
    // A field of 4 KiB in the table, referenced a thousand times with a byte each.
    let mut block = request_block("GET", "/v2/", &[]);
    block.extend_from_slice(&[0x40, 1, b'a']);
    let mut value = Vec::new();
    hpack::string(&mut value, &[b'v'; 3_900]);
    block.extend_from_slice(&value);
    block.resize(16_000, 0x80 | 62);
    let cache = Server::bare().start();
    cache.client().get("/v2/").expect(b"{}");
    let before = cache.rss_bytes();
    for _ in 0..20 {
        let mut peer = Peer::begin(cache.addr());
        for _ in 0..20 {
            let id = peer.next_id();
            if peer
                .send(&Frame::new(HEADERS, END_STREAM | END_HEADERS, id, block.clone()))
                .is_err()
            {
                break;
            }
        }
        let (code, _) = peer.until_closed();
        expect_calm("HPACK bomb", code);
    }
    let grown = cache.rss_peak_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX, "memory grew by {grown} bytes");
    cache.client().get("/v2/").expect(b"{}");
}

#[test]
fn streams_that_are_given_no_window_hold_no_memory() {
    let upstream = Registry::new();
    hold_no_memory(&upstream, &Server::start(&upstream));
}

/// Helper threads read files on a tmpfs. Their bytes wait for space in the connection's buffer.
#[test]
fn streams_of_a_file_that_helper_threads_read_hold_no_memory() {
    let Some(disk) = SmallDisk::mount(64 * MIB) else {
        return;
    };
    let upstream = Registry::new();
    let cache = Server::options(&upstream).root(&disk.path.join("store")).start();
    hold_no_memory(&upstream, &cache);
}

fn hold_no_memory(upstream: &Registry, cache: &Server) {
    let content = PseudoRandom::new(fresh_seed(), 20_000_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    cache.wait_stored(&content.digest());
    let before = cache.rss_bytes();
    let mut holders = Vec::new();
    for _ in 0..30 {
        let mut peer = Peer::begin_with(cache.addr(), &[(INITIAL_WINDOW_SIZE, 0)]);
        for _ in 0..100 {
            peer.request("GET", &path, &[]);
        }
        holders.push(peer);
    }
    for peer in &mut holders {
        peer.head(199);
    }
    let grown = cache.rss_peak_bytes().saturating_sub(before);
    assert!(
        grown < 3 * GROWTH_MAX,
        "memory grew by {grown} bytes for 3,000 streams"
    );
    // All streams have a window, but no client reads. Only socket buffers and connection outboxes
    // may hold data.
    for peer in &mut holders {
        peer.send(&settings(&[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]))
            .unwrap();
        peer.send(&window_update(0, 0x7000_0000)).unwrap();
    }
    let mut beside = Peer::begin(cache.addr());
    for _ in 0..20 {
        beside.get("/v2/").expect(b"{}");
    }
    let grown = cache.rss_peak_bytes().saturating_sub(before);
    // Helper threads read the files of a tmpfs. Without a limit, each stream of such a file holds
    // 64 KiB, 192 MiB in total. With the limit, the streams hold 15 MiB, and the allocator retains
    // memory for threads.
    let held_max = if on_tmpfs(cache.root()) {
        128 * MIB
    } else {
        80 * MIB
    };
    assert!(
        grown < held_max,
        "memory grew by {grown} bytes for 30 connections"
    );
}

#[test]
fn fast_regular_clients_are_not_treated_as_a_flood() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 9_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    let mut peer = Peer::begin(cache.addr());
    // Repeatedly sends a hundred concurrent requests, with a PRIORITY frame each and two
    // WINDOW_UPDATEs per DATA frame.
    for _ in 0..60 {
        let ids: Vec<u32> = (0..100)
            .map(|_| {
                let id = peer.request("GET", &path, &[]);
                peer.send(&Frame::new(PRIORITY, 0, id, [0, 0, 0, 0, 9])).unwrap();
                id
            })
            .collect();
        for id in ids {
            peer.answer(id).expect(&content.bytes());
        }
        peer.ping();
    }
}
