//! The command `offline-ready`: every ready image is pulled from an air-gapped cache.

use std::fs;

use serde_json::{Value, json};

use super::{fails, run, send_json, started};
use crate::harness::disk::blob_path;
use crate::harness::image::{ACCEPT_ALL, Flavor};
use crate::harness::*;

/// Runs `offline-ready` for all platforms. Returns the exit code and the images.
#[track_caller]
fn ready(cache: &Server, arguments: &[&str]) -> (i32, Value) {
    let output = run(cache, &[&["offline-ready", "--json"], arguments].concat());
    let images = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().expect("an exit code"), images)
}

/// Returns whether a client gets the whole image `reference` of `app`.
fn is_pulled(cache: &Server, upstream: &Registry, reference: &str, platform_of: &Image) -> bool {
    let get = |path: &str| cache.client().get_with(path, &[("Accept", ACCEPT_ALL)]);
    let manifest = get(&upstream.manifest_url("app", reference));
    let child = get(&upstream.manifest_url("app", &platform_of.digest));
    let blobs = platform_of.blobs.iter();
    let mut blobs = blobs.map(|(digest, content)| {
        let got = get(&upstream.blob_url("app", digest));
        got.status == 200 && got.body == content.bytes()
    });
    manifest.status == 200 && child.status == 200 && blobs.all(|is_held| is_held)
}

/// The first problem of each image: its kind. `null` for a ready image.
fn kinds(images: &Value) -> Vec<Value> {
    let images = images.as_array().expect("a list");
    let kind = |image: &Value| image["problems"][0]["kind"].clone();
    images.iter().map(kind).collect()
}

#[test]
fn each_ready_image_is_pulled_without_its_registry_and_no_other_image() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream).env("SCRUB_INTERVAL", "0"));
    let seed = fresh_seed();
    let layer = |n: u64| [Content::from(PseudoRandom::new(seed + n, 200_000))];
    let push = |n: u64, tag: &str| Image::push(&upstream, "app", tag, Flavor::Oci, &layer(n));
    let [whole, no_layer, short, wrong_size] =
        [(1, "whole"), (2, "no-layer"), (3, "short"), (4, "wrong-size")].map(|(n, tag)| push(n, tag));
    let index = Image::push_index(&upstream, "app", "index", Flavor::Oci, [&layer(5), &layer(6)]);
    let untagged = Image::push_index(&upstream, "app", "later", Flavor::Oci, [&layer(7), &layer(8)]);
    let name = |reference: &str| format!("{}/app{reference}", upstream.name());
    let by_digest = name(&format!("@{}", untagged.digest));
    let tags = [":whole", ":no-layer", ":short", ":wrong-size", ":index"].map(name);
    let loaded: Vec<&str> = tags.iter().map(String::as_str).chain([&*by_digest]).collect();
    let output = run(
        &cache,
        &[&["load", "--platform", "linux/amd64"], &loaded[..]].concat(),
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    cache.stop();
    fs::remove_file(blob_path(cache.root(), &no_layer.blobs[1].0)).expect("the layer is stored");
    disk::truncate(&blob_path(cache.root(), &short.blobs[1].0), 100_000);
    // The sidecar and the data agree, and the manifest names another size.
    let data = blob_path(cache.root(), &wrong_size.blobs[1].0);
    disk::truncate(&data, 100_000);
    let sidecar = format!("{}.meta.json", data.display());
    let json = fs::read_to_string(&sidecar).expect("a sidecar");
    fs::write(&sidecar, json.replace("200000", "100000")).expect("the directory is writable");

    let later = name(":later");
    let absent = name(&format!("@sha256:{}", "0".repeat(64)));
    let images = [&loaded[..], &[&later, &absent]].concat();
    let amd64 = [&["--platform", "linux/amd64"], &images[..]].concat();
    let (code, offline) = ready(&cache, &amd64);
    assert_eq!(code, 1, "{offline}");
    let expected = [
        Value::Null,
        json!("missing-layer"),
        json!("missing-layer"),
        json!("damaged"),
        Value::Null,
        Value::Null,
        json!("unknown-tag"),
        json!("missing-manifest"),
    ];
    assert_eq!(kinds(&offline), expected, "{offline}");
    let (code, all) = ready(&cache, &["--platform", "all", &tags[4]]);
    assert_eq!((code, kinds(&all)), (1, vec![json!("missing-platform")]), "{all}");
    let text = all[0]["problems"][0]["text"].as_str().expect("a text");
    assert!(text.contains("linux/arm64"), "{text}");
    assert_eq!(ready(&cache, &["--platform", "linux/amd64", &tags[0]]).0, 0);

    upstream.down();
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    let body = json!({"images": images, "platforms": ["linux/amd64"]}).to_string();
    let (status, online) = send_json(&cache, "POST", "/api/v1/readiness", &body);
    assert_eq!((status, &online["images"]), (200, &offline));
    let children = [
        &whole,
        &no_layer,
        &short,
        &wrong_size,
        &index.children[0],
        &untagged.children[0],
    ];
    let references = [
        "whole",
        "no-layer",
        "short",
        "wrong-size",
        "index",
        &untagged.digest,
    ];
    for (at, (reference, child)) in references.into_iter().zip(children).enumerate() {
        let is_ready = offline[at]["ready"] == json!(true);
        assert_eq!(
            is_pulled(&cache, &upstream, reference, child),
            is_ready,
            "{reference}"
        );
    }
}

#[test]
fn private_content_is_ready_only_for_a_shared_registry() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth::basic());
    upstream.user("alice", "secret");
    upstream.allow("alice", "app");
    for (access, is_ready) in [("verify", false), ("shared", true)] {
        let keys = format!("auth: {{username: alice, password: secret}}, access: {access}");
        let options = Server::bare().registry_with(upstream.name(), upstream.addr(), &keys);
        let mut cache = started(options);
        let image = Image::small(&upstream, "app", "v1", fresh_seed());
        let name = format!("{}/app:v1", upstream.name());
        let amd64 = ["--platform", "linux/amd64", &*name];
        assert_eq!(
            run(&cache, &[&["load"], &amd64[..]].concat()).status.code(),
            Some(0)
        );
        let (code, images) = ready(&cache, &amd64);
        assert_eq!(code, i32::from(!is_ready), "{images}");
        upstream.down();
        cache.set_env("AIR_GAPPED", "true");
        cache.restart();
        assert_eq!(is_pulled(&cache, &upstream, "v1", &image), is_ready, "{access}");
        upstream.up();
    }
}

#[test]
fn list_with_a_mistake_is_not_ready_and_a_command_without_images_is_misuse() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    fails(&cache, 2, "no image is named", &["offline-ready"]);
    fails(&cache, 2, "[registry/]repository", &["offline-ready", "UPPER"]);
    let list = cache.home().join("images.txt");
    fs::write(&list, "UPPER\n").expect("the directory is writable");
    let list = list.to_str().expect("a path is text");
    let (code, images) = ready(&cache, &[list]);
    assert_eq!((code, &images[0]["ready"]), (1, &json!(false)), "{images}");
    fails(&cache, 1, "1 of 1 images are not ready", &["offline-ready", list]);
}

#[test]
fn digest_of_another_repository_is_ready_and_leaves_the_report_in_the_air_gap() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    let image = Image::small(&upstream, "app", "v1", fresh_seed());
    let elsewhere = format!("{}/other@{}", upstream.name(), image.digest);
    assert_eq!(ready(&cache, &[&elsewhere]).0, 1);
    let path = upstream.manifest_url("other", &image.digest);
    upstream.down();
    assert_eq!(cache.client().get(&path).status, 502);
    let reported = |cache: &Server| {
        let output = run(cache, &["report", "missing", "--output", "name"]);
        String::from_utf8(output.stdout).expect("names are text")
    };
    upstream.up();
    let name = format!("{}/app:v1", upstream.name());
    let output = run(&cache, &["load", "--platform", "all", &name]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(ready(&cache, &["--platform", "all", &elsewhere]).0, 0);
    assert_eq!(reported(&cache).trim(), elsewhere, "a cache with a connection");
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    cache.wait_stderr("store scanned");
    assert_eq!(reported(&cache), "");
    cache.client().get(&path).expect(&image.manifest);
}
