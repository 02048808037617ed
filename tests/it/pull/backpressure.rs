//! A fast upstream and a slow client. With a disk, the fill runs ahead of the client. Without a
//! disk, the cache stops reading from the upstream.

use crate::harness::client::Flow;
use crate::harness::disk::SmallDisk;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
const BLOB_BYTES: u64 = 96 * MIB;

/// The window of a fill, its kernel buffers, and the usual variation of an idle server.
const MEMORY_BYTES: u64 = 32 * MIB;

/// Reads the first bytes of `content`, runs `meanwhile` without reading, and then reads the rest.
fn read_slowly(cache: &Server, path: &str, content: &PseudoRandom, meanwhile: impl FnOnce()) {
    let mut meanwhile = Some(meanwhile);
    let mut connection = Connection::open_narrow(cache.addr(), 64 * 1024).expect("connect");
    connection.request("GET", path, &[]).expect("send");
    let whole = connection.read_into("GET", &mut |at, piece| {
        if let Some(meanwhile) = meanwhile.take() {
            meanwhile();
        }
        content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
    });
    assert_eq!(whole.expect("the whole body").received, content.size);
}

#[test]
fn a_fill_runs_ahead_of_its_slow_client_on_the_disk_and_not_in_memory() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    cache.client().get("/v2/").expect(b"{}");
    let before = cache.rss_bytes();
    let content = PseudoRandom::new(fresh_seed(), BLOB_BYTES);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    read_slowly(&cache, &path, &content, || {
        cache.wait_stored(&content.digest());
        let grown = cache.rss_peak_bytes().saturating_sub(before);
        assert!(
            grown < MEMORY_BYTES,
            "memory grew by {grown} bytes for a client that does not read"
        );
    });
    assert_eq!(upstream.gets(&content.digest()), 1);
}

#[test]
fn without_a_disk_the_upstream_waits_for_the_client() {
    let Some(disk) = SmallDisk::mount(2 * MIB) else {
        return;
    };
    let upstream = Registry::new();
    let cache = Server::options(&upstream).root(&disk.path.join("store")).start();
    cache.client().get("/v2/").expect(b"{}");
    let before = cache.rss_bytes();
    let content = PseudoRandom::new(fresh_seed(), BLOB_BYTES);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    // Far beyond the window, the socket buffers and the write size of the harness.
    let gate = Gate::new();
    gate.open();
    upstream.on(
        On::path(content.digest()).times(1),
        Reply::new().hold_at(BLOB_BYTES - MIB, &gate),
    );
    read_slowly(&cache, &path, &content, || {
        // After one second, no further data arrives and the memory stays constant.
        for _ in 0..10 {
            std::thread::sleep(std::time::Duration::from_millis(100));
            let grown = cache.rss_peak_bytes().saturating_sub(before);
            assert!(
                grown < MEMORY_BYTES,
                "memory grew by {grown} bytes for a client that does not read"
            );
        }
        assert!(
            !gate.has_arrived(),
            "the upstream sent the whole body for a client that does not read"
        );
    });
    assert!(!disk::is_stored(cache.root(), &content.digest()));
}
