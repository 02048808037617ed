//! Evictions beside a scan that has not ended, many readers, few inodes, and a disk that cannot read.

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use super::eviction::stats;
use crate::harness::disk::{SmallDisk, age, blob_path, plant_blob, sidecar_of, truncate};
use crate::harness::server::TempDir;
use crate::harness::volume::{Volume, forget_cached};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Makes `count` blobs of `size` bytes at the upstream.
fn blobs(upstream: &Registry, count: u64, size: u64) -> Vec<PseudoRandom> {
    let seed = fresh_seed();
    let blobs = (0..count).map(|n| PseudoRandom::new(seed + n, size));
    blobs.inspect(|blob| drop(upstream.blob(blob.clone()))).collect()
}

/// Writes a store with `blobs`, unused for hours.
fn plant(root: &Path, blobs: &[PseudoRandom]) {
    std::fs::create_dir_all(root.join("blobs")).expect("create a store");
    for blob in blobs {
        plant_blob(root, &blob.digest(), blob.size, |file| {
            std::io::Write::write_all(file, &blob.bytes()).expect("write a blob");
        });
    }
    age(root, 5);
}

fn count_stored(root: &Path, blobs: &[PseudoRandom]) -> usize {
    let is_stored = |blob: &&PseudoRandom| sidecar_of(&blob_path(root, &blob.digest())).exists();
    blobs.iter().filter(is_stored).count()
}

fn pull(cache: &Server, upstream: &Registry, blob: &PseudoRandom) {
    let path = upstream.blob_url("a", &blob.digest());
    cache.client().pull(&path, blob);
}

/// Takes the inodes below `path` until the store gives way.
fn gives_way_to_files(path: &Path) {
    const LEFT: u64 = 20;
    let root = path.join("store");
    let upstream = Registry::new();
    // Larger than metadata, which leaves last.
    let all = blobs(&upstream, 120, 100_000);
    plant(&root, &all);
    let cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("CACHE_MIN_FREE", 0)
        .root(&root)
        .start();
    cache.wait_stderr("store scanned");
    let space = || rustix::fs::statvfs(path).expect("the disk is mounted");
    // A twentieth of all inodes, by `docs/how-to/size.md`.
    let least = space().f_files / 20;
    assert_eq!(
        count_stored(&root, &all),
        all.len(),
        "nothing leaves with enough inodes"
    );

    let foreign = path.join("foreign");
    std::fs::create_dir(&foreign).expect("create a directory");
    for number in 0..space().f_ffree.saturating_sub(LEFT) {
        std::fs::write(foreign.join(number.to_string()), "").expect("an inode is free");
    }
    let began = Instant::now();
    // Pulls succeed also while the store gives way.
    for blob in &all[..20] {
        pull(&cache, &upstream, blob);
    }
    eventually("the store gives way", || space().f_ffree >= least);
    eprintln!("the store gave way within {:?}", began.elapsed());
    cache.wait_stderr("for_free_inodes=");
    for blob in &all {
        pull(&cache, &upstream, blob);
    }
    cache.settled_store().expect_sound();
}

#[test]
fn store_on_a_tmpfs_gives_way_to_a_foreign_writer_of_small_files() {
    if let Some(disk) = SmallDisk::mount_with("size=64M,nr_inodes=2000") {
        gives_way_to_files(&disk.path);
    }
}

#[test]
fn store_on_ext4_gives_way_to_a_foreign_writer_of_small_files() {
    match Volume::mount("ext4", &["-N", "1000"], 64 * MIB, None) {
        Ok(volume) => gives_way_to_files(&volume.path),
        Err(reason) => eprintln!("SKIPPED: few inodes: {reason}"),
    }
}

/// The fail point holds the scan, as a slow disk would.
#[cfg(feature = "fail-points")]
#[test]
fn nothing_is_evicted_or_stored_on_a_full_disk_before_the_scan_has_ended() {
    const FREE: u64 = 16 * MIB;
    let Some(disk) = SmallDisk::mount(32 * MIB) else {
        return;
    };
    let root = disk.path.join("store");
    let upstream = Registry::new();
    let old = blobs(&upstream, 6, 4 * MIB);
    plant(&root, &old);
    let new = blobs(&upstream, 4, MIB);
    let mut cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("CACHE_MIN_FREE", FREE)
        .env("FAIL_POINT", "store-scan:stall:1")
        .root(&root)
        .start();
    for _ in 0..3 {
        for blob in old.iter().chain(&new) {
            pull(&cache, &upstream, blob);
        }
    }
    assert_eq!(
        upstream.gets(&old[0].digest()),
        0,
        "stored content is served before the scan"
    );
    assert_eq!(count_stored(&root, &old), old.len(), "nothing is evicted");
    cache.settled_store().expect_sound();
    assert_eq!(count_stored(&root, &new), 0, "nothing is stored");
    assert!(!cache.stderr().contains("store scanned"));

    cache.kill9();
    age(&root, 5);
    cache.set_env("FAIL_POINT", "");
    cache.restart();
    let free = || {
        let found = rustix::fs::statvfs(&disk.path).expect("the disk is mounted");
        found.f_bavail * found.f_frsize
    };
    eventually("the store gives way after the scan", || free() >= FREE);
    eventually("new content is stored again", || {
        pull(&cache, &upstream, &new[0]);
        cache.is_stored(&new[0].digest())
    });
}

/// Sets a flag at the end of its scope, also after a panic.
struct SetAtDrop<'a>(&'a AtomicBool);

impl Drop for SetAtDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_get_whole_blobs_while_thousands_of_shared_blobs_are_evicted() {
    const BLOBS: u64 = 6_000;
    const READERS: usize = 64;
    const REPOSITORIES: u64 = 20;
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    cache.stop();
    let all = blobs(&upstream, BLOBS, 4_000);
    plant(cache.root(), &all);
    // A pull keeps its blob, so the pulls of half of the blobs race with the evictions, and the other half
    // leaves in any case.
    let (pulled, unused) = all.split_at(all.len() / 2);
    // Some blobs have equal content. The readers leave this thread little time for digests.
    let pulled_digests: HashSet<String> = pulled.iter().map(PseudoRandom::digest).collect();
    let unused = unused.iter().map(PseudoRandom::digest);
    let unused = unused.filter(|digest| !pulled_digests.contains(digest));
    let unused: Vec<_> = unused
        .map(|digest| sidecar_of(&blob_path(cache.root(), &digest)))
        .collect();
    let seed = fresh_seed();
    println!("SEED={seed}");
    // Each entry takes 8 KiB, so most of the store leaves.
    cache.set_env("CACHE_MAX_SIZE", 4 * MIB);
    cache.restart();
    cache.wait_stderr("store scanned");
    let began = Instant::now();
    let (is_over, pulls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let took = thread::scope(|scope| {
        let readers_end = SetAtDrop(&is_over);
        for reader in 0..READERS {
            let (cache, upstream, is_over, pulls) = (&cache, &upstream, &is_over, &pulls);
            scope.spawn(move || {
                let mut random = Random::new(seed + reader as u64);
                while !is_over.load(Ordering::Relaxed) {
                    let blob = random.pick(pulled);
                    let repository = format!("team/app-{}", random.below(REPOSITORIES));
                    let path = upstream.blob_url(&repository, &blob.digest());
                    cache.client().pull(&path, blob);
                    pulls.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        eventually("the unused blobs leave", || {
            !unused.iter().any(|path| path.exists())
        });
        drop(readers_end);
        began.elapsed()
    });
    let stats = stats(&cache);
    let evicted = stats["evictions"]["size"].as_u64().expect("a count");
    assert!(evicted > BLOBS / 3, "{stats}");
    let rate = evicted as f64 / took.as_secs_f64();
    let pulls = pulls.into_inner();
    eprintln!("{evicted} evictions in {took:?}, {rate:.0}/s, beside {pulls} pulls");
    assert!(pulls >= READERS);
    cache.settled_store().expect_sound();
}

/// The file behind the device lost its end, so reads of these blocks fail with EIO.
#[test]
fn blob_that_the_disk_cannot_read_is_fetched_again() {
    let image = TempDir::new();
    // Without a journal, with few inodes: the data begins in the first MiB.
    let options = ["-b", "4096", "-N", "1024", "-O", "^has_journal"];
    let volume = match Volume::mount("ext4", &options, 96 * MIB, Some(&image.path)) {
        Ok(volume) => volume,
        Err(reason) => return eprintln!("SKIPPED: a disk that cannot read: {reason}"),
    };
    let upstream = Registry::new();
    let root = volume.path.join("store");
    let cache = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("CACHE_MIN_FREE", 0)
        .root(&root)
        .start();
    let blob = blobs(&upstream, 1, 16 * MIB).remove(0);
    pull(&cache, &upstream, &blob);
    cache.wait_stored(&blob.digest());
    volume.sync().expect("the disk works");
    let path = blob_path(&root, &blob.digest());
    forget_cached(&path);
    truncate(&image.path.join("image"), 2 * MIB);
    let read = std::fs::read(&path).map_err(|error| error.raw_os_error());
    assert_eq!(read, Err(Some(libc::EIO)), "the disk cannot read");

    upstream.clear_log();
    let url = upstream.blob_url("a", &blob.digest());
    // A read error after the head of the response can only end the response.
    eventually("a whole blob arrives", || {
        match cache.client().try_pull(&url, &[], &blob, 0) {
            Ok(got) => got.status == 200 && got.received == blob.size,
            Err(broken) => {
                let is_wrong = matches!(broken.why, client::Why::WrongByte(_));
                assert!(!is_wrong, "{broken:?}");
                false
            }
        }
    });
    assert_eq!(
        upstream.gets(&blob.digest()),
        1,
        "the bytes come from the registry"
    );
    eventually("the blob is stored again, readable", || {
        pull(&cache, &upstream, &blob);
        std::fs::read(&path).is_ok_and(|bytes| bytes == blob.bytes())
    });
}
