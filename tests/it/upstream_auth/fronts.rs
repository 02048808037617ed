//! Fronts that redirect the API to another registry with its own challenges. The cache uses
//! anonymous tokens of that registry, and logins are sent to the front only.

use crate::harness::*;

const REPOSITORY: &str = "team/app";
const PASSWORD: &str = "c4n4ry-p4ssw0rd";
const CLIENT_PASSWORD: &str = "c4n4ry-cl13nt";
const LOGIN: &str = "auth: {username: canary, password: c4n4ry-p4ssw0rd}";
const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// The form in which the front names the other registry.
#[derive(Clone, Copy, Debug)]
enum Way {
    Absolute,
    /// The form `//host/path`.
    WithoutScheme,
    /// Through another path of the front.
    Relative,
}

const WAYS: [Way; 3] = [Way::Absolute, Way::WithoutScheme, Way::Relative];

/// The login that the front requires before the redirect, and the configured login.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Login {
    None,
    /// Configured, but not required.
    Unused,
    Basic,
    Bearer,
    /// The password of a client.
    Client,
}

const LOGINS: [Login; 5] = [
    Login::None,
    Login::Unused,
    Login::Basic,
    Login::Bearer,
    Login::Client,
];

impl Login {
    fn keys(self) -> &'static str {
        match self {
            Login::None | Login::Client => "",
            Login::Unused | Login::Basic | Login::Bearer => LOGIN,
        }
    }
}

fn lead(front: &Registry, to: &Registry, status: u16, way: Way) {
    let to = to.addr();
    match way {
        Way::Absolute => front.on(
            On::path("/v2/"),
            Reply::onward(status, "/v2/", format!("http://{to}/v2/")),
        ),
        Way::WithoutScheme => front.on(
            On::path("/v2/"),
            Reply::onward(status, "/v2/", format!("//{to}/v2/")),
        ),
        Way::Relative => {
            front.on(
                On::path("/moved/v2/"),
                Reply::onward(status, "/moved/v2/", format!("http://{to}/v2/")),
            );
            front.on(On::path("/v2/"), Reply::onward(status, "/v2/", "/moved/v2/"));
        }
    }
}

/// Returns a front that redirects to `to`.
fn front(to: &Registry, status: u16, way: Way, login: Login) -> Registry {
    let front = Registry::new();
    let wants = |challenge: String| {
        front.on(
            On::path("/v2/").authorized(false),
            Reply::status(401).set("WWW-Authenticate", challenge),
        );
    };
    match login {
        Login::None | Login::Unused => {}
        Login::Basic | Login::Client => wants("Basic realm=\"front\"".into()),
        Login::Bearer => {
            front.user("canary", PASSWORD);
            front.require_tokens(Auth {
                token_authorization: Some(basic("canary", PASSWORD)),
                ..Auth::default()
            });
            wants(format!(
                "Bearer realm=\"http://{}/token\",service=\"front\"",
                front.addr()
            ));
        }
    }
    lead(&front, to, status, way);
    front
}

/// Returns a registry that requires an anonymous token for all content. The token service is a
/// second listener.
fn challenger() -> Registry {
    let registry = Registry::new();
    let tokens = registry.add_listener();
    registry.require_tokens(Auth {
        realm: Some(format!("http://{tokens}/token")),
        ..Auth::default()
    });
    lists(&registry);
    registry
}

/// Makes `registry` serve lists too, with a token.
fn lists(registry: &Registry) {
    let realm = format!("http://{}/token", registry.addrs()[1]);
    let challenge =
        format!("Bearer realm=\"{realm}\",service=\"fake, registry\",scope=\"repository:{REPOSITORY}:pull\"");
    for (path, media_type, body) in [
        ("/tags/list", "application/json", r#"{"name":"x","tags":["v1"]}"#),
        ("/referrers/", "application/vnd.oci.image.index.v1+json", INDEX),
    ] {
        registry.on(
            On::path(path).authorized(false),
            Reply::status(401).set("WWW-Authenticate", challenge.as_str()),
        );
        registry.on(
            On::path(path),
            Reply::status(200).body(body).set("Content-Type", media_type),
        );
    }
}

/// Pulls all content: manifests by tag and digest, blobs and lists.
fn pull(cache: &Server, name: &str, image: &Image, login: Login) {
    let client = cache.client();
    let password = basic("client", CLIENT_PASSWORD);
    let fields = [("Authorization", password.as_str())];
    let fields = if login == Login::Client { &fields[..] } else { &[] };
    let base = format!("/v2/{name}/{REPOSITORY}");
    let head = client.request("HEAD", &format!("{base}/manifests/v1"), fields);
    assert_eq!(
        (head.status, head.field("docker-content-digest")),
        (200, Some(image.digest.as_str())),
        "{head}"
    );
    for reference in ["v1", &image.digest] {
        let got = client.get_with(&format!("{base}/manifests/{reference}"), fields);
        got.expect(&image.manifest);
    }
    for (digest, content) in &image.blobs {
        let got = client.get_with(&format!("{base}/blobs/{digest}"), fields);
        got.expect(&content.bytes());
    }
    let tags = client.get_with(&format!("{base}/tags/list"), fields);
    assert_eq!(tags.status, 200, "{tags}");
    assert!(String::from_utf8_lossy(&tags.body).contains("\"v1\""), "{tags}");
    let referrers = client.get_with(&format!("{base}/referrers/{}", image.digest), fields);
    assert_eq!(referrers.status, 200, "{referrers}");
}

/// Fails if a secret sent to one registry reached the other in any form.
#[track_caller]
fn no_secret_crossed(one: &Registry, other: &Registry) {
    for (from, to) in [(one, other), (other, one)] {
        for seen in from.log() {
            if let Some((_, secret)) = seen
                .field("authorization")
                .and_then(|value| value.split_once(' '))
            {
                let found = to.saw(secret);
                assert!(found.is_empty(), "{secret}: {found:#?}");
            }
        }
    }
    for password in [PASSWORD, CLIENT_PASSWORD] {
        assert!(other.saw(password).is_empty());
    }
}

#[test]
fn a_front_leads_into_a_registry_that_challenges_by_itself() {
    let mut pairs = Vec::new();
    let mut options = Server::bare();
    for login in LOGINS {
        for status in [301, 302, 307, 308] {
            for way in WAYS {
                let registry = challenger();
                let image = Image::small(&registry, REPOSITORY, "v1", fresh_seed());
                let front = front(&registry, status, way, login);
                let name = format!("front{}.test", pairs.len());
                options = options.registry_with(&name, front.addr(), login.keys());
                pairs.push((name, front, registry, image, login, (status, way)));
            }
        }
    }
    let cache = options.env("TAG_TTL", "1h").start();
    for (name, front, registry, image, login, how) in &pairs {
        pull(&cache, name, image, *login);
        for (digest, _) in &image.blobs {
            cache.wait_stored(digest);
        }
        let tokens = registry.count(|seen| seen.kind == Kind::Token);
        assert_eq!(tokens, 1, "{login:?} {how:?}: {:#?}", registry.log());
        for seen in registry.log() {
            let secret = seen.field("authorization");
            assert!(
                secret.is_none_or(|secret| secret.starts_with("Bearer ")),
                "{seen:#?}"
            );
            assert!(seen.kind != Kind::Token || secret.is_none(), "{seen:#?}");
        }
        no_secret_crossed(front, registry);
    }
    for (name, front, registry, image, login, how) in &pairs {
        let content = |upstream: &Registry| {
            upstream.count(|seen| seen.target.contains("/manifests/") || seen.target.contains("/blobs/"))
        };
        let before = (content(front), content(registry));
        pull(&cache, name, image, *login);
        // The cache verifies a client's own login at the registry for each request.
        if *login != Login::Client {
            let after = (content(front), content(registry));
            assert_eq!(after, before, "{login:?} {how:?}");
        }
        no_secret_crossed(front, registry);
    }
}

#[test]
fn a_tag_that_moves_behind_a_front_is_followed() {
    let registry = challenger();
    let front = front(&registry, 307, Way::Absolute, Login::Basic);
    let cache = Server::bare()
        .registry_with("front.test", front.addr(), LOGIN)
        .env("TAG_TTL", "0s")
        .start();
    let path = format!("/v2/front.test/{REPOSITORY}/manifests/v1");
    for _ in 0..3 {
        let image = Image::small(&registry, REPOSITORY, "v1", fresh_seed());
        cache.client().get(&path).expect(&image.manifest);
        let again = cache.client().get(&path);
        again.expect(&image.manifest);
        let status = again.field("cache-status").unwrap_or_default();
        assert!(status.contains("fwd=stale; fwd-status=200"), "{again}");
        // The cache replaces a token that the registry no longer accepts.
        registry.revoke_tokens();
    }
    assert!(registry.heads("/manifests/v1") > 0);
    no_secret_crossed(&front, &registry);
    // If the registry behind the front is down, the cached copy is served.
    let image = Image::small(&registry, REPOSITORY, "v1", fresh_seed());
    cache.client().get(&path).expect(&image.manifest);
    registry.down();
    let got = cache.client().get(&path);
    got.expect(&image.manifest);
    assert_eq!(got.x_cache(), "STALE", "{got}");
}

#[test]
fn each_registry_in_a_chain_gets_a_token_of_its_own() {
    let (middle, last) = (challenger(), challenger());
    middle.clear_rules();
    middle.on(
        On::path("/v2/").authorized(true),
        Reply::onward(302, "/v2/", format!("http://{}/v2/", last.addr())),
    );
    // The first front requires a login, the middle one a token, and the last one another token.
    let first = front(&middle, 308, Way::Relative, Login::Bearer);
    let image = Image::small(&last, REPOSITORY, "v1", fresh_seed());
    let cache = Server::bare()
        .registry_with("front.test", first.addr(), LOGIN)
        .start();
    let base = format!("/v2/front.test/{REPOSITORY}");
    cache
        .client()
        .get(&format!("{base}/manifests/v1"))
        .expect(&image.manifest);
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&format!("{base}/blobs/{digest}"))
            .expect(&content.bytes());
    }
    for registry in [&middle, &last] {
        assert_eq!(registry.count(|seen| seen.kind == Kind::Token), 1);
        no_secret_crossed(&first, registry);
    }
    no_secret_crossed(&middle, &last);
}

#[test]
fn a_token_service_elsewhere_is_asked_by_anybody_and_metadata_services_never() {
    let service = Registry::new();
    let registry = challenger();
    let front = front(&registry, 307, Way::Absolute, Login::Basic);
    let image = Image::small(&registry, REPOSITORY, "v1", fresh_seed());
    for tokens in [&service, &front] {
        tokens.on(
            On::kind(Kind::Token),
            Reply::status(200).body(r#"{"token":"known"}"#),
        );
    }
    let names = |realm: String| {
        registry.auth(|auth| {
            auth.realm = Some(realm);
            auth.also_accept = vec!["Bearer known".into()];
        });
        Server::bare()
            .registry_with("front.test", front.addr(), LOGIN)
            .start()
    };
    let path = format!("/v2/front.test/{REPOSITORY}/manifests/v1");
    // A token service on another host, and the front as token service. The front receives no login
    // with a token request for another registry.
    for tokens in [&service, &front] {
        let cache = names(format!("http://{}/token", tokens.addr()));
        cache.client().get(&path).expect(&image.manifest);
        let asked: Vec<_> = tokens
            .log()
            .into_iter()
            .filter(|seen| seen.kind == Kind::Token)
            .collect();
        assert_eq!(asked.len(), 1);
        assert!(
            asked.iter().all(|seen| seen.field("authorization").is_none()),
            "{asked:#?}"
        );
        assert!(asked[0].holds(&format!("repository:{REPOSITORY}:pull")));
    }
    no_secret_crossed(&front, &registry);
    assert!(service.saw("c4n4ry").is_empty());
    let cache = names("http://169.254.169.254/token".into());
    let got = cache.client().get(&path);
    assert_eq!(got.status, 502, "{got}");
    let text = String::from_utf8_lossy(&got.body);
    assert!(
        text.contains("169.254.169.254") && text.contains("front.test"),
        "{text}"
    );
}

/// Returns rules for the registry behind the front that reject all anonymous requests.
fn refusals(service: &Registry) -> Vec<(On, Reply)> {
    let bearer = format!("Bearer realm=\"http://{}/token\",service=\"s\"", service.addr());
    let error = |status| Reply::status(status);
    let mut refusals = Vec::new();
    for status in [401, 403] {
        // A token without access.
        refusals.push((On::path("/v2/").authorized(true), error(status)));
        // A rejection without a challenge.
        refusals.push((On::path("/v2/"), error(status)));
    }
    // A registry that accepts passwords only.
    refusals.push((
        On::path("/v2/"),
        error(401).set("WWW-Authenticate", "Basic realm=\"x\""),
    ));
    // A token service that rejects the request.
    refusals.push((
        On::path("/v2/").authorized(false),
        error(401).set("WWW-Authenticate", bearer),
    ));
    refusals
}

#[test]
fn registry_without_tokens_is_named_with_its_front() {
    let (registry, service) = (challenger(), Registry::new());
    let front = front(&registry, 302, Way::Absolute, Login::Basic);
    let image = Image::small(&registry, REPOSITORY, "v1", fresh_seed());
    let cache = Server::bare()
        .registry_with("front.test", front.addr(), LOGIN)
        .start();
    let paths = [
        "manifests/v1".to_owned(),
        format!("manifests/{}", image.digest),
        format!("blobs/{}", image.blobs[0].0),
        "tags/list".to_owned(),
        format!("referrers/{}", image.digest),
    ];
    for status in [401, 403] {
        service.clear_rules();
        service.on(On::kind(Kind::Token), Reply::status(status));
        for (on, reply) in refusals(&service) {
            registry.clear_rules();
            registry.on(on, reply);
            lists(&registry);
            for path in &paths {
                let got = cache.client().get(&format!("/v2/front.test/{REPOSITORY}/{path}"));
                got.expect_error(403, "DENIED");
                let text = String::from_utf8_lossy(&got.body);
                assert!(
                    text.contains("front.test") && text.contains(&registry.name()),
                    "{text}"
                );
                assert_eq!(got.field("www-authenticate"), None, "{got}");
            }
        }
    }
    assert!(service.requests() > 0);
    no_secret_crossed(&front, &registry);
    no_secret_crossed(&front, &service);
    // The rejection is temporary, so the cache must not store the result for long.
    registry.clear_rules();
    eventually("the cached token failure expires", || {
        let got = cache
            .client()
            .get(&format!("/v2/front.test/{REPOSITORY}/manifests/v1"));
        got.status == 200 && got.body == image.manifest
    });
}

#[test]
fn a_signed_url_that_has_expired_is_no_verdict_of_a_registry() {
    let storage = Registry::new();
    let front = front(&storage, 307, Way::Absolute, Login::None);
    storage.on(
        On::any(),
        Reply::status(403)
            .body("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>")
            .set("Content-Type", "application/xml"),
    );
    let cache = Server::bare().registry("front.test", front.addr()).start();
    let digest = PseudoRandom::new(fresh_seed(), 10).digest();
    for path in ["manifests/v1".to_owned(), format!("blobs/{digest}")] {
        let got = cache.client().get(&format!("/v2/front.test/{REPOSITORY}/{path}"));
        assert_eq!(got.status, 502, "{got}");
    }
}

#[test]
fn referrers_redirect_to_a_web_page_is_a_404() {
    let (front, pages) = (Registry::new(), Registry::new());
    let digest = PseudoRandom::new(fresh_seed(), 10).digest();
    let cache = Server::bare().registry("front.test", front.addr()).start();
    for location in [
        format!("http://{}/web/page", pages.addr()),
        format!("http://{}/v2/", pages.addr()),
        "/login?next=/v2/a/referrers/x".to_owned(),
        "https://[".to_owned(),
    ] {
        front.clear_rules();
        front.on(On::path("/referrers/"), Reply::redirect(303, location));
        let got = cache
            .client()
            .get(&format!("/v2/front.test/{REPOSITORY}/referrers/{digest}"));
        got.expect_error(404, "MANIFEST_UNKNOWN");
    }
    assert_eq!(pages.requests(), 0);
}

#[test]
fn redirect_loop_ends_and_does_not_affect_another_registry() {
    let bystander = Registry::new();
    let image = Image::small(&bystander, "a", "v1", fresh_seed());
    for around in 0..3 {
        let registry = challenger();
        let front = Registry::new();
        let to_front = format!("http://{}/v2/", front.addr());
        let to_registry = format!("http://{}/v2/", registry.addr());
        registry.clear_rules();
        match around {
            // The front redirects to itself.
            0 => front.on(On::path("/v2/"), Reply::onward(302, "/v2/", to_front)),
            // The front and the registry redirect to each other.
            1 => {
                front.on(On::path("/v2/"), Reply::onward(302, "/v2/", to_registry));
                registry.on(On::path("/v2/"), Reply::onward(302, "/v2/", to_front));
            }
            // The registry requires a token before its redirect.
            _ => {
                front.on(On::path("/v2/"), Reply::onward(302, "/v2/", to_registry));
                registry.on(
                    On::path("/v2/").authorized(true),
                    Reply::onward(302, "/v2/", to_front),
                );
            }
        }
        let cache = Server::bare()
            .registry_with("front.test", front.addr(), LOGIN)
            .registry("bystander.test", bystander.addr())
            .start();
        let digest = PseudoRandom::new(fresh_seed(), 10).digest();
        for path in ["manifests/v1".to_owned(), format!("blobs/{digest}")] {
            let before = front.requests() + registry.requests();
            let got = cache.client().get(&format!("/v2/front.test/{REPOSITORY}/{path}"));
            let text = String::from_utf8_lossy(&got.body);
            // The front redirects back to the registry without the token, and the registry rejects
            // the request.
            let expected = if around == 2 { 403 } else { 502 };
            assert_eq!(got.status, expected, "{around} {path}: {got}");
            assert!(text.contains("front.test"), "{around}: {text}");
            assert!(around == 2 || text.contains("redirects"), "{around}: {text}");
            let asked = front.requests() + registry.requests() - before;
            assert!(asked <= 30, "{around} {path}: {asked} requests");
        }
        let bystander = cache.client().get("/v2/bystander.test/a/manifests/v1");
        bystander.expect(&image.manifest);
        no_secret_crossed(&front, &registry);
    }
}
