//! Tokens, credentials, and the mapping of upstream rejections to responses.

use std::time::Duration;

use crate::harness::*;

const SECRET: &str = "Basic Y2FuYXJ5OmNhbmFyeS1zZWNyZXQ=";

#[test]
fn one_token_serves_a_repository_until_it_expires() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth::default());
    let cache = Server::options(&upstream).cores(2).start();
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("team/app", "v1"))
        .expect(&image.manifest);
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("team/app", digest))
            .expect(&content.bytes());
    }
    let tokens: Vec<_> = upstream
        .log()
        .into_iter()
        .filter(|seen| seen.kind == Kind::Token)
        .collect();
    assert_eq!(tokens.len(), 1, "{tokens:#?}");
    let asked = tokens[0]
        .target
        .replace("%3A", ":")
        .replace("%2F", "/")
        .replace("%2C", ",");
    assert!(asked.contains("scope=repository:team/app:pull"), "{asked}");
    assert!(
        asked.contains("service=fake"),
        "the token request has a wrong scope: {asked}"
    );
    assert_eq!(tokens[0].field("authorization"), None);
    // Another repository needs another scope.
    let other = Image::small(&upstream, "team/other", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("team/other", "v1"))
        .expect(&other.manifest);
    assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 2);
}

#[test]
fn concurrent_anonymous_requests_fetch_one_token() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth::default());
    let cache = Server::options(&upstream).cores(2).start();
    let contents: Vec<_> = (0..16).map(|_| PseudoRandom::new(fresh_seed(), 10_000)).collect();
    for content in &contents {
        upstream.blob(content.clone());
    }
    upstream.on(
        On::kind(Kind::Token),
        Reply::new().delay_head(Duration::from_millis(100)),
    );
    std::thread::scope(|scope| {
        for content in &contents {
            let path = upstream.blob_url("a", &content.digest());
            let client = cache.client();
            scope.spawn(move || client.pull(&path, content));
        }
    });
    assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 1);
}

#[test]
fn a_refused_token_is_replaced_once() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth::default());
    let cache = Server::start(&upstream);
    let (one, two) = (upstream.blob("one"), upstream.blob("two"));
    cache.client().get(&upstream.blob_url("a", &one)).expect(b"one");
    upstream.revoke_tokens();
    cache.client().get(&upstream.blob_url("a", &two)).expect(b"two");
    assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 2);
}

#[test]
fn a_token_service_that_fails_is_an_upstream_error() {
    for (status, answers) in [
        (500, &[502][..]),
        (503, &[502, 503]),
        (401, &[401, 403]),
        (429, &[429]),
    ] {
        let upstream = Registry::new();
        upstream.require_tokens(Auth::default());
        let cache = Server::start(&upstream);
        let digest = upstream.blob("x");
        upstream.on(On::kind(Kind::Token), Reply::status(status));
        let got = cache.client().get(&upstream.blob_url("a", &digest));
        assert!(answers.contains(&got.status), "{status}: {got}");
        // Failures are cached for a moment at most.
        upstream.clear_rules();
        eventually("the cache fetches another token", || {
            cache.client().get(&upstream.blob_url("a", &digest)).status == 200
        });
    }
}

#[test]
fn client_credentials_reach_only_the_upstream() {
    let upstream = Registry::new();
    let cdn = upstream.add_listener();
    upstream.require_tokens(Auth {
        also_accept: vec![SECRET.into()],
        token_authorization: Some("Basic bm9ib2R5".into()),
        ..Auth::default()
    });
    let cache = Server::options(&upstream).env("LOG_LEVEL", "trace").start();
    let contents = [200_000, 300_000].map(|size| PseudoRandom::new(fresh_seed(), size));
    let [straight, redirected] = contents.each_ref().map(|content| upstream.blob(content.clone()));
    upstream.on(
        // At this time the repository is known to be private, so the first request contains the
        // credentials.
        On::path(&redirected).and_kind(Kind::Blob).once(),
        Reply::redirect(307, format!("http://{cdn}/cdn/{redirected}")),
    );
    let mine = [
        ("Authorization", SECRET),
        ("Cookie", "canary-cookie"),
        ("Proxy-Authorization", "canary-proxy"),
    ];
    for (digest, content) in [&straight, &redirected].into_iter().zip(&contents) {
        let path = upstream.blob_url("a", digest);
        cache.client().get_with(&path, &mine).expect(&content.bytes());
        cache.wait_stored(digest);
        // The entry is served only to authorized clients.
        let before = upstream.requests();
        let hit = cache.client().get_with(&path, &mine);
        hit.expect(&content.bytes());
        assert_eq!(
            upstream.requests(),
            before,
            "a cached permission causes an upstream request"
        );
        assert_eq!(hit.field("cache-control"), Some("private"));
        for wrong in [&[][..], &[("Authorization", "Basic d3Jvbmc=")]] {
            let got = cache.client().get_with(&path, wrong);
            assert!(matches!(got.status, 401 | 403), "{got}");
        }
    }
    let log = upstream.log();
    assert!(log.iter().any(|seen| seen.kind == Kind::Cdn), "{log:#?}");
    for seen in &log {
        if seen.field("authorization") == Some(SECRET) {
            assert_eq!(seen.kind, Kind::Blob, "{seen:#?}");
        }
        assert_eq!(
            (seen.field("cookie"), seen.field("proxy-authorization")),
            (None, None)
        );
    }
    for canary in ["canary", "Y2FuYXJ5"] {
        assert!(
            !disk::contains(cache.root(), canary),
            "the store contains {canary}"
        );
        assert!(!cache.stderr().contains(canary), "the log contains {canary}");
    }
}

#[test]
fn upstream_rejections_are_mapped_by_class() {
    for (status, answer, code) in [
        (401, &[401, 403][..], &["UNAUTHORIZED", "DENIED"][..]),
        (403, &[403], &["DENIED"]),
        (404, &[404], &["MANIFEST_UNKNOWN", "BLOB_UNKNOWN", "NAME_UNKNOWN"]),
        (410, &[404, 410, 502], &[]),
        (400, &[400, 404, 502], &[]),
        (429, &[429], &["TOOMANYREQUESTS"]),
        (500, &[502, 500], &[]),
        (502, &[502], &[]),
        (503, &[502, 503], &[]),
        (504, &[502, 504], &[]),
    ] {
        let upstream = Registry::new();
        let cache = Server::start(&upstream);
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        let digest = &image.blobs[0].0;
        upstream.on(On::any(), Reply::status(status).set("Retry-After", "2"));
        for path in [
            upstream.manifest_url("a", "v1"),
            upstream.manifest_url("a", &image.digest),
            upstream.blob_url("a", digest),
        ] {
            let got = cache.client().get(&path);
            assert!(answer.contains(&got.status), "{status} {path}: {got}");
            let json: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
            let said = json["errors"][0]["code"].as_str().expect("a code");
            assert!(code.is_empty() || code.contains(&said), "{status} {path}: {got}");
            if status == 429 {
                // The upstream's value, or the remaining time.
                assert!(matches!(got.field("retry-after"), Some("1" | "2")), "{got}");
            }
            let head = cache.client().head(&path);
            assert_eq!(head.status, got.status, "HEAD {path}");
            assert_eq!(head.body.len(), 0);
        }
        // The cache stores a failure for a moment, and a 404 for seconds.
        upstream.clear_rules();
        cache.wait_asks(&upstream, "a");
        if status == 404 {
            let path = upstream.manifest_url("a", "v1");
            eventually("the cache sends requests to the registry again", || {
                cache.client().get(&path).status == 200
            });
        }
        cache
            .client()
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&image.manifest);
        cache
            .client()
            .get(&upstream.blob_url("a", digest))
            .expect(&image.blobs[0].1.bytes());
    }
}

#[test]
fn an_upstream_that_cannot_be_reached_is_a_bad_gateway() {
    let mut failures = vec![
        ("closes the connection".to_owned(), Reply::hang_up(Cut::Fin)),
        ("resets".to_owned(), Reply::hang_up(Cut::Rst)),
    ];
    for raw in [
        "",
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nyy",
        "HTTP/1.1 99 x\r\n\r\n",
    ] {
        failures.push((format!("sends {raw:?}"), Reply::raw(raw)));
    }
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("x");
    for (what, reply) in failures {
        upstream.clear_rules();
        upstream.on(On::any(), reply);
        let before = upstream.requests();
        let got = cache.client().get(&upstream.blob_url("a", &digest));
        assert_eq!(got.status, 502, "{what}: {got}");
        assert!(
            upstream.requests() > before,
            "{what}: the upstream received no request"
        );
        // The circuit breaker would open after a few failures in a row.
        upstream.clear_rules();
        cache.wait_asks(&upstream, "a");
    }
    upstream.down();
    let got = cache.client().get(&upstream.blob_url("a", &digest));
    assert!(matches!(got.status, 502 | 504), "{got}");
    let json: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
    assert!(json["errors"][0]["code"].is_string());
    upstream.up();
    cache.wait_asks(&upstream, "a");
    cache.client().get(&upstream.blob_url("a", &digest)).expect(b"x");
}

#[test]
fn redirects_are_followed_up_to_the_limit() {
    let upstream = Registry::new();
    let far = upstream.add_listener();
    let cache = Server::start(&upstream);
    let chain = |links: usize, digest: &str| {
        upstream.clear_rules();
        for n in 0..links {
            let next = match n {
                _ if n + 1 == links => format!("http://{far}/cdn/{digest}"),
                // Relative, as Google's registry does it.
                _ => format!("/hop/{}/{digest}", n + 1),
            };
            let from = if n == 0 {
                format!("/blobs/{digest}")
            } else {
                format!("/hop/{n}/{digest}")
            };
            upstream.on(
                On::path(from),
                Reply::redirect([301, 302, 303, 307, 308][n % 5], next),
            );
        }
    };
    for links in 1..=5 {
        let digest = upstream.blob(format!("behind {links} links"));
        chain(links, &digest);
        let got = cache.client().get(&upstream.blob_url("a", &digest));
        got.expect(format!("behind {links} links").as_bytes());
        assert_eq!(got.field("docker-content-digest"), Some(digest.as_str()));
        assert_eq!(got.field("content-type"), Some("application/octet-stream"));
    }
    let digest = upstream.blob("nowhere");
    for location in [
        "/v2/a/blobs/nowhere-loop",
        "ftp://x/",
        "http://",
        "",
        "javascript:1",
        "http://u:p@127.0.0.1/",
    ] {
        upstream.clear_rules();
        upstream.on(On::any(), Reply::redirect(307, location));
        let got = cache.client().get(&upstream.blob_url("a", &digest));
        assert_eq!(got.status, 502, "{location}: {got}");
        assert!(upstream.requests() < 100, "a redirect loop ends");
    }
}
