//! Logins of clients: required if configured, exchanged for tokens, and never sent to a registry
//! that only appears in an image name.

use crate::harness::*;

const PASSWORD: &str = "c4n4ry-al1c3";

fn alice() -> String {
    basic("alice", PASSWORD)
}

fn bob() -> String {
    basic("bob", "c4n4ry-b0b")
}

/// A registry that accepts tokens only, with a private repository of Alice and a public one.
fn registry() -> Registry {
    let upstream = Registry::new();
    upstream.require_tokens(Auth::default());
    upstream.user("alice", PASSWORD);
    upstream.user("bob", "c4n4ry-b0b");
    upstream.allow("alice", "private/app");
    upstream.allow_anybody("public/app");
    upstream
}

/// Starts a cache that requires logins from clients.
fn asking(upstream: &Registry) -> Server {
    Server::options(upstream)
        .cores(2)
        .env("CLIENT_LOGIN", "true")
        .env("LOG_LEVEL", "trace")
        .start()
}

fn get(cache: &Server, path: &str, authorization: &str) -> Response {
    cache.client().get_with(path, &[("Authorization", authorization)])
}

fn tokens(upstream: &Registry) -> usize {
    upstream.count(|seen| seen.kind == Kind::Token)
}

/// Returns the number of complete transfers. A probe transfers one byte and does not count.
fn bodies(upstream: &Registry, digest: &str) -> usize {
    upstream.count(|seen| seen.is_get(&format!("/blobs/{digest}")) && seen.status == 200)
}

#[track_caller]
fn expect_no_secret(cache: &Server, upstreams: &[&Registry]) {
    for canary in ["c4n4ry", &alice()["Basic ".len()..], &bob()["Basic ".len()..]] {
        assert!(!cache.stderr().contains(canary), "the log contains {canary}");
        assert!(
            !disk::contains(cache.root(), canary),
            "the store contains {canary}"
        );
        for upstream in upstreams {
            let saw = upstream.saw(canary);
            assert!(saw.is_empty(), "{canary}: {saw:#?}");
        }
    }
}

#[test]
fn a_client_is_asked_for_its_login_where_the_operator_wants_it() {
    let upstream = registry();
    let cache = asking(&upstream);
    for path in ["/v2/", "/v2"] {
        let got = cache.client().get(path);
        got.expect_error(401, "UNAUTHORIZED");
        assert_eq!(
            got.field("www-authenticate"),
            Some("Basic realm=\"oci-pull-through\""),
            "{got}"
        );
        assert_eq!(cache.client().head(path).status, 401);
        // Only the registry can verify a login, so the cache accepts any.
        for any in [alice(), basic("unknown-user", "wrong"), "Bearer abc".into()] {
            get(&cache, path, &any).expect(b"{}");
        }
    }
    assert_eq!(cache.client().get("/healthz").status, 200);
    assert_eq!(upstream.requests(), 0);
    let silent = Server::start(&upstream);
    silent.client().get("/v2/").expect(b"{}");
}

#[test]
fn what_is_public_needs_no_login() {
    let upstream = registry();
    let cache = asking(&upstream);
    let image = Image::small(&upstream, "public/app", "v1", fresh_seed());
    let path = upstream.manifest_url("public/app", "v1");
    cache.client().get(&path).expect(&image.manifest);
    let by_digest = upstream.manifest_url("public/app", &image.digest);
    cache.client().get(&by_digest).expect(&image.manifest);
    for (digest, content) in &image.blobs {
        let path = upstream.blob_url("public/app", digest);
        // With an empty login, as some clients send, and with the login of any user.
        get(&cache, &path, "Basic Og==").expect(&content.bytes());
        get(&cache, &path, &alice()).expect(&content.bytes());
        get(&cache, &path, &basic("mallory", "wrong")).expect(&content.bytes());
        cache.client().get(&path).expect(&content.bytes());
        assert_eq!(bodies(&upstream, digest), 1, "{:#?}", upstream.log());
    }
    expect_no_secret(&cache, &[&upstream]);
}

#[test]
fn a_login_is_exchanged_for_a_token() {
    for asks in [false, true] {
        let upstream = registry();
        let cache = match asks {
            true => asking(&upstream),
            false => Server::start(&upstream),
        };
        let image = Image::small(&upstream, "private/app", "v1", fresh_seed());
        let by_tag = upstream.manifest_url("private/app", "v1");
        for _ in 0..2 {
            let got = get(&cache, &by_tag, &alice());
            got.expect(&image.manifest);
            assert_eq!(got.field("cache-control"), Some("private"), "{got}");
            for (digest, content) in &image.blobs {
                let got = get(&cache, &upstream.blob_url("private/app", digest), &alice());
                got.expect(&content.bytes());
                assert_eq!(got.field("cache-control"), Some("private"), "{got}");
                cache.wait_stored(digest);
            }
        }
        for (digest, _) in &image.blobs {
            assert_eq!(bodies(&upstream, digest), 1, "{:#?}", upstream.log());
        }
        // An anonymous token without access, and a token of Alice.
        assert_eq!(tokens(&upstream), 2, "{:#?}", upstream.log());
        // The cache sends the login to the registry once, until the challenge arrives, and
        // afterwards only to the token service.
        let shown = upstream
            .count(|seen| seen.kind != Kind::Token && seen.field("authorization") == Some(alice().as_str()));
        assert_eq!(shown, 1, "{:#?}", upstream.log());

        // Other clients receive the registry's own error, including the challenge.
        for other in [
            bob(),
            basic("alice", "wrong"),
            basic("alice", ""),
            "Basic Og==".into(),
        ] {
            for path in [
                by_tag.clone(),
                upstream.manifest_url("private/app", &image.digest),
                upstream.blob_url("private/app", &image.blobs[0].0),
            ] {
                let got = get(&cache, &path, &other);
                got.expect_error(401, "UNAUTHORIZED");
                let challenge = got.field("www-authenticate").unwrap_or_default();
                assert!(challenge.starts_with("Bearer realm="), "{got}");
            }
        }
        let got = cache.client().get(&by_tag);
        got.expect_error(401, "UNAUTHORIZED");
        get(&cache, &by_tag, &alice()).expect(&image.manifest);
        expect_no_secret(&cache, &[]);
    }
}

#[test]
fn a_token_that_is_refused_is_replaced_once() {
    let upstream = registry();
    let cache = asking(&upstream);
    let contents = [1, 2].map(|_| PseudoRandom::new(fresh_seed(), 50_000));
    let [one, two] = contents
        .each_ref()
        .map(|content| upstream.blob_in("private/app", content.clone()));
    get(&cache, &upstream.blob_url("private/app", &one), &alice()).expect(&contents[0].bytes());
    upstream.revoke_tokens();
    let before = tokens(&upstream);
    get(&cache, &upstream.blob_url("private/app", &two), &alice()).expect(&contents[1].bytes());
    assert_eq!(tokens(&upstream) - before, 1, "{:#?}", upstream.log());
}

#[test]
fn concurrent_requests_of_one_client_fetch_one_token() {
    let upstream = registry();
    let cache = asking(&upstream);
    let first = upstream.blob_in("private/app", PseudoRandom::new(fresh_seed(), 10));
    // After this response, the repository is known to be private.
    get(&cache, &upstream.blob_url("private/app", &first), "Basic Og==").expect_error(401, "UNAUTHORIZED");
    let before = tokens(&upstream);
    let contents: Vec<_> = (0..8).map(|_| PseudoRandom::new(fresh_seed(), 10_000)).collect();
    for content in &contents {
        upstream.blob_in("private/app", content.clone());
    }
    std::thread::scope(|scope| {
        for content in &contents {
            let (cache, upstream) = (&cache, &upstream);
            scope.spawn(move || {
                let path = upstream.blob_url("private/app", &content.digest());
                get(cache, &path, &alice()).expect(&content.bytes());
            });
        }
    });
    assert_eq!(tokens(&upstream) - before, 1, "{:#?}", upstream.log());
}

#[test]
fn token_service_of_another_owner_receives_no_client_login() {
    let upstream = registry();
    let elsewhere = Registry::new();
    upstream.auth(|auth| auth.realm = Some(format!("http://{}/token", elsewhere.addr())));
    for asks in ["true", "false"] {
        // The cache may request an anonymous token from a token service on another host, but not
        // with Alice's login.
        let cache = Server::bare()
            .config(format!(
                "registries: [{{name: \"{0}\", url: \"http://{0}\"}}, {{name: \"{1}\"}}]\n",
                upstream.name(),
                elsewhere.name()
            ))
            .env("CLIENT_LOGIN", asks)
            .env("LOG_LEVEL", "trace")
            .start();
        let digest = upstream.blob_in("private/app", "content");
        elsewhere.on(On::any(), Reply::status(401));
        for _ in 0..2 {
            let got = get(&cache, &upstream.blob_url("private/app", &digest), &alice());
            got.expect_error(401, "UNAUTHORIZED");
            let challenge = got.field("www-authenticate").unwrap_or_default();
            assert!(challenge.contains(&elsewhere.addr().to_string()), "{got}");
        }
        assert!(
            !upstream.saw(&alice()).is_empty(),
            "the registry receives the credentials of the client"
        );
        expect_no_secret(&cache, &[&elsewhere]);
    }
}

#[test]
fn a_login_goes_to_registries_that_the_operator_knows() {
    let [named, default, unlisted] = [(); 3].map(|()| {
        let upstream = Registry::new();
        upstream.require_tokens(Auth::basic());
        upstream.user("alice", PASSWORD);
        upstream.allow("alice", "private/app");
        upstream
    });
    // By exact name, by suffix, and as default registry. The registry itself acts as proxy, so all
    // host names lead there.
    let cache = Server::bare()
        .config(format!(
            "client_login: true\ndefault_registry: default.test\n\
             defaults: {{insecure: true, allow_private: true, upstream_proxy: \"http://{unlisted}\"}}\n\
             registries:\n\
             - {{name: \"{named}\", url: \"http://{named}\", upstream_proxy: none}}\n\
             - {{name: \"*.named.test\", upstream_proxy: \"http://{suffix}\"}}\n",
            unlisted = unlisted.addr(),
            named = named.name(),
            suffix = default.addr(),
        ))
        .env("LOG_LEVEL", "trace")
        .start();
    let login = alice();
    for (namespace, upstream, known) in [
        (named.name(), &named, true),
        ("a.named.test".into(), &default, true),
        ("default.test".into(), &unlisted, true),
        ("unlisted.test".into(), &unlisted, false),
        ("notnamed.test".into(), &unlisted, false),
        ("named.test".into(), &unlisted, false),
    ] {
        for target in [
            "manifests/v1",
            "tags/list",
            &format!("blobs/{}", PseudoRandom::new(fresh_seed(), 9).digest()),
        ] {
            upstream.clear_log();
            let got = get(&cache, &format!("/v2/{namespace}/private/app/{target}"), &login);
            assert!(upstream.requests() > 0, "{namespace} received no request: {got}");
            let saw = upstream.saw(&login);
            assert_eq!(!saw.is_empty(), known, "{namespace} {target}: {got} {saw:#?}");
            // A token is valid for one registry, so the cache forwards the client's token.
            get(
                &cache,
                &format!("/v2/{namespace}/private/app/{target}"),
                "Bearer t0k3n",
            );
            assert!(!upstream.saw("t0k3n").is_empty(), "{namespace} {target}");
        }
    }
    expect_no_secret(&cache, &[]);
}

#[test]
fn login_for_an_unconfigured_passthrough_registry_is_not_forwarded() {
    let upstream = Registry::new();
    let cache = Server::bare()
        .config(format!(
            "client_login: true\n\
             defaults: {{insecure: true, allow_private: true, access: passthrough, upstream_proxy: \"http://{}\"}}\n",
            upstream.addr()
        ))
        .start();
    for target in ["manifests/v1", "tags/list"] {
        get(&cache, &format!("/v2/unlisted.test/a/{target}"), &alice());
    }
    assert!(upstream.requests() >= 2);
    expect_no_secret(&cache, &[&upstream]);
}

#[test]
fn client_login_together_with_client_authentication_is_an_error() {
    let upstream = Registry::new();
    let (status, said) = Server::options(&upstream)
        .config("tag_ttl: 1m\nauth: {username: u, password: c4n4ry}\nregistries: [{name: a.test}]\n")
        .env("CLIENT_LOGIN", "true")
        .try_start()
        .err()
        .expect("the server does not start");
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{said}");
    assert!(
        said.contains("CLIENT_LOGIN") && said.contains("`auth` (line 2)") && !said.contains("c4n4ry"),
        "{said}"
    );
}
