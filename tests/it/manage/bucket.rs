//! The commands `list`, `purge` and `prune` on a bucket.

use std::process::{Output, Stdio};

use serde_json::Value;

use super::name;
use crate::harness::bucket;
use crate::harness::image::Flavor;
use crate::harness::*;

/// A cache that has stored two images with a common layer in a bucket.
struct Stored {
    upstream: Registry,
    bucket: Bucket,
    cache: Server,
    images: [Image; 2],
}

impl Stored {
    fn new(backend: &str) -> Self {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let cache = bucket.behind(Server::options(&upstream), backend).start();
        let seed = fresh_seed();
        let layer = |n: u64| Content::from(PseudoRandom::new(seed + n, 300_000));
        let images = [1, 2].map(|n| {
            let layers = [layer(0), layer(n)];
            let tag = format!("v{n}");
            let image = Image::push(&upstream, "org/app", &tag, Flavor::Oci, &layers);
            let path = upstream.manifest_url("org/app", &tag);
            cache.client().get(&path).expect(&image.manifest);
            for (digest, content) in &image.blobs {
                let got = cache.client().get(&upstream.blob_url("org/app", digest));
                got.expect(&content.bytes());
            }
            image
        });
        for (digest, _) in images.iter().flat_map(Image::all_blobs) {
            bucket.wait_has(digest);
        }
        for image in &images {
            bucket.wait_has(&image.digest);
        }
        eventually("the bucket has both tags", || {
            let keys = bucket.keys();
            ["_tags/v1", "_tags/v2"]
                .iter()
                .all(|tag| keys.iter().any(|key| key.ends_with(tag)))
        });
        Stored {
            upstream,
            bucket,
            cache,
            images,
        }
    }

    /// Runs a command with the bucket of the cache.
    fn run(&self, backend: &str, arguments: &[&str]) -> Output {
        Server::command(self.cache.home(), self.cache.root())
            .env("STORAGE_BACKEND", backend)
            .env("S3_BUCKET", bucket::NAME)
            .env("AWS_ENDPOINT_URL", format!("http://{}", self.bucket.addr()))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", bucket::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", bucket::SECRET_KEY)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the binary starts")
    }

    #[track_caller]
    fn json(&self, backend: &str, arguments: &[&str]) -> Value {
        let output = self.run(backend, arguments);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn bytes_in_bucket(&self) -> u64 {
        let sizes = self.bucket.keys().into_iter().map(|key| {
            let path = self.bucket.path(&key);
            std::fs::metadata(path).expect("the object is a file").len()
        });
        sizes.sum()
    }
}

#[test]
fn purge_of_a_bucket_removes_an_image_and_keeps_common_layers() {
    for (backend, flags) in [("s3", &[][..]), ("tiered", &["--bucket"][..])] {
        let stored = Stored::new(backend);
        let purged = name(&stored.upstream, ":v1");
        let with_flags = |arguments: &[&str]| stored.json(backend, &[arguments, flags].concat());
        let listed = with_flags(&["list", "--output", "json"]);
        let listed: Vec<_> = listed.as_array().expect("a list").iter().collect();
        let tags: Vec<_> = listed.iter().map(|image| image["tag"].as_str()).collect();
        assert_eq!(tags, [Some("v1"), Some("v2")]);
        assert!(
            listed.iter().all(|image| image["missingBlobs"] == 0),
            "{listed:?}"
        );

        let before = stored.bytes_in_bucket();
        let planned = with_flags(&["purge", &purged, "--json", "--dry-run"]);
        assert_eq!(stored.bytes_in_bucket(), before, "a dry run removes nothing");
        stored.bucket.clear_log();
        let removed = with_flags(&["purge", &purged, "--json", "--yes"]);
        assert_eq!(removed, planned);
        // Tag, manifest, config and layer.
        assert_eq!((&removed["objects"], &removed["kept"]), (&4.into(), &0.into()));
        assert_eq!(removed["bytes"], before - stored.bytes_in_bucket());
        let output = stored.run(backend, &[&["purge", &purged, "--yes"], flags].concat());
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("one request for each 1000 objects"), "{text}");
        assert!(text.contains("reading manifests and tags, 3 requests"), "{text}");
        for (digest, _) in &stored.images[1].blobs {
            assert!(stored.bucket.has(digest), "the other image stays");
        }
        assert!(stored.bucket.has(&stored.images[1].digest));
        assert!(!stored.bucket.has(&stored.images[0].digest));
    }
}

#[test]
fn prune_of_a_bucket_selects_by_age_and_not_by_use() {
    let stored = Stored::new("s3");
    let output = stored.run("s3", &["prune", "--unused-for", "1d", "--yes"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("use --older-than"), "{text}");
    let kept = stored.json("s3", &["prune", "--older-than", "1h", "--json", "--yes"]);
    assert_eq!(kept["objects"], 0);
    // A request that fails leaves its object, and the other objects are removed.
    let lost = stored
        .bucket
        .keys()
        .into_iter()
        .find(|key| key.ends_with("_tags/v1"));
    let lost = lost.expect("the tag is stored");
    stored
        .bucket
        .add_fault("DELETE", "_tags/v1", Fault::Error(403, "AccessDenied"));
    let output = stored.run("s3", &["prune", "--all", "--json", "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["kept"], 1);
    let left = stored.bucket.keys();
    assert_eq!(left, [".self-test".to_owned(), lost]);
}

#[test]
fn list_of_a_bucket_that_cannot_be_read_fails_with_the_cause() {
    let stored = Stored::new("s3");
    stored.bucket.down();
    let output = stored.run("s3", &["list"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("cannot list"), "{text}");
    let output = Server::command(stored.cache.home(), stored.cache.root())
        .args(["list", "--bucket"])
        .env("STORAGE_BACKEND", "fs")
        .output()
        .expect("the binary starts");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}
