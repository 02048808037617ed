//! Selection of a registry, permitted registries, and chains of caches.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use serde_json::json;

use crate::harness::*;

const OF_ONE: &str = r#"{"schemaVersion":2,"config":{},"layers":[],"annotations":{"of":"one"}}"#;
const OF_TWO: &str = r#"{"schemaVersion":2,"config":{},"layers":[],"annotations":{"of":"two"}}"#;

fn two_registries() -> (Registry, Registry) {
    let (one, two) = (Registry::new(), Registry::new());
    for (registry, content) in [(&one, OF_ONE), (&two, OF_TWO)] {
        let digest = registry.manifest("a/b", Flavor::Oci.manifest(), content);
        registry.tag("a/b", "v1", &digest);
    }
    (one, two)
}

// ---- X-Registry ---------------------------------------------------------------------------------

#[test]
fn a_field_chooses_the_registry_where_it_may() {
    let (one, two) = two_registries();
    let cache = Server::options(&one)
        .registry(two.name(), two.addr())
        .env("DEFAULT_REGISTRY", one.name())
        .env("REGISTRY_HEADER", "true")
        .start();
    let path = "/v2/a/b/manifests/v1";
    let get = |path: &str, registry: &str| cache.client().get_with(path, &[("X-Registry", registry)]);
    // Entries of one registry are never served for the other, in any order of requests.
    for _ in 0..3 {
        get(path, &two.name()).expect(OF_TWO.as_bytes());
        cache.client().get(path).expect(OF_ONE.as_bytes());
        get(path, &one.name()).expect(OF_ONE.as_bytes());
        get(path, "").expect(OF_ONE.as_bytes());
        cache
            .client()
            .get_with(path, &[("x-registry", &two.name())])
            .expect(OF_TWO.as_bytes());
        let head = cache
            .client()
            .request("HEAD", path, &[("X-Registry", &two.name())]);
        assert_eq!(
            head.field("docker-content-digest"),
            Some(content::sha256(OF_TWO.as_bytes()).as_str())
        );
    }
    // Two equal selectors are accepted, and two different ones are rejected, for every pair of
    // selectors.
    let (in_path, asked) = (two.manifest_url("a/b", "v1"), format!("{path}?ns={}", two.name()));
    for path in [&in_path, &asked] {
        get(path, &two.name()).expect(OF_TWO.as_bytes());
        get(path, &one.name()).expect_error(400, "NAME_INVALID");
    }
    let got = cache.client().get_with(
        &format!("{in_path}?ns={}", two.name()),
        &[("X-Registry", &one.name())],
    );
    got.expect_error(400, "NAME_INVALID");
    for bad in [
        "not a host",
        "http://r.io",
        "r.io/a",
        "r.io, q.io",
        "a@r.io",
        "\u{e4}.io",
    ] {
        get(path, bad).expect_error(400, "NAME_INVALID");
    }
    let twice = [("X-Registry", two.name()), ("X-Registry", two.name())];
    let twice: Vec<_> = twice
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    cache
        .client()
        .get_with(path, &twice)
        .expect_error(400, "NAME_INVALID");
}

#[test]
fn registry_field_is_ignored_if_not_enabled() {
    let (one, two) = two_registries();
    let cache = Server::options(&one)
        .registry(two.name(), two.addr())
        .env("DEFAULT_REGISTRY", one.name())
        .start();
    for registry in [two.name(), "not a host".to_owned()] {
        let got = cache
            .client()
            .get_with("/v2/a/b/manifests/v1", &[("X-Registry", &registry)]);
        got.expect(OF_ONE.as_bytes());
    }
    assert_eq!(two.requests(), 0);
}

#[test]
fn a_field_chooses_for_blobs_and_lists_too() {
    let (one, two) = two_registries();
    let cache = Server::options(&one)
        .registry(two.name(), two.addr())
        .env("DEFAULT_REGISTRY", one.name())
        .env("REGISTRY_HEADER", "true")
        .start();
    let digest = two.blob("content of the second registry");
    two.on(
        On::path("/tags/list"),
        Reply::status(200).body(json!({"tags": ["of-two"]}).to_string()),
    );
    let of_two = [("X-Registry", &*two.name())];
    let got = cache
        .client()
        .get_with(&format!("/v2/a/b/blobs/{digest}"), &of_two);
    got.expect(b"content of the second registry");
    let got = cache.client().get_with("/v2/a/b/tags/list", &of_two);
    got.expect(br#"{"name":"a/b","tags":["of-two"]}"#);
    cache
        .client()
        .get("/v2/a/b/tags/list")
        .expect_error(404, "NAME_UNKNOWN");
}

// ---- whitelist_mode -----------------------------------------------------------------------------

#[test]
fn with_a_whitelist_other_registries_do_not_exist() {
    let (one, two) = two_registries();
    let mut cache = Server::options(&one)
        .registry(two.name(), two.addr())
        .env("REGISTRY_HEADER", "true")
        .start();
    let digest = two.blob(OF_TWO);
    cache
        .client()
        .get(&two.manifest_url("a/b", "v1"))
        .expect(OF_TWO.as_bytes());
    cache
        .client()
        .get(&two.blob_url("a/b", &digest))
        .expect(OF_TWO.as_bytes());
    cache.wait_stored(&digest);
    cache.kill9();
    // A second server with the old store, in which only the first registry is configured.
    let listed = format!(
        "whitelist_mode: true\ndefault_registry: {1}\nregistry_header: true\n\
         registries:\n  - name: \"{0}\"\n    url: \"http://{0}\"\n  - name: \"*.lan\"\n",
        one.name(),
        two.name(),
    );
    let strict = Server::bare().config(listed).root(cache.root()).start();
    two.clear_log();
    let client = strict.client();
    client
        .get(&one.manifest_url("a/b", "v1"))
        .expect(OF_ONE.as_bytes());
    let digest_hex = &content::sha256(OF_TWO.as_bytes());
    for rest in [
        "manifests/v1".to_owned(),
        format!("manifests/{digest_hex}"),
        format!("blobs/{digest}"),
        "tags/list".to_owned(),
        "tags/list?n=0".to_owned(),
        format!("referrers/{digest}"),
    ] {
        let name = two.name();
        let joint = if rest.contains('?') { '&' } else { '?' };
        let unknown = if rest.starts_with("referrers") {
            "MANIFEST_UNKNOWN"
        } else {
            "NAME_UNKNOWN"
        };
        let denied = client.get(&format!("/v2/{name}/a/b/{rest}"));
        denied.expect_error(403, "DENIED");
        let text = String::from_utf8_lossy(&denied.body);
        assert!(
            text.contains(&*name),
            "the response does not name the registry: {denied}"
        );
        client.get(&format!("/v2/a/b/{rest}")).expect_error(403, "DENIED");
        client
            .get(&format!("/v2/a/b/{rest}{joint}ns={name}"))
            .expect_error(404, unknown);
        client
            .get_with(&format!("/v2/a/b/{rest}"), &[("X-Registry", &name)])
            .expect_error(404, unknown);
        client
            .get(&format!("/v2/{name}/a/b/{rest}{joint}ns={name}"))
            .expect_error(404, unknown);
    }
    assert_eq!(two.requests(), 0);
    // All names below a suffix are permitted, even if the host does not exist.
    let got = client.get("/v2/a/manifests/v1?ns=r.lan");
    assert!(got.status >= 500, "{got}");
    client
        .get("/v2/a/manifests/v1?ns=lan.example")
        .expect_error(404, "NAME_UNKNOWN");
    assert_eq!(client.get("/v2/").status, 200);
}

/// The entries in the memory of a core date from before the removal of the registry.
#[test]
fn a_registry_that_is_no_longer_named_is_gone_at_once() {
    let (one, two) = two_registries();
    let listed = |names: &[String]| {
        let entries: String = names
            .iter()
            .map(|name| format!("  - name: \"{name}\"\n    url: \"http://{name}\"\n"))
            .collect();
        format!("whitelist_mode: true\nregistries:\n{entries}")
    };
    let cache = Server::bare().config(listed(&[one.name(), two.name()])).start();
    let digest = two.blob(PseudoRandom::new(fresh_seed(), 200_000));
    let paths = [two.manifest_url("a/b", "v1"), two.blob_url("a/b", &digest)];
    for path in &paths {
        eventually("the response is cached", || {
            let got = cache.client().get(path);
            assert_eq!(got.status, 200, "{got}");
            got.x_cache() == "HIT"
        });
    }
    std::fs::write(cache.home().join("config.yaml"), listed(&[one.name()])).unwrap();
    let pid = rustix::process::Pid::from_raw(cache.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    cache.wait_stderr("configuration reloaded");
    for path in &paths {
        cache.client().get(path).expect_error(403, "DENIED");
    }
    cache
        .client()
        .get(&one.manifest_url("a/b", "v1"))
        .expect(OF_ONE.as_bytes());
}

// ---- caches behind caches -----------------------------------------------------------------------

/// Starts a cache in front of `upstream`, and a second cache in front of the first one.
fn chain(upstream: &Registry) -> (Server, Server) {
    let back = Server::options(upstream)
        .env("DEFAULT_REGISTRY", upstream.name())
        .start();
    let front = Server::bare().registry(upstream.name(), back.addr()).start();
    (back, front)
}

#[test]
fn pulls_through_two_caches_in_a_chain_succeed() {
    let upstream = Registry::new();
    let (back, front) = chain(&upstream);
    let image = Image::small(&upstream, "a/b", "v1", fresh_seed());
    let client = front.client();
    for (digest, content) in image.all_blobs() {
        let head = client.head(&upstream.blob_url("a/b", digest));
        assert_eq!((head.status, head.content_length()), (200, Some(content.size())));
        client
            .get(&upstream.blob_url("a/b", digest))
            .expect(&content.bytes());
        back.wait_stored(digest);
        front.wait_stored(digest);
        assert_eq!(
            (upstream.gets(digest), upstream.heads(digest)),
            (1, 0),
            "{:#?}",
            upstream.log()
        );
    }
    client
        .get(&upstream.manifest_url("a/b", "v1"))
        .expect(&image.manifest);
    client
        .get(&upstream.manifest_url("a/b", &image.digest))
        .expect(&image.manifest);
    client
        .get(&upstream.manifest_url("a/b", "v2"))
        .expect_error(404, "MANIFEST_UNKNOWN");

    let tags = json!({"tags": ["v1", "v2"]}).to_string();
    upstream.on(
        On::path("/tags/list?n=2"),
        Reply::status(200)
            .body(tags)
            .set("Link", "</v2/a/b/tags/list?last=v2&n=2>; rel=\"next\""),
    );
    let got = client.get(&format!("/v2/{}/a/b/tags/list?n=2", upstream.name()));
    assert_eq!(got.status, 200, "{got}");
    let next = format!(
        "</v2/{}/a/b/tags/list?last=v2&n=2>; rel=\"next\"",
        upstream.name()
    );
    assert_eq!(got.field("link"), Some(next.as_str()));
    let index = json!({"schemaVersion": 2, "manifests": [{"artifactType": "a/b"}, {"artifactType": "c/d"}]});
    upstream.on(
        On::path("/referrers/"),
        Reply::status(200)
            .body(index.to_string())
            .set("Content-Type", "application/vnd.oci.image.index.v1+json"),
    );
    let referrers = format!(
        "/v2/{}/a/b/referrers/{}?artifactType=c%2Fd",
        upstream.name(),
        image.digest
    );
    let got = client.get(&referrers);
    assert!(String::from_utf8_lossy(&got.body).contains("c/d"), "{got}");
    assert!(!String::from_utf8_lossy(&got.body).contains("a/b"), "{got}");

    for seen in upstream.log() {
        let via = seen.field("via").unwrap_or_default();
        assert_eq!(
            via.split(", ").count(),
            2,
            "a cache is missing in Via: {via}; {seen:#?}"
        );
    }
}

/// Forwards connections to an address that is set later.
struct Relay {
    addr: SocketAddr,
    to: Arc<OnceLock<SocketAddr>>,
    connections: Arc<AtomicUsize>,
}

impl Relay {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay {
            addr: listener.local_addr().unwrap(),
            to: Arc::default(),
            connections: Arc::default(),
        };
        let (to, connections) = (relay.to.clone(), relay.connections.clone());
        // The thread ends with the process and receives no connections after the test.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), Some(to)) = (stream, to.get()) else {
                    continue;
                };
                connections.fetch_add(1, Ordering::Relaxed);
                let Ok(onward) = TcpStream::connect(to) else {
                    continue;
                };
                for (from, into) in [(stream.try_clone(), onward.try_clone()), (Ok(onward), Ok(stream))] {
                    std::thread::spawn(move || {
                        let (Ok(mut from), Ok(mut into)) = (from, into) else {
                            return;
                        };
                        let mut piece = [0; 8192];
                        while let Ok(n @ 1..) = from.read(&mut piece) {
                            if into.write_all(&piece[..n]).is_err() {
                                break;
                            }
                        }
                        let _ = into.shutdown(std::net::Shutdown::Write);
                    });
                }
            }
        });
        relay
    }
}

#[test]
fn request_loop_of_caches_ends_with_an_error() {
    let digest = content::sha256(b"absent");
    for length in 1..=3 {
        let relays: Vec<_> = (0..length).map(|_| Relay::new()).collect();
        let caches: Vec<_> = relays
            .iter()
            .map(|relay| {
                Server::bare()
                    .registry("circle.test", relay.addr)
                    .env("DEFAULT_REGISTRY", "circle.test")
                    .start()
            })
            .collect();
        for (at, relay) in relays.iter().enumerate() {
            relay.to.set(caches[(at + 1) % length].addr()).unwrap();
        }
        for path in [
            format!("/v2/circle.test/a/blobs/{digest}"),
            "/v2/circle.test/a/manifests/v1".to_owned(),
            format!("/v2/circle.test/a/manifests/{digest}"),
            "/v2/circle.test/a/tags/list".to_owned(),
            format!("/v2/circle.test/a/referrers/{digest}"),
        ] {
            let before = relays[0].connections.load(Ordering::Relaxed);
            let got = caches[0].client().get(&path);
            assert_eq!(got.status, 502, "{length}: {path}: {got}");
            // In a loop of length one, the first response is the loop error.
            if length == 1 {
                assert!(String::from_utf8_lossy(&got.body).contains("508"), "{got}");
            }
            let asked = relays[0].connections.load(Ordering::Relaxed) - before;
            assert!(asked <= 2, "{length}: {path} caused {asked} requests in the loop");
        }
    }
}

#[test]
fn request_with_the_own_name_in_via_is_rejected() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let ask = |digest: &str, via: &[&str]| {
        let fields: Vec<_> = via.iter().map(|via| ("Via", *via)).collect();
        cache.client().get_with(&upstream.blob_url("a", digest), &fields)
    };
    let first = upstream.blob("first");
    assert_eq!(ask(&first, &[]).status, 200);
    let ours = upstream.log()[0].field("via").unwrap().to_owned();
    assert!(ours.starts_with("1.1 oci-pull-through-"), "{ours}");

    let second = upstream.blob("second");
    let looped = ask(&second, &[&format!("1.1 other, {ours} (a cache)")]);
    looped.expect_error(508, "UNKNOWN");
    assert!(String::from_utf8_lossy(&looped.body).contains("loop"), "{looped}");
    let many = (0..11).map(|n| format!("1.1 c{n}")).collect::<Vec<_>>();
    assert_eq!(ask(&second, &[&many.join(", ")]).status, 508);
    assert_eq!(
        ask(&second, &[&many[..6].join(", "), &many[6..].join(", ")]).status,
        508
    );
    assert_eq!(upstream.gets(&second), 0);

    let some = many[..10].join(", ");
    assert_eq!(ask(&second, &[&some]).status, 200);
    let log = upstream.log();
    assert_eq!(
        log.last().unwrap().field("via"),
        Some(format!("{some}, {ours}").as_str())
    );
    // Another process has another name.
    let other = Server::start(&upstream);
    let third = upstream.blob("third");
    assert_eq!(other.client().get(&upstream.blob_url("a", &third)).status, 200);
    assert_ne!(upstream.log().last().unwrap().field("via"), Some(ours.as_str()));
}

// ---- internal hosts -----------------------------------------------------------------------------

/// Returns spellings of internal hosts, and names that a careless parser mistakes for another host.
/// `{p}` is the port of a loopback listener that must never receive a connection.
fn inside() -> Vec<String> {
    let mut spellings: Vec<String> = Vec::new();
    let addresses = [
        // Loopback addresses, in every base and length.
        "127.0.0.1",
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0x7f.1",
        "0177.0.0.1",
        "0177.1",
        "017700000001",
        "127.0.0.01",
        "127.000.000.001",
        "127.0.0.1.",
        "127.127.127.127",
        "0.0.0.0",
        "0",
        "0x0",
        "00.0.0.0",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "LocalHost",
        "ip6-localhost",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[::127.0.0.1]",
        "[::1%25lo]",
        "[::1%lo]",
        "::1",
        // Metadata services.
        "169.254.169.254",
        "0xa9fea9fe",
        "2852039166",
        "0251.0376.0251.0376",
        "169.254.43518",
        "169.16689662",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[fd00:ec2::254]",
        "[fe80::a9fe:a9fe]",
        "[fe80::1%25eth0]",
        // Reserved and private networks.
        "10.0.0.1",
        "10.1",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "192.168.1",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "[fc00::1]",
        "[fd12:3456::1]",
        "[ff02::1]",
        // Non-ASCII digits and dots, and percent-encoded addresses.
        "127\u{3002}0\u{3002}0\u{3002}1",
        "\u{ff11}\u{ff12}\u{ff17}.0.0.1",
        "\u{2460}\u{2461}\u{2466}.0.0.1",
        "loc\u{e0}lhost",
        "127%2e0%2e0%2e1",
        "%31%32%37.0.0.1",
        "127.0.0.1%00",
        "127.0.0.1%0d%0a",
    ];
    for address in addresses {
        for port in ["", ":{p}", ":443", ":80", ":22", ":6379"] {
            spellings.push(format!("{address}{port}"));
        }
    }
    for odd in [
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:",
        "127.0.0.1:{p}:443",
        "127.0.0.1:+{p}",
        "127.0.0.1:0{p}",
        "127.0.0.1:{p}%2f",
        "good.example@127.0.0.1:{p}",
        "good.example:443@127.0.0.1:{p}",
        "user:pw@127.0.0.1:{p}",
        "127.0.0.1:{p}%40good.example",
        "127.0.0.1:{p}%23good.example",
        "127.0.0.1:{p}%3fgood.example",
        "127.0.0.1:{p}%5c@good.example",
        "good.example%5c@127.0.0.1:{p}",
        "http:127.0.0.1:{p}",
        "http%3a%2f%2f127.0.0.1:{p}",
        "good.example,127.0.0.1:{p}",
        ".127.0.0.1:{p}",
        "127..0.0.1:{p}",
        "-127.0.0.1:{p}",
        "[127.0.0.1]:{p}",
        "[::1:{p}",
        "::1]:{p}",
        "[]:{p}",
        ":{p}",
        ".",
        "..",
        "*.127.0.0.1:{p}",
        "127.0.0.1:{p}%20",
        "%20127.0.0.1:{p}",
        "127.0.0.1:{p};x",
        "127.0.0.1:{p}|x",
    ] {
        spellings.push(odd.to_owned());
    }
    spellings
}

#[test]
fn no_spelling_of_an_internal_host_is_connected_to() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("DEFAULT_REGISTRY", upstream.name())
        .env("REGISTRY_HEADER", "true")
        .env("ACCESS_LOG", "off")
        .start();
    let listeners: Vec<_> = ["127.0.0.1:0", "[::1]:0"]
        .iter()
        .filter_map(|addr| TcpListener::bind(addr).ok())
        .collect();
    for listener in &listeners {
        listener.set_nonblocking(true).unwrap();
    }
    let port = listeners[0].local_addr().unwrap().port().to_string();
    let spellings = inside();
    assert!(
        spellings.len() >= 200,
        "the list has only {} cases",
        spellings.len()
    );
    let digest = content::sha256(b"inside");
    for spelling in &spellings {
        let host = spelling.replace("{p}", &port);
        let rest = format!("manifests/{digest}");
        for (path, field) in [
            (format!("/v2/{host}/a/{rest}"), None),
            (format!("/v2/a/{rest}?ns={host}"), None),
            (format!("/v2/a/{rest}"), Some(&host)),
            (format!("/v2/{host}/a/tags/list"), None),
        ] {
            let fields: Vec<_> = field.iter().map(|host| ("X-Registry", host.as_str())).collect();
            let got = cache.client().get_with(&path, &fields);
            // The default registry returns 404 if the name does not look like a host.
            assert!(matches!(got.status, 400 | 403 | 404), "{path} {field:?}: {got}");
            let stayed = listeners.iter().all(|listener| listener.accept().is_err());
            assert!(
                stayed,
                "{path} {field:?}: the cache followed a redirect to a private address"
            );
        }
    }
    let odd = upstream.count(|seen| !seen.target.starts_with("/v2/"));
    assert_eq!(odd, 0, "{:#?}", upstream.log());
}
