//! Lifetimes of tags: rules per registry, tags made from digests, and requests during a
//! revalidation.

use crate::harness::*;

/// Returns a configuration with the fake registry and additional lines.
fn yaml(upstream: &Registry, more: &str) -> String {
    let (name, addr) = (upstream.name(), upstream.addr());
    format!("registries:\n  - name: \"{name}\"\n    url: \"http://{addr}\"\n    insecure: true\n{more}")
}

/// Returns the number of requests for manifests, with any method.
fn manifest_requests(upstream: &Registry) -> usize {
    upstream.count(|seen| seen.kind == Kind::Manifest)
}

/// Pulls a tag and waits until the tag and the manifest are stored.
fn warm(cache: &Server, upstream: &Registry, tag: &str) -> Image {
    let image = Image::small(upstream, "a", tag, fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", tag))
        .expect(&image.manifest);
    cache.wait_stored(&image.digest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", tag);
    eventually("the tag is stored", || pointer.exists());
    image
}

#[test]
fn the_first_rule_that_matches_a_tag_decides_how_long_it_is_known() {
    let upstream = Registry::new();
    let rules = "    tag_rules:\n      - {pattern: v1, revalidate: always}\n      - {pattern: 'v*', revalidate: never}\n      - {pattern: '/^nightly-/', ttl: 1h}\n";
    let cache = Server::bare()
        .config(yaml(&upstream, rules))
        .env("TAG_TTL", "0s")
        .start();
    for (tag, asked) in [("v1", 1), ("v2", 0), ("nightly-3", 0), ("other", 1)] {
        let image = warm(&cache, &upstream, tag);
        let before = manifest_requests(&upstream);
        cache
            .client()
            .get(&upstream.manifest_url("a", tag))
            .expect(&image.manifest);
        assert_eq!(manifest_requests(&upstream) - before, asked, "{tag}");
    }
}

#[test]
fn deleted_tag_is_served_stale_with_keep_on_404() {
    let upstream = Registry::new();
    let rules = "    tag_rules:\n      - {pattern: 'kept*', revalidate: always, keep_on_404: true}\n";
    let cache = Server::bare()
        .config(yaml(&upstream, rules))
        .env("TAG_TTL", "0s")
        .start();
    let kept = warm(&cache, &upstream, "kept-1");
    warm(&cache, &upstream, "other");
    upstream.on(On::kind(Kind::Manifest), Reply::status(404));
    let got = cache.client().get(&upstream.manifest_url("a", "kept-1"));
    got.expect(&kept.manifest);
    assert_eq!(got.x_cache(), "STALE");
    assert!(
        got.field("warning").is_some_and(|text| text.starts_with("299 ")),
        "{got}"
    );
    cache
        .client()
        .get(&upstream.manifest_url("a", "other"))
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn latest_is_pulled_every_time_when_the_operator_says_so() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("CACHE_LATEST_TAG", "true")
        .env("ALWAYS_PULL_LATEST", "true")
        .start();
    warm(&cache, &upstream, "latest");
    let new = Image::small(&upstream, "a", "latest", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "latest"))
        .expect(&new.manifest);
}

#[test]
fn signatures_are_looked_for_again_soon_whatever_the_rules_say() {
    let upstream = Registry::new();
    let rules = "    tag_rules:\n      - {pattern: '*', revalidate: never}\n";
    let cache = Server::bare().config(yaml(&upstream, rules)).start();
    let tag = format!("sha256-{}.sig", "0a".repeat(32));
    // A missing signature is requested again after seconds.
    let path = upstream.manifest_url("a", &tag);
    for _ in 0..2 {
        cache.client().get(&path).expect_error(404, "MANIFEST_UNKNOWN");
    }
    let first = Image::small(&upstream, "a", &tag, fresh_seed());
    eventually("the first signature", || {
        cache.client().get(&path).body == first.manifest
    });
    let new = Image::small(&upstream, "a", &tag, fresh_seed());
    eventually("the new signature", || {
        cache.client().get(&path).body == new.manifest
    });
}

/// Stops the server and sets the time of the last check of the stored tag `v1`, in the directory
/// and in the bucket if present.
fn set_checked(cache: &mut Server, upstream: &Registry, checked_ms: u64) {
    let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", "v1");
    let mut places = vec![pointer.clone()];
    if let Some(bucket) = cache.bucket() {
        let name = pointer.strip_prefix(cache.root()).unwrap();
        places.push(bucket.path(name.to_str().unwrap()));
    }
    let same = || {
        places
            .iter()
            .all(|place| std::fs::read(place).ok() == std::fs::read(&pointer).ok())
    };
    eventually("every cache has stored the tag", same);
    cache.stop();
    let text = std::fs::read_to_string(&pointer).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["checkedAtMs"] = checked_ms.into();
    for place in places {
        std::fs::write(place, json.to_string()).unwrap();
    }
    cache.restart();
}

fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

const HOUR_MS: u64 = 3_600_000;

#[test]
fn a_tag_in_its_grace_is_answered_at_once_and_asked_for_once_in_the_background() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .cores(2)
        .env("TAG_TTL", "1h")
        .env("STALE_WHILE_REVALIDATE", "24h")
        .start();
    let path = upstream.manifest_url("a", "v1");
    let old = warm(&cache, &upstream, "v1");
    set_checked(&mut cache, &upstream, now_ms() - 2 * HOUR_MS);
    let new = Image::small(&upstream, "a", "v1", fresh_seed());
    let before = manifest_requests(&upstream);
    // The upstream responds only after all clients have been served.
    let gate = Gate::new();
    upstream.on(On::kind(Kind::Manifest).head(), Reply::new().hold_head(&gate));
    std::thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let got = cache.client().get(&path);
                got.expect(&old.manifest);
                assert_eq!(got.x_cache(), "STALE", "{got}");
            });
        }
    });
    gate.wait_arrived(1);
    assert_eq!(manifest_requests(&upstream) - before, 1);
    gate.open();
    eventually("the new image", || cache.client().get(&path).body == new.manifest);
}

#[test]
fn an_expired_tag_is_asked_for_once_however_many_want_it() {
    const CLIENTS: usize = 1_000;
    raise_file_limit();
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).cores(2).env("TAG_TTL", "1h").start();
    let path = upstream.manifest_url("a", "v1");
    let image = warm(&cache, &upstream, "v1");
    set_checked(&mut cache, &upstream, now_ms() - 2 * HOUR_MS);
    let before = manifest_requests(&upstream);
    let gate = Gate::new();
    upstream.on(On::kind(Kind::Manifest).head(), Reply::new().hold_head(&gate));
    let mut connections: Vec<_> = (0..CLIENTS).map(|_| cache.client().open()).collect();
    for connection in &mut connections {
        connection.request("GET", &path, &[]).unwrap();
    }
    gate.wait_arrived(1);
    gate.open();
    for connection in &mut connections {
        connection.read("GET").unwrap().expect(&image.manifest);
    }
    assert_eq!(manifest_requests(&upstream) - before, 1);
}

#[test]
fn each_set_of_accepted_types_has_an_answer_of_its_own() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "1h").start();
    // The upstream has an index and returns a manifest to clients that do not accept an index.
    let image = Image::small(&upstream, "a", "single", fresh_seed());
    let index = Image::push_index(&upstream, "a", "v1", Flavor::Docker, [&[], &[]]);
    let single = Flavor::Docker.manifest();
    let path = upstream.manifest_url("a", "v1");
    cache.client().get(&path).expect(&index.manifest);
    upstream.on(
        On::kind(Kind::Manifest),
        Reply::status(200)
            .body(image.manifest.clone())
            .set("Content-Type", single)
            .set("Docker-Content-Digest", image.digest.clone()),
    );
    for (n, accept) in [single, &format!("{single};q=0.9"), &format!(" {single} ")]
        .into_iter()
        .enumerate()
    {
        let before = manifest_requests(&upstream);
        let got = cache.client().get_with(&path, &[("Accept", accept)]);
        got.expect(&image.manifest);
        assert_eq!(
            manifest_requests(&upstream) - before,
            usize::from(n == 0),
            "{accept}"
        );
    }
    // The responses for other clients are unchanged.
    cache.client().get(&path).expect(&index.manifest);
}

#[test]
fn wrong_check_time_of_a_tag_causes_one_revalidation() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("TAG_TTL", "1h").start();
    let path = upstream.manifest_url("a", "v1");
    let old = warm(&cache, &upstream, "v1");
    // Simulates a clock that was a day fast or slow at the last check.
    for checked in [now_ms() + 24 * HOUR_MS, now_ms() - 24 * HOUR_MS, u64::MAX, 0] {
        set_checked(&mut cache, &upstream, checked);
        let before = manifest_requests(&upstream);
        for _ in 0..5 {
            cache.client().get(&path).expect(&old.manifest);
        }
        assert_eq!(manifest_requests(&upstream) - before, 1, "{checked}");
    }
}
