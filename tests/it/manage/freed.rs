//! The space that removals free: 100 images with shared layers, readers, and pulls between a plan and
//! its application.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::admin::{Cache, start, start_with};
use super::{name, pull, run, send_json};
use crate::harness::client::Flow;
use crate::harness::disk::bytes_on_disk;
use crate::harness::image::Flavor;
use crate::harness::*;

/// The number of images. Each tenth image has the same base layer, and each fourth the same second
/// layer.
const IMAGES: u64 = 100;

/// Larger than the buffers of a connection, so that a reader that pauses keeps the file open.
const LARGE_BYTES: u64 = 16 * 1024 * 1024;

/// Pulls all images, and waits until the cache has stored them.
fn pull_images(cache: &Cache, upstream: &Registry) -> Vec<Image> {
    let seed = fresh_seed();
    let layer = |n: u64, bytes: u64| Content::from(PseudoRandom::new(seed + n, bytes));
    let mut blobs: BTreeMap<String, Content> = BTreeMap::new();
    let mut images = Vec::new();
    for n in 0..IMAGES {
        let tag = format!("v{n}");
        let layers = [
            layer(1_000 + n % 10, 150_000),
            layer(2_000 + n % 25, 50_000),
            layer(3_000 + n, 5_000 + 700 * n),
        ];
        let image = Image::push(upstream, "org/app", &tag, Flavor::Oci, &layers);
        let path = upstream.manifest_url("org/app", &tag);
        cache.server.client().get(&path).expect(&image.manifest);
        blobs.extend(image.blobs.iter().cloned());
        images.push(image);
    }
    for (digest, content) in &blobs {
        let path = upstream.blob_url("org/app", digest);
        cache.server.client().get(&path).expect(&content.bytes());
    }
    let objects = blobs.len() as u64 + 2 * IMAGES;
    eventually("all objects are stored", || {
        cache.json("GET /api/v1/stats")["objects"] == objects
    });
    cache.server.settled_store();
    images
}

/// Checks that a removal has freed as much as it reports.
#[track_caller]
fn check_freed(what: &str, reported: u64, before: u64, after: u64) {
    let freed = before - after;
    assert!(freed > 0, "{what}");
    let difference = reported.abs_diff(freed);
    assert!(
        difference * 100 <= freed,
        "{what}: reported {reported}, freed {freed}"
    );
}

#[test]
fn removals_of_images_with_shared_layers_free_what_they_report() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let images = pull_images(&cache, &upstream);
    let root = cache.server.root();
    let before_all = bytes_on_disk(root);
    let mut reported_all = 0;
    let mut removed: BTreeSet<u64> = BTreeSet::new();
    // The last image with a base layer takes the layer along.
    for n in [7, 17, 27, 37, 47, 57, 67, 77, 87, 97, 50] {
        let before = bytes_on_disk(root);
        let report = cache.json(&format!(
            "DELETE /api/v1/images/{}",
            name(&upstream, &format!(":v{n}"))
        ));
        assert_eq!(report["kept"], 0, "v{n}");
        let reported = report["bytes"].as_u64().expect("a number");
        check_freed(&format!("v{n}"), reported, before, bytes_on_disk(root));
        reported_all += reported;
        removed.insert(n);
    }
    // Half of the images at once, those with an even number.
    let before = bytes_on_disk(root);
    let (status, plan) = send_json(
        &cache.server,
        "POST",
        "/api/v1/prune",
        r#"{"pattern": ":v[0-9]*[02468]$"}"#,
    );
    assert_eq!(status, 201, "{plan}");
    assert_eq!(plan["removal"]["images"].as_array().expect("a list").len(), 49);
    assert_eq!(bytes_on_disk(root), before, "a plan removes nothing");
    let report = cache.json(&format!("POST /api/v1/prune/{}/apply", plan["plan"]));
    let reported = report["bytes"].as_u64().expect("a number");
    check_freed("even numbers", reported, before, bytes_on_disk(root));
    check_freed("all", reported_all + reported, before_all, bytes_on_disk(root));
    removed.extend((0..IMAGES).filter(|n| n % 2 == 0));

    // The other images are complete, without a request to the registry.
    upstream.clear_log();
    for (n, image) in images
        .iter()
        .enumerate()
        .filter(|(n, _)| !removed.contains(&(*n as u64)))
    {
        let path = upstream.manifest_url("org/app", &image.digest);
        cache.server.client().get(&path).expect(&image.manifest);
        for (digest, content) in &image.blobs {
            let got = cache.server.client().get(&upstream.blob_url("org/app", digest));
            assert_eq!(got.body, content.bytes(), "v{n} {digest}");
        }
    }
    assert_eq!(upstream.count(|seen| seen.is_get("/v2/")), 0);
    let listed = run(&cache.server, &["list", "--output", "name"]);
    let count = String::from_utf8_lossy(&listed.stdout).lines().count() as u64;
    assert_eq!(count, IMAGES - removed.len() as u64);
    cache.server.settled_store().expect_sound();
}

#[test]
fn reader_of_a_removed_blob_finishes_and_the_next_request_fetches_once() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let content = Content::from(PseudoRandom::new(fresh_seed(), LARGE_BYTES));
    let image = Image::push(
        &upstream,
        "org/app",
        "v1",
        Flavor::Oci,
        std::slice::from_ref(&content),
    );
    pull(&cache.server, &upstream, "org/app", "v1", &image);
    cache.server.settled_store();
    let digest = content.digest();
    let path = upstream.blob_url("org/app", &digest);
    let bytes = content.bytes();
    let mut readers: Vec<_> = (0..3)
        .map(|_| {
            let mut reader = Connection::open_narrow(cache.server.addr(), 16 * 1024).expect("a connection");
            reader.request("GET", &path, &[]).expect("the server reads");
            let head = reader.read_head().expect("a head");
            assert_eq!(head.status, 200);
            (reader, head)
        })
        .collect();
    let before = bytes_on_disk(cache.server.root());
    let report = cache.json(&format!("DELETE /api/v1/images/{}", name(&upstream, ":v1")));
    let reported = report["bytes"].as_u64().expect("a number");
    check_freed("v1", reported, before, bytes_on_disk(cache.server.root()));
    upstream.clear_log();
    for (mut reader, head) in readers.drain(..) {
        let mut read = Vec::new();
        let mut sink = |_, piece: &[u8]| {
            read.extend_from_slice(piece);
            Flow::Go
        };
        let end = reader.read_body(head, "GET", &mut sink);
        assert!(end.is_ok(), "{end:?}");
        assert!(read == bytes, "a reader got {} bytes", read.len());
    }
    assert_eq!(upstream.gets(&digest), 0, "the readers need no upstream");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                cache.server.client().get(&path).expect(&bytes);
            });
        }
    });
    assert_eq!(upstream.gets(&digest), 1);
}

#[test]
fn plan_removes_its_unchanged_images_beside_concurrent_pulls() {
    let upstream = Registry::new();
    let cache = start_with(&upstream, &[("TAG_TTL", "0s")]);
    let seed = fresh_seed();
    println!("seed {seed}");
    let push = |tag: &str, n: u64| {
        let layer = Content::from(PseudoRandom::new(seed + n, 40_000));
        Image::push(&upstream, "org/app", tag, Flavor::Oci, &[layer])
    };
    let tag = |n: u64| format!("v{n}");
    let planned: Vec<Image> = (0..20).map(|n| push(&tag(n), n)).collect();
    for (n, image) in planned.iter().enumerate() {
        pull(&cache.server, &upstream, "org/app", &tag(n as u64), image);
    }
    cache.server.settled_store();
    let images = || {
        let listed = cache.json("GET /api/v1/images?limit=1000");
        let images = listed["images"].as_array().expect("a list").iter();
        images
            .map(|image| {
                let is_complete = image["complete"] == true;
                (image["tag"].as_str().unwrap_or_default().to_owned(), is_complete)
            })
            .collect::<BTreeMap<String, bool>>()
    };
    eventually("all tags are stored", || images().len() == 20);
    let (status, plan) = send_json(
        &cache.server,
        "POST",
        "/api/v1/prune",
        r#"{"pattern": ":v[0-9]+$"}"#,
    );
    assert_eq!(status, 201, "{plan}");
    assert_eq!(plan["removal"]["images"].as_array().expect("a list").len(), 20);

    // The first five tags move to other images.
    let moved: Vec<Image> = (0..5).map(|n| push(&tag(n), 50 + n)).collect();
    for (n, image) in (0..5).zip(&moved) {
        pull(&cache.server, &upstream, "org/app", &tag(n), image);
    }
    let is_moved = |listed: &Value| {
        let images = listed["images"].as_array().expect("a list");
        moved.iter().all(|image| {
            images
                .iter()
                .any(|found| found["digest"] == *image.digest && !found["tag"].is_null())
        })
    };
    eventually("the tags have moved", || {
        is_moved(&cache.json("GET /api/v1/images?limit=1000"))
    });
    cache.server.settled_store();
    let added: Vec<Image> = (0..10).map(|n| push(&format!("w{n}"), 100 + n)).collect();
    let applied: Value = std::thread::scope(|scope| {
        let pulls = scope.spawn(|| {
            for (n, image) in added.iter().enumerate() {
                pull(&cache.server, &upstream, "org/app", &format!("w{n}"), image);
            }
        });
        let applied = cache.json(&format!("POST /api/v1/prune/{}/apply", plan["plan"]));
        pulls.join().expect("the pulls succeed");
        applied
    });
    // Manifest, config and layer of each planned image, and the tags that have not moved.
    assert_eq!(
        (&applied["objects"], &applied["kept"]),
        (&75.into(), &5.into()),
        "{applied}"
    );
    let expected: BTreeMap<String, bool> = (0..5)
        .map(|n| (tag(n), true))
        .chain((0..10).map(|n| (format!("w{n}"), true)))
        .collect();
    eventually("the new tags are stored", || images().len() >= expected.len());
    assert_eq!(images(), expected);
    cache.server.settled_store().expect_sound();
}
