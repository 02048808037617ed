//! Responses of a registry that concern the content, and failures that do not. After such a
//! failure, a cached copy is served.

use crate::harness::*;

/// Starts a cache that revalidates tags on every request, and stores the image `a:v1`.
fn warm(upstream: &Registry) -> (Server, Image) {
    let cache = Server::options(upstream).env("TAG_TTL", "0s").start();
    let image = Image::small(upstream, "a", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "v1"))
        .expect(&image.manifest);
    cache.wait_stored(&image.digest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", "v1");
    eventually("the tag is stored", || pointer.exists());
    (cache, image)
}

#[track_caller]
fn expect_stale(got: &Response, image: &Image) {
    got.expect(&image.manifest);
    assert_eq!(got.x_cache(), "STALE", "{got}");
    assert!(
        got.field("warning").is_some_and(|text| text.starts_with("299 ")),
        "{got}"
    );
}

#[test]
fn a_held_tag_is_served_through_every_status_that_says_nothing_about_it() {
    let upstream = Registry::new();
    let (cache, image) = warm(&upstream);
    for status in [
        204, 300, 304, 400, 402, 405, 406, 409, 415, 418, 421, 422, 431, 499, 501, 505,
    ] {
        upstream.on(On::any(), Reply::status(status));
        expect_stale(&cache.client().get(&upstream.manifest_url("a", "v1")), &image);
        // Without a cached copy, the client receives an upstream error.
        let cold = cache.client().get(&upstream.manifest_url("cold", "v1"));
        assert_eq!(cold.status, 502, "{status}: {cold}");
        upstream.clear_rules();
    }
}

#[test]
fn a_page_of_a_proxy_is_no_answer_of_a_registry() {
    let upstream = Registry::new();
    let (cache, image) = warm(&upstream);
    let page = |status| {
        Reply::status(status)
            .body("<!DOCTYPE html><title>Not here</title>")
            .set("Content-Type", "text/html; charset=utf-8")
    };
    let path = upstream.manifest_url("a", "v1");
    for status in [401, 403, 404, 410] {
        upstream.on(On::any(), page(status));
        expect_stale(&cache.client().get(&path), &image);
        let digest = PseudoRandom::new(fresh_seed(), 10).digest();
        for cold in [
            upstream.manifest_url("cold", "v1"),
            upstream.blob_url("cold", &digest),
            format!("/v2/{}/cold/tags/list", upstream.name()),
        ] {
            let got = cache.client().get(&cold);
            assert_eq!(got.status, 502, "{status} {cold}: {got}");
        }
        upstream.clear_rules();
        // With the field of a registry, the response counts, independent of its body.
        upstream.on(
            On::any(),
            page(status).set("Docker-Distribution-Api-Version", "registry/2.0"),
        );
        let got = cache.client().get(&path);
        assert!(matches!(got.status, 401 | 403 | 404), "{status}: {got}");
        upstream.clear_rules();
    }
    // The response of a Go server for an unknown path.
    upstream.on(
        On::any(),
        Reply::status(404)
            .body("404 page not found\n")
            .set("Content-Type", "text/plain; charset=utf-8"),
    );
    cache.client().get(&path).expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn a_registry_that_answers_head_with_404_is_asked_by_get() {
    for status in [400, 403, 404, 405] {
        let upstream = Registry::new();
        let (cache, image) = warm(&upstream);
        let path = upstream.manifest_url("a", "v1");
        upstream.on(On::kind(Kind::Manifest).head(), Reply::status(status));
        for _ in 0..2 {
            let got = cache.client().get(&path);
            got.expect(&image.manifest);
            assert_ne!(got.x_cache(), "STALE", "{status}: {got}");
        }
        let heads = |upstream: &Registry| upstream.count(|seen| seen.method == "HEAD");
        assert_eq!(
            heads(&upstream),
            1,
            "{status}: the cached 404 causes another upstream request"
        );
        let new = Image::small(&upstream, "a", "v1", fresh_seed());
        cache.client().get(&path).expect(&new.manifest);
        assert_eq!(heads(&upstream), 1, "{status}");
    }
}

#[test]
fn missing_tag_is_confirmed_by_get_only_once() {
    let upstream = Registry::new();
    let (cache, _) = warm(&upstream);
    let path = upstream.manifest_url("a", "v1");
    upstream.on(On::kind(Kind::Manifest), Reply::status(404));
    upstream.clear_log();
    for _ in 0..5 {
        cache.client().get(&path).expect_error(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(
        upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET"),
        1
    );
}

#[test]
fn a_head_that_names_a_manifest_of_another_kind_does_not_move_a_tag() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let seed = fresh_seed();
    let layers = [
        PseudoRandom::new(seed, 900).into(),
        PseudoRandom::new(seed + 1, 900).into(),
    ];
    let image = Image::push_index(&upstream, "a", "v1", Flavor::Oci, [&layers[..1], &layers[1..]]);
    let path = upstream.manifest_url("a", "v1");
    cache.client().get(&path).expect(&image.manifest);
    cache.wait_stored(&image.digest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", "v1");
    eventually("the tag is stored", || pointer.exists());
    // A manifest of the index is cached too.
    let index: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let child = &index["manifests"][0];
    let digest = child["digest"].as_str().expect("a digest");
    assert_eq!(
        cache.client().get(&upstream.manifest_url("a", digest)).status,
        200
    );
    cache.wait_stored(digest);
    for media_type in [child["mediaType"].as_str().expect("a type"), "text/html"] {
        upstream.clear_rules();
        upstream.on(
            On::path("/manifests/v1").head(),
            Reply::new()
                .set("Docker-Content-Digest", digest)
                .set("Content-Type", media_type),
        );
        cache.client().get(&path).expect(&image.manifest);
    }
}
