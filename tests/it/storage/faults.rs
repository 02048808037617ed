//! Errors of the store are logged for the operator and never fail a client's request.

use std::path::Path;
use std::process::Command;

use crate::harness::disk::SmallDisk;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Pulls `count` new blobs of up to `size_max` bytes. Every pull must succeed.
fn pull_fresh(
    cache: &Server,
    upstream: &Registry,
    random: &mut Random,
    count: usize,
    size_max: u64,
) -> Vec<PseudoRandom> {
    (0..count)
        .map(|_| {
            let content = PseudoRandom::new(random.next(), 1 + random.below(size_max));
            let digest = upstream.blob(content.clone());
            cache.client().pull(&upstream.blob_url("a", &digest), &content);
            content
        })
        .collect()
}

#[test]
fn a_full_disk_fails_no_pull() {
    let Some(disk) = SmallDisk::mount(8 * MIB) else {
        return;
    };
    let root = disk.path.join("store");
    let upstream = Registry::new();
    let cache = Server::options(&upstream).root(&root).start();
    let mut random = Random::for_test("full disk");
    // The first blobs fit. The others meet the end of the disk at different offsets, and some are
    // larger than the disk.
    let pulled = pull_fresh(&cache, &upstream, &mut random, 40, 3 * MIB);
    pull_fresh(&cache, &upstream, &mut random, 2, 24 * MIB);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "v1"))
        .expect(&image.manifest);
    // The second pulls come from the disk or from upstream. All must be correct.
    for content in &pulled {
        cache
            .client()
            .pull(&upstream.blob_url("a", &content.digest()), content);
    }
    let stored = disk::check(&root);
    stored.expect_sound();
    assert!(
        !stored.blobs.is_empty(),
        "the store has no entry, although some fit on the disk"
    );
    eventually("the log has a line with the reason", || {
        cache.stderr().to_ascii_lowercase().contains("no space")
    });
}

#[test]
fn whatever_is_left_on_the_disk_the_pull_succeeds() {
    let Some(disk) = SmallDisk::mount(4 * MIB) else {
        return;
    };
    let root = disk.path.join("store");
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).root(&root).cores(2).start();
    let mut random = Random::for_test("k bytes left");
    let first = pull_fresh(&cache, &upstream, &mut random, 1, 100_000).remove(0);
    cache.wait_stored(&first.digest());
    for round in 0..40 {
        let filler = disk.fill_leaving(random.below(if round % 2 == 0 { 20_000 } else { 2 * MIB }));
        let content = PseudoRandom::new(random.next(), 1 + random.below(2 * MIB));
        let digest = upstream.blob(content.clone());
        let image = Image::small(&upstream, "a", "v1", random.next());
        let tag_path = upstream.manifest_url("a", &format!("v{round}"));
        upstream.tag("a", &format!("v{round}"), &image.digest);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| cache.client().pull(&upstream.blob_url("a", &digest), &content));
                scope.spawn(|| cache.client().get(&tag_path).expect(&image.manifest).status);
                // A hit must not need disk space.
                scope.spawn(|| {
                    cache
                        .client()
                        .pull(&upstream.blob_url("a", &first.digest()), &first)
                });
            }
        });
        disk::check(&root).expect_sound();
        std::fs::remove_file(filler).unwrap();
        if round % 10 == 9 {
            cache.restart();
        }
    }
    // With free space again, new blobs are stored again.
    std::fs::remove_dir_all(root.join("blobs")).unwrap();
    cache.restart();
    let last = pull_fresh(&cache, &upstream, &mut random, 1, 100_000).remove(0);
    cache.wait_stored(&last.digest());
    cache.settled_store().expect_clean();
    assert_eq!(
        upstream.gets(&first.digest()),
        1,
        "stored content was not served as a hit"
    );
}

#[test]
fn followers_of_a_fill_that_runs_out_of_disk_get_everything() {
    let Some(disk) = SmallDisk::mount(4 * MIB) else {
        return;
    };
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .root(&disk.path.join("store"))
        .cores(2)
        .start();
    let content = PseudoRandom::new(fresh_seed(), 16 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    upstream.on(On::path(&digest), Reply::new().rate(32 * MIB));
    std::thread::scope(|scope| {
        for n in 0..8_u64 {
            let (content, path, cache) = (&content, &path, &cache);
            scope.spawn(move || {
                // Some clients are slow and fall behind the part of the blob that the server keeps
                // in memory.
                let mut read = 0;
                let mut connection = Connection::open_narrow(cache.addr(), 64 * 1024).unwrap();
                connection.request("GET", path, &[]).unwrap();
                let whole = connection.read_into("GET", &mut |at, piece| {
                    read += piece.len() as u64;
                    if n % 4 == 0 && read > MIB {
                        read = 0;
                        std::thread::sleep(std::time::Duration::from_millis(60));
                    }
                    content
                        .compare(at, piece)
                        .map_or_else(client::Flow::Wrong, |()| client::Flow::Go)
                });
                assert_eq!(whole.unwrap().received, content.size);
            });
        }
    });
    assert!(!disk::is_stored(&disk.path.join("store"), &digest));
}

#[test]
fn a_store_that_became_read_only_fails_no_pull() {
    let Some(disk) = SmallDisk::mount(16 * MIB) else {
        return;
    };
    let upstream = Registry::new();
    let cache = Server::options(&upstream).root(&disk.path.join("store")).start();
    let mut random = Random::for_test("read-only");
    let kept = pull_fresh(&cache, &upstream, &mut random, 3, 2 * MIB);
    for content in &kept {
        cache.wait_stored(&content.digest());
    }
    // The remount fails while a file is open for writing, and the server's lock file is open.
    if !disk.remount(true) && !set_immutable(&disk.path.join("store"), "+i") {
        eprintln!("SKIPPED: the file system can be made neither read-only nor immutable while in use");
        return;
    }
    pull_fresh(&cache, &upstream, &mut random, 5, 3 * MIB);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    for _ in 0..2 {
        cache
            .client()
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&image.manifest);
    }
    for content in &kept {
        cache
            .client()
            .pull(&upstream.blob_url("a", &content.digest()), content);
        assert_eq!(
            upstream.gets(&content.digest()),
            1,
            "stored content is not served as a hit"
        );
    }
    set_immutable(&disk.path.join("store"), "-i");
}

/// Sets the attribute of all files and directories below `root`. A socket has no attributes.
fn set_immutable(root: &Path, attribute: &str) -> bool {
    let set = Command::new("find")
        .arg(root)
        .args([
            "(", "-type", "f", "-o", "-type", "d", ")", "-exec", "chattr", attribute, "{}", "+",
        ])
        .output();
    set.is_ok_and(|output| output.status.success())
}

#[test]
fn a_store_that_vanished_fails_no_pull() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let mut random = Random::for_test("vanished");
    let before = pull_fresh(&cache, &upstream, &mut random, 3, 2 * MIB);
    for content in &before {
        cache.wait_stored(&content.digest());
    }
    std::fs::remove_dir_all(cache.root()).unwrap();
    for _ in 0..2 {
        for content in &before {
            cache
                .client()
                .pull(&upstream.blob_url("a", &content.digest()), content);
        }
    }
    pull_fresh(&cache, &upstream, &mut random, 3, 3 * MIB);
    // A regular file replaces the root directory. The server may recreate the directory during the
    // removal, so the test retries.
    eventually("the store root is a file", || {
        let _ = std::fs::remove_dir_all(cache.root());
        std::fs::write(cache.root(), "not a directory").is_ok()
    });
    pull_fresh(&cache, &upstream, &mut random, 3, 3 * MIB);
    assert!(cache.is_running());
    std::fs::remove_file(cache.root()).unwrap();
}

#[test]
fn files_removed_under_the_server_are_fetched_again() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for size in [5_000, 2 * MIB] {
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        cache.client().pull(&path, &content);
        cache.wait_stored(&digest);
        cache.client().pull(&path, &content);
        let data = disk::blob_path(cache.root(), &digest);
        std::fs::remove_file(disk::sidecar_of(&data)).unwrap();
        std::fs::remove_file(&data).unwrap();
        // The pull is correct from memory, from an open file, and from upstream.
        for _ in 0..3 {
            cache.client().pull(&path, &content);
        }
    }
}

/// Another program shortens a file that the cache has open. The current response is broken off, and
/// the next request succeeds.
#[test]
fn a_file_that_shrinks_under_a_hit_heals_with_the_next_request() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for size in [100_000, 3 * MIB] {
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        cache.client().pull(&path, &content);
        cache.wait_stored(&digest);
        eventually("a hit", || {
            cache.client().pull(&path, &content).x_cache() == "HIT"
        });
        disk::truncate(&disk::blob_path(cache.root(), &digest), size / 2);
        cache
            .client()
            .try_pull(&path, &[], &content, 0)
            .expect_err("a pull of truncated data fails");
        eventually("the blob is fetched again", || {
            cache.client().try_pull(&path, &[], &content, 0).is_ok()
        });
        assert_eq!(upstream.gets(&digest), 2);
    }
}
