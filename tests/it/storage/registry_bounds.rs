//! Bounds of single registries, and the statistics of each registry.

use serde_json::Value;

use crate::harness::disk::age;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
const BOUNDED: &str = "bounded.test";
const OTHER: &str = "other.test:5000";

/// A cache of two registries at one upstream. [`BOUNDED`] has the keys `keys`.
fn cache(upstream: &Registry, keys: &str) -> Server {
    Server::options(upstream)
        .registry_with(BOUNDED, upstream.addr(), keys)
        .registry(OTHER, upstream.addr())
        .env("STORAGE_BACKEND", "fs")
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .start()
}

/// Makes `count` blobs of 4 MiB at the upstream.
fn blobs(upstream: &Registry, count: u64) -> Vec<PseudoRandom> {
    let seed = fresh_seed();
    let blobs = (0..count).map(|n| PseudoRandom::new(seed + n, 4 * MIB));
    blobs.inspect(|blob| drop(upstream.blob(blob.clone()))).collect()
}

fn path(registry: &str, blob: &PseudoRandom) -> String {
    format!("/v2/{registry}/a/blobs/{}", blob.digest())
}

fn pull(cache: &Server, registry: &str, blob: &PseudoRandom) {
    cache.client().pull(&path(registry, blob), blob);
}

/// Pulls `blobs`, and waits until all are stored.
fn store(cache: &Server, registry: &str, blobs: &[PseudoRandom]) {
    for blob in blobs {
        // On a slow disk, the cache continues a pull without storing.
        eventually("the blob is stored", || {
            pull(cache, registry, blob);
            cache.is_stored(&blob.digest())
        });
    }
}

fn stats(cache: &Server) -> Value {
    let addr = cache.addr_of("admin");
    let host = addr.to_string();
    let response = Client::new(addr).request("GET", "/_/stats", &[("Host", &host)]);
    assert_eq!(response.status, 200, "{response}");
    serde_json::from_slice(&response.body).expect("JSON")
}

fn figure(cache: &Server, registry: &str, name: &str) -> u64 {
    let stats = stats(cache);
    let figure = stats[registry][name].as_u64();
    figure.unwrap_or_else(|| panic!("{name} of {registry}: {stats:#}"))
}

fn restart(cache: &mut Server) {
    cache.restart();
    cache.wait_stderr("store scanned");
}

#[test]
fn bound_of_a_registry_evicts_its_own_content_only() {
    let upstream = Registry::new();
    let mut cache = cache(&upstream, "cache_max_size: 9.5M");
    let (own, foreign, new) = (blobs(&upstream, 2), blobs(&upstream, 3), blobs(&upstream, 2));
    store(&cache, OTHER, &foreign);
    store(&cache, BOUNDED, &own);
    cache.stop();
    age(cache.root(), 5);
    restart(&mut cache);
    let is_stored = |blob: &PseudoRandom| cache.is_stored(&blob.digest());
    assert!(
        own.iter().chain(&foreign).all(is_stored),
        "nothing exceeds a bound"
    );
    let bound = 9 * MIB + MIB / 2;
    assert_eq!(figure(&cache, BOUNDED, "MaxSize"), bound);
    assert_eq!(figure(&cache, OTHER, "MaxSize"), 0);

    store(&cache, BOUNDED, &new);
    assert!(!own.iter().any(is_stored), "new content replaces unused content");
    assert!(foreign.iter().all(is_stored));
    assert_eq!(figure(&cache, BOUNDED, "Evictions"), 2);
    assert_eq!(figure(&cache, OTHER, "Evictions"), 0);
    assert_eq!(figure(&cache, BOUNDED, "Items"), 2);
    assert!(figure(&cache, BOUNDED, "CurrentSize") <= bound);

    // Young content is never evicted, and the pull of more content still succeeds.
    let more = blobs(&upstream, 1);
    pull(&cache, BOUNDED, &more[0]);
    cache.wait_stderr("registry is full; pulls continue without storing");
    assert!(!is_stored(&more[0]));
    store(&cache, OTHER, &more);
    cache.settled_store().expect_sound();
}

#[test]
fn blob_above_the_bound_of_its_registry_is_pulled_and_not_stored() {
    let upstream = Registry::new();
    let cache = cache(&upstream, "cache_max_size: 1024k");
    let blobs = blobs(&upstream, 1);
    pull(&cache, BOUNDED, &blobs[0]);
    cache.wait_stderr("the object is larger than cache_max_size of bounded.test");
    assert!(!cache.is_stored(&blobs[0].digest()));
}

#[test]
fn content_of_each_registry_is_the_same_after_a_restart() {
    let upstream = Registry::new();
    let mut cache = cache(&upstream, "access: shared");
    let blobs = blobs(&upstream, 2);
    store(&cache, BOUNDED, &blobs[..1]);
    store(&cache, OTHER, &blobs[1..]);
    Image::small(&upstream, "a", "v1", fresh_seed());
    wait_hit(&cache, &format!("/v2/{OTHER}/a/manifests/v1"));
    let content = |cache: &Server| {
        let names = ["Items", "CurrentSize"];
        [BOUNDED, OTHER].map(|registry| names.map(|name| figure(cache, registry, name)))
    };
    // A blob, and a blob, a manifest and a tag.
    eventually("the manifest and the tag are stored", || {
        content(&cache).map(|[items, _]| items) == [1, 3]
    });
    let before = content(&cache);
    cache.stop();
    restart(&mut cache);
    assert_eq!(content(&cache), before);
    assert_eq!(figure(&cache, OTHER, "Hits"), 0);
}

#[test]
fn hits_and_misses_are_counted_for_the_requested_registry() {
    let upstream = Registry::new();
    let cache = cache(&upstream, "access: shared");
    let small = PseudoRandom::new(fresh_seed(), 1000);
    upstream.blob(small.clone());
    let hits = || figure(&cache, OTHER, "Hits");
    let misses = || figure(&cache, OTHER, "Misses");
    pull(&cache, OTHER, &small);
    assert_eq!((hits(), misses()), (0, 1));
    wait_hit(&cache, &path(OTHER, &small));
    let (before, missed) = (hits(), misses());
    // From the memory of the core, in part, and a head alone.
    for _ in 0..5 {
        assert_eq!(cache.client().get(&path(OTHER, &small)).x_cache(), "HIT");
    }
    let range = [("Range", "bytes=1-2")];
    assert_eq!(cache.client().get_with(&path(OTHER, &small), &range).status, 206);
    assert_eq!(
        cache.client().request("HEAD", &path(OTHER, &small), &[]).status,
        200
    );
    assert_eq!((hits(), misses()), (before + 7, missed));
    // An error is neither.
    let absent = format!("/v2/{OTHER}/a/blobs/sha256:{}", "0".repeat(64));
    assert_eq!(cache.client().get(&absent).status, 404);
    assert_eq!((hits(), misses()), (before + 7, missed));
    // A registry without a request and without content.
    let stats = stats(&cache);
    assert_eq!(stats.get(BOUNDED), None, "{stats:#}");
}
