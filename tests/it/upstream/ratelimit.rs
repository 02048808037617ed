//! Upstreams that respond with 429. Cached content is served, clients receive `Retry-After`, and
//! the cache sends no requests before the time.

use std::time::{Duration, Instant};

use crate::harness::*;

/// The response of Docker Hub after too many pulls.
const PULL_LIMIT: &str = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit. You may increase the limit by authenticating and upgrading: https://www.docker.com/increase-rate-limit"}]}"#;

fn warm_tag(cache: &Server, upstream: &Registry) -> Image {
    let image = Image::small(upstream, "a", "v1", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "v1"))
        .expect(&image.manifest);
    cache.wait_stored(&image.digest);
    let pointer = disk::tag_path(cache.root(), &upstream.name(), "a", "v1");
    eventually("the tag is stored", || pointer.exists());
    image
}

fn retry_after(got: &Response) -> u64 {
    let text = got.field("retry-after");
    text.and_then(|text| text.parse().ok())
        .unwrap_or_else(|| panic!("Retry-After is not a number of seconds: {got}"))
}

#[test]
fn cached_content_is_pulled_on_under_load_while_the_upstream_limits_us() {
    const CLIENTS: u64 = 20;
    const LASTS: Duration = Duration::from_secs(4);
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("TAG_TTL", "0s")
        .env("ACCESS_LOG", "false")
        .cores(2)
        .start();
    let image = warm_tag(&cache, &upstream);
    // An incomplete image is an error while the upstream limits all requests.
    for (digest, content) in &image.blobs {
        let path = upstream.blob_url("a", digest);
        cache.client().get(&path).expect(&content.bytes());
        cache.wait_stored(digest);
    }
    upstream.on(On::any(), Reply::status(429));
    let asked = upstream.requests();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..CLIENTS {
            let (cache, upstream, image) = (&cache, &upstream, &image);
            scope.spawn(move || {
                let mut connection = cache.client().open();
                let paths = [
                    upstream.manifest_url("a", "v1"),
                    upstream.manifest_url("a", &image.digest),
                ];
                while began.elapsed() < LASTS {
                    connection.request("GET", &paths[n as usize % 2], &[]).unwrap();
                    connection.read("GET").unwrap().expect(&image.manifest);
                }
            });
        }
    });
    let (asked, lasted) = (upstream.requests() - asked, began.elapsed());
    assert!(
        asked <= 2 + lasted.as_secs() as usize,
        "{asked} requests in {lasted:?}"
    );
    // The first request without a cached copy.
    let got = cache.client().get(&upstream.manifest_url("a", "v2"));
    got.expect_error(429, "TOOMANYREQUESTS");
    assert!((1..=60).contains(&retry_after(&got)), "{got}");

    upstream.clear_rules();
    cache.wait_asks(&upstream, "a");
    let moved = Image::small(&upstream, "a", "v1", fresh_seed());
    let got = cache.client().get(&upstream.manifest_url("a", "v1"));
    got.expect(&moved.manifest);
    cache.wait_stderr("upstream rate limit ended");
    let log = cache.stderr();
    assert_eq!(log.matches("upstream rate limit reached").count(), 1, "{log}");
    assert_eq!(log.matches("upstream rate limit ended").count(), 1, "{log}");
}

#[test]
fn without_a_cached_copy_rate_limit_is_forwarded_and_no_request_is_sent_before_the_end() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    upstream.on(On::any(), Reply::too_many_requests("2"));
    let paths = [
        upstream.manifest_url("a", "v1"),
        upstream.manifest_url("a", &image.digest),
        upstream.blob_url("a", &image.blobs[0].0),
    ];
    for path in &paths {
        let got = cache.client().get(path);
        got.expect_error(429, "TOOMANYREQUESTS");
        assert!((1..=2).contains(&retry_after(&got)), "{got}");
        let head = cache.client().head(path);
        assert_eq!(head.status, 429, "{head}");
        assert!((1..=2).contains(&retry_after(&head)), "{head}");
    }
    upstream.clear_rules();
    eventually("the rate limit has ended", || {
        cache.client().get(&paths[0]).status == 200
    });
    // After each rejection, the cache waited at least two seconds.
    let log = upstream.log();
    for pair in log.windows(2).filter(|pair| pair[0].status == 429) {
        assert!(
            pair[1].at - pair[0].at >= Duration::from_secs(2),
            "{:?}",
            pair[1].at - pair[0].at
        );
    }
}

#[test]
fn rejection_without_retry_after_is_forwarded_with_one() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    upstream.on(On::any(), Reply::status(429));
    let got = cache.client().get(&upstream.manifest_url("a", "v1"));
    got.expect_error(429, "TOOMANYREQUESTS");
    assert_eq!(retry_after(&got), 1);
}

#[test]
fn a_date_to_come_back_at_is_understood() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    // The date refers to the clock of the upstream, which differs from the clock of the cache.
    let reply = Reply::too_many_requests("Sun, 06 Nov 1994 08:50:17 GMT");
    upstream.on(On::any(), reply.set("Date", "Sun, 06 Nov 1994 08:49:37 GMT"));
    let path = upstream.manifest_url("a", "v1");
    cache.client().get(&path).expect_error(429, "TOOMANYREQUESTS");
    let got = cache.client().get(&path);
    got.expect_error(429, "TOOMANYREQUESTS");
    assert!((1..=40).contains(&retry_after(&got)), "{got}");
    assert_eq!(upstream.requests(), 1);
}

#[test]
fn docker_hub_s_pull_limit_leaves_blobs_alone_and_its_abuse_limit_does_not() {
    for (body, blobs_go) in [(PULL_LIMIT, true), ("Too Many Requests\n", false)] {
        let upstream = Registry::new();
        let cache = Server::start(&upstream);
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        upstream.on(
            On::kind(Kind::Manifest),
            Reply::too_many_requests("30").body(body),
        );
        for _ in 0..3 {
            cache
                .client()
                .get(&upstream.manifest_url("a", "v1"))
                .expect_error(429, "TOOMANYREQUESTS");
        }
        assert_eq!(upstream.requests(), 1);
        let (digest, content) = &image.blobs[0];
        let got = cache.client().get(&upstream.blob_url("a", digest));
        if blobs_go {
            got.expect(&content.bytes());
        } else {
            got.expect_error(429, "TOOMANYREQUESTS");
            assert_eq!(upstream.requests(), 1);
        }
    }
}

#[test]
fn a_token_service_that_limits_us_is_left_alone() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth::default());
    let cache = Server::start(&upstream);
    let digest = upstream.blob("x");
    upstream.on(On::kind(Kind::Token), Reply::too_many_requests("30"));
    for repository in ["a", "b", "c"] {
        let got = cache.client().get(&upstream.blob_url(repository, &digest));
        got.expect_error(429, "TOOMANYREQUESTS");
        assert!((1..=30).contains(&retry_after(&got)), "{got}");
    }
    assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 1);
}

/// The last tenth of the upstream's budget is reserved for requests without a cached copy.
#[test]
fn tags_are_served_stale_before_the_budget_is_gone() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let image = warm_tag(&cache, &upstream);
    let left = |n: u32| {
        Reply::new()
            .set("ratelimit-limit", "100;w=21600")
            .set("ratelimit-remaining", format!("{n};w=21600"))
    };
    upstream.on(On::kind(Kind::Manifest), left(9));
    let path = upstream.manifest_url("a", "v1");
    // The cache learns the budget from this response.
    cache.client().get(&path).expect(&image.manifest);
    let asked = upstream.requests();
    for _ in 0..10 {
        let got = cache.client().get(&path);
        got.expect(&image.manifest);
        assert_eq!(got.x_cache(), "STALE", "{got}");
    }
    assert_eq!(upstream.requests(), asked);
    let other = Image::small(&upstream, "a", "v2", fresh_seed());
    cache
        .client()
        .get(&upstream.manifest_url("a", "v2"))
        .expect(&other.manifest);
}
