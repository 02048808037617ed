//! The command `export`, beside a running cache and after its end.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{fails, name, pull, run, started, two_images};
use crate::harness::content::{Content, PseudoRandom};
use crate::harness::image::Flavor;
use crate::harness::*;

/// The entries of a tar file, in their order.
type Entries = Vec<(String, Vec<u8>)>;

/// Exports into the file `file` of the home directory. Returns the path.
#[track_caller]
fn export(cache: &Server, file: &str, arguments: &[&str]) -> PathBuf {
    let path = cache.home().join(file);
    let output = run(
        cache,
        &[
            &["export", "-o", path.to_str().expect("a path is text")],
            arguments,
        ]
        .concat(),
    );
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    path
}

/// Exports, expects a failure, and checks that nothing of a bundle is left.
#[track_caller]
fn fails_without_a_bundle(cache: &Server, code: i32, part: &str, arguments: &[&str]) {
    let dir = cache.home().join("failed");
    fs::create_dir_all(&dir).expect("the directory is writable");
    let path = dir.join("bundle.tar");
    let path = path.to_str().expect("a path is text");
    fails(cache, code, part, &[&["export", "-o", path], arguments].concat());
    assert_eq!(fs::read_dir(&dir).expect("a directory").count(), 0);
}

fn entries(tar: &[u8]) -> Entries {
    let mut archive = tar::Archive::new(tar);
    let read = archive.entries().expect("a tar file").map(|entry| {
        let mut entry = entry.expect("an entry");
        let header = entry.header();
        let owner = (
            header.uid().unwrap(),
            header.gid().unwrap(),
            header.mtime().unwrap(),
        );
        assert_eq!(owner, (0, 0, 0));
        let path = entry.path().expect("a path").to_str().expect("text").to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("content");
        (path, content)
    });
    read.collect()
}

fn entries_of(path: &Path) -> Entries {
    entries(&fs::read(path).expect("a bundle"))
}

#[track_caller]
fn json_of(entries: &Entries, path: &str) -> Value {
    let found = entries.iter().find(|(found, _)| found == path);
    let (_, content) = found.unwrap_or_else(|| panic!("no {path}"));
    serde_json::from_slice(content).expect("JSON")
}

/// Returns the blobs by digest. Checks their digests.
fn blobs(entries: &Entries) -> BTreeMap<String, Vec<u8>> {
    let blobs = entries.iter().filter_map(|(path, content)| {
        let hex = path.strip_prefix("blobs/sha256/").filter(|hex| !hex.is_empty())?;
        assert_eq!(hex, hex_of(content));
        Some((format!("sha256:{hex}"), content.clone()))
    });
    blobs.collect()
}

fn hex_of(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the references of `index.json`. `None` for a descriptor without a name.
fn names(entries: &Entries) -> Vec<Option<String>> {
    let index = json_of(entries, "index.json");
    let manifests = index["manifests"].as_array().expect("a list");
    let name = |descriptor: &Value| {
        let annotations = &descriptor["annotations"];
        let name = annotations["org.opencontainers.image.ref.name"].as_str();
        assert_eq!(name, annotations["io.containerd.image.name"].as_str());
        name.map(str::to_owned)
    };
    manifests.iter().map(name).collect()
}

#[track_caller]
fn expect_whole(entries: &Entries, image: &Image) {
    let blobs = blobs(entries);
    assert_eq!(blobs.get(&image.digest), Some(&image.manifest));
    for (digest, content) in &image.blobs {
        assert_eq!(blobs.get(digest), Some(&content.bytes()), "{digest}");
    }
}

/// Changes a byte in the middle of a stored blob.
fn damage(cache: &Server, digest: &str) {
    let path = disk::blob_path(cache.root(), digest);
    let mut content = fs::read(&path).expect("a blob");
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&path, content).expect("the store is writable");
}

#[test]
fn bundle_is_an_oci_layout_and_a_docker_archive_of_all_images() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let images = two_images(&cache, &upstream);
    let path = export(&cache, "all.tar", &["--all"]);
    let entries = entries_of(&path);

    let head: Vec<&str> = entries.iter().take(6).map(|(path, _)| &**path).collect();
    assert_eq!(
        head,
        [
            "bundle.json",
            "index.json",
            "manifest.json",
            "oci-layout",
            "blobs/",
            "blobs/sha256/"
        ]
    );
    assert!(entries[6..].is_sorted_by_key(|(path, _)| path));
    assert_eq!(
        json_of(&entries, "oci-layout"),
        json!({"imageLayoutVersion": "1.0.0"})
    );
    let expected = [":v1", ":v2"].map(|rest| Some(name(&upstream, rest)));
    assert_eq!(names(&entries), expected);
    images.iter().for_each(|image| expect_whole(&entries, image));

    let archive = json_of(&entries, "manifest.json");
    for (image, entry) in images.iter().zip(archive.as_array().expect("a list")) {
        let paths = image.blobs.iter();
        let paths: Vec<String> = paths
            .map(|(digest, _)| digest.replace("sha256:", "blobs/sha256/"))
            .collect();
        assert_eq!(
            (&entry["Config"], &entry["Layers"]),
            (&json!(paths[0]), &json!(paths[1..]))
        );
    }
    assert_eq!(archive[0]["RepoTags"], json!([name(&upstream, ":v1")]));
    let beside = fs::read(cache.home().join("all.tar.index.json")).expect("the list beside the bundle");
    assert_eq!(beside, entries[0].1);
}

#[test]
fn exports_of_equal_content_have_equal_bytes() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    two_images(&cache, &upstream);
    let selections = [vec!["--all"], vec!["--all", "--zstd"]];
    let export_all = |cache: &Server, round: u32| {
        let bundles = selections.iter().enumerate().map(|(n, arguments)| {
            let path = export(cache, &format!("{round}-{n}.tar"), arguments);
            fs::read(path).expect("a bundle")
        });
        bundles.collect::<Vec<_>>()
    };
    let beside = export_all(&cache, 1);
    cache.stop();
    let after = export_all(&cache, 2);
    assert!(beside == after, "the bytes differ");
    let decompressed = zstd::decode_all(&*after[1]).expect("zstd");
    assert!(decompressed == after[0], "the compressed bundle differs");
    // Standard output gets the same bytes.
    let output = run(&cache, &["export", "--all", "-o", "-"]);
    assert!(output.status.success() && output.stdout == after[0]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 images"));
}

#[test]
fn selection_by_name_list_and_pattern_exports_only_these_images() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    two_images(&cache, &upstream);
    let v2 = name(&upstream, ":v2");
    let list = cache.home().join("images.txt");
    fs::write(&list, format!("{v2}\n")).expect("the directory is writable");
    let list = list.to_str().expect("a path is text");
    assert!(run(&cache, &["pin", &v2]).status.success());
    for arguments in [
        vec![&*v2],
        vec!["--image-file", list],
        vec!["--pattern", ":v2$"],
        vec!["--pinned"],
        vec!["--pinned", "--used-since", "1d"],
    ] {
        let path = export(&cache, "one.tar", &arguments);
        assert_eq!(names(&entries_of(&path)), [Some(v2.clone())], "{arguments:?}");
    }
    fails_without_a_bundle(&cache, 2, "--used-since or --all", &[]);
    fails_without_a_bundle(&cache, 2, "regular expression", &["--pattern", "("]);
    fails_without_a_bundle(&cache, 3, "no stored image", &["--pattern", "other"]);
    fails_without_a_bundle(&cache, 3, "no stored image", &["--used-since", "2199-01-01"]);
    let absent = name(&upstream, ":v3");
    fails_without_a_bundle(&cache, 1, &absent, &[&absent, &v2]);
    let path = export(&cache, "one.tar", &[&absent, &v2, "--skip-incomplete"]);
    assert_eq!(names(&entries_of(&path)), [Some(v2)]);
}

#[test]
fn index_stays_whole_and_has_the_stored_platforms() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let seed = fresh_seed();
    let layer = |n| [Content::from(PseudoRandom::new(seed + n, 50_000))];
    let index = Image::push_index(&upstream, "org/app", "v1", Flavor::Oci, [&layer(0), &layer(1)]);
    pull(&cache, &upstream, "org/app", "v1", &index_head(&index));
    let [amd64, arm64] = &index.children[..] else {
        panic!("an index of two platforms");
    };
    pull(&cache, &upstream, "org/app", &amd64.digest, amd64);
    let v1 = name(&upstream, ":v1");
    let path = export(&cache, "amd64.tar", &["--all"]);
    let one = entries_of(&path);
    assert_eq!(names(&one), [Some(v1.clone())]);
    assert_eq!(blobs(&one).get(&index.digest), Some(&index.manifest));
    expect_whole(&one, amd64);
    assert!(!blobs(&one).contains_key(&arm64.digest));
    let bundle = json_of(&one, "bundle.json");
    assert_eq!(bundle["images"][0]["platforms"], json!(["linux/amd64"]));
    assert_eq!(json_of(&one, "manifest.json")[0]["RepoTags"], json!([v1]));
    assert_eq!(
        entries_of(&export(
            &cache,
            "amd64.tar",
            &["--all", "--platform", "linux/amd64"]
        )),
        one
    );

    fails_without_a_bundle(&cache, 1, &v1, &["--all", "--platform", "all"]);
    fails_without_a_bundle(&cache, 1, &arm64.digest, &["--all", "--platform", "linux/arm64"]);
    pull(&cache, &upstream, "org/app", &arm64.digest, arm64);
    let both = entries_of(&export(&cache, "both.tar", &["--all", "--platform", "all"]));
    expect_whole(&both, amd64);
    expect_whole(&both, arm64);
    assert!(both.iter().all(|(path, _)| path != "manifest.json"));
}

/// Returns the index itself, without its platforms.
fn index_head(index: &Image) -> Image {
    Image {
        digest: index.digest.clone(),
        media_type: index.media_type.clone(),
        manifest: index.manifest.clone(),
        blobs: Vec::new(),
        children: Vec::new(),
    }
}

#[test]
fn damaged_or_missing_content_ends_the_export_without_a_bundle() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    let [first, second] = two_images(&cache, &upstream);
    cache.stop();
    let earlier = export(&cache, "all.tar", &["--all"]);
    let bytes = fs::read(&earlier).expect("a bundle");
    let (own, _) = &second.blobs[2];
    damage(&cache, own);
    let v2 = name(&upstream, ":v2");
    for arguments in [
        vec!["--all"],
        vec!["--all", "--split", "1MiB"],
        vec!["--all", "--zstd"],
    ] {
        fails_without_a_bundle(&cache, 1, &format!("{own} of {v2}"), &arguments);
    }
    // An earlier bundle stays.
    let path = earlier.to_str().expect("a path is text");
    fails(
        &cache,
        1,
        "does not match its digest",
        &["export", "--all", "-o", path],
    );
    assert!(fs::read(&earlier).expect("a bundle") == bytes);
    // The other image is intact.
    let v1 = name(&upstream, ":v1");
    expect_whole(&entries_of(&export(&cache, "v1.tar", &[&v1])), &first);

    fs::remove_file(disk::blob_path(cache.root(), own)).expect("a blob");
    fails_without_a_bundle(&cache, 1, &format!("{v2}: the store lacks"), &["--all"]);
    let rest = export(&cache, "rest.tar", &["--all", "--skip-incomplete"]);
    assert_eq!(names(&entries_of(&rest)), [Some(v1)]);
}

#[test]
fn volumes_are_the_bundle_in_parts_with_their_digests() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let layers = [Content::from(PseudoRandom::new(fresh_seed(), 3_000_000))];
    let image = Image::push(&upstream, "org/app", "v1", Flavor::Oci, &layers);
    pull(&cache, &upstream, "org/app", "v1", &image);
    cache.settled_store();
    eventually("the tag is stored", || {
        run(&cache, &["list", "--output", "name"])
            .stdout
            .ends_with(b":v1\n")
    });
    let whole = fs::read(export(&cache, "whole.tar", &["--all"])).expect("a bundle");
    let path = export(&cache, "parts.tar", &["--all", "--split", "1MiB"]);
    assert!(!path.exists());
    let list = fs::read(cache.home().join("parts.tar.volumes.json")).expect("the list of volumes");
    let list: Value = serde_json::from_slice(&list).expect("JSON");
    let mut joined = Vec::new();
    for (n, volume) in list["volumes"].as_array().expect("a list").iter().enumerate() {
        let name = format!("parts.tar.{n:03}");
        let content = fs::read(cache.home().join(&name)).expect("a volume");
        assert_eq!(volume["name"], name);
        assert_eq!(volume["size"], content.len());
        assert_eq!(volume["digest"], format!("sha256:{}", hex_of(&content)));
        joined.extend(content);
    }
    assert!(joined == whole, "the volumes are not the bundle");
    assert!(list["volumes"].as_array().expect("a list").len() >= 3);
}

#[test]
fn delta_leaves_out_the_blobs_of_its_base() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let [_, second] = two_images(&cache, &upstream);
    let v1 = name(&upstream, ":v1");
    export(&cache, "base.tar", &[&v1]);
    let base = cache.home().join("base.tar.index.json");
    let base = base.to_str().expect("a path is text");
    let delta = entries_of(&export(&cache, "delta.tar", &["--all", "--base", base]));
    let inside = blobs(&delta);
    let [config, common, own] = &second.blobs[..] else {
        panic!("a config and two layers");
    };
    assert!(inside.contains_key(&own.0) && inside.contains_key(&config.0));
    assert!(!inside.contains_key(&common.0));
    assert!(inside.contains_key(&second.digest), "manifests stay");
    let list = json_of(&delta, "bundle.json");
    let blobs = list["blobs"].as_array().expect("a list");
    let place = |digest: &str| {
        let blob = blobs.iter().find(|blob| blob["digest"] == digest);
        blob.map(|blob| blob["in"].clone())
    };
    assert_eq!(place(&common.0), Some(json!("base")));
    assert_eq!(place(&own.0), Some(json!("bundle")));
    let base_bytes = fs::read(base).expect("the base");
    assert_eq!(list["base"], format!("sha256:{}", hex_of(&base_bytes)));
    assert!(delta.iter().all(|(path, _)| path != "manifest.json"));
    // The list of the delta is the base of the next delta.
    let next = cache.home().join("delta.tar.index.json");
    let next = next.to_str().expect("a path is text");
    let empty = entries_of(&export(&cache, "next.tar", &["--all", "--base", next]));
    assert!(!self::blobs(&empty).contains_key(&own.0));
    fails_without_a_bundle(&cache, 2, "NAME.index.json", &["--all", "--base", "/dev/null"]);
}

#[test]
fn signatures_and_referrers_are_exported_with_their_image() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    pull(&cache, &upstream, "org/app", "v1", &image);
    let tag = format!("{}.sig", image.digest.replace(':', "-"));
    let signature = Image::small(&upstream, "org/app", &tag, fresh_seed());
    pull(&cache, &upstream, "org/app", &tag, &signature);
    let sbom = json!({
        "schemaVersion": 2, "mediaType": Flavor::Oci.manifest(), "artifactType": "application/x-sbom",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": signature.blobs[0].0, "size": 2},
        "layers": [], "annotations": {"mark": "sbom"},
        "subject": {"mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len()},
    });
    let sbom = serde_json::to_vec(&sbom).expect("JSON");
    let digest = upstream.manifest("org/app", Flavor::Oci.manifest(), sbom.clone());
    let url = upstream.manifest_url("org/app", &digest);
    cache.client().get(&url).expect(&sbom);
    cache.wait_stored(&digest);
    eventually("both tags are stored", || {
        let output = run(&cache, &["list", "--output", "name"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.contains(":v1") && text.contains(&tag)
    });

    let v1 = name(&upstream, ":v1");
    let entries = entries_of(&export(&cache, "signed.tar", &[&v1]));
    let signature_name = name(&upstream, &format!(":{tag}"));
    let found = names(&entries);
    assert_eq!(found.len(), 3);
    assert_eq!(found[2], None, "the referrer has no name");
    assert!(found.contains(&Some(signature_name)) && found.contains(&Some(v1.clone())));
    expect_whole(&entries, &signature);
    assert_eq!(blobs(&entries).get(&digest), Some(&sbom));
    let referrer = &json_of(&entries, "bundle.json")["referrers"][0];
    assert_eq!(referrer["subject"], *image.digest);
    assert_eq!(referrer["repository"], name(&upstream, ""));
    assert_eq!(referrer["descriptor"]["artifactType"], "application/x-sbom");
    assert_eq!(referrer["descriptor"]["annotations"]["mark"], "sbom");

    let alone = entries_of(&export(&cache, "alone.tar", &[&v1, "--no-referrers"]));
    assert_eq!(names(&alone), [Some(v1)]);
    assert!(!blobs(&alone).contains_key(&digest));
}

#[test]
fn path_that_is_no_file_is_refused() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    two_images(&cache, &upstream);
    fails(
        &cache,
        1,
        "no regular file",
        &["export", "--all", "-o", "/dev/null"],
    );
    fails(&cache, 1, "no regular file", &["export", "--all", "-o", "/"]);
    fails(
        &cache,
        2,
        "--split needs files",
        &["export", "--all", "-o", "-", "--split", "4GiB"],
    );
    fails(
        &cache,
        2,
        "at least 1MiB",
        &["export", "--all", "-o", "x", "--split", "1"],
    );
}

/// The second kill is between the temporary name and the name of the bundle.
#[cfg(feature = "fail-points")]
#[test]
fn killed_export_leaves_no_file_after_the_next_export_to_the_same_name() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    two_images(&cache, &upstream);
    let dir = cache.home().join("killed");
    fs::create_dir(&dir).expect("the directory is writable");
    let names = || {
        let entries = fs::read_dir(&dir).expect("a directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().expect("text")).collect();
        names.sort();
        names
    };
    let path = dir.join("bundle.tar");
    let path = path.to_str().expect("a path is text");
    for (point, left) in [("export-object:abort:2", 0), ("temporary-file-linked:abort:1", 1)] {
        let output = Server::command(cache.home(), cache.root())
            .env("FAIL_POINT", point)
            .args(["export", "--all", "-o", path])
            .output()
            .expect("the binary starts");
        assert_eq!(output.status.code(), None, "{point}: {output:?}");
        assert_eq!(names().len(), left, "{point}: {:?}", names());
    }
    let output = run(&cache, &["export", "--all", "-o", path]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(names(), ["bundle.tar", "bundle.tar.index.json"]);
}
