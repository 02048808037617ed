//! Health checks during failures: correct and timely.

use std::time::{Duration, Instant};

use crate::harness::disk::SmallDisk;
use crate::harness::*;

const CHECKS: [&str; 4] = ["/livez", "/readyz", "/healthz", "/_/health"];

/// Far more than a response takes, and less than any wait that a health check must avoid.
const IN_TIME: Duration = Duration::from_secs(10);

/// Requests `path` with GET and HEAD. Both must return an equal status in time.
pub fn check(cache: &Server, path: &str) -> u16 {
    let began = Instant::now();
    let mut get = cache.client().get(path);
    let head = cache.client().head(path);
    if get.status != head.status {
        // The state may change once between the two requests.
        get = cache.client().get(path);
    }
    assert!(began.elapsed() < IN_TIME, "{path} took {:?}", began.elapsed());
    assert_eq!(get.status, head.status, "{path}");
    assert_eq!(head.body, b"", "{path}");
    if path == "/_/health" && get.status == 200 {
        get.expect(b"{\"status\":\"healthy\"}");
    }
    get.status
}

#[test]
fn a_full_disk_does_not_affect_readiness() {
    let Some(disk) = SmallDisk::mount(4 * 1024 * 1024) else {
        return;
    };
    let upstream = Registry::new();
    let cache = Server::options(&upstream).root(&disk.path.join("store")).start();
    disk.fill_leaving(0);
    let content = PseudoRandom::new(fresh_seed(), 2_000_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    cache.client().pull(&path, &content);
    for path in CHECKS {
        assert_eq!(check(&cache, path), 200, "{path}");
    }
}

/// More requests wait for a silent upstream than the cache permits concurrent fetches.
#[test]
fn hanging_upstreams_do_not_affect_readiness() {
    raise_file_limit();
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .cores(2)
        .env("ACCESS_LOG", "off")
        .start();
    let gate = Gate::new();
    upstream.on(On::any(), Reply::new().hold_head(&gate));
    let waiting: Vec<Connection> = (0..300)
        .map(|n| {
            let mut connection = cache.client().open();
            let path = upstream.manifest_url("a", &format!("v{n}"));
            connection.request("GET", &path, &[]).unwrap();
            connection
        })
        .collect();
    gate.wait_arrived(1);
    for path in CHECKS {
        assert_eq!(check(&cache, path), 200, "{path}");
    }
    drop(waiting);
    gate.open();
}
