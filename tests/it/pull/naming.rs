//! Permitted paths, and hostile paths, which only cause errors.

use std::collections::BTreeSet;

use crate::harness::client::request_bytes;
use crate::harness::content::sha256;
use crate::harness::*;

#[test]
fn a_port_behind_an_underscore_and_a_slash_at_the_end_are_other_spellings_of_the_same() {
    let upstream = Registry::new();
    let image = Image::small(&upstream, "a/b", "v1", fresh_seed());
    let cache = Server::start(&upstream);
    let (client, name) = (cache.client(), upstream.name());
    let spelled = name.replace(':', "_");
    for path in [
        format!("/v2/{name}/a/b/manifests/v1"),
        format!("/v2/{spelled}/a/b/manifests/v1"),
        format!("/v2/{spelled}/a/b/manifests/v1/"),
        format!("/v2/a/b/manifests/v1/?ns={spelled}"),
        format!("/v2/{spelled}/a/b/manifests/{}/", image.digest),
    ] {
        client.get(&path).expect(&image.manifest);
    }
    assert_eq!(upstream.gets("/manifests/"), 1, "{:#?}", upstream.log());
    for (digest, content) in image.all_blobs() {
        for _ in 0..2 {
            let got = client.get(&format!("/v2/{spelled}/a/b/blobs/{digest}/"));
            got.expect(&content.bytes());
        }
        assert_eq!(upstream.gets(digest), 1);
    }
    assert_eq!(
        client.get(&format!("/v2/{spelled}/a/b/manifests/v1//")).status,
        404
    );
}

#[test]
fn a_name_without_a_registry_is_refused_where_there_is_no_default() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("DEFAULT_REGISTRY", "none").start();
    let got = cache.client().get("/v2/a/b/manifests/v1");
    got.expect_error(400, "NAME_INVALID");
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn bad_names_get_the_code_that_says_what_is_bad() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("DEFAULT_REGISTRY", upstream.name())
        .start();
    let client = cache.client();
    let name = upstream.name();
    let hex = "a".repeat(64);
    for repository in [
        "UPPER",
        "a//b",
        "-a",
        "a-",
        "a..b",
        "a/_tags",
        "a___b",
        "a%20b",
        "a%2Fb",
        "a/%2e%2e/b",
        "..",
        "a/..",
    ] {
        let got = client.get(&format!("/v2/{name}/{repository}/blobs/sha256:{hex}"));
        got.expect_error(400, "NAME_INVALID");
    }
    for digest in [
        "sha256:".into(),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("sha256:{}", hex.to_uppercase()),
        format!("SHA256:{hex}"),
        format!("sha512:{hex}"),
        format!(":{hex}"),
        "sha256:..%2f..%2fetc%2fpasswd".into(),
        format!("sha256:{hex}%00"),
        hex.clone(),
        "latest".into(),
    ] {
        client
            .get(&format!("/v2/{name}/a/b/blobs/{digest}"))
            .expect_error(400, "DIGEST_INVALID");
        if digest.contains(':') {
            client
                .get(&format!("/v2/{name}/a/b/manifests/{digest}"))
                .expect_error(400, "DIGEST_INVALID");
        }
    }
    let long = "x".repeat(129);
    for tag in [
        ".a",
        "-a",
        "a%20b",
        "a%2fb",
        "%2e%2e",
        "a%00",
        "a@b",
        long.as_str(),
    ] {
        let got = client.get(&format!("/v2/{name}/a/b/manifests/{tag}"));
        assert!(matches!(got.status, 400 | 404), "{tag}: {got}");
        let json: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert!(json["errors"][0]["code"].is_string(), "{got}");
    }
    assert_eq!(
        upstream.requests(),
        0,
        "an unknown path causes an upstream request: {:#?}",
        upstream.log()
    );
}

#[test]
fn unknown_paths_are_not_found() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("DEFAULT_REGISTRY", upstream.name())
        .start();
    for path in [
        "/v1/",
        "/v2/a",
        "/v2/a/b",
        "/v2/blobs",
        "/v3/a/manifests/x",
        "/nothing",
        "/v2/a/uploads/x",
    ] {
        let got = cache.client().get(path);
        assert!(matches!(got.status, 400 | 404), "{path}: {got}");
    }
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn two_registries_that_disagree_are_refused() {
    let upstream = Registry::new();
    let other = Registry::new();
    let cache = Server::options(&upstream)
        .registry(other.name(), other.addr())
        .start();
    let digest = upstream.blob("x");
    other.blob("x");
    let got = cache.client().get(&format!(
        "/v2/{}/a/blobs/{digest}?ns={}",
        upstream.name(),
        other.name()
    ));
    assert_eq!(got.status, 400, "{got}");
    let got = cache.client().get(&format!(
        "/v2/a/blobs/{digest}?ns={}&ns={}",
        upstream.name(),
        other.name()
    ));
    assert_eq!(got.status, 400, "{got}");
    let got = cache
        .client()
        .get(&format!("/v2/a/blobs/{digest}?ns=not%20a%20host"));
    assert_eq!(got.status, 400, "{got}");
    assert_eq!((upstream.requests(), other.requests()), (0, 0));
}

#[test]
fn write_requests_are_rejected_without_an_upstream_request() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("x");
    let name = upstream.name();
    for (method, path) in [
        ("POST", format!("/v2/{name}/a/blobs/uploads/")),
        (
            "POST",
            format!("/v2/{name}/a/blobs/uploads/?mount={digest}&from=b"),
        ),
        ("PUT", upstream.manifest_url("a", "v1")),
        ("PATCH", format!("/v2/{name}/a/blobs/uploads/123")),
        ("DELETE", upstream.blob_url("a", &digest)),
        ("DELETE", upstream.manifest_url("a", "v1")),
        ("POST", "/v2/".into()),
    ] {
        let got = cache.client().request(method, &path, &[("Content-Length", "0")]);
        got.expect_error(405, "UNSUPPORTED");
    }
    assert_eq!(upstream.requests(), 0);
}

/// The registry exists and would respond, but is not in the configuration.
#[test]
fn loopback_that_is_not_configured_is_never_connected_to() {
    let upstream = Registry::new();
    let inside = Registry::new();
    let cache = Server::start(&upstream);
    let port = inside.addr().port();
    let digest = inside.blob("the metadata service");
    for host in [
        format!("127.0.0.1:{port}"),
        format!("localhost:{port}"),
        format!("127.1:{port}"),
        format!("2130706433:{port}"),
        format!("0x7f.0.0.1:{port}"),
        format!("0.0.0.0:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
    ] {
        for path in [
            format!("/v2/{host}/a/blobs/{digest}"),
            format!("/v2/a/blobs/{digest}?ns={host}"),
        ] {
            let got = cache.client().get(&path);
            assert!(got.status >= 400, "{path}: {got}");
            assert_ne!(got.status, 500, "{path}: {got}");
        }
    }
    // A configured registry may redirect to loopback and private addresses. Link-local addresses
    // are forbidden, both for redirects and for token services.
    let moved = upstream.blob("moved");
    upstream.on(
        On::path(&moved),
        Reply::redirect(307, "http://169.254.169.254/latest/meta-data"),
    );
    assert_eq!(cache.client().get(&upstream.blob_url("a", &moved)).status, 502);
    upstream.clear_rules();
    let realm = Some("http://169.254.169.254/token".to_owned());
    upstream.require_tokens(Auth {
        realm,
        ..Auth::default()
    });
    let guarded = upstream.blob("guarded");
    assert!(cache.client().get(&upstream.blob_url("a", &guarded)).status >= 400);
    assert_eq!(inside.requests(), 0, "{:#?}", inside.log());
}

/// Paths from pieces that have broken other caches, against an upstream that answers every request
/// with 200. All files must be created inside the store and under a valid name.
#[test]
fn twenty_thousand_hostile_paths_create_nothing_outside_the_store() {
    const PATHS: usize = 20_000;
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .env("DEFAULT_REGISTRY", upstream.name())
        .start();
    // The parent directory contains a file as target for an escape.
    let good = sha256(b"x");
    upstream.on(On::any(), Reply::status(200).body("x"));
    let listing = |dir: &std::path::Path| -> BTreeSet<_> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    };
    let before = listing(cache.home());

    let mut random = Random::for_test("hostile paths");
    let name = upstream.name();
    let pieces = [
        "..",
        ".",
        "",
        "%2e%2e",
        "%2E%2E%2F",
        "..%2f",
        "%2f",
        "%5c..%5c",
        "%00",
        "%0a",
        "%0d%0aX:%20y",
        "a",
        "b",
        "_tags",
        "blobs",
        "manifests",
        "tags",
        "list",
        "v2",
        ".tmp",
        ".lock",
        "..%c0%af",
        "%ff",
        "%u002e",
        "%",
        "%2",
        "a%2fb",
        "sha256",
        "sha256:",
        ":",
        "~",
        "*",
        ";",
        "a;b",
        "\\",
        "etc",
        "passwd",
        "con",
        "-",
        "_",
        "A",
        "v1",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    ];
    let references = [
        good.clone(),
        good.replace(':', "-"),
        format!("{good}.meta.json"),
        format!("{}.sig", good.replace(':', "-")),
        "sha256:../../../../../x".into(),
        "sha256:..%2f..%2f..%2fx".into(),
        "v1.meta.json".into(),
        "..".into(),
        "%2e%2e".into(),
        "../../config.yaml".into(),
        "..%2f..%2fconfig.yaml".into(),
        "sha256:".into(),
        "v1".into(),
        ".lock".into(),
    ];
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    let mut connection = cache.client().open();
    for number in 0..PATHS {
        let mut path = String::from("/v2");
        // A first component with a dot would cause a DNS query, and tests must not use a name
        // server.
        path.push_str(&format!("/{}", if random.chance(8) { "a" } else { &name }));
        for _ in 0..random.below(5) {
            path.push('/');
            path.push_str(random.pick::<&str>(&pieces));
        }
        if !random.chance(8) {
            path.push_str(random.pick::<&str>(&[
                "/blobs/",
                "/manifests/",
                "/manifests/",
                "/blobs//",
                "/tags/",
            ]));
            path.push_str(random.pick::<String>(&references));
        }
        match random.below(12) {
            0 => path.push_str("?ns=.."),
            1 => path.push_str("?ns=%2e%2e%2f"),
            2 => path.push_str(&format!("?ns={name}")),
            3 => path.push_str("?x=%00&ns=/etc"),
            4 => path.push('/'),
            _ => {}
        }
        let bytes = request_bytes("GET", &path, &[]);
        // The server may close the connection after an error, so the test sends the request again
        // once on a new connection.
        let answer = match connection
            .send(&bytes)
            .map_err(client::Why::from)
            .and_then(|()| connection.read("GET").map_err(|broken| broken.why))
        {
            Ok(answer) => Ok(answer),
            Err(_) => {
                connection = cache.client().open();
                connection.send(&bytes).unwrap();
                connection.read("GET")
            }
        };
        match answer {
            Ok(answer) => {
                assert!(
                    answer.status < 500 || matches!(answer.status, 502 | 504),
                    "{number}: {path}: {answer}"
                );
                // The error contains the path and must be valid JSON.
                if answer
                    .field("content-type")
                    .is_some_and(|kind| kind.starts_with("application/json"))
                {
                    let json = serde_json::from_slice::<serde_json::Value>(&answer.body);
                    assert!(json.is_ok() || answer.status == 200, "{number}: {path}: {answer}");
                }
                *statuses.entry(answer.status).or_default() += 1;
            }
            Err(broken) => panic!("{number}: {path}: {broken:?}"),
        }
    }
    eprintln!("{statuses:?}");
    assert!(cache.is_running());
    assert_eq!(listing(cache.home()), before, "the parent directory is unchanged");
    cache.client().get("/v2/").expect(b"{}");
    cache.settled_store().expect_clean();
}
