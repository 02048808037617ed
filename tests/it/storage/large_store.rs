//! The scan and the list of a large store. `OBJECTS` is the number of objects, and the release run of
//! `scripts/store.sh` has 100,000. The blobs are sparse files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::content::sha256;
use crate::harness::disk::{manifest_path, plant_blob, sidecar, sidecar_of, tag_path};
use crate::harness::image::Flavor;
use crate::harness::*;

const REGISTRY: &str = "registry.example";
const BLOB_BYTES: u64 = 3_000_000;
/// A manifest, a tag, a config of its own and layers of its own.
const LAYERS: usize = 4;
const OBJECTS_PER_IMAGE: usize = 3 + LAYERS;
const REPOSITORIES: usize = 50;

fn objects() -> usize {
    std::env::var("OBJECTS").map_or(20_000, |text| text.parse().expect("OBJECTS is a number"))
}

/// Writes the image `number` with sparse blobs. Returns its reference and the path of its last layer.
fn plant_image(root: &Path, number: usize) -> (String, String) {
    let repository = format!("team/app-{}", number % REPOSITORIES);
    let blob = |part: usize| {
        let digest = sha256(format!("{number} {part}").as_bytes());
        plant_blob(root, &digest, BLOB_BYTES, |file| {
            file.set_len(BLOB_BYTES).expect("set the length of a sparse file");
        });
        digest
    };
    let descriptor = |media_type: &str, digest: &str| serde_json::json!({"mediaType": media_type, "digest": digest, "size": BLOB_BYTES});
    let config = blob(LAYERS);
    let layers: Vec<String> = (0..LAYERS).map(blob).collect();
    let layer_type = "application/vnd.oci.image.layer.v1.tar+gzip";
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": Flavor::Oci.manifest(),
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|digest| descriptor(layer_type, digest)).collect::<Vec<_>>(),
    })
    .to_string();
    let digest = sha256(manifest.as_bytes());
    let path = manifest_path(root, REGISTRY, &repository, &digest);
    fs::create_dir_all(path.parent().expect("a directory")).expect("create a repository");
    let size = manifest.len() as u64;
    fs::write(sidecar_of(&path), sidecar(Flavor::Oci.manifest(), size)).expect("write a sidecar");
    fs::write(&path, manifest).expect("write a manifest");
    let tag = format!("v{number}");
    let pointer = tag_path(root, REGISTRY, &repository, &tag);
    fs::create_dir_all(pointer.parent().expect("a directory")).expect("create the tags");
    let json = serde_json::json!({
        "digest": digest, "mediaType": Flavor::Oci.manifest(), "size": size, "checkedAtMs": 1_700_000_000_000_u64,
    });
    fs::write(pointer, json.to_string()).expect("write a tag");
    let layer = format!("/v2/{REGISTRY}/{repository}/blobs/{}", layers[0]);
    (format!("{REGISTRY}/{repository}:{tag}"), layer)
}

fn listed(cache: &Server) -> BTreeSet<String> {
    let output = Server::command(cache.home(), cache.root())
        .args(["list", "--output=name"])
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("names are text");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn large_store_is_served_before_its_scan_has_ended_and_is_listed_whole() {
    let count = objects();
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    cache.stop();
    fs::create_dir_all(cache.root().join("blobs")).expect("create a store");
    let images: Vec<_> = (0..count / OBJECTS_PER_IMAGE)
        .map(|number| plant_image(cache.root(), number))
        .collect();
    cache.restart();
    let (_, layer) = images.last().expect("there are images");
    let response = cache.client().request("HEAD", layer, &[]);
    assert_eq!(response.status, 200, "{response}");
    // The scan of a smaller store may have ended already.
    let is_scanned = cache.stderr().contains("store scanned");
    assert!(
        !is_scanned || count < 100_000,
        "the first response came after the scan"
    );

    cache.wait_stderr("store scanned");
    let entries = images.len() * (OBJECTS_PER_IMAGE - 1);
    assert!(
        cache.stderr().contains(&format!("entries={entries} ")),
        "{}",
        cache.stderr()
    );
    let names: BTreeSet<String> = images.into_iter().map(|(name, _)| name).collect();
    assert!(listed(&cache) == names, "each image is listed once");
    eprintln!(
        "{count} objects, peak of the memory {} MiB",
        cache.rss_peak_bytes() >> 20
    );
    cache.stop();
    assert!(
        listed(&cache) == names,
        "the store without its process has the same list"
    );
}
