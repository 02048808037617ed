//! Registries that hide their content from anonymous clients, and send a challenge at `/v2/` only.

use crate::harness::*;

const PASSWORD: &str = "c4n4ry-p4ssw0rd";
const LOGIN: &str = "auth: {username: robot, password: c4n4ry-p4ssw0rd}";
const REPOSITORIES: [&str; 2] = ["team/app", "other"];
const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Returns a registry that rejects anonymous requests with `status` and without a challenge.
fn challenging_only_at_v2(status: u16, scheme: Scheme) -> Registry {
    let upstream = Registry::new();
    upstream.user("robot", PASSWORD);
    upstream.require_tokens(Auth {
        scheme,
        token_authorization: Some(basic("robot", PASSWORD)),
        ..Auth::default()
    });
    let challenge = match scheme {
        Scheme::Basic => "Basic realm=\"r\"".to_owned(),
        // The scope of the challenge refers to `/v2/` and grants access to no repository.
        Scheme::Bearer | Scheme::Either => format!(
            "Bearer realm=\"http://{}/token\",service=\"s\",scope=\"registry:catalog:*\"",
            upstream.addr()
        ),
    };
    upstream.on(
        On::kind(Kind::Ping),
        Reply::status(401).set("WWW-Authenticate", challenge),
    );
    hide(&upstream, status);
    upstream
}

fn hide(upstream: &Registry, status: u16) {
    upstream.on(On::path("/v2/").authorized(false), Reply::status(status));
    upstream.on(
        On::path("/tags/list"),
        Reply::status(200).body(r#"{"name":"x","tags":["v1"]}"#),
    );
    upstream.on(
        On::path("/referrers/"),
        Reply::status(200)
            .body(INDEX)
            .set("Content-Type", "application/vnd.oci.image.index.v1+json"),
    );
}

fn cache(upstream: &Registry) -> Server {
    Server::bare()
        .registry_with("r.test", upstream.addr(), LOGIN)
        .env("TAG_TTL", "1h")
        .start()
}

fn pings(upstream: &Registry) -> usize {
    upstream.count(|seen| seen.kind == Kind::Ping)
}

/// Returns the paths of all objects of an image, starting with number `first`.
fn paths(repository: &str, image: &Image, first: usize) -> Vec<String> {
    let mut paths = vec![
        format!("/v2/r.test/{repository}/manifests/v1"),
        format!("/v2/r.test/{repository}/blobs/{}", image.blobs[0].0),
        format!("/v2/r.test/{repository}/tags/list"),
        format!("/v2/r.test/{repository}/referrers/{}", image.digest),
        format!("/v2/r.test/{repository}/manifests/{}", image.digest),
        format!("/v2/r.test/{repository}/blobs/{}", image.blobs[1].0),
    ];
    let first = first % paths.len();
    paths.rotate_left(first);
    paths
}

#[test]
fn a_login_is_used_where_only_the_ping_asks_for_it() {
    let mut first = 0;
    for status in [401, 403, 404] {
        for scheme in [Scheme::Bearer, Scheme::Basic] {
            let upstream = challenging_only_at_v2(status, scheme);
            let cache = cache(&upstream);
            let images = REPOSITORIES.map(|name| Image::small(&upstream, name, "v1", fresh_seed()));
            for warm in [false, true] {
                let before = upstream.count(|seen| seen.target.contains("/manifests/"));
                for (name, image) in REPOSITORIES.iter().zip(&images) {
                    for path in paths(name, image, first) {
                        // The first request to the registry is a HEAD.
                        let head = cache.client().head(&path);
                        let got = cache.client().get(&path);
                        assert_eq!(
                            (head.status, got.status),
                            (200, 200),
                            "{status} {scheme:?} {path}: {head} {got}\n{:#?}",
                            upstream.log()
                        );
                    }
                }
                assert_eq!(pings(&upstream), 1, "{status} {scheme:?}");
                let asked = upstream.count(|seen| seen.target.contains("/manifests/"));
                assert!(!warm || asked == before, "{status} {scheme:?}");
            }
            // The cache sends the ping without the login, and requests tokens for repositories
            // only.
            for seen in upstream.log() {
                match seen.kind {
                    Kind::Ping => assert_eq!(seen.field("authorization"), None),
                    Kind::Token => assert!(seen.holds("repository:") && !seen.holds("catalog"), "{seen:#?}"),
                    _ => {}
                }
            }
            first += 1;
        }
    }
}

#[test]
fn a_held_tag_of_a_registry_that_hides_is_revalidated_after_a_restart() {
    for status in [403, 404] {
        let upstream = challenging_only_at_v2(status, Scheme::Bearer);
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        let mut cache = Server::bare()
            .registry_with("r.test", upstream.addr(), LOGIN)
            .env("TAG_TTL", "0s")
            .start();
        let path = "/v2/r.test/a/manifests/v1";
        cache.client().get(path).expect(&image.manifest);
        cache.wait_stored(&image.digest);
        let pointer = disk::tag_path(cache.root(), "r.test", "a", "v1");
        eventually("the tag is stored", || pointer.exists());
        cache.restart();
        upstream.clear_log();
        for _ in 0..3 {
            let got = cache.client().get(path);
            got.expect(&image.manifest);
            let how = got.field("cache-status").unwrap_or_default();
            assert!(how.contains("fwd=stale; fwd-status=200"), "{status}: {got}");
        }
        assert_eq!(pings(&upstream), 1, "{status}: {:#?}", upstream.log());
        let moved = Image::small(&upstream, "a", "v1", fresh_seed());
        cache.client().get(path).expect(&moved.manifest);
    }
}

#[test]
fn first_error_is_returned_if_the_ping_has_no_usable_challenge() {
    for status in [403, 404] {
        for ping in [
            Reply::new(),
            Reply::status(401),
            Reply::status(404),
            // A challenge with an unsupported scheme.
            Reply::status(401).set("WWW-Authenticate", "Negotiate"),
        ] {
            let upstream = Registry::new();
            upstream.on(On::kind(Kind::Ping), ping);
            hide(&upstream, status);
            let cache = cache(&upstream);
            let image = Image::small(&upstream, "a", "v1", fresh_seed());
            for round in 0..3 {
                // A new repository in each round, because the cache stores a 404.
                for path in paths(&format!("a{round}"), &image, round) {
                    let got = cache.client().get(&path);
                    let referrers = path.contains("/referrers/");
                    assert!(
                        got.status == status || (referrers && got.status == 200),
                        "{status} {path}: {got}"
                    );
                }
            }
            assert_eq!(pings(&upstream), 1, "{status}: {:#?}", upstream.log());
            // Without a challenge, the cache sends no secret.
            assert!(upstream.saw(PASSWORD).is_empty());
            assert!(upstream.count(|seen| seen.field("authorization").is_some()) == 0);
        }
    }
}
