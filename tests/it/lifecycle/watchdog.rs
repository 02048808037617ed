//! Stalled cores, disks and helper threads: logs, health checks and process exit. Requires the
//! feature `fail-points`.

use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use super::health::check;
use super::restart::Manager;
use crate::harness::volume::forget_cached;
use crate::harness::*;

fn with_fault(upstream: &Registry, point: &str) -> server::Options {
    Server::options(upstream)
        .env("FAIL_POINT", point)
        .env("ACCESS_LOG", "off")
}

/// Repeats the request until a live core answers, because the stalled core accepts connections too.
/// Returns the status.
fn health_status(cache: &Server, path: &str) -> Option<u16> {
    for _ in 0..50 {
        let Ok(mut connection) = Connection::open(cache.addr()) else {
            return None;
        };
        connection.set_read_timeout(Duration::from_millis(500));
        if connection.request("GET", path, &[]).is_err() {
            continue;
        }
        if let Ok(response) = connection.read("GET") {
            return Some(response.status);
        }
    }
    None
}

/// The duration of the fault `stall9`.
const STALL: Duration = Duration::from_secs(9);

#[test]
fn liveness_fails_while_a_core_stalls_and_recovers_with_the_core() {
    let upstream = Registry::new();
    let mut cache = with_fault(&upstream, "request:stall9:1").cores(2).start();
    let mut stalled = cache.client().open();
    let began = Instant::now();
    stalled.request("GET", "/v2/", &[]).unwrap();
    cache.wait_stderr("thread does not respond\" thread=\"core ");
    for path in ["/livez", "/healthz", "/readyz", "/_/health"] {
        // The core may recover before the last check.
        let status = health_status(&cache, path);
        assert!(matches!(status, Some(503 | 200)), "{path}: {status:?}");
        if path == "/livez" && began.elapsed() < STALL {
            assert_eq!(status, Some(503));
        }
    }
    stalled.read("GET").unwrap().expect(b"{}");
    cache.wait_stderr("thread responds again");
    eventually("alive again", || {
        ["/livez", "/readyz"]
            .iter()
            .all(|path| cache.client().get(path).status == 200)
    });
    assert!(cache.is_running());
}

#[test]
fn a_permanently_stalled_core_ends_the_process_without_watchdog_messages() {
    let upstream = Registry::new();
    let manager = Manager::default();
    let mut cache = with_fault(&upstream, "request:stall:1")
        .cores(2)
        .env("NOTIFY_SOCKET", manager.address())
        .env("WATCHDOG_USEC", "1000000")
        .start();
    manager.receive(|message| message == "WATCHDOG=1");
    let mut stalled = cache.client().open();
    stalled.request("GET", "/v2/", &[]).unwrap();
    cache.wait_stderr("thread does not respond\" thread=\"core ");
    assert_eq!(health_status(&cache, "/livez"), Some(503));
    // Discards earlier messages. Afterwards the service manager must receive nothing until the
    // exit.
    manager.socket.set_nonblocking(true).unwrap();
    while manager.socket.recv(&mut [0; 64]).is_ok() {}
    let status = cache
        .wait_exit(Duration::from_secs(60))
        .expect("the watchdog ends the process");
    assert_eq!(
        status.signal(),
        Some(rustix::process::Signal::ABORT.as_raw()),
        "{status:?}"
    );
    assert!(
        cache
            .stderr()
            .contains("thread does not respond; aborting the process")
    );
    let mut message = [0; 64];
    assert!(
        manager.socket.recv(&mut message).is_err(),
        "{}",
        message.escape_ascii()
    );
}

/// Every lookup hangs, like on a failed disk or network file system.
#[test]
fn a_hanging_disk_fails_readiness_only_in_air_gapped_mode() {
    let upstream = Registry::new();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let cache = with_fault(&upstream, "store-lookup:hang:1").start();
    for _ in 0..2 {
        // Requests by tag succeed in bounded time, so the cache is rightly ready.
        cache
            .client()
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&image.manifest);
        for path in ["/livez", "/readyz"] {
            assert_eq!(check(&cache, path), 200, "{path}");
        }
        cache.wait_stderr("thread does not respond\" thread=store silent_s=");
    }

    let cache = with_fault(&upstream, "store-lookup:hang:1")
        .env("AIR_GAPPED", "true")
        .start();
    eventually("not ready", || check(&cache, "/readyz") == 503);
    assert_eq!(check(&cache, "/livez"), 200);
    // Without further requests, the cache stays not ready.
    cache.wait_stderr("thread does not respond\" thread=store silent_s=");
    assert_eq!(check(&cache, "/readyz"), 503);
}

/// GETs by tag hang. While the cache is not ready, load balancers send no requests.
#[test]
fn hanging_helper_threads_fail_readiness_but_not_liveness() {
    let upstream = Registry::new();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let cache = with_fault(&upstream, "manifest-fetched:stall12:1")
        .env("HELPER_THREADS", "1")
        .start();
    let mut hanging = cache.client().open();
    hanging
        .request("GET", &upstream.manifest_url("a", "v1"), &[])
        .unwrap();
    eventually("not ready", || check(&cache, "/readyz") == 503);
    for path in ["/livez", "/healthz", "/_/health"] {
        assert_eq!(check(&cache, path), 200, "{path}");
    }
    hanging.read("GET").unwrap().expect(&image.manifest);
    eventually("ready again", || check(&cache, "/readyz") == 200);
}

/// The other threads of the pool continue, but jobs behind the stalled thread do not.
#[test]
fn one_hanging_helper_thread_of_several_fails_readiness() {
    let upstream = Registry::new();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let cache = with_fault(&upstream, "manifest-fetched:stall12:1")
        .env("HELPER_THREADS", "4")
        .start();
    let mut hanging = cache.client().open();
    hanging
        .request("GET", &upstream.manifest_url("a", "v1"), &[])
        .unwrap();
    eventually("not ready", || check(&cache, "/readyz") == 503);
    assert_eq!(check(&cache, "/livez"), 200);
    cache.wait_stderr("helper thread ");
    hanging.read("GET").unwrap().expect(&image.manifest);
    eventually("ready again", || check(&cache, "/readyz") == 200);
}

/// Returns the median times of 51 hits of each cache. The caches take turns, so that other load on
/// the machine delays both.
fn hits(caches: [&Server; 2], path: &str, content: &PseudoRandom) -> [Duration; 2] {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..51 {
        for (cache, times) in caches.iter().zip(&mut times) {
            let began = Instant::now();
            cache.client().pull(path, content);
            times.push(began.elapsed());
        }
    }
    times.map(|mut times: Vec<Duration>| {
        times.sort();
        times[25]
    })
}

/// A client's requests occupy all lookup threads on a hanging disk. Another client's content is
/// open or in memory.
#[test]
fn a_client_that_occupies_all_lookups_does_not_slow_down_hits_of_others() {
    raise_file_limit();
    let upstream = Registry::new();
    let cache = with_fault(&upstream, "store-lookup:hang:100").start();
    let sound = Server::options(&upstream).env("ACCESS_LOG", "off").start();
    let contents = [
        PseudoRandom::new(fresh_seed(), 1_000),
        PseudoRandom::new(fresh_seed(), 300_000),
    ];
    let paths = contents
        .each_ref()
        .map(|content| upstream.blob_url("a", &upstream.blob(content.clone())));
    for (path, content) in paths.iter().zip(&contents) {
        for cache in [&cache, &sound] {
            cache.client().pull(path, content);
            cache.wait_stored(&content.digest());
            wait_hit(cache, path);
        }
    }
    let waiting: Vec<Connection> = (0..1_000)
        .map(|_| {
            let mut connection = cache.client().open();
            let digest = upstream.blob(PseudoRandom::new(fresh_seed(), 10));
            connection
                .request("GET", &upstream.blob_url("b", &digest), &[])
                .unwrap();
            connection
        })
        .collect();
    cache.wait_stderr("thread does not respond\" thread=store silent_s=");
    for (path, content) in paths.iter().zip(&contents) {
        let [beside, alone] = hits([&cache, &sound], path, content);
        let most = 2 * alone + Duration::from_millis(20);
        assert!(
            beside <= most,
            "{beside:?} beside a stalled store, {alone:?} alone"
        );
    }
    // A helper thread reads a page of an open file that the kernel has evicted.
    let name = contents[1].digest().replace(':', "-");
    forget_cached(&cache.root().join("blobs").join(name));
    cache.client().pull(&paths[1], &contents[1]);
    for path in ["/livez", "/readyz"] {
        assert_eq!(check(&cache, path), 200, "{path}");
    }
    drop(waiting);
}
