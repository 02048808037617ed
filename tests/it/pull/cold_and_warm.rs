//! Ordinary pulls, cold and warm, with every spelling of a request.

use crate::harness::client::request_bytes;
use crate::harness::content::sha512;
use crate::harness::disk;
use crate::harness::*;

/// Fields that may differ between two responses for one object.
const CHANGING: [&str; 4] = ["date", "age", "x-cache", "cache-status"];

fn steady_fields(response: &Response) -> Vec<(String, Vec<u8>)> {
    let mut fields: Vec<_> = response
        .fields
        .iter()
        .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
        .filter(|(name, _)| !CHANGING.contains(&name.as_str()))
        .collect();
    fields.sort();
    fields
}

/// Pulls an image as containerd does: resolves the tag, then fetches all content by digest.
fn pull_image(client: Client, upstream: &Registry, repository: &str, tag: &str, image: &Image) {
    let resolved = client.request(
        "HEAD",
        &upstream.manifest_url(repository, tag),
        &[("Accept", image::ACCEPT_ALL)],
    );
    assert_eq!(resolved.status, 200, "{resolved}");
    assert_eq!(
        resolved.field("docker-content-digest"),
        Some(image.digest.as_str())
    );
    for manifest in image.manifests() {
        let answer = client.get(&upstream.manifest_url(repository, &manifest.digest));
        answer.expect(&manifest.manifest);
        assert_eq!(answer.field("content-type"), Some(manifest.media_type.as_str()));
    }
    for (digest, content) in image.all_blobs() {
        client
            .get(&upstream.blob_url(repository, digest))
            .expect(&content.bytes());
    }
}

fn two_platform_image(upstream: &Registry, repository: &str, tag: &str, flavor: Flavor, seed: u64) -> Image {
    let layer = |n, size| Content::from(PseudoRandom::new(seed + n, size));
    let layers = [
        &[layer(0, 10), layer(1, 100_000), layer(2, 3_000_000)][..],
        &[layer(3, 70_000)][..],
    ];
    Image::push_index(upstream, repository, tag, flavor, layers)
}

#[test]
fn an_image_is_fetched_once_and_then_served_without_the_upstream() {
    for flavor in [Flavor::Oci, Flavor::Docker] {
        let upstream = Registry::new();
        let mut cache = Server::start(&upstream);
        let image = two_platform_image(&upstream, "team/app", "v1", flavor, fresh_seed());

        pull_image(cache.client(), &upstream, "team/app", "v1", &image);
        for (digest, _) in image.all_blobs() {
            assert_eq!(upstream.gets(digest), 1);
            cache.wait_stored(digest);
        }
        for manifest in image.manifests() {
            cache.wait_stored(&manifest.digest);
        }
        cache.settled_store().expect_clean();

        let before = upstream.requests();
        pull_image(cache.client(), &upstream, "team/app", "v1", &image);
        assert_eq!(
            upstream.requests(),
            before,
            "a warm pull within the lifetime of the tag sends no request"
        );

        upstream.down();
        pull_image(cache.client(), &upstream, "team/app", "v1", &image);
        cache.restart();
        pull_image(cache.client(), &upstream, "team/app", "v1", &image);
    }
}

#[test]
fn the_cache_says_whether_it_had_the_object() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for content in [
        PseudoRandom::new(fresh_seed(), 10),
        PseudoRandom::new(fresh_seed(), 2_000_000),
    ] {
        let digest = upstream.blob(content.clone());
        let path = upstream.blob_url("a/b", &digest);
        let first = cache.client().get(&path);
        assert_eq!(first.x_cache(), "MISS");
        cache.wait_stored(&digest);
        eventually("a hit", || cache.client().get(&path).x_cache() == "HIT");
        assert_eq!(upstream.gets(&digest), 1);
    }
}

#[test]
fn answers_carry_the_headers_clients_rely_on() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "a/b", "v1", fresh_seed());
    let (blob, content) = &image.blobs[2];
    // The miss and the hit must agree.
    for _ in 0..2 {
        let answer = cache.client().get(&upstream.blob_url("a/b", blob));
        answer.expect(&content.bytes());
        assert_eq!(answer.field("docker-content-digest"), Some(blob.as_str()));
        assert_eq!(answer.field("etag"), Some(format!("\"{blob}\"").as_str()));
        assert_eq!(answer.field("accept-ranges"), Some("bytes"));
        assert_eq!(answer.field("content-type"), Some("application/octet-stream"));
        assert_eq!(answer.content_length(), Some(content.size()));
        for reference in ["v1", &image.digest] {
            let answer = cache.client().get(&upstream.manifest_url("a/b", reference));
            answer.expect(&image.manifest);
            assert_eq!(answer.field("docker-content-digest"), Some(image.digest.as_str()));
            assert_eq!(
                answer.field("etag"),
                Some(format!("\"{}\"", image.digest).as_str())
            );
            assert_eq!(answer.field("content-type"), Some(Flavor::Oci.manifest()));
        }
        cache.wait_stored(blob);
        cache.wait_stored(&image.digest);
    }
    for path in ["/v2/", "/v2"] {
        let ping = cache.client().get(path);
        ping.expect(b"{}");
        assert_eq!(
            ping.field("docker-distribution-api-version"),
            Some("registry/2.0")
        );
    }
}

#[test]
fn head_answers_what_get_answers_without_the_body() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let client = cache.client();
    // First with HEAD before GET, then with GET before HEAD.
    for head_first in [true, false] {
        let seed = fresh_seed();
        let tag = format!("t{seed}");
        let image = Image::small(&upstream, "a/b", &tag, seed);
        let large = PseudoRandom::new(seed ^ 1, 3_000_000).digest();
        upstream.blob(PseudoRandom::new(seed ^ 1, 3_000_000));
        let mut paths = vec![
            upstream.manifest_url("a/b", &tag),
            upstream.manifest_url("a/b", &image.digest),
            upstream.blob_url("a/b", &large),
        ];
        paths.extend(
            image
                .blobs
                .iter()
                .map(|(digest, _)| upstream.blob_url("a/b", digest)),
        );
        for path in paths {
            let early = head_first.then(|| client.head(&path));
            let got = client.get(&path);
            assert_eq!(got.status, 200, "{path}: {got}");
            assert_eq!(got.content_length(), Some(got.received), "{path}");
            let late = client.head(&path);
            for head in early.iter().chain([&late]) {
                assert_eq!((head.status, head.body.len()), (200, 0), "{path}: {head}");
                assert_eq!(steady_fields(head), steady_fields(&got), "{path}");
            }
        }
    }
    let absent = upstream.blob_url("a/b", &PseudoRandom::new(fresh_seed(), 9).digest());
    let (head, got) = (client.head(&absent), client.get(&absent));
    assert_eq!((head.status, got.status), (404, 404));
    got.expect_error(404, "BLOB_UNKNOWN");
}

#[test]
fn object_is_fetched_once_for_every_spelling_of_its_name() {
    let upstream = Registry::new();
    let name = upstream.name();
    let cache = Server::options(&upstream)
        .registry("docker.io", upstream.addr())
        .registry("fake.test", upstream.addr())
        .env("DEFAULT_REGISTRY", "fake.test")
        .start();
    let client = cache.client();
    let image = Image::small(&upstream, "x/y", "v1", fresh_seed());
    let hub = Image::small(&upstream, "library/nginx", "v1", fresh_seed());
    let (blob, content) = &image.blobs[1];
    let encoded = name.replace(':', "%3A");
    for path in [
        format!("/v2/{name}/x/y/blobs/{blob}"),
        format!("/v2/x/y/blobs/{blob}?ns={name}"),
        format!("/v2/x/y/blobs/{blob}?ns={encoded}"),
        format!("/v2/x/y/blobs/{blob}?foo=bar&ns={encoded}"),
        format!("/v2/x/y/blobs/{blob}"),
        format!("/v2/fake.test/x/y/blobs/{blob}"),
        format!("/v2/{name}/x/y/blobs/{blob}?ns={name}"),
    ] {
        client.get(&path).expect(&content.bytes());
        cache.wait_stored(blob);
    }
    assert_eq!(
        upstream.gets(blob),
        1,
        "the blob is fetched once for all repositories"
    );
    for path in [
        "/v2/x/y/manifests/v1".to_owned(),
        format!("/v2/x/y/manifests/v1?ns={encoded}"),
    ] {
        client.get(&path).expect(&image.manifest);
    }
    for path in [
        "/v2/docker.io/library/nginx/manifests/v1",
        "/v2/docker.io/nginx/manifests/v1",
        "/v2/index.docker.io/nginx/manifests/v1",
        "/v2/registry-1.docker.io/library/nginx/manifests/v1",
        "/v2/library/nginx/manifests/v1?ns=docker.io",
        "/v2/nginx/manifests/v1?ns=docker.io",
    ] {
        client.get(path).expect(&hub.manifest);
    }
    assert_eq!(
        upstream.gets("/v2/library/nginx/manifests/v1"),
        1,
        "all these names are one tag"
    );
    assert_eq!(upstream.gets("/v2/nginx/"), 0);
    let by_ns = client.get(&format!("/v2/x/y/manifests/v1?ns={encoded}"));
    assert_eq!(by_ns.field("oci-namespace"), Some(name.as_str()));
    // `ns` selects the upstream in this cache, so the request to the upstream does not contain
    // `ns`.
    assert_eq!(upstream.count(|seen| seen.target.contains("ns=")), 0);
}

#[test]
fn without_a_default_registry_names_are_docker_hubs() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .registry("docker.io", upstream.addr())
        .start();
    let image = Image::small(&upstream, "library/alpine", "3", fresh_seed());
    cache
        .client()
        .get("/v2/alpine/manifests/3")
        .expect(&image.manifest);
    cache
        .client()
        .get("/v2/library/alpine/manifests/3")
        .expect(&image.manifest);
    assert_eq!(upstream.gets("/v2/library/alpine/manifests/3"), 1);
}

#[test]
fn repository_names_may_contain_the_words_of_the_api() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for repository in [
        "blobs/manifests",
        "manifests/blobs/tags/list",
        "a/tags/v1",
        "a",
        "blobs",
        "v2/v2",
        "a/b/c/d/e/f/g/h",
    ] {
        let image = Image::small(&upstream, repository, "list", fresh_seed());
        cache
            .client()
            .get(&upstream.manifest_url(repository, "list"))
            .expect(&image.manifest);
        cache
            .client()
            .get(&upstream.manifest_url(repository, &image.digest))
            .expect(&image.manifest);
        let (blob, content) = &image.blobs[0];
        cache
            .client()
            .get(&upstream.blob_url(repository, blob))
            .expect(&content.bytes());
    }
    cache.settled_store().expect_clean();
}

#[test]
fn content_of_sizes_around_the_limits_is_served_cold_and_warm() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    const MIB: u64 = 1024 * 1024;
    let sizes = [
        0,
        1,
        65_535,
        65_536,
        65_537,
        MIB - 1,
        MIB,
        MIB + 1,
        MIB + 65_536,
        MIB + 65_537,
        5 * MIB + 3,
    ];
    for framing in [Framing::Length, Framing::Chunked, Framing::Close] {
        upstream.clear_rules();
        upstream.on(On::any(), Reply::new().framing(framing));
        for size in sizes {
            let content = PseudoRandom::new(fresh_seed(), size);
            let digest = upstream.blob(content.clone());
            let path = upstream.blob_url("a", &digest);
            cache.client().pull(&path, &content);
            cache.wait_stored(&digest);
            let hit = cache.client().pull(&path, &content);
            assert_eq!(hit.content_length(), Some(size), "{framing:?}");
            assert_eq!(upstream.gets(&digest), 1, "{framing:?} {size}");
        }
    }
    cache.settled_store().expect_clean();
}

#[test]
fn sha512_content_is_verified_and_stored_like_any_other() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 200_000).bytes();
    let digest = sha512(&content);
    upstream.blob_as(&digest, content.clone());
    let path = upstream.blob_url("a", &digest);
    cache.client().get(&path).expect(&content);
    cache.wait_stored(&digest);
    cache.client().get(&path).expect(&content);
    assert_eq!(upstream.gets(&digest), 1);
    assert!(disk::blob_path(cache.root(), &digest).exists());
    cache.settled_store().expect_clean();

    let wrong = sha512(b"other content");
    upstream.blob_as(&wrong, content);
    assert_eq!(cache.client().get(&upstream.blob_url("a", &wrong)).status, 502);
}

#[test]
fn a_connection_carries_many_pulls_and_ends_when_asked() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let contents: Vec<_> = [10, 2_000_000, 0, 70_000]
        .map(|size| PseudoRandom::new(fresh_seed(), size))
        .into();
    let paths: Vec<_> = contents
        .iter()
        .map(|content| upstream.blob_url("a", &upstream.blob(content.clone())))
        .collect();
    let mut connection = cache.client().open();
    for round in 0..3 {
        // The second and third rounds are pipelined hits.
        for path in &paths {
            connection.request("GET", path, &[]).unwrap();
            connection.request("HEAD", path, &[]).unwrap();
        }
        for content in &contents {
            connection
                .read("GET")
                .unwrap_or_else(|broken| panic!("round {round}: {broken:?}"))
                .expect(&content.bytes());
            assert_eq!(
                connection.read("HEAD").unwrap().content_length(),
                Some(content.size)
            );
        }
    }
    connection
        .request("GET", &paths[1], &[("Connection", "close")])
        .unwrap();
    let last = connection.read("GET").unwrap();
    last.expect(&contents[1].bytes());
    assert!(
        last.field("connection")
            .is_some_and(|value| value.eq_ignore_ascii_case("close"))
    );
    assert_eq!(
        connection.read_to_close(),
        (Vec::new(), client::Why::Truncated),
        "the connection ends with a FIN and without bytes"
    );
}

#[test]
fn an_http_1_0_client_gets_its_blob_and_the_end_of_the_connection() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for (size, framing) in [
        (100, Framing::Length),
        (3_000_000, Framing::Length),
        (3_000_000, Framing::Chunked),
    ] {
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = upstream.blob(content.clone());
        upstream.on(On::path(&digest), Reply::new().framing(framing));
        let request = String::from_utf8(request_bytes("GET", &upstream.blob_url("a", &digest), &[])).unwrap();
        for _ in 0..2 {
            let mut connection = cache.client().open();
            connection
                .send(request.replace("HTTP/1.1", "HTTP/1.0").as_bytes())
                .unwrap();
            connection.read("GET").unwrap().expect(&content.bytes());
            assert_eq!(connection.read_to_close(), (Vec::new(), client::Why::Truncated));
            cache.wait_stored(&digest);
        }
    }
}

#[test]
fn the_cache_listens_on_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("SKIPPED: this machine has no IPv6 loopback");
        return;
    }
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("LISTEN_ADDR", "[::1]:0").start();
    let content = PseudoRandom::new(fresh_seed(), 100_000);
    let digest = upstream.blob(content.clone());
    assert!(cache.addr().is_ipv6());
    cache.client().pull(&upstream.blob_url("a", &digest), &content);
}

#[test]
fn two_cores_serve_one_store() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let image = two_platform_image(&upstream, "a", "v1", Flavor::Oci, fresh_seed());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| pull_image(cache.client(), &upstream, "a", "v1", &image));
        }
    });
    for (digest, _) in image.all_blobs() {
        assert_eq!(upstream.gets(digest), 1);
    }
}
