//! The command `list`, beside a running cache and after the end of the cache.

use std::process::Output;

use serde_json::Value;

use super::{pull, run};
use crate::harness::content::{Content, PseudoRandom};
use crate::harness::image::Flavor;
use crate::harness::*;

/// A cache with a local store.
fn cache(upstream: &Registry) -> Server {
    Server::options(upstream).env("STORAGE_BACKEND", "fs").start()
}

fn list(cache: &Server, arguments: &[&str]) -> Output {
    run(cache, &[&["list"], arguments].concat())
}

#[track_caller]
fn listed(cache: &Server, arguments: &[&str]) -> String {
    let output = list(cache, arguments);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).expect("the output is text")
}

#[track_caller]
fn json(cache: &Server) -> Vec<Value> {
    let text = listed(cache, &["--output", "json"]);
    serde_json::from_str(&text).expect("the output is a list in JSON")
}

fn stored_bytes(image: &Image) -> u64 {
    let blobs = image.blobs.iter().map(|(_, content)| content.size());
    image.manifest.len() as u64 + blobs.sum::<u64>()
}

#[test]
fn pulled_image_is_listed_beside_the_cache_and_after_its_end() {
    let upstream = Registry::new();
    let mut cache = cache(&upstream);
    assert_eq!(listed(&cache, &[]), "", "an empty store");
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    pull(&cache, &upstream, "org/app", "v1", &image);

    let beside = json(&cache);
    assert_eq!(beside.len(), 1, "{beside:?}");
    let repository = format!("{}/org/app", upstream.name());
    for (member, expected) in [
        ("repository", Value::from(&*repository)),
        ("tag", "v1".into()),
        ("digest", (&*image.digest).into()),
        ("kind", "image".into()),
        ("size", stored_bytes(&image).into()),
        ("blobs", image.blobs.len().into()),
        ("missingBlobs", 0.into()),
        ("missingManifests", 0.into()),
    ] {
        assert_eq!(beside[0][member], expected, "{member}");
    }
    assert_eq!(listed(&cache, &["--output=name"]), format!("{repository}:v1\n"));
    cache.stop();
    assert_eq!(json(&cache), beside);
}

#[test]
fn index_is_listed_with_its_stored_platforms_and_its_missing_content() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let seed = fresh_seed();
    let layer = |n| [Content::from(PseudoRandom::new(seed + n, 50_000))];
    let index = Image::push_index(&upstream, "org/app", "v2", Flavor::Oci, [&layer(0), &layer(1)]);
    pull(&cache, &upstream, "org/app", "v2", &index);
    let [amd64, arm64] = &index.children[..] else {
        panic!("an index of two platforms");
    };
    pull(&cache, &upstream, "org/app", &amd64.digest, amd64);

    let images = json(&cache);
    let [list, child] = &images[..] else {
        panic!("{images:?}")
    };
    assert_eq!(list["kind"], "list");
    assert_eq!(list["platforms"], serde_json::json!(["linux/amd64"]));
    assert_eq!(list["size"], index.manifest.len() as u64 + stored_bytes(amd64));
    assert_eq!(
        (&list["missingBlobs"], &list["missingManifests"]),
        (&0.into(), &1.into())
    );
    assert_eq!((&child["tag"], &child["kind"]), (&Value::Null, &"image".into()));
    assert_eq!(child["digest"], &*amd64.digest);

    // The manifest of the other platform, without its blobs.
    let path = upstream.manifest_url("org/app", &arm64.digest);
    cache.client().get(&path).expect(&arm64.manifest);
    cache.wait_stored(&arm64.digest);
    let images = json(&cache);
    assert_eq!(images[0]["missingBlobs"], arm64.blobs.len());
    assert_eq!(images[0]["missingManifests"], 0);
}

#[test]
fn table_is_filtered_by_pattern_and_has_a_header_on_request() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    for (repository, tag) in [("org/app", "v1"), ("org/app", "v2"), ("other", "v1")] {
        let image = Image::small(&upstream, repository, tag, fresh_seed());
        pull(&cache, &upstream, repository, tag, &image);
    }
    let rows = |arguments: &[&str]| -> Vec<Vec<String>> {
        let text = listed(&cache, arguments);
        let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
        text.lines().map(cells).collect()
    };
    let all = rows(&["--header"]);
    assert_eq!(
        all[0],
        ["IMAGE", "TAG/DIGEST", "TYPE", "CREATED", "PULLED", "SIZE(MB)"]
    );
    let names: Vec<_> = all[1..]
        .iter()
        .map(|row| format!("{}:{}", row[0], row[1]))
        .collect();
    let name = upstream.name();
    assert_eq!(
        names,
        ["org/app:v1", "org/app:v2", "other:v1"].map(|image| format!("{name}/{image}"))
    );
    assert_eq!(rows(&["--pattern", "app:v2,other"]).len(), 2);
    assert_eq!(rows(&["--pattern", "nothing"]).len(), 0);
    let wide = rows(&["--output", "wide", "--short-digest", "--pattern", "other"]);
    assert_eq!(wide[0][6].len(), 10, "{wide:?}");
}

#[test]
fn mistakes_are_answered_with_their_cause_and_cure() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let absent = cache.home().join("absent");
    for (arguments, code, expected) in [
        (["--pattern", "("], 2, "no regular expression"),
        (["--output", "xml"], 2, "possible values: table, wide, json, name"),
        (
            ["--fs-root", absent.to_str().unwrap()],
            1,
            "set FS_ROOT (--fs-root)",
        ),
    ] {
        let output = list(&cache, &arguments);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains(expected), "{error}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

#[test]
fn foreign_files_and_damaged_entries_are_left_out_and_left_alone() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    pull(&cache, &upstream, "org/app", "v1", &image);
    let before = json(&cache);
    let repository = cache
        .root()
        .join("manifests")
        .join(upstream.name())
        .join("org/app");
    let junk = [
        repository.join("_tags/..v9"),
        repository.join("_tags/v8"),
        repository.join("notes.txt"),
        repository.join(format!("sha256-{}", "0".repeat(64))),
        cache.root().join("manifests/not a registry"),
    ];
    for path in &junk {
        std::fs::write(path, "junk").unwrap();
    }
    // Each level of a walk along these links would double the number of directories.
    for link in ["loop", "ring"] {
        std::os::unix::fs::symlink(".", repository.join(link)).unwrap();
    }
    assert_eq!(json(&cache), before);
    assert!(junk.iter().all(|path| path.exists()));
}
