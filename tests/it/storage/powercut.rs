//! Power cuts and disks that report write errors late. Afterwards an entry may be missing, but
//! never wrong.
//!
//! Needs root, loop devices and the tools of the file systems. Prints `SKIPPED` if one of them is
//! missing.

use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::disk::SmallDisk;
use crate::harness::volume::{PowerSwitch, Volume, forget_cached, run};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
/// Default number of power cuts in a run. The environment variable `CUTS` overrides the value.
const CUTS: usize = 20;

/// The minimum size of an xfs, with some free space.
const VOLUME_BYTES: u64 = 400 * MIB;

/// Initial and maximum time for the fills of a round before the cut. On a busy machine the first
/// blob takes longer, so the time doubles until a blob survives a cut.
const FILLS_MICROS_FIRST: u64 = 60_000;
const FILLS_MICROS_MAX: u64 = 2_000_000;

/// Bytes of a fill that stay in memory. Clients of smaller blobs never need the disk. For a larger
/// blob, the response of a client far behind the upstream breaks off when the disk fails.
const KEPT_BYTES: u64 = 2 * MIB;

/// Permitted number of clients, over all cuts, for which the test cannot decide whether their entry
/// had its name. After the cut, xfs returns errors for such queries.
const UNSURE_MAX: usize = 3;

/// Number of missing blobs to request while the upstream is down. Each request costs several
/// connection attempts.
const FAILED_PULLS_MAX: usize = 3;

/// Returns a size between 1 byte and 3 MiB. Every order of magnitude is about equally likely.
fn some_size(random: &mut Random) -> u64 {
    let bits = random.below(22);
    (1 << bits) + random.below(1 << bits).min(MIB)
}

fn power_cuts(kind: &str, options: &[&str], inside: Option<&Path>) {
    let volume = match Volume::mount(kind, options, VOLUME_BYTES, inside) {
        Ok(volume) => volume,
        Err(reason) => {
            eprintln!("SKIPPED: powercut on {kind}: {reason}");
            return;
        }
    };
    if let Err(reason) = volume.power_switch().and_then(PowerSwitch::cut) {
        eprintln!("SKIPPED: powercut on {kind}: {reason}");
        return;
    }
    volume.restore_power();
    let mut random = Random::for_test(&format!("power cuts on {kind}"));
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .cores(2)
        .root(&volume.path.join("store"))
        .start();
    let mut survivors = 0;
    let mut fills_micros = FILLS_MICROS_FIRST;
    let unsure = AtomicUsize::new(0);
    let cuts = std::env::var("CUTS").map_or(CUTS, |text| text.parse().expect("CUTS is a number"));
    for round in 0..cuts {
        let fresh: Vec<PseudoRandom> = (0..10)
            .map(|_| PseudoRandom::new(random.next(), some_size(&mut random)))
            .collect();
        let tag = format!("t{round}");
        let image = Image::small(&upstream, "a/b", &tag, random.next());
        let tag_path = upstream.manifest_url("a/b", &tag);
        let paths: Vec<String> = fresh
            .iter()
            .map(|content| upstream.blob_url("a/b", &upstream.blob(content.clone())))
            .collect();
        upstream.clear_rules();
        let gate = Gate::new();
        let held = fresh[0].digest();
        upstream.on(
            On::path(&held),
            Reply::new().hold_at(random.below(fresh[0].size), &gate),
        );
        let wait = Duration::from_micros(random.below(fills_micros));
        // In half of the rounds the process keeps_running its disk. In such rounds no client of a fill
        // may fail.
        let keeps_running = random.chance(2);
        let syncs = random.chance(2);
        let client = cache.client();
        let noticed = Mutex::new(Vec::new());
        let root = &cache.root().to_path_buf();
        let switch = volume.power_switch().expect("the volume has a power switch");
        std::thread::scope(|scope| {
            let (noticed, unsure) = (&noticed, &unsure);
            let mut clients = Vec::new();
            for (content, path) in fresh.iter().zip(&paths) {
                clients.push(scope.spawn(move || match client.try_pull(path, &[], content, 0) {
                    Ok(got) => assert!(got.status == 200 && got.received == content.size, "{got}"),
                    Err(broken) => {
                        let wrong = matches!(broken.why, client::Why::WrongByte(_));
                        assert!(!wrong, "round {round}: {broken:?}");
                        if !keeps_running || content.size > KEPT_BYTES {
                            return;
                        }
                        // An entry has its name shortly before the name is durable, and late
                        // clients read the entry from the disk.
                        match disk::blob_path(root, &content.digest()).try_exists() {
                            Ok(true) => {}
                            Ok(false) => noticed.lock().unwrap().push((content.digest(), broken)),
                            Err(_) => drop(unsure.fetch_add(1, Ordering::SeqCst)),
                        }
                    }
                }));
            }
            let tag_path = &tag_path;
            clients.push(scope.spawn(move || drop(client.try_get(tag_path))));
            // A sleep is correct here, because the test needs a random moment and no event.
            std::thread::sleep(wait);
            // Without a sync of the file system, btrfs writes names to the disk only every 30 s,
            // even if files are synced.
            if kind == "btrfs" && syncs {
                volume.sync().expect("a volume that has power");
            }
            switch.cut().expect("the power switch works");
            if keeps_running {
                gate.open();
                for client in clients {
                    client.join().expect("a client that was served");
                }
            }
            cache.kill9();
            gate.open();
        });
        volume.restore_power();
        let mut report = disk::check(cache.root());
        if kind == "btrfs" {
            // Because no directory is synced, btrfs may keep only the second of two names. The
            // entry is then a miss.
            let is_lone = |problem: &String| problem.starts_with("sidecar without data: ");
            report.problems.retain(|problem| !is_lone(problem));
        }
        report.expect_sound();
        // A late client may fail only if its blob was stored already, because the client then reads
        // from the lost disk.
        for (digest, broken) in noticed.into_inner().unwrap() {
            let path = disk::blob_path(cache.root(), &digest);
            assert!(report.blobs.contains(&path), "round {round}: {broken:?}");
        }

        upstream.down();
        cache.restart();
        let mut failed_pulls = 0;
        for (content, path) in fresh.iter().zip(&paths) {
            let stored = report
                .blobs
                .contains(&disk::blob_path(cache.root(), &content.digest()));
            if !stored {
                failed_pulls += 1;
                if failed_pulls > FAILED_PULLS_MAX {
                    continue;
                }
            }
            let got = cache
                .client()
                .try_pull(path, &[], content, 0)
                .unwrap_or_else(|broken| panic!("round {round}: {broken:?}"));
            match got.status {
                200 => assert!(stored && got.received == content.size, "round {round}: {got}"),
                502 | 504 => assert!(!stored, "round {round}: a stored entry is not a hit: {got}"),
                _ => panic!("round {round}: {got}"),
            }
            survivors += usize::from(stored);
        }
        let by_tag = cache.client().get(&tag_path);
        match by_tag.status {
            200 => assert!(by_tag.body == image.manifest, "round {round}"),
            502 | 504 => {}
            _ => panic!("round {round}: {by_tag}"),
        }
        upstream.up();
        cache.wait_asks(&upstream, "a");
        for (content, path) in fresh.iter().zip(&paths) {
            cache.client().pull(path, content);
        }
        cache.client().get(&tag_path).expect(&image.manifest);
        if survivors == 0 {
            fills_micros = (2 * fills_micros).min(FILLS_MICROS_MAX);
        }
    }
    eprintln!(
        "{kind}: {survivors} of {} fresh blobs survived {cuts} cuts",
        cuts * 10
    );
    assert!(survivors > 0, "no blob survived a power cut");
    let unsure = unsure.into_inner();
    assert!(unsure <= UNSURE_MAX, "{unsure} pulls failed after the power cut");
}

#[test]
fn power_cuts_on_ext4_leave_nothing_wrong() {
    power_cuts("ext4", &["-q", "-F", "-J", "size=8"], None);
}

#[test]
fn power_cuts_on_xfs_leave_nothing_wrong() {
    power_cuts("xfs", &["-q", "-f"], None);
}

/// The kernel has no request that cuts the power of a btrfs. The image is stored on an xfs, which
/// can copy the image atomically.
#[test]
fn power_cuts_on_btrfs_leave_nothing_wrong() {
    match Volume::mount("xfs", &["-q", "-f", "-m", "reflink=1"], 3 * VOLUME_BYTES, None) {
        Ok(below) => power_cuts("btrfs", &["-q", "-f"], Some(&below.path)),
        Err(reason) => eprintln!("SKIPPED: powercut on btrfs: {reason}"),
    }
}

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
            let path = upstream.blob_url("a", &upstream.blob(content.clone()));
            cache.client().pull(&path, &content);
            content
        })
        .collect()
}

/// Pulls every blob again, from any source, and compares the content. Then checks the stored
/// entries without the page cache.
fn check_all(cache: &Server, upstream: &Registry, pulled: &[PseudoRandom]) -> disk::Report {
    for content in pulled {
        cache
            .client()
            .pull(&upstream.blob_url("a", &content.digest()), content);
    }
    for path in disk::files_below(&cache.root().join("blobs")) {
        forget_cached(&path);
    }
    disk::check(cache.root())
}

/// The file system accepts all writes and finds no space later. Only the sync returns the error,
/// and only once.
#[test]
fn writes_that_fail_late_fail_no_pull_and_publish_nothing() {
    let Some(small) = SmallDisk::mount(24 * MIB) else {
        return;
    };
    let options = ["-q", "-F", "-J", "size=4"];
    let volume = match Volume::mount("ext4", &options, VOLUME_BYTES, Some(&small.path)) {
        Ok(volume) => volume,
        Err(reason) => {
            eprintln!("SKIPPED: late write errors: {reason}");
            return;
        }
    };
    let mut random = Random::for_test("late write errors");
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .root(&volume.path.join("store"))
        .start();
    let mut pulled = pull_fresh(&cache, &upstream, &mut random, 3, MIB);
    for content in &pulled {
        cache.wait_stored(&content.digest());
    }
    pulled.extend(pull_fresh(&cache, &upstream, &mut random, 30, 3 * MIB));
    let report = check_all(&cache, &upstream, &pulled);
    report.expect_sound();
    assert!(
        report.blobs.len() >= 3 && report.blobs.len() < pulled.len(),
        "{} of {} blobs were stored",
        report.blobs.len(),
        pulled.len()
    );
    cache.wait_stderr("store rejects writes");
    cache.kill9();
    disk::check(cache.root()).expect_sound();
}

#[test]
fn a_quota_fails_no_pull() {
    let volume = Volume::mount("btrfs", &["-q", "-f"], VOLUME_BYTES, None).and_then(|volume| {
        run(Command::new("btrfs").args(["quota", "enable"]).arg(&volume.path))?;
        let limit = ["qgroup", "limit", "10M"];
        run(Command::new("btrfs").args(limit).arg(&volume.path))?;
        Ok(volume)
    });
    let volume = match volume {
        Ok(volume) => volume,
        Err(reason) => {
            eprintln!("SKIPPED: EDQUOT on btrfs: {reason}");
            return;
        }
    };
    let mut random = Random::for_test("quota");
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .root(&volume.path.join("store"))
        .start();
    let mut pulled = pull_fresh(&cache, &upstream, &mut random, 2, MIB);
    for content in &pulled {
        cache.wait_stored(&content.digest());
    }
    pulled.extend(pull_fresh(&cache, &upstream, &mut random, 20, 2 * MIB));
    let report = check_all(&cache, &upstream, &pulled);
    report.expect_sound();
    assert!(
        report.blobs.len() < pulled.len(),
        "the quota limits the number of stored blobs"
    );
    eventually("the log has a line with the reason", || {
        cache.stderr().lines().any(|line| {
            line.contains(r#"msg="store rejects writes""#) && line.to_ascii_lowercase().contains("quota")
        })
    });
}
