//! Kills during removals that an operator requests.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use super::pull;
use crate::harness::image::Flavor;
use crate::harness::*;

#[test]
fn kill_during_a_removal_leaves_a_sound_store_and_a_log_line() {
    let upstream = Registry::new();
    let mut random = Random::for_test("kill during removals");
    let seed = fresh_seed();
    let layers: Vec<_> = (0..6)
        .map(|n| Content::from(PseudoRandom::new(seed + n, 40_000)))
        .collect();
    let image = Image::push(&upstream, "org/app", "v1", Flavor::Oci, &layers);
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    let purge = format!(
        "DELETE /api/v1/images/{}/org/app HTTP/1.1\r\nHost: localhost\r\n\r\n",
        upstream.name()
    );
    for round in 0..kills() {
        cache.wait_stderr("store scanned");
        // Fetches the content that the last removal has removed.
        pull(&cache, &upstream, "org/app", "v1", &image);
        let before = cache.settled_store();
        before.expect_sound();
        let socket = cache.root().join(".admin.sock");
        let mut socket = UnixStream::connect(socket).expect("the socket accepts");
        socket.write_all(purge.as_bytes()).expect("the socket reads");
        // A third of the kills comes at any moment, a third during the removal, and a third after it.
        match round % 3 {
            0 => {}
            1 => cache.wait_stderr("change requested"),
            _ => cache.wait_stderr("change completed"),
        }
        thread::sleep(Duration::from_micros(random.below(5_000)));
        let stderr = cache.kill9();
        let blobs = image.blobs.iter().filter(|(digest, _)| cache.is_stored(digest));
        let is_whole = cache.is_stored(&image.digest) && blobs.count() == image.blobs.len();
        assert!(
            stderr.contains("change requested") || is_whole,
            "content was removed without a log line"
        );
        assert!(
            !is_whole || !stderr.contains("change completed"),
            "the removal left the content"
        );
        cache.restart();
    }
    cache.wait_stderr("store scanned");
    cache.settled_store().expect_sound();
}
