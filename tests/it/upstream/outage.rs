//! Upstream failures. Cached content is served, other requests are rejected at once, and the
//! upstream receives few requests.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use crate::harness::h2::Peer;
use crate::harness::*;

/// The duration of a request_repeatedly, long enough for a few probes.
const STORM: Duration = Duration::from_secs(3);

/// The number of failures after which an upstream counts as down.
const FAILURES: usize = 5;

/// Pulls an image and waits until all of its content is stored.
fn warm(cache: &Server, upstream: &Registry, repository: &str, tag: &str) -> Image {
    let image = Image::small(upstream, repository, tag, fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url(repository, tag))
        .expect(&image.manifest);
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url(repository, digest))
            .expect(&content.bytes());
        cache.wait_stored(digest);
    }
    cache.wait_stored(&image.digest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), repository, tag);
    eventually("the tag is stored", || pointer.exists());
    image
}

/// Requests `path` repeatedly with `clients` clients. Every response must contain `body` and be
/// marked as stale.
fn request_repeatedly(cache: &Server, path: &str, body: &[u8], clients: usize) -> Duration {
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut connection = cache.client().open();
                while began.elapsed() < STORM {
                    connection.request("GET", path, &[]).unwrap();
                    let got = connection.read("GET").unwrap();
                    got.expect(body);
                    assert_eq!(got.x_cache(), "STALE", "{got}");
                }
            });
        }
    });
    began.elapsed()
}

#[test]
fn a_hundred_clients_of_one_expired_tag_cost_a_dead_upstream_a_probe_a_second() {
    for (what, reply, each) in [
        ("503", Reply::status(503), 1),
        // The cache replaces a broken connection once, without delay.
        ("closed connection", Reply::hang_up(Cut::Rst), 2),
    ] {
        let upstream = Registry::new();
        let cache = Server::options(&upstream)
            .env("TAG_TTL", "0s")
            .env("ACCESS_LOG", "false")
            .cores(2)
            .start();
        let image = warm(&cache, &upstream, "a", "v1");
        upstream.on(On::any(), reply);
        let (requests, connections) = (upstream.requests(), upstream.connections());
        let lasted = request_repeatedly(&cache, &upstream.manifest_url("a", "v1"), &image.manifest, 100);
        let allowed = each * (FAILURES + lasted.as_secs() as usize + 1);
        let asked = upstream.requests() - requests;
        assert!(asked <= allowed, "{what}: {asked} requests in {lasted:?}");
        assert!(asked > FAILURES, "{what}: the cache sends no probes");
        let connected = upstream.connections() - connections;
        assert!(
            connected <= allowed,
            "{what}: {connected} connections in {lasted:?}"
        );

        // The cache notices the recovery. The whole outage causes only two log lines.
        upstream.clear_rules();
        cache.wait_asks(&upstream, "a");
        let moved = Image::small(&upstream, "a", "v1", fresh_seed());
        eventually("the tag is revalidated again", || {
            cache.client().get(&upstream.manifest_url("a", "v1")).body == moved.manifest
        });
        cache.wait_stderr("upstream available again");
        let log = cache.stderr();
        assert_eq!(log.matches("upstream unavailable").count(), 1, "{what}: {log}");
        assert_eq!(
            log.matches("upstream available again").count(),
            1,
            "{what}: {log}"
        );
    }
}

/// Requests by digest are served without any connection, and tags are served stale.
#[test]
fn all_that_was_pulled_is_served_while_the_upstream_is_gone() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("TAG_TTL", "0s").cores(2).start();
    let images: Vec<_> = (0..10)
        .map(|n| warm(&cache, &upstream, &format!("a/{n}"), "v1"))
        .collect();
    // The upstream accepts connections for the count, and closes them at once.
    upstream.on(On::any(), Reply::hang_up(Cut::Fin));
    for restarted in [false, true] {
        if restarted {
            cache.restart();
        }
        let connections = upstream.connections();
        for _ in 0..10 {
            for (n, image) in images.iter().enumerate() {
                let repository = format!("a/{n}");
                let by_digest = upstream.manifest_url(&repository, &image.digest);
                cache.client().get(&by_digest).expect(&image.manifest);
                for (digest, content) in &image.blobs {
                    cache
                        .client()
                        .get(&upstream.blob_url(&repository, digest))
                        .expect(&content.bytes());
                }
            }
        }
        assert_eq!(upstream.connections(), connections, "restarted: {restarted}");
        for (n, image) in images.iter().enumerate() {
            let got = cache
                .client()
                .get(&upstream.manifest_url(&format!("a/{n}"), "v1"));
            got.expect(&image.manifest);
            assert_eq!(got.x_cache(), "STALE", "{got}");
        }
    }
}

#[test]
fn a_server_starts_with_its_upstreams_down_and_refuses_what_it_has_not() {
    let upstream = Registry::new();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    upstream.down();
    let cache = Server::start(&upstream);
    assert_eq!(cache.client().get("/healthz").status, 200);
    let (by_tag, blob) = (
        upstream.manifest_url("a", "v1"),
        upstream.blob_url("a", &image.blobs[0].0),
    );
    for _ in 0..2 * FAILURES {
        for path in [&by_tag, &blob] {
            let got = cache.client().get(path);
            got.expect_error(502, "UNAVAILABLE");
            let text = String::from_utf8_lossy(&got.body).into_owned();
            assert!(text.contains(&upstream.name()), "{text}");
        }
    }
    upstream.up();
    cache.wait_asks(&upstream, "a");
    cache.client().get(&by_tag).expect(&image.manifest);
    cache.client().get(&blob).expect(&image.blobs[0].1.bytes());
}

#[test]
fn one_broken_repository_leaves_the_others_alone() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    upstream.on(On::path("/v2/broken/"), Reply::status(500));
    let missing = "sha256:".to_owned() + &"0a".repeat(32);
    for n in 0..20_u64 {
        let got = cache.client().get(&upstream.blob_url("broken", &missing));
        assert_eq!(got.status, 502, "{got}");
        let content = PseudoRandom::new(fresh_seed(), 100 + n);
        let digest = upstream.blob(content.clone());
        cache.client().pull(&upstream.blob_url("well", &digest), &content);
    }
}

#[test]
fn unknown_host_and_host_without_tls_are_reported_and_cached_blobs_are_served() {
    let upstream = Registry::new();
    let addr = upstream.addr();
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let no_tls = plain.local_addr().unwrap();
    // The first byte of every connection.
    let (sender, first_bytes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut first = [0; 1024];
            let Ok(1..) = stream.read(&mut first) else {
                continue;
            };
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            if sender.send(first[0]).is_err() {
                return;
            }
        }
    });
    let cache = Server::bare()
        .config(format!(
            "registries:\n\
             - {{name: \"{addr}\", insecure: true, url: \"http://{addr}\"}}\n\
             - {{name: \"tls.lan\", url: \"https://{no_tls}\"}}\n\
             - {{name: \"nowhere.lan\", insecure: true, url: \"http://nowhere.invalid\"}}\n"
        ))
        .start();
    let content = PseudoRandom::new(fresh_seed(), 50_000);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    cache.client().pull(&path, &content);
    cache.wait_stored(&digest);
    wait_hit(&cache, &path);
    let asked = upstream.requests();
    let missing = "sha256:".to_owned() + &"0b".repeat(32);
    for (name, reason) in [("tls.lan", "no TLS session"), ("nowhere.lan", "nowhere.invalid")] {
        let got = cache.client().get(&format!("/v2/{name}/a/blobs/{missing}"));
        // If no name server responds, the request fails at its deadline.
        assert!(matches!(got.status, 502 | 504), "{name}: {got}");
        let text = String::from_utf8_lossy(&got.body).into_owned();
        assert!(text.contains(reason), "{name}: {text}");
        assert_eq!(cache.client().pull(&path, &content).x_cache(), "HIT");
    }
    assert_eq!(upstream.requests(), asked);
    const TLS_HANDSHAKE: u8 = 22;
    let received: Vec<u8> = first_bytes.try_iter().collect();
    assert!(!received.is_empty());
    assert!(
        received.iter().all(|&first| first == TLS_HANDSHAKE),
        "a connection falls back to plain HTTP"
    );
}

#[test]
fn stats_of_registries_require_client_authentication() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    cache.client().get("/_/stats").expect_error(404, "NAME_UNKNOWN");
}

#[test]
fn an_air_gapped_cache_serves_what_it_has_and_says_why_it_has_no_more() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let image = warm(&cache, &upstream, "a", "v1");
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    let connections = upstream.connections();
    for reference in ["v1", &image.digest] {
        cache
            .client()
            .get(&upstream.manifest_url("a", reference))
            .expect(&image.manifest);
    }
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("a", digest))
            .expect(&content.bytes());
    }
    let missing = "sha256:".to_owned() + &"0c".repeat(32);
    for (path, code) in [
        (upstream.manifest_url("a", "v2"), "MANIFEST_UNKNOWN"),
        (upstream.manifest_url("a", &missing), "MANIFEST_UNKNOWN"),
        (upstream.blob_url("a", &missing), "BLOB_UNKNOWN"),
    ] {
        let got = cache.client().get(&path);
        got.expect_error(404, code);
        let text = String::from_utf8_lossy(&got.body).into_owned();
        assert!(text.contains("air-gapped"), "{text}");
    }
    assert_eq!(upstream.connections(), connections);
}

/// The upstream accepts connections and sends nothing. Only one client waits, and only for a short
/// time.
#[test]
fn a_silent_upstream_holds_one_client_of_a_stale_tag_up_and_no_other() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let image = warm(&cache, &upstream, "a", "v1");
    let never = Gate::new();
    upstream.on(On::any(), Reply::new().hold_head(&never));
    let path = upstream.manifest_url("a", "v1");
    let began = Instant::now();
    for _ in 0..50 {
        let got = cache.client().get(&path);
        got.expect(&image.manifest);
        assert_eq!(got.x_cache(), "STALE", "{got}");
    }
    // The first request takes 5 s. 50 such waits would take minutes.
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    never.open();
}

/// Removes a layer of `image` from the store of a running cache, as a person with a shell would.
fn lose_a_blob(cache: &Server, image: &Image) {
    let (digest, _) = image.blobs.last().expect("an image has blobs");
    let data = disk::blob_path(cache.root(), digest);
    std::fs::remove_file(disk::sidecar_of(&data)).expect("remove the sidecar");
    std::fs::remove_file(data).expect("remove the blob");
}

/// Requests an image by tag and by digest, and expects the status `status`.
fn expect_status(cache: &Server, upstream: &Registry, image: &Image, status: u16) {
    for reference in ["v1", &image.digest] {
        let path = upstream.manifest_url("a", reference);
        let got = cache.client().get(&path);
        assert_eq!(got.status, status, "{reference}: {got}");
        // A node that has the whole image sends HEAD only.
        assert_eq!(cache.client().head(&path).status, 200, "{reference}");
        let by_http2 = Peer::begin(cache.addr()).get(&path);
        assert_eq!((by_http2.status, by_http2.ended), (status, true), "{reference}");
        if status == 504 {
            let body = String::from_utf8_lossy(&got.body);
            for part in [
                "UNAVAILABLE",
                "1 of its manifests or blobs",
                "use another registry",
            ] {
                assert!(body.contains(part), "{body}");
            }
        }
    }
}

#[test]
fn incomplete_image_of_an_air_gapped_cache_is_a_504_and_a_complete_image_is_not() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    let image = warm(&cache, &upstream, "a", "v1");
    cache.set_env("AIR_GAPPED", "true");
    cache.stop();
    cache.restart();
    expect_status(&cache, &upstream, &image, 200);
    // The second response by digest comes from memory.
    expect_status(&cache, &upstream, &image, 200);
    cache.stop();
    lose_a_blob(&cache, &image);
    cache.restart();
    expect_status(&cache, &upstream, &image, 504);
    expect_status(&cache, &upstream, &image, 504);
}

#[test]
fn index_of_an_air_gapped_cache_is_a_504_without_a_whole_platform() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    let [first, second] = [1, 2].map(|seed| [Content::from(PseudoRandom::new(fresh_seed() + seed, 1_000))]);
    let index = Image::push_index(&upstream, "a", "v1", Flavor::Oci, [&first, &second]);
    for image in index.manifests() {
        cache
            .client()
            .get(&upstream.manifest_url("a", &image.digest))
            .expect(&image.manifest);
        for (digest, content) in &image.blobs {
            let got = cache.client().get(&upstream.blob_url("a", digest));
            got.expect(&content.bytes());
            cache.wait_stored(digest);
        }
        cache.wait_stored(&image.digest);
    }
    cache.set_env("AIR_GAPPED", "true");
    cache.stop();
    cache.restart();
    let status = |cache: &Server, image: &Image| {
        let path = upstream.manifest_url("a", &image.digest);
        cache.client().get(&path).status
    };
    let [amd64, arm64] = &index.children[..] else {
        panic!("the index has two platforms");
    };
    let all = |cache: &Server| [&index, amd64, arm64].map(|image| status(cache, image));
    assert_eq!(all(&cache), [200, 200, 200]);
    for (lost, expected) in [(amd64, [200, 504, 200]), (arm64, [504, 504, 504])] {
        cache.stop();
        lose_a_blob(&cache, lost);
        cache.restart();
        assert_eq!(all(&cache), expected);
        assert_eq!(all(&cache), expected, "the second responses come from memory");
    }
}

#[test]
fn incomplete_image_is_a_504_while_the_registry_is_down_and_a_200_afterwards() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    let image = warm(&cache, &upstream, "a", "v1");
    // The manifests are in the memory of the core.
    expect_status(&cache, &upstream, &image, 200);
    lose_a_blob(&cache, &image);
    expect_status(&cache, &upstream, &image, 200);
    upstream.down();
    let other = upstream.manifest_url("a", "other");
    eventually("the registry counts as down", || {
        let _ = cache.client().get(&other);
        cache.stderr().contains("upstream unavailable")
    });
    eventually("the manifest in memory is forgotten", || {
        cache
            .client()
            .get(&upstream.manifest_url("a", &image.digest))
            .status
            == 504
    });
    expect_status(&cache, &upstream, &image, 504);
    upstream.up();
    eventually("the registry counts as available", || {
        cache
            .client()
            .get(&upstream.manifest_url("a", &image.digest))
            .status
            == 200
    });
    expect_status(&cache, &upstream, &image, 200);
}
