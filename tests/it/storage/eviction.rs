//! Bounds of the store: evictions under load, after a restart, and beside a foreign writer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::disk::{SmallDisk, age, blob_path, bytes_on_disk};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// The time for which the store gives no way to a foreign writer, by its documentation.
const GIVES_WAY_WITHIN: Duration = Duration::from_secs(5);

fn cache(upstream: &Registry) -> Server {
    Server::options(upstream).env("STORAGE_BACKEND", "fs").start()
}

/// Makes `count` blobs of `size` bytes at the upstream.
fn blobs(upstream: &Registry, count: u64, size: u64) -> Vec<PseudoRandom> {
    let seed = fresh_seed();
    let blobs = (0..count).map(|n| PseudoRandom::new(seed + n, size));
    blobs.inspect(|blob| drop(upstream.blob(blob.clone()))).collect()
}

fn pull(cache: &Server, upstream: &Registry, blob: &PseudoRandom) {
    let path = upstream.blob_url("a", &blob.digest());
    cache.client().pull(&path, blob);
}

/// Pulls `blobs`, and waits until all are stored.
fn store(cache: &Server, upstream: &Registry, blobs: &[PseudoRandom]) {
    for blob in blobs {
        // On a slow disk, the cache continues a pull without storing.
        eventually("the blob is stored", || {
            pull(cache, upstream, blob);
            cache.is_stored(&blob.digest())
        });
    }
}

/// A cache whose stored `blobs` are unused for hours, with more settings.
fn aged(upstream: &Registry, blobs: &[PseudoRandom], settings: &[(&str, u64)]) -> Server {
    let mut cache = cache(upstream);
    store(&cache, upstream, blobs);
    cache.stop();
    age(cache.root(), 5);
    for &(name, value) in settings {
        cache.set_env(name, value);
    }
    cache.restart();
    cache.wait_stderr("store scanned");
    cache
}

/// Returns the state of the store.
pub fn stats(cache: &Server) -> serde_json::Value {
    let output = Server::command(cache.home(), cache.root())
        .args(["stats", "--json"])
        .output()
        .expect("the binary starts");
    serde_json::from_slice(&output.stdout).expect("the state is JSON")
}

#[test]
fn bound_holds_while_clients_pull_ten_times_as_much() {
    const BOUND: u64 = 48 * MIB;
    const CLIENTS: usize = 64;
    let upstream = Registry::new();
    let old = blobs(&upstream, 8, 4 * MIB);
    let cache = aged(&upstream, &old, &[("CACHE_MAX_SIZE", BOUND)]);
    let new = blobs(&upstream, 120, 4 * MIB);
    let is_over = AtomicBool::new(false);
    let most = thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(bytes_on_disk(cache.root()));
                thread::sleep(Duration::from_millis(20));
            }
            most
        });
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let (cache, upstream, new) = (&cache, &upstream, &new);
                scope.spawn(move || {
                    for blob in new.iter().skip(client).step_by(CLIENTS) {
                        pull(cache, upstream, blob);
                    }
                })
            })
            .collect();
        for client in clients {
            client.join().expect("each pull succeeds");
        }
        is_over.store(true, Ordering::Relaxed);
        sampler.join().expect("the sampler ends")
    });
    // A fragmented file needs a block more than its size, which is known after the write.
    assert!(most <= BOUND + BOUND / 100, "{most} bytes of {BOUND}");
    let stored = |blobs: &[PseudoRandom]| {
        blobs
            .iter()
            .filter(|blob| cache.is_stored(&blob.digest()))
            .count()
    };
    assert!(stored(&new) > 0, "new content replaces unused content");
    assert!(stored(&old) < old.len());
    cache.settled_store().expect_sound();
    cache.wait_stderr("content evicted");
    let log = cache.stderr();
    let line = log.lines().find(|line| line.contains("content evicted"));
    let line = line.expect("the log has the line");
    assert!(
        line.contains(" for_size=") && line.contains(" for_free_space=0 for_free_inodes=0"),
        "{line}"
    );
    let stats = stats(&cache);
    assert!(stats["evictions"]["size"].as_u64() > Some(0), "{stats}");
    assert_eq!(stats["evictions"]["freeSpace"], 0);
    // The victims were stored 5 hours before. The times are precise to some minutes.
    let age = stats["lastEvictedAgeSeconds"].as_u64().expect("an age");
    assert!((4 * 3600..6 * 3600).contains(&age), "{age}");
}

#[test]
fn content_used_before_a_stop_outlives_unused_content() {
    let upstream = Registry::new();
    let all = blobs(&upstream, 4, 4 * MIB);
    let mut cache = aged(&upstream, &all, &[]);
    let used = &all[1];
    wait_hit(&cache, &upstream.blob_url("a", &used.digest()));
    cache.stop();
    let accessed = |blob: &PseudoRandom| {
        let found = blob_path(cache.root(), &blob.digest()).metadata();
        found.expect("a stored blob").accessed().expect("a time")
    };
    let age_of = |blob| accessed(blob).elapsed().unwrap_or_default();
    assert!(age_of(used) < Duration::from_secs(3600));
    assert!(age_of(&all[0]) > Duration::from_secs(4 * 3600));

    cache.set_env("CACHE_MAX_SIZE", 9 * MIB);
    cache.restart();
    eventually("the store shrinks to the bound", || {
        bytes_on_disk(cache.root()) <= 9 * MIB
    });
    assert!(cache.is_stored(&used.digest()));
    upstream.down();
    pull(&cache, &upstream, used);
}

#[test]
fn evicted_blob_is_fetched_again_by_one_request() {
    let upstream = Registry::new();
    let all = blobs(&upstream, 4, 4 * MIB);
    let cache = aged(&upstream, &all, &[("CACHE_MAX_SIZE", 9 * MIB)]);
    eventually("the store shrinks to the bound", || {
        bytes_on_disk(cache.root()) <= 9 * MIB
    });
    let evicted = all.iter().find(|blob| !cache.is_stored(&blob.digest()));
    let evicted = evicted.expect("the bound is below the content");
    upstream.clear_log();
    pull(&cache, &upstream, evicted);
    assert_eq!(upstream.gets(&evicted.digest()), 1);
}

#[test]
fn object_above_its_bound_is_pulled_and_not_stored() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("CACHE_MAX_OBJECT_SIZE", "2MiB")
        .start();
    let [large, small] = [3 * MIB, MIB].map(|size| blobs(&upstream, 1, size).remove(0));
    pull(&cache, &upstream, &large);
    store(&cache, &upstream, &[small]);
    cache.settled_store();
    assert!(!cache.is_stored(&large.digest()));
    cache.wait_stderr("CACHE_MAX_OBJECT_SIZE");
    pull(&cache, &upstream, &large);
}

#[test]
fn store_gives_way_to_a_foreign_writer() {
    const FREE: u64 = 12 * MIB;
    let Some(disk) = SmallDisk::mount(48 * MIB) else {
        return;
    };
    let root = disk.path.join("store");
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("CACHE_MIN_FREE", FREE)
        .root(&root)
        .start();
    let all = blobs(&upstream, 6, 4 * MIB);
    store(&cache, &upstream, &all);
    cache.stop();
    age(&root, 5);
    cache.restart();
    cache.wait_stderr("store scanned");

    disk.fill_leaving(2 * MIB);
    let began = Instant::now();
    let free = || {
        let found = rustix::fs::statvfs(&disk.path).expect("the disk is mounted");
        found.f_bavail * found.f_frsize
    };
    eventually("the store gives way", || free() >= FREE);
    // A loaded machine may be late by some seconds.
    let took = began.elapsed();
    assert!(took < 4 * GIVES_WAY_WITHIN, "{took:?}");
    let stats = stats(&cache);
    assert!(stats["evictions"]["freeSpace"].as_u64() > Some(0), "{stats}");
    assert_eq!(stats["evictions"]["size"], 0);
    for blob in &all {
        pull(&cache, &upstream, blob);
    }
}

#[test]
fn kill_during_evictions_leaves_a_sound_store() {
    const BOUND: u64 = 12 * MIB;
    let upstream = Registry::new();
    let mut cache = cache(&upstream);
    let mut random = Random::for_test("kill during evictions");
    store(&cache, &upstream, &blobs(&upstream, 10, MIB));
    cache.set_env("CACHE_MAX_SIZE", BOUND);
    cache.kill9();
    for _ in 0..kills() {
        age(cache.root(), 5);
        cache.restart();
        cache.wait_stderr("store scanned");
        // Each stored blob needs the room of an old blob. The kill interrupts pulls and evictions.
        let new = blobs(&upstream, 1 + random.below(4), MIB);
        let client = cache.client();
        let delay = Duration::from_micros(random.below(30_000));
        thread::scope(|scope| {
            for blob in &new {
                let path = upstream.blob_url("a", &blob.digest());
                let client = &client;
                scope.spawn(move || drop(client.try_get(&path)));
            }
            thread::sleep(delay);
            cache.kill9();
        });
    }
    cache.restart();
    cache.wait_stderr("store scanned");
    let report = cache.settled_store();
    report.expect_clean();
    assert!(bytes_on_disk(cache.root()) <= BOUND + BOUND / 100);
    assert!(!report.blobs.is_empty());
}
