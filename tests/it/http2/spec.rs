//! Conformance cases for HTTP/2 (RFC 9113) and HPACK (RFC 7541): accepted frames, stream errors and
//! connection errors.
//!
//! If the specification allows a choice between stream error, connection error and close, so do the
//! cases.

use std::time::Duration;

use crate::harness::client::Why;
use crate::harness::h2::*;
use crate::harness::*;

/// The timeout for expected events, fully spent only by failing tests.
const SILENCE: Duration = Duration::from_secs(30);

/// The response is an error with a body of more than a hundred bytes.
const PATH: &str = "/v2/no/such/thing";

enum Expect {
    /// GOAWAY with a code of this list, or a closed connection.
    Connection(&'static [u32]),
    /// RST_STREAM or GOAWAY with a code of this list, or a closed connection.
    Stream(&'static [u32]),
    /// A complete response on this stream.
    Served(u32),
    /// No reaction. The connection still answers a PING.
    Nothing,
}
use Expect::*;

type Case = (&'static str, fn(&mut Peer), Expect);

fn verify(peer: &mut Peer, expect: &Expect) -> Result<(), String> {
    if let Nothing = expect {
        return peer.try_ping().map_err(|why| format!("{why:?}"));
    }
    loop {
        if let Served(id) = expect
            && peer
                .answers
                .get(id)
                .is_some_and(|answer| answer.ended && answer.status != 0)
        {
            return Ok(());
        }
        let frame = match (peer.step(), expect) {
            (Ok(frame), _) => frame,
            (Err(Why::NoResponse | Why::Truncated | Why::Reset), Connection(_) | Stream(_)) => return Ok(()),
            (Err(why), _) => return Err(format!("{why:?}")),
        };
        let wanted = match (frame.kind, expect) {
            (GOAWAY, Connection(codes) | Stream(codes)) | (RST_STREAM, Stream(codes)) => codes,
            (GOAWAY, _) => return Err(format!("{frame:?}")),
            _ => continue,
        };
        return match frame.code() {
            Some(code) if wanted.contains(&code) => Ok(()),
            code => Err(format!("code {code:?}")),
        };
    }
}

#[track_caller]
fn run(cases: &[Case]) {
    let cache = Server::bare().cores(2).start();
    let failures: Vec<String> = std::thread::scope(|scope| {
        let running: Vec<_> = cases
            .iter()
            .map(|(name, act, expect)| {
                let addr = cache.addr();
                scope.spawn(move || {
                    let mut peer = Peer::begin(addr);
                    peer.set_read_timeout(SILENCE);
                    act(&mut peer);
                    // A close is a possible outcome of a case.
                    let _ = peer.release();
                    verify(&mut peer, expect)
                        .err()
                        .map(|why| format!("{name}: {why}"))
                })
            })
            .collect();
        running
            .into_iter()
            .filter_map(|case| case.join().expect("the case does not panic"))
            .collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    Peer::begin(cache.addr()).get("/v2/").expect(b"{}");
}

// Sending to a closed connection fails. A close is a possible outcome of a case, so send errors are
// ignored.

fn send(peer: &mut Peer, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let _ = peer.send(&Frame::new(kind, flags, stream, payload));
}

/// Sends frames in one segment: the server handles all of them before it sends anything.
fn together(peer: &mut Peer, frames: &[Frame]) {
    let bytes: Vec<u8> = frames.iter().flat_map(Frame::bytes).collect();
    let _ = peer.raw(&bytes);
}

fn get(peer: &mut Peer, id: u32, flags: u8) {
    with(peer, id, flags, "GET", &[]);
}

fn post(peer: &mut Peer, id: u32, fields: &[(&str, &str)]) {
    with(peer, id, END_HEADERS, "POST", fields);
}

/// Sends a request. If the request does not end, the following frames of the case are sent with it:
/// the server answers an incomplete request at once, and closes its stream some time later.
fn with(peer: &mut Peer, id: u32, flags: u8, method: &str, fields: &[(&str, &str)]) {
    if flags & END_STREAM == 0 {
        peer.hold();
    }
    send(peer, HEADERS, flags, id, &request_block(method, PATH, fields));
}

const WHOLE: u8 = END_STREAM | END_HEADERS;

/// Sends a request with exactly these fields.
fn exactly(peer: &mut Peer, fields: &[(&str, &str)]) {
    send(peer, HEADERS, WHOLE, 1, &hpack::block(fields));
}

/// Sends a request whose header block ends with `more`.
fn block(peer: &mut Peer, more: &[u8]) {
    let mut block = request_block("GET", PATH, &[]);
    block.extend_from_slice(more);
    send(peer, HEADERS, WHOLE, 1, &block);
}

/// Sends a request and waits for the complete response. The stream is then closed.
fn closed(peer: &mut Peer) {
    get(peer, 1, WHOLE);
    while !peer.answers.get(&1).is_some_and(|answer| answer.ended) {
        peer.step().expect("the server sends a frame");
    }
}

fn reset_stream(peer: &mut Peer) {
    get(peer, 1, END_HEADERS);
    send(peer, RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
}

fn no_window(peer: &mut Peer) {
    let _ = peer.send(&settings(&[(INITIAL_WINDOW_SIZE, 0)]));
}

fn update(peer: &mut Peer, stream: u32, by: u32) {
    let _ = peer.send(&window_update(stream, by));
}

fn set(peer: &mut Peer, name: u16, value: u32) {
    let _ = peer.send(&settings(&[(name, value)]));
}

#[test]
fn valid_frame_sequences_are_accepted() {
    let cases: &[Case] = &[
        (
            "PRIORITY of an idle stream",
            |p| {
                send(p, PRIORITY, 0, 1, &[0, 0, 0, 0, 255]);
                get(p, 1, WHOLE);
            },
            Served(1),
        ),
        (
            "WINDOW_UPDATE after a complete request",
            |p| {
                no_window(p);
                get(p, 1, WHOLE);
                update(p, 1, 10_000);
            },
            Served(1),
        ),
        (
            "PRIORITY after a complete request",
            |p| {
                get(p, 1, WHOLE);
                send(p, PRIORITY, 0, 1, &[0, 0, 0, 0, 255]);
            },
            Served(1),
        ),
        (
            "RST_STREAM after a complete request",
            |p| {
                get(p, 1, WHOLE);
                send(p, RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
            },
            Nothing,
        ),
        (
            "PRIORITY of a closed stream",
            |p| {
                closed(p);
                send(p, PRIORITY, 0, 1, &[0, 0, 0, 0, 255]);
            },
            Nothing,
        ),
        (
            "WINDOW_UPDATE of a closed stream",
            |p| {
                closed(p);
                update(p, 1, 1);
            },
            Nothing,
        ),
        (
            "RST_STREAM of a closed stream",
            |p| {
                closed(p);
                send(p, RST_STREAM, 0, 1, &CANCEL.to_be_bytes());
            },
            Nothing,
        ),
        (
            "DATA",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, END_STREAM, 1, b"test");
            },
            Served(1),
        ),
        (
            "several DATA",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, 0, 1, b"test");
                send(p, DATA, END_STREAM, 1, b"test");
            },
            Served(1),
        ),
        (
            "padded DATA",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, END_STREAM | PADDED, 1, b"\x06test\0\0\0\0\0\0");
            },
            Served(1),
        ),
        (
            "padded HEADERS",
            |p| {
                let block = [&[3][..], &request_block("GET", PATH, &[]), &[0; 3]].concat();
                send(p, HEADERS, WHOLE | PADDED, 1, &block);
            },
            Served(1),
        ),
        (
            "HEADERS with a priority",
            |p| {
                let block = [&[0, 0, 0, 0, 255][..], &request_block("GET", PATH, &[])].concat();
                send(p, HEADERS, WHOLE | PRIORITIZED, 1, &block);
            },
            Served(1),
        ),
        (
            "PRIORITY of weight 1, of weight 256, exclusive, on an unknown stream",
            |p| {
                for payload in [
                    [0, 0, 0, 0, 0],
                    [0, 0, 0, 0, 255],
                    [0x80, 0, 0, 0, 9],
                    [0, 0, 0, 77, 9],
                ] {
                    send(p, PRIORITY, 0, 1, &payload);
                }
                get(p, 1, WHOLE);
            },
            Served(1),
        ),
        ("SETTINGS", |p| set(p, INITIAL_WINDOW_SIZE, 100), Nothing),
        ("unknown SETTINGS (6.5.2)", |p| set(p, 0xff, 1), Nothing),
        ("PING", |_| {}, Nothing),
        (
            "GOAWAY",
            |p| send(p, GOAWAY, 0, 0, &[0; 8]),
            Connection(&[NO_ERROR]),
        ),
        ("WINDOW_UPDATE of the connection", |p| update(p, 0, 1), Nothing),
        (
            "CONTINUATION",
            |p| {
                let block = request_block("GET", PATH, &[("x", "y")]);
                send(p, HEADERS, END_STREAM, 1, &block[..20]);
                send(p, CONTINUATION, END_HEADERS, 1, &block[20..]);
            },
            Served(1),
        ),
        (
            "several CONTINUATION",
            |p| {
                let block = request_block("GET", PATH, &[("x", "y")]);
                send(p, HEADERS, END_STREAM, 1, &block[..20]);
                send(p, CONTINUATION, 0, 1, &block[20..21]);
                send(p, CONTINUATION, END_HEADERS, 1, &block[21..]);
            },
            Served(1),
        ),
        ("HEAD", |p| with(p, 1, WHOLE, "HEAD", &[]), Served(1)),
        ("POST", |p| with(p, 1, WHOLE, "POST", &[]), Served(1)),
        (
            "POST with trailers",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, 0, 1, b"test");
                send(p, HEADERS, WHOLE, 1, &hpack::block(&[("x-test", "ok")]));
            },
            Served(1),
        ),
        (
            "4.1 a frame of an unknown type",
            |p| send(p, 0xff, 0, 0, &[0; 8]),
            Nothing,
        ),
        ("4.1 unknown flags", |p| send(p, PING, 0x16, 0, &[0; 8]), Nothing),
        (
            "4.1 the reserved bit",
            |p| send(p, PING, 0, 0x8000_0000, &[0; 8]),
            Nothing,
        ),
        (
            "4.2 a frame of 16,384 bytes",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, END_STREAM, 1, &[0; 16_384]);
            },
            Served(1),
        ),
        (
            "5.5 an extension between frames",
            |p| {
                send(p, 0x16, 0, 1, &[0; 8]);
                get(p, 1, WHOLE);
            },
            Served(1),
        ),
        (
            "6.5.3 the last of two values is effective",
            |p| {
                let _ = p.send(&settings(&[
                    (INITIAL_WINDOW_SIZE, 0),
                    (INITIAL_WINDOW_SIZE, 65_535),
                ]));
                p.generous = false;
                get(p, 1, WHOLE);
            },
            Served(1),
        ),
        (
            "6.7 a PING acknowledgement without a PING",
            |p| send(p, PING, ACK, 0, &[0; 8]),
            Nothing,
        ),
        (
            "7 GOAWAY with an unknown code",
            |p| {
                send(p, GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]);
            },
            Connection(&[NO_ERROR]),
        ),
        (
            "7 RST_STREAM with an unknown code",
            |p| {
                get(p, 1, END_HEADERS);
                send(p, RST_STREAM, 0, 1, &[0, 0, 0, 0xff]);
            },
            Nothing,
        ),
        (
            "8.1.2.2 te with trailers",
            |p| with(p, 1, WHOLE, "GET", &[("te", "trailers")]),
            Served(1),
        ),
    ];
    run(cases);
}

#[test]
fn malformed_frames_get_the_specified_error_code() {
    let cases: &[Case] = &[
        (
            "4.2 DATA that is too long",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, END_STREAM, 1, &[0; 16_385]);
            },
            Stream(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.2 HEADERS that are too long",
            |p| {
                with(p, 1, WHOLE, "GET", &[("x", &"y".repeat(16_385))]);
            },
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "4.3 an invalid header block",
            |p| send(p, HEADERS, WHOLE, 1, &[0x82, 0x40, 0xff]),
            Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "4.3 PRIORITY inside a header block",
            |p| {
                get(p, 1, END_STREAM);
                send(p, PRIORITY, 0, 1, &[0, 0, 0, 0, 255]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "4.3 HEADERS of another stream inside a header block",
            |p| {
                get(p, 1, END_STREAM);
                get(p, 3, WHOLE);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.5 an extension inside a header block",
            |p| {
                get(p, 1, END_STREAM);
                send(p, 0x16, 0, 0, &[0; 8]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 DATA on stream 0",
            |p| send(p, DATA, END_STREAM, 0, b"test"),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 DATA with more padding than payload",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, END_STREAM | PADDED, 1, b"\x06test");
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.2 PRIORITY before the end of HEADERS",
            |p| {
                get(p, 1, END_STREAM);
                send(p, PRIORITY, 0, 1, &[0, 0, 0, 0, 255]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.2 HEADERS on stream 0",
            |p| get(p, 0, WHOLE),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.2 HEADERS with more padding than payload",
            |p| {
                let block = [&[200][..], &request_block("GET", PATH, &[])].concat();
                send(p, HEADERS, WHOLE | PADDED, 1, &block);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.3 PRIORITY on stream 0",
            |p| send(p, PRIORITY, 0, 0, &[0, 0, 0, 0, 255]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.3 PRIORITY of a wrong length",
            |p| {
                get(p, 1, END_HEADERS);
                send(p, PRIORITY, 0, 1, &[0, 0, 0, 1]);
            },
            Stream(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.4 RST_STREAM on stream 0",
            |p| send(p, RST_STREAM, 0, 0, &CANCEL.to_be_bytes()),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.4 RST_STREAM of an idle stream",
            |p| send(p, RST_STREAM, 0, 1, &CANCEL.to_be_bytes()),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.4 RST_STREAM of a wrong length",
            |p| {
                get(p, 1, END_HEADERS);
                send(p, RST_STREAM, 0, 1, &[0, 0, 0]);
            },
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.5 an acknowledgement with values",
            |p| send(p, SETTINGS, ACK, 0, &[0; 6]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.5 an acknowledgement without SETTINGS",
            |p| send(p, SETTINGS, ACK, 0, &[]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5 SETTINGS on a stream",
            |p| send(p, SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5 SETTINGS of a wrong length",
            |p| send(p, SETTINGS, 0, 0, &[0, 3, 0]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.5.2 ENABLE_PUSH of 2",
            |p| set(p, 2, 2),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 INITIAL_WINDOW_SIZE of 2^31",
            |p| set(p, INITIAL_WINDOW_SIZE, 1 << 31),
            Connection(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE below the minimum",
            |p| set(p, MAX_FRAME_SIZE, 16_383),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.5.2 MAX_FRAME_SIZE above the maximum",
            |p| set(p, MAX_FRAME_SIZE, 1 << 24),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.7 PING on a stream",
            |p| send(p, PING, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.7 PING of a wrong length",
            |p| send(p, PING, 0, 0, &[0; 6]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.8 GOAWAY on a stream",
            |p| send(p, GOAWAY, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of the connection by 0",
            |p| update(p, 0, 0),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of a stream by 0",
            |p| {
                get(p, 1, END_HEADERS);
                update(p, 1, 0);
            },
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "6.9 WINDOW_UPDATE of a wrong length",
            |p| send(p, WINDOW_UPDATE, 0, 0, &[0, 0, 1]),
            Connection(&[FRAME_SIZE_ERROR]),
        ),
        (
            "6.9.1 a window of the connection above the maximum",
            |p| {
                update(p, 0, i32::MAX as u32);
                update(p, 0, i32::MAX as u32);
            },
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.1 a window of a stream above the maximum",
            |p| {
                no_window(p);
                get(p, 1, WHOLE);
                // Sends both frames together. Otherwise the server could send the body in between,
                // and the stream would be closed.
                together(
                    p,
                    &[
                        window_update(1, i32::MAX as u32),
                        window_update(1, i32::MAX as u32),
                    ],
                );
            },
            Stream(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.9.2 a setting that raises a window above the maximum",
            |p| {
                no_window(p);
                get(p, 1, END_HEADERS);
                p.head(1);
                // Sends both frames together. Otherwise the server could send the body in between,
                // and the stream would be closed.
                let most = i32::MAX as u32;
                together(
                    p,
                    &[window_update(1, most), settings(&[(INITIAL_WINDOW_SIZE, most)])],
                );
            },
            Connection(&[FLOW_CONTROL_ERROR]),
        ),
        (
            "6.10 an interrupted CONTINUATION",
            |p| {
                get(p, 1, END_STREAM);
                send(p, CONTINUATION, 0, 1, &[]);
                send(p, DATA, END_STREAM, 1, b"test");
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION on stream 0",
            |p| {
                get(p, 1, END_STREAM);
                send(p, CONTINUATION, END_HEADERS, 0, &[]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION of another stream",
            |p| {
                get(p, 1, END_STREAM);
                send(p, CONTINUATION, END_HEADERS, 3, &[]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION after complete HEADERS",
            |p| {
                get(p, 1, END_HEADERS);
                send(p, CONTINUATION, END_HEADERS, 1, &[]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION after a complete CONTINUATION",
            |p| {
                get(p, 1, 0);
                send(p, CONTINUATION, END_HEADERS, 1, &[]);
                send(p, CONTINUATION, END_HEADERS, 1, &[]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "6.10 CONTINUATION after DATA",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, END_STREAM, 1, b"test");
                send(p, CONTINUATION, END_HEADERS, 1, &[]);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "8.4 PUSH_PROMISE from a client",
            |p| {
                let promise = [&[0, 0, 0, 2][..], &request_block("GET", PATH, &[])].concat();
                get(p, 1, END_HEADERS);
                send(p, PUSH_PROMISE, END_HEADERS, 1, &promise);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
    ];
    run(cases);
}

#[test]
fn frames_in_a_wrong_stream_state_are_errors() {
    let cases: &[Case] = &[
        (
            "5.1 idle: DATA",
            |p| send(p, DATA, END_STREAM, 1, b"test"),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: RST_STREAM",
            |p| send(p, RST_STREAM, 0, 1, &CANCEL.to_be_bytes()),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: WINDOW_UPDATE",
            |p| update(p, 1, 100),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 idle: CONTINUATION",
            |p| send(p, CONTINUATION, END_HEADERS, 1, &request_block("GET", PATH, &[])),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1 half-closed: DATA",
            |p| {
                no_window(p);
                get(p, 1, WHOLE);
                send(p, DATA, END_STREAM, 1, b"test");
            },
            Stream(&[STREAM_CLOSED]),
        ),
        (
            "5.1 half-closed: HEADERS",
            |p| {
                no_window(p);
                get(p, 1, WHOLE);
                get(p, 1, WHOLE);
            },
            Stream(&[STREAM_CLOSED]),
        ),
        (
            "5.1 half-closed: CONTINUATION",
            |p| {
                no_window(p);
                get(p, 1, WHOLE);
                send(p, CONTINUATION, END_HEADERS, 1, &[]);
            },
            Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 reset: DATA",
            |p| {
                reset_stream(p);
                send(p, DATA, END_STREAM, 1, b"test");
            },
            Stream(&[STREAM_CLOSED]),
        ),
        (
            "5.1 reset: HEADERS",
            |p| {
                reset_stream(p);
                get(p, 1, WHOLE);
            },
            Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 reset: CONTINUATION",
            |p| {
                reset_stream(p);
                send(p, CONTINUATION, END_HEADERS, 1, &[]);
            },
            Stream(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 closed: DATA",
            |p| {
                closed(p);
                send(p, DATA, END_STREAM, 1, b"test");
            },
            Stream(&[STREAM_CLOSED]),
        ),
        (
            "5.1 closed: HEADERS",
            |p| {
                closed(p);
                get(p, 1, WHOLE);
            },
            Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1 closed: CONTINUATION",
            |p| {
                closed(p);
                send(p, CONTINUATION, END_HEADERS, 1, &[]);
            },
            Connection(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        (
            "5.1.1 an even stream identifier",
            |p| get(p, 2, WHOLE),
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1.1 a stream identifier below a used identifier",
            |p| {
                get(p, 5, WHOLE);
                get(p, 3, WHOLE);
            },
            Connection(&[PROTOCOL_ERROR]),
        ),
        (
            "5.1.2 more streams than permitted",
            |p| {
                no_window(p);
                for n in 0..101 {
                    get(p, 2 * n + 1, WHOLE);
                }
            },
            Stream(&[PROTOCOL_ERROR, REFUSED_STREAM]),
        ),
        (
            "5.3.1 HEADERS that depend on themselves",
            |p| {
                let block = [&[0, 0, 0, 1, 255][..], &request_block("GET", PATH, &[])].concat();
                send(p, HEADERS, WHOLE | PRIORITIZED, 1, &block);
            },
            Stream(&[PROTOCOL_ERROR]),
        ),
        (
            "6.1 DATA after the end",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, END_STREAM, 1, b"test");
                send(p, DATA, END_STREAM, 1, b"test");
            },
            Stream(&[STREAM_CLOSED]),
        ),
    ];
    run(cases);
}

#[test]
fn requests_that_are_malformed_end_their_stream() {
    const M: (&str, &str) = (":method", "GET");
    const S: (&str, &str) = (":scheme", "http");
    const P: (&str, &str) = (":path", "/");
    const A: (&str, &str) = (":authority", "cache.test");
    const BAD: Expect = Stream(&[PROTOCOL_ERROR]);
    let cases: &[Case] = &[
        (
            "8.1 a second HEADERS that does not end",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, 0, 1, b"test");
                send(p, HEADERS, END_HEADERS, 1, &hpack::block(&[("x-test", "ok")]));
            },
            BAD,
        ),
        (
            "8.2.1 a name with upper-case letters",
            |p| with(p, 1, WHOLE, "GET", &[("X-TEST", "ok")]),
            BAD,
        ),
        (
            "8.2.1 a value with a line end",
            |p| with(p, 1, WHOLE, "GET", &[("x-test", "a\r\nb: c")]),
            BAD,
        ),
        (
            "8.2.1 a name with a blank",
            |p| with(p, 1, WHOLE, "GET", &[("x test", "ok")]),
            BAD,
        ),
        (
            "8.3 an unknown pseudo-header field",
            |p| exactly(p, &[M, S, P, A, (":test", "ok")]),
            BAD,
        ),
        (
            "8.3 a pseudo-header field of responses",
            |p| exactly(p, &[M, S, P, A, (":status", "200")]),
            BAD,
        ),
        (
            "8.3 a pseudo-header field in a trailer",
            |p| {
                post(p, 1, &[]);
                send(p, DATA, 0, 1, b"test");
                send(p, HEADERS, WHOLE, 1, &hpack::block(&[(":method", "200")]));
            },
            BAD,
        ),
        (
            "8.3 a pseudo-header field after a field",
            |p| exactly(p, &[M, S, A, ("x-test", "ok"), P]),
            BAD,
        ),
        (
            "8.2.2 connection",
            |p| with(p, 1, WHOLE, "GET", &[("connection", "keep-alive")]),
            BAD,
        ),
        (
            "8.2.2 transfer-encoding",
            |p| with(p, 1, WHOLE, "GET", &[("transfer-encoding", "chunked")]),
            BAD,
        ),
        (
            "8.2.2 upgrade",
            |p| with(p, 1, WHOLE, "GET", &[("upgrade", "websocket")]),
            BAD,
        ),
        (
            "8.2.2 keep-alive",
            |p| with(p, 1, WHOLE, "GET", &[("keep-alive", "timeout=5")]),
            BAD,
        ),
        (
            "8.2.2 te with more than trailers",
            |p| with(p, 1, WHOLE, "GET", &[("te", "trailers, deflate")]),
            BAD,
        ),
        (
            "8.3.1 an empty path",
            |p| exactly(p, &[M, S, (":path", ""), A]),
            BAD,
        ),
        ("8.3.1 no method", |p| exactly(p, &[S, P, A]), BAD),
        ("8.3.1 no scheme", |p| exactly(p, &[M, P, A]), BAD),
        ("8.3.1 no path", |p| exactly(p, &[M, S, A]), BAD),
        ("8.3.1 two methods", |p| exactly(p, &[M, M, S, P, A]), BAD),
        ("8.3.1 two schemes", |p| exactly(p, &[M, S, S, P, A]), BAD),
        ("8.3.1 two paths", |p| exactly(p, &[M, S, P, P, A]), BAD),
        ("8.3.1 two authorities", |p| exactly(p, &[M, S, P, A, A]), BAD),
        (
            "8.1.1 a length that differs from the body",
            |p| {
                post(p, 1, &[("content-length", "1")]);
                send(p, DATA, END_STREAM, 1, b"test");
            },
            BAD,
        ),
        (
            "8.1.1 a length that differs from a body in two frames",
            |p| {
                post(p, 1, &[("content-length", "1")]);
                send(p, DATA, 0, 1, b"te");
                send(p, DATA, END_STREAM, 1, b"st");
            },
            BAD,
        ),
        (
            "8.1.1 a length without a body",
            |p| with(p, 1, WHOLE, "POST", &[("content-length", "4")]),
            BAD,
        ),
        (
            "8.1.1 a body shorter than the length",
            |p| {
                post(p, 1, &[("content-length", "9")]);
                send(p, DATA, END_STREAM, 1, b"test");
            },
            BAD,
        ),
    ];
    run(cases);
}

#[test]
fn valid_hpack_representations_are_decoded_and_invalid_ones_rejected() {
    const BAD: Expect = Connection(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
    let cases: &[Case] = &[
        (
            "2.3.3 an index beyond both tables",
            |p| block(p, &[0x80 | 70]),
            BAD,
        ),
        (
            "2.3.3 a literal whose name is beyond both tables",
            |p| block(p, &[0x40 | 62, 1, b'x']),
            BAD,
        ),
        (
            "4.2 a size update at the end of a block",
            |p| block(p, &[0x21]),
            BAD,
        ),
        (
            "5.2 padding of more than seven bits",
            |p| block(p, &[0, 1, b'x', 0x82, 0x1f, 0xff]),
            BAD,
        ),
        (
            "5.2 padding that differs from the end-of-string code",
            |p| block(p, &[0, 1, b'x', 0x81, 0x18]),
            BAD,
        ),
        (
            "5.2 the end-of-string symbol in a string",
            |p| block(p, &[0, 1, b'x', 0x85, 0x1f, 0xff, 0xff, 0xff, 0xff]),
            BAD,
        ),
        (
            "5.1 an integer without an end",
            |p| block(p, &[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            BAD,
        ),
        ("6.1 index 0", |p| block(p, &[0x80]), BAD),
        (
            "6.3 a table size above SETTINGS_HEADER_TABLE_SIZE",
            |p| {
                let block = [&[0x3f, 0xe2, 0x1f][..], &request_block("GET", PATH, &[])].concat();
                send(p, HEADERS, WHOLE, 1, &block);
            },
            BAD,
        ),
        (
            "6.3 a table size up to SETTINGS_HEADER_TABLE_SIZE",
            |p| {
                let block = [&[0x20, 0x3f, 0xe1, 0x1f][..], &request_block("GET", PATH, &[])].concat();
                send(p, HEADERS, WHOLE, 1, &block);
            },
            Served(1),
        ),
        ("6.1 an indexed field", |p| block(p, &[0x90]), Served(1)),
        (
            "6.2.1 a literal with indexing and an indexed name",
            |p| block(p, &[0x7a, 1, b'x']),
            Served(1),
        ),
        (
            "6.2.1 a literal with indexing, then the new index",
            |p| {
                block(p, &[0x40, 1, b'x', 1, b'y', 0x80 | 62]);
            },
            Served(1),
        ),
        (
            "6.2.1 a string in Huffman code",
            |p| block(p, &[0x40, 1, b'x', 0x81, 0x1f]),
            Served(1),
        ),
        (
            "6.2.2 a literal without indexing and with an indexed name",
            |p| block(p, &[0x0f, 0x2b, 1, b'x']),
            Served(1),
        ),
        (
            "6.2.2 a literal without indexing",
            |p| block(p, &[0, 1, b'x', 1, b'y']),
            Served(1),
        ),
        (
            "6.2.3 a never-indexed literal with an indexed name",
            |p| block(p, &[0x1f, 0x2b, 1, b'x']),
            Served(1),
        ),
        (
            "6.2.3 a never-indexed literal",
            |p| block(p, &[0x10, 1, b'x', 1, b'y']),
            Served(1),
        ),
    ];
    run(cases);
}

#[test]
fn a_connection_without_preface_or_settings_is_closed() {
    let cache = Server::bare().start();
    for (what, bytes) in [
        ("a wrong preface", b"INVALID CONNECTION PREFACE\r\n\r\n".to_vec()),
        (
            "a preface with a wrong end",
            [&PREFACE[..20], b"XX\r\n\r\n\r\n"].concat(),
        ),
    ] {
        let mut peer = Peer::open(cache.addr());
        peer.raw(&bytes).unwrap();
        // The server may answer with HTTP/1.1. Then the connection ends.
        match peer.frame() {
            Ok(_) | Err(Why::Malformed(_) | Why::NoResponse | Why::Truncated) => {}
            Err(why) => panic!("{what}: {why:?}"),
        }
    }
    for (what, frame) in [
        ("PING", Frame::new(PING, 0, 0, [0; 8])),
        (
            "HEADERS",
            Frame::new(HEADERS, WHOLE, 1, request_block("GET", PATH, &[])),
        ),
        ("an acknowledgement", Frame::new(SETTINGS, ACK, 0, [])),
    ] {
        let mut peer = Peer::open(cache.addr());
        peer.raw(&[PREFACE, &frame.bytes()].concat()).unwrap();
        let (code, why) = peer.until_closed();
        assert!(
            matches!(code, Some(PROTOCOL_ERROR) | None),
            "{what}: {code:?}, {why:?}"
        );
    }
}

#[test]
fn a_connection_error_sends_goaway_and_closes() {
    let cache = Server::bare().start();
    let mut peer = Peer::begin(cache.addr());
    send(&mut peer, PING, 0, 0, &[0; 6]);
    let (code, why) = peer.until_closed();
    assert_eq!(code, Some(FRAME_SIZE_ERROR), "{why:?}");
    assert!(matches!(why, Why::NoResponse | Why::Truncated), "{why:?}");
}

#[test]
fn a_negative_window_is_respected() {
    let cache = Server::bare().start();
    let mut peer = Peer::begin_with(cache.addr(), &[(INITIAL_WINDOW_SIZE, 3)]);
    peer.generous = false;
    get(&mut peer, 1, WHOLE);
    while peer.answers.get(&1).is_none_or(|answer| answer.received < 3) {
        peer.step().unwrap();
    }
    set(&mut peer, INITIAL_WINDOW_SIZE, 2);
    update(&mut peer, 1, 2);
    while peer.answers[&1].received < 4 {
        peer.step().unwrap();
    }
    peer.ping();
    assert_eq!(peer.answers[&1].received, 4);
    set(&mut peer, INITIAL_WINDOW_SIZE, 10_000);
    assert!(peer.answer(1).ended);
}
