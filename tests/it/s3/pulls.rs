//! Pulls with a bucket, alone and behind the local store: cold, warm, in parts, and from a second
//! cache.

use crate::harness::disk;
use crate::harness::*;

/// Both storage backends with a bucket.
const BACKENDS: [&str; 2] = ["s3", "tiered"];

const MIB: u64 = 1 << 20;

fn start(bucket: &Bucket, upstream: &Registry, backend: &str) -> Server {
    bucket.behind(Server::options(upstream), backend).start()
}

/// Waits until the spool is empty, so that further responses come from the bucket.
fn wait_unspooled(cache: &Server) {
    eventually("no file of the spool is open", || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", cache.pid())).expect("running");
        !fds.flatten()
            .filter_map(|fd| std::fs::read_link(fd.path()).ok())
            .any(|target| target.display().to_string().contains("(deleted)"))
    });
}

#[test]
fn content_fetched_by_one_cache_is_served_by_the_next_from_the_bucket() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let seed = fresh_seed();
        let layers: Vec<_> = [0, 1, 900, 40_000, 700_000, MIB, MIB + 1, 9 * MIB + 5]
            .into_iter()
            .enumerate()
            .map(|(n, size)| Content::from(PseudoRandom::new(seed + n as u64, size)))
            .collect();
        let image = Image::push(&upstream, "team/app", "v1", Flavor::Oci, &layers);
        let pull = |cache: &Server| {
            let tag = cache.get_from_bucket(&upstream.manifest_url("team/app", "v1"));
            tag.expect(&image.manifest);
            for (digest, content) in image.all_blobs() {
                let got = cache.get_from_bucket(&upstream.blob_url("team/app", digest));
                got.expect(&content.bytes());
            }
        };
        let first = start(&bucket, &upstream, backend);
        pull(&first);
        // The second pull is served from the cache's own copy.
        pull(&first);
        for (digest, _) in image.all_blobs() {
            assert!(
                upstream.gets(digest) == 1 || first.bypassed_bucket(),
                "{backend}: the cache fetched its own copy again"
            );
            bucket.wait_has(digest);
        }
        bucket.wait_has(&image.digest);
        eventually("the bucket has the pointer of the tag", || {
            bucket.keys().iter().any(|key| key.ends_with("_tags/v1"))
        });

        let before = upstream.requests();
        let second = start(&bucket, &upstream, backend);
        pull(&second);
        pull(&second);
        assert!(
            upstream.requests() == before || second.bypassed_bucket(),
            "{backend}: the upstream received a request"
        );
        upstream.down();
        pull(&second);
        if backend == "tiered" {
            for (digest, _) in image.all_blobs() {
                second.wait_stored(digest);
            }
            second.settled_store().expect_clean();
            bucket.clear_log();
            pull(&second);
            assert_eq!(bucket.log().len(), 0, "stored content causes a bucket request");
        }
    }
}

#[test]
fn any_part_of_what_the_bucket_has_is_served() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let mut random = Random::for_test("any_part_of_what_the_bucket_has_is_served");
        for size in [5_000, 300_000, 40 * MIB] {
            let content = PseudoRandom::new(random.next(), size);
            let digest = upstream.blob(content.clone());
            let path = upstream.blob_url("a", &digest);
            let first = start(&bucket, &upstream, backend);
            first.client().pull(&path, &content);
            bucket.wait_has(&digest);
            let bytes = content.bytes();
            let at = random.below(size - 10);
            let mut before = upstream.requests();
            let mut is_unasked = |cache: &Server| {
                let asked = upstream.requests();
                assert!(
                    asked == before || cache.bypassed_bucket(),
                    "{backend} {size}: the upstream received a request"
                );
                before = asked;
            };
            for (range, span) in [
                ("bytes=0-0".to_owned(), 0..1),
                ("bytes=-7".to_owned(), size - 7..size),
                (format!("bytes={at}-{}", at + 9), at..at + 10),
                (format!("bytes={}-", size - 1), size - 1..size),
                ("bytes=0-".to_owned(), 0..size),
                (format!("bytes={}-", size / 2), size / 2..size),
            ] {
                // A cache without the content.
                let cache = start(&bucket, &upstream, backend);
                let got = cache.client().get_with(&path, &[("Range", &range)]);
                assert_eq!(got.status, 206, "{backend} {range}: {got}");
                assert!(
                    got.body == bytes[span.start as usize..span.end as usize],
                    "{backend} {range}"
                );
                let expected = format!("bytes {}-{}/{size}", span.start, span.end - 1);
                assert_eq!(got.field("content-range"), Some(expected.as_str()));
                is_unasked(&cache);
            }
            let cache = start(&bucket, &upstream, backend);
            let head = cache.client().head(&path);
            assert_eq!((head.status, head.content_length()), (200, Some(size)), "{head}");
            let beyond = [("Range", format!("bytes={size}-"))];
            let beyond = cache.client().get_with(&path, &[(beyond[0].0, &beyond[0].1)]);
            assert_eq!(beyond.status, 416, "{beyond}");
            let etag = format!("\"{digest}\"");
            let same = cache.client().get_with(&path, &[("If-None-Match", &etag)]);
            assert_eq!(same.status, 304, "{same}");
            is_unasked(&cache);
        }
    }
}

#[test]
fn range_request_without_a_local_store_reads_only_the_range() {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let content = PseudoRandom::new(fresh_seed(), 8 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let first = start(&bucket, &upstream, "s3");
    first.client().pull(&path, &content);
    bucket.wait_has(&digest);
    bucket.clear_log();
    let cache = start(&bucket, &upstream, "s3");
    let got = cache
        .client()
        .get_with(&path, &[("Range", "bytes=5000000-5000099")]);
    assert_eq!(got.status, 206, "{got}");
    assert!(got.body == content.bytes()[5_000_000..5_000_100]);
    let ranges: Vec<_> = bucket
        .log()
        .into_iter()
        .filter(|asked| asked.target.contains("blobs/") && !asked.target.contains(".meta.json"))
        .filter_map(|asked| asked.range)
        .collect();
    assert!(
        ranges == ["bytes=5000000-5000099"] || cache.bypassed_bucket(),
        "{ranges:?}"
    );
}

#[test]
fn content_in_the_bucket_is_served_after_a_restart() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let content = PseudoRandom::new(fresh_seed(), 3 * MIB);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        let mut cache = start(&bucket, &upstream, backend);
        cache.client().pull(&path, &content);
        bucket.wait_has(&digest);
        cache.restart();
        upstream.down();
        cache.get_from_bucket(&path).expect(&content.bytes());
        upstream.up();
    }
}

#[test]
fn a_blob_is_served_while_it_is_on_its_way_to_the_bucket() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let content = PseudoRandom::new(fresh_seed(), 3 * MIB);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        bucket.add_fault("PUT", "blobs/", Fault::Silence);
        let cache = start(&bucket, &upstream, backend);
        cache.client().pull(&path, &content);
        eventually("the upload has started", || bucket.count("PUT", "blobs/") > 0);
        for _ in 0..3 {
            cache.client().pull(&path, &content);
        }
        assert_eq!(upstream.gets(&digest), 1, "{backend}");
        bucket.clear_faults();
        bucket.wait_has(&digest);
        if backend == "s3" {
            wait_unspooled(&cache);
        }
        cache.client().pull(&path, &content);
        assert!(
            upstream.gets(&digest) == 1 || cache.bypassed_bucket(),
            "{backend}: the cache fetched the blob again"
        );
    }
}

#[test]
fn upload_interrupted_by_a_kill_is_repeated_after_the_restart() {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let content = PseudoRandom::new(fresh_seed(), 2 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    bucket.add_fault("PUT", "blobs/", Fault::Silence);
    let mut cache = start(&bucket, &upstream, "tiered");
    cache.client().pull(&path, &content);
    cache.wait_stored(&digest);
    eventually("the upload has started", || bucket.count("PUT", "blobs/") > 0);
    cache.kill9();
    bucket.clear_faults();
    assert!(!bucket.has(&digest));
    cache.restart();
    cache.client().pull(&path, &content);
    bucket.wait_has(&digest);
    assert_eq!(upstream.gets(&digest), 1);
}

#[test]
fn local_removal_does_not_remove_the_object_from_the_bucket() {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let content = PseudoRandom::new(fresh_seed(), 2 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let mut cache = start(&bucket, &upstream, "tiered");
    cache.client().pull(&path, &content);
    bucket.wait_has(&digest);
    let file = disk::blob_path(cache.root(), &digest);
    std::fs::remove_file(disk::sidecar_of(&file)).expect("the store has the file");
    std::fs::remove_file(&file).expect("the store has the file");
    cache.restart();
    cache.client().pull(&path, &content);
    assert!(bucket.has(&digest));
    cache.wait_stored(&digest);
    assert!(
        upstream.gets(&digest) == 1 || cache.bypassed_bucket(),
        "the cache fetched the blob again"
    );
}

#[test]
fn two_machines_asked_at_once_end_with_one_copy() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let content = PseudoRandom::new(fresh_seed(), 4 * MIB);
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a", &digest);
        let caches = [
            start(&bucket, &upstream, backend),
            start(&bucket, &upstream, backend),
        ];
        std::thread::scope(|scope| {
            for cache in &caches {
                for _ in 0..4 {
                    scope.spawn(|| cache.client().pull(&path, &content));
                }
            }
        });
        bucket.wait_has(&digest);
        assert!(upstream.gets(&digest) <= 2, "a machine fetched the blob twice");
        let stored = std::fs::read(bucket.path(&Bucket::blob_key(&digest))).expect("the bucket has the blob");
        assert!(stored == content.bytes(), "the bucket has wrong content");
        let third = start(&bucket, &upstream, backend);
        upstream.down();
        third.get_from_bucket(&path).expect(&content.bytes());
        upstream.up();
    }
}

/// No cache waits for another. The test prints the number of additional upstream requests.
#[test]
fn a_storm_on_four_machines_costs_the_upstream_no_more_than_four_pulls() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let seed = fresh_seed();
        let layers = (0..8)
            .map(|n| Content::from(PseudoRandom::new(seed + n, 2 * MIB + n)))
            .collect::<Vec<_>>();
        let image = Image::push(&upstream, "team/app", "v1", Flavor::Oci, &layers);
        let caches: Vec<Server> = (0..4).map(|_| start(&bucket, &upstream, backend)).collect();
        std::thread::scope(|scope| {
            for cache in &caches {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let tag = cache.client().get(&upstream.manifest_url("team/app", "v1"));
                        tag.expect(&image.manifest);
                        for (digest, content) in image.all_blobs() {
                            let got = cache.client().get(&upstream.blob_url("team/app", digest));
                            got.expect(&content.bytes());
                        }
                    });
                }
            }
        });
        let blobs = image.all_blobs();
        let fetched: usize = blobs.iter().map(|(digest, _)| upstream.gets(digest)).sum();
        eprintln!(
            "{backend}: 16 pulls on 4 machines: {fetched} fetches of {} blobs, {} repeated",
            blobs.len(),
            fetched - blobs.len()
        );
        assert!(fetched <= 4 * blobs.len(), "a machine fetched a blob twice");
        for (digest, _) in blobs {
            bucket.wait_has(digest);
        }
    }
}

#[test]
fn tag_fetched_by_another_cache_is_served_from_the_bucket() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let old = Image::small(&upstream, "team/app", "v1", fresh_seed());
        let with_lifetime = |lifetime: &str| {
            let options = bucket.behind(Server::options(&upstream), backend);
            options.env("TAG_TTL", lifetime).start()
        };
        let first = start(&bucket, &upstream, backend);
        let path = upstream.manifest_url("team/app", "v1");
        first.client().get(&path).expect(&old.manifest);
        bucket.wait_has(&old.digest);
        eventually("the bucket has the pointer of the tag", || {
            bucket.keys().iter().any(|key| key.ends_with("_tags/v1"))
        });
        let before = upstream.requests();
        let second = with_lifetime("1h");
        second.client().get(&path).expect(&old.manifest);
        assert!(
            upstream.requests() == before || second.bypassed_bucket(),
            "{backend}: a fresh tag causes an upstream request"
        );
        // The tag expires after its lifetime.
        let third = with_lifetime("2s");
        third.client().get(&path).expect(&old.manifest);
        let before = upstream.requests();
        let new = Image::small(&upstream, "team/app", "v1", fresh_seed());
        assert_ne!(old.digest, new.digest);
        eventually("the new image is served", || {
            third.client().get(&path).body == new.manifest
        });
        assert!(upstream.requests() > before);
    }
}

#[test]
fn a_store_of_the_older_system_is_read_after_hashing() {
    for backend in BACKENDS {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let put = |name: &str, bytes: &[u8]| {
            let path = bucket.path(name);
            std::fs::create_dir_all(path.parent().expect("the object has a directory")).expect("a directory");
            std::fs::write(path, bytes).expect("a file");
        };
        let (good, bad) = (
            PseudoRandom::new(fresh_seed(), 300_000),
            PseudoRandom::new(fresh_seed(), 300_000),
        );
        for content in [&good, &bad] {
            let digest = upstream.blob(content.clone());
            let key = Bucket::blob_key(&digest);
            let mut bytes = content.bytes();
            if content.digest() == bad.digest() {
                bytes[777] ^= 1;
            }
            put(&key, &bytes);
            let sidecar = r#"{"Content-Length":["300000"],"Content-Type":["application/octet-stream"]}"#;
            put(&format!("{key}.meta.json"), sidecar.as_bytes());
        }
        // The cache ignores access records of the old system, so the registry receives access
        // checks only.
        let cache = start(&bucket, &upstream, backend);
        for content in [&good, &bad] {
            let path = upstream.blob_url("a", &content.digest());
            cache.client().get(&path).expect(&content.bytes());
        }
        let whole = |content: &PseudoRandom| {
            let digest = content.digest();
            upstream.count(|seen| seen.is_get(&digest) && !seen.is_probe())
        };
        assert!(
            (whole(&good), whole(&bad)) == (0, 1) || cache.bypassed_bucket(),
            "{backend}: {:#?}",
            upstream.log()
        );
    }
}

#[test]
fn slow_readers_of_the_bucket_cost_bounded_memory() {
    let (upstream, bucket) = (Registry::new(), Bucket::new());
    let content = PseudoRandom::new(fresh_seed(), 16 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let first = start(&bucket, &upstream, "s3");
    first.client().pull(&path, &content);
    bucket.wait_has(&digest);
    let cache = start(&bucket, &upstream, "s3");
    cache.client().get_with(&path, &[("Range", "bytes=0-9")]);
    let before = cache.rss_bytes();
    let mut connections: Vec<Connection> = (0..64)
        .map(|_| {
            let mut connection =
                Connection::open_narrow(cache.addr(), 4_096).expect("the server accepts connections");
            connection
                .request("GET", &path, &[])
                .expect("the server accepts connections");
            connection
        })
        .collect();
    for connection in &mut connections {
        assert_eq!(
            connection
                .read_head()
                .expect("the server sends a response head")
                .status,
            200
        );
    }
    // Long enough to fill every window. 64 windows of 16 MiB would be one GiB.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let grown = cache.rss_peak_bytes().saturating_sub(before);
    eprintln!("64 slow readers: memory grew by {} MiB", grown / MIB);
    assert!(grown < 64 * 4 * MIB, "memory grew by {grown} bytes");
}
