//! Faults of the bucket. Every pull is correct, and damaged objects are replaced.

use std::time::{Duration, Instant};

use crate::harness::*;

const MIB: u64 = 1 << 20;

fn start(bucket: &Bucket, upstream: &Registry, backend: &str) -> Server {
    bucket
        .behind(Server::options(upstream), backend)
        .env("TAG_TTL", "1h")
        .start()
}

fn image(upstream: &Registry, tag: &str) -> Image {
    let seed = fresh_seed();
    let layers =
        [500, 400_000, 3 * MIB + 1, 6 * MIB].map(|size| Content::from(PseudoRandom::new(seed + size, size)));
    Image::push(upstream, "team/app", tag, Flavor::Oci, &layers)
}

/// Pulls an image. Repeats the request once if a body is cut off, as every client does. Returns the
/// number of cut bodies.
#[track_caller]
fn pull(cache: &Server, upstream: &Registry, tag: &str, image: &Image) -> usize {
    let mut cut = 0;
    let mut get = |path: &str, expected: &[u8]| {
        let got = cache.client().try_get(path).unwrap_or_else(|_| {
            cut += 1;
            cache.client().get(path)
        });
        got.expect(expected);
    };
    get(&upstream.manifest_url("team/app", tag), &image.manifest);
    for (digest, content) in image.all_blobs() {
        get(&upstream.blob_url("team/app", digest), &content.bytes());
    }
    cut
}

#[track_caller]
fn wait_has(bucket: &Bucket, image: &Image) {
    bucket.wait_has(&image.digest);
    for (digest, _) in image.all_blobs() {
        bucket.wait_has(digest);
    }
}

/// Pulls a stored and a new image during the fault that `begin` starts. Afterwards the bucket has
/// both.
#[track_caller]
fn every_pull_is_right_through(backend: &str, begin: impl Fn(&Bucket), cuts_max: usize) {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let (known, new) = (image(&upstream, "known"), image(&upstream, "new"));
    let first = start(&bucket, &upstream, backend);
    pull(&first, &upstream, "known", &known);
    wait_has(&bucket, &known);
    let cache = start(&bucket, &upstream, backend);
    begin(&bucket);
    let began = Instant::now();
    let cut = pull(&cache, &upstream, "known", &known) + pull(&cache, &upstream, "new", &new);
    assert!(cut <= cuts_max, "{cut} bodies were truncated");
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "the pulls took {:?}",
        began.elapsed()
    );
    bucket.clear_faults();
    if backend == "tiered" {
        wait_has(&bucket, &known);
        wait_has(&bucket, &new);
    } else {
        // If the bucket still lacks an object, the next pull uploads the object.
        eventually("the bucket has every object", || {
            pull(&cache, &upstream, "known", &known);
            pull(&cache, &upstream, "new", &new);
            [&known, &new].iter().all(|image| {
                bucket.has(&image.digest) && image.all_blobs().iter().all(|(digest, _)| bucket.has(digest))
            })
        });
    }
    let third = start(&bucket, &upstream, backend);
    upstream.down();
    for (tag, image) in [("known", &known), ("new", &new)] {
        for (digest, content) in image.all_blobs() {
            let path = upstream.blob_url("team/app", digest);
            third.get_from_bucket(&path).expect(&content.bytes());
        }
        let by_digest = upstream.manifest_url("team/app", &image.digest);
        third.get_from_bucket(&by_digest).expect(&image.manifest);
        eprintln!("{backend}: the bucket has every object of {tag}");
    }
    upstream.up();
    for cache in [&cache, &third] {
        let log = cache.stderr();
        assert!(!log.contains("a-secret-that-must-not-be-seen"), "{log}");
    }
}

#[test]
fn a_bucket_that_answers_500() {
    every_pull_is_right_through(
        "s3",
        |b| b.add_fault("*", "", Fault::Error(500, "InternalError")),
        0,
    );
}

#[test]
fn a_bucket_that_answers_500_behind_a_local_store() {
    every_pull_is_right_through(
        "tiered",
        |b| b.add_fault("*", "", Fault::Error(500, "InternalError")),
        0,
    );
}

#[test]
fn pulls_succeed_if_the_bucket_responds_with_slow_down() {
    every_pull_is_right_through("s3", |b| b.add_fault("*", "", Fault::Error(503, "SlowDown")), 0);
}

#[test]
fn a_bucket_that_refuses_us() {
    every_pull_is_right_through(
        "s3",
        |b| b.add_fault("*", "", Fault::Error(403, "AccessDenied")),
        0,
    );
}

#[test]
fn pulls_succeed_if_the_bucket_denies_writes() {
    every_pull_is_right_through(
        "tiered",
        |b| b.add_fault("PUT", "", Fault::Error(403, "AccessDenied")),
        0,
    );
}

#[test]
fn a_bucket_that_is_silent() {
    every_pull_is_right_through("s3", |b| b.add_fault("*", "", Fault::Silence), 0);
}

#[test]
fn a_bucket_that_is_silent_behind_a_local_store() {
    every_pull_is_right_through("tiered", |b| b.add_fault("*", "", Fault::Silence), 0);
}

#[test]
fn a_bucket_that_is_gone() {
    every_pull_is_right_through("s3", Bucket::down, 0);
}

#[test]
fn a_bucket_that_is_gone_behind_a_local_store() {
    every_pull_is_right_through("tiered", Bucket::down, 0);
}

#[test]
fn a_bucket_that_thinks_for_a_second() {
    every_pull_is_right_through(
        "s3",
        |b| b.add_fault("*", "", Fault::Late(Duration::from_secs(1))),
        0,
    );
}

#[test]
fn bodies_that_break_off() {
    for (backend, at) in [
        ("s3", 300_000),
        ("tiered", 300_000),
        ("s3", 0),
        ("tiered", 2_000_000),
    ] {
        every_pull_is_right_through(backend, |b| b.add_fault("GET", "blobs/", Fault::Cut(at)), 0);
    }
}

#[test]
fn bodies_that_are_wrong_are_never_whole() {
    // Two of the four blobs are too large for verification before the first byte. Each of them is
    // cut off once.
    for backend in ["s3", "tiered"] {
        every_pull_is_right_through(backend, |b| b.add_fault("GET", "blobs/", Fault::Flip(450)), 2);
    }
}

/// Damages the bucket with `damage`. Another cache pulls, and afterwards the bucket is correct
/// again.
#[track_caller]
fn is_replaced_after(backend: &str, cuts_max: usize, damage: impl Fn(&Bucket, &str)) {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let image = image(&upstream, "v1");
    let first = start(&bucket, &upstream, backend);
    pull(&first, &upstream, "v1", &image);
    wait_has(&bucket, &image);
    drop(first);
    for (digest, _) in image.all_blobs() {
        damage(&bucket, &Bucket::blob_key(digest));
    }
    let cache = start(&bucket, &upstream, backend);
    let cut = pull(&cache, &upstream, "v1", &image);
    assert!(cut <= cuts_max, "{cut} bodies were truncated");
    for (digest, content) in image.all_blobs() {
        eventually("the bucket has the right content", || {
            let stored = std::fs::read(bucket.path(&Bucket::blob_key(digest))).unwrap_or_default();
            bucket.has(digest) && stored == content.bytes()
        });
    }
    upstream.down();
    let other = start(&bucket, &upstream, backend);
    for (digest, content) in image.all_blobs() {
        let path = upstream.blob_url("team/app", digest);
        other.get_from_bucket(&path).expect(&content.bytes());
    }
    upstream.up();
}

#[test]
fn lost_data_and_lost_sidecars_come_back() {
    for backend in ["s3", "tiered"] {
        is_replaced_after(backend, 0, |bucket, key| {
            std::fs::remove_file(bucket.path(key)).expect("the object exists in the bucket");
        });
        is_replaced_after(backend, 0, |bucket, key| {
            std::fs::remove_file(bucket.path(&format!("{key}.meta.json")))
                .expect("the object exists in the bucket");
        });
        is_replaced_after(backend, 0, |bucket, key| {
            let file = std::fs::File::options().write(true).open(bucket.path(key));
            file.and_then(|file| file.set_len(100))
                .expect("the object exists in the bucket");
        });
    }
}

#[test]
fn rotten_content_is_never_whole_and_is_replaced() {
    for backend in ["s3", "tiered"] {
        is_replaced_after(backend, 2, |bucket, key| {
            let mut bytes = std::fs::read(bucket.path(key)).expect("the object exists in the bucket");
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            std::fs::write(bucket.path(key), bytes).expect("a file");
        });
    }
}

#[test]
fn bucket_failure_and_recovery_are_each_logged_once() {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let first = image(&upstream, "v1");
    let cache = start(&bucket, &upstream, "tiered");
    bucket.down();
    for (digest, content) in first.all_blobs() {
        let path = upstream.blob_url("team/app", digest);
        cache.client().get(&path).expect(&content.bytes());
    }
    cache.wait_stderr("bucket unavailable");
    pull(&cache, &upstream, "v1", &first);
    bucket.clear_faults();
    wait_has(&bucket, &first);
    cache.wait_stderr("bucket available again");
    let log = cache.stderr();
    assert_eq!(log.matches("bucket unavailable").count(), 1, "{log}");
    assert_eq!(log.matches("bucket available again").count(), 1, "{log}");
}

/// A function that damages bytes.
type Damage<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;

/// Returns the key of a manifest.
fn manifest_key(upstream: &Registry, digest: &str) -> String {
    format!(
        "manifests/{}/team/app/{}",
        upstream.name(),
        digest.replace(':', "-")
    )
}

#[test]
fn a_damaged_manifest_in_the_bucket_is_replaced() {
    for backend in ["s3", "tiered"] {
        let flipped = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            bytes[20] ^= 1;
            bytes
        };
        // Bytes of equal size, bytes of another size, and no bytes.
        let damages: [Damage<'_>; 3] = [&flipped, &|_| b"<html>".to_vec(), &|_| Vec::new()];
        for damage in damages {
            let (upstream, bucket) = (Registry::new(), Bucket::new());
            let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
            let by_tag = upstream.manifest_url("team/app", "v1");
            let first = start(&bucket, &upstream, backend);
            first.client().get(&by_tag).expect(&image.manifest);
            bucket.wait_has(&image.digest);
            eventually("the bucket has the pointer of the tag", || {
                bucket.keys().iter().any(|key| key.ends_with("_tags/v1"))
            });
            drop(first);
            let file = bucket.path(&manifest_key(&upstream, &image.digest));
            std::fs::write(&file, damage(&image.manifest)).expect("a file");
            let second = start(&bucket, &upstream, backend);
            second.client().get(&by_tag).expect(&image.manifest);
            eventually("the bucket has the right content", || {
                bucket.has(&image.digest) && std::fs::read(&file).is_ok_and(|found| found == image.manifest)
            });
            upstream.down();
            let third = start(&bucket, &upstream, backend);
            third.get_from_bucket(&by_tag).expect(&image.manifest);
        }
    }
}

#[test]
fn invalid_manifest_in_the_bucket_is_removed_on_access() {
    for backend in ["s3", "tiered"] {
        for (page, size) in [
            ("<html>log in</html>", 19),
            ("[1, 2, 3]          ", 19),
            ("", 5 << 20),
        ] {
            let (upstream, bucket) = (Registry::new(), Bucket::new());
            let mut bytes = page.as_bytes().to_vec();
            bytes.resize(size, b' ');
            let digest = Content::from(bytes.clone()).digest();
            let key = manifest_key(&upstream, &digest);
            let (data, sidecar) = (bucket.path(&key), bucket.path(&format!("{key}.meta.json")));
            std::fs::create_dir_all(data.parent().expect("a directory")).expect("a directory");
            std::fs::write(&data, &bytes).expect("a file");
            let described = format!(
                "{{\"Content-Length\":[\"{size}\"],\"Content-Type\":[\"text/html\"],\"X-Cache-Public\":[\"true\"],\
                 \"X-Cache-Verified\":[\"sha256\"]}}"
            );
            std::fs::write(&sidecar, described).expect("a file");
            let cache = start(&bucket, &upstream, backend);
            let got = cache.client().get(&upstream.manifest_url("team/app", &digest));
            assert_eq!(got.status, 404, "{got}");
            eventually("the wrong object is removed from the bucket", || {
                !data.exists() && !sidecar.exists()
            });
        }
    }
}
