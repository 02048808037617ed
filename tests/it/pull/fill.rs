//! A single upstream body serves every client, independent of the time at which clients join and leave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::client::{Flow, Why};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Permitted memory for 100 followers of one fill, in addition to the idle server: the window of
/// the fill and two socket buffers per follower, but not the blob.
const RSS_GROWTH_MAX: u64 = 64 * MIB;

#[test]
fn a_hundred_clients_of_one_cold_blob_cost_one_upstream_request() {
    const CLIENTS: usize = 100;
    const PHASES: u64 = 4;
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let content = PseudoRandom::new(fresh_seed(), 256 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("big/one", &digest);
    // The upstream stops at each quarter of the blob until the next quarter of the clients has
    // joined.
    let gates: Vec<_> = (0..PHASES).map(|_| Gate::new()).collect();
    let mut reply = Reply::new();
    for (n, gate) in gates.iter().enumerate() {
        reply = reply.hold_at((n as u64 * content.size / PHASES).max(MIB), gate);
    }
    upstream.on(On::path(&digest), reply);
    let idle = cache.rss_bytes();
    let joined = AtomicUsize::new(0);
    let client = cache.client();

    std::thread::scope(|scope| {
        let (joined, content, path, digest) = (&joined, &content, &path, &digest);
        let mut expected = 0;
        // The first client starts the fill and disconnects in the middle.
        scope.spawn(move || {
            client.get_and_abort(path, MIB / 2);
            joined.fetch_add(1, Ordering::SeqCst);
        });
        expected += 1;
        eventually("the first client left", || {
            joined.load(Ordering::SeqCst) == expected
        });

        for gate in &gates {
            for n in 0..CLIENTS / PHASES as usize {
                expected += 1;
                scope.spawn(move || {
                    if n % 8 == 1 {
                        let head = client.head(path);
                        assert_eq!(head.content_length(), Some(content.size));
                        assert_eq!(head.field("docker-content-digest"), Some(digest.as_str()));
                        joined.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    let (fields, from, until): (&[(&str, &str)], u64, u64) = match n % 8 {
                        3 => (&[("Range", "bytes=1000-70000")], 1000, 70_001),
                        5 => (
                            &[("Range", "bytes=-3000000")],
                            content.size - 3_000_000,
                            content.size,
                        ),
                        7 => (&[("Range", "bytes=100000000-")], 100_000_000, content.size),
                        _ => (&[], 0, content.size),
                    };
                    let mut connection = client.open();
                    connection.request("GET", path, fields).unwrap();
                    // Counted after the request, not after the response, because a range may wait
                    // for its bytes.
                    joined.fetch_add(1, Ordering::SeqCst);
                    let head = connection.read_head().unwrap();
                    assert_eq!(head.status, if fields.is_empty() { 200 } else { 206 });
                    let whole = connection.read_body(head, "GET", &mut |at, piece| {
                        content
                            .compare(from + at, piece)
                            .map_or_else(Flow::Wrong, |()| Flow::Go)
                    });
                    assert_eq!(whole.unwrap().received, until - from);
                });
            }
            eventually("the clients of this quarter have arrived", || {
                joined.load(Ordering::SeqCst) == expected
            });
            gate.open();
        }
    });

    assert_eq!(
        upstream.count(|seen| seen.kind == Kind::Blob && seen.method == "GET"),
        1
    );
    assert_eq!(upstream.count(|seen| seen.has_range()), 0);
    let grown = cache.rss_peak_bytes().saturating_sub(idle);
    assert!(grown <= RSS_GROWTH_MAX, "memory grew by {} MiB", grown / MIB);
    cache.wait_stored(&digest);
    client.pull(&path, &content);
    cache.settled_store().expect_clean();
    assert_eq!(upstream.gets(&digest), 1);
}

/// The fake registry sends the second half only after the first client has left, so the test does
/// not depend on timing.
#[test]
fn a_fill_survives_its_first_client() {
    for size in [100_000, 3 * MIB] {
        let upstream = Registry::new();
        let cache = Server::start(&upstream);
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        let gate = Gate::new();
        upstream.on(On::path(&digest), Reply::new().hold_at(size / 2, &gate));
        let mut first = cache.client().open();
        first.request("GET", &path, &[]).unwrap();
        gate.wait_arrived(1);
        first.abort();
        std::thread::scope(|scope| {
            let follower = scope.spawn(|| cache.client().pull(&path, &content));
            gate.open();
            follower.join().unwrap();
        });
        assert_eq!(upstream.gets(&digest), 1);
    }
}

#[test]
fn a_fill_with_no_client_left_is_finished_and_kept() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 2 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(MIB + 5, &gate));
    let mut only = cache.client().open();
    only.request("GET", &path, &[]).unwrap();
    gate.wait_arrived(1);
    only.abort();
    gate.open();
    cache.wait_stored(&digest);
    // For a moment after the store, clients still follow the fill.
    eventually("a hit", || {
        cache.client().pull(&path, &content).x_cache() == "HIT"
    });
    assert_eq!(upstream.gets(&digest), 1);
}

#[test]
fn the_first_bytes_arrive_before_the_upstream_has_sent_the_rest() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 4 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(2 * MIB, &gate));
    let follow = |seen_half: &dyn Fn()| {
        let mut connection = cache.client().open();
        connection.request("GET", &path, &[]).unwrap();
        let head = connection.read_head().unwrap();
        assert_eq!(head.content_length(), Some(content.size));
        let x_cache = head.x_cache().to_owned();
        let whole = connection.read_body(head, "GET", &mut |at, piece| {
            if at + piece.len() as u64 == 2 * MIB {
                seen_half();
            }
            content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
        });
        assert_eq!(whole.unwrap().received, content.size);
        x_cache
    };
    // Both clients must have received all bytes below the gate before the gate opens.
    let waiting = AtomicUsize::new(0);
    let seen_half = || {
        if waiting.fetch_add(1, Ordering::SeqCst) == 1 {
            gate.open();
        }
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(|| follow(&seen_half));
        gate.wait_arrived(1);
        assert_eq!(follow(&seen_half), "COALESCED");
        assert_eq!(first.join().unwrap(), "MISS");
    });
    assert_eq!(upstream.gets(&digest), 1);
}

#[test]
fn head_does_not_wait_for_a_fill_and_a_range_waits_only_for_its_end() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 4 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let gate = Gate::new();
    upstream.on(On::path(&digest).get(), Reply::new().hold_at(2 * MIB, &gate));
    std::thread::scope(|scope| {
        scope.spawn(|| cache.client().pull(&path, &content));
        gate.wait_arrived(1);
        assert_eq!(cache.client().head(&path).content_length(), Some(content.size));
        let part = cache.client().open();
        let mut part = part;
        part.request("GET", &path, &[("Range", "bytes=5-99999")]).unwrap();
        let head = part.read_head().unwrap();
        assert_eq!((head.status, head.content_length()), (206, Some(99_995)));
        // All bytes but the last are sent at once. The last byte waits for the digest check.
        let whole = part.read_body(head, "GET", &mut |at, piece| {
            if at + piece.len() as u64 == 99_994 {
                gate.open();
            }
            content
                .compare(5 + at, piece)
                .map_or_else(Flow::Wrong, |()| Flow::Go)
        });
        assert_eq!(whole.unwrap().received, 99_995);
    });
    assert_eq!(upstream.gets(&digest), 1);
}

#[test]
fn aborted_followers_do_not_affect_the_fill() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let content = PseudoRandom::new(fresh_seed(), 16 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    upstream.on(On::path(&digest), Reply::new().rate(32 * MIB));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let mut random = Random::for_test(&format!("aborts {n}"));
            let (content, path, cache) = (&content, &path, &cache);
            scope.spawn(move || {
                for _ in 0..20 {
                    cache.client().get_and_abort(path, random.below(content.size));
                }
            });
            scope.spawn(move || cache.client().pull(path, content));
        }
    });
    assert_eq!(upstream.gets(&digest), 1);
    cache.wait_stored(&digest);
    cache.settled_store().expect_clean();
}

#[test]
fn a_client_that_stops_reading_holds_up_neither_the_fill_nor_the_others() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 32 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let mut stuck = Connection::open_narrow(cache.addr(), 4096).unwrap();
    stuck.request("GET", &path, &[]).unwrap();
    let head = stuck.read_head().unwrap();
    upstream.wait_until("the whole body is sent", |log| {
        log.iter().any(|seen| seen.sent == 32 * MIB)
    });
    cache.client().pull(&path, &content);
    cache.wait_stored(&digest);
    // The client resumes and receives all its bytes.
    let whole = stuck.read_body(head, "GET", &mut |at, piece| {
        content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
    });
    assert_eq!(whole.unwrap().received, content.size);
    assert_eq!(upstream.gets(&digest), 1);
}

#[test]
fn followers_share_the_failure_of_their_fill_and_the_next_client_retries() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 500_000);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let gate = Gate::new();
    upstream.on(
        On::path(&digest).get().once(),
        // Unlike a 404, a 410 is not cached. Clients receive 404 for both.
        Reply::status(410).hold_head(&gate),
    );
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..10)
            .map(|_| scope.spawn(|| cache.client().try_get(&path).unwrap().status))
            .collect();
        gate.wait_arrived(1);
        gate.open();
        for client in clients {
            // A client that came after the failure started the next fill, which succeeds.
            assert!(matches!(client.join().unwrap(), 404 | 200));
        }
    });
    cache.client().pull(&path, &content);
    assert!(upstream.gets(&digest) <= 2);
}

#[test]
fn manifests_are_single_flight_too() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let gate = Gate::new();
    upstream.on(On::kind(Kind::Manifest), Reply::new().hold_head(&gate));
    for reference in ["v1", image.digest.as_str()] {
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    let got = cache.client().get(&upstream.manifest_url("a", reference));
                    got.expect(&image.manifest);
                });
            }
            if reference == "v1" {
                gate.wait_arrived(1);
                // Late clients have 50 ms to join. Later ones are hits and do not change the count.
                std::thread::sleep(Duration::from_millis(50));
                gate.open();
            }
        });
    }
    let asked = upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET");
    assert_eq!(asked, 1, "{:#?}", upstream.log());
}

#[test]
fn a_client_that_closed_its_sending_side_still_gets_its_answer() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 2 * MIB);
    let digest = upstream.blob(content.clone());
    let mut connection = cache.client().open();
    connection
        .request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    connection.finish_sending();
    assert_eq!(connection.read("GET").unwrap().received, content.size);
    assert_eq!(connection.read_to_close().1, Why::Truncated);
}
