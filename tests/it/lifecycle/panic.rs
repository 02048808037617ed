//! A panic affects only its connection, stream or fill. Requires the feature `fail-points`.

use super::logs::{lines_of, requests, value};
use crate::harness::client::Why;
use crate::harness::disk::{age, bytes_on_disk};
use crate::harness::*;

const SIZE: u64 = 2_500_000;

fn with_panic(upstream: &Registry, point: &str, nth: usize) -> Server {
    Server::options(upstream)
        .env("FAIL_POINT", format!("{point}:panic:{nth}"))
        .start()
}

/// Fails unless one access log line has the id of the event `phrase` and shows an aborted response.
#[track_caller]
fn expect_logged(cache: &Server, phrase: &str) {
    cache.wait_stderr(phrase);
    let event = lines_of(&cache.stderr(), phrase).remove(0);
    let id = value(&event, "id").expect("the event has an id");
    eventually("the request has a line", || {
        let lines = requests(cache, 1);
        let line = lines.iter().find(|line| value(line, "id") == Some(id));
        line.is_some_and(|line| {
            value(line, "status") == Some("0")
                && value(line, "aborted") == Some("true")
                && value(line, "digest").is_none()
        })
    });
}

#[test]
fn a_panic_in_a_handler_ends_its_connection_and_no_other() {
    let upstream = Registry::new();
    let mut cache = with_panic(&upstream, "request", 2);
    let content = PseudoRandom::new(fresh_seed(), SIZE);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let gate = Gate::new();
    upstream.on(On::path(content.digest()), Reply::new().hold_at(SIZE / 2, &gate));
    let other = PseudoRandom::new(fresh_seed(), 1_000);
    let other_path = upstream.blob_url("a", &upstream.blob(other.clone()));

    let mut idle = cache.client().open();
    let mut pulling = cache.client().open();
    pulling.request("GET", &path, &[]).unwrap();
    let head = pulling.read_head().unwrap();
    let mut hit = cache.client().open();
    hit.request("GET", &other_path, &[]).unwrap();
    let broken = hit
        .read("GET")
        .expect_err("the panic closes the connection of the second request");
    assert!(
        matches!(broken.why, Why::NoResponse | Why::Reset) && broken.head.is_none(),
        "{broken:?}"
    );

    idle.request("GET", &other_path, &[]).unwrap();
    idle.read("GET").unwrap().expect(&other.bytes());
    gate.open();
    let whole = pulling.read_body(head, "GET", &mut |at, piece| {
        content
            .compare(at, piece)
            .map_or_else(client::Flow::Wrong, |()| client::Flow::Go)
    });
    assert_eq!(whole.unwrap().received, SIZE);
    cache.client().pull(&other_path, &other);
    assert!(cache.is_running());
    expect_logged(&cache, "connection task panicked");
}

#[test]
fn a_panic_in_a_stream_of_http_2_ends_that_stream_and_no_other() {
    let upstream = Registry::new();
    let mut cache = with_panic(&upstream, "request", 2);
    let content = PseudoRandom::new(fresh_seed(), SIZE);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let gate = Gate::new();
    upstream.on(On::path(content.digest()), Reply::new().hold_at(SIZE / 2, &gate));
    let mut peer = h2::Peer::begin(cache.addr());
    let pulling = peer.request("GET", &path, &[]);
    peer.head(pulling);
    let hit = peer.request("GET", &path, &[]);
    assert_eq!(peer.answer(hit).reset, Some(h2::INTERNAL_ERROR));
    gate.open();
    let answer = peer.answer(pulling);
    assert_eq!((answer.received, answer.ended), (SIZE, true));
    peer.get("/v2/").expect(b"{}");
    assert!(cache.is_running());
    expect_logged(&cache, "stream task panicked");
}

#[test]
fn a_panic_in_a_fill_fails_its_followers_cleanly_and_the_next_one_works() {
    for nth in [1, 8] {
        let upstream = Registry::new();
        let mut cache = with_panic(&upstream, "fill-received", nth);
        let content = PseudoRandom::new(fresh_seed(), SIZE);
        let path = upstream.blob_url("a", &upstream.blob(content.clone()));
        let gate = Gate::new();
        upstream.on(On::path(content.digest()).once(), Reply::new().hold_head(&gate));
        let client = cache.client();
        let failed = std::thread::scope(|scope| {
            let pulls: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| client.try_pull(&path, &[], &content, 0)))
                .collect();
            gate.wait_arrived(1);
            gate.open();
            pulls
                .into_iter()
                .map(|pull| match pull.join().unwrap() {
                    Ok(got) if got.status == 200 => {
                        assert_eq!(
                            got.received, SIZE,
                            "a client of the next fill receives the whole blob"
                        );
                        0
                    }
                    Ok(got) => {
                        assert!((500..=504).contains(&got.status), "{got}");
                        1
                    }
                    Err(broken) => {
                        assert!(matches!(broken.why, Why::Reset | Why::Truncated), "{broken:?}");
                        1
                    }
                })
                .sum::<usize>()
        });
        assert!(failed > 0, "chunk {nth}: no client fails");
        client.pull(&path, &content);
        cache.wait_stored(&content.digest());
        cache.settled_store().expect_clean();
        assert!(cache.is_running());
    }
}

#[test]
fn a_panic_while_a_manifest_is_fetched_is_an_error_and_the_next_one_works() {
    let upstream = Registry::new();
    let mut cache = with_panic(&upstream, "manifest-fetched", 1);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    let got = cache.client().get(&path);
    assert!((500..=504).contains(&got.status), "{got}");
    cache.client().get(&path).expect(&image.manifest);
    assert!(cache.is_running());
}

#[test]
fn a_panic_while_content_is_stored_fails_no_pull() {
    for point in [
        "ingest-opened",
        "ingest-written",
        "fill-verified",
        "data-synced",
        "sidecar-written",
        "data-named",
        "sidecar-named",
    ] {
        let upstream = Registry::new();
        let mut cache = with_panic(&upstream, point, 1);
        let content = PseudoRandom::new(fresh_seed(), SIZE);
        let path = upstream.blob_url("a", &upstream.blob(content.clone()));
        cache.client().pull(&path, &content);
        cache.wait_stderr("fail point");
        cache.client().pull(&path, &content);
        // The panicked thread may have held the lock for names and removals.
        let next = PseudoRandom::new(fresh_seed(), 10_000);
        let next_path = upstream.blob_url("a", &upstream.blob(next.clone()));
        cache.client().pull(&next_path, &next);
        cache.wait_stored(&next.digest());
        disk::check(cache.root()).expect_sound();
        assert!(cache.is_running(), "{point}");
        // The process may have ended before the second pull was stored. Then the third pull is
        // stored.
        cache.set_env("FAIL_POINT", "");
        cache.restart();
        cache.client().pull(&path, &content);
        cache.wait_stored(&content.digest());
        cache.settled_store().expect_clean();
    }
}

/// An entry of an older system has no verification mark. The first lookup hashes the entry.
#[test]
fn an_unverified_entry_is_served_after_a_panic_during_its_verification() {
    if server::storage_of_run() != "fs" {
        // A bucket has no fail point for this write.
        return;
    }
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), SIZE);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    cache.wait_stored(&content.digest());
    cache.stop();
    let sidecar = disk::sidecar_of(&disk::blob_path(cache.root(), &content.digest()));
    let marked = std::fs::read_to_string(&sidecar).unwrap();
    let unmarked = marked.replace("X-Cache-Verified", "X-Other");
    assert_ne!(marked, unmarked);
    std::fs::write(&sidecar, unmarked).unwrap();

    cache.set_env("AIR_GAPPED", "true");
    cache.set_env("FAIL_POINT", "replacement-written:panic:1");
    cache.restart();
    // The panic ends the first lookup. The fill looks the entry up again.
    cache.client().pull(&path, &content);
    cache.wait_stderr("fail point");
    cache.client().pull(&path, &content);
    assert!(cache.is_running());
}

/// A process with a dead core or watchdog must end, because otherwise nothing would restart the
/// process.
#[test]
fn a_panic_on_a_core_or_in_the_watchdog_ends_the_process() {
    for (point, nth, said) in [
        ("heartbeat", 3, "core panicked; aborting the process"),
        ("watchdog", 1, "watchdog ended; aborting the process"),
    ] {
        let upstream = Registry::new();
        let mut cache = with_panic(&upstream, point, nth);
        let status = cache.wait_exit(PATIENCE).expect(point);
        assert_eq!(
            status.code(),
            None,
            "{point}: the process did not end by a signal"
        );
        assert!(cache.stderr().contains(said), "{point}: {}", cache.stderr());
    }
}

#[test]
fn a_panic_in_a_health_check_ends_its_connection_and_no_other() {
    let upstream = Registry::new();
    let mut cache = with_panic(&upstream, "health", 1);
    let broken = cache
        .client()
        .try_get("/livez")
        .expect_err("the panic closes the connection");
    assert!(matches!(broken.why, Why::NoResponse | Why::Reset), "{broken:?}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(cache.client().get(path).status, 200, "{path}");
    }
    assert!(cache.is_running());
}

#[test]
fn a_panic_in_a_reload_leaves_the_old_configuration_and_the_next_reload_works() {
    let upstream = Registry::new();
    let mut cache = with_panic(&upstream, "reload", 1);
    cache.signal(rustix::process::Signal::HUP);
    cache.wait_stderr("configuration reload panicked");
    let content = PseudoRandom::new(fresh_seed(), 1_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    cache.signal(rustix::process::Signal::HUP);
    cache.wait_stderr("configuration reloaded");
    assert!(cache.is_running());
}

#[test]
fn store_evicts_after_a_panic_of_its_maintenance() {
    const BOUND: u64 = 9 * 1024 * 1024;
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    for _ in 0..6 {
        let content = PseudoRandom::new(fresh_seed(), SIZE);
        let path = upstream.blob_url("a", &upstream.blob(content.clone()));
        eventually("the blob is stored", || {
            cache.client().pull(&path, &content);
            cache.is_stored(&content.digest())
        });
    }
    cache.stop();
    age(cache.root(), 5);
    cache.set_env("CACHE_MAX_SIZE", BOUND);
    cache.set_env("FAIL_POINT", "store-maintenance:panic:1");
    cache.restart();
    cache.wait_stderr("store maintenance panicked");
    eventually("the store shrinks to the bound", || {
        bytes_on_disk(cache.root()) <= BOUND
    });
}

#[test]
fn scrub_continues_with_the_next_entry_after_a_panic() {
    const COUNT: usize = 4;
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("SCRUB_INTERVAL", "0")
        .start();
    for _ in 0..COUNT {
        let content = PseudoRandom::new(fresh_seed(), SIZE);
        let path = upstream.blob_url("a", &upstream.blob(content.clone()));
        cache.client().pull(&path, &content);
        cache.wait_stored(&content.digest());
    }
    cache.stop();
    cache.set_env("SCRUB_INTERVAL", "1s");
    cache.set_env("FAIL_POINT", "store-scrub:panic:1");
    cache.restart();
    cache.wait_stderr("store scrubbed");
    let stderr = cache.stderr();
    assert_eq!(stderr.matches("store scrub panicked").count(), 1, "{stderr}");
    let line = stderr.lines().find(|line| line.contains("store scrubbed"));
    let line = line.expect("the line of the pass");
    let expected = format!(" objects={} ", COUNT - 1);
    assert!(
        line.contains(&expected) && line.contains(" unreadable=1 "),
        "{line}"
    );
}

#[test]
fn other_prune_rules_run_after_a_panic_of_a_rule() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("FAIL_POINT", "prune-rule:panic:1")
        .config("prune: [{pattern: a}, {pattern: b}]\n")
        .start();
    cache.wait_stderr("prune rule panicked\" rule=prune[0]");
    cache.wait_stderr("prune rule completed\" rule=prune[1]");
}
