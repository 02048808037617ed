//! The command `import`: archives, split bundles and directories, beside a running cache and without one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::run;
use crate::harness::image::{ACCEPT_ALL, Flavor};
use crate::harness::*;

/// A file of an archive.
type Entry = (String, Vec<u8>);

/// Starts a cache without a registry to contact.
fn isolated(upstream: &Registry) -> Server {
    let options = Server::options(upstream)
        .env("AIR_GAPPED", "true")
        .env("SCRUB_INTERVAL", "0");
    super::started(options)
}

/// Runs `import`. Returns the exit code and the report.
#[track_caller]
fn import(cache: &Server, arguments: &[&str]) -> (i32, Value) {
    let output = run(cache, &[&["import", "--output", "json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().expect("an exit code"), report)
}

fn blob(digest: &str, content: &[u8]) -> Entry {
    (format!("blobs/{}", digest.replace(':', "/")), content.to_vec())
}

/// Returns the manifests and blobs of `image` as entries of an image layout.
fn blobs_of(image: &Image) -> Vec<Entry> {
    let own = image
        .blobs
        .iter()
        .map(|(digest, content)| blob(digest, &content.bytes()));
    let mut entries: Vec<Entry> = own.collect();
    entries.push(blob(&image.digest, &image.manifest));
    entries.extend(image.children.iter().flat_map(blobs_of));
    entries
}

/// Returns an image layout with its index at the end.
fn layout(images: &[(&Image, &str)]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = images.iter().flat_map(|(image, _)| blobs_of(image)).collect();
    let manifests = images.iter().map(|(image, name)| {
        json!({
            "mediaType": image.media_type, "digest": image.digest, "size": image.manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": name},
        })
    });
    let index = json!({"schemaVersion": 2, "manifests": manifests.collect::<Vec<_>>()});
    entries.push(("oci-layout".into(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
    entries.push(("index.json".into(), index.to_string().into_bytes()));
    entries
}

fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, &content[..])
            .expect("a vector grows");
    }
    builder.into_inner().expect("a vector grows")
}

/// Writes a file in the home of `cache`. Returns its path.
fn write(cache: &Server, name: &str, bytes: &[u8]) -> String {
    let path = cache.home().join(name);
    fs::write(&path, bytes).expect("the directory is writable");
    path.to_str().expect("a path is text").to_owned()
}

/// Writes `entries` as files below a new directory. Returns its path.
fn unpack(cache: &Server, name: &str, entries: &[Entry]) -> String {
    let dir = cache.home().join(name);
    for (path, content) in entries {
        let path = dir.join(path);
        let parent: &Path = path.parent().expect("a file has a directory");
        fs::create_dir_all(parent).expect("the directory is writable");
        fs::write(path, content).expect("the directory is writable");
    }
    dir.to_str().expect("a path is text").to_owned()
}

/// Pulls an image and all its content from the cache.
#[track_caller]
fn expect_pulled(cache: &Server, upstream: &Registry, repository: &str, reference: &str, image: &Image) {
    let path = upstream.manifest_url(repository, reference);
    let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
    got.expect(&image.manifest);
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url(repository, digest))
            .expect(&content.bytes());
    }
    for child in &image.children {
        expect_pulled(cache, upstream, repository, &child.digest, child);
    }
}

fn status(cache: &Server, upstream: &Registry, repository: &str, reference: &str) -> u16 {
    let path = upstream.manifest_url(repository, reference);
    cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]).status
}

/// An image with one platform, and an image with two, in a registry that is down.
fn two_images(upstream: &Registry) -> [(Image, String); 2] {
    let seed = fresh_seed();
    let layer = |n: u64, size| [Content::from(PseudoRandom::new(seed + n, size))];
    let one = Image::small(upstream, "org/one", "v1", seed + 10);
    // Larger than a manifest, so that the import writes the layer in parts.
    let two = Image::push_index(
        upstream,
        "org/two",
        "v2",
        Flavor::Docker,
        [&layer(0, 5_000_000), &layer(1, 90_000)],
    );
    upstream.down();
    let name = |rest| format!("{}/{rest}", upstream.name());
    [(one, name("org/one:v1")), (two, name("org/two:v2"))]
}

fn named(images: &[(Image, String); 2]) -> Vec<(&Image, &str)> {
    images.iter().map(|(image, name)| (image, &**name)).collect()
}

/// Imports an archive, and pulls its images.
fn archive_is_imported(is_running: bool, pack: impl Fn(Vec<u8>) -> Vec<u8>) -> Value {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let mut cache = isolated(&upstream);
    let path = write(&cache, "images", &pack(tar_of(&layout(&named(&images)))));
    if !is_running {
        cache.stop();
    }
    let (code, mut report) = import(&cache, &["--public", &path]);
    assert_eq!(
        (code, &report["held"], &report["failed"]),
        (0, &json!(2), &json!(0)),
        "{report}"
    );
    if !is_running {
        cache.restart();
    }
    for ((image, _), (repository, tag)) in images.iter().zip([("org/one", "v1"), ("org/two", "v2")]) {
        expect_pulled(&cache, &upstream, repository, tag, image);
    }
    cache.settled_store().expect_clean();
    // Names and digests differ between tests.
    report["images"] = json!(report["images"].as_array().map(Vec::len));
    report
}

#[test]
fn archive_is_imported_alike_with_and_without_a_running_cache() {
    let plain = |tar| tar;
    assert_eq!(
        archive_is_imported(true, plain),
        archive_is_imported(false, plain)
    );
}

#[test]
fn compressed_archive_is_imported() {
    archive_is_imported(true, |tar| zstd::encode_all(&tar[..], 3).expect("a vector grows"));
    archive_is_imported(false, |tar| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &tar).expect("a vector grows");
        encoder.finish().expect("a vector grows")
    });
}

#[test]
fn private_archive_is_not_readable_without_its_registry() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let cache = isolated(&upstream);
    let path = write(&cache, "images.tar", &tar_of(&layout(&named(&images))));
    let (code, report) = import(&cache, &[&path]);
    assert_eq!((code, &report["held"]), (0, &json!(2)), "{report}");
    assert_ne!(status(&cache, &upstream, "org/one", "v1"), 200);
    let (code, _) = import(&cache, &["--public", &path]);
    assert_eq!(code, 0);
    expect_pulled(&cache, &upstream, "org/one", "v1", &images[0].0);
}

#[test]
fn dry_run_changes_nothing() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let cache = isolated(&upstream);
    let path = write(&cache, "images.tar", &tar_of(&layout(&named(&images))));
    let (code, report) = import(&cache, &["--public", "--dry-run", &path]);
    assert_eq!(
        (code, &report["held"], &report["added"]),
        (0, &json!(2), &json!(0)),
        "{report}"
    );
    assert_eq!(status(&cache, &upstream, "org/one", "v1"), 404);
    assert!(!cache.is_stored(&images[0].0.blobs[0].0));
}

#[test]
fn image_with_a_missing_layer_stays_invisible_until_the_layer_is_imported() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let cache = isolated(&upstream);
    let missing = &images[0].0.blobs[2].0;
    let whole = layout(&named(&images));
    let mut partial = whole.clone();
    partial.retain(|(path, _)| !path.ends_with(&missing[7..]));
    let path = write(&cache, "partial.tar", &tar_of(&partial));
    let (code, report) = import(&cache, &["--public", &path]);
    assert_eq!(
        (code, &report["held"], &report["failed"]),
        (1, &json!(1), &json!(1)),
        "{report}"
    );
    let failed = &report["images"][0];
    assert_eq!(
        (&failed["state"], &failed["missing"]),
        (&json!("failed"), &json!([missing])),
        "{report}"
    );
    assert_eq!(status(&cache, &upstream, "org/one", "v1"), 404);
    assert_eq!(status(&cache, &upstream, "org/one", &images[0].0.digest), 404);
    expect_pulled(&cache, &upstream, "org/two", "v2", &images[1].0);
    // The content that the first import brought counts.
    let rest: Vec<Entry> = whole
        .into_iter()
        .filter(|(path, _)| path.ends_with(&missing[7..]) || path == "index.json")
        .chain([
            blob(&images[0].0.digest, &images[0].0.manifest),
            blob(&images[1].0.digest, &images[1].0.manifest),
        ])
        .chain(
            images[1]
                .0
                .children
                .iter()
                .map(|child| blob(&child.digest, &child.manifest)),
        )
        .collect();
    let path = write(&cache, "rest.tar", &tar_of(&rest));
    let (code, report) = import(&cache, &["--public", &path]);
    assert_eq!((code, &report["held"]), (0, &json!(2)), "{report}");
    expect_pulled(&cache, &upstream, "org/one", "v1", &images[0].0);
}

#[test]
fn damaged_blob_is_named_and_never_stored() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let cache = isolated(&upstream);
    let damaged = &images[1].0.children[0].blobs[1].0;
    let mut entries = layout(&named(&images));
    for (path, content) in &mut entries {
        if path.ends_with(&damaged[7..]) {
            content[1_000_000] ^= 1;
        }
    }
    let path = write(&cache, "damaged.tar", &tar_of(&entries));
    let (code, report) = import(&cache, &["--public", &path]);
    assert_eq!(
        (code, &report["damaged"], &report["held"]),
        (1, &json!([damaged]), &json!(1)),
        "{report}"
    );
    assert!(!cache.is_stored(damaged));
    assert_eq!(status(&cache, &upstream, "org/two", "v2"), 404);
    expect_pulled(&cache, &upstream, "org/one", "v1", &images[0].0);
    cache.settled_store().expect_clean();
}

#[test]
fn archive_that_ends_early_names_no_image() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let cache = isolated(&upstream);
    let bytes = tar_of(&layout(&named(&images)));
    let path = write(&cache, "short.tar", &bytes[..bytes.len() - 3_000]);
    let (code, report) = import(&cache, &["--public", &path]);
    assert_eq!((code, &report["held"]), (1, &json!(0)), "{report}");
    assert!(
        report["error"]
            .as_str()
            .is_some_and(|error| error.contains("ends early")),
        "{report}"
    );
    assert_eq!(status(&cache, &upstream, "org/one", "v1"), 404);
    assert!(
        !cache.is_stored(&images[0].0.blobs[1].0),
        "blobs without an image are removed"
    );
}

#[test]
fn docker_archive_is_imported_with_the_digest_of_its_config() {
    let upstream = Registry::new();
    let (image, _) = &two_images(&upstream)[0];
    let cache = isolated(&upstream);
    let (config, config_content) = &image.blobs[0];
    let mut entries = vec![(format!("{}.json", &config[7..]), config_content.bytes().to_vec())];
    let mut layers = Vec::new();
    for (number, (_, content)) in image.blobs[1..].iter().enumerate() {
        let path = format!("{number}/layer.tar");
        entries.push((path.clone(), content.bytes().to_vec()));
        layers.push(path);
    }
    let name = format!("{}/org/saved:v3", upstream.name());
    let list = json!([{"Config": entries[0].0, "RepoTags": [name], "Layers": layers}]);
    entries.push(("manifest.json".into(), list.to_string().into_bytes()));
    let path = write(&cache, "saved.tar", &tar_of(&entries));
    let (code, report) = import(&cache, &["--public", &path]);
    assert_eq!((code, &report["held"]), (0, &json!(1)), "{report}");
    let path = upstream.manifest_url("org/saved", "v3");
    let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
    let manifest: Value = serde_json::from_slice(&got.body).expect("JSON");
    assert_eq!(manifest["config"]["digest"], json!(config));
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("org/saved", digest))
            .expect(&content.bytes());
    }
}

#[test]
fn image_without_a_name_gets_the_given_name() {
    let upstream = Registry::new();
    let (image, _) = &two_images(&upstream)[0];
    let cache = isolated(&upstream);
    let path = write(&cache, "image.tar", &tar_of(&layout(&[(image, "v1")])));
    let (code, report) = import(&cache, &["--public", &path]);
    assert_eq!(code, 1);
    let error = report["images"][0]["error"].as_str().unwrap_or_default();
    assert!(error.contains("--resolve-ref"), "{report}");
    let name = format!("{}/org/given:v9", upstream.name());
    let (code, report) = import(&cache, &["--public", "--resolve-ref", &name, &path]);
    assert_eq!(code, 0, "{report}");
    expect_pulled(&cache, &upstream, "org/given", "v9", image);
}

#[test]
fn directories_of_other_systems_are_imported() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let (image, name) = &images[0];
    let registry = upstream.name().to_owned();
    for system in ["layout", "ociregistry", "distribution", "go"] {
        let cache = isolated(&upstream);
        let (entries, extra): (Vec<Entry>, &[&str]) = match system {
            "layout" => (layout(&[(image, name)]), &[]),
            "ociregistry" => (of_ociregistry(image, name), &[]),
            "go" => (of_go_store(image, &registry), &[]),
            _ => (of_distribution(image), &["--registry", &registry]),
        };
        let dir = unpack(&cache, system, &entries);
        let arguments = [&["--public", &dir], extra].concat();
        let (code, report) = import(&cache, &arguments);
        assert_eq!((code, &report["held"]), (0, &json!(1)), "{system}: {report}");
        expect_pulled(&cache, &upstream, "org/one", "v1", image);
    }
}

fn of_ociregistry(image: &Image, name: &str) -> Vec<Entry> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.encode(&image.manifest);
    let holder = json!({"type": 3, "digest": image.digest[7..], "imageUrl": name, "bytes": bytes});
    let blobs = image.blobs.iter();
    let blobs = blobs.map(|(digest, content)| (format!("blobs/{}", &digest[7..]), content.bytes().to_vec()));
    let mut entries: Vec<Entry> = blobs.collect();
    entries.push((
        format!("img/{}", &image.digest[7..]),
        holder.to_string().into_bytes(),
    ));
    entries.push(("lts/none".into(), b"{}".to_vec()));
    entries
}

fn of_distribution(image: &Image) -> Vec<Entry> {
    let path = |digest: &str| {
        let hex = &digest[7..];
        format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2])
    };
    let blobs = image.blobs.iter();
    let mut entries: Vec<Entry> = blobs
        .map(|(digest, content)| (path(digest), content.bytes().to_vec()))
        .collect();
    entries.push((path(&image.digest), image.manifest.clone()));
    let link = "docker/registry/v2/repositories/org/one/_manifests/tags/v1/current/link";
    entries.push((link.into(), image.digest.clone().into_bytes()));
    entries
}

#[test]
fn blobs_of_oci_proxy_are_imported_without_images() {
    let upstream = Registry::new();
    let (image, _) = &two_images(&upstream)[0];
    let cache = isolated(&upstream);
    let blobs = image.blobs.iter();
    let entries: Vec<Entry> = blobs
        .map(|(digest, content)| (digest.clone(), content.bytes().to_vec()))
        .collect();
    let dir = unpack(&cache, "cache_dir", &entries);
    let (code, report) = import(&cache, &["--public", &dir]);
    assert_eq!(
        (code, &report["added"]),
        (0, &json!(image.blobs.len())),
        "{report}"
    );
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("org/one", digest))
            .expect(&content.bytes());
    }
}

#[test]
fn split_bundle_with_a_damaged_volume_shows_no_image() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    for is_running in [true, false] {
        let mut cache = isolated(&upstream);
        let bytes = tar_of(&layout(&named(&images)));
        let third = bytes.len().div_ceil(3);
        let volumes: Vec<Value> = (0..)
            .zip(bytes.chunks(third))
            .map(|(number, part): (usize, &[u8])| {
                let name = format!("b.tar.{number:03}");
                write(&cache, &name, part);
                json!({"name": name, "size": part.len(), "digest": Content::from(part.to_vec()).digest()})
            })
            .collect();
        let list = json!({
            "mediaType": "application/vnd.oci-pull-through.volumes.v1+json", "volumes": volumes,
        });
        let path = write(&cache, "b.tar.volumes.json", list.to_string().as_bytes());
        let volume: PathBuf = cache.home().join("b.tar.001");
        let good = fs::read(&volume).expect("a volume");
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        fs::write(&volume, &bad).expect("the directory is writable");
        if !is_running {
            cache.stop();
        }
        let output = run(&cache, &["import", "--public", &path]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("b.tar.001"), "{stderr}");
        if !is_running {
            cache.restart();
        }
        assert_eq!(status(&cache, &upstream, "org/one", "v1"), 404);
        fs::write(&volume, &good).expect("the directory is writable");
        let (code, report) = import(&cache, &["--public", &path]);
        assert_eq!((code, &report["held"]), (0, &json!(2)), "{report}");
        expect_pulled(&cache, &upstream, "org/two", "v2", &images[1].0);
    }
}

#[test]
fn load_takes_archives_beside_references() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let cache = isolated(&upstream);
    let [(one, one_name), (two, two_name)] = &images;
    write(&cache, "one.tar", &tar_of(&layout(&[(one, one_name)])));
    let second = write(&cache, "two.tar", &tar_of(&layout(&[(two, two_name)])));
    let list = write(&cache, "images.txt", format!("# archives\n{second}\n").as_bytes());
    let pattern = cache.home().join("o?e.t*").display().to_string();
    let missing = format!("{}/org/missing:v1", upstream.name());
    let arguments = [
        "load",
        "--json",
        "--public",
        &pattern,
        &missing,
        "--image-file",
        &list,
    ];
    let output = run(&cache, &arguments);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(
        (&report["held"], &report["failed"]),
        (&json!(2), &json!(1)),
        "{report}"
    );
    expect_pulled(&cache, &upstream, "org/one", "v1", one);
    expect_pulled(&cache, &upstream, "org/two", "v2", two);
}

#[test]
fn start_in_the_directory_of_another_system_names_the_import() {
    let upstream = Registry::new();
    let images = two_images(&upstream);
    let (image, name) = &images[0];
    let mut cache = isolated(&upstream);
    cache.stop();
    for (path, content) in of_ociregistry(image, name) {
        let path = cache.root().join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("the directory is writable");
        fs::write(path, content).expect("the directory is writable");
    }
    cache.restart();
    cache.wait_stderr("store of another system found");
    let dir = cache.root().display().to_string();
    let (code, report) = import(&cache, &["--public", &dir]);
    assert_eq!((code, &report["held"]), (0, &json!(1)), "{report}");
    expect_pulled(&cache, &upstream, "org/one", "v1", image);
}

/// Returns the files of oci-pull-through in Go for `image` as `org/one:v1`.
fn of_go_store(image: &Image, registry: &str) -> Vec<Entry> {
    let sidecar = |digest: &str, media_type: &str, size: usize| {
        let fields = json!({
            "Content-Type": [media_type], "Content-Length": [size.to_string()],
            "Docker-Content-Digest": [digest],
        });
        fields.to_string().into_bytes()
    };
    let mut entries = Vec::new();
    let mut add = |path: String, digest: &str, media_type: &str, content: Vec<u8>| {
        entries.push((
            format!("{path}.meta.json"),
            sidecar(digest, media_type, content.len()),
        ));
        entries.push((path, content));
    };
    for (digest, content) in &image.blobs {
        let path = format!("blobs/{}", digest.replace(':', "-"));
        add(path, digest, "application/octet-stream", content.bytes().to_vec());
    }
    let dir = format!("manifests/{registry}/org/one");
    for name in [image.digest.replace(':', "-"), "tags/v1".to_owned()] {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        add(
            format!("{dir}/{name}"),
            &image.digest,
            media_type,
            image.manifest.clone(),
        );
    }
    entries
}

/// A broken download of the Go system left a short file under the name of the whole content.
#[test]
fn damaged_files_of_the_go_store_are_named_and_not_served() {
    let upstream = Registry::new();
    let image = &two_images(&upstream)[0].0;
    let (layer, _) = image.blobs.last().expect("an image has blobs");
    for (part, named) in [
        (layer.replace(':', "-"), layer),
        ("tags/v1".to_owned(), &image.digest),
    ] {
        let cache = isolated(&upstream);
        let mut entries = of_go_store(image, &upstream.name());
        // The manifest has two files, and both must be damaged.
        let is_damaged =
            |path: &str| path.ends_with(&part) || (part == "tags/v1" && path.ends_with(&image.digest[7..]));
        for (path, content) in &mut entries {
            if is_damaged(path) {
                content.truncate(content.len() / 2);
            }
        }
        let dir = unpack(&cache, "go", &entries);
        let (code, report) = import(&cache, &["--public", &dir]);
        assert_eq!((code, &report["held"]), (1, &json!(0)), "{part}: {report}");
        assert!(report.to_string().contains(named.as_str()), "{part}: {report}");
        assert_eq!(status(&cache, &upstream, "org/one", "v1"), 404, "{part}");
    }
}

#[test]
fn directory_of_the_go_store_is_served_by_the_word_of_the_operator() {
    let upstream = Registry::new();
    let image = Image::small(&Registry::new(), "org/one", "v1", fresh_seed());
    let paths: Vec<String> = std::iter::once(upstream.manifest_url("org/one", &image.digest))
        .chain(
            image
                .blobs
                .iter()
                .map(|(digest, _)| upstream.blob_url("org/one", digest)),
        )
        .collect();
    for is_air_gapped in [true, false] {
        let mut cache = Server::options(&upstream)
            .env("STORAGE_BACKEND", "fs")
            .env("AIR_GAPPED", is_air_gapped)
            .start();
        cache.stop();
        for (path, content) in of_go_store(&image, &upstream.name()) {
            let path = cache.root().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("the directory is writable");
            fs::write(path, content).expect("the directory is writable");
        }
        cache.restart();
        let all = |cache: &Server| {
            let get = |path: &String| cache.client().get_with(path, &[("Accept", ACCEPT_ALL)]);
            paths.iter().map(get).collect::<Vec<_>>()
        };
        if !is_air_gapped {
            upstream.up();
            let answers = all(&cache);
            assert!(
                answers.iter().all(|got| got.status == 404),
                "the registry has no such content: {answers:?}"
            );
            upstream.down();
        }
        for got in all(&cache) {
            assert_eq!(got.status, if is_air_gapped { 404 } else { 502 }, "{got}");
            let text = String::from_utf8_lossy(&got.body).into_owned();
            assert!(text.contains("trust_existing: true"), "{text}");
        }
        cache.set_env("TRUST_EXISTING", "true");
        cache.stop();
        cache.restart();
        let answers = all(&cache);
        answers[0].expect(&image.manifest);
        for (got, (_, content)) in answers[1..].iter().zip(&image.blobs) {
            got.expect(&content.bytes());
        }
        cache.stop();
        upstream.up();
    }
}
