//! Access to the content of a bucket that several caches share, and redirects to the bucket.

use crate::harness::*;

const BACKENDS: [&str; 2] = ["s3", "tiered"];

const REPOSITORY: &str = "private/alice";

/// A registry with a private repository of Alice and a public one.
fn registry() -> Registry {
    let upstream = Registry::new();
    upstream.require_tokens(Auth {
        scheme: Scheme::Either,
        hidden: 403,
        ..Auth::default()
    });
    upstream.behaviour(|own| own.blobs_belong = true);
    for user in ["alice", "bob"] {
        upstream.user(user, &format!("password of {user}"));
    }
    upstream.allow("alice", REPOSITORY);
    upstream.allow_anybody("public/one");
    upstream
}

fn login(user: &str) -> String {
    basic(user, &format!("password of {user}"))
}

fn ask(cache: &Server, method: &str, path: &str, user: &str, range: Option<&str>) -> Response {
    let authorization = (!user.is_empty()).then(|| login(user));
    let mut fields = Vec::new();
    if let Some(authorization) = &authorization {
        fields.push(("Authorization", authorization.as_str()));
    }
    if let Some(range) = range {
        fields.push(("Range", range));
    }
    cache.client().request(method, path, &fields)
}

#[test]
fn private_blob_in_the_bucket_is_served_only_to_authorized_clients() {
    for backend in BACKENDS {
        for size in [900, 300_000, 3_000_000] {
            let (upstream, bucket) = (registry(), Bucket::new());
            let content = PseudoRandom::new(fresh_seed(), size);
            let digest = upstream.blob_in(REPOSITORY, content.clone());
            let path = upstream.blob_url(REPOSITORY, &digest);
            let start = || bucket.behind(Server::options(&upstream), backend).start();
            let first = start();
            ask(&first, "GET", &path, "alice", None).expect(&content.bytes());
            bucket.wait_has(&digest);

            let second = start();
            for user in ["", "bob"] {
                for (method, range) in [
                    ("GET", None),
                    ("HEAD", None),
                    ("GET", Some("bytes=0-0")),
                    ("GET", Some("bytes=-5")),
                ] {
                    let got = ask(&second, method, &path, user, range);
                    assert!(matches!(got.status, 401 | 403), "{backend} {user}: {got}");
                    assert!(got.field("docker-content-digest").is_none(), "{got}");
                }
                // Access through a readable repository is denied too.
                let other = upstream.blob_url("public/one", &digest);
                let got = ask(&second, "GET", &other, user, None);
                assert!(matches!(got.status, 401 | 403 | 404), "{backend} {user}: {got}");
            }
            let bodies = || {
                upstream.count(|seen| {
                    seen.is_get(&digest) && !seen.is_probe() && matches!(seen.status, 200 | 206)
                })
            };
            let before = bodies();
            let got = ask(&second, "GET", &path, "alice", None);
            got.expect(&content.bytes());
            assert!(
                got.field("cache-control")
                    .is_some_and(|control| control.contains("private"))
            );
            let part = ask(&second, "GET", &path, "alice", Some("bytes=3-9"));
            assert!(
                part.status == 206 && part.body == content.bytes()[3..10],
                "{part}"
            );
            assert!(
                bodies() == before || second.bypassed_bucket(),
                "{backend}: the upstream sent content for an access check"
            );
            // Alice's requests do not grant access to others.
            for user in ["", "bob"] {
                let got = ask(&second, "GET", &path, user, None);
                assert!(matches!(got.status, 401 | 403), "{backend} {user}: {got}");
            }
        }
    }
}

#[test]
fn private_manifest_in_the_bucket_is_served_only_to_authorized_clients() {
    for backend in BACKENDS {
        let (upstream, bucket) = (registry(), Bucket::new());
        let image = Image::small(&upstream, REPOSITORY, "v1", fresh_seed());
        let start = || bucket.behind(Server::options(&upstream), backend).start();
        let first = start();
        let by_tag = upstream.manifest_url(REPOSITORY, "v1");
        let by_digest = upstream.manifest_url(REPOSITORY, &image.digest);
        ask(&first, "GET", &by_tag, "alice", None).expect(&image.manifest);
        bucket.wait_has(&image.digest);
        let second = start();
        for path in [&by_tag, &by_digest] {
            for user in ["", "bob"] {
                let got = ask(&second, "GET", path, user, None);
                assert!(matches!(got.status, 401 | 403), "{backend} {user}: {got}");
            }
        }
        let before = upstream.gets(&image.digest);
        ask(&second, "GET", &by_digest, "alice", None).expect(&image.manifest);
        assert!(
            upstream.gets(&image.digest) == before || second.bypassed_bucket(),
            "{backend}: the upstream sent the manifest for an access check"
        );
    }
}

#[test]
fn registry_with_other_bytes_gives_no_access_to_private_bucket_content() {
    for backend in BACKENDS {
        let (upstream, bucket) = (registry(), Bucket::new());
        let content = PseudoRandom::new(fresh_seed(), 2_500_000);
        let digest = upstream.blob_in(REPOSITORY, content.clone());
        let first = bucket.behind(Server::options(&upstream), backend).start();
        ask(
            &first,
            "GET",
            &upstream.blob_url(REPOSITORY, &digest),
            "alice",
            None,
        )
        .expect(&content.bytes());
        bucket.wait_has(&digest);

        // A registry with other bytes under the digest.
        let wrong_upstream = Registry::new();
        wrong_upstream.blob_as(&digest, PseudoRandom::new(fresh_seed(), 2_500_000));
        let second = bucket.behind(Server::options(&wrong_upstream), backend).start();
        let gate = Gate::new();
        wrong_upstream.on(On::path(&digest), Reply::new().hold_at(1_500_000, &gate));
        let path = wrong_upstream.blob_url("a", &digest);
        second.client().get_broken(&path, &gate);
        let part = second
            .client()
            .try_request("GET", &path, &[("Range", "bytes=0-99")]);
        if let Ok(part) = part {
            assert!(!part.body.starts_with(&content.bytes()[..100]), "{part}");
        }
    }
}

#[test]
fn content_is_public_if_one_of_two_registries_serves_it_anonymously() {
    for backend in BACKENDS {
        let (upstream, bucket) = (registry(), Bucket::new());
        let content = PseudoRandom::new(fresh_seed(), 2_500_000);
        let digest = upstream.blob_in(REPOSITORY, content.clone());
        upstream.mount("public/one", &digest);
        let first = bucket.behind(Server::options(&upstream), backend).start();
        ask(
            &first,
            "GET",
            &upstream.blob_url(REPOSITORY, &digest),
            "alice",
            None,
        )
        .expect(&content.bytes());
        bucket.wait_has(&digest);
        let second = bucket.behind(Server::options(&upstream), backend).start();
        let path = upstream.blob_url("public/one", &digest);
        ask(&second, "GET", &path, "", None).expect(&content.bytes());
        eventually("the sidecar in the bucket is marked as public", || {
            let sidecar = bucket.path(&format!("{}.meta.json", Bucket::blob_key(&digest)));
            std::fs::read_to_string(sidecar).is_ok_and(|json| json.contains(r#""X-Cache-Public":["true"]"#))
        });
    }
}

/// Follows a redirect to the bucket without the credentials for the cache, as a client does.
fn follow(bucket: &Bucket, redirect: &Response, range: &[(&str, &str)]) -> Response {
    let location = redirect.field("location").expect("the redirect has a Location");
    let root = format!("http://{}", bucket.addr());
    let path = location
        .strip_prefix(&root)
        .expect("the Location is a URL of the bucket");
    let host = bucket.addr().to_string();
    let mut fields = vec![("Host", host.as_str())];
    fields.extend_from_slice(range);
    Client::new(bucket.addr()).request("GET", path, &fields)
}

#[test]
fn clients_are_sent_to_the_bucket_for_public_content_only() {
    let (upstream, bucket) = (registry(), Bucket::new());
    let (public, private) = (
        PseudoRandom::new(fresh_seed(), 3_000_000),
        PseudoRandom::new(fresh_seed(), 3_000_000),
    );
    let small = PseudoRandom::new(fresh_seed(), 3_000);
    let of = |content: &PseudoRandom, repository: &str| {
        let digest = upstream.blob_in(repository, content.clone());
        let path = upstream.blob_url(repository, &digest);
        (digest, path)
    };
    let (public_digest, public_path) = of(&public, "public/one");
    let (small_digest, small_path) = of(&small, "public/one");
    let (private_digest, private_path) = of(&private, REPOSITORY);
    let start = || {
        let options = bucket.behind(Server::options(&upstream), "s3");
        options.env("S3_REDIRECT", "true").start()
    };
    let first = start();
    // Until the bucket is known to have an object, the cache serves the object itself.
    ask(&first, "GET", &public_path, "", None).expect(&public.bytes());
    ask(&first, "GET", &small_path, "", None).expect(&small.bytes());
    ask(&first, "GET", &private_path, "alice", None).expect(&private.bytes());
    for digest in [&public_digest, &private_digest, &small_digest] {
        bucket.wait_has(digest);
    }
    let second = start();
    for range in [&[][..], &[("Range", "bytes=5-9")]] {
        let mut got = second.client().get_with(&public_path, range);
        if got.status != 307 && second.bypassed_bucket() {
            eventually("the cache uses the bucket again", || {
                got = second.client().get_with(&public_path, range);
                got.status == 307
            });
        }
        assert_eq!(got.status, 307, "{got}");
        assert_eq!(got.field("cache-control"), Some("no-store"));
        assert_eq!(got.content_length(), Some(0), "the redirect has Content-Length 0");
        let body = follow(&bucket, &got, range);
        if range.is_empty() {
            body.expect(&public.bytes());
        } else {
            assert!(body.status == 206 && body.body == public.bytes()[5..10], "{body}");
        }
    }
    let head = second.client().head(&public_path);
    assert_eq!(
        (head.status, head.content_length()),
        (200, Some(3_000_000)),
        "{head}"
    );
    ask(&second, "GET", &small_path, "", None).expect(&small.bytes());
    let got = ask(&second, "GET", &private_path, "alice", None);
    assert_eq!(got.status, 200, "{got}");
    got.expect(&private.bytes());
    let log = second.stderr();
    assert!(!log.contains("X-Amz-Signature"), "{log}");
}

#[test]
fn s3_region_and_credentials_are_read_from_the_metadata_service() {
    let (upstream, bucket, metadata) = (Registry::new(), Bucket::new(), Metadata::start("eu-west-3"));
    let cache = bucket
        .behind(Server::options(&upstream), "s3")
        .without_env("AWS_REGION")
        .without_env("AWS_ACCESS_KEY_ID")
        .without_env("AWS_SECRET_ACCESS_KEY")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", metadata.url())
        .start();
    let content = PseudoRandom::new(fresh_seed(), 70_000);
    let digest = upstream.blob(content.clone());
    cache.client().pull(&upstream.blob_url("a", &digest), &content);
    bucket.wait_has(&digest);
    for asked in bucket.log() {
        assert_eq!(asked.region.as_deref(), Some("eu-west-3"), "{asked:?}");
    }
}
