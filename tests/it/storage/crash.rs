//! `kill -9` at any moment. Complete entries are served afterwards, and incomplete ones are
//! removed.

use std::time::{Duration, Instant};

use crate::harness::*;

const KILLS: usize = 100;

/// Number of kills per store. Every check hashes the complete store, so a small store saves time.
const STORE_ROUNDS: usize = 10;

/// Permitted median time from start to the first answer. The documented value is 200 ms. The rest
/// is tolerance for a busy test machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

#[test]
fn a_hundred_kills_during_fills_leave_nothing_wrong() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).cores(2).start();
    let mut random = Random::for_test("kills");
    let mut pulled: Vec<PseudoRandom> = Vec::new();
    let mut restarts = Vec::new();
    for round in 0..KILLS {
        let fresh: Vec<_> = (0..3)
            .map(|_| {
                let spread = if random.chance(8) { 12 } else { 8 };
                let bits = 10 + random.below(spread);
                PseudoRandom::new(random.next(), (1 << bits) + random.below(1 << bits))
            })
            .collect();
        let image = Image::small(&upstream, "a/b", &format!("t{round}"), random.next());
        let paths: Vec<_> = fresh
            .iter()
            .map(|c| upstream.blob_url("a/b", &upstream.blob(c.clone())))
            .collect();
        // In half of the rounds, a body stops in the middle, so that many kills meet a growing
        // file.
        upstream.clear_rules();
        let gate = Gate::new();
        if random.chance(2) {
            upstream.on(
                On::path(fresh[0].digest()),
                Reply::new().hold_at(random.below(fresh[0].size), &gate),
            );
        }
        let client = cache.client();
        let patience = Duration::from_micros(random.below(30_000));
        let tag_path = upstream.manifest_url("a/b", &format!("t{round}"));
        std::thread::scope(|scope| {
            for (content, path) in fresh.iter().zip(&paths) {
                // The kill breaks the response off anywhere. All bytes received before must be
                // correct.
                scope.spawn(move || match client.try_pull(path, &[], content, 0) {
                    Ok(got) => assert!(got.status == 200 && got.received == content.size, "{got}"),
                    Err(broken) => assert!(!matches!(broken.why, client::Why::WrongByte(_)), "{broken:?}"),
                });
            }
            scope.spawn(|| drop(client.try_get(&tag_path)));
            // A sleep is correct here, because the test needs a random moment and no event.
            std::thread::sleep(patience);
            cache.kill9();
            gate.open();
        });
        disk::check(cache.root()).expect_sound();

        let offline = round % 2 == 0;
        if offline {
            upstream.down();
        }
        let started = Instant::now();
        cache.restart();
        cache.client().get("/v2/").expect(b"{}");
        restarts.push(started.elapsed());
        pulled.extend(fresh);
        for _ in 0..5 {
            let content = random.pick(&pulled);
            let got = cache
                .client()
                .try_pull(&upstream.blob_url("a/b", &content.digest()), &[], content, 0);
            let got = got.unwrap_or_else(|broken| panic!("round {round}: {broken:?}"));
            match got.status {
                200 => assert_eq!(got.received, content.size, "round {round}"),
                502 | 504 if offline => {}
                _ => panic!("round {round}: {got}"),
            }
        }
        let tag = cache.client().get(&tag_path);
        match tag.status {
            200 => assert_eq!(tag.body, image.manifest),
            502 | 504 if offline => {}
            _ => panic!("round {round}: {tag}"),
        }
        cache.settled_store().expect_clean();
        upstream.up();
        cache.wait_asks(&upstream, "a/b");
        if round % STORE_ROUNDS == STORE_ROUNDS - 1 {
            for content in &pulled {
                cache
                    .client()
                    .pull(&upstream.blob_url("a/b", &content.digest()), content);
            }
            pulled.clear();
            cache.kill9();
            std::fs::remove_dir_all(cache.root()).unwrap();
            cache.restart();
        }
    }
    // The median, because a busy machine may delay single restarts.
    restarts.sort();
    let median = restarts[restarts.len() / 2];
    assert!(median < ANSWERS_WITHIN, "{median:?}");
}

#[test]
fn what_was_stored_before_a_kill_is_served_after_it_without_the_upstream() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "v1"))
        .expect(&image.manifest);
    cache.wait_stored(&image.digest);
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("a", digest))
            .expect(&content.bytes());
        cache.wait_stored(digest);
    }
    cache.kill9();
    upstream.down();
    cache.restart();
    cache
        .client()
        .get(&upstream.manifest_url("a", &image.digest))
        .expect(&image.manifest);
    for (digest, content) in &image.blobs {
        cache
            .client()
            .get(&upstream.blob_url("a", digest))
            .expect(&content.bytes());
    }
}

#[test]
fn leftovers_of_a_kill_are_cleaned_at_the_next_start() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let kept = PseudoRandom::new(fresh_seed(), 10_000);
    let digest = upstream.blob(kept.clone());
    cache.client().pull(&upstream.blob_url("a", &digest), &kept);
    cache.wait_stored(&digest);
    cache.kill9();
    let root = cache.root().to_owned();
    let orphan = disk::blob_path(&root, &PseudoRandom::new(fresh_seed(), 5).digest());
    std::fs::write(&orphan, "x").unwrap();
    std::fs::create_dir_all(root.join(".tmp")).unwrap();
    std::fs::write(root.join(".tmp/left"), "half").unwrap();
    cache.restart();
    eventually("the temporary files are removed", || {
        !orphan.exists() && !root.join(".tmp/left").exists()
    });
    upstream.down();
    cache.client().pull(&upstream.blob_url("a", &digest), &kept);
}

/// An operator, another program or a broken file system may leave anything in the store. The server
/// starts nevertheless, and all other entries work.
#[test]
fn the_server_starts_on_any_garbage() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let kept = PseudoRandom::new(fresh_seed(), 10_000);
    let digest = upstream.blob(kept.clone());
    cache.client().pull(&upstream.blob_url("a", &digest), &kept);
    cache.wait_stored(&digest);
    cache.kill9();
    let blobs = cache.root().join("blobs");
    let hex = "0".repeat(64);
    std::fs::write(blobs.join("README"), "hello").unwrap();
    std::fs::create_dir(blobs.join(format!("sha256-{hex}"))).unwrap();
    std::fs::write(blobs.join(format!("sha256-{hex}.meta.json")), "{}").unwrap();
    std::fs::write(blobs.join(".meta.json"), "[").unwrap();
    std::fs::write(blobs.join("sha256-"), "").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", blobs.join(format!("sha256-{}", "1".repeat(64)))).unwrap();
    std::os::unix::fs::symlink(blobs.join("loop"), blobs.join("loop")).unwrap();
    let odd: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"\xff\xfe\n");
    std::fs::write(blobs.join(odd), "").unwrap();
    let manifests = cache.root().join("manifests");
    std::fs::create_dir_all(manifests.join("..x/y")).unwrap();
    std::fs::create_dir_all(manifests.join(upstream.name()).join("a/_tags/dir")).unwrap();
    std::fs::write(manifests.join(upstream.name()).join("a/_tags/v1"), "\0garbage").unwrap();
    std::fs::write(manifests.join("file"), "").unwrap();
    assert!(
        std::process::Command::new("mkfifo")
            .arg(blobs.join("fifo"))
            .status()
            .unwrap()
            .success()
    );
    cache.restart();
    cache.client().pull(&upstream.blob_url("a", &digest), &kept);
    assert_eq!(upstream.gets(&digest), 1);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "v1"))
        .expect(&image.manifest);
    // A garbage entry is not served under its name.
    let got = cache
        .client()
        .get(&upstream.blob_url("a", &format!("sha256:{}", "1".repeat(64))));
    assert_eq!(got.status, 404, "{got}");
    let got = cache
        .client()
        .get(&upstream.blob_url("a", &format!("sha256:{hex}")));
    assert_eq!(got.status, 404, "{got}");
}

/// Covers every numbered step of a commit, and the steps before and after.
#[cfg(feature = "fail-points")]
#[test]
fn a_kill_at_any_step_of_a_commit_leaves_all_or_nothing() {
    const BLOB: &[&str] = &["fill-received", "fill-verified"];
    const MANIFEST: &[&str] = &["manifest-fetched", "replacement-written"];
    const BOTH: &[&str] = &[
        "ingest-opened",
        "ingest-written",
        "data-synced",
        "sidecar-written",
        "data-named",
        "sidecar-named",
    ];
    /// The entry exists after these steps.
    const STORED: &[&str] = &["sidecar-named", "replacement-written"];
    let steps = |more: &[&'static str]| [BOTH, more].concat();
    for offline in [true, false] {
        for point in steps(BLOB) {
            killed_blob(point, 1, 5_000, offline, STORED.contains(&point));
            let nth = if matches!(point, "fill-received" | "ingest-written") {
                5
            } else {
                1
            };
            killed_blob(point, nth, 1_500_000, offline, STORED.contains(&point));
        }
        for point in steps(MANIFEST) {
            killed_manifest(point, offline, STORED.contains(&point));
        }
    }
}

/// Starts a server that aborts at `point`, and runs `pull` against the server. Returns the stopped
/// server without the fail point.
#[cfg(feature = "fail-points")]
fn kill_at(upstream: &Registry, point: &str, nth: usize, pull: impl FnOnce(&Server)) -> Server {
    let mut cache = Server::options(upstream)
        .env("FAIL_POINT", format!("{point}:abort:{nth}"))
        .start();
    pull(&cache);
    let status = cache.wait_exit(PATIENCE);
    assert!(status.is_some(), "no request reached {point}");
    disk::check(cache.root()).expect_sound();
    cache.set_env("FAIL_POINT", "");
    cache
}

#[cfg(feature = "fail-points")]
fn killed_blob(point: &str, nth: usize, size: u64, offline: bool, stored: bool) {
    let upstream = Registry::new();
    let content = PseudoRandom::new(fresh_seed(), size);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let mut cache = kill_at(&upstream, point, nth, |cache| {
        if let Err(broken) = cache.client().try_pull(&path, &[], &content, 0) {
            assert!(
                !matches!(broken.why, client::Why::WrongByte(_)),
                "{point}: {broken:?}"
            );
        }
    });
    let at = format!("{point}, {size} bytes, offline {offline}");
    if offline {
        upstream.down();
        cache.restart();
        let got = cache.client().try_pull(&path, &[], &content, 0).unwrap();
        if stored {
            assert!(got.status == 200 && got.received == size, "{at}: {got}");
        } else {
            assert!(matches!(got.status, 502 | 504), "{at}: {got}");
        }
        upstream.up();
    } else {
        upstream.clear_log();
        cache.restart();
        cache.client().pull(&path, &content);
        assert_eq!(upstream.gets(&content.digest()), usize::from(!stored), "{at}");
    }
    cache.client().pull(&path, &content);
    cache.wait_stored(&content.digest());
    cache.settled_store().expect_clean();
}

#[cfg(feature = "fail-points")]
fn killed_manifest(point: &str, offline: bool, stored: bool) {
    let upstream = Registry::new();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let by_tag = upstream.manifest_url("a", "v1");
    let by_digest = upstream.manifest_url("a", &image.digest);
    let mut cache = kill_at(&upstream, point, 1, |cache| {
        if let Ok(got) = cache.client().try_get(&by_tag) {
            got.expect(&image.manifest);
        }
    });
    let at = format!("{point}, a manifest, offline {offline}");
    if offline {
        upstream.down();
        cache.restart();
        // The pointer is written last and atomically.
        let got = cache.client().get(&by_tag);
        assert!(matches!(got.status, 502 | 504), "{at}: {got}");
        let got = cache.client().get(&by_digest);
        if stored {
            got.expect(&image.manifest);
        } else {
            assert!(matches!(got.status, 502 | 504), "{at}: {got}");
        }
        upstream.up();
    } else {
        cache.restart();
    }
    cache.client().get(&by_tag).expect(&image.manifest);
    cache.client().get(&by_digest).expect(&image.manifest);
    cache.wait_stored(&image.digest);
    cache.settled_store().expect_clean();
}
