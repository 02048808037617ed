//! Loads with referrers and signatures, and their use without the registry.

use serde_json::{Value, json};

use super::{run, started};
use crate::harness::image::ACCEPT_ALL;
use crate::harness::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Pushes an artifact with one layer about `subject`. Returns the digests of its manifest and its blobs.
fn push_artifact(upstream: &Registry, subject: &Image, kind: &str) -> (String, Vec<String>) {
    let blob = |text: String| {
        let size = text.len();
        let digest = upstream.blob_in("app/0", text.into_bytes());
        (
            digest.clone(),
            json!({"mediaType": kind, "digest": digest, "size": size}),
        )
    };
    let (config, config_descriptor) = blob(format!("config of {kind}"));
    let (layer, layer_descriptor) = blob(format!("layer of {kind}"));
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": kind,
        "config": config_descriptor, "layers": [layer_descriptor],
        "subject": {"mediaType": subject.media_type, "digest": subject.digest, "size": subject.manifest.len()},
    });
    let manifest = manifest.to_string().into_bytes();
    let digest = upstream.manifest("app/0", MANIFEST, manifest);
    (digest, vec![config, layer])
}

/// Returns an index of referrers.
fn index_of(upstream: &Registry, digests: &[&str]) -> Value {
    let descriptor = |digest: &&str| {
        let url = format!("/v2/app/0/manifests/{digest}");
        let size = Client::new(upstream.addr()).get(&url).body.len();
        json!({"mediaType": MANIFEST, "digest": digest, "size": size})
    };
    let manifests: Vec<Value> = digests.iter().map(descriptor).collect();
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests})
}

/// Loads an image with its referrers without a running cache, and reads them from an air-gapped cache.
fn load_and_cut_off(has_list: bool) {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    let image = Image::small(&upstream, "app/0", "v1", fresh_seed());
    let (referrer, mut blobs) = push_artifact(&upstream, &image, "a/sbom");
    let (signature, more) = push_artifact(&upstream, &image, "a/signature");
    blobs.extend(more);
    let hex = image.digest.trim_start_matches("sha256:");
    let cosign_tag = format!("sha256-{hex}.sig");
    upstream.tag("app/0", &cosign_tag, &signature);
    let index = index_of(&upstream, &[&referrer]).to_string();
    if has_list {
        let reply = Reply::status(200).body(index).set("Content-Type", INDEX);
        upstream.on(On::path(format!("/referrers/{}", image.digest)), reply);
    } else {
        let digest = upstream.manifest("app/0", INDEX, index.into_bytes());
        upstream.tag("app/0", &format!("sha256-{hex}"), &digest);
    }
    cache.stop();
    upstream.clear_log();
    let name = format!("{}/app/0:v1", upstream.name());
    let output = run(
        &cache,
        &["load", "--referrers", "--platform", "linux/amd64", &name],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    upstream.down();
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    let get = |path: &str| cache.client().get_with(path, &[("Accept", ACCEPT_ALL)]);
    let listed = match has_list {
        true => get(&format!(
            "/v2/{}/app/0/referrers/{}",
            upstream.name(),
            image.digest
        )),
        false => get(&upstream.manifest_url("app/0", &format!("sha256-{hex}"))),
    };
    assert_eq!(listed.status, 200, "{listed}");
    let listed: Value = serde_json::from_slice(&listed.body).expect("an index");
    assert_eq!(listed["manifests"][0]["digest"], json!(referrer));
    for reference in [&referrer, &cosign_tag, &signature] {
        assert_eq!(get(&upstream.manifest_url("app/0", reference)).status, 200);
    }
    for digest in &blobs {
        assert_eq!(get(&upstream.blob_url("app/0", digest)).status, 200, "{digest}");
    }
}

#[test]
fn referrers_of_a_load_are_served_without_the_registry() {
    load_and_cut_off(true);
}

#[test]
fn referrers_under_the_fallback_tag_are_served_without_the_registry() {
    load_and_cut_off(false);
}

#[test]
fn load_requests_referrers_only_with_the_flag_and_an_outage_of_their_list_fails_the_image() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    Image::small(&upstream, "app/0", "v1", fresh_seed());
    let name = format!("{}/app/0:v1", upstream.name());
    let load = |flags: &[&str]| {
        run(
            &cache,
            &[&["load", "--platform=linux/amd64", &name], flags].concat(),
        )
    };
    assert_eq!(load(&[]).status.code(), Some(0));
    assert_eq!(upstream.gets("/referrers/"), 0);
    upstream.on(On::path("/referrers/"), Reply::status(503));
    let output = load(&["--referrers"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    upstream.clear_rules();
}
