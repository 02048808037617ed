//! Access rules of the configuration: which users may read which repositories.

use crate::harness::*;

const ALICE: (&str, &str) = ("alice", "a");
const BOB: (&str, &str) = ("bob", "b");

/// Starts a cache for `upstream` with `top` in front of the configuration, and these keys for the
/// registry.
fn cache(upstream: &Registry, top: &str, keys: &str) -> Server {
    Server::options(upstream)
        .config(yaml(upstream, top, keys))
        .start()
}

fn yaml(upstream: &Registry, top: &str, keys: &str) -> String {
    let name = upstream.name();
    format!("{top}\nregistries:\n  - {{name: \"{name}\", url: \"http://{name}\"{keys}}}\n")
}

/// Returns the configuration of client authentication for Alice and Bob, with these rules.
fn with_auth(cache_home: &std::path::Path, rules: &str) -> String {
    let file = cache_home.join("users");
    let lines = [ALICE, BOB].map(|(user, password)| htpasswd::line(user, password, 4));
    std::fs::write(&file, lines.concat()).unwrap();
    format!("auth: {{htpasswd_file: {}}}\n{rules}", file.display())
}

fn get(cache: &Server, path: &str, user: Option<(&str, &str)>) -> Response {
    let shown = user.map(|(user, password)| basic(user, password));
    let fields: Vec<_> = shown
        .iter()
        .map(|shown| ("Authorization", shown.as_str()))
        .collect();
    cache.client().get_with(path, &fields)
}

/// Returns the path of every kind of read in `repository`.
fn paths(upstream: &Registry, repository: &str, blob: &str, manifest: &str) -> Vec<String> {
    vec![
        upstream.blob_url(repository, blob),
        upstream.manifest_url(repository, manifest),
        upstream.manifest_url(repository, "v1"),
        format!("/v2/{}/{repository}/tags/list", upstream.name()),
        format!("/v2/{}/{repository}/referrers/{manifest}", upstream.name()),
        format!("/v2/{repository}/manifests/v1?ns={}", upstream.name()),
    ]
}

#[test]
fn a_list_of_repositories_needs_no_client_auth() {
    let upstream = Registry::new();
    let cache = cache(&upstream, "allow: [{repositories: [\"team/*\", pub/**]}]", "");
    let blob = upstream.blob("content");
    for (repository, may) in [
        ("team/app", true),
        ("pub/a/b/c", true),
        ("team/a/b", false),
        ("team", false),
        ("secret", false),
    ] {
        let image = Image::small(&upstream, repository, "v1", fresh_seed());
        upstream.clear_log();
        for path in paths(&upstream, repository, &blob, &image.digest) {
            let got = cache.client().get(&path);
            if may {
                assert!(!matches!(got.status, 401 | 403), "{path}: {got}");
            } else {
                got.expect_error(403, "DENIED");
                assert_eq!(cache.client().head(&path).status, 403, "{path}");
            }
        }
        assert_eq!(
            upstream.requests() > 0,
            may,
            "{repository}: {:#?}",
            upstream.log()
        );
    }
    assert_eq!(cache.client().get("/v2/").status, 200);
    assert_eq!(
        cache.client().get("/_/stats").status,
        404,
        "client authentication is off"
    );
}

/// Each user can read only the allowed repositories, also from memory. A rejection reveals nothing
/// about content.
#[test]
fn cached_content_is_denied_to_users_without_access() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let rules =
        "allow: [{users: [alice], repositories: [a, both]}, {users: [\"b*\"], repositories: [b, both]}]";
    let cache = cache(&upstream, &with_auth(&home.path, rules), "");
    let small = upstream.blob("small content");
    let large = upstream.blob(PseudoRandom::new(fresh_seed(), 200_000));
    for repository in ["a", "b", "both"] {
        Image::small(&upstream, repository, "v1", fresh_seed());
    }
    let paths = |repository: &str| {
        [
            upstream.blob_url(repository, &small),
            upstream.blob_url(repository, &large),
            upstream.manifest_url(repository, "v1"),
        ]
    };
    let never = upstream.manifest_url("a", "never-asked-for");
    for (repository, alice, bob) in [("a", 200, 403), ("b", 403, 200), ("both", 200, 200)] {
        for path in paths(repository) {
            let owner = if alice == 200 { ALICE } else { BOB };
            assert_eq!(get(&cache, &path, Some(owner)).status, 200, "{path}");
            eventually("the response is cached", || {
                get(&cache, &path, Some(owner)).x_cache() == "HIT"
            });
            for _ in 0..3 {
                assert_eq!(get(&cache, &path, Some(ALICE)).status, alice, "{path}");
                assert_eq!(get(&cache, &path, Some(BOB)).status, bob, "{path}");
                get(&cache, &path, None).expect_error(401, "UNAUTHORIZED");
                get(&cache, &path, Some(("alice", "b"))).expect_error(401, "UNAUTHORIZED");
            }
        }
    }
    // Rejections are equal for cached and for unknown content.
    let without_date = |response: Response| {
        let fields = response
            .fields
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
        (
            response.status,
            fields.cloned().collect::<Vec<_>>(),
            response.body.clone(),
        )
    };
    upstream.clear_log();
    let here = get(&cache, &upstream.manifest_url("a", "v1"), Some(BOB));
    here.expect_error(403, "DENIED");
    assert_eq!(without_date(here), without_date(get(&cache, &never, Some(BOB))));
    assert_eq!(upstream.requests(), 0, "{:#?}", upstream.log());
    // Several users may share a connection.
    let path = upstream.blob_url("a", &small);
    let mut connection = cache.client().open();
    for ((user, password), status) in [(ALICE, 200), (BOB, 403), (ALICE, 200)] {
        let shown = basic(user, password);
        connection
            .request("GET", &path, &[("Authorization", &shown)])
            .unwrap();
        assert_eq!(connection.read("GET").unwrap().status, status, "{user}");
    }
    assert_eq!(upstream.count(|seen| seen.field("authorization").is_some()), 0);
}

#[test]
fn anonymous_clients_read_only_repositories_allowed_to_anonymous() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let rules =
        "allow: [{users: [anonymous], repositories: [pub]}, {users: [\"*\"], repositories: [pub, a]}]";
    let cache = cache(&upstream, &with_auth(&home.path, rules), "");
    let blob = upstream.blob("content");
    let (public, private) = (upstream.blob_url("pub", &blob), upstream.blob_url("a", &blob));
    for _ in 0..3 {
        assert_eq!(get(&cache, &public, None).status, 200);
        assert_eq!(get(&cache, &public, Some(ALICE)).status, 200);
        assert_eq!(get(&cache, &private, Some(ALICE)).status, 200);
        get(&cache, &private, None).expect_error(401, "UNAUTHORIZED");
        // Wrong credentials are rejected, unlike missing credentials.
        get(&cache, &public, Some(("alice", "b"))).expect_error(401, "UNAUTHORIZED");
        cache.wait_stored(&blob);
    }
    // Initial requests of clients must return a challenge. Otherwise clients would never send
    // credentials.
    for path in [
        "/v2/",
        "/_/stats",
        "/v2/no/such/thing",
        "/v2/a%zz/manifests/1",
        &format!("/v2/{}/other/tags/list", upstream.name()),
    ] {
        let got = get(&cache, path, None);
        got.expect_error(401, "UNAUTHORIZED");
        assert!(got.field("www-authenticate").is_some(), "{got}");
    }
    let put = cache
        .client()
        .request("PUT", &private, &[("Content-Length", "0")]);
    assert_eq!(put.status, 401);
    assert_eq!(get(&cache, "/_/stats", Some(BOB)).status, 200);
}

/// A rule without users applies to every authenticated client. The rule does not admit anonymous clients.
#[test]
fn a_rule_without_users_does_not_admit_anonymous_clients() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let cache = cache(
        &upstream,
        &with_auth(&home.path, "allow: [{repositories: [a]}]"),
        "",
    );
    let blob = upstream.blob("content");
    for _ in 0..3 {
        assert_eq!(get(&cache, &upstream.blob_url("a", &blob), Some(BOB)).status, 200);
        get(&cache, &upstream.blob_url("a", &blob), None).expect_error(401, "UNAUTHORIZED");
        get(&cache, &upstream.blob_url("b", &blob), Some(BOB)).expect_error(403, "DENIED");
    }
}

#[test]
fn rules_of_a_registry_override_the_global_rules() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let own = ", allow: [{users: [bob]}]";
    for top in ["", "allow: [{users: [alice]}]"] {
        let cache = cache(&upstream, &with_auth(&home.path, top), own);
        let path = upstream.blob_url("a", &upstream.blob("content"));
        assert_eq!(get(&cache, &path, Some(BOB)).status, 200, "{top}");
        get(&cache, &path, Some(ALICE)).expect_error(403, "DENIED");
        // A registry without configuration is rejected by its address, or earlier by a rule.
        let other = get(&cache, "/v2/127.0.0.1:9/a/manifests/v1", Some(BOB));
        other.expect_error(403, "DENIED");
        let by_rule = String::from_utf8_lossy(&other.body).contains("does not allow this client to read");
        assert_eq!(by_rule, !top.is_empty(), "{other}");
    }
}

#[test]
fn reloaded_rules_apply_to_cached_content() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let first = with_auth(&home.path, "allow: [{users: [alice]}]");
    let cache = cache(&upstream, &first, "");
    let path = upstream.blob_url("a", &upstream.blob("content"));
    assert_eq!(get(&cache, &path, Some(ALICE)).status, 200);
    eventually("the response is cached", || {
        get(&cache, &path, Some(ALICE)).x_cache() == "HIT"
    });
    let reload = |rules: &str| {
        let text = yaml(&upstream, &with_auth(&home.path, rules), "");
        let file = cache.home().join("config.yaml");
        std::fs::write(file.with_extension("new"), text).unwrap();
        std::fs::rename(file.with_extension("new"), file).unwrap();
        let before = cache.stderr().matches("configuration reloaded").count();
        let pid = rustix::process::Pid::from_raw(cache.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        eventually("the configuration is reloaded", || {
            cache.stderr().matches("configuration reloaded").count() > before
        });
    };
    // The new first rule changes the index of the existing rule.
    reload("allow: [{users: [bob]}, {users: [alice], repositories: [other]}]");
    get(&cache, &path, Some(ALICE)).expect_error(403, "DENIED");
    for _ in 0..3 {
        assert_eq!(get(&cache, &path, Some(BOB)).status, 200);
        get(&cache, &path, Some(ALICE)).expect_error(403, "DENIED");
    }
    reload("");
    assert_eq!(get(&cache, &path, Some(ALICE)).status, 200);
    get(&cache, &path, None).expect_error(401, "UNAUTHORIZED");
}
