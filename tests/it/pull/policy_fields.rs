//! Every response below `/v2/` forbids scripts and content sniffing in browsers, for every content
//! and origin.

use crate::harness::h2::Peer;
use crate::harness::*;
use crate::tls::Pki;

const POLICY: [(&str, &str); 2] = [
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; sandbox"),
];

#[track_caller]
fn expect_policy(what: &str, fields: &Fields) {
    for (name, value) in POLICY {
        assert_eq!(
            field(fields, name),
            Some(value),
            "{what}: wrong {name} in {fields:?}"
        );
    }
}

type Ask = (&'static str, String, Vec<(&'static str, &'static str)>);

/// Returns one request for each kind of response of a cache in front of `upstream`.
fn asks(upstream: &Registry) -> Vec<Ask> {
    let image = Image::small(upstream, "a", "v1", fresh_seed());
    let (manifest, tag) = (
        upstream.manifest_url("a", &image.digest),
        upstream.manifest_url("a", "v1"),
    );
    let blob = upstream.blob_url("a", &image.blobs[2].0);
    let small = upstream.blob_url("a", &image.blobs[0].0);
    for (name, reply) in [
        ("limited", Reply::too_many_requests("5")),
        ("forbidden", Reply::status(403)),
        ("failing", Reply::status(500)),
        ("away", Reply::status(503)),
        ("late", Reply::status(504)),
        ("page", Reply::new().body("<html>")),
    ] {
        upstream.on(On::path(format!("manifests/{name}")), reply);
    }
    let below = |path: &str| format!("/v2/{}/{path}", upstream.name());
    let mut asks = vec![
        ("GET", "/v2/".to_owned(), vec![]),
        ("GET", below("a/tags/list"), vec![]),
        ("GET", below("a/tags/list?n=1"), vec![]),
        ("GET", below(&format!("a/referrers/{}", image.digest)), vec![]),
        ("GET", "/v2/_catalog".to_owned(), vec![]),
        ("GET", "/v2/no/such/thing".to_owned(), vec![]),
        ("GET", below("a/manifests/..%2f"), vec![]),
        ("GET", below("a/blobs/sha256:1"), vec![]),
        ("GET", below("A/manifests/v1"), vec![]),
        (
            "GET",
            below(&format!("a/blobs/sha256:{}", "0".repeat(64))),
            vec![],
        ),
        ("POST", below("a/blobs/uploads/"), vec![]),
        ("DELETE", manifest.clone(), vec![]),
    ];
    // Cold, from the disk, and from memory.
    for _ in 0..3 {
        for path in [&manifest, &tag, &blob, &small] {
            for method in ["HEAD", "GET"] {
                asks.push((method, path.clone(), vec![]));
            }
        }
        for range in ["bytes=0-9", "bytes=1-2,5-6", "bytes=-1", "bytes=99999999-"] {
            asks.push(("GET", blob.clone(), vec![("range", range)]));
        }
        for path in [&manifest, &blob] {
            asks.push(("GET", path.clone(), vec![("if-none-match", "*")]));
        }
    }
    // Last, because the cache sends the registry no requests for a while after these.
    for name in ["none", "forbidden", "page", "late", "failing", "away", "limited"] {
        asks.push(("GET", upstream.manifest_url("a", name), vec![]));
    }
    asks
}

#[test]
fn every_answer_below_v2_carries_the_policy() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let mut met = std::collections::BTreeSet::new();
    for (method, path, fields) in asks(&upstream) {
        let got = cache.client().request(method, &path, &fields);
        expect_policy(
            &format!("{method} {path} {fields:?}: {}", got.status),
            &got.fields,
        );
        met.insert(got.status);
    }
    for status in [200, 206, 304, 400, 404, 405, 416, 429, 502] {
        assert!(
            met.contains(&status),
            "no response has the status {status}: {met:?}"
        );
    }
}

#[test]
fn every_answer_below_v2_carries_the_policy_over_http2() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let mut peer = Peer::begin(cache.addr());
    for (method, path, fields) in asks(&upstream) {
        let id = peer.request(method, &path, &fields);
        let got = peer.answer(id);
        expect_policy(
            &format!("{method} {path} {fields:?}: {}", got.status),
            &got.fields,
        );
    }
}

#[test]
fn refusals_before_a_request_is_read_carry_the_policy() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("MAX_CONNECTIONS", 2)
        .env("MEMORY_BUDGET", "1MiB")
        .start();
    for head in [
        "GET /v2/ HTTP/1.1\nHost: a\n\n",
        "GET /v2/ HTTP/1.1\r\n\r\n",
        "GET /v2/ HTTP/9.9\r\nHost: a\r\n\r\n",
        "PUT /v2/a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n",
    ] {
        let mut connection = cache.client().open();
        connection.send(head.as_bytes()).unwrap();
        let got = connection.read("GET").unwrap();
        assert!(got.status >= 400, "{head:?}: {got}");
        expect_policy(head, &got.fields);
    }
    let digest = upstream.blob(PseudoRandom::new(fresh_seed(), 10_000));
    let got = cache.client().get(&upstream.blob_url("a", &digest));
    assert_eq!(
        got.status, 503,
        "the response is not a 503 for lack of memory: {got}"
    );
    expect_policy("no memory", &got.fields);
    // Connections that wait for a response are not closed in favor of new ones.
    let gate = Gate::new();
    upstream.on(On::kind(Kind::Manifest), Reply::new().hold_head(&gate));
    let cache = Server::options(&upstream).env("MAX_CONNECTIONS", 2).start();
    let _busy: Vec<_> = (0..2)
        .map(|n| {
            let mut connection = cache.client().open();
            let path = upstream.manifest_url("a", &format!("t{n}"));
            connection.request("GET", &path, &[]).unwrap();
            connection
        })
        .collect();
    gate.wait_arrived(2);
    let got = cache.client().open().read("GET").unwrap();
    assert_eq!(got.status, 503, "{got}");
    expect_policy("a connection above the limit", &got.fields);
    gate.open();
}

#[test]
fn rejections_by_client_authentication_and_by_a_tls_port_carry_the_policy() {
    let config = "auth: {username: alice, password: open sesame}\nregistries: []\n";
    let guarded = Server::bare().config(config).start();
    for path in ["/v2/", "/v2/a/manifests/v1"] {
        let got = guarded.client().get(path);
        assert_eq!(got.status, 401, "{got}");
        expect_policy(path, &got.fields);
    }
    let pki = Pki::new();
    let secure = pki.serve(Server::bare()).start();
    let docker = [("User-Agent", "docker/27.0.0 go/go1.21")];
    for (path, fields, status) in [("/v2/a/tags/list", &[][..], 400), ("/v2/", &docker, 401)] {
        let got = secure.client().get_with(path, fields);
        assert_eq!(got.status, status, "{got}");
        expect_policy(path, &got.fields);
    }
}
