//! The cache serves signatures while their registry is down and after a restart, and caches 404
//! responses for a short time.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Returns a manifest with a distinguishing annotation.
fn image(mark: &str) -> String {
    json!({"schemaVersion": 2, "config": {}, "layers": [], "annotations": {"mark": mark}}).to_string()
}

/// Shorter than `ABSENCE_TTL`, with tolerance for a busy machine.
const REMEMBERED: Duration = Duration::from_secs(4);
/// Slightly longer than `ABSENCE_TTL`.
const FORGOTTEN: Duration = Duration::from_millis(5_500);

fn index_reply(manifests: &Value) -> Reply {
    let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
    Reply::status(200).body(body).set("Content-Type", INDEX)
}

fn referrer(letter: char, artifact_type: &str) -> Value {
    json!({"mediaType": MANIFEST, "digest": digest_of(letter), "size": 7, "artifactType": artifact_type})
}

fn digest_of(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

fn referrers_url(upstream: &Registry, repository: &str, digest: &str) -> String {
    format!("/v2/{}/{repository}/referrers/{digest}", upstream.name())
}

fn manifests_of(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response}");
    let mut index: Value = serde_json::from_slice(&response.body).expect("an index");
    index["manifests"].take()
}

/// Checks the header fields of a stale response while the registry is unavailable.
#[track_caller]
fn expect_stale(got: &Response) {
    assert_eq!(got.x_cache(), "STALE", "{got}");
    let warning = got.field("warning").unwrap_or_default();
    assert!(warning.starts_with("299 - "), "{got}");
    let status = got.field("cache-status").unwrap_or_default();
    assert!(status.contains("hit; ttl=-1"), "{got}");
    assert!(got.field("age").is_some(), "{got}");
}

/// Waits until the store has `count` records of referrers of a repository.
fn wait_records(cache: &Server, upstream: &Registry, repository: &str, count: usize) {
    let dir = records_dir(cache, upstream, repository);
    eventually("the records are stored", || {
        std::fs::read_dir(&dir).map_or(0, Iterator::count) == count
    });
}

/// Waits until the store contains the tag.
fn wait_tag(cache: &Server, upstream: &Registry, tag: &str) {
    let pointer = disk::tag_path(&store_of(cache), &upstream.name(), "a", tag);
    eventually("the tag is stored", || pointer.exists());
}

fn records_dir(cache: &Server, upstream: &Registry, repository: &str) -> std::path::PathBuf {
    let registry = store_of(cache).join("manifests").join(upstream.name());
    registry.join(repository).join("_referrers")
}

/// Returns the root of the stored files: the directory, or the bucket in a run without a directory.
fn store_of(cache: &Server) -> std::path::PathBuf {
    match cache.bucket() {
        Some(bucket) if crate::harness::server::storage_of_run() == "s3" => bucket.path(""),
        _ => cache.root().to_owned(),
    }
}

/// Makes the registry unavailable, with the air-gapped mode or by an outage, and restarts the
/// cache.
fn cut_off(cache: &mut Server, upstream: &Registry, air_gapped: bool) {
    if air_gapped {
        cache.set_env("AIR_GAPPED", "true");
    } else {
        upstream.down();
    }
    cache.restart();
}

#[test]
fn a_list_of_referrers_survives_a_restart_without_the_registry() {
    for air_gapped in [false, true] {
        let upstream = Registry::new();
        let mut cache = Server::start(&upstream);
        let subject = digest_of('a');
        let all = json!([referrer('1', "a/sig"), referrer('2', "a/sbom")]);
        upstream.on(On::path("/referrers/"), index_reply(&all));
        let path = referrers_url(&upstream, "a", &subject);
        assert_eq!(manifests_of(&cache.client().get(&path)), all);
        wait_records(&cache, &upstream, "a", 1);
        cut_off(&mut cache, &upstream, air_gapped);
        for _ in 0..2 {
            let got = cache.client().get(&path);
            assert_eq!(manifests_of(&got), all);
            assert_eq!(got.field("content-type"), Some(INDEX));
            expect_stale(&got);
        }
        // The cache applies a new filter to the complete list.
        let got = cache.client().get(&format!("{path}?artifactType=a%2Fsbom"));
        assert_eq!(manifests_of(&got), json!([all[1]]));
        assert_eq!(got.field("oci-filters-applied"), Some("artifactType"));
        expect_stale(&got);
        // No record exists for another subject.
        let other = cache
            .client()
            .get(&referrers_url(&upstream, "a", &digest_of('b')));
        assert_eq!(other.status, if air_gapped { 404 } else { 502 }, "{other}");
        assert_eq!(other.field("warning"), None);
    }
}

#[test]
fn a_filtered_list_and_pages_are_kept_as_they_were_asked_for() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let path = referrers_url(&upstream, "a", &digest_of('a'));
    let link = format!("</v2/a/referrers/{}?page=2>; rel=\"next\"", digest_of('a'));
    let (first, second) = (json!([referrer('1', "a/sig")]), json!([referrer('2', "a/sbom")]));
    upstream.on(On::path("page=2"), index_reply(&second));
    upstream.on(
        On::path("artifactType="),
        index_reply(&second).set("OCI-Filters-Applied", "artifactType"),
    );
    upstream.on(On::path("/referrers/"), index_reply(&first).set("Link", link));
    let queries = ["?artifactType=a%2Fsbom", "", "?page=2"];
    let lists = [&second, &first, &second];
    for (query, list) in queries.into_iter().zip(lists) {
        assert_eq!(
            &manifests_of(&cache.client().get(&format!("{path}{query}"))),
            list
        );
    }
    wait_records(&cache, &upstream, "a", 3);
    upstream.down();
    cache.restart();
    for (query, list) in queries.into_iter().zip(lists) {
        let got = cache.client().get(&format!("{path}{query}"));
        assert_eq!(&manifests_of(&got), list, "{query}");
        assert_eq!(got.field("link").is_some(), query.is_empty(), "{got}");
        assert_eq!(
            got.field("oci-filters-applied").is_some(),
            query.starts_with("?artifactType")
        );
        expect_stale(&got);
    }
    // A filter cannot be applied to a single page of a list.
    let got = cache.client().get(&format!("{path}?artifactType=a%2Fsig"));
    assert_eq!(got.status, 502, "{got}");
}

/// The requests of `cosign verify`, `oras discover` and `notation verify` to a registry without the
/// referrers API.
#[test]
fn without_the_referrers_api_the_tag_in_its_place_is_found_without_the_registry() {
    for (air_gapped, reply) in [
        (false, Reply::status(404)),
        (true, Reply::status(404)),
        (false, Reply::status(405)),
        (false, Reply::redirect(303, "http://elsewhere.test/")),
        (
            false,
            Reply::status(200).body("<html>").set("Content-Type", "text/html"),
        ),
    ] {
        let upstream = Registry::new();
        let mut cache = Server::start(&upstream);
        upstream.on(On::path("/referrers/"), reply);
        let subject = upstream.manifest("a", MANIFEST, image("image"));
        let hex = subject.strip_prefix("sha256:").unwrap();
        let list = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [referrer('1', "a/sig")]})
            .to_string();
        let index = upstream.manifest("a", INDEX, list.as_str());
        upstream.tag("a", &format!("sha256-{hex}"), &index);
        let list_path = referrers_url(&upstream, "a", &subject);
        let tag_path = upstream.manifest_url("a", &format!("sha256-{hex}"));
        let absent_path = upstream.manifest_url("a", &format!("sha256-{hex}.sig"));
        cache
            .client()
            .get(&list_path)
            .expect_error(404, "MANIFEST_UNKNOWN");
        cache.client().get(&tag_path).expect(list.as_bytes());
        cache
            .client()
            .get(&absent_path)
            .expect_error(404, "MANIFEST_UNKNOWN");
        wait_tag(&cache, &upstream, &format!("sha256-{hex}"));
        cache.wait_stored(&index);
        wait_records(&cache, &upstream, "a", 2);
        cut_off(&mut cache, &upstream, air_gapped);
        for _ in 0..2 {
            let got = cache.client().get(&list_path);
            got.expect_error(404, "MANIFEST_UNKNOWN");
            expect_stale(&got);
            let got = cache.client().get(&tag_path);
            got.expect(list.as_bytes());
            let got = cache.client().get(&absent_path);
            got.expect_error(404, "MANIFEST_UNKNOWN");
            expect_stale(&got);
            let head = cache.client().head(&absent_path);
            assert_eq!((head.status, head.x_cache()), (404, "STALE"), "{head}");
        }
        if !air_gapped {
            // An outage is not a 404, neither for another tag with a digest name nor for an
            // ordinary tag.
            for tag in [format!("sha256-{}.sig", "b".repeat(64)), "v1".to_owned()] {
                let got = cache.client().get(&upstream.manifest_url("a", &tag));
                assert_eq!(got.status, 502, "{got}");
            }
        }
    }
}

#[test]
fn last_response_about_a_signature_is_served_during_an_outage() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let tag = format!("sha256-{}.sig", "a".repeat(64));
    let path = upstream.manifest_url("a", &tag);
    // First a 404, then a signature, then its removal.
    cache.client().get(&path).expect_error(404, "MANIFEST_UNKNOWN");
    wait_records(&cache, &upstream, "a", 1);
    let digest = upstream.manifest("a", MANIFEST, image("signature"));
    upstream.tag("a", &tag, &digest);
    cache.client().get(&path).expect(image("signature").as_bytes());
    wait_tag(&cache, &upstream, &tag);
    cache.wait_stored(&digest);
    wait_records(&cache, &upstream, "a", 0);
    upstream.down();
    cache.restart();
    let got = cache.client().get(&path);
    got.expect(image("signature").as_bytes());
    expect_stale(&got);
    upstream.up();
    upstream.on(On::path(&tag), Reply::status(404));
    eventually("the cache sends requests to the registry again", || {
        cache.client().get(&path).status == 404
    });
    wait_records(&cache, &upstream, "a", 1);
    upstream.down();
    cache.restart();
    let got = cache.client().get(&path);
    got.expect_error(404, "MANIFEST_UNKNOWN");
    expect_stale(&got);
}

#[test]
fn stored_404_of_the_referrers_api_is_replaced_by_a_later_list() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let path = referrers_url(&upstream, "a", &digest_of('a'));
    upstream.on(On::path("/referrers/").times(1), Reply::status(404));
    let all = json!([referrer('1', "a/sig")]);
    upstream.on(On::path("/referrers/"), index_reply(&all));
    cache.client().get(&path).expect_error(404, "MANIFEST_UNKNOWN");
    assert_eq!(manifests_of(&cache.client().get(&path)), all);
    let dir = records_dir(&cache, &upstream, "a");
    eventually("the record of the 404 is replaced by the list", || {
        !dir.join("unsupported.json").exists() && std::fs::read_dir(&dir).is_ok_and(|dir| dir.count() == 1)
    });
    upstream.down();
    cache.restart();
    // No record exists for another subject of the repository.
    let other = cache
        .client()
        .get(&referrers_url(&upstream, "a", &digest_of('b')));
    assert_eq!(other.status, 502, "{other}");
    assert_eq!(manifests_of(&cache.client().get(&path)), all);
}

/// While the registry cannot verify credentials, no client receives content fetched with Alice's
/// credentials.
#[test]
fn private_lists_and_404s_are_not_kept_for_others() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth {
        scheme: Scheme::Either,
        ..Auth::default()
    });
    upstream.user("alice", "canary-alice");
    upstream.allow("alice", "private/alice");
    let mut cache = Server::start(&upstream);
    let alice = basic("alice", "canary-alice");
    let subject = digest_of('a');
    upstream.on(
        On::path("/referrers/").authorized(true),
        index_reply(&json!([referrer('1', "canary/sig")])),
    );
    let list = referrers_url(&upstream, "private/alice", &subject);
    let tag = upstream.manifest_url("private/alice", &format!("sha256-{}", "a".repeat(64)));
    let get = |cache: &Server, path: &str, who: &str| {
        let fields = [("Authorization", who)];
        cache
            .client()
            .get_with(path, if who.is_empty() { &[] } else { &fields })
    };
    assert_eq!(get(&cache, &list, &alice).status, 200);
    get(&cache, &tag, &alice).expect_error(404, "MANIFEST_UNKNOWN");
    assert_ne!(get(&cache, &list, "").status, 200);
    upstream.down();
    for restarted in [false, true] {
        if restarted {
            cache.restart();
        }
        for path in [&list, &tag] {
            for who in ["", &alice, &basic("bob", "b")] {
                let got = get(&cache, path, who);
                assert_ne!(got.status, 200, "restarted: {restarted}, {got}");
                assert!(!got.body.windows(6).any(|text| text == b"canary"), "{got}");
            }
        }
    }
    // Only the registry's 404 for an anonymous client may be stored.
    let records = std::fs::read_dir(records_dir(&cache, &upstream, "private/alice"));
    for record in records.into_iter().flatten() {
        let text = std::fs::read_to_string(record.unwrap().path()).unwrap();
        assert!(!text.contains("canary") && !text.contains("index"), "{text}");
    }
}

#[test]
fn a_list_that_is_refused_is_not_given_afterwards() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let path = referrers_url(&upstream, "a", &digest_of('a'));
    upstream.on(On::path("/referrers/").times(1), index_reply(&json!([])));
    upstream.on(On::path("/referrers/"), Reply::status(403));
    assert_eq!(cache.client().get(&path).status, 200);
    wait_records(&cache, &upstream, "a", 1);
    assert_eq!(cache.client().get(&path).status, 403);
    wait_records(&cache, &upstream, "a", 0);
    upstream.down();
    cache.restart();
    assert_eq!(cache.client().get(&path).status, 502);
}

#[test]
fn missing_objects_are_requested_once_per_absence_ttl() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let hex = "a".repeat(64);
    let missing = digest_of('a');
    let paths = [
        upstream.manifest_url("a", &format!("sha256-{hex}.sig")),
        upstream.manifest_url("a", &format!("sha256-{hex}")),
        upstream.manifest_url("a", "v1"),
        upstream.manifest_url("a", &missing),
        upstream.blob_url("a", &missing),
        referrers_url(&upstream, "a", &missing),
        format!("/v2/{}/a/tags/list", upstream.name()),
    ];
    let ask = || {
        for path in &paths {
            let (began, client, before) = (Instant::now(), cache.client(), upstream.requests());
            let first = client.get(path);
            assert_eq!((first.status, first.x_cache()), (404, ""), "{path}: {first}");
            assert_eq!(
                client.get(path).body,
                first.body,
                "the two responses differ: {path}"
            );
            assert_eq!(client.head(path).status, 404);
            let asked = upstream.requests() - before;
            let in_time = began.elapsed() < REMEMBERED;
            assert!(asked == 1 || !in_time, "{path}: {:#?}", upstream.log());
        }
    };
    ask();
    // No event marks the expiry, so the test waits for the documented time.
    std::thread::sleep(FORGOTTEN);
    ask();
}

#[test]
fn new_manifest_clears_the_cached_404s_of_its_repository() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let path = upstream.manifest_url("a", "v2");
    let began = Instant::now();
    cache.client().get(&path).expect_error(404, "MANIFEST_UNKNOWN");
    let one = upstream.manifest("a", MANIFEST, image("1"));
    let two = upstream.manifest("a", MANIFEST, image("2"));
    upstream.tag("a", "v2", &two);
    // A manifest of another repository does not affect this repository.
    let other = upstream.manifest("b", MANIFEST, image("3"));
    assert_eq!(
        cache.client().get(&upstream.manifest_url("b", &other)).status,
        200
    );
    let still = cache.client().get(&path).status;
    assert!(still == 404 || began.elapsed() >= REMEMBERED, "{still}");
    assert_eq!(cache.client().get(&upstream.manifest_url("a", &one)).status, 200);
    cache.client().get(&path).expect(image("2").as_bytes());
}

#[test]
fn a_blob_that_was_missing_is_found_once_it_or_a_manifest_of_its_repository_came() {
    let upstream = Registry::new();
    upstream.behaviour(|behaviour| behaviour.blobs_belong = true);
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 1_000);
    let digest = content.digest();
    let path = upstream.blob_url("a", &digest);
    let missing = |path: &str| {
        cache.client().get(path).expect_error(404, "BLOB_UNKNOWN");
    };
    let (began, blobs) = (Instant::now(), |upstream: &Registry| upstream.gets("/blobs/"));
    missing(&path);
    missing(&path);
    assert!(blobs(&upstream) == 1 || began.elapsed() >= REMEMBERED);
    upstream.blob_in("a", content.clone());
    // A manifest of another repository does not affect this repository.
    let other = upstream.manifest("b", MANIFEST, image("other"));
    assert_eq!(
        cache.client().get(&upstream.manifest_url("b", &other)).status,
        200
    );
    let still = cache.client().get(&path).status;
    assert!(still == 404 || began.elapsed() >= REMEMBERED, "{still}");
    let manifest = upstream.manifest("a", MANIFEST, image("1"));
    assert_eq!(
        cache.client().get(&upstream.manifest_url("a", &manifest)).status,
        200
    );
    cache.client().pull(&path, &content);

    // The arrival of one blob does not affect the records of other missing blobs.
    let (late, never) = (PseudoRandom::new(fresh_seed(), 1_000), digest_of('e'));
    let (path, never) = (
        upstream.blob_url("a", &late.digest()),
        upstream.blob_url("a", &never),
    );
    let began = Instant::now();
    missing(&never);
    let asked = blobs(&upstream);
    upstream.blob_in("a", late.clone());
    cache.client().pull(&path, &late);
    missing(&never);
    assert!(blobs(&upstream) == asked + 1 || began.elapsed() >= REMEMBERED);
}

#[test]
fn rejections_other_than_404_are_not_cached() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for status in [401, 403, 410] {
        for path in [
            upstream.manifest_url("a", &format!("t{status}")),
            upstream.manifest_url("a", &digest_of('c')),
            upstream.blob_url("a", &digest_of('b')),
            referrers_url(&upstream, "a", &digest_of('d')),
        ] {
            let (_, name) = path.rsplit_once('/').unwrap();
            upstream.clear_rules();
            upstream.on(On::path(name), Reply::status(status));
            for _ in 0..2 {
                upstream.clear_log();
                let got = cache.client().get(&path);
                assert!(got.status >= 400 && upstream.requests() > 0, "{status}: {got}");
            }
        }
    }
}

/// Anonymous clients share one record, and each user has a separate record.
#[test]
fn a_404_is_remembered_for_the_caller_that_received_it() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth {
        scheme: Scheme::Either,
        hidden: 404,
        ..Auth::default()
    });
    for user in ["alice", "bob"] {
        upstream.user(user, user);
    }
    upstream.allow("alice", "private/alice");
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 1_000);
    let blob = upstream.blob_in("private/alice", content.clone());
    let digest = upstream.manifest("private/alice", MANIFEST, image("hers"));
    upstream.tag("private/alice", "v1", &digest);
    for path in [
        upstream.manifest_url("private/alice", "v1"),
        upstream.manifest_url("private/alice", &digest),
        upstream.blob_url("private/alice", &blob),
    ] {
        for _ in 0..2 {
            for who in ["bob", ""] {
                let login = basic(who, who);
                let fields = [("Authorization", login.as_str())];
                let got = cache
                    .client()
                    .get_with(&path, if who.is_empty() { &[] } else { &fields });
                assert_ne!(got.status, 200, "{who}: {got}");
            }
            let login = basic("alice", "alice");
            let got = cache
                .client()
                .get_with(&path, &[("Authorization", login.as_str())]);
            assert_eq!(got.status, 200, "{got}");
        }
    }
}

#[test]
fn missing_tag_with_zero_ttl_is_requested_every_time() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let path = upstream.manifest_url("a", "latest");
    for asked in 1..=3 {
        assert_eq!(cache.client().get(&path).status, 404);
        assert_eq!(upstream.requests(), asked, "{:#?}", upstream.log());
    }
    let digest = upstream.manifest("a", MANIFEST, image("1"));
    upstream.tag("a", "latest", &digest);
    cache.client().get(&path).expect(image("1").as_bytes());
}

/// The scan at startup keeps records, and a damaged record is ignored.
#[test]
fn referrer_records_survive_the_scan_and_damaged_ones_are_ignored() {
    // With both stores, the bucket has a second, valid copy.
    if crate::harness::server::storage_of_run() == "tiered" {
        return;
    }
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let path = referrers_url(&upstream, "a", &digest_of('a'));
    upstream.on(
        On::path("/referrers/"),
        index_reply(&json!([referrer('1', "a/sig")])),
    );
    assert_eq!(cache.client().get(&path).status, 200);
    wait_records(&cache, &upstream, "a", 1);
    let file = std::fs::read_dir(records_dir(&cache, &upstream, "a")).unwrap();
    let file = file.map(|entry| entry.unwrap().path()).next().unwrap();
    let whole = std::fs::read(&file).unwrap();
    upstream.down();
    for damaged in [
        &b""[..],
        b"null",
        b"[]",
        &whole[..whole.len() - 1],
        b"{\"checkedAtMs\":1}",
    ] {
        std::fs::write(&file, damaged).unwrap();
        cache.restart();
        let got = cache.client().get(&path);
        assert_eq!(got.status, 502, "{got}");
    }
    std::fs::write(&file, &whole).unwrap();
    cache.restart();
    if crate::harness::server::storage_of_run() != "s3" {
        cache.wait_stderr("store scanned");
    }
    assert!(!cache.stderr().contains("foreign=1"), "{}", cache.stderr());
    expect_stale(&cache.client().get(&path));
}

/// A cache without a directory reads its records from the bucket after a restart. A cache with a
/// directory reads records of another cache.
#[test]
fn referrer_records_are_stored_in_the_bucket() {
    for backend in ["s3", "tiered"] {
        let (upstream, bucket) = (Registry::new(), Bucket::new());
        let start = || {
            bucket
                .behind(Server::options(&upstream), backend)
                .env("TAG_TTL", "0s")
                .start()
        };
        let records = |repository: &str| {
            let dir = format!("manifests/{}/{repository}/_referrers/", upstream.name());
            let keys = bucket.keys();
            keys.iter().filter(|key| key.starts_with(&dir)).count()
        };
        let all = json!([referrer('1', "a/sig"), referrer('2', "a/sbom")]);
        upstream.on(On::path("/with/referrers/"), index_reply(&all));
        upstream.on(On::path("/without/referrers/"), Reply::status(404));
        let subject = digest_of('a');
        let list = referrers_url(&upstream, "with", &subject);
        let no_list = referrers_url(&upstream, "without", &subject);
        let tag = format!("sha256-{}.sig", "a".repeat(64));
        let absent = upstream.manifest_url("without", &tag);
        let first = start();
        assert_eq!(manifests_of(&first.client().get(&list)), all);
        first.client().get(&no_list).expect_error(404, "MANIFEST_UNKNOWN");
        first.client().get(&absent).expect_error(404, "MANIFEST_UNKNOWN");
        eventually("the bucket has the records", || {
            records("with") == 1 && records("without") == 2
        });
        drop(first);
        upstream.down();
        let second = start();
        for _ in 0..2 {
            let got = second.client().get(&list);
            assert_eq!(manifests_of(&got), all);
            expect_stale(&got);
            let filtered = second.client().get(&format!("{list}?artifactType=a%2Fsbom"));
            assert_eq!(manifests_of(&filtered), json!([all[1]]));
            for path in [&no_list, &absent] {
                let got = second.client().get(path);
                got.expect_error(404, "MANIFEST_UNKNOWN");
                expect_stale(&got);
            }
            let unknown = second
                .client()
                .get(&referrers_url(&upstream, "with", &digest_of('b')));
            assert_eq!(unknown.status, 502, "{unknown}");
        }
        // The registry's next response replaces the record, also for the first cache.
        upstream.up();
        upstream.clear_rules();
        upstream.on(On::path("/referrers/"), index_reply(&json!([all[0]])));
        let digest = upstream.manifest("without", MANIFEST, image("signature"));
        upstream.tag("without", &tag, &digest);
        eventually("the cache sends requests to the registry again", || {
            second.client().get(&absent).status == 200
        });
        for path in [&list, &no_list] {
            assert_eq!(manifests_of(&second.client().get(path)), json!([all[0]]));
        }
        eventually("the records of 404s are removed", || {
            let keys = bucket.keys();
            records("without") == 1 && !keys.iter().any(|key| key.ends_with("unsupported.json"))
        });
        eventually("the bucket has the new list", || {
            let keys = bucket.keys();
            let lists = keys.iter().filter(|key| key.contains("/_referrers/sha256-"));
            let texts = lists.map(|key| std::fs::read_to_string(bucket.path(key)).unwrap_or_default());
            texts.into_iter().all(|text| !text.contains("a/sbom"))
        });
        upstream.down();
        let first = start();
        for path in [&list, &no_list] {
            let got = first.client().get(path);
            assert_eq!(manifests_of(&got), json!([all[0]]));
            expect_stale(&got);
        }
    }
}
