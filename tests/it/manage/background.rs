//! Rules that remove images in the background: `prune`, and `pruneConfig` of another system.

use serde_json::Value;

use super::{pull, run, two_images};
use crate::harness::disk::{age, bytes_on_disk, files_below};
use crate::harness::*;

const COMPLETED: &str = "prune rule completed";

fn config(upstream: &Registry, rules: &str) -> String {
    format!(
        "{rules}\nregistries: [{{name: '{}', url: 'http://{}'}}]\n",
        upstream.name(),
        upstream.addr()
    )
}

/// A stopped cache with the images `v1` and `v2`, unused for `hours`.
fn aged(upstream: &Registry, rules: &str, hours: u64) -> (Server, [Image; 2]) {
    let mut cache = Server::bare()
        .env("STORAGE_BACKEND", "fs")
        .config(config(upstream, ""))
        .start();
    let images = two_images(&cache, upstream);
    cache.stop();
    age_images(&cache, hours);
    write_config(&cache, upstream, rules);
    (cache, images)
}

/// Makes the stored images, with their tags, look unused for `hours`.
fn age_images(cache: &Server, hours: u64) {
    for path in files_below(&cache.root().join("manifests")) {
        if path.parent().is_some_and(|dir| dir.ends_with("_tags")) {
            let text = std::fs::read(&path).expect("read the pointer");
            let mut pointer: Value = serde_json::from_slice(&text).expect("a pointer is JSON");
            let checked = pointer["checkedAtMs"].as_u64().expect("a time");
            pointer["checkedAtMs"] = (checked - hours * 3_600_000).into();
            std::fs::write(&path, pointer.to_string()).expect("write the pointer");
        }
    }
    age(cache.root(), hours);
}

fn write_config(cache: &Server, upstream: &Registry, rules: &str) {
    let file = cache.home().join("config.yaml");
    std::fs::write(file, config(upstream, rules)).expect("write the configuration");
}

/// Returns the tags that the store lists.
fn names(cache: &Server, upstream: &Registry) -> Vec<String> {
    let output = run(cache, &["list", "--output", "name"]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let prefix = format!("{}/org/app:", upstream.name());
    text.lines()
        .filter_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
        .collect()
}

/// Starts the cache, and waits for the end of a run of the rule.
fn start_and_prune(cache: &mut Server) {
    cache.restart();
    cache.wait_stderr(COMPLETED);
}

#[test]
fn unused_images_leave_after_the_start_and_used_images_stay() {
    let upstream = Registry::new();
    let rules = "prune: [{pattern: 'org/', unused_for: 4h}]";
    let (mut cache, [first, second]) = aged(&upstream, "", 5);
    cache.restart();
    cache.wait_stderr("store scanned");
    pull(&cache, &upstream, "org/app", "v2", &second);
    cache.stop();
    write_config(&cache, &upstream, rules);
    start_and_prune(&mut cache);
    assert_eq!(names(&cache, &upstream), ["v2"]);
    let log = cache.stderr();
    let started = log.lines().find(|line| line.contains("prune rule started"));
    let started = started.expect("a line before the removal");
    for part in ["rule=prune[0]", "dry_run=false", "images=1", "objects=4"] {
        assert!(started.contains(part), "{started}");
    }
    let completed = log.lines().find(|line| line.contains(COMPLETED));
    let completed = completed.expect("a line after the removal");
    for part in ["rule=prune[0]", "images=1", "objects=4", "kept=0", "bytes="] {
        assert!(completed.contains(part), "{completed}");
    }
    cache.settled_store().expect_sound();
    // The image is pulled again, and its new content is too young for every rule.
    upstream.clear_log();
    pull(&cache, &upstream, "org/app", "v1", &first);
    assert_eq!(upstream.gets("/manifests/"), 1);
}

#[test]
fn every_condition_and_the_rule_of_ociregistry_select_old_images() {
    let fixture = include_str!("../../fixtures/config/ociregistry-full.yaml");
    let fixture = fixture.split_once("pruneConfig:").expect("a rule").1;
    let fixture = fixture.split_once("listConfig:").expect("another key").0;
    let fixture = format!("pruneConfig:{fixture}");
    let upstream = Registry::new();
    let (mut cache, images) = aged(&upstream, "", 31 * 24);
    for (rule, left) in [
        ("prune: [{older_than: 30d}]", 0),
        ("prune: [{keep_newest: 1}]", 1),
        ("prune: [{pattern: ':v1$'}]", 1),
        ("prune: [{unused_for: 1d, count: 1}]", 1),
        ("prune: [{unused_for: 32d}]", 2),
        (&fixture, 0),
        ("pruneConfig: {enabled: true, type: created, duration: 720h}", 0),
        (
            "pruneConfig: {enabled: true, type: pattern, expr: 'nginx,app:v2'}",
            1,
        ),
        (
            "pruneConfig: {enabled: true, type: accessed, duration: 30d, count: 1}",
            1,
        ),
    ] {
        write_config(&cache, &upstream, rule);
        start_and_prune(&mut cache);
        assert_eq!(names(&cache, &upstream).len(), left, "{rule}");
        assert!(!cache.stderr().contains("does nothing"), "{}", cache.stderr());
        for (tag, image) in ["v1", "v2"].iter().zip(&images) {
            pull(&cache, &upstream, "org/app", tag, image);
        }
        cache.settled_store().expect_sound();
        eventually("both tags are stored", || names(&cache, &upstream).len() == 2);
        cache.stop();
        age_images(&cache, 31 * 24);
    }
}

#[test]
fn young_images_and_pinned_images_stay() {
    let upstream = Registry::new();
    let rules = "prune: [{pattern: 'org/app'}]";
    let (mut cache, [first, _]) = aged(&upstream, rules, 0);
    start_and_prune(&mut cache);
    assert_eq!(names(&cache, &upstream), ["v1", "v2"], "the images are young");
    cache.stop();
    age_images(&cache, 5);
    let pin = format!("{}/org/app:v1", upstream.name());
    let pinned = Server::command(cache.home(), cache.root())
        .args(["pin", &pin])
        .status();
    assert!(pinned.expect("the binary starts").success());
    start_and_prune(&mut cache);
    assert_eq!(names(&cache, &upstream), ["v1"]);
    upstream.down();
    for (digest, content) in &first.blobs {
        let path = upstream.blob_url("org/app", digest);
        cache.client().get(&path).expect(&content.bytes());
    }
}

#[test]
fn dry_run_names_the_images_and_removes_nothing() {
    let upstream = Registry::new();
    let (mut cache, _) = aged(&upstream, "prune: [{unused_for: 1h, dry_run: true}]", 5);
    let before = bytes_on_disk(cache.root());
    cache.restart();
    for tag in ["v1", "v2"] {
        cache.wait_stderr(&format!("image={}/org/app:{tag}", upstream.name()));
    }
    cache.stop();
    assert!(!cache.stderr().contains(COMPLETED), "{}", cache.stderr());
    assert_eq!(bytes_on_disk(cache.root()), before);
}

#[test]
fn sighup_changes_the_rules() {
    let upstream = Registry::new();
    let (mut cache, [first, _]) = aged(&upstream, "", 5);
    cache.restart();
    cache.wait_stderr("store scanned");
    write_config(&cache, &upstream, "prune: [{unused_for: 1h, window: 25}]");
    cache.sighup();
    cache.wait_stderr("configuration not reloaded");
    assert!(cache.is_stored(&first.digest));
    write_config(&cache, &upstream, "prune: [{unused_for: 1h}]");
    cache.sighup();
    cache.wait_stderr(COMPLETED);
    assert_eq!(names(&cache, &upstream), [""; 0]);
    assert!(!cache.stderr().contains("needs a restart"), "{}", cache.stderr());
    cache.settled_store().expect_clean();
}
