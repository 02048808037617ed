//! TLS with the storage engine of the bucket, and its trusted certificates.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use rcgen::date_time_ymd;

use crate::harness::pki::{self, Authority, Issued, self_made};
use crate::harness::server::TempDir;
use crate::harness::*;

/// Starts a cache that trusts `named` in addition to the system's authorities.
fn start(bucket: &Bucket, upstream: &Registry, named: Option<&str>, dir: &TempDir) -> Server {
    let mut options = bucket
        .behind(Server::options(upstream), "s3")
        .env("TAG_TTL", "1h");
    if let Some(pem) = named {
        let bundle = pki::write(&dir.path, "bundle.pem", pem);
        options = options.env("AWS_CA_BUNDLE", bundle.display());
    }
    options.start()
}

/// Returns an image with large blobs, which are streamed in both directions. The largest is
/// uploaded in parts.
fn image(upstream: &Registry) -> Image {
    let seed = fresh_seed();
    let layers =
        [700, 3 << 20, (64 << 20) + 1].map(|size| Content::from(PseudoRandom::new(seed + size, size)));
    Image::push(upstream, "team/app", "v1", Flavor::Oci, &layers)
}

fn pull(cache: &Server, upstream: &Registry, image: &Image) {
    let by_tag = upstream.manifest_url("team/app", "v1");
    cache.get_from_bucket(&by_tag).expect(&image.manifest);
    for (digest, content) in image.all_blobs() {
        let path = upstream.blob_url("team/app", digest);
        cache.get_from_bucket(&path).expect(&content.bytes());
    }
}

#[track_caller]
fn pulls_go_through_the_bucket(certificate: &Issued, named: &str) {
    let (upstream, dir) = (Registry::new(), TempDir::new());
    let bucket = Bucket::with_tls(certificate);
    let image = image(&upstream);
    let first = start(&bucket, &upstream, Some(named), &dir);
    pull(&first, &upstream, &image);
    bucket.wait_has(&image.digest);
    for (digest, _) in image.all_blobs() {
        bucket.wait_has(digest);
    }
    eventually("the bucket has the pointer of the tag", || {
        bucket.keys().iter().any(|key| key.ends_with("/_tags/v1"))
    });
    drop(first);
    upstream.down();
    let second = start(&bucket, &upstream, Some(named), &dir);
    pull(&second, &upstream, &image);
}

#[test]
fn a_self_made_certificate_that_is_an_authority_may_be_named_itself() {
    let certificate = self_made("127.0.0.1", |_| {});
    pulls_go_through_the_bucket(&certificate, &certificate.chain);
}

#[test]
fn a_bundle_holds_authorities_and_certificates_of_servers() {
    let authority = Authority::new("engines");
    let other = self_made("other.lan", |_| {});
    let bundle = format!("{}{}", other.chain, authority.pem);
    pulls_go_through_the_bucket(&authority.issue("engine"), &bundle);
}

#[test]
fn a_certificate_that_is_refused_costs_no_pull_and_the_log_names_the_setting() {
    let expired = self_made("127.0.0.1", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let elsewhere = self_made("127.0.0.2", |_| {});
    let (shown, other) = (self_made("127.0.0.1", |_| {}), self_made("127.0.0.1", |_| {}));
    for (certificate, named, reason) in [
        (&expired, Some(&expired), "invalid peer certificate: Expired"),
        (&elsewhere, Some(&elsewhere), "not valid for name"),
        (&shown, Some(&other), "invalid peer certificate"),
        (&shown, None, "invalid peer certificate"),
    ] {
        let (upstream, dir) = (Registry::new(), TempDir::new());
        let bucket = Bucket::with_tls(certificate);
        let digest = upstream.blob("content");
        let named = named.map(|issued| &*issued.chain);
        let cache = start(&bucket, &upstream, named, &dir);
        cache
            .client()
            .get(&upstream.blob_url("team/app", &digest))
            .expect(b"content");
        let log = cache.stderr();
        let line = log
            .lines()
            .find(|line| line.contains("level=warn") && line.contains("AWS_CA_BUNDLE"));
        let line = line.unwrap_or_else(|| panic!("no log line names the setting: {log}"));
        assert!(line.contains(reason), "{reason}: {line}");
        assert!(
            bucket.log().is_empty(),
            "the bucket received requests: {:?}",
            bucket.log()
        );
    }
}

#[test]
fn log_names_an_s3_endpoint_that_does_not_speak_tls() {
    let upstream = Registry::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // The thread holds only a port and ends with the process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let bucket = Bucket::new();
    let cache = bucket
        .behind(Server::options(&upstream), "s3")
        .env("AWS_ENDPOINT_URL", format!("https://{addr}"))
        .start();
    cache.wait_stderr("does not speak TLS");
}
