//! Deviations of real registries. Each test is named after the registry with the deviation.
//!
//! The cache uses the real names, which the configuration maps to loopback addresses. No test needs
//! a network.

use std::time::Duration;

use crate::harness::image::ACCEPT_ALL;
use crate::harness::registry::TokenField;
use crate::harness::registry::behaviour::PULL_LIMIT_BODY;
use crate::harness::*;

/// Starts a cache that finds `name` at the registry's first listener.
fn cache_for(name: &str, upstream: &Registry) -> Server {
    Server::bare().registry(name, upstream.addr()).start()
}

fn manifest(name: &str, repository: &str, reference: &str) -> String {
    format!("/v2/{name}/{repository}/manifests/{reference}")
}

fn blob(name: &str, repository: &str, digest: &str) -> String {
    format!("/v2/{name}/{repository}/blobs/{digest}")
}

/// Pulls a complete image by digest, cold and warm. Returns the number of requests of the warm
/// pull.
fn pull(cache: &Server, upstream: &Registry, name: &str, repository: &str, image: &Image) -> usize {
    let client = cache.client();
    for warm in [false, true] {
        let before = upstream.requests();
        for root in image.manifests() {
            let got = client.get(&manifest(name, repository, &root.digest));
            got.expect(&root.manifest);
            assert_eq!(got.field("content-type"), Some(root.media_type.as_str()));
            assert_eq!(got.field("docker-content-digest"), Some(root.digest.as_str()));
        }
        for (digest, content) in image.all_blobs() {
            let got = client.get(&blob(name, repository, digest));
            got.expect(&content.bytes());
            assert_eq!(got.field("docker-content-digest"), Some(digest.as_str()));
        }
        if warm {
            return upstream.requests() - before;
        }
        for (digest, _) in image.all_blobs() {
            cache.wait_stored(digest);
        }
    }
    unreachable!("the second round returns")
}

/// Fails if a request to an object store contains credentials.
fn no_secret_reached_the_store(upstream: &Registry) {
    let stored = upstream.log().into_iter().filter(|seen| seen.kind == Kind::Cdn);
    let stored: Vec<_> = stored.collect();
    assert!(!stored.is_empty(), "the object store received requests");
    for seen in stored {
        assert_eq!(seen.field("authorization"), None, "{seen:#?}");
        assert_eq!(seen.status, 200, "{seen:#?}");
    }
}

// === Docker Hub ===

#[test]
fn docker_hub_has_many_names_and_its_own_images_a_hidden_folder() {
    let upstream = Registry::preset(Preset::DockerHub);
    let image = Image::small(&upstream, "library/app", "v1", fresh_seed());
    let cache = cache_for("docker.io", &upstream);
    for path in [
        "/v2/app/manifests/v1",
        "/v2/library/app/manifests/v1",
        "/v2/docker.io/app/manifests/v1",
        "/v2/index.docker.io/library/app/manifests/v1",
        "/v2/registry-1.docker.io/app/manifests/v1",
        "/v2/registry.hub.docker.com/library/app/manifests/v1",
        "/v2/registry.docker.io/app/manifests/v1",
        "/v2/app/manifests/v1?ns=registry.docker.io",
        "/v2/app/manifests/v1/",
        "/v2/library/app/manifests/v1?ns=docker.io",
        "/v2/app/manifests/v1?ns=registry-1.docker.io",
    ] {
        cache.client().get(path).expect(&image.manifest);
    }
    assert_eq!(
        upstream.gets("/v2/library/app/manifests/v1"),
        1 + 1,
        "one request receives a challenge, the next the manifest"
    );
    let asked = upstream.log().into_iter().find(|seen| seen.kind == Kind::Token);
    let asked = asked.expect("a token was fetched");
    assert!(asked.holds("repository:library/app:pull"), "{asked:#?}");
    assert!(asked.holds("registry.docker.io"), "{asked:#?}");
    assert_eq!(asked.listener, 1, "the token request was sent to the wrong host");
}

#[test]
fn docker_hub_keeps_blobs_on_another_host() {
    let upstream = Registry::preset(Preset::DockerHub);
    let image = Image::small(&upstream, "library/app", "v1", fresh_seed());
    let cache = cache_for("docker.io", &upstream);
    assert_eq!(pull(&cache, &upstream, "docker.io", "library/app", &image), 0);
    no_secret_reached_the_store(&upstream);
}

#[test]
fn docker_hub_revalidation_does_not_use_the_pull_budget() {
    let upstream = Registry::preset(Preset::DockerHub);
    let image = Image::small(&upstream, "library/app", "v1", fresh_seed());
    let cache = Server::bare()
        .registry("docker.io", upstream.addr())
        .env("TAG_TTL", "0s")
        .start();
    for _ in 0..5 {
        cache.client().get("/v2/app/manifests/v1").expect(&image.manifest);
    }
    assert_eq!(upstream.pulls_left(), 99);
    assert!(
        upstream.heads("/manifests/v1") >= 4,
        "the cache revalidates the tag on each request"
    );
    let got = cache.client().get("/v2/app/manifests/v1");
    for name in [
        "ratelimit-limit",
        "ratelimit-remaining",
        "docker-ratelimit-source",
    ] {
        assert_eq!(
            got.field(name),
            None,
            "the response has a rate limit field of the upstream: {got}"
        );
    }
}

#[test]
fn docker_hub_pull_limit_is_reported_only_without_a_cached_copy() {
    let upstream = Registry::preset(Preset::DockerHub);
    let image = Image::small(&upstream, "library/app", "v1", fresh_seed());
    Image::small(&upstream, "library/other", "v1", fresh_seed());
    let cache = Server::bare()
        .registry("docker.io", upstream.addr())
        .env("TAG_TTL", "0s")
        .start();
    upstream.behaviour(|own| {
        own.budget = Some(Budget {
            retry_after: Some(600),
            ..Budget::hub(1)
        });
    });
    cache.client().get("/v2/app/manifests/v1").expect(&image.manifest);
    let got = cache.client().get("/v2/other/manifests/v1");
    got.expect_error(429, "TOOMANYREQUESTS");
    let seconds: u64 = got
        .field("retry-after")
        .and_then(|text| text.parse().ok())
        .expect("seconds");
    assert!((590..=600).contains(&seconds), "{got}");
    // Cached content is served even if the rate limit forbids a request.
    cache.client().get("/v2/app/manifests/v1").expect(&image.manifest);
}

#[test]
fn docker_hub_s_abuse_limit_has_no_body_and_no_time() {
    let upstream = Registry::preset(Preset::DockerHub);
    let image = Image::small(&upstream, "library/app", "v1", fresh_seed());
    let cache = cache_for("docker.io", &upstream);
    upstream.on(
        On::any(),
        Reply::status(429)
            .body("Too Many Requests\n")
            .set("Content-Type", "text/plain"),
    );
    let got = cache.client().get("/v2/app/manifests/v1");
    got.expect_error(429, "TOOMANYREQUESTS");
    upstream.clear_rules();
    eventually("the cache sends requests to the registry again", || {
        cache.client().get("/v2/app/manifests/v1").status == 200
    });
    cache.client().get("/v2/app/manifests/v1").expect(&image.manifest);
}

#[test]
fn docker_hub_refuses_what_does_not_exist_as_if_it_were_private() {
    let upstream = Registry::preset(Preset::DockerHub);
    upstream.allow_anybody("library/app");
    let cache = cache_for("docker.io", &upstream);
    let got = cache
        .client()
        .get("/v2/unknown/missing/manifests/v1?ns=docker.io");
    assert_eq!(got.status, 401, "{got}");
    let challenge = got.field("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm="), "{challenge}");
    assert!(
        challenge.contains("repository:unknown/missing:pull"),
        "{challenge}"
    );
    assert!(
        upstream.requests() <= 4,
        "too many requests: {:#?}",
        upstream.log()
    );
}

// === GitHub ===

#[test]
fn ghcr_wants_a_token_for_what_is_public() {
    let upstream = Registry::preset(Preset::Ghcr);
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    let cache = cache_for("ghcr.io", &upstream);
    assert_eq!(pull(&cache, &upstream, "ghcr.io", "org/app", &image), 0);
    assert_eq!(
        upstream.count(|seen| seen.kind == Kind::Token),
        1,
        "a token without expires_in is cached"
    );
    no_secret_reached_the_store(&upstream);
}

#[test]
fn ghcr_gives_no_token_for_what_is_missing_or_private() {
    let upstream = Registry::preset(Preset::Ghcr);
    upstream.allow_anybody("org/public");
    let cache = cache_for("ghcr.io", &upstream);
    let got = cache.client().get(&manifest("ghcr.io", "org/private", "v1"));
    assert!(matches!(got.status, 401 | 403), "{got}");
    let missing = cache.client().get(&manifest("ghcr.io", "org/missing", "v1"));
    assert_eq!(missing.status, got.status);
    assert!(upstream.requests() <= 6, "{:#?}", upstream.log());
}

#[test]
fn ghcr_login_succeeds_although_no_anonymous_token_is_issued() {
    let upstream = Registry::preset(Preset::Ghcr);
    upstream.user("alice", "canary-password");
    upstream.allow("alice", "org/private");
    let image = Image::small(&upstream, "org/private", "v1", fresh_seed());
    let cache = cache_for("ghcr.io", &upstream);
    let path = manifest("ghcr.io", "org/private", "v1");
    // The client needs the challenge to find the token service.
    let got = cache.client().get(&path);
    assert_eq!(got.status, 401, "{got}");
    let challenge = got.field("www-authenticate").expect("a challenge").to_owned();
    let token = tokens::fetch(&challenge, &basic("alice", "canary-password")).expect("a token");
    cache
        .client()
        .get_with(&path, &[("Authorization", &token)])
        .expect(&image.manifest);
}

#[test]
fn ghcr_hides_an_index_from_who_does_not_accept_it() {
    let upstream = Registry::preset(Preset::Ghcr);
    let seed = fresh_seed();
    let layers = [
        PseudoRandom::new(seed, 900).into(),
        PseudoRandom::new(seed + 1, 900).into(),
    ];
    let image = Image::push_index(
        &upstream,
        "org/app",
        "v1",
        Flavor::Oci,
        [&layers[..1], &layers[1..]],
    );
    let cache = cache_for("ghcr.io", &upstream);
    let path = manifest("ghcr.io", "org/app", "v1");
    // The `Accept` field of one client must not affect the responses for later clients.
    let got = cache
        .client()
        .get_with(&path, &[("Accept", Flavor::Docker.manifest())]);
    assert!(matches!(got.status, 200 | 404), "{got}");
    cache
        .client()
        .get_with(&path, &[("Accept", ACCEPT_ALL)])
        .expect(&image.manifest);
    cache.client().get(&path).expect(&image.manifest);
}

#[test]
fn ghcr_signs_urls_for_get_only_and_for_minutes() {
    let upstream = Registry::preset(Preset::Ghcr);
    let content = PseudoRandom::new(fresh_seed(), 3_000_000);
    let digest = upstream.blob_in("org/app", content.clone());
    let cache = cache_for("ghcr.io", &upstream);
    let path = blob("ghcr.io", "org/app", &digest);
    let head = cache.client().head(&path);
    assert_eq!(
        (head.status, head.content_length()),
        (200, Some(content.size)),
        "{head}"
    );
    assert_eq!(
        upstream.count(|seen| seen.method == "HEAD"),
        0,
        "a HEAD request was sent"
    );
    // The transfer breaks after its URL has expired, so the cache requests a new URL from the
    // registry.
    let other = PseudoRandom::new(fresh_seed(), 3_000_000);
    let digest = upstream.blob_in("org/app", other.clone());
    let gate = Gate::new();
    upstream.on(
        On::path(format!("/cdn/{digest}")).once(),
        Reply::new().hold_at(900_000, &gate).cut_at(1_000_000, Cut::Rst),
    );
    std::thread::scope(|scope| {
        let pull = scope.spawn(|| cache.client().pull(&blob("ghcr.io", "org/app", &digest), &other));
        gate.wait_arrived(1);
        upstream.expire_signed_urls();
        gate.open();
        pull.join().expect("the pull is complete");
    });
    assert_eq!(
        upstream.count(|seen| seen.kind == Kind::Cdn && seen.status == 403),
        0
    );
}

#[test]
fn ghcr_sends_referrers_to_a_web_page_and_we_say_404() {
    let upstream = Registry::preset(Preset::Ghcr);
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    let cache = cache_for("ghcr.io", &upstream);
    let got = cache
        .client()
        .get(&format!("/v2/ghcr.io/org/app/referrers/{}", image.digest));
    got.expect_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(
        upstream.gets("/web/page"),
        0,
        "the cache followed the redirect to a web page"
    );
}

#[test]
fn github_enterprise_does_not_serve_head_of_manifests() {
    let upstream = Registry::preset(Preset::Ghcr);
    upstream.behaviour(|own| own.head_manifest = Some(405));
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    let cache = Server::bare()
        .registry("ghcr.io", upstream.addr())
        .env("TAG_TTL", "0s")
        .start();
    let path = manifest("ghcr.io", "org/app", "v1");
    for _ in 0..2 {
        let head = cache.client().head(&path);
        assert_eq!(head.status, 200, "{head}");
        assert_eq!(head.field("docker-content-digest"), Some(image.digest.as_str()));
        assert_eq!(head.content_length(), Some(image.manifest.len() as u64));
        cache.client().get(&path).expect(&image.manifest);
    }
}

// === Amazon ===

#[test]
fn ecr_public_does_not_serve_head_of_blobs() {
    let upstream = Registry::preset(Preset::EcrPublic);
    let content = PseudoRandom::new(fresh_seed(), 200_000);
    let digest = upstream.blob_in("alias/app", content.clone());
    let cache = cache_for("public.ecr.aws", &upstream);
    let path = blob("public.ecr.aws", "alias/app", &digest);
    let head = cache.client().head(&path);
    assert_eq!(
        (head.status, head.content_length()),
        (200, Some(content.size)),
        "{head}"
    );
    cache.client().pull(&path, &content);
    assert_eq!(upstream.count(|seen| seen.method == "HEAD"), 0);
    let token = upstream.log().into_iter().find(|seen| seen.kind == Kind::Token);
    assert!(token.expect("a token was fetched").holds("scope=aws"));
    no_secret_reached_the_store(&upstream);
}

#[test]
fn ecr_public_answers_400_to_a_token_that_has_expired() {
    let upstream = Registry::preset(Preset::EcrPublic);
    let image = Image::small(&upstream, "alias/app", "v1", fresh_seed());
    let cache = cache_for("public.ecr.aws", &upstream);
    cache
        .client()
        .get(&manifest("public.ecr.aws", "alias/app", "v1"))
        .expect(&image.manifest);
    upstream.expire_tokens();
    let (digest, content) = &image.blobs[1];
    cache
        .client()
        .get(&blob("public.ecr.aws", "alias/app", digest))
        .expect(&content.bytes());
    assert_eq!(upstream.count(|seen| seen.status == 400), 1);
    assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 2);
}

#[test]
fn status_400_of_other_registries_than_ecr_public_fetches_no_new_token() {
    let upstream = Registry::preset(Preset::EcrPublic);
    let image = Image::small(&upstream, "alias/app", "v1", fresh_seed());
    let cache = cache_for("registry.test", &upstream);
    let path = manifest("registry.test", "alias/app", &image.digest);
    upstream.on(On::kind(Kind::Manifest), Reply::status(400));
    let got = cache.client().get(&path);
    assert!(got.status >= 400, "{got}");
    assert_eq!(upstream.gets("/manifests/"), 1, "a 400 causes a second request");
}

const ECR: &str = "123456789012.dkr.ecr.eu-central-1.amazonaws.com";

#[test]
fn ecr_private_takes_a_password_of_hours() {
    let upstream = Registry::preset(Preset::EcrPrivate);
    upstream.user("AWS", "canary-hours");
    upstream.allow("AWS", "team/app");
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    let cache = Server::bare()
        .registry_with(
            ECR,
            upstream.addr(),
            "auth: {username: AWS, password: canary-hours}",
        )
        .start();
    assert_eq!(pull(&cache, &upstream, ECR, "team/app", &image), 0);
    no_secret_reached_the_store(&upstream);
    assert_eq!(
        upstream.count(|seen| seen.kind == Kind::Token),
        0,
        "the cache requested a token without a Bearer challenge"
    );
    assert!(!cache.stderr().contains("canary"), "{}", cache.stderr());
}

#[test]
fn ecr_private_says_403_in_plain_text_when_the_hours_are_over() {
    let upstream = Registry::preset(Preset::EcrPrivate);
    upstream.user("AWS", "canary-hours");
    upstream.allow("AWS", "team/app");
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    let cache = Server::bare()
        .registry_with(
            ECR,
            upstream.addr(),
            "auth: {username: AWS, password: canary-hours}",
        )
        .start();
    let expired = Reply::status(403)
        .body("Your authorization token has expired. Reauthenticate and try again.\n")
        .set("Content-Type", "text/plain");
    upstream.on(On::kind(Kind::Manifest), expired);
    let got = cache.client().get(&manifest(ECR, "team/app", "v1"));
    got.expect_error(403, "DENIED");
    assert!(upstream.requests() <= 4, "{:#?}", upstream.log());
    upstream.clear_rules();
    eventually("the cached login failure expires", || {
        cache.client().get(&manifest(ECR, "team/app", "v1")).status == 200
    });
    cache
        .client()
        .get(&manifest(ECR, "team/app", "v1"))
        .expect(&image.manifest);
}

#[test]
fn ecr_private_rejects_requests_without_a_password() {
    let upstream = Registry::preset(Preset::EcrPrivate);
    upstream.user("AWS", "hours");
    upstream.allow("AWS", "team/app");
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    let cache = cache_for(ECR, &upstream);
    let path = manifest(ECR, "team/app", "v1");
    let got = cache.client().get(&path);
    assert!(matches!(got.status, 401 | 403), "{got}");
    let login = basic("AWS", "hours");
    let mine = [("Authorization", login.as_str())];
    cache.client().get_with(&path, &mine).expect(&image.manifest);
    let (digest, content) = &image.blobs[1];
    cache
        .client()
        .get_with(&blob(ECR, "team/app", digest), &mine)
        .expect(&content.bytes());
    no_secret_reached_the_store(&upstream);
}

// === Google and Kubernetes ===

const GAR: &str = "europe-docker.pkg.dev";

#[test]
fn gar_redirects_without_a_host_and_with_long_heads() {
    let upstream = Registry::preset(Preset::Gar);
    let image = Image::small(&upstream, "project/repo/app", "v1", fresh_seed());
    let cache = cache_for(GAR, &upstream);
    assert_eq!(pull(&cache, &upstream, GAR, "project/repo/app", &image), 0);
    assert!(
        upstream.count(|seen| seen.kind == Kind::Cdn) > 0,
        "the registry redirects blobs"
    );
    let got = cache.client().get(&manifest(GAR, "project/repo/app", "v1"));
    assert!(
        got.fields.len() < 40,
        "the response has a header field of the registry: {got}"
    );
}

#[test]
fn gar_does_not_serve_several_ranges_and_we_do() {
    let upstream = Registry::preset(Preset::Gar);
    let content = PseudoRandom::new(fresh_seed(), 500_000);
    let digest = upstream.blob_in("project/repo/app", content.clone());
    let cache = cache_for(GAR, &upstream);
    let path = blob(GAR, "project/repo/app", &digest);
    let parts = || {
        let got = cache
            .client()
            .get_with(&path, &[("Range", "bytes=0-9,400000-400009")]);
        assert!(matches!(got.status, 200 | 206), "{got}");
        if got.status == 200 {
            got.expect(&content.bytes());
        }
        got.status == 206
    };
    parts();
    // Requests join a fill until its end, even after the store, and a follower gets the complete
    // blob.
    eventually("a stored blob is served in parts", parts);
    let several = |seen: &crate::harness::registry::RecordedRequest| {
        seen.field("range").is_some_and(|r| r.contains(','))
    };
    assert_eq!(
        upstream.count(several),
        0,
        "the upstream received a request with several ranges"
    );
}

#[test]
fn gar_answers_403_for_what_is_missing_or_private() {
    let upstream = Registry::preset(Preset::Gar);
    upstream.allow_anybody("project/repo/app");
    let cache = cache_for(GAR, &upstream);
    let got = cache.client().get(&manifest(GAR, "project/repo/other", "v1"));
    assert!(matches!(got.status, 401 | 403), "{got}");
    assert!(upstream.requests() <= 4, "{:#?}", upstream.log());
}

#[test]
fn registry_k8s_io_redirects_everything_and_keeps_its_name() {
    let (front, region) = (Registry::new(), Registry::new());
    let images = "k8s-artifacts-prod/images";
    let image = Image::small(&region, &format!("{images}/pause"), "3.10", fresh_seed());
    front.on(
        On::kind(Kind::Blob),
        Reply::redirect(
            307,
            format!(
                "http://{}/v2/{images}/pause/blobs/{}",
                region.addr(),
                image.blobs[1].0
            ),
        ),
    );
    front.manifest("pause", &image.media_type, image.manifest.clone());
    front.tag("pause", "3.10", &image.digest);
    front.behaviour(|own| own.manifests_at = Some(format!("http://{}/v2/{images}", region.addr())));
    let cache = cache_for("registry.k8s.io", &front);
    let got = cache.client().get(&manifest("registry.k8s.io", "pause", "3.10"));
    got.expect(&image.manifest);
    assert_eq!(got.field("docker-content-digest"), Some(image.digest.as_str()));
    let (digest, content) = &image.blobs[1];
    cache
        .client()
        .get(&blob("registry.k8s.io", "pause", digest))
        .expect(&content.bytes());
    let at = disk::manifest_path(cache.root(), "registry.k8s.io", "pause", &image.digest);
    eventually("the manifest is stored under the requested registry name", || {
        at.exists()
    });
    // The region is a separate registry without a configuration.
    let got = cache
        .client()
        .get(&manifest(&region.name(), &format!("{images}/pause"), "3.10"));
    assert_ne!(got.status, 200, "{got}");
    let asked = (front.requests(), region.requests());
    cache
        .client()
        .get(&manifest("registry.k8s.io", "pause", &image.digest))
        .expect(&image.manifest);
    assert_eq!((front.requests(), region.requests()), asked);
}

#[test]
fn registry_k8s_io_has_no_signature_for_most_images() {
    let front = Registry::new();
    let image = Image::small(&front, "pause", "3.10", fresh_seed());
    let cache = cache_for("registry.k8s.io", &front);
    let tag = format!("{}.sig", image.digest.replace(':', "-"));
    let path = manifest("registry.k8s.io", "pause", &tag);
    cache.client().get(&path).expect_error(404, "MANIFEST_UNKNOWN");
    // The image is signed a moment later, so the 404 must expire soon.
    let signature = Image::small(&front, "pause", &tag, fresh_seed());
    eventually("the signature is served", || {
        cache.client().get(&path).status == 200
    });
    cache.client().get(&path).expect(&signature.manifest);
}

// === Quay, Microsoft, JFrog ===

#[test]
fn quay_says_401_for_what_it_does_not_know() {
    let upstream = Registry::preset(Preset::Quay);
    upstream.allow_anybody("org/app");
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    let cache = cache_for("quay.io", &upstream);
    assert_eq!(pull(&cache, &upstream, "quay.io", "org/app", &image), 0);
    no_secret_reached_the_store(&upstream);
    let got = cache.client().get(&manifest("quay.io", "org/none", "v1"));
    assert!(matches!(got.status, 401 | 403), "{got}");
    let known = cache.client().get(&manifest("quay.io", "org/app", "none"));
    known.expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn quay_requests_accept_manifest_lists_for_every_client() {
    let upstream = Registry::preset(Preset::Quay);
    let seed = fresh_seed();
    let layers = [
        PseudoRandom::new(seed, 900).into(),
        PseudoRandom::new(seed + 1, 900).into(),
    ];
    Image::push_index(
        &upstream,
        "org/app",
        "v1",
        Flavor::Docker,
        [&layers[..1], &layers[1..]],
    );
    let cache = cache_for("quay.io", &upstream);
    cache.client().get_with(
        &manifest("quay.io", "org/app", "v1"),
        &[("Accept", Flavor::Docker.manifest())],
    );
    let first = upstream
        .log()
        .into_iter()
        .find(|seen| seen.kind == Kind::Manifest);
    let first = first.expect("the upstream received a manifest request");
    let accept: Vec<_> = first
        .fields
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("accept"))
        .collect();
    assert_eq!(accept.len(), 1, "the request has more than one Accept line");
    for media_type in [
        Flavor::Docker.index(),
        Flavor::Oci.index(),
        Flavor::Oci.manifest(),
    ] {
        assert!(first.holds(media_type), "{first:#?}");
    }
}

#[test]
fn mcr_wants_no_token_and_keeps_blobs_in_regions() {
    let upstream = Registry::preset(Preset::Mcr);
    let image = Image::small(&upstream, "dotnet/runtime", "9.0", fresh_seed());
    let cache = cache_for("mcr.microsoft.com", &upstream);
    assert_eq!(
        pull(&cache, &upstream, "mcr.microsoft.com", "dotnet/runtime", &image),
        0
    );
    assert_eq!(
        upstream.count(|seen| seen.kind == Kind::Token || seen.status == 401),
        0
    );
    no_secret_reached_the_store(&upstream);
}

#[test]
fn acr_gives_access_tokens_without_a_time() {
    let upstream = Registry::preset(Preset::Acr);
    let image = Image::small(&upstream, "app", "v1", fresh_seed());
    let cache = cache_for("team.azurecr.io", &upstream);
    assert_eq!(pull(&cache, &upstream, "team.azurecr.io", "app", &image), 0);
    assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 1);
    no_secret_reached_the_store(&upstream);
}

/// Returns the configuration of the robot's password. If the token service is on another host,
/// `realm_hosts` contains its address, because addresses have no common domain.
fn robot_s_keys(upstream: &Registry) -> String {
    let realms: Vec<_> = upstream
        .addrs()
        .iter()
        .map(|addr| format!("{:?}", addr.to_string()))
        .collect();
    format!(
        "auth: {{username: robot, password: canary-password}}, realm_hosts: [{}]",
        realms.join(", ")
    )
}

/// Pulls from a registry with a token service, with the user and password of the server.
fn pull_with_password(which: Preset, name: &str) -> Registry {
    let upstream = Registry::preset(which);
    upstream.user("robot", "canary-password");
    upstream.allow("robot", "team/app");
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    let keys = robot_s_keys(&upstream);
    let cache = Server::bare().registry_with(name, upstream.addr(), keys).start();
    assert_eq!(pull(&cache, &upstream, name, "team/app", &image), 0);
    for seen in upstream.saw(&basic("robot", "canary-password")) {
        assert_eq!(seen.kind, Kind::Token, "{seen:#?}");
    }
    assert!(!cache.stderr().contains("canary"), "{}", cache.stderr());
    upstream
}

#[test]
fn docker_hub_counts_public_pulls_for_who_logs_in_and_gives_nothing_private_away() {
    let upstream = Registry::preset(Preset::DockerHub);
    upstream.user("robot", "canary-password");
    upstream.allow_anybody("library/app");
    for repository in ["library/app", "robot/private"] {
        upstream.allow("robot", repository);
    }
    let image = Image::small(&upstream, "library/app", "v1", fresh_seed());
    Image::small(&upstream, "robot/private", "v1", fresh_seed());
    let keys = format!("{}, access: verify", robot_s_keys(&upstream));
    let cache = Server::bare()
        .registry_with("docker.io", upstream.addr(), keys)
        .start();
    let login = basic("robot", "canary-password");
    let logins = || upstream.saw(&login).len();
    // For private content, the cache does not even send a request with its own login.
    let got = cache.client().get(&manifest("docker.io", "robot/private", "v1"));
    assert!(matches!(got.status, 401 | 403), "{got}");
    assert_eq!(logins(), 0);
    for reference in ["v1", &image.digest] {
        let got = cache
            .client()
            .get(&manifest("docker.io", "library/app", reference));
        got.expect(&image.manifest);
        let control = got.field("cache-control").unwrap_or_default();
        assert!(control.starts_with("public"), "{got}");
    }
    assert_eq!(
        logins(),
        1,
        "only the pull that reaches the upstream has a token with credentials"
    );
    let pulls =
        upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET" && seen.status == 200);
    assert_eq!(pulls, 1);
}

#[test]
fn docker_hub_raises_the_limit_of_who_logs_in() {
    pull_with_password(Preset::DockerHub, "docker.io");
}

#[test]
fn ghcr_takes_a_personal_access_token_as_password() {
    pull_with_password(Preset::Ghcr, "ghcr.io");
}

#[test]
fn gar_and_acr_and_artifactory_refuse_post_for_passwords_in_ways_of_their_own() {
    for (which, name) in [
        (Preset::Gar, GAR),
        (Preset::Acr, "team.azurecr.io"),
        (Preset::Artifactory, "docker.jfrog.test"),
    ] {
        let upstream = pull_with_password(which, name);
        assert!(upstream.count(|seen| seen.kind == Kind::Token && seen.method == "GET") > 0);
    }
}

#[test]
fn acr_exchanges_identity_tokens_by_post() {
    let upstream = Registry::preset(Preset::Acr);
    upstream.auth(|auth| {
        auth.post_refused = None;
        auth.get_refused = Some(404);
    });
    upstream.user("robot", "unused");
    upstream.identity_token("robot", "canary-identity");
    upstream.allow("robot", "team/app");
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    let cache = Server::bare()
        .registry_with(
            "team.azurecr.io",
            upstream.addr(),
            "auth: {identity_token: canary-identity}",
        )
        .start();
    assert_eq!(pull(&cache, &upstream, "team.azurecr.io", "team/app", &image), 0);
    for seen in upstream.saw("canary-identity") {
        assert_eq!(
            (seen.kind, seen.method.as_str()),
            (Kind::Token, "POST"),
            "{seen:#?}"
        );
        assert!(
            !seen.target.contains("canary"),
            "the identity token is in the request target"
        );
    }
}

#[test]
fn artifactory_tells_neither_digest_nor_length_of_manifests() {
    let upstream = Registry::preset(Preset::Artifactory);
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    let cache = cache_for("docker.jfrog.test", &upstream);
    for path in [
        manifest("docker.jfrog.test", "team/app", "v1"),
        manifest("docker.jfrog.test", "team/app", &image.digest),
    ] {
        for _ in 0..2 {
            let head = cache.client().head(&path);
            assert_eq!(head.status, 200, "{head}");
            assert_eq!(head.field("docker-content-digest"), Some(image.digest.as_str()));
            assert_eq!(head.content_length(), Some(image.manifest.len() as u64));
            assert_eq!(head.field("content-type"), Some(image.media_type.as_str()));
            cache.client().get(&path).expect(&image.manifest);
        }
    }
    assert_eq!(
        pull(&cache, &upstream, "docker.jfrog.test", "team/app", &image),
        0
    );
}

#[test]
fn artifactory_s_tags_are_revalidated_although_head_says_nothing() {
    let upstream = Registry::preset(Preset::Artifactory);
    let image = Image::small(&upstream, "team/app", "v1", fresh_seed());
    let cache = Server::bare()
        .registry("docker.jfrog.test", upstream.addr())
        .env("TAG_TTL", "0s")
        .start();
    let path = manifest("docker.jfrog.test", "team/app", "v1");
    cache.client().get(&path).expect(&image.manifest);
    let moved = Image::small(&upstream, "team/app", "v1", fresh_seed());
    cache.client().get(&path).expect(&moved.manifest);
}

#[test]
fn challenges_may_come_on_several_lines_and_another_scheme_first() {
    for lines in [
        vec!["Negotiate"],
        vec!["Negotiate", "NTLM"],
        vec!["Digest realm=\"a, b\", nonce=\"Bearer realm=\", qop=\"auth\""],
    ] {
        let upstream = Registry::new();
        upstream.require_tokens(Auth {
            other_challenges: lines.clone(),
            ..Auth::default()
        });
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        let cache = Server::start(&upstream);
        cache
            .client()
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&image.manifest);
        assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 1, "{lines:?}");
    }
}

#[test]
fn a_token_goes_by_either_name_and_may_have_no_time() {
    for token_field in [TokenField::Token, TokenField::AccessToken, TokenField::Both] {
        let upstream = Registry::new();
        upstream.require_tokens(Auth {
            token_field,
            tells_expiry: false,
            ..Auth::default()
        });
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        let cache = Server::start(&upstream);
        assert_eq!(pull(&cache, &upstream, &upstream.name(), "a", &image), 0);
        assert_eq!(
            upstream.count(|seen| seen.kind == Kind::Token),
            1,
            "{token_field:?}"
        );
    }
}

#[test]
fn tags_are_spelled_as_registries_allow_and_not_folded() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    // Helm writes `+` as `_`, and tags are case-sensitive.
    let tags = ["1.2.3_build.7", "V1", "v1", "_under", "a-b.c_d", &"t".repeat(128)];
    let images: Vec<_> = tags
        .iter()
        .map(|tag| Image::small(&upstream, "charts/app", tag, fresh_seed()))
        .collect();
    for _ in 0..2 {
        for (tag, image) in tags.iter().zip(&images) {
            cache
                .client()
                .get(&upstream.manifest_url("charts/app", tag))
                .expect(&image.manifest);
        }
    }
}

#[test]
fn long_rate_limit_text_is_shortened() {
    let upstream = Registry::preset(Preset::DockerHub);
    Image::small(&upstream, "library/app", "v1", fresh_seed());
    upstream.behaviour(|own| own.budget = Some(Budget::hub(0)));
    let cache = cache_for("docker.io", &upstream);
    let got = cache.client().get("/v2/app/manifests/v1");
    got.expect_error(429, "TOOMANYREQUESTS");
    // The quoted part of the upstream's text is valid JSON and short.
    assert!(got.body.len() < 4 * PULL_LIMIT_BODY.len(), "{got}");
    let started = std::time::Instant::now();
    cache
        .client()
        .get("/v2/app/manifests/v1")
        .expect_error(429, "TOOMANYREQUESTS");
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "the client waited for the rate limit to end"
    );
}
