//! The memory cache takes about as much memory as the operator allows.

use crate::harness::client::request_bytes;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
const MEMORY_CACHE: u64 = 8 * MIB;
/// The cache allocates connections and threads meanwhile.
const NOISE: u64 = 4 * MIB;
/// Distinct targets, whose responses together exceed the memory cache.
const TARGETS: usize = 2_000;
const BATCH: usize = 100;
/// Both cores get some of these connections.
const CONNECTIONS: usize = 4;

#[test]
fn small_objects_take_the_memory_cache_and_a_fifth_more_at_most() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("MEMORY_CACHE", "8MiB")
        .env("ACCESS_LOG", "off")
        .cores(2)
        .start();
    let content = PseudoRandom::new(fresh_seed(), 2_048);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    cache.wait_stored(&content.digest());
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| cache.client().open()).collect();
    let targets: Vec<String> = (0..TARGETS).map(|n| format!("{path}?n={n}")).collect();
    for connection in &mut connections {
        get_all(connection, &targets[..BATCH]);
    }
    let before = cache.rss_bytes();
    // In turn, so that no connection reaches the idle timeout on a slow machine.
    for batch in targets.chunks(BATCH) {
        for connection in &mut connections {
            get_all(connection, batch);
        }
    }
    let grown = cache.rss_bytes().saturating_sub(before);
    assert!(
        grown <= MEMORY_CACHE + MEMORY_CACHE / 5 + NOISE,
        "memory grew by {grown} bytes"
    );
    assert!(grown >= MEMORY_CACHE / 4, "the cache keeps {grown} bytes only");
}

fn get_all(connection: &mut Connection, targets: &[String]) {
    let requests: Vec<u8> = targets
        .iter()
        .flat_map(|target| request_bytes("GET", target, &[]))
        .collect();
    connection.send(&requests).expect("the requests are sent");
    for target in targets {
        let got = connection.read("GET").expect("a whole response");
        assert_eq!((got.status, got.body.len()), (200, 2_048), "{target}: {got}");
    }
}
