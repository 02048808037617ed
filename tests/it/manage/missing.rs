//! The references that clients requested in vain: their record, `report missing`, and the way back through
//! `load`.

use std::fs;

use serde_json::{Value, json};

use super::{run, send_json, started};
use crate::harness::image::{ACCEPT_ALL, Flavor};
use crate::harness::*;

/// Returns the references of `report missing`.
#[track_caller]
fn missing(cache: &Server) -> Vec<String> {
    let output = run(cache, &["report", "missing", "--output", "name"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("names are text");
    text.lines().map(str::to_owned).collect()
}

fn status_of(cache: &Server, path: &str) -> u16 {
    cache.client().get_with(path, &[("Accept", ACCEPT_ALL)]).status
}

#[test]
fn references_of_an_air_gap_are_reported_until_a_load_fetches_them() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    let image = Image::small(&upstream, "app/0", "v1", fresh_seed());
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    assert_eq!(missing(&cache), [""; 0]);
    let tag = upstream.manifest_url("app/0", "v1");
    let got = cache.client().get_with(&tag, &[("Accept", ACCEPT_ALL)]);
    assert_eq!(got.status, 404);
    let text = String::from_utf8_lossy(&got.body).into_owned();
    assert!(text.contains("loaded by digest has no tag"), "{text}");
    let digest = upstream.manifest_url("app/0", &image.digest);
    assert_eq!([(); 2].map(|()| status_of(&cache, &digest)), [404, 404]);
    // Signatures are no images.
    let signature = format!("{}.sig", image.digest.replace(':', "-"));
    assert_eq!(
        status_of(&cache, &upstream.manifest_url("app/0", &signature)),
        404
    );

    let by_tag = format!("{}/app/0:v1", upstream.name());
    let by_digest = format!("{}/app/0@{}", upstream.name(), image.digest);
    let mut reported = missing(&cache);
    reported.sort();
    let mut expected = vec![by_tag.clone(), by_digest.clone()];
    expected.sort();
    assert_eq!(reported, expected);
    let (status, listed) = send_json(&cache, "GET", "/api/v1/missing", "");
    assert_eq!(status, 200);
    let listed = listed["missing"].as_array().expect("a list");
    let entry = listed.iter().find(|entry| entry["reference"] == json!(by_digest));
    assert_eq!(entry.map(|entry| &entry["requests"]), Some(&json!(2)));

    // The record survives a stop, and needs no running cache.
    cache.stop();
    let output = run(&cache, &["report", "missing"]);
    let list = cache.home().join("missing.txt");
    fs::write(&list, &output.stdout).expect("the directory is writable");
    cache.set_env("AIR_GAPPED", "false");
    let list = list.to_str().expect("a path is text");
    let output = run(
        &cache,
        &["load", "--platform", "linux/amd64", "--image-file", list],
    );
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    upstream.down();
    assert_eq!([&tag, &digest].map(|path| status_of(&cache, path)), [200, 200]);
    assert_eq!(missing(&cache), [""; 0]);
}

#[test]
fn references_of_an_outage_are_reported_and_answers_of_a_registry_are_not() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    assert_eq!(status_of(&cache, &upstream.manifest_url("app/0", "absent")), 404);
    assert_eq!(missing(&cache), [""; 0]);
    upstream.down();
    assert_eq!(status_of(&cache, &upstream.manifest_url("app/0", "v1")), 502);
    assert_eq!(missing(&cache), [format!("{}/app/0:v1", upstream.name())]);
    let output = run(&cache, &["report", "missing", "--json", "--clear"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report[0]["requests"], json!(1), "{report}");
    assert_eq!(missing(&cache), [""; 0]);
    assert_eq!(status_of(&cache, &upstream.manifest_url("app/0", "v1")), 502);
    assert_eq!(send_json(&cache, "DELETE", "/api/v1/missing", "").0, 200);
    assert_eq!(missing(&cache), [""; 0]);
}

#[test]
fn refused_client_adds_no_reference() {
    let upstream = Registry::new();
    let directory = server::TempDir::new();
    let users = directory.path.join("users");
    fs::write(&users, htpasswd::line("alice", "a", 4)).expect("the directory is writable");
    let name = upstream.name();
    let file = format!(
        "auth: {{htpasswd_file: {}}}\nallow: [{{users: [alice], repositories: [app/1]}}]\nair_gapped: true\nregistries:\n  - {{name: \"{name}\", url: \"http://{name}\"}}\n",
        users.display()
    );
    let cache = started(Server::options(&upstream).config(file));
    let get = |repository: &str, password: &str| {
        let authorization = basic("alice", password);
        let path = upstream.manifest_url(repository, "v1");
        let fields = [("Accept", ACCEPT_ALL), ("Authorization", authorization.as_str())];
        cache.client().get_with(&path, &fields).status
    };
    assert_eq!(get("app/1", "wrong"), 401);
    assert_eq!(get("app/2", "a"), 403);
    assert_eq!(missing(&cache), [""; 0]);
    assert_eq!(get("app/1", "a"), 404);
    assert_eq!(missing(&cache), [format!("{name}/app/1:v1")]);
}

#[test]
fn manifest_of_a_missing_platform_is_reported_with_the_platform() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    let seed = fresh_seed();
    let layer = |n: u64| [Content::from(PseudoRandom::new(seed + n, 1_000))];
    let index = Image::push_index(&upstream, "app/0", "v1", Flavor::Oci, [&layer(1), &layer(2)]);
    let name = format!("{}/app/0:v1", upstream.name());
    let output = run(&cache, &["load", "--platform", "linux/amd64", &name]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    cache.set_env("AIR_GAPPED", "true");
    cache.restart();
    let arm64 = &index.children[1].digest;
    for (reference, status) in [("v1", 200), (&index.children[0].digest, 200), (arm64, 404)] {
        let path = upstream.manifest_url("app/0", reference);
        assert_eq!(status_of(&cache, &path), status, "{reference}");
    }
    let output = run(&cache, &["report", "missing"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = format!(
        "{}/app/0@{arm64}  # linux/arm64, 1 request, last ",
        upstream.name()
    );
    assert!(text.starts_with(&line) && text.lines().count() == 1, "{text}");
}
