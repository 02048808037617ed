//! The front door: who may use the cache at all.

use crate::harness::*;

/// `alice:open sesame`.
const ALICE: (&str, &str) = ("Authorization", "Basic YWxpY2U6b3BlbiBzZXNhbWU=");

fn guarded(upstream: &Registry) -> Server {
    let yaml = format!(
        "auth: {{username: alice, password: open sesame}}\n\
         registries:\n  - name: \"{0}\"\n    url: \"http://{0}\"\n",
        upstream.name()
    );
    Server::options(upstream)
        .config(yaml)
        .env("LOG_LEVEL", "trace")
        .start()
}

#[track_caller]
fn expect_refused(got: &Response) {
    got.expect_error(401, "UNAUTHORIZED");
    assert_eq!(
        got.field("www-authenticate"),
        Some("Basic realm=\"oci-pull-through\""),
        "{got}"
    );
}

#[test]
fn whoever_has_no_key_is_told_so_and_nothing_else() {
    let upstream = Registry::new();
    let cache = guarded(&upstream);
    let digest = upstream.blob("content");
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    for path in [
        "/v2/".to_owned(),
        "/v2".to_owned(),
        upstream.blob_url("a", &digest),
        upstream.manifest_url("a", "v1"),
        upstream.manifest_url("a", &image.digest),
        format!("/v2/{}/a/tags/list", upstream.name()),
        "/v2/no/such/thing".to_owned(),
        "/_/stats".to_owned(),
        "/_/anything".to_owned(),
    ] {
        expect_refused(&cache.client().get(&path));
        let head = cache.client().head(&path);
        assert_eq!(head.status, 401, "{path}");
        for wrong in [
            "Basic YWxpY2U6b3BlbiBzZXNhbWY=",
            "Basic YWxpY2U6",
            "Basic Om9wZW4gc2VzYW1l",
            "Basic Ym9iOm9wZW4gc2VzYW1l",
            "Basic YWxpY2U6b3BlbiBzZXNhbWU",
            "Basic",
            "Bearer YWxpY2U6b3BlbiBzZXNhbWU=",
            "alice:open sesame",
        ] {
            let got = cache.client().get_with(&path, &[("Authorization", wrong)]);
            assert_eq!(got.status, 401, "{path} with {wrong}");
        }
    }
    let got = cache.client().request(
        "PUT",
        &upstream.manifest_url("a", "v1"),
        &[("Content-Length", "0")],
    );
    assert_eq!(got.status, 401, "{got}");
    assert_eq!(upstream.requests(), 0, "{:#?}", upstream.log());
    for path in ["/healthz", "/livez", "/readyz", "/_/health"] {
        assert_eq!(cache.client().get(path).status, 200, "{path}");
    }
    assert_ne!(cache.client().get("/").status, 401);
    let stats = cache.client().get_with("/_/stats", &[ALICE]);
    assert_eq!(stats.status, 200, "with the key they are there: {stats}");
}

/// A hit is answered before anything else is looked at, so the door must be looked at even before that.
#[test]
fn what_is_remembered_is_behind_the_door_too() {
    let upstream = Registry::new();
    let cache = guarded(&upstream);
    let small = upstream.blob("small content");
    let large = upstream.blob(Prf::new(fresh_seed(), 200_000));
    Image::small(&upstream, "a", "v1", fresh_seed());
    for path in [
        upstream.blob_url("a", &small),
        upstream.blob_url("a", &large),
        upstream.manifest_url("a", "v1"),
    ] {
        assert_eq!(cache.client().get_with(&path, &[ALICE]).status, 200);
        eventually("it is remembered", || {
            cache.client().get_with(&path, &[ALICE]).x_cache() == "HIT"
        });
        for _ in 0..3 {
            assert_eq!(cache.client().get_with(&path, &[ALICE]).x_cache(), "HIT");
            expect_refused(&cache.client().get(&path));
            assert_eq!(cache.client().head(&path).status, 401);
            expect_refused(&cache.client().get_with(&path, &[("Range", "bytes=0-1")]));
            expect_refused(&cache.client().get_with(&path, &[("If-None-Match", "*")]));
        }
    }
    // One connection may change hands: each request shows its key.
    let path = upstream.blob_url("a", &small);
    let mut connection = cache.client().open();
    for (fields, status) in [(&[ALICE][..], 200), (&[], 401), (&[ALICE], 200)] {
        connection.request("GET", &path, fields).unwrap();
        assert_eq!(connection.read("GET").unwrap().status, status);
    }
}

/// The key to the cache is no key to a registry.
#[test]
fn the_key_goes_no_further_than_the_door() {
    let upstream = Registry::new();
    let cache = guarded(&upstream);
    let digest = upstream.blob("content");
    let get = |path: &str| cache.client().get_with(path, &[ALICE]);
    assert_eq!(get(&upstream.blob_url("a", &digest)).status, 200);
    upstream.on(On::any(), Reply::status(401));
    let private = upstream.blob("private");
    for path in [
        upstream.blob_url("a", &private),
        upstream.manifest_url("a", "private"),
        format!("/v2/{}/a/tags/list", upstream.name()),
    ] {
        let got = get(&path);
        assert!(matches!(got.status, 401 | 403), "{got}");
    }
    assert_eq!(
        upstream.count(|seen| seen.field("authorization").is_some()),
        0,
        "{:#?}",
        upstream.log()
    );
    for secret in ["open sesame", "YWxpY2U6b3BlbiBzZXNhbWU"] {
        assert!(!cache.stderr().contains(secret), "the log tells it");
    }
}

#[test]
fn without_a_door_nobody_is_asked() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("content");
    for fields in [&[][..], &[ALICE]] {
        assert_eq!(cache.client().get_with("/v2/", fields).status, 200);
        assert_eq!(
            cache
                .client()
                .get_with(&upstream.blob_url("a", &digest), fields)
                .status,
            200
        );
    }
}
