//! Blobs that the cache fetches before a client requests the blobs.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::harness::registry::RecordedRequest;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

fn options(upstream: &Registry, mode: &str) -> server::Options {
    Server::options(upstream).env("PREFETCH", mode)
}

/// Pushes an image with `layers` layers of `bytes` bytes.
fn image(upstream: &Registry, tag: &str, layers: u64, bytes: u64) -> Image {
    let seed = fresh_seed();
    let layers: Vec<_> = (0..layers)
        .map(|n| Content::from(PseudoRandom::new(seed + n, bytes)))
        .collect();
    Image::push(upstream, "a", tag, Flavor::Oci, &layers)
}

fn get_manifest(cache: &Server, upstream: &Registry, tag: &str, image: &Image) {
    let got = cache.client().get(&upstream.manifest_url("a", tag));
    got.expect(&image.manifest);
}

/// Returns the number of requests for blobs of `image`.
fn blob_requests(upstream: &Registry, image: &Image) -> usize {
    let digests = image.blobs.iter();
    digests.map(|(digest, _)| upstream.gets(digest)).sum()
}

/// Runs a prefetch of another image to its config. A prefetch that began before would have sent its
/// requests.
fn run_another_prefetch(cache: &Server, upstream: &Registry) {
    let other = image(upstream, "other", 1, 1_000);
    get_manifest(cache, upstream, "other", &other);
    // The config is the first blob.
    cache.wait_stored(&other.blobs[0].0);
}

#[test]
fn first_blobs_arrive_without_a_request_of_a_client_and_the_others_after_its_first_request() {
    let upstream = Registry::new();
    let cache = options(&upstream, "image").start();
    let image = image(&upstream, "v1", 10, 2 * MIB);
    get_manifest(&cache, &upstream, "v1", &image);
    eventually("six blobs are stored", || {
        let stored = image.blobs.iter().filter(|(digest, _)| cache.is_stored(digest));
        stored.count() == 6
    });
    run_another_prefetch(&cache, &upstream);
    assert_eq!(blob_requests(&upstream, &image), 6);
    let (first, content) = &image.blobs[0];
    let got = cache.client().get(&upstream.blob_url("a", first));
    got.expect(&content.bytes());
    for (digest, content) in &image.blobs {
        cache.wait_stored(digest);
        let path = upstream.blob_url("a", digest);
        wait_hit(&cache, &path);
        cache.client().get(&path).expect(&content.bytes());
        assert_eq!(upstream.gets(digest), 1);
    }
    cache.settled_store().expect_clean();
}

#[test]
fn config_alone_arrives_if_the_setting_is_config() {
    let upstream = Registry::new();
    let cache = options(&upstream, "config").start();
    let image = image(&upstream, "v1", 2, 1_000);
    get_manifest(&cache, &upstream, "v1", &image);
    let (config, _) = &image.blobs[0];
    cache.wait_stored(config);
    run_another_prefetch(&cache, &upstream);
    assert_eq!((upstream.gets(config), blob_requests(&upstream, &image)), (1, 1));
}

#[test]
fn head_of_a_manifest_starts_no_prefetch_and_the_get_after_it_does() {
    let upstream = Registry::new();
    let cache = options(&upstream, "image").start();
    let image = image(&upstream, "v1", 2, 1_000);
    let head = cache.client().head(&upstream.manifest_url("a", "v1"));
    assert_eq!(head.status, 200);
    run_another_prefetch(&cache, &upstream);
    assert_eq!(blob_requests(&upstream, &image), 0);
    let got = cache.client().get(&upstream.manifest_url("a", &image.digest));
    got.expect(&image.manifest);
    for (digest, _) in &image.blobs {
        cache.wait_stored(digest);
    }
    assert_eq!(blob_requests(&upstream, &image), image.blobs.len());
}

#[test]
fn prefetch_without_a_client_ends_after_its_time_and_starts_no_further_blob() {
    let upstream = Registry::new();
    let cache = options(&upstream, "image")
        .env("PREFETCH_TIMEOUT", "300ms")
        .start();
    let image = image(&upstream, "v1", 12, 3 * MIB);
    let gate = Gate::new();
    for (digest, _) in &image.blobs {
        upstream.on(On::path(digest), Reply::new().hold_at(100, &gate));
    }
    get_manifest(&cache, &upstream, "v1", &image);
    gate.wait_arrived(6);
    let canceled = "no client has requested a blob of the image";
    eventually("the fills in progress are canceled", || {
        cache.stderr().matches(canceled).count() == 6
    });
    assert_eq!(blob_requests(&upstream, &image), 6);
    gate.open();
    upstream.clear_rules();
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("a", digest))
            .expect(&content.bytes());
    }
}

#[test]
fn prefetch_goes_on_after_its_time_if_a_client_requests_one_blob() {
    let upstream = Registry::new();
    let cache = options(&upstream, "image").env("PREFETCH_TIMEOUT", "1s").start();
    let (used, unused) = (
        image(&upstream, "used", 3, 3 * MIB),
        image(&upstream, "unused", 3, 3 * MIB),
    );
    let (first, gate) = (Gate::new(), Gate::new());
    for (n, (digest, _)) in used.blobs.iter().chain(&unused.blobs).enumerate() {
        let gate = if n == 0 { &first } else { &gate };
        upstream.on(On::path(digest), Reply::new().hold_at(100, gate));
    }
    get_manifest(&cache, &upstream, "used", &used);
    first.wait_arrived(1);
    let (digest, content) = &used.blobs[0];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            cache
                .client()
                .get(&upstream.blob_url("a", digest))
                .expect(&content.bytes())
                .status
        });
        first.open();
    });
    // The time of this image begins later, so the time of the other image ends first.
    get_manifest(&cache, &upstream, "unused", &unused);
    cache.wait_stderr("no client has requested a blob of the image");
    gate.open();
    for (digest, _) in &used.blobs {
        cache.wait_stored(digest);
        assert_eq!(upstream.gets(digest), 1);
    }
}

#[test]
fn client_and_prefetch_share_one_upstream_request_for_each_blob() {
    const ROUNDS: usize = 100;
    let upstream = Registry::new();
    let cache = options(&upstream, "image")
        .cores(2)
        .env("ACCESS_LOG", "false")
        .start();
    for round in 0..ROUNDS {
        let tag = format!("v{round}");
        let image = image(&upstream, &tag, 3, 1_000 + 200_000 * (round as u64 % 8));
        get_manifest(&cache, &upstream, &tag, &image);
        std::thread::scope(|scope| {
            for (digest, content) in &image.blobs {
                let (cache, path) = (&cache, upstream.blob_url("a", digest));
                scope.spawn(move || cache.client().get(&path).expect(&content.bytes()).status);
            }
        });
        assert_eq!(
            blob_requests(&upstream, &image),
            image.blobs.len(),
            "round {round}"
        );
    }
}

#[test]
fn client_that_joins_a_prefetch_is_not_bound_to_the_background_bandwidth() {
    let upstream = Registry::new();
    let cache = options(&upstream, "image")
        .env("BACKGROUND_BANDWIDTH", "1")
        .start();
    let image = image(&upstream, "v1", 2, 5 * MIB);
    get_manifest(&cache, &upstream, "v1", &image);
    upstream.wait_until("a request for each layer", |log| {
        let is_asked = |digest: &String| log.iter().any(|seen| seen.is_get(digest));
        image.blobs.iter().all(|(digest, _)| is_asked(digest))
    });
    // At one byte per second, a layer would take months.
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("a", digest))
            .expect(&content.bytes());
        assert_eq!(upstream.gets(digest), 1);
    }
}

#[test]
fn prefetch_of_a_private_image_has_the_credentials_of_its_client_only() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth {
        scheme: Scheme::Either,
        ..Auth::default()
    });
    upstream.behaviour(|own| own.blobs_belong = true);
    for user in ["alice", "bob"] {
        upstream.user(user, &format!("canary-{user}"));
    }
    upstream.allow("alice", "a");
    let cache = options(&upstream, "image").start();
    let image = image(&upstream, "v1", 2, 2 * MIB);
    let alice = basic("alice", "canary-alice");
    let fields = [("Authorization", alice.as_str())];
    let got = cache
        .client()
        .get_with(&upstream.manifest_url("a", "v1"), &fields);
    got.expect(&image.manifest);
    for (digest, _) in &image.blobs {
        cache.wait_stored(digest);
    }
    let is_blob = |seen: &RecordedRequest| seen.kind == Kind::Blob && seen.status == 200;
    assert_eq!(upstream.count(is_blob), image.blobs.len());
    assert_eq!(
        upstream.count(|seen| is_blob(seen) && seen.field("authorization").is_some()),
        image.blobs.len()
    );
    assert!(upstream.saw("canary-bob").is_empty());
    // The stored blobs stay private.
    for (digest, content) in &image.blobs {
        let path = upstream.blob_url("a", digest);
        let bob = basic("bob", "canary-bob");
        assert_ne!(
            cache
                .client()
                .get_with(&path, &[("Authorization", bob.as_str())])
                .status,
            200
        );
        assert_ne!(cache.client().get(&path).status, 200);
        cache.client().get_with(&path, &fields).expect(&content.bytes());
        assert_eq!(
            upstream.count(|seen| seen.is_get(digest) && seen.status == 200),
            1
        );
    }
}

#[test]
fn registry_with_a_budget_below_the_reserve_gets_no_prefetch() {
    let upstream = Registry::new();
    let cache = options(&upstream, "image").start();
    upstream.behaviour(|own| own.budget = Some(Budget::hub(25)));
    let image = image(&upstream, "v1", 2, 1_000);
    get_manifest(&cache, &upstream, "v1", &image);
    upstream.behaviour(|own| own.budget = Some(Budget::hub(90)));
    run_another_prefetch(&cache, &upstream);
    assert_eq!(blob_requests(&upstream, &image), 0);
}

/// Pulls the blobs of an image like docker, three at once. Returns the bytes.
fn pull_blobs(cache: &Server, upstream: &Registry, image: &Image) -> u64 {
    let next = AtomicUsize::new(0);
    let pulled = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some((digest, content)) = image.blobs.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let got = cache.client().get(&upstream.blob_url("a", digest));
                    assert_eq!(got.body.len() as u64, content.size());
                    pulled.fetch_add(content.size(), Ordering::SeqCst);
                }
            });
        }
    });
    pulled.into_inner()
}

/// Returns the time of a cold pull of 12 layers of 50 MiB, from a registry with a round trip of 50 ms
/// and 25 MB/s for each connection. Layers and rate are divided by `scale`.
fn cold_pull(mode: &str, scale: u64) -> Duration {
    const ROUND_TRIP: Duration = Duration::from_millis(50);
    let upstream = Registry::new();
    let cache = options(&upstream, mode).start();
    let image = image(&upstream, "v1", 12, 50 * MIB / scale);
    let slow = Reply::new().delay_head(ROUND_TRIP).rate(25_000_000 / scale);
    upstream.on(On::kind(Kind::Blob), slow);
    upstream.on(On::any(), Reply::new().delay_head(ROUND_TRIP));
    let began = Instant::now();
    get_manifest(&cache, &upstream, "v1", &image);
    pull_blobs(&cache, &upstream, &image);
    began.elapsed()
}

/// Run with `SCALE=10 cargo test --test it -- --ignored --nocapture prefetch::cold_pull`.
#[test]
#[ignore = "a measurement of about a minute"]
fn cold_pull_is_measured_with_and_without_a_prefetch() {
    let scale = std::env::var("SCALE").map_or(1, |text| text.parse().expect("a number"));
    for round in 0..3 {
        let [off, on] = ["off", "image"].map(|mode| cold_pull(mode, scale));
        let ratio = off.as_secs_f64() / on.as_secs_f64();
        println!("round {round}: off {off:.2?}, image {on:.2?}, {ratio:.2} times faster");
    }
}

/// Of 40 new images, 38 are pulled whole and 2 are inspected: their manifest is read alone. 20 images
/// have only a `HEAD` request, and 20 pulls repeat.
#[test]
fn mixed_requests_cause_at_most_a_twentieth_of_needless_bytes() {
    let upstream = Registry::new();
    let cache = options(&upstream, "image").start();
    let mut needed = 0;
    for n in 0..60 {
        let tag = format!("v{n}");
        let image = image(&upstream, &tag, 12, 100_000);
        let path = upstream.manifest_url("a", &tag);
        match n % 30 {
            0 => get_manifest(&cache, &upstream, &tag, &image),
            1..20 => {
                get_manifest(&cache, &upstream, &tag, &image);
                needed += pull_blobs(&cache, &upstream, &image);
                if n % 2 == 0 {
                    get_manifest(&cache, &upstream, &tag, &image);
                    pull_blobs(&cache, &upstream, &image);
                }
            }
            _ => assert_eq!(cache.client().head(&path).status, 200),
        }
    }
    run_another_prefetch(&cache, &upstream);
    let log = upstream.log();
    let blobs = log.iter().filter(|seen| seen.kind == Kind::Blob);
    let received: u64 = blobs.map(|seen| seen.sent).sum();
    println!("{needed} bytes needed, {received} bytes received");
    assert!(received - needed <= needed / 20, "{received} of {needed}");
}
