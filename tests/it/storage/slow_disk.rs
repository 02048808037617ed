//! A slow disk or little memory delays the clients that read from the disk, but not the core.
//!
//! Needs root, loop devices and version 1 of the blkio and memory control groups. Prints `SKIPPED`
//! if one of them is missing.

use std::fs::File;
use std::os::linux::fs::MetadataExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{Advice, fadvise};

use crate::harness::disk::blob_path;
use crate::harness::volume::{Volume, forget_cached};
use crate::harness::*;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// A control group for one server. Removed on drop, after the exit of the server.
struct Group(PathBuf);

impl Group {
    /// Creates a group of `controller` and sets `file` to `value`. Returns the reason in one line
    /// if the group cannot be created.
    fn new(controller: &str, file: &str, value: &str) -> Result<Self, String> {
        let name = format!("oci-pull-through-{}-{}", std::process::id(), fresh_seed());
        let group = Group(Path::new("/sys/fs/cgroup").join(controller).join(name));
        std::fs::create_dir(&group.0).map_err(|error| format!("{controller} group: {error}"))?;
        group.set(file, value)?;
        Ok(group)
    }

    fn set(&self, file: &str, value: &str) -> Result<(), String> {
        std::fs::write(self.0.join(file), value).map_err(|error| format!("{file}: {error}"))
    }

    fn take(&self, cache: &Server) -> Result<(), String> {
        self.set("cgroup.procs", &cache.pid().to_string())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Keeps only every `every`-th page of a file in the page cache.
fn leave_pages(path: &Path, every: u64) {
    forget_cached(path);
    let file = File::open(path).unwrap();
    // Reads single pages, without readahead.
    fadvise(&file, 0, None, Advice::Random).unwrap();
    let pages = file.metadata().unwrap().st_size() / 4096;
    for page in (0..pages).filter(|page| page % every == every - 1) {
        file.read_exact_at(&mut [0], page * 4096).unwrap();
    }
}

/// Requests `path` repeatedly until `done` is set. Returns the response times in ascending order.
fn waits(cache: &Server, path: &str, done: &AtomicBool) -> Vec<Duration> {
    let mut waits = Vec::new();
    while !done.load(Ordering::SeqCst) || waits.len() < 20 {
        let began = Instant::now();
        assert_eq!(cache.client().get(path).status, 200, "{path}");
        waits.push(began.elapsed());
        std::thread::sleep(Duration::from_millis(2));
    }
    waits.sort();
    waits
}

/// Pulls all blobs concurrently, while bystanders request `/livez` and a small blob in memory.
/// Returns the 95th percentile of the bystanders' response times and the time of the pulls.
fn pull_beside_bystanders(
    cache: &Server,
    small: &str,
    blobs: &[(String, PseudoRandom)],
) -> (Duration, Duration) {
    let done = AtomicBool::new(false);
    let began = Instant::now();
    let worst = std::thread::scope(|scope| {
        let done = &done;
        let bystanders = ["/livez", small].map(|path| scope.spawn(move || waits(cache, path, done)));
        let pulls: Vec<_> = blobs
            .iter()
            .map(|(path, content)| scope.spawn(move || cache.client().pull(path, content)))
            .collect();
        let failed = pulls.into_iter().filter_map(|pull| pull.join().err()).count();
        done.store(true, Ordering::SeqCst);
        let worst = bystanders.map(|bystander| {
            let waits = bystander.join().unwrap();
            waits[waits.len() * 19 / 20]
        });
        assert_eq!(failed, 0, "{}", cache.stderr());
        worst.into_iter().max().unwrap()
    });
    (worst, began.elapsed())
}

/// The disk needs seconds for a complete blob, and the core never waits for the disk.
#[test]
fn a_slow_disk_with_a_page_in_memory_here_and_there_holds_up_its_readers_only() {
    const CLIENTS: u64 = 6;
    const BLOB: u64 = 1536 * KIB;
    /// Bytes per second of the disk. A read of one megabyte would take 3 s.
    const RATE: u64 = 320 * KIB;
    let volume = match Volume::mount("ext4", &[], 64 * MIB, None) {
        Ok(volume) => volume,
        Err(reason) => return eprintln!("SKIPPED: a slow disk: {reason}"),
    };
    let device = std::fs::metadata(&volume.path).unwrap().st_dev();
    let device = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
    let group = match Group::new(
        "blkio",
        "blkio.throttle.read_bps_device",
        &format!("{device} {RATE}"),
    ) {
        Ok(group) => group,
        Err(reason) => return eprintln!("SKIPPED: a slow disk: {reason}"),
    };
    let upstream = Registry::new();
    let root = volume.path.join("store");
    let mut cache = Server::options(&upstream).root(&root).cores(1).start();
    let small = PseudoRandom::new(fresh_seed(), 2 * KIB);
    let small_path = upstream.blob_url("a", &upstream.blob(small.clone()));
    cache.client().pull(&small_path, &small);
    let blobs: Vec<(String, PseudoRandom)> = (0..CLIENTS)
        .map(|_| {
            let content = PseudoRandom::new(fresh_seed(), BLOB);
            let digest = upstream.blob(content.clone());
            let path = upstream.blob_url("a", &digest);
            cache.client().pull(&path, &content);
            cache.wait_stored(&digest);
            leave_pages(&blob_path(&root, &digest), 16);
            (path, content)
        })
        .collect();
    cache.client().pull(&small_path, &small);
    if let Err(reason) = group.take(&cache) {
        return eprintln!("SKIPPED: a slow disk: {reason}");
    }
    let (worst, took) = pull_beside_bystanders(&cache, &small_path, &blobs);
    // Each pull waits for the disk many times. A bystander behind one of these reads would wait for
    // seconds.
    assert!(worst < took / 40, "the slowest hit took {worst:?} of {took:?}");
    assert!(
        !cache.stderr().contains("thread=\"core 0\""),
        "{}",
        cache.stderr()
    );
    assert!(cache.is_running());
    cache.kill9();
}

/// The content has four times the size of the memory. Every pull is correct, cold and from the
/// disk, and the process is neither killed nor stopped.
#[test]
fn in_a_memory_group_that_is_far_too_small_for_the_content_every_pull_is_right() {
    const BLOBS: u64 = 16;
    const BLOB: u64 = 24 * MIB;
    /// On a busy disk, the windows of the fills take 64 MiB, and the process takes 40 MiB.
    const MEMORY: u64 = 144 * MIB;
    for driver in ["io_uring", "epoll"] {
        let group = match Group::new("memory", "memory.limit_in_bytes", &MEMORY.to_string()) {
            Ok(group) => group,
            Err(reason) => return eprintln!("SKIPPED: short memory: {reason}"),
        };
        let upstream = Registry::new();
        let options = Server::options(&upstream).env("IO_DRIVER", driver).cores(1);
        let Ok(mut cache) = options.try_start() else {
            eprintln!("SKIPPED: short memory: {driver} is not available here");
            continue;
        };
        if let Err(reason) = group.take(&cache) {
            return eprintln!("SKIPPED: short memory: {reason}");
        }
        let small = PseudoRandom::new(fresh_seed(), 2 * KIB);
        let small_path = upstream.blob_url("a", &upstream.blob(small.clone()));
        cache.client().pull(&small_path, &small);
        cache.client().pull(&small_path, &small);
        let blobs: Vec<(String, PseudoRandom)> = (0..BLOBS)
            .map(|_| {
                let content = PseudoRandom::new(fresh_seed(), BLOB);
                let path = upstream.blob_url("a", &upstream.blob(content.clone()));
                (path, content)
            })
            .collect();
        for _ in 0..3 {
            let (worst, took) = pull_beside_bystanders(&cache, &small_path, &blobs);
            assert!(worst < took, "{driver}: {worst:?} of {took:?}");
        }
        assert!(
            !cache.stderr().contains("thread=\"core 0\""),
            "{}",
            cache.stderr()
        );
        assert!(cache.is_running());
        cache.kill9();
    }
}
