//! The scrub of a running cache, and the verification before the first response.

use std::fs;

use serde_json::Value;

use super::send_json;
use crate::harness::disk::{blob_path, flip_byte};
use crate::harness::*;

fn stats(cache: &Server) -> Value {
    send_json(cache, "GET", "/api/v1/stats", "").1
}

fn options(upstream: &Registry) -> server::Options {
    Server::options(upstream).env("STORAGE_BACKEND", "fs")
}

/// Pulls `count` blobs of `size` bytes, and waits until the cache has stored them. Returns their
/// digests and contents, sorted.
fn store_blobs(cache: &Server, upstream: &Registry, count: u64, size: u64) -> Vec<(String, PseudoRandom)> {
    let seed = fresh_seed();
    let mut blobs: Vec<_> = (0..count)
        .map(|n| PseudoRandom::new(seed + n, size))
        .map(|content| (upstream.blob(content.clone()), content))
        .collect();
    for (digest, content) in &blobs {
        cache.client().pull(&upstream.blob_url("a", digest), content);
        cache.wait_stored(digest);
    }
    blobs.sort_by(|(a, _), (b, _)| a.cmp(b));
    blobs
}

#[test]
fn scrub_finds_a_flipped_byte_in_a_running_cache_and_the_next_pull_fetches_the_blob() {
    let upstream = Registry::new();
    let cache = options(&upstream)
        .env("SCRUB_INTERVAL", "1s")
        .env("SCRUB_RATE", "0")
        .start();
    let blobs = store_blobs(&cache, &upstream, 3, 200_000);
    let (digest, content) = &blobs[1];
    flip_byte(&blob_path(cache.root(), digest), 100_000);
    cache.wait_stderr("damaged entry removed");
    eventually("the blob is removed", || !cache.is_stored(digest));
    let stderr = cache.stderr();
    assert_eq!(stderr.matches("damaged entry removed").count(), 1, "{stderr}");
    assert!(stderr.contains(&digest.replace(':', "-")), "{stderr}");
    eventually("the damage and a pass are counted", || {
        let stats = stats(&cache);
        stats["damagedObjects"] == 1 && stats["scrubCompletedAt"].is_u64()
    });
    upstream.clear_log();
    let url = upstream.blob_url("a", digest);
    // A core forgets a removed blob within two sweeps.
    eventually("the right content is served", || {
        cache.client().get(&url).body == content.bytes()
    });
    cache.wait_stored(digest);
    cache.client().pull(&url, content);
    assert_eq!(upstream.gets(digest), 1);
    cache.settled_store().expect_sound();
}

/// Stops a cache in the middle of a pass. After the restart, the pass must read only the rest.
fn resumed_pass(stop: impl FnOnce(&mut Server)) {
    const COUNT: u64 = 12;
    let upstream = Registry::new();
    let mut cache = options(&upstream).env("SCRUB_INTERVAL", "0").start();
    let blobs = store_blobs(&cache, &upstream, COUNT, 300_000);
    cache.stop();
    // Each blob takes almost two seconds.
    cache.set_env("SCRUB_INTERVAL", "1s");
    cache.set_env("SCRUB_RATE", "200000");
    cache.restart();
    eventually("the pass is in the middle", || {
        stats(&cache)["verifiedObjects"].as_u64() >= Some(2)
    });
    let path = cache.root().join("scrub.json");
    eventually("the progress is on disk", || path.exists());
    stop(&mut cache);
    let record: Value = serde_json::from_slice(&fs::read(&path).expect("the record")).expect("JSON");
    let position = record["position"].as_str().expect("a position");
    let rest = blobs
        .iter()
        .filter(|(digest, _)| digest.as_str() > position)
        .count();
    assert!((1..COUNT as usize).contains(&rest), "{record}");
    cache.set_env("SCRUB_RATE", "0");
    cache.restart();
    cache.wait_stderr("resumed=true");
    let stderr = cache.stderr();
    let line = stderr.lines().find(|line| line.contains("resumed=true"));
    let line = line.expect("the line of the pass");
    assert!(
        line.contains(&format!(" objects={rest} ")),
        "{rest} of {COUNT}: {line}"
    );
    assert!(line.contains("store scrubbed"), "{line}");
}

#[test]
fn pass_continues_at_its_position_after_a_stop() {
    resumed_pass(Server::stop);
}

#[test]
fn pass_continues_at_its_last_written_position_after_a_kill() {
    resumed_pass(|cache| drop(cache.kill9()));
}

#[test]
fn scrub_is_off_with_an_interval_of_zero() {
    let upstream = Registry::new();
    let mut cache = options(&upstream).start();
    for (interval, expected) in [("0", false), ("30d", true)] {
        cache.stop();
        cache.set_env("SCRUB_INTERVAL", interval);
        cache.restart();
        // The cache reads signals after the start of all threads.
        cache.sighup();
        cache.wait_stderr("configuration reloaded");
        let tasks = fs::read_dir(format!("/proc/{}/task", cache.pid())).expect("the threads");
        let names = tasks
            .flatten()
            .map(|task| fs::read_to_string(task.path().join("comm")));
        let names: Vec<String> = names.flatten().collect();
        let found = names.iter().any(|name| name.trim() == "store-scrub");
        assert_eq!(found, expected, "{interval}: {names:?}");
    }
}

/// Flips a byte of a stored blob while the cache is stopped, and pulls the blob twice.
fn flipped_while_stopped(verify_on_open: &str) -> (Registry, Server, String, PseudoRandom, bool) {
    let upstream = Registry::new();
    let mut cache = options(&upstream)
        .env("VERIFY_ON_OPEN", verify_on_open)
        .env("SCRUB_INTERVAL", "0")
        .start();
    let (digest, content) = store_blobs(&cache, &upstream, 1, 3_000_000).remove(0);
    cache.stop();
    flip_byte(&blob_path(cache.root(), &digest), 2_000_000);
    cache.restart();
    upstream.clear_log();
    let got = cache.client().get(&upstream.blob_url("a", &digest));
    let is_right = got.body == content.bytes();
    (upstream, cache, digest, content, is_right)
}

#[test]
fn blob_that_changed_while_the_cache_was_stopped_is_fetched_again_before_its_first_response() {
    let (upstream, cache, digest, content, is_right) = flipped_while_stopped("first");
    assert!(is_right, "the first response");
    cache.wait_stored(&digest);
    cache.wait_stderr("damaged entry removed");
    for _ in 0..4 {
        cache.client().pull(&upstream.blob_url("a", &digest), &content);
    }
    assert_eq!(upstream.gets(&digest), 1);
    cache.settled_store().expect_sound();
}

#[test]
fn without_the_setting_the_changed_blob_is_sent() {
    let (upstream, _cache, digest, _, is_right) = flipped_while_stopped("off");
    assert!(!is_right, "the tests of the setting would detect nothing");
    assert_eq!(upstream.gets(&digest), 0);
}

#[test]
fn intact_blob_is_hashed_once_after_a_start() {
    let upstream = Registry::new();
    let mut cache = options(&upstream)
        .env("VERIFY_ON_OPEN", "first")
        .env("SCRUB_INTERVAL", "0")
        .cores(2)
        .start();
    let blobs = store_blobs(&cache, &upstream, 2, 1_000_000);
    let pull_all = |cache: &Server| {
        // Connections of both cores open the blobs.
        for (digest, content) in blobs.iter().cycle().take(24) {
            cache.client().pull(&upstream.blob_url("a", digest), content);
        }
    };
    pull_all(&cache);
    assert_eq!(
        stats(&cache)["verifiedObjects"],
        0,
        "the fill has hashed the blobs"
    );
    cache.stop();
    cache.restart();
    upstream.clear_log();
    pull_all(&cache);
    assert_eq!(stats(&cache)["verifiedObjects"], 2);
    assert_eq!(upstream.gets("/blobs/"), 0);
}
