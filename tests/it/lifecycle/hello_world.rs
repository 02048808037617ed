//! The self test `HELLO_WORLD`: an image that runs, without a registry.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::image::ACCEPT_ALL;
use crate::harness::server::TempDir;
use crate::harness::*;

const REPOSITORY: &str = "/v2/docker.io/library/hello-world";

fn started() -> Server {
    Server::bare()
        .env("HELLO_WORLD", "true")
        .env("STORAGE_BACKEND", "fs")
        // Without effect.
        .env("PRELOAD_IMAGES", "/nowhere/images")
        .start()
}

fn get(cache: &Server, path: &str) -> Vec<u8> {
    let path = format!("{REPOSITORY}/{path}");
    let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
    assert_eq!(got.status, 200, "{got}");
    got.body.to_vec()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).expect("JSON")
}

#[test]
fn program_of_the_image_for_this_machine_prints_its_line() {
    let cache = started();
    let index = json(&get(&cache, "manifests/latest"));
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => panic!("no image for {other}"),
    };
    let manifests = index["manifests"].as_array().expect("a list");
    assert_eq!(manifests.len(), 2);
    let own = manifests
        .iter()
        .find(|entry| entry["platform"]["architecture"] == architecture)
        .expect("an image for this machine");
    let digest = own["digest"].as_str().expect("a digest");
    let manifest = json(&get(&cache, &format!("manifests/{digest}")));
    let layer = manifest["layers"][0]["digest"].as_str().expect("a digest");
    let layer = get(&cache, &format!("blobs/{layer}"));
    let dir = TempDir::new();
    let archive = dir.path.join("layer.tar");
    fs::write(&archive, layer).expect("the directory is writable");
    let status = Command::new("tar")
        .args(["-xf", "layer.tar"])
        .current_dir(&dir.path)
        .status();
    assert!(status.expect("tar starts").success());
    let program = dir.path.join("hello");
    let mode = fs::metadata(&program).expect("the program").permissions().mode();
    assert_eq!(mode & 0o777, 0o755);
    let output = Command::new(program).stdin(Stdio::null()).output();
    let output = output.expect("the program starts");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "Hello from oci-pull-through. The cache serves images.\n"
    );
    let other = "/v2/docker.io/library/alpine/manifests/latest";
    assert_eq!(cache.client().get(other).status, 404);
    // The directory of the configuration stays untouched.
    assert!(!cache.root().join("blobs").exists());
}

#[test]
fn image_is_copied_by_skopeo_for_all_platforms() {
    if Command::new("skopeo").arg("--version").output().is_err() {
        println!("SKIPPED: skopeo is not installed");
        return;
    }
    let cache = started();
    let dir = TempDir::new();
    let source = format!("docker://{}/docker.io/library/hello-world:latest", cache.addr());
    let target = format!("oci:{}:hello", dir.path.join("layout").display());
    let output = Command::new("skopeo")
        .args(["copy", "--all", "--src-tls-verify=false", &source, &target])
        .env("HOME", &dir.path)
        .stdin(Stdio::null())
        .output()
        .expect("skopeo starts");
    assert!(output.status.success(), "{output:?}");
}
