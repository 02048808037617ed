//! Clients that fetch the parts of a blob in parallel, as containerd does. Each client requests a
//! range without an end, and closes the connection after its part.

use std::time::{Duration, Instant};

use crate::harness::client::Flow;
use crate::harness::h2::{self, Frame, Peer};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
const PARTS: u64 = 4;
const PART: u64 = 4 * MIB;

/// The largest number of bytes sent for a part. Without a limit on unsent or unread bytes, the
/// number is 1.8 to 2 times the part.
const SENT_MAX: u64 = PART * 13 / 10;

/// The receive buffer of a client. The size is fixed, so that the number of wasted bytes does not
/// depend on the machine.
const RECEIVE_BUFFER_BYTES: usize = 128 * 1024;

fn sent(line: &str) -> u64 {
    let (_, rest) = line.split_once(" bytes=").expect("an access log line");
    let digits = rest.split(' ').next().unwrap_or_default();
    digits.parse().expect("a number of bytes")
}

#[test]
fn parts_of_open_ranges_cost_little_more_than_they_hold_and_their_ends_are_no_aborts() {
    let (_upstream, cache, content, path) = stored(PARTS * PART);
    // The blob is completely in the page cache and known to be there, so the core sends at full
    // speed.
    cache.client().pull(&path, &content);
    cache.client().pull(&path, &content);
    std::thread::scope(|scope| {
        for part in 0..PARTS - 1 {
            let (cache, content, path) = (&cache, &content, &path);
            scope.spawn(move || {
                let start = part * PART;
                let mut connection = Connection::open_narrow(cache.addr(), RECEIVE_BUFFER_BYTES).unwrap();
                let range = format!("bytes={start}-");
                connection.request("GET", path, &[("Range", &range)]).unwrap();
                let mut taken = 0;
                let outcome = connection.read_into("GET", &mut |at, piece| {
                    if let Err(wrong) = content.compare(start + at, piece) {
                        return Flow::Wrong(wrong);
                    }
                    taken += piece.len() as u64;
                    if taken < PART { Flow::Go } else { Flow::Stop }
                });
                outcome.expect_err("the client stopped before the end");
            });
        }
    });
    let parts = || {
        let log = cache.stderr();
        let lines = log.lines().filter(|line| line.contains(" status=206 "));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually("the access log has a line for every part", || {
        parts().len() as u64 == PARTS - 1
    });
    for line in parts() {
        assert!(line.ends_with(" client_closed=true"), "{line}");
        assert!(!line.contains("aborted"), "{line}");
        assert!(sent(&line) < SENT_MAX, "{line}");
    }
}

/// A Go client lets the server send 4 MiB of each stream ahead. The client of this test has no such
/// limit.
#[test]
fn a_part_over_http_2_costs_little_more_than_it_holds_and_its_end_is_no_abort() {
    const WINDOW: u32 = 1 << 30;
    let (_upstream, cache, content, path) = stored(PARTS * PART);
    cache.client().pull(&path, &content);
    cache.client().pull(&path, &content);
    let windows = [(h2::INITIAL_WINDOW_SIZE, WINDOW)];
    let mut peer = Peer::begin_narrow(cache.addr(), RECEIVE_BUFFER_BYTES, &windows);
    peer.generous = false;
    peer.send(&h2::window_update(0, WINDOW)).unwrap();
    let id = peer.request("GET", &path, &[("range", "bytes=0-")]);
    assert_eq!(peer.head(id).status, 206);
    while peer.answers[&id].received < PART {
        peer.step()
            .expect("the connection is open until the part is complete");
    }
    peer.send(&h2::reset(id, h2::CANCEL)).unwrap();
    // The client reads no further, so the server sends at most what the buffers of the connection hold.
    let line = || {
        let log = cache.stderr();
        let line = log.lines().find(|line| line.contains(" status=206 "));
        line.map(str::to_owned)
    };
    eventually("the access log has a line for the part", || line().is_some());
    let line = line().expect("the line is in the log");
    assert!(line.ends_with(" client_closed=true"), "{line}");
    assert!(sent(&line) < SENT_MAX, "{line}");
}

/// A Go client receives data at once within its window of 4 MiB, and enlarges the window as the
/// program reads. In this test, the program reads 16 KiB per PING response.
#[test]
fn a_part_over_http_2_costs_little_more_than_a_slow_program_reads_of_it() {
    const WINDOW: u32 = 4 << 20;
    const STEP: u32 = 16 * 1024;
    /// Half the time after which the server does not wait for window updates any more.
    const GRANT_LATE: Duration = Duration::from_millis(100);
    let (_upstream, cache, content, path) = stored(PARTS * PART);
    cache.client().pull(&path, &content);
    cache.client().pull(&path, &content);
    for attempt in 1..=20 {
        let mut peer = Peer::begin_with(cache.addr(), &[(h2::INITIAL_WINDOW_SIZE, WINDOW)]);
        peer.generous = false;
        peer.send(&h2::window_update(0, 1 << 30)).unwrap();
        let id = peer.request("GET", &path, &[("range", "bytes=0-")]);
        assert_eq!(peer.head(id).status, 206);
        let (mut read, mut slowest, mut granted) = (0, Duration::ZERO, Instant::now());
        while read < PART {
            peer.send(&Frame::new(h2::PING, 0, 0, [0; 8])).unwrap();
            while peer
                .step()
                .expect("the connection is open until the part is complete")
                .kind
                != h2::PING
            {}
            if peer.answers[&id].received >= read + u64::from(STEP) {
                read += u64::from(STEP);
                peer.send(&h2::window_update(id, STEP)).unwrap();
                slowest = slowest.max(granted.elapsed());
                granted = Instant::now();
            }
        }
        peer.send(&h2::reset(id, h2::CANCEL)).unwrap();
        eventually("the access log has a line for the part", || {
            cache.stderr().matches(" client_closed=true").count() == attempt
        });
        let received = peer.answers[&id].received;
        if received < SENT_MAX {
            return;
        }
        // If no window update arrives for a while, the server sends more, as to a program that
        // reads the complete body later. On a busy machine, this client may be so late.
        assert!(
            slowest >= GRANT_LATE,
            "{received} bytes were read of a part of {PART} bytes, the longest pause was {slowest:?}"
        );
    }
    panic!("every measurement had a long pause: the machine is too busy for this test");
}

#[test]
fn a_range_with_an_end_that_is_not_taken_is_an_abort() {
    let (_upstream, cache, _content, path) = stored(PARTS * PART);
    let mut connection = Connection::open_narrow(cache.addr(), RECEIVE_BUFFER_BYTES).unwrap();
    let range = format!("bytes=0-{}", PARTS * PART - 1);
    connection.request("GET", &path, &[("Range", &range)]).unwrap();
    connection.read_head().unwrap();
    drop(connection);
    cache.wait_stderr(" aborted=true");
}
