//! Content other than images: signatures, charts, bundles and old manifest formats. The cache
//! serves all of them as ordinary manifests and blobs, also with an unknown type.

use serde_json::json;

use crate::harness::image::ACCEPT_ALL;
use crate::harness::*;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pulls a manifest by tag and by digest, cold and warm.
#[track_caller]
fn pull(cache: &Server, upstream: &Registry, tag: &str, digest: &str, media_type: &str, body: &[u8]) {
    for reference in [tag, digest, tag, digest] {
        let path = upstream.manifest_url("org/thing", reference);
        let head = cache.client().request("HEAD", &path, &[("Accept", ACCEPT_ALL)]);
        assert_eq!(
            (head.status, head.content_length()),
            (200, Some(body.len() as u64)),
            "{head}"
        );
        for fields in [&[][..], &[("Accept", ACCEPT_ALL)], &[("Accept", media_type)]] {
            let got = cache.client().get_with(&path, fields);
            got.expect(body);
            assert_eq!(got.field("content-type"), Some(media_type), "{tag}");
            assert_eq!(got.field("docker-content-digest"), Some(digest));
        }
    }
}

#[test]
fn signatures_charts_and_unknown_artifacts_are_served_as_manifests() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "org/thing", "v1", fresh_seed());
    let blob = |text: &str, media_type: &str| {
        let digest = upstream.blob(text);
        json!({"mediaType": media_type, "digest": digest, "size": text.len()})
    };
    let hex = image.digest.strip_prefix("sha256:").unwrap();
    let subject =
        json!({"mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len()});
    let empty = json!({
        "mediaType": "application/vnd.oci.empty.v1+json", "size": 2, "data": "e30=", "digest": upstream.blob("{}"),
    });
    let things = [
        (
            format!("sha256-{hex}.sig"),
            json!({
                "schemaVersion": 2, "mediaType": MANIFEST,
                "config": blob("{\"rootfs\":{}}", "application/vnd.oci.image.config.v1+json"),
                "layers": [blob("{\"critical\":1}", "application/vnd.dev.cosign.simplesigning.v1+json")],
            }),
        ),
        (
            format!("sha256-{hex}.att"),
            json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": empty,
                "layers": [blob("{\"payloadType\":1}", "application/vnd.dsse.envelope.v1+json")],
            }),
        ),
        (
            format!("sha256-{hex}.sbom"),
            json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": empty,
                "layers": [blob("{\"spdxVersion\":1}", "text/spdx+json")],
            }),
        ),
        (
            format!("sha256-{hex}"),
            json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example+type",
                "config": empty, "layers": [empty], "subject": subject, "annotations": {"a": "b"},
            }),
        ),
        // A chart of version 1.2.0+build.5. Tags cannot contain `+`.
        (
            "1.2.0_build.5".to_owned(),
            json!({
                "schemaVersion": 2,
                "config": blob("{\"name\":\"chart\"}", "application/vnd.cncf.helm.config.v1+json"),
                "layers": [blob("a chart", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"),
                           blob("a provenance file", "application/vnd.cncf.helm.chart.provenance.v1.prov")],
            }),
        ),
        (
            "v1_2".to_owned(),
            json!({
                "schemaVersion": 2, "mediaType": MANIFEST, "config": blob("module", "application/vnd.wasm.config.v0+json"),
                "layers": [blob("\0asm", "application/wasm")],
            }),
        ),
        (
            "wild".to_owned(),
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": blob("?", "x/y"), "layers": []}),
        ),
    ];
    for (tag, manifest) in things {
        let body = serde_json::to_vec(&manifest).unwrap();
        let digest = upstream.manifest("org/thing", MANIFEST, body.clone());
        upstream.tag("org/thing", &tag, &digest);
        pull(&cache, &upstream, &tag, &digest, MANIFEST, &body);
        for descriptor in manifest["layers"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&manifest["config"]])
        {
            let digest = descriptor["digest"].as_str().unwrap();
            let got = cache.client().get(&upstream.blob_url("org/thing", digest));
            assert_eq!((got.status, content::sha256(&got.body).as_str()), (200, digest));
        }
        assert_eq!(
            upstream.gets(&format!("manifests/{digest}")),
            0,
            "the pull by tag has stored the manifest"
        );
    }
    // Media types unknown to the cache.
    for (tag, media_type) in [
        ("artifact", "application/vnd.oci.artifact.manifest.v1+json"),
        ("theirs", "application/vnd.example.thing.v7+json"),
    ] {
        let body = json!({"mediaType": media_type, "blobs": [], "subject": subject}).to_string();
        let digest = upstream.manifest("org/thing", media_type, body.as_str());
        upstream.tag("org/thing", tag, &digest);
        pull(&cache, &upstream, tag, &digest, media_type, body.as_bytes());
    }
}

#[test]
fn tags_differ_by_their_case() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let tags = ["rc", "RC", "Rc", "rC"];
    let body = |tag: &str| {
        json!({"schemaVersion": 2, "config": {}, "layers": [], "annotations": {"tag": tag}}).to_string()
    };
    for tag in tags {
        let digest = upstream.manifest("a", MANIFEST, body(tag));
        upstream.tag("a", tag, &digest);
    }
    for _ in 0..2 {
        for tag in tags {
            let got = cache.client().get(&upstream.manifest_url("a", tag));
            got.expect(body(tag).as_bytes());
        }
    }
    cache
        .client()
        .get(&upstream.manifest_url("a", "rc."))
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn sha512_is_a_digest_like_sha256() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 70_000);
    let blob = content::sha512(&content.bytes());
    upstream.blob_as(&blob, content.clone());
    let manifest = json!({"schemaVersion": 2, "config": {"digest": blob}, "layers": []}).to_string();
    let digest = content::sha512(manifest.as_bytes());
    upstream.manifest_as("org/thing", &digest, MANIFEST, manifest.as_str());
    upstream.tag("org/thing", "v1", &digest);
    for _ in 0..2 {
        let got = cache.client().pull(&upstream.blob_url("a", &blob), &content);
        assert_eq!(got.field("docker-content-digest"), Some(blob.as_str()));
        cache.wait_stored(&blob);
    }
    let got = cache
        .client()
        .get_with(&upstream.blob_url("a", &blob), &[("Range", "bytes=100-199")]);
    assert_eq!((got.status, &got.body[..]), (206, &content.bytes()[100..200]));
    pull(&cache, &upstream, "v1", &digest, MANIFEST, manifest.as_bytes());
    assert_eq!(upstream.gets(&blob), 1);

    let wrong = content::sha512(b"other content");
    upstream.blob_as(&wrong, content);
    let got = cache.client().get(&upstream.blob_url("a", &wrong));
    assert_eq!(got.status, 502, "{got}");
}

/// Some registries have an image in schema version 1 only, and return it if the client accepts
/// schema version 1.
#[test]
fn schema_1_manifest_is_forwarded_if_the_client_accepts_it() {
    const SIGNED: &str = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let body = json!({
        "schemaVersion": 1, "name": "a", "tag": "old", "architecture": "amd64",
        "fsLayers": [], "history": [], "signatures": [],
    })
    .to_string();
    let digest = upstream.manifest("org/thing", SIGNED, body.as_str());
    upstream.tag("org/thing", "old", &digest);
    for accept in [SIGNED, "*/*", "application/json"] {
        for _ in 0..2 {
            let path = upstream.manifest_url("org/thing", "old");
            let got = cache.client().get_with(&path, &[("Accept", accept)]);
            got.expect(body.as_bytes());
            assert_eq!(got.field("content-type"), Some(SIGNED));
        }
    }
    let theirs = upstream.count(|seen| seen.field("accept") == Some(SIGNED));
    assert!(
        theirs > 0,
        "no request has the Accept field of the client: {:#?}",
        upstream.log()
    );
    // A client that does not accept version 1 gets the upstream's converted manifest.
    let path = upstream.manifest_url("org/thing", "old");
    let newer = json!({"schemaVersion": 2, "config": {}, "layers": []}).to_string();
    let converted = upstream.manifest("org/thing", MANIFEST, newer.as_str());
    upstream.on(
        On::path("manifests/old"),
        Reply::status(200)
            .body(newer.as_str())
            .set("Content-Type", MANIFEST)
            .set("Docker-Content-Digest", converted),
    );
    let got = cache.client().get_with(&path, &[("Accept", MANIFEST)]);
    got.expect(newer.as_bytes());
}

/// Some registries reject HEAD for blobs but answer GET. The client usually requests the content
/// next anyway.
#[test]
fn a_blob_is_never_asked_for_with_head() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    upstream.on(On::kind(Kind::Blob).head(), Reply::status(401));
    for fields in [&[][..], &[("Authorization", "Basic bWU6bXk=")]] {
        for size in [0, 1_000, 3_000_000] {
            let content = PseudoRandom::new(fresh_seed(), size);
            let digest = upstream.blob(content.clone());
            let path = upstream.blob_url("a", &digest);
            let head = cache.client().request("HEAD", &path, fields);
            assert_eq!((head.status, head.content_length()), (200, Some(size)), "{head}");
            assert_eq!(head.field("docker-content-digest"), Some(digest.as_str()));
            cache.wait_stored(&digest);
            cache.client().pull(&path, &content);
            assert_eq!(upstream.gets(&digest), 1, "GET uses the fill that HEAD started");
        }
        let missing = content::sha256(b"absent");
        let head = cache
            .client()
            .request("HEAD", &upstream.blob_url("a", &missing), fields);
        assert_eq!(head.status, 404);
    }
    assert_eq!(
        upstream.count(|seen| seen.method == "HEAD"),
        0,
        "{:#?}",
        upstream.log()
    );
}
