//! Header fields that the cache forwards from upstream to client, and from client to upstream.

use serde_json::json;

use crate::harness::content::sha256;
use crate::harness::*;

const MIB: usize = 1024 * 1024;

/// Returns a manifest with odd spacing, key order, duplicates and Unicode.
fn odd_manifest(random: &mut Random) -> Vec<u8> {
    let blank = |random: &mut Random| {
        (0..random.below(4))
            .map(|_| *random.pick(&[" ", "\n", "\t", "\r\n", ""]))
            .collect::<String>()
    };
    let mut text = String::from(*random.pick(&["", " ", "\n\n"]));
    text.push('{');
    for n in 0..1 + random.below(12) {
        if n > 0 {
            text.push(',');
        }
        text += &blank(random);
        text += random.pick::<&str>(&[
            r#""schemaVersion":2"#,
            r#""schemaVersion" : 2.0e0"#,
            r#""mediaType":"application/vnd.oci.image.manifest.v1+json""#,
            r#""mediaType":"application/vnd.oci.image.index.v1+json""#,
            r#""config":{"digest":"sha256:0","size":-1}"#,
            r#""layers":[]"#,
            r#""layers":null,"manifests":[]"#,
            r#""annotations":{"ä":"\u00e4\ud83d\ude00","":""}"#,
            r#""x":[[[[[[[[1]]]]]]]]"#,
            r#""subject":{}"#,
            r#""n":123456789012345678901234567890"#,
        ]);
        text += &blank(random);
    }
    // For duplicate names, the last value counts.
    text += r#","config":{},"layers" : [ ],"schemaVersion":2}"#;
    text += &blank(random);
    if random.chance(30) {
        text += &" ".repeat(4 * MIB - text.len());
    }
    text.into_bytes()
}

#[test]
fn manifests_are_verbatim() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let mut random = Random::for_test("odd manifests");
    for number in 0..200 {
        let manifest = odd_manifest(&mut random);
        let digest = upstream.manifest("a", Flavor::Oci.manifest(), manifest.clone());
        assert_eq!(digest, sha256(&manifest));
        let tag = format!("t{number}");
        upstream.tag("a", &tag, &digest);
        let mut references = [tag.as_str(), digest.as_str()];
        if random.chance(2) {
            references.reverse();
        }
        for _ in 0..2 {
            for reference in references {
                let got = cache.client().get(&upstream.manifest_url("a", reference));
                got.expect(&manifest);
                assert_eq!(got.field("docker-content-digest"), Some(digest.as_str()));
            }
        }
    }
    cache.settled_store().expect_sound();
}

#[test]
fn the_manifest_s_type_is_the_upstream_s() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for kind in [
        Flavor::Oci.manifest(),
        Flavor::Oci.index(),
        Flavor::Docker.manifest(),
        Flavor::Docker.index(),
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        "application/vnd.oci.artifact.manifest.v1+json",
    ] {
        let version = if kind.contains(".v1+prettyjws") { 1 } else { 2 };
        let body = json!({
            "schemaVersion": version, "mediaType": kind, "fsLayers": [], "config": {}, "layers": [], "manifests": [],
        });
        let digest = upstream.manifest("a", kind, body.to_string());
        upstream.tag("a", "v1", &digest);
        for _ in 0..2 {
            let got = cache.client().get(&upstream.manifest_url("a", &digest));
            assert_eq!((got.status, got.field("content-type")), (200, Some(kind)));
        }
    }
}

/// Fields that a registry or a proxy in front of the registry may send with a blob. All
/// repositories share the blob.
const HOSTILE: [(&str, &str); 40] = [
    ("Set-Cookie", "canary=1"),
    ("Set-Cookie2", "canary=1"),
    ("Content-Disposition", "attachment; filename=canary"),
    ("Content-Language", "canary"),
    ("Content-Location", "/canary"),
    ("Location", "http://canary.example/"),
    ("Refresh", "0; url=http://canary.example/"),
    ("Link", "<http://canary.example/>; rel=next"),
    ("Alt-Svc", "h3=\"canary.example:443\""),
    ("Strict-Transport-Security", "max-age=31536000"),
    ("Public-Key-Pins", "pin-sha256=\"canary\""),
    ("Clear-Site-Data", "\"*\""),
    ("Content-Security-Policy", "canary"),
    ("Access-Control-Allow-Origin", "http://canary.example"),
    ("Access-Control-Allow-Credentials", "true"),
    ("WWW-Authenticate", "Basic realm=\"canary\""),
    ("Proxy-Authenticate", "Basic realm=\"canary\""),
    ("Authentication-Info", "canary"),
    ("Server", "canary"),
    ("Via", "1.1 canary"),
    ("X-Powered-By", "canary"),
    ("X-Cache", "canary"),
    ("X-Cache-Status", "canary"),
    ("Cache-Status", "canary; hit"),
    ("Age", "424242"),
    ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
    ("Pragma", "no-cache, canary"),
    ("Cache-Control", "no-store, canary"),
    ("Vary", "canary"),
    ("Warning", "199 - \"canary\""),
    ("Docker-Ratelimit-Source", "192.0.2.42"),
    ("Ratelimit-Remaining", "42;w=21600"),
    ("Retry-After", "424242"),
    ("Trailer", "canary"),
    ("Upgrade", "canary"),
    ("Keep-Alive", "timeout=424242"),
    ("Proxy-Connection", "canary"),
    ("Content-MD5", "Q2FuYXJ5"),
    ("SourceMap", "/canary"),
    ("X-Custom", "canary"),
];

#[test]
fn an_upstream_s_headers_are_not_replayed_to_others() {
    let upstream = Registry::new();
    let other = Registry::new();
    let cache = Server::options(&upstream)
        .registry(other.name(), other.addr())
        .start();
    for size in [1_000, 2 * MIB as u64] {
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = upstream.blob(content.clone());
        other.blob(content.clone());
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        upstream.clear_rules();
        let mut reply = Reply::new();
        for (name, value) in HOSTILE {
            reply = reply.add(name, value);
        }
        upstream.on(On::any(), reply);
        let paths = [
            upstream.blob_url("a", &digest),
            upstream.blob_url("a", &digest),
            other.blob_url("b", &digest),
            upstream.manifest_url("a", "v1"),
            upstream.manifest_url("a", "v1"),
            upstream.manifest_url("a", &image.digest),
        ];
        for path in paths {
            let got = cache.client().get(&path);
            assert_eq!(got.status, 200, "{got}");
            for (name, value) in &got.fields {
                let value = String::from_utf8_lossy(value);
                let hostile = HOSTILE
                    .iter()
                    .any(|(n, v)| n.eq_ignore_ascii_case(name) && *v == value);
                assert!(!hostile && !value.contains("canary"), "{path}: {name}: {value}");
            }
            cache.wait_stored(&digest);
        }
        // The sidecar contains the fields for the operator.
        let sidecar = disk::sidecar_of(&disk::blob_path(cache.root(), &digest));
        let text = std::fs::read_to_string(sidecar).unwrap();
        assert!(
            text.contains("X-Custom") && !text.contains("Keep-Alive"),
            "a request has a hop-by-hop field: {text}"
        );
    }
}

/// The test client rejects every control byte and every byte above ASCII in a head, so a successful
/// response is a sufficient check.
#[test]
fn bytes_that_split_heads_never_reach_a_client() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let evil: [&[u8]; 12] = [
        b"a\rX-Evil: 1",
        b"a\nX-Evil: 1",
        b"a\r\n X-Evil: 1",
        b"a\r\n\tX-Evil: 1",
        b"a\0b",
        b"a\x0bb",
        b"a\x7fb",
        b"\xff\xfe",
        "ä".as_bytes(),
        b"a\x1b[31mb",
        b"a\r\n\r\nHTTP/1.1 200 OK",
        b"a\r\nX-Evil: 1",
    ];
    for value in evil {
        for name in [
            "Content-Type",
            "ETag",
            "Last-Modified",
            "OCI-Subject",
            "Docker-Distribution-Api-Version",
            "X-Some",
        ] {
            upstream.clear_rules();
            upstream.on(On::any(), Reply::new().set(name, value));
            let content = PseudoRandom::new(fresh_seed(), 500);
            let digest = upstream.blob(content.clone());
            let image = Image::small(&upstream, "a", "v1", fresh_seed());
            for path in [
                upstream.blob_url("a", &digest),
                upstream.blob_url("a", &digest),
                upstream.manifest_url("a", &image.digest),
                upstream.manifest_url("a", &image.digest),
            ] {
                let got = cache.client().get(&path);
                // An error for such an upstream is also correct.
                assert!(
                    matches!(got.status, 200 | 502),
                    "{name}: {}: {got}",
                    value.escape_ascii()
                );
                assert_eq!(got.field("x-evil"), None, "{got}");
            }
        }
    }
    assert!(
        !cache.stderr().contains('\u{1b}'),
        "the log contains an escape sequence"
    );
}

#[test]
fn framing_fields_of_the_upstream_are_not_forwarded() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("hello");
    let fields = [
        ("Content-Type", "text/html"),
        ("ETag", "\"mine\""),
        ("Docker-Content-Digest", "sha256:0"),
        ("Accept-Ranges", "none"),
        ("Content-Range", "bytes 0-4/5"),
        ("Connection", "close"),
    ];
    let mut reply = Reply::new();
    for (name, value) in fields {
        reply = reply.set(name, value);
    }
    upstream.on(On::any(), reply);
    for _ in 0..2 {
        let mut connection = cache.client().open();
        connection
            .request("GET", &upstream.blob_url("a", &digest), &[])
            .unwrap();
        let got = connection.read("GET").unwrap();
        if got.status == 502 {
            // The cache may reject an upstream that sends a different digest.
            upstream.clear_rules();
            upstream.on(
                On::any(),
                Reply::new()
                    .set("Content-Type", "text/html")
                    .set("ETag", "\"mine\""),
            );
            continue;
        }
        got.expect(b"hello");
        assert_eq!(got.field("content-type"), Some("application/octet-stream"));
        assert_eq!(got.field("etag"), Some(format!("\"{digest}\"").as_str()));
        assert_eq!(got.field("docker-content-digest"), Some(digest.as_str()));
        assert_eq!(got.field("accept-ranges"), Some("bytes"));
        assert_eq!(got.field("content-range"), None);
        // The upstream's `Connection` field does not affect the client's connection.
        connection.request("GET", "/v2/", &[]).unwrap();
        connection.read("GET").unwrap().expect(b"{}");
    }
}

#[test]
fn request_fields_of_the_client_are_not_forwarded_to_the_upstream() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("hello");
    let fields = [
        ("Host", "cache.example:80"),
        ("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", "\"x\""),
        ("If-Modified-Since", "Tue, 01 Jul 2025 12:00:00 GMT"),
        ("Cookie", "a=b"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Evil", "1"),
        ("TE", "trailers"),
        ("Keep-Alive", "timeout=5"),
        ("Connection", "keep-alive, X-Evil"),
    ];
    assert_eq!(
        cache
            .client()
            .get_with(&upstream.blob_url("a/b", &digest), &fields)
            .status,
        206
    );
    let log = upstream.log();
    let seen = log.iter().find(|seen| seen.kind == Kind::Blob).unwrap();
    assert_eq!(seen.target, format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(seen.field("host"), Some(upstream.name().as_str()));
    assert_eq!(seen.field("accept-encoding"), Some("identity"));
    for name in [
        "range",
        "if-none-match",
        "if-modified-since",
        "cookie",
        "x-evil",
        "te",
        "keep-alive",
        "authorization",
    ] {
        assert_eq!(seen.field(name), None, "{seen:#?}");
    }
}
