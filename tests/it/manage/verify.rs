//! The command `verify` and its jobs, beside a running cache and after its end.

use std::fs::File;

use serde_json::{Value, json};

use super::{fails, name, pull, run, send_json, started, two_images};
use crate::harness::disk::{blob_path, flip_byte, manifest_path, truncate};
use crate::harness::*;

fn cache(upstream: &Registry) -> Server {
    started(Server::options(upstream).env("SCRUB_INTERVAL", "0"))
}

/// Runs `verify` without a bound of its rate. Returns the exit code and the report.
#[track_caller]
fn verify(cache: &Server, arguments: &[&str]) -> (i32, Value) {
    let output = run(cache, &[&["verify", "--json", "--rate", "0"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().expect("an exit code"), report)
}

/// Returns the layers of the first image: the common layer, and its own layer.
fn layers([first, second]: &[Image; 2]) -> [String; 2] {
    let is_common = |digest: &str| second.blobs.iter().any(|(other, _)| other == digest);
    let layers = || {
        let large = first.blobs.iter().filter(|(_, content)| content.size() > 100_000);
        large.map(|(digest, _)| digest.clone())
    };
    [true, false].map(|common| {
        layers()
            .find(|digest| is_common(digest) == common)
            .expect("the image has both layers")
    })
}

/// Verifies a store with a flipped bit, and checks the report and the next pulls.
fn flipped_bit(is_running: bool) {
    let upstream = Registry::new();
    let mut cache = cache(&upstream);
    let images = two_images(&cache, &upstream);
    let [common, own] = layers(&images);
    assert_eq!(verify(&cache, &[]).0, 0, "an intact store");
    flip_byte(&blob_path(cache.root(), &common), 150_000);
    if !is_running {
        cache.stop();
    }
    let (code, looked) = verify(&cache, &["--dry-run"]);
    assert_eq!((code, &looked["removedObjects"]), (1, &0.into()), "{looked}");
    let (code, report) = verify(&cache, &[]);
    assert_eq!(code, 1, "{report}");
    // Two manifests, two configs and three layers.
    for (member, expected) in [
        ("images", json!(2)),
        ("objects", json!(7)),
        ("damagedObjects", json!(1)),
        ("removedObjects", json!(1)),
        ("unreadableObjects", json!(0)),
        ("complete", json!(true)),
        (
            "damaged",
            json!([{
                "object": format!("blobs/{}", common.replace(':', "-")),
                "reason": "the content does not match its digest",
                "images": [name(&upstream, ":v1"), name(&upstream, ":v2")],
                "removed": true,
            }]),
        ),
    ] {
        assert_eq!(report[member], expected, "{member}: {report}");
    }
    assert!(!cache.is_stored(&common) && cache.is_stored(&own));
    assert_eq!(verify(&cache, &[]).0, 0, "the rest is intact");

    if !is_running {
        cache.restart();
    }
    upstream.clear_log();
    for (tag, image) in ["v1", "v2"].iter().zip(&images) {
        pull(&cache, &upstream, "org/app", tag, image);
    }
    assert_eq!(upstream.gets("/blobs/"), 1);
    assert_eq!(upstream.gets(&common), 1);
    cache.settled_store().expect_sound();
    assert_eq!(verify(&cache, &[]).1["objects"], 7);
}

#[test]
fn flipped_bit_beside_a_running_cache_is_named_removed_and_fetched_again() {
    flipped_bit(true);
}

#[test]
fn flipped_bit_in_a_store_without_a_cache_is_named_removed_and_fetched_again() {
    flipped_bit(false);
}

#[test]
fn running_and_offline_verification_print_the_same() {
    let upstream = Registry::new();
    let mut cache = cache(&upstream);
    let images = two_images(&cache, &upstream);
    let [common, own] = layers(&images);
    flip_byte(&blob_path(cache.root(), &own), 0);
    truncate(&blob_path(cache.root(), &common), 1_000);
    let v2 = name(&upstream, ":v2");
    let verify_all = |cache: &Server| {
        [
            verify(cache, &["--dry-run"]),
            verify(cache, &["--dry-run", &v2]),
            verify(cache, &["--dry-run", "--pattern", "v1"]),
        ]
    };
    let beside = verify_all(&cache);
    assert_eq!(
        beside
            .each_ref()
            .map(|(_, report)| report["damagedObjects"].clone()),
        [2, 1, 2].map(Value::from),
        "{beside:?}"
    );
    let text = |cache: &Server| {
        let output = run(cache, &["verify", "--dry-run"]);
        String::from_utf8(output.stdout).expect("the output is text")
    };
    let printed = text(&cache);
    assert!(
        printed.contains("2 damaged, 0 removed, 0 unreadable"),
        "{printed}"
    );
    cache.stop();
    assert_eq!(verify_all(&cache), beside);
    assert_eq!(text(&cache), printed);
    // A look without a cache removes nothing either.
    assert!(blob_path(cache.root(), &common).exists() && cache.is_stored(&common));
    let (_, report) = verify(&cache, &[]);
    assert_eq!(report["removedObjects"], 2);
    cache.settled_store().expect_clean();
}

#[test]
fn damaged_manifest_is_removed_and_its_tag_fetches_it_again() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let images = two_images(&cache, &upstream);
    let path = manifest_path(cache.root(), &upstream.name(), "org/app", &images[0].digest);
    flip_byte(&path, images[0].manifest.len() as u64 / 2);
    let (code, report) = verify(&cache, &[&name(&upstream, ":v1")]);
    assert_eq!((code, &report["damagedObjects"]), (1, &1.into()), "{report}");
    assert_eq!(report["damaged"][0]["images"], json!([name(&upstream, ":v1")]));
    upstream.clear_log();
    pull(&cache, &upstream, "org/app", "v1", &images[0]);
    assert_eq!((upstream.gets("/manifests/"), upstream.gets("/blobs/")), (1, 0));
}

#[test]
fn selection_limits_the_verification_and_mistakes_have_their_exit_codes() {
    let upstream = Registry::new();
    let mut cache = cache(&upstream);
    let images = two_images(&cache, &upstream);
    let [_, own] = layers(&images);
    flip_byte(&blob_path(cache.root(), &own), 7);
    for is_running in [true, false] {
        if !is_running {
            cache.stop();
        }
        // A manifest, a config and two layers.
        let (code, report) = verify(&cache, &[&name(&upstream, ":v2")]);
        assert_eq!((code, &report["objects"]), (0, &4.into()), "{report}");
        let (code, report) = verify(&cache, &["--pattern", "org/app:v2$"]);
        assert_eq!((code, &report["objects"]), (0, &4.into()), "{report}");
        let by_digest = name(&upstream, &format!("@{}", images[1].digest));
        assert_eq!(verify(&cache, &[&by_digest]).1["objects"], 4);
        let nothing = name(&upstream, ":v9");
        assert_eq!(verify(&cache, &[&nothing]).0, 3);
        fails(&cache, 3, "no stored image matches", &["verify", &nothing]);
        fails(&cache, 2, "regular expression", &["verify", "--pattern", "("]);
        fails(&cache, 2, "[registry/]repository", &["verify", "UPPER"]);
        fails(&cache, 2, "0 for no bound", &["verify", "--rate", "fast"]);
    }
    let lock = File::open(cache.root().join(".lock")).expect("the lock file");
    lock.lock().expect("the cache has ended");
    fails(&cache, 4, "another process uses the store", &["verify"]);
    drop(lock);
    fails(&cache, 1, "no cache runs", &["jobs"]);
}

#[test]
fn job_has_progress_a_result_and_an_audit_line_before_and_after() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let images = two_images(&cache, &upstream);
    let [common, _] = layers(&images);
    flip_byte(&blob_path(cache.root(), &common), 1);
    let (status, started) = send_json(&cache, "POST", "/api/v1/verify", r#"{"rate": 0}"#);
    assert_eq!((status, &started), (202, &json!({"job": 1})));
    eventually("the job ends", || {
        send_json(&cache, "GET", "/api/v1/jobs/1", "").1["state"] != "running"
    });
    let (status, job) = send_json(&cache, "GET", "/api/v1/jobs/1", "");
    assert_eq!(
        (status, &job["state"], &job["kind"]),
        (200, &"completed".into(), &"verify".into())
    );
    assert_eq!(job["result"]["removedObjects"], 1, "{job}");
    let progress = &job["progress"];
    assert_eq!(
        (&progress["objects"], &progress["objectsTotal"]),
        (&7.into(), &7.into())
    );
    assert_eq!(progress["bytes"], job["result"]["bytes"]);
    let stderr = cache.stderr();
    let line = |phrase: &str| {
        let lines = stderr.lines().enumerate();
        let mut found = lines.filter(|(_, line)| line.contains(phrase));
        found.next().unwrap_or_else(|| panic!("{phrase}: {stderr}"))
    };
    let (requested, text) = line("change requested");
    assert!(
        text.contains("action=verify") && text.contains("selector=all"),
        "{text}"
    );
    let (removed, text) = line("damaged entry removed");
    assert!(text.contains(&common.replace(':', "-")), "{text}");
    let (completed, text) = line("change completed");
    assert!(
        text.contains("action=verify") && text.contains("objects=1"),
        "{text}"
    );
    assert!(requested < removed && removed < completed, "{stderr}");
    let stats = send_json(&cache, "GET", "/api/v1/stats", "").1;
    assert_eq!(
        (&stats["verifiedObjects"], &stats["damagedObjects"]),
        (&6.into(), &1.into())
    );
}

#[test]
fn running_jobs_are_bounded_and_can_be_canceled() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    two_images(&cache, &upstream);
    let slow = r#"{"rate": 1, "dryRun": true}"#;
    let start = || send_json(&cache, "POST", "/api/v1/verify", slow);
    assert_eq!((start().0, start().0), (202, 202));
    let (status, problem) = start();
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("jobs cancel"))
    );
    let listed = run(&cache, &["jobs"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert_eq!(listed.matches("verify running").count(), 2, "{listed}");

    let canceled = run(&cache, &["jobs", "cancel", "1"]);
    assert_eq!(String::from_utf8_lossy(&canceled.stdout), "job 1 canceled\n");
    let state = |id: u64| send_json(&cache, "GET", &format!("/api/v1/jobs/{id}"), "").1["state"].clone();
    eventually("the job ends", || state(1) == "canceled");
    assert_eq!(state(2), "running");
    let (status, job) = send_json(&cache, "DELETE", "/api/v1/jobs/2", "");
    assert_eq!(status, 200, "{job}");
    eventually("the job ends", || state(2) == "canceled");
    let jobs = run(&cache, &["jobs", "--output", "json"]);
    let jobs: Value = serde_json::from_slice(&jobs.stdout).expect("a list in JSON");
    assert_eq!(
        (&jobs[0]["job"], &jobs[1]["job"]),
        (&2.into(), &1.into()),
        "{jobs}"
    );
    assert_eq!(start().0, 202);
    for (method, path, body, expected) in [
        ("GET", "/api/v1/jobs/9", "", 404),
        ("GET", "/api/v1/jobs/x", "", 404),
        ("DELETE", "/api/v1/jobs/9", "", 404),
        ("POST", "/api/v1/jobs/1", "", 405),
        ("POST", "/api/v1/jobs", "", 405),
        ("GET", "/api/v1/verify", "", 405),
        ("POST", "/api/v1/verify", r#"{"dryrun": true}"#, 400),
        ("POST", "/api/v1/verify", r#"{"image": "A"}"#, 400),
        ("POST", "/api/v1/verify", "", 400),
    ] {
        let (status, problem) = send_json(&cache, method, path, body);
        assert_eq!(status, expected, "{method} {path} {body}: {problem}");
        assert_eq!(problem["status"], expected);
    }
}
