//! Pins with platforms and ranges of versions, `pin --fetch`, and damaged content of pinned images.

use super::{fails, run, started};
use crate::harness::disk::{age, blob_path, flip_byte, manifest_path};
use crate::harness::image::Flavor;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

fn options(upstream: &Registry) -> server::Options {
    Server::options(upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("SCRUB_INTERVAL", "0")
}

/// Runs a command that succeeds. Returns its output.
#[track_caller]
fn succeeds(cache: &Server, arguments: &[&str]) -> String {
    let output = run(cache, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("the output is text")
}

/// Pushes an index `org/app:TAG` of two platforms with a layer of `size` bytes each.
fn push_index(upstream: &Registry, tag: &str, size: u64) -> Image {
    let seed = fresh_seed();
    let layer = |n| [Content::from(PseudoRandom::new(seed + n, size))];
    Image::push_index(upstream, "org/app", tag, Flavor::Oci, [&layer(0), &layer(1)])
}

fn is_whole(cache: &Server, image: &Image) -> bool {
    cache.is_stored(&image.digest) && image.blobs.iter().all(|(digest, _)| cache.is_stored(digest))
}

/// Returns the digest of the largest blob.
fn layer(image: &Image) -> &str {
    let largest = image.blobs.iter().max_by_key(|(_, content)| content.size());
    &largest.expect("blobs").0
}

#[test]
fn only_the_pinned_platform_stays_under_pressure_and_after_a_kill() {
    let upstream = Registry::new();
    let mut cache = started(options(&upstream));
    let index = push_index(&upstream, "v1.2.3", 4 * MIB);
    let [amd64, arm64] = &index.children[..] else {
        panic!("two platforms");
    };
    let name = format!("{}/org/app", upstream.name());
    succeeds(&cache, &["load", &format!("{name}:v1.2.3"), "--platform", "all"]);
    assert!(is_whole(&cache, amd64) && is_whole(&cache, arm64));
    let range = format!("{name}:^1.2");
    let printed = succeeds(&cache, &["pin", &range, "--platform", "linux/amd64"]);
    assert_eq!(printed, format!("{range} (linux/amd64) pinned\n"));
    cache.kill9();
    age(cache.root(), 5);
    cache.set_env("CACHE_MAX_SIZE", 6 * MIB);
    cache.restart();
    cache.wait_stderr("store scanned");
    eventually("the other platform has left", || !cache.is_stored(layer(arm64)));
    assert!(is_whole(&cache, amd64) && cache.is_stored(&index.digest));
    assert_eq!(succeeds(&cache, &["pin"]), format!("{range} (linux/amd64)\n"));
    // The pin holds even more than the bound.
    cache.stop();
    age(cache.root(), 5);
    cache.set_env("CACHE_MAX_SIZE", MIB);
    cache.restart();
    // The check of the bound finds no other content.
    cache.wait_stderr("content evicted");
    assert!(is_whole(&cache, amd64) && cache.is_stored(&index.digest));
    // A start tries at once to keep the bound, and a running cache only after a while.
    cache.stop();
    succeeds(&cache, &["unpin", &range]);
    cache.restart();
    eventually("the image has left", || !cache.is_stored(layer(amd64)));
}

#[test]
fn prune_leaves_the_tags_in_a_pinned_range() {
    let upstream = Registry::new();
    let cache = started(options(&upstream));
    let images: Vec<(&str, Image)> = ["v1.9.0", "v2.0.0", "latest"]
        .into_iter()
        .zip(1..)
        .map(|(tag, n)| {
            (
                tag,
                Image::small(&upstream, "org/app", tag, fresh_seed() + 10 * n),
            )
        })
        .collect();
    let name = format!("{}/org/app", upstream.name());
    for (tag, _) in &images {
        succeeds(
            &cache,
            &["load", &format!("{name}:{tag}"), "--platform", "linux/amd64"],
        );
    }
    succeeds(&cache, &["pin", &format!("{name}:>=1, <2")]);
    succeeds(&cache, &["prune", "--all", "--yes"]);
    let held: Vec<&str> = images
        .iter()
        .filter(|(_, image)| is_whole(&cache, image))
        .map(|(tag, _)| *tag)
        .collect();
    assert_eq!(held, ["v1.9.0"]);
    fails(&cache, 2, "range of versions", &["pin", &format!("{name}:^x")]);
}

#[test]
fn fetch_of_a_pin_completes_its_images() {
    let upstream = Registry::new();
    let mut cache = started(options(&upstream));
    let index = push_index(&upstream, "v1.0.0", 50_000);
    let [amd64, arm64] = &index.children[..] else {
        panic!("two platforms");
    };
    let name = format!("{}/org/app", upstream.name());
    let range = format!("{name}:~1.0");
    page_of_tags(&upstream, "tags/list", &["v1.0.0"], None);
    let absent = format!("{name}:^9");
    fails(&cache, 3, "no image of the pin", &["pin", &absent, "--fetch"]);
    let all = format!("{}/**", upstream.name());
    fails(&cache, 3, "no image of the pin", &["pin", &all, "--fetch"]);
    let tag = format!("{name}:v1.0.0");
    let printed = succeeds(&cache, &["pin", &tag, "--platform", "linux/amd64", "--fetch"]);
    assert!(printed.contains("1 held, 0 failed"), "{printed}");
    assert!(is_whole(&cache, amd64) && !cache.is_stored(&arm64.digest));
    // The range names the stored tag, for all platforms. Without a cache, the command fetches itself.
    cache.stop();
    let printed = succeeds(&cache, &["pin", &range, "--fetch"]);
    assert!(printed.contains(&tag), "{printed}");
    assert!(is_whole(&cache, arm64));
    assert_eq!(upstream.gets(layer(amd64)), 1);
    upstream.down();
    fails(
        &cache,
        1,
        "were not loaded",
        &["pin", &format!("{name}:v9"), "--fetch"],
    );
}

/// Answers a request for tags whose target contains `part`, with a link to the tags after `last`.
fn page_of_tags(upstream: &Registry, part: &str, tags: &[&str], last: Option<&str>) {
    let body = serde_json::json!({"name": "org/app", "tags": tags}).to_string();
    let mut reply = Reply::status(200).body(body);
    if let Some(last) = last {
        let link = format!("</v2/org/app/tags/list?n=2&last={last}>; rel=\"next\"");
        reply = reply.set("Link", link);
    }
    upstream.on(On::path(part), reply);
}

#[test]
fn fetch_of_a_range_or_a_pattern_of_tags_fetches_the_matching_tags_of_the_registry() {
    let upstream = Registry::new();
    let cache = started(options(&upstream));
    let push = |tag: &str| Image::small(&upstream, "org/app", tag, fresh_seed());
    let tags = ["v1.0.0", "v1.2.0", "v2.0.0", "edge-1", "edge-2"];
    let images = tags.map(push);
    // The list has three pages.
    page_of_tags(&upstream, "last=v1.2.0", &tags[2..4], Some("edge-1"));
    page_of_tags(&upstream, "last=edge-1", &tags[4..], None);
    page_of_tags(&upstream, "tags/list?n=1000", &tags[..2], Some("v1.2.0"));
    let name = format!("{}/org/app", upstream.name());
    let held = || images.each_ref().map(|image| is_whole(&cache, image));
    let range = format!("{name}:^1");
    let printed = succeeds(&cache, &["pin", &range, "--fetch"]);
    let count = format!("{range} has 2 of 5 tags of the registry");
    assert!(
        printed.contains(&count) && printed.contains("2 held, 0 failed"),
        "{printed}"
    );
    assert_eq!(held(), [true, true, false, false, false]);
    let printed = succeeds(&cache, &["pin", &format!("{name}:edge-*"), "--fetch"]);
    assert!(printed.contains("2 held, 0 failed"), "{printed}");
    assert_eq!(held(), [true, true, false, true, true]);
    // The stored images are complete, and the tags of the registry are unknown.
    upstream.down();
    let wide = format!("{name}:>=1,<3");
    fails(
        &cache,
        1,
        "1 of 3 images were not loaded",
        &["pin", &wide, "--fetch"],
    );
}

#[test]
fn damaged_content_of_a_pinned_image_is_fetched_at_once() {
    let upstream = Registry::new();
    let cache = started(options(&upstream));
    let name = format!("{}/org/app", upstream.name());
    let images = ["v1", "v2"].map(|tag| Image::small(&upstream, "org/app", tag, fresh_seed()));
    for tag in ["v1", "v2"] {
        succeeds(
            &cache,
            &["load", &format!("{name}:{tag}"), "--platform", "linux/amd64"],
        );
    }
    succeeds(&cache, &["pin", &format!("{name}:v1")]);
    upstream.clear_log();
    for image in &images {
        flip_byte(&blob_path(cache.root(), layer(image)), 1_000);
    }
    let manifest = manifest_path(cache.root(), &upstream.name(), "org/app", &images[0].digest);
    flip_byte(&manifest, 100);
    assert_eq!(run(&cache, &["verify", "--rate", "0"]).status.code(), Some(1));
    cache.wait_stderr("damaged pinned image fetched");
    eventually("the pinned image is whole", || is_whole(&cache, &images[0]));
    assert_eq!(upstream.gets(layer(&images[0])), 1);
    // No client has requested the other image.
    assert!(!cache.is_stored(layer(&images[1])));
    assert_eq!(upstream.gets(layer(&images[1])), 0);
    let output = run(&cache, &["verify", "--rate", "0", &format!("{name}:v1")]);
    assert!(output.status.success(), "{output:?}");
    cache.settled_store().expect_sound();
}

#[test]
fn scrub_brings_back_damaged_content_of_a_pinned_image() {
    let upstream = Registry::new();
    let mut cache = started(options(&upstream));
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    let name = format!("{}/org/app:v1", upstream.name());
    succeeds(&cache, &["pin", &name, "--platform", "linux/amd64", "--fetch"]);
    cache.stop();
    flip_byte(&blob_path(cache.root(), layer(&image)), 1_000);
    upstream.clear_log();
    cache.set_env("SCRUB_INTERVAL", "1s");
    cache.set_env("SCRUB_RATE", "0");
    cache.restart();
    cache.wait_stderr("damaged pinned image fetched");
    assert!(is_whole(&cache, &image));
    assert_eq!(upstream.gets(layer(&image)), 1);
}
