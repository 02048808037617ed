//! Registries with a store of their own (`cache_dir`): the place of content, commands over all stores,
//! and disks that are full or fail.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{run, send_json, started};
use crate::harness::disk::{self, SmallDisk, age, flip_byte, is_stored};
use crate::harness::image::ACCEPT_ALL;
use crate::harness::server::TempDir;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
/// The registry with a store of its own.
const OWN: &str = "own.test";
/// A registry in the default store.
const OTHER: &str = "other.test";

/// Returns options for a cache with the store of [`OWN`] in `dir`. `keys` are further keys of [`OWN`].
fn options(upstream: &Registry, dir: &Path, keys: &str) -> server::Options {
    let keys = format!("cache_dir: {}, {keys}", dir.display());
    Server::options(upstream)
        .registry_with(OWN, upstream.addr(), keys)
        .registry(OTHER, upstream.addr())
        .env("STORAGE_BACKEND", "fs")
}

fn wait_scanned(cache: &Server) {
    eventually("both stores are scanned", || {
        cache.stderr().matches("store scanned").count() == 2
    });
}

fn cache(upstream: &Registry, dir: &Path, keys: &str) -> Server {
    let cache = started(options(upstream, dir, keys));
    wait_scanned(&cache);
    cache
}

fn blob_path(registry: &str, digest: &str) -> String {
    format!("/v2/{registry}/a/blobs/{digest}")
}

fn manifest_path(registry: &str, tag: &str) -> String {
    format!("/v2/{registry}/a/manifests/{tag}")
}

/// Makes a blob of `bytes` at the upstream.
fn blob(upstream: &Registry, bytes: u64) -> PseudoRandom {
    let blob = PseudoRandom::new(fresh_seed(), bytes);
    upstream.blob(blob.clone());
    blob
}

fn pull_blob(cache: &Server, registry: &str, blob: &PseudoRandom) {
    cache.client().pull(&blob_path(registry, &blob.digest()), blob);
}

/// Pulls a blob until the store in `root` has it. On a slow disk, the cache continues a pull without
/// storing.
fn store_blob(cache: &Server, registry: &str, blob: &PseudoRandom, root: &Path) {
    eventually("the blob is stored", || {
        pull_blob(cache, registry, blob);
        is_stored(root, &blob.digest())
    });
}

/// Pulls an image, and waits until the store in `root` has all its content.
fn store_image(cache: &Server, registry: &str, tag: &str, image: &Image, root: &Path) {
    let pointer = root.join("manifests").join(registry).join("a/_tags");
    eventually("the image is stored", || {
        let got = cache
            .client()
            .get_with(&manifest_path(registry, tag), &[("Accept", ACCEPT_ALL)]);
        got.expect(&image.manifest);
        for (digest, content) in &image.blobs {
            cache
                .client()
                .get(&blob_path(registry, digest))
                .expect(&content.bytes());
        }
        let digests = image.blobs.iter().map(|(digest, _)| digest);
        let is_whole = digests
            .chain([&image.digest])
            .all(|digest| is_stored(root, digest));
        let has_tag = std::fs::read_dir(&pointer).is_ok_and(|mut names| {
            names.any(|name| name.is_ok_and(|name| name.file_name().to_string_lossy().starts_with(tag)))
        });
        is_whole && has_tag
    });
}

/// Runs a command that succeeds, and returns its output as JSON.
#[track_caller]
fn json(cache: &Server, arguments: &[&str]) -> Value {
    let output = run(cache, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).expect("the output is JSON")
}

/// Returns the references of `list`.
#[track_caller]
fn listed(cache: &Server) -> Vec<String> {
    let output = run(cache, &["list", "--output", "name"]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().map(str::to_owned).collect()
}

fn image_name(registry: &str, tag: &str) -> String {
    format!("{registry}/a:{tag}")
}

struct TwoStores {
    upstream: Registry,
    cache: Server,
    own: PathBuf,
    image: Image,
    /// The directory around `own`, removed by the drop.
    dir: TempDir,
}

/// A cache with one image, pulled from both registries.
fn two_stores() -> TwoStores {
    let upstream = Registry::new();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let dir = TempDir::new();
    let own = dir.path.join("own");
    let cache = cache(&upstream, &own, "");
    store_image(&cache, OTHER, "v1", &image, cache.root());
    store_image(&cache, OWN, "v1", &image, &own);
    TwoStores {
        upstream,
        cache,
        own,
        image,
        dir,
    }
}

#[test]
fn content_of_a_registry_lies_in_its_directory_and_is_served_after_a_restart() {
    let upstream = Registry::new();
    let dir = TempDir::new();
    let own = dir.path.join("own");
    let mut cache = cache(&upstream, &own, "");
    let [of_own, of_other, of_both] = [3 * MIB, 3 * MIB, 3 * MIB].map(|bytes| blob(&upstream, bytes));
    store_blob(&cache, OWN, &of_own, &own);
    store_blob(&cache, OTHER, &of_other, cache.root());
    // The file of the default store stays open, and the store of the registry has the blob too.
    store_blob(&cache, OTHER, &of_both, cache.root());
    store_blob(&cache, OWN, &of_both, &own);
    assert!(!is_stored(cache.root(), &of_own.digest()));
    assert!(!is_stored(&own, &of_other.digest()));

    for is_killed in [false, true] {
        match is_killed {
            true => drop(cache.kill9()),
            false => cache.stop(),
        }
        upstream.clear_log();
        cache.restart();
        wait_scanned(&cache);
        for (registry, blob) in [
            (OWN, &of_own),
            (OTHER, &of_other),
            (OWN, &of_both),
            (OTHER, &of_both),
        ] {
            wait_hit(&cache, &blob_path(registry, &blob.digest()));
            pull_blob(&cache, registry, blob);
        }
        assert_eq!(upstream.gets("/blobs/"), 0);
    }
    cache.settled_store().expect_sound();
    disk::check(&own).expect_sound();
}

#[test]
fn air_gapped_cache_serves_the_images_of_both_stores() {
    let TwoStores {
        upstream,
        mut cache,
        image,
        own,
        dir: _dir,
    } = two_stores();
    cache.stop();
    upstream.clear_log();
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    wait_scanned(&cache);
    for registry in [OWN, OTHER] {
        let accept = [("Accept", ACCEPT_ALL)];
        let manifest = || cache.client().get_with(&manifest_path(registry, "v1"), &accept);
        eventually("the manifest is served", || manifest().status == 200);
        manifest().expect(&image.manifest);
        for (digest, content) in &image.blobs {
            let path = blob_path(registry, digest);
            eventually("the blob is served", || cache.client().get(&path).status == 200);
            cache.client().get(&path).expect(&content.bytes());
        }
    }
    assert_eq!(upstream.count(|_| true), 0, "no request is sent");
    disk::check(&own).expect_sound();
}

#[test]
fn commands_cover_all_stores_of_a_running_cache_and_without_one() {
    for is_running in [true, false] {
        let TwoStores {
            mut cache,
            own,
            image,
            dir: _dir,
            ..
        } = two_stores();
        if !is_running {
            cache.stop();
        }
        let [of_own, of_other] = [OWN, OTHER].map(|registry| image_name(registry, "v1"));
        assert_eq!(listed(&cache), [of_other.clone(), of_own.clone()]);
        let stats = json(&cache, &["stats"]);
        let store = &stats["registryStores"][0];
        assert_eq!(store["directory"].as_str(), own.to_str(), "{stats:#}");
        assert_eq!(store["registries"], serde_json::json!([OWN]));
        assert_eq!(store["stats"]["objects"], stats["objects"], "{stats:#}");
        let explained = json(&cache, &["explain", &of_own]);
        assert_eq!(explained["tag"]["digest"].as_str(), Some(&*image.digest));
        let verified = json(&cache, &["verify"]);
        assert_eq!(verified["images"], 2, "{verified:#}");
        assert_eq!(verified["objects"], 2 * (1 + image.blobs.len()));

        // A pin holds in every store.
        assert!(run(&cache, &["pin", "*.test/a:v1"]).status.success());
        let pruned = run(&cache, &["prune", "--all", "--yes"]);
        assert!(pruned.status.success(), "{pruned:?}");
        assert_eq!(listed(&cache), [of_other.clone(), of_own.clone()]);
        assert!(run(&cache, &["unpin", "*.test/a:v1"]).status.success());

        let objects = 2 + image.blobs.len();
        let planned = json(&cache, &["prune", "--all", "--dry-run"]);
        assert_eq!(planned["objects"], 2 * objects, "{planned:#}");
        let removed = json(&cache, &["purge", &of_own, "--yes"]);
        assert_eq!(
            (&removed["objects"], &removed["kept"]),
            (&objects.into(), &0.into())
        );
        assert_eq!(listed(&cache), [of_other]);
        assert!(!is_stored(&own, &image.digest) && is_stored(cache.root(), &image.digest));
        let removed = json(&cache, &["prune", "--all", "--yes"]);
        assert_eq!(removed["objects"], objects, "{removed:#}");
        assert_eq!(listed(&cache), [""; 0]);
        cache.settled_store().expect_sound();
        disk::check(&own).expect_sound();
    }
}

#[test]
fn admin_api_shows_the_images_of_all_stores_in_pages() {
    let TwoStores {
        cache,
        image,
        dir: _dir,
        ..
    } = two_stores();
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let (status, page) = send_json(&cache, "GET", &format!("/api/v1/images?limit=1{cursor}"), "");
        assert_eq!(status, 200, "{page:#}");
        for listed in page["images"].as_array().expect("images") {
            assert_eq!(listed["complete"], true, "{listed:#}");
            found.push(listed["repository"].as_str().expect("a name").to_owned());
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(found, [format!("{OTHER}/a"), format!("{OWN}/a")]);
    let (digest, _) = &image.blobs[0];
    let (status, blob) = send_json(&cache, "GET", &format!("/api/v1/blobs/{digest}"), "");
    assert_eq!(status, 200, "{blob:#}");
    assert_eq!(
        blob["images"],
        serde_json::json!([image_name(OTHER, "v1"), image_name(OWN, "v1")])
    );
}

#[test]
fn verification_names_the_directory_of_a_damaged_object() {
    let TwoStores {
        mut cache,
        own,
        image,
        dir: _dir,
        ..
    } = two_stores();
    cache.stop();
    let (digest, _) = &image.blobs[0];
    flip_byte(&disk::blob_path(&own, digest), 0);
    let output = run(&cache, &["verify", "--dry-run", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["damagedObjects"], 1, "{report:#}");
    let damaged = &report["damaged"][0];
    assert_eq!(damaged["directory"].as_str(), own.to_str(), "{report:#}");
    assert_eq!(damaged["images"], serde_json::json!([image_name(OWN, "v1")]));
}

#[test]
fn bound_of_a_registry_with_a_store_evicts_from_this_store_only() {
    let upstream = Registry::new();
    let dir = TempDir::new();
    let own = dir.path.join("own");
    let mut cache = cache(&upstream, &own, "cache_max_size: 9.5M");
    let blobs = |count: u64| -> Vec<PseudoRandom> { (0..count).map(|_| blob(&upstream, 4 * MIB)).collect() };
    let (old, foreign, new) = (blobs(2), blobs(3), blobs(2));
    for blob in &old {
        store_blob(&cache, OWN, blob, &own);
    }
    for blob in &foreign {
        store_blob(&cache, OTHER, blob, cache.root());
    }
    cache.stop();
    age(cache.root(), 5);
    age(&own, 5);
    cache.restart();
    wait_scanned(&cache);
    for blob in &new {
        store_blob(&cache, OWN, blob, &own);
    }
    assert!(!old.iter().any(|blob| is_stored(&own, &blob.digest())));
    assert!(foreign.iter().all(|blob| is_stored(cache.root(), &blob.digest())));
}

#[test]
fn full_disk_of_a_registry_does_not_disturb_other_registries() {
    let Some(small) = SmallDisk::mount(2 * MIB) else {
        return;
    };
    let upstream = Registry::new();
    let own = small.path.join("own");
    let cache = cache(&upstream, &own, "");
    let large = blob(&upstream, 4 * MIB);
    for _ in 0..2 {
        pull_blob(&cache, OWN, &large);
        let foreign = blob(&upstream, 4 * MIB);
        store_blob(&cache, OTHER, &foreign, cache.root());
        wait_hit(&cache, &blob_path(OTHER, &foreign.digest()));
    }
    assert!(!is_stored(&own, &large.digest()));
    assert_eq!(cache.client().get("/readyz").status, 200);
}

/// A file in place of the directory of the blobs fails every read and write of a blob, also for root.
#[test]
fn failing_store_of_a_registry_does_not_disturb_other_registries() {
    let upstream = Registry::new();
    let dir = TempDir::new();
    let own = dir.path.join("own");
    let cache = cache(&upstream, &own, "");
    std::fs::rename(own.join("blobs"), own.join("aside")).expect("move the directory");
    std::fs::write(own.join("blobs"), "").expect("write a file");
    let little = blob(&upstream, 1000);
    pull_blob(&cache, OWN, &little);
    cache.wait_stderr("store rejects writes");
    let line = cache.stderr();
    let line = line.lines().find(|line| line.contains("store rejects writes"));
    let directory = own.display().to_string();
    assert!(line.is_some_and(|line| line.contains(&directory)), "{line:?}");
    let foreign = blob(&upstream, 4 * MIB);
    store_blob(&cache, OTHER, &foreign, cache.root());
    assert_eq!(cache.client().get("/readyz").status, 200);
}

#[test]
fn full_default_disk_does_not_disturb_a_registry_with_a_store() {
    let Some(small) = SmallDisk::mount(2 * MIB) else {
        return;
    };
    let upstream = Registry::new();
    let dir = TempDir::new();
    let own = dir.path.join("own");
    let cache = started(options(&upstream, &own, "").root(&small.path));
    let large = blob(&upstream, 4 * MIB);
    pull_blob(&cache, OTHER, &large);
    assert!(!is_stored(&small.path, &large.digest()));
    store_blob(&cache, OWN, &large, &own);
}

#[test]
fn directory_that_overlaps_another_store_is_refused_at_the_start() {
    let upstream = Registry::new();
    let dir = TempDir::new();
    let root = dir.path.join("root");
    let link = dir.path.join("link");
    std::fs::create_dir(&root).expect("create a directory");
    symlink(&root, &link).expect("create a link");
    for (own, relation) in [
        (root.clone(), "is the same directory as"),
        (root.join("own"), "is inside"),
        (dir.path.clone(), "contains"),
        (link.join("own"), "is inside"),
    ] {
        let started = options(&upstream, &own, "").root(&root).try_start();
        let Err((_, stderr)) = started else {
            panic!("{} is accepted", own.display());
        };
        assert!(stderr.contains(relation), "{}: {stderr}", own.display());
        assert!(
            stderr.contains("set cache_dir to a directory outside"),
            "{stderr}"
        );
    }
    let bucket_alone = options(&upstream, &link, "")
        .env("STORAGE_BACKEND", "s3")
        .env("S3_BUCKET", "bucket")
        .try_start();
    let Err((_, stderr)) = bucket_alone else {
        panic!("a bucket alone accepts cache_dir");
    };
    assert!(stderr.contains("needs a local store"), "{stderr}");
}

#[test]
fn changed_directory_needs_a_restart_and_changes_nothing_before() {
    let upstream = Registry::new();
    let dir = TempDir::new();
    let (own, new) = (dir.path.join("own"), dir.path.join("new"));
    let cache = cache(&upstream, &own, "");
    let config = cache.home().join("config.yaml");
    let text = std::fs::read_to_string(&config).expect("read the configuration");
    let changed = text.replace(&own.display().to_string(), &new.display().to_string());
    assert_ne!(text, changed);
    server::write_private(&config, &changed);
    cache.sighup();
    cache.wait_stderr("setting needs a restart\" setting=registries.cache_dir");
    let blob = blob(&upstream, 3 * MIB);
    store_blob(&cache, OWN, &blob, &own);
    assert!(!new.exists());
}

#[test]
fn store_of_a_registry_lies_in_front_of_the_bucket() {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let dir = TempDir::new();
    let own = dir.path.join("own");
    let mut cache = bucket.behind(options(&upstream, &own, ""), "tiered").start();
    let blob = blob(&upstream, 3 * MIB);
    store_blob(&cache, OWN, &blob, &own);
    bucket.wait_has(&blob.digest());

    // Without its directory, the registry has its content from the bucket.
    cache.stop();
    std::fs::remove_dir_all(&own).expect("remove the store");
    upstream.clear_log();
    cache.restart();
    cache
        .get_from_bucket(&blob_path(OWN, &blob.digest()))
        .expect(&blob.bytes());
    if !cache.bypassed_bucket() {
        assert_eq!(upstream.gets(&blob.digest()), 0);
    }
    store_blob(&cache, OWN, &blob, &own);
    assert!(!is_stored(cache.root(), &blob.digest()));
}
