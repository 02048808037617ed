//! Responses with status 200 and foreign content: HTML pages instead of manifests, rewritten header
//! fields, entries damaged on disk, and error messages that name the requested object.

use serde_json::{Value, json};

use crate::harness::*;

const PAGE: &str = "<!doctype html><html><body onload=alert(1)><form>Sign in</form></body></html>";
const POLICY: &str = "default-src 'none'; sandbox";

/// A page of a login form, web interface or proxy that responds to every request.
fn page() -> Reply {
    Reply::status(200)
        .body(PAGE)
        .set("Content-Type", "text/html; charset=utf-8")
        .without_digest()
}

/// Responses with status 200 that contain no manifest, with any `Content-Type`.
fn no_manifests() -> Vec<(&'static str, Reply)> {
    let claimed = |body: &str| {
        Reply::status(200)
            .body(body)
            .set("Content-Type", Flavor::Oci.manifest())
            .without_digest()
    };
    vec![
        ("page", page()),
        ("claimed-page", claimed(PAGE)),
        ("untyped-page", page().without("Content-Type")),
        (
            "svg",
            page()
                .body("<svg onload=alert(1)>")
                .set("Content-Type", "image/svg+xml"),
        ),
        ("error", claimed(r#"{"errors":[{"code":"DENIED"}]}"#)),
        ("array", claimed(r#"[{"schemaVersion":2}]"#)),
        ("cut", claimed(r#"{"schemaVersion":2,"config":{},"lay"#)),
        ("bare", claimed(r#"{"schemaVersion":2}"#)),
        (
            "no-layers",
            claimed(r#"{"schemaVersion":2,"config":{"digest":"sha256:0"}}"#),
        ),
        ("empty", claimed("")),
        (
            "no-index",
            claimed(r#"{"schemaVersion":2,"manifests":{}}"#).set("Content-Type", Flavor::Docker.index()),
        ),
        ("large", claimed(&"<".repeat(5 << 20))),
    ]
}

fn message(got: &Response) -> String {
    let json: Value = serde_json::from_slice(&got.body).unwrap();
    json["errors"][0]["message"].as_str().unwrap().to_owned()
}

#[track_caller]
fn expect_harmless(got: &Response) {
    let kind = got.field("content-type").unwrap_or("application/octet-stream");
    assert!(kind.starts_with("application/") && !kind.contains("xml"), "{got}");
    assert_eq!(got.field("x-content-type-options"), Some("nosniff"), "{got}");
    assert_eq!(got.field("content-security-policy"), Some(POLICY), "{got}");
}

#[test]
fn response_to_a_tag_without_a_manifest_is_an_error_and_not_stored() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for (tag, reply) in no_manifests() {
        upstream.on(On::path(format!("manifests/{tag}")), reply);
        for _ in 0..2 {
            let got = cache.client().get(&upstream.manifest_url("a", tag));
            assert_eq!(got.status, 502, "{tag}: {got}");
            expect_harmless(&got);
            assert!(
                message(&got).contains(&format!("{}/a:{tag}", upstream.name())),
                "{got}"
            );
        }
        let path = disk::tag_path(cache.root(), &upstream.name(), "a", tag);
        assert!(!path.exists(), "the store has a pointer for {tag}");
    }
    let got = cache.client().get(&upstream.manifest_url("a", "page"));
    assert!(
        message(&got).contains("text/html") && message(&got).contains("login page"),
        "{got}"
    );
    assert!(cache.settled_store().expect_clean().manifests.is_empty());
}

#[test]
fn stored_tag_is_served_while_the_registry_returns_no_manifest() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    cache.client().get(&path).expect(&image.manifest);
    cache.wait_stored(&image.digest);
    for (name, reply) in no_manifests() {
        upstream.clear_rules();
        upstream.on(On::any(), reply);
        for _ in 0..2 {
            let got = cache.client().get(&path);
            got.expect(&image.manifest);
            assert_eq!(got.x_cache(), "STALE", "{name}: {got}");
        }
    }
    upstream.clear_rules();
    upstream.down();
    cache.client().get(&path).expect(&image.manifest);
    upstream.up();
    cache.wait_asks(&upstream, "a");
    assert_ne!(cache.client().get(&path).x_cache(), "STALE");
}

/// A proxy that answers HEAD with its page sometimes copies the digest of an older response.
#[test]
fn head_response_of_an_html_page_does_not_revalidate_a_tag() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let old = Image::small(&upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    cache.client().get(&path).expect(&old.manifest);
    cache.wait_stored(&old.digest);
    let new = Image::small(&upstream, "a", "v1", fresh_seed());
    for kind in ["text/html", "text/plain", "application/xhtml+xml"] {
        upstream.clear_rules();
        upstream.on(
            On::path("manifests/v1").head(),
            Reply::new()
                .set("Content-Type", kind)
                .set("Docker-Content-Digest", old.digest.as_str()),
        );
        let got = cache.client().get(&path);
        got.expect(&new.manifest);
        assert_eq!(got.field("docker-content-digest"), Some(new.digest.as_str()));
    }
}

#[test]
fn content_that_matches_its_digest_but_is_no_manifest_is_rejected() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for body in [
        PAGE,
        "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "null",
        r#"{"errors":[]}"#,
    ] {
        for kind in ["text/html", "image/svg+xml", Flavor::Oci.manifest()] {
            let digest = upstream.manifest("a", kind, body);
            let got = cache.client().get(&upstream.manifest_url("a", &digest));
            got.expect_error(502, "MANIFEST_INVALID");
            expect_harmless(&got);
            assert!(!disk::is_stored(cache.root(), &digest));
        }
    }
}

#[test]
fn responses_below_v2_contain_nothing_that_browsers_execute() {
    let upstream = Registry::new();
    let private = Registry::new();
    let cache = Server::options(&upstream)
        .registry_with(private.name(), private.addr(), "access: passthrough")
        .start();
    let mut paths = vec![
        "/v2/".to_owned(),
        "/v2/_catalog".to_owned(),
        "/v2/x".to_owned(),
        "/v2/A/blobs/x".to_owned(),
    ];
    for registry in [&upstream, &private] {
        let image = Image::small(registry, "a", "v1", fresh_seed());
        let digest = registry.manifest("a", "text/html", image.manifest.clone());
        assert_eq!(digest, image.digest);
        registry.on(
            On::path("/tags/list"),
            Reply::status(200).body(r#"{"tags":["<b>","a"]}"#),
        );
        registry.on(
            On::path("/referrers/"),
            Reply::status(200).body(json!({"manifests": []}).to_string()),
        );
        let (large, small) = (
            PseudoRandom::new(fresh_seed(), 2 << 20),
            PseudoRandom::new(fresh_seed(), 900),
        );
        paths.extend([
            registry.manifest_url("a", "v1"),
            registry.manifest_url("a", &digest),
            registry.manifest_url("a", "missing"),
            registry.blob_url("a", &registry.blob(large)),
            registry.blob_url("a", &registry.blob(small)),
            format!("/v2/{}/a/tags/list", registry.name()),
            format!("/v2/{}/a/tags/list?n=0", registry.name()),
            format!("/v2/{}/a/referrers/{digest}", registry.name()),
        ]);
    }
    for path in &paths {
        for _ in 0..3 {
            expect_harmless(&cache.client().get(path));
        }
        expect_harmless(&cache.client().request("POST", path, &[]));
        expect_harmless(&cache.client().get_with(path, &[("Range", "bytes=99999999-")]));
        let etag = cache.client().get(path).field("etag").map(str::to_owned);
        if let Some(etag) = etag {
            expect_harmless(&cache.client().get_with(path, &[("If-None-Match", &etag)]));
        }
    }
}

#[test]
fn passthrough_responses_without_a_manifest_are_rejected() {
    let upstream = Registry::new();
    let cache = Server::bare()
        .registry_with("r.test", upstream.addr(), "access: passthrough")
        .start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    for (tag, reply) in no_manifests() {
        upstream.on(On::path(format!("manifests/{tag}")), reply);
        let got = cache.client().get(&format!("/v2/r.test/a/manifests/{tag}"));
        assert_eq!(got.status, 502, "{tag}: {got}");
        expect_harmless(&got);
        if matches!(tag, "page" | "svg") {
            let head = cache.client().head(&format!("/v2/r.test/a/manifests/{tag}"));
            assert_eq!(head.status, 502, "{tag}: {head}");
        }
    }
    cache
        .client()
        .get("/v2/r.test/a/manifests/v1")
        .expect(&image.manifest);
    upstream.on(
        On::path("manifests/v1"),
        Reply::new().set("Content-Type", "text/html"),
    );
    for got in [
        cache.client().get("/v2/r.test/a/manifests/v1"),
        cache.client().head("/v2/r.test/a/manifests/v1"),
    ] {
        assert_eq!(got.status, 200, "{got}");
        assert_eq!(
            got.field("content-type"),
            Some(Flavor::Oci.manifest()),
            "the media type does not match the content"
        );
    }
}

#[test]
fn stored_lists_are_served_stale_while_the_registry_returns_pages() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let digest = format!("sha256:{}", "a".repeat(64));
    upstream.on(
        On::path("/tags/list").once(),
        Reply::status(200).body(json!({"name": "a", "tags": ["v1"]}).to_string()),
    );
    upstream.on(
        On::path("/referrers/").once(),
        Reply::status(200).body(json!({"schemaVersion": 2, "manifests": []}).to_string()),
    );
    let paths = [
        format!("/v2/{}/a/tags/list", upstream.name()),
        format!("/v2/{}/a/referrers/{digest}", upstream.name()),
    ];
    let before: Vec<_> = paths.iter().map(|path| cache.client().get(path)).collect();
    for reply in [page(), Reply::status(200).body("{}")] {
        upstream.on(On::any().times(4), reply);
        for (path, before) in paths.iter().zip(&before) {
            for _ in 0..2 {
                let got = cache.client().get(path);
                got.expect(&before.body);
                assert_eq!(got.x_cache(), "STALE", "{got}");
            }
        }
    }
}

#[test]
fn fields_of_one_registry_do_not_reach_clients_of_another() {
    let (one, two) = (Registry::new(), Registry::new());
    let cache = Server::options(&one).registry(two.name(), two.addr()).start();
    let since = "Sun, 06 Nov 1994 08:49:37 GMT";
    let subject = format!("sha256:{}", "b".repeat(64));
    for size in [700, 2 << 20] {
        one.clear_rules();
        one.on(
            On::any(),
            Reply::new()
                .set("Last-Modified", since)
                .set("OCI-Subject", subject.as_str())
                .set("OCI-Canary", "canary"),
        );
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = one.blob(content.clone());
        one.blob_in("b", content.clone());
        two.blob(content.clone());
        let own = cache.client().get(&one.blob_url("a", &digest));
        assert_eq!(own.field("last-modified"), Some(since), "{own}");
        assert_eq!(own.field("oci-canary"), None, "{own}");
        cache.wait_stored(&digest);
        for path in [one.blob_url("b", &digest), two.blob_url("a", &digest)] {
            for _ in 0..3 {
                let got = cache.client().pull(&path, &content);
                for field in ["last-modified", "oci-subject", "oci-canary"] {
                    assert_eq!(got.field(field), None, "{path}: {got}");
                }
            }
        }
        let own = cache.client().get(&one.blob_url("a", &digest));
        assert_eq!(own.field("last-modified"), Some(since), "{own}");
    }
}

#[test]
fn header_fields_of_a_rejection_are_rewritten() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for (sent, expected) in [
        ("7", "7"),
        ("99999999999999999999", "86400"),
        ("-5", "1"),
        ("5\t6", "1"),
        ("soon", "1"),
        ("0", "1"),
        ("Fri, 31 Dec 9999 23:59:59 GMT", "86400"),
    ] {
        upstream.clear_rules();
        upstream.on(
            On::any(),
            Reply::too_many_requests(sent)
                .set("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .set("Warning", "299 - \"mind\tthe gap\"")
                .set("RateLimit-Limit", "1;w=1"),
        );
        // A new registry each time, because a registry with a rate limit gets no further requests.
        let cache = Server::start(&upstream);
        let got = cache.client().get(&upstream.manifest_url("a", "v1"));
        assert_eq!(
            (got.status, got.field("retry-after")),
            (429, Some(expected)),
            "{sent}: {got}"
        );
        assert_eq!(got.field("warning"), Some("299 - \"mind the gap\""), "{got}");
        assert_eq!(got.field("ratelimit-limit"), None, "{got}");
    }
    upstream.clear_rules();
    upstream.on(
        On::any(),
        Reply::status(401).set(
            "WWW-Authenticate",
            "Bearer realm=\"javascript:alert(1)\", Negotiate abc",
        ),
    );
    let got = cache.client().get(&upstream.manifest_url("a", "v1"));
    assert_eq!(got.field("www-authenticate"), None, "{got}");
}

// ---- Damage on disk -----------------------------------------------------------------------------

#[test]
fn a_manifest_that_the_disk_has_changed_is_fetched_again_in_the_same_request() {
    let upstream = Registry::new();
    for restarted in [false, true] {
        // No memory cache, so that every request reads from the disk.
        let mut cache = Server::options(&upstream)
            .env("STORAGE_BACKEND", "fs")
            .env("MEMORY_CACHE", "0")
            .start();
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        let stored = disk::manifest_path(cache.root(), &upstream.name(), "a", &image.digest);
        for reference in ["v1", &image.digest] {
            let path = upstream.manifest_url("a", reference);
            cache.client().get(&path).expect(&image.manifest);
            // A fetch does not hash an entry already stored under its name, but a request that
            // reads the entry does.
            eventually("the manifest is stored", || {
                cache.client().get(&path).expect(&image.manifest);
                let right = std::fs::read(&stored).is_ok_and(|bytes| bytes == image.manifest);
                right && disk::sidecar_of(&stored).exists()
            });
            disk::flip_byte(&stored, image.manifest.len() as u64 / 2);
            if restarted {
                cache.restart();
            }
            // Until the write is complete, the cache still serves the manifest from memory.
            eventually("the manifest is fetched again", || {
                let got = cache.client().get(&path);
                got.expect(&image.manifest);
                got.x_cache() == "MISS"
            });
        }
        cache.settled_store().expect_clean();
    }
}

#[test]
fn a_small_blob_that_the_disk_has_changed_is_fetched_again_in_the_same_request() {
    let upstream = Registry::new();
    for restarted in [false, true] {
        let mut cache = Server::options(&upstream)
            .env("STORAGE_BACKEND", "fs")
            .env("MEMORY_CACHE", "0")
            .start();
        for size in [1, 900, 32 * 1024] {
            let content = PseudoRandom::new(fresh_seed(), size);
            let digest = upstream.blob(content.clone());
            let path = upstream.blob_url("a", &digest);
            for fields in [&[][..], &[("Range", "bytes=0-0")], &[("Range", "bytes=0-0,-1")]] {
                cache.client().pull(&path, &content);
                // A fill that has just ended still serves from its window.
                eventually("the blob is served from the disk", || {
                    cache.client().pull(&path, &content).x_cache() == "HIT"
                });
                disk::flip_byte(&disk::blob_path(cache.root(), &digest), size - 1);
                if restarted {
                    cache.restart();
                }
                let gets = upstream.gets(&digest);
                let got = cache.client().get_with(&path, fields);
                assert!(matches!(got.status, 200 | 206), "{got}");
                assert_eq!(upstream.gets(&digest), gets + 1, "{size}, {fields:?}: {got}");
                cache.client().pull(&path, &content);
            }
        }
        cache.settled_store().expect_clean();
    }
}

#[test]
fn a_page_in_the_store_of_an_older_release_is_removed() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("MEMORY_CACHE", "0")
        .start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "v1"))
        .expect(&image.manifest);
    cache.wait_stored(&image.digest);
    cache.stop();
    // A copy of the pair under another name, as written by an old release that stored any bytes.
    let good = disk::manifest_path(cache.root(), &upstream.name(), "a", &image.digest);
    let digest = content::sha256(PAGE.as_bytes());
    let bad = disk::manifest_path(cache.root(), &upstream.name(), "a", &digest);
    let sidecar = std::fs::read_to_string(disk::sidecar_of(&good)).unwrap();
    let mut sidecar: Value = serde_json::from_str(&sidecar).unwrap();
    sidecar["Content-Type"] = json!(["text/html"]);
    sidecar["Content-Length"] = json!([PAGE.len().to_string()]);
    sidecar["Docker-Content-Digest"] = json!([digest]);
    std::fs::write(&bad, PAGE).unwrap();
    std::fs::write(disk::sidecar_of(&bad), sidecar.to_string()).unwrap();
    cache.restart();
    let got = cache.client().get(&upstream.manifest_url("a", &digest));
    got.expect_error(404, "MANIFEST_UNKNOWN");
    assert!(!bad.exists(), "the store has no data of the page");
}

// ---- Errors -------------------------------------------------------------------------------------

#[test]
fn an_error_names_what_was_asked_for_and_keeps_the_registry_s_words() {
    let upstream = Registry::new();
    let cache = Server::bare().registry("quay.test", upstream.addr()).start();
    let digest = format!("sha256:{}", "c".repeat(64));
    let said = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your\u001b[31m pull rate limit."}]}"#;
    let words = "TOOMANYREQUESTS: You have reached your";
    for (path, subject) in [
        ("manifests/v1".to_owned(), "quay.test/org/app:v1".to_owned()),
        (
            format!("manifests/{digest}"),
            format!("quay.test/org/app@{digest}"),
        ),
        (format!("blobs/{digest}"), format!("quay.test/org/app@{digest}")),
        ("tags/list".to_owned(), "quay.test/org/app".to_owned()),
        (
            format!("referrers/{digest}"),
            format!("quay.test/org/app@{digest}"),
        ),
    ] {
        // The 404 comes last, because the cache stores a 404.
        for status in [403, 404] {
            upstream.clear_rules();
            upstream.on(
                On::any(),
                Reply::status(status)
                    .body(said)
                    .set("Content-Type", "application/json"),
            );
            let got = cache.client().get(&format!("/v2/quay.test/org/app/{path}"));
            let message = message(&got);
            assert!(message.contains(&subject), "{path} {status}: {message}");
            assert!(message.contains(words), "{path} {status}: {message}");
            let (at, address) = (message.find(&subject), message.find(&upstream.addr().to_string()));
            assert!(
                address.is_none_or(|address| at < Some(address)),
                "the message contains an address: {message}"
            );
        }
    }
}

#[test]
fn catalog_request_is_rejected_as_unsupported() {
    let cache = Server::bare().start();
    for path in ["/v2/_catalog", "/v2/_catalog?n=1000"] {
        let got = cache.client().get(path);
        got.expect_error(404, "UNSUPPORTED");
        assert!(message(&got).contains("catalog"), "{got}");
    }
}

#[test]
fn error_names_the_html_page_of_a_token_service() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    upstream.require_tokens(Auth::default());
    upstream.on(On::kind(Kind::Token), page());
    let got = cache.client().get(&upstream.manifest_url("a", "v1"));
    assert_eq!(got.status, 502, "{got}");
    assert!(message(&got).contains("text/html"), "{got}");
}
