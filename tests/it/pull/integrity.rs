//! Responses with wrong bytes never complete, and wrong bytes are never stored.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::client::{Why, request_bytes};
use crate::harness::content::sha256;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
/// Up to this size, a body is verified before its first byte is sent.
const HELD_WHOLE_MAX: u64 = MIB;
/// The number of bytes at the end of a larger body that are sent only after verification.
const WITHHELD: u64 = 64 * 1024;

/// Returns a size between 1 byte and 16 MiB. Every power of two is equally likely.
fn any_size(random: &mut Random) -> u64 {
    let bits = random.below(24);
    (1 << bits) + random.below(1 << bits)
}

/// Returns content of any size that differs from all `seen` content. Only 256 contents of one byte
/// exist, and stored content would be a hit.
fn new_content(random: &mut Random, seen: &mut HashSet<String>) -> PseudoRandom {
    loop {
        let content = PseudoRandom::new(random.next(), any_size(random));
        if seen.insert(content.digest()) {
            return content;
        }
    }
}

/// Returns whether [`Range::WrongBytes`] returns the right bytes from `at` on, because the first bytes
/// of the content are equal to its last bytes. Short contents repeat by chance.
fn repeats_from(content: &PseudoRandom, at: u64) -> bool {
    let bytes = content.bytes();
    bytes.starts_with(&bytes[at as usize..])
}

/// Runs `work(n)` for all `n` below `count` on a few threads. A broken fill mostly waits for its
/// next attempt.
fn in_parallel(count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return;
                    }
                    work(n);
                }
            });
        }
    });
}

/// Fails if a client could treat `got` as the complete content.
#[track_caller]
fn expect_no_completion(got: Result<Response, Broken>, content: &PseudoRandom, what: &str) {
    match got {
        Ok(response) => {
            assert_ne!(
                response.status, 200,
                "{what}: {} bytes completed",
                response.received
            );
            assert_eq!(response.status, 502, "{what}: {response}");
            let json: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
            assert!(json["errors"][0]["code"].is_string(), "{what}: {response}");
        }
        Err(broken) => {
            assert!(
                matches!(broken.why, Why::Reset | Why::Truncated),
                "{what}: {broken:?}"
            );
            let head = broken
                .head
                .unwrap_or_else(|| panic!("{what}: the response failed before the head"));
            assert!(
                content.size > HELD_WHOLE_MAX,
                "{what}: the head of unverified small content was sent: {head}"
            );
            assert!(
                broken.received <= content.size - WITHHELD,
                "{what}: {} bytes",
                broken.received
            );
        }
    }
}

#[test]
fn bodies_with_a_flipped_byte_neither_complete_nor_are_stored() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let mut random = Random::for_test("flipped bytes");
    let mut seen = HashSet::new();
    for number in 0..200 {
        let content = new_content(&mut random, &mut seen);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        let framing = *random.pick(&[Framing::Length, Framing::Chunked, Framing::Close]);
        let offset = random.below(content.size);
        let what = format!("run {number}: {framing:?}, byte {offset} of {}", content.size);
        upstream.clear_rules();
        upstream.on(On::path(&digest), Reply::new().framing(framing).flip(offset));
        let mut connection = cache.client().open();
        connection.request("GET", &path, &[]).unwrap();
        // No comparison during the transfer, because the client may receive the flipped byte, but
        // never a complete body.
        expect_no_completion(connection.read("GET"), &content, &what);
        assert!(!disk::is_stored(cache.root(), &digest), "{what}");
        upstream.clear_rules();
        let again = cache.client().try_pull(&path, &[], &content, 0);
        assert_eq!(
            again
                .unwrap_or_else(|broken| panic!("{what}: {broken:?}"))
                .received,
            content.size,
            "{what}"
        );
    }
    cache.settled_store().expect_clean();
}

#[test]
fn an_abort_is_visible_to_every_kind_of_client() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for framing in [Framing::Length, Framing::Chunked] {
        let content = PseudoRandom::new(fresh_seed(), 3 * MIB);
        let digest = upstream.blob(content.clone());
        upstream.on(On::path(&digest), Reply::new().framing(framing).flip(2 * MIB));
        let path = upstream.blob_url("a", &digest);
        let plain = request_bytes("GET", &path, &[]);
        let closing = request_bytes("GET", &path, &[("Connection", "close")]);
        let ranged = request_bytes("GET", &path, &[("Range", "bytes=10-")]);
        let old = String::from_utf8(plain.clone())
            .unwrap()
            .replace("HTTP/1.1", "HTTP/1.0")
            .into_bytes();
        for (kind, request) in [
            ("1.1", plain),
            ("close", closing),
            ("range", ranged),
            ("1.0", old),
        ] {
            let mut connection = cache.client().open();
            connection.send(&request).unwrap();
            match connection.read("GET") {
                // If the end of the connection marks the end of the body, only a reset signals an
                // incomplete body.
                Err(broken)
                    if broken
                        .head
                        .as_ref()
                        .is_some_and(|head| head.content_length().is_none()) =>
                {
                    assert_eq!(broken.why, Why::Reset, "{framing:?} {kind}: {broken:?}");
                }
                Err(broken) => assert!(
                    matches!(broken.why, Why::Reset | Why::Truncated),
                    "{framing:?} {kind}"
                ),
                // A range may be answered after the fill, with a complete error response.
                Ok(response) => assert_eq!(response.status, 502, "{framing:?} {kind}: {response}"),
            }
        }
    }
}

#[test]
fn followers_of_a_wrong_fill_all_see_it_fail() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    for size in [200_000, 4 * MIB] {
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        let gate = Gate::new();
        upstream.clear_rules();
        upstream.on(
            On::path(&digest),
            Reply::new().flip(size - 1).hold_at(size / 2, &gate),
        );
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..20)
                .map(|_| scope.spawn(|| cache.client().try_get(&path)))
                .collect();
            gate.wait_arrived(1);
            gate.open();
            for client in clients {
                expect_no_completion(client.join().unwrap(), &content, "follower");
            }
        });
        assert!(!disk::is_stored(cache.root(), &digest));
    }
}

#[test]
fn a_body_cut_once_anywhere_still_arrives_whole() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let mut random = Random::for_test("cuts with resume");
    let mut seen = HashSet::new();
    let cases: Vec<_> = (0..120)
        .map(|n| {
            let content = new_content(&mut random, &mut seen);
            let size = content.size;
            // Off-by-one errors are most likely at the first and last bytes.
            let at = match n % 4 {
                0 => random.below(size.min(4_096)),
                1 => size - 1 - random.below(size.min(70_000)),
                _ => random.below(size),
            };
            let framing = *random.pick(&[Framing::Length, Framing::Chunked]);
            let cut = *random.pick(&[Cut::Fin, Cut::Rst]);
            (content, at, framing, cut)
        })
        .collect();
    in_parallel(cases.len(), |n| {
        let (content, at, framing, cut) = &cases[n];
        let digest = upstream.blob(content.clone());
        let what = format!("{framing:?}, {cut:?} at {at} of {}", content.size);
        upstream.on(
            On::path(&digest).get().once(),
            Reply::new().framing(*framing).cut_at(*at, *cut),
        );
        let got = cache
            .client()
            .try_pull(&upstream.blob_url("a", &digest), &[], content, 0);
        let got = got.unwrap_or_else(|broken| panic!("{what}: {broken:?}"));
        assert_eq!((got.status, got.received), (200, content.size), "{what}: {got}");
        assert!(upstream.gets(&digest) >= 2, "{what}");
    });
    cache.settled_store().expect_clean();
}

/// A permanent cut: every response ends at one byte, and ranges do not work.
#[test]
fn a_body_that_never_gets_past_a_byte_never_completes() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let mut random = Random::for_test("permanent cuts");
    let mut seen = HashSet::new();
    let cases: Vec<_> = (0..48)
        .map(|_| {
            let content = new_content(&mut random, &mut seen);
            let at = random.below(content.size);
            let framing = *random.pick(&[Framing::Length, Framing::Chunked, Framing::Close]);
            let cut = *random.pick(&[Cut::Fin, Cut::Rst, Cut::LastChunk]);
            let range = match *random.pick(&[Range::Off, Range::Refused, Range::WrongBytes]) {
                Range::WrongBytes if repeats_from(&content, at) => Range::Refused,
                range => range,
            };
            (content, at, framing, cut, range)
        })
        .collect();
    in_parallel(cases.len(), |n| {
        let (content, at, framing, cut, range) = &cases[n];
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        let what = format!(
            "{framing:?}, {cut:?} at {at} of {}, ranges {range:?}",
            content.size
        );
        let reply = Reply::new().framing(*framing).cut_at(*at, *cut).range(*range);
        upstream.on(On::path(&digest).get().range(false), reply);
        upstream.on(
            On::path(&digest).get().range(true),
            Reply::new().range(*range).cut_at(*at, *cut),
        );
        let got = cache.client().try_pull(&path, &[], content, 0);
        match got {
            // Wrong bytes may be visible during the transfer, as long as the body does not
            // complete.
            Err(Broken {
                why: Why::WrongByte(_),
                ..
            }) => {}
            got => expect_no_completion(got, content, &what),
        }
        assert!(!disk::is_stored(cache.root(), &digest), "{what}");
    });
    upstream.clear_rules();
    in_parallel(cases.len(), |n| {
        let content = &cases[n].0;
        let path = upstream.blob_url("a", &content.digest());
        // A fill with wrong bytes may still request its rest. Clients that join the fill are cut
        // off too.
        eventually("the blob is served", || {
            let got = cache.client().try_pull(&path, &[], content, 0);
            got.is_ok_and(|got| got.status == 200 && got.received == content.size)
        });
    });
    cache.settled_store().expect_clean();
}

#[test]
fn a_wrong_length_completes_nothing_wrong() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let mut cases = Vec::new();
    for size in [1, 1_000, 1_000_000, 3_000_000_u64] {
        for delta in [-1_000_000_000, -70_000, -1, 1, 70_000, 1_000_000_000_000] {
            cases.push((
                PseudoRandom::new(fresh_seed(), size),
                i64::max(delta, -(size as i64)),
            ));
        }
    }
    in_parallel(cases.len(), |n| {
        let (content, delta) = &cases[n];
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        upstream.on(On::path(&digest), Reply::new().length_delta(*delta));
        match cache.client().try_get(&path) {
            // All content arrived with the correct digest, so a complete response is correct.
            Ok(got) if got.status == 200 => {
                assert_eq!(sha256(&got.body), digest, "size {} {delta:+}", content.size);
            }
            Ok(got) => assert_eq!(got.status, 502, "size {} {delta:+}: {got}", content.size),
            Err(broken) => assert!(matches!(broken.why, Why::Reset | Why::Truncated), "{broken:?}"),
        }
    });
    upstream.clear_rules();
    for (content, _) in &cases {
        cache
            .client()
            .pull(&upstream.blob_url("a", &content.digest()), content);
    }
    cache.settled_store().expect_clean();
}

#[test]
fn a_wrong_manifest_is_a_clean_error() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "a", "good", fresh_seed());
    let kind = Flavor::Oci.manifest();
    // By digest, with other bytes.
    upstream.manifest_as("b", &image.digest, kind, r#"{"schemaVersion":2}"#);
    let got = cache.client().get(&upstream.manifest_url("b", &image.digest));
    assert_eq!(got.status, 502, "{got}");
    // By tag, with bytes that do not match the upstream's own digest field.
    upstream.tag("b", "v1", &image.digest);
    let got = cache.client().get(&upstream.manifest_url("b", "v1"));
    assert_eq!(got.status, 502, "{got}");
    assert!(!disk::is_stored(cache.root(), &image.digest));
    // A header field with a digest other than in the path.
    upstream.on(
        On::path("/v2/a/").once(),
        Reply::new().set("Docker-Content-Digest", sha256(b"other")),
    );
    let got = cache.client().get(&upstream.manifest_url("a", &image.digest));
    if got.status == 200 {
        got.expect(&image.manifest);
        assert_eq!(got.field("docker-content-digest"), Some(image.digest.as_str()));
    } else {
        assert_eq!(got.status, 502, "{got}");
    }
    upstream.manifest_as("b", &image.digest, kind, image.manifest.clone());
    cache
        .client()
        .get(&upstream.manifest_url("b", "v1"))
        .expect(&image.manifest);
    cache.settled_store().expect_clean();
}

#[test]
fn a_coded_body_is_not_taken_for_the_content() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 5_000);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    upstream.on(
        On::path(&digest).once(),
        Reply::new()
            .set("Content-Encoding", "gzip")
            .body("\u{1f}not gzip"),
    );
    let got = cache.client().get(&path);
    assert_eq!(got.status, 502, "{got}");
    cache.client().pull(&path, &content);
    let asked = upstream.log();
    for seen in asked.iter().filter(|seen| seen.kind == Kind::Blob) {
        assert_eq!(seen.field("accept-encoding"), Some("identity"), "{seen:?}");
    }
}

/// If damage on disk is visible in the pair of files, the request is a miss and the pull repairs
/// the entry.
#[test]
fn entries_whose_data_and_sidecar_disagree_are_fetched_again() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    // A bucket, if present, may also have the blob.
    let gets = if server::storage_of_run() == "fs" {
        2..=2
    } else {
        1..=2
    };
    type Damage = fn(&std::path::Path);
    let damages: [(&str, Damage); 6] = [
        ("empty data", |data| disk::truncate(data, 0)),
        ("short data", |data| disk::truncate(data, 1_000)),
        ("long data", |data| disk::truncate(data, 100_000)),
        ("empty sidecar", |data| disk::truncate(&disk::sidecar_of(data), 0)),
        ("a truncated sidecar", |data| {
            disk::truncate(&disk::sidecar_of(data), 20);
        }),
        ("no data", |data| std::fs::remove_file(data).unwrap()),
    ];
    for (what, damage) in damages {
        let content = PseudoRandom::new(fresh_seed(), 70_000);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        cache.client().pull(&path, &content);
        cache.wait_stored(&digest);
        cache.kill9();
        damage(&disk::blob_path(cache.root(), &digest));
        cache.restart();
        cache.client().pull(&path, &content);
        assert!(gets.contains(&upstream.gets(&digest)), "{what}");
        eventually(what, || disk::is_stored(cache.root(), &digest));
        cache.settled_store().expect_clean();
        cache.client().pull(&path, &content);
        assert!(gets.contains(&upstream.gets(&digest)), "{what}");
    }
}
