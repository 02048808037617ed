//! Lifetimes of tags, revalidation of moved tags, and stale responses during an outage.

use std::time::Duration;

use crate::harness::content::sha256;
use crate::harness::*;

/// Returns the number of GET requests for manifests. Revalidations use HEAD and do not count.
fn manifest_gets(upstream: &Registry) -> usize {
    upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET")
}

fn manifest_heads(upstream: &Registry) -> usize {
    upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "HEAD")
}

/// Pulls a tag and waits until the tag and the manifest are stored.
fn warm(cache: &Server, upstream: &Registry, repository: &str, tag: &str, image: &Image) {
    cache
        .client()
        .get(&upstream.manifest_url(repository, tag))
        .expect(&image.manifest);
    cache.wait_stored(&image.digest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), repository, tag);
    eventually("the tag is stored", || pointer.exists());
}

#[test]
fn a_fresh_tag_is_answered_without_asking() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("TAG_TTL", "60s").start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    warm(&cache, &upstream, "a", "v1", &image);
    let before = upstream.requests();
    for _ in 0..5 {
        let got = cache.client().get(&path);
        got.expect(&image.manifest);
        assert_eq!(got.x_cache(), "HIT");
        assert_eq!(
            cache.client().head(&path).field("docker-content-digest"),
            Some(image.digest.as_str())
        );
    }
    // The age of the tag survives a restart.
    cache.restart();
    cache.client().get(&path).expect(&image.manifest);
    // The request by digest uses the stored manifest.
    cache
        .client()
        .get(&upstream.manifest_url("a", &image.digest))
        .expect(&image.manifest);
    assert_eq!(upstream.requests(), before);
}

#[test]
fn an_old_tag_that_has_not_moved_costs_one_head() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    warm(&cache, &upstream, "a", "v1", &image);
    let (gets, heads) = (manifest_gets(&upstream), manifest_heads(&upstream));
    for n in 1..=3 {
        cache
            .client()
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&image.manifest);
        assert_eq!(
            (manifest_gets(&upstream), manifest_heads(&upstream)),
            (gets, heads + n)
        );
    }
    let asked = upstream.log().pop().unwrap();
    let accept = asked.field("accept").unwrap_or_default().to_owned();
    for kind in [
        Flavor::Oci.manifest(),
        Flavor::Oci.index(),
        Flavor::Docker.manifest(),
        Flavor::Docker.index(),
    ] {
        assert!(
            accept.contains(kind),
            "the Accept field does not contain every media type: {accept}"
        );
    }
}

#[test]
fn a_lifetime_ends() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "500ms").start();
    let old = Image::small(&upstream, "a", "v1", fresh_seed());
    warm(&cache, &upstream, "a", "v1", &old);
    let new = Image::small(&upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    eventually("the new image", || cache.client().get(&path).body == new.manifest);
    // The cache never returns to the old image.
    for _ in 0..5 {
        cache.client().get(&path).expect(&new.manifest);
    }
}

#[test]
fn a_moved_tag_is_followed_and_the_old_content_stays() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let path = upstream.manifest_url("a", "v1");
    let old = Image::small(&upstream, "a", "v1", fresh_seed());
    warm(&cache, &upstream, "a", "v1", &old);
    let new = Image::small(&upstream, "a", "v1", fresh_seed());
    let head = cache.client().head(&path);
    assert_eq!(head.field("docker-content-digest"), Some(new.digest.as_str()));
    cache.client().get(&path).expect(&new.manifest);
    cache
        .client()
        .get(&upstream.manifest_url("a", &old.digest))
        .expect(&old.manifest);
    // If the tag moves back to stored content, a HEAD request is sufficient.
    cache.wait_stored(&new.digest);
    let gets = manifest_gets(&upstream);
    upstream.tag("a", "v1", &old.digest);
    cache.client().get(&path).expect(&old.manifest);
    assert_eq!(manifest_gets(&upstream), gets);
}

#[test]
fn a_tag_answer_is_one_consistent_thing_while_the_tag_moves() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").cores(2).start();
    let images: Vec<_> = (0..4)
        .map(|_| Image::small(&upstream, "a", "v1", fresh_seed()))
        .collect();
    let path = upstream.manifest_url("a", "v1");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let got = cache.client().get(&path);
                        assert_eq!(got.status, 200, "{got}");
                        assert_eq!(
                            got.field("docker-content-digest"),
                            Some(sha256(&got.body).as_str())
                        );
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            for image in images.iter().cycle() {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                upstream.tag("a", "v1", &image.digest);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let results: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for result in results {
            result.expect("a reader");
        }
    });
}

#[test]
fn a_stale_tag_is_served_and_marked_when_the_upstream_fails() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    warm(&cache, &upstream, "a", "v1", &image);
    // An incomplete image is an error while the upstream is down.
    for (digest, content) in &image.blobs {
        let path = upstream.blob_url("a", digest);
        cache.client().get(&path).expect(&content.bytes());
        cache.wait_stored(digest);
    }
    let check = |what: &str| {
        let got = cache.client().get(&path);
        got.expect(&image.manifest);
        assert_eq!(got.x_cache(), "STALE", "{what}: {got}");
        let warning = got.field("warning").unwrap_or_default();
        assert!(
            warning.starts_with("299 - \"") && warning.ends_with('"'),
            "{what}: {got}"
        );
        assert_eq!(cache.client().head(&path).x_cache(), "STALE", "{what}");
    };
    for status in [429, 500, 502, 503, 504] {
        upstream.clear_rules();
        upstream.on(On::any(), Reply::status(status));
        check(&status.to_string());
    }
    for cut in [Cut::Fin, Cut::Rst] {
        upstream.clear_rules();
        upstream.on(On::any(), Reply::hang_up(cut));
        check("closed connection");
    }
    upstream.clear_rules();
    upstream.down();
    check("connection refused");
    upstream.up();
    cache.wait_asks(&upstream, "a");
    let got = cache.client().get(&path);
    assert_ne!(got.x_cache(), "STALE", "{got}");
    assert_eq!(got.field("warning"), None);
}

#[test]
fn a_tag_that_is_gone_or_forbidden_is_not_served_stale() {
    for (status, answers) in [(404, &[404][..]), (403, &[403]), (401, &[401, 403])] {
        let upstream = Registry::new();
        let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        warm(&cache, &upstream, "a", "v1", &image);
        upstream.on(On::kind(Kind::Manifest), Reply::status(status));
        let got = cache.client().get(&upstream.manifest_url("a", "v1"));
        assert!(answers.contains(&got.status), "{status}: {got}");
    }
}

#[test]
fn registry_without_head_is_revalidated_by_get() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    upstream.on(On::kind(Kind::Manifest).head(), Reply::status(405));
    let old = Image::small(&upstream, "a", "v1", fresh_seed());
    warm(&cache, &upstream, "a", "v1", &old);
    let new = Image::small(&upstream, "a", "v1", fresh_seed());
    let got = cache.client().get(&upstream.manifest_url("a", "v1"));
    got.expect(&new.manifest);
    assert_ne!(got.x_cache(), "STALE");
}

#[test]
fn an_upstream_that_names_no_digest_is_hashed() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "60s").start();
    upstream.on(On::kind(Kind::Manifest), Reply::new().without_digest());
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    for _ in 0..2 {
        let got = cache.client().get(&upstream.manifest_url("a", "v1"));
        got.expect(&image.manifest);
        assert_eq!(got.field("docker-content-digest"), Some(image.digest.as_str()));
    }
    let head = cache.client().head(&upstream.manifest_url("a", "v1"));
    assert_eq!(head.field("docker-content-digest"), Some(image.digest.as_str()));
}

#[test]
fn latest_is_asked_for_every_time_unless_told_otherwise() {
    for keep in [false, true] {
        let upstream = Registry::new();
        let mut options = Server::options(&upstream).env("TAG_TTL", "60s");
        if keep {
            options = options.env("CACHE_LATEST_TAG", "true");
        }
        let cache = options.start();
        let path = upstream.manifest_url("a", "latest");
        let old = Image::small(&upstream, "a", "latest", fresh_seed());
        cache.client().get(&path).expect(&old.manifest);
        cache.wait_stored(&old.digest);
        let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", "latest");
        if keep {
            eventually("the tag is stored", || pointer.exists());
        }
        let before = upstream.requests();
        let new = Image::small(&upstream, "a", "latest", fresh_seed());
        let got = cache.client().get(&path);
        if keep {
            got.expect(&old.manifest);
            assert_eq!(upstream.requests(), before);
        } else {
            got.expect(&new.manifest);
            assert!(upstream.requests() > before);
            cache.wait_stored(&new.digest);
            // The stored copy is used only during an outage.
            upstream.on(On::any(), Reply::status(503));
            let got = cache.client().get(&path);
            got.expect(&new.manifest);
            assert_eq!(got.x_cache(), "STALE");
            upstream.clear_rules();
        }
        // Rules for tags do not affect requests by digest.
        upstream.down();
        cache
            .client()
            .get(&upstream.manifest_url("a", &old.digest))
            .expect(&old.manifest);
    }
}

#[test]
fn tags_are_not_stored_without_tag_caching() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("TAG_TTL", "60s")
        .env("CACHE_TAG_MANIFESTS", "false")
        .start();
    let path = upstream.manifest_url("a", "v1");
    let old = Image::small(&upstream, "a", "v1", fresh_seed());
    cache.client().get(&path).expect(&old.manifest);
    let new = Image::small(&upstream, "a", "v1", fresh_seed());
    cache.client().get(&path).expect(&new.manifest);
    let stored = cache.settled_store();
    stored.expect_clean();
    assert!(stored.tags.is_empty(), "{stored:?}");
}

#[test]
fn tags_are_case_sensitive() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let names = ["v1", "V1", "_v1", "v1.", "v1.meta.json", "v1.json"];
    let images: Vec<_> = names
        .iter()
        .map(|tag| (tag, Image::small(&upstream, "a", tag, fresh_seed())))
        .collect();
    for _ in 0..2 {
        for (tag, image) in &images {
            cache
                .client()
                .get(&upstream.manifest_url("a", tag))
                .expect(&image.manifest);
        }
    }
    cache
        .client()
        .get(&upstream.manifest_url("a", "v1.JSON"))
        .expect_error(404, "MANIFEST_UNKNOWN");
    let gets =
        upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET" && seen.status == 200);
    assert_eq!(gets, images.len(), "a tag was fetched twice");
    cache.settled_store().expect_sound();
}

/// Signatures and referrers have tags in the form of digests.
#[test]
fn a_tag_that_looks_like_a_digest_is_a_tag() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", &image.digest))
        .expect(&image.manifest);
    let base = image.digest.replace(':', "-");
    let others: Vec<_> = ["", ".sig", ".att", ".sbom"]
        .iter()
        .map(|ending| {
            let tag = format!("{base}{ending}");
            let other = Image::small(&upstream, "a", &tag, fresh_seed());
            (tag, other)
        })
        .collect();
    for _ in 0..2 {
        for (tag, other) in &others {
            cache
                .client()
                .get(&upstream.manifest_url("a", tag))
                .expect(&other.manifest);
        }
        cache
            .client()
            .get(&upstream.manifest_url("a", &image.digest))
            .expect(&image.manifest);
        for (_, other) in &others {
            cache.wait_stored(&other.digest);
        }
    }
    cache.settled_store().expect_clean();
}

#[test]
fn repositories_keep_their_tags_apart() {
    let upstream = Registry::new();
    let other = Registry::new();
    let cache = Server::options(&upstream)
        .registry(other.name(), other.addr())
        .start();
    let here = Image::small(&upstream, "a", "v1", fresh_seed());
    let there = Image::small(&other, "a", "v1", fresh_seed());
    let below = Image::small(&upstream, "a/tags", "v1", fresh_seed());
    for _ in 0..2 {
        cache
            .client()
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&here.manifest);
        cache
            .client()
            .get(&other.manifest_url("a", "v1"))
            .expect(&there.manifest);
        cache
            .client()
            .get(&upstream.manifest_url("a/tags", "v1"))
            .expect(&below.manifest);
    }
    // A cached manifest is served only in its own repository.
    let got = cache.client().get(&upstream.manifest_url("b", &here.digest));
    got.expect_error(404, "MANIFEST_UNKNOWN");
    let got = cache.client().get(&other.manifest_url("a", &here.digest));
    got.expect_error(404, "MANIFEST_UNKNOWN");
}
