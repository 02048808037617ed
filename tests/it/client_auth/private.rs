//! Private content: cached for users with a permission of the upstream, and hidden from all other
//! clients.
//!
//! Alice, Bob and Carol have different rights. Each sends their own `Authorization` with a password
//! or a token. The expected answer is the upstream's answer to the same client.

use std::collections::{BTreeSet, HashSet};

use crate::harness::registry::RecordedRequest;
use crate::harness::*;

/// Every password is a canary that may occur only in requests of its owner.
fn password(user: &str) -> String {
    format!("canary-{user}")
}

/// Creates a registry with users and rights. `hidden` is the status for an authenticated user
/// without the right.
fn registry(hidden: u16) -> Registry {
    let upstream = Registry::new();
    upstream.require_tokens(Auth {
        scheme: Scheme::Either,
        hidden,
        ..Auth::default()
    });
    upstream.behaviour(|own| own.blobs_belong = true);
    for user in ["alice", "bob", "carol"] {
        upstream.user(user, &password(user));
        upstream.allow(user, &format!("private/{user}"));
    }
    upstream.allow("alice", "private/both");
    upstream.allow("bob", "private/both");
    upstream.allow("carol", "private/alice");
    upstream.allow_anybody("public/one");
    upstream.allow_anybody("public/two");
    upstream
}

fn login(user: &str) -> String {
    basic(user, &password(user))
}

/// Sends a request, with this `Authorization` unless empty.
fn ask(cache: &Server, method: &str, path: &str, authorization: &str, more: &[(&str, &str)]) -> Response {
    let mut fields = more.to_vec();
    if !authorization.is_empty() {
        fields.push(("Authorization", authorization));
    }
    cache.client().request(method, path, &fields)
}

fn get(cache: &Server, path: &str, authorization: &str) -> Response {
    ask(cache, "GET", path, authorization, &[])
}

/// Whether a request transferred content: a GET of a blob, answered with more than a probe's single
/// byte.
fn is_body(seen: &RecordedRequest) -> bool {
    let blob = matches!(seen.kind, Kind::Blob | Kind::Cdn);
    blob && seen.method == "GET" && matches!(seen.status, 200 | 206) && !seen.is_probe()
}

fn bodies(upstream: &Registry, digest: &str) -> usize {
    upstream.count(|seen| is_body(seen) && seen.target.contains(digest))
}

/// Returns all distinguishable parts of a response, except for the date and the digest.
fn look(got: &Response, digest: &str) -> (u16, String, BTreeSet<String>) {
    let hidden = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(digest, "<digest>");
    let fields = got
        .fields
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case("date"));
    let fields = fields.map(|(name, value)| format!("{name}: {}", hidden(value)));
    (got.status, hidden(&got.body), fields.collect())
}

/// Returns a digest without content.
fn nowhere() -> String {
    PseudoRandom::new(fresh_seed(), 9).digest()
}

#[track_caller]
fn expect_private(got: &Response) {
    let control = got.field("cache-control").unwrap_or_default();
    assert!(
        control.contains("private") && !control.contains("public"),
        "{got}"
    );
}

#[track_caller]
fn expect_refused(got: &Response) {
    assert!(matches!(got.status, 401 | 403 | 404), "{got}");
    assert!(
        got.received < 4_000,
        "the response is not an error without content: {got}"
    );
    for field in ["docker-content-digest", "etag", "content-range", "accept-ranges"] {
        assert_eq!(got.field(field), None, "{got}");
    }
}

/// Fails unless the client receives equal responses for `digest` and for an unknown digest, for
/// each kind of request.
#[track_caller]
fn expect_nothing_known(cache: &Server, path_of: &dyn Fn(&str) -> String, digest: &str, authorization: &str) {
    let etag = format!("\"{digest}\"");
    for (method, more) in [
        ("GET", vec![]),
        ("HEAD", vec![]),
        ("GET", vec![("Range", "bytes=0-0")]),
        ("GET", vec![("Range", "bytes=-5")]),
        ("GET", vec![("Range", "bytes=99999999-")]),
        ("GET", vec![("Range", "bytes=0-1,4-5")]),
        ("GET", vec![("If-None-Match", etag.as_str())]),
        ("HEAD", vec![("If-None-Match", "*")]),
        ("GET", vec![("If-Match", etag.as_str())]),
        ("GET", vec![("If-Range", etag.as_str()), ("Range", "bytes=1-2")]),
    ] {
        let got = ask(cache, method, &path_of(digest), authorization, &more);
        expect_refused(&got);
        let missing = nowhere();
        let unknown = ask(cache, method, &path_of(&missing), authorization, &more);
        assert_eq!(look(&got, digest), look(&unknown, &missing), "{method} {more:?}");
    }
}

#[test]
fn second_pull_of_private_content_transfers_no_body_from_upstream() {
    for size in [700, 90_000, 3_000_000] {
        let upstream = registry(403);
        let cache = Server::options(&upstream).cores(2).start();
        let content = PseudoRandom::new(fresh_seed(), size);
        let digest = upstream.blob_in("private/alice", content.clone());
        let path = upstream.blob_url("private/alice", &digest);
        let token = upstream.token_of("alice", "private/alice");
        for authorization in [
            login("alice"),
            login("alice"),
            token,
            login("carol"),
            upstream.token_of("carol", "private/alice"),
        ] {
            for _ in 0..3 {
                let got = get(&cache, &path, &authorization);
                got.expect(&content.bytes());
                expect_private(&got);
                assert_eq!(got.field("docker-content-digest"), Some(digest.as_str()));
                cache.wait_stored(&digest);
            }
        }
        assert_eq!(bodies(&upstream, &digest), 1, "{size}: {:#?}", upstream.log());
        let probed: u64 = upstream
            .log()
            .iter()
            .filter(|seen| seen.is_probe())
            .map(|seen| seen.sent)
            .sum();
        assert!(probed <= 5, "a probe reads one byte");
        assert_eq!(
            upstream.heads(&digest),
            0,
            "some registries do not serve HEAD of blobs"
        );
        expect_nothing_known(&cache, &|d| upstream.blob_url("private/alice", d), &digest, "");
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("private/alice", d),
            &digest,
            &login("bob"),
        );
    }
}

#[test]
fn permission_probe_does_not_download_the_blob_if_upstream_ignores_ranges() {
    let upstream = registry(403);
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 64 << 20);
    let digest = upstream.blob_in("private/alice", content.clone());
    let path = upstream.blob_url("private/alice", &digest);
    let mine = login("alice");
    let pulled = cache
        .client()
        .try_pull(&path, &[("Authorization", &mine)], &content, 0)
        .unwrap();
    assert_eq!((pulled.status, pulled.received), (200, content.size));
    cache.wait_stored(&digest);
    upstream.clear_log();
    // A registry without range support sends the complete blob. The cache must not wait for its
    // end.
    upstream.on(On::path(&digest), Reply::new().range(Range::Off));
    let carol = login("carol");
    let pulled = cache
        .client()
        .try_pull(&path, &[("Authorization", &carol)], &content, 0)
        .unwrap();
    assert_eq!((pulled.status, pulled.received), (200, content.size));
    upstream.wait_until("the probe ends", |log| log.iter().all(|seen| seen.done));
    let sent: u64 = upstream.log().iter().map(|seen| seen.sent).sum();
    assert!(sent < content.size / 2, "the upstream sent {sent} bytes again");
}

#[test]
fn a_private_image_is_pulled_by_tag_and_digest_by_permitted_users() {
    let upstream = registry(401);
    let cache = Server::options(&upstream).cores(2).start();
    let image = Image::small(&upstream, "private/both", "v1", fresh_seed());
    let all = |authorization: &dyn Fn() -> String| {
        for reference in ["v1", &image.digest] {
            for method in ["HEAD", "GET"] {
                let got = ask(
                    &cache,
                    method,
                    &upstream.manifest_url("private/both", reference),
                    &authorization(),
                    &[],
                );
                assert_eq!(got.status, 200, "{got}");
                assert_eq!(got.field("docker-content-digest"), Some(image.digest.as_str()));
                assert_eq!(got.content_length(), Some(image.manifest.len() as u64));
                expect_private(&got);
                if method == "GET" {
                    got.expect(&image.manifest);
                }
            }
        }
        for (digest, content) in &image.blobs {
            let got = get(
                &cache,
                &upstream.blob_url("private/both", digest),
                &authorization(),
            );
            got.expect(&content.bytes());
            expect_private(&got);
        }
    };
    all(&|| login("alice"));
    for (digest, _) in &image.blobs {
        cache.wait_stored(digest);
    }
    let manifest = disk::manifest_path(cache.root(), &upstream.name(), "private/both", &image.digest);
    eventually("the manifest is stored", || manifest.exists());
    let before =
        upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET" && seen.status == 200);
    all(&|| login("alice"));
    all(&|| login("bob"));
    all(&|| upstream.token_of("bob", "private/both"));
    let after =
        upstream.count(|seen| seen.kind == Kind::Manifest && seen.method == "GET" && seen.status == 200);
    assert_eq!(after, before, "the cache checks access to a manifest with HEAD");
    for (digest, _) in &image.blobs {
        assert_eq!(bodies(&upstream, digest), 1);
    }
    for authorization in ["", &login("carol"), &basic("alice", "guessed"), "Bearer guessed"] {
        expect_nothing_known(
            &cache,
            &|d| upstream.manifest_url("private/both", d),
            &image.digest,
            authorization,
        );
        let tag = get(
            &cache,
            &upstream.manifest_url("private/both", "v1"),
            authorization,
        );
        expect_refused(&tag);
        let missing = get(
            &cache,
            &upstream.manifest_url("private/both", "v0"),
            authorization,
        );
        assert_eq!(look(&tag, "v1"), look(&missing, "v0"));
        for (digest, _) in &image.blobs {
            expect_nothing_known(
                &cache,
                &|d| upstream.blob_url("private/both", d),
                digest,
                authorization,
            );
        }
    }
}

#[test]
fn blob_access_is_checked_for_each_repository() {
    for hidden in [401, 403, 404] {
        let upstream = registry(hidden);
        let cache = Server::start(&upstream);
        let content = PseudoRandom::new(fresh_seed(), 120_000);
        let digest = upstream.blob_in("private/alice", content.clone());
        let at = |repository: &str| upstream.blob_url(repository, &digest);
        get(&cache, &at("private/alice"), &login("alice")).expect(&content.bytes());
        cache.wait_stored(&digest);
        // The upstream granted both users access to other content in the other repositories.
        for (user, repository) in [
            ("bob", "private/bob"),
            ("bob", "private/both"),
            ("alice", "private/both"),
        ] {
            let other = PseudoRandom::new(fresh_seed(), 500);
            let path = upstream.blob_url(repository, &upstream.blob_in(repository, other.clone()));
            get(&cache, &path, &login(user)).expect(&other.bytes());
        }
        // Alice may read the blob here, and Bob may read the other repository. Neither gives Bob
        // access to the blob there.
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("private/bob", d),
            &digest,
            &login("bob"),
        );
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("private/both", d),
            &digest,
            &login("bob"),
        );
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("private/both", d),
            &digest,
            &login("alice"),
        );
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("public/one", d),
            &digest,
            &login("bob"),
        );
        expect_nothing_known(&cache, &|d| upstream.blob_url("public/one", d), &digest, "");
        // After the blob is added to the repository, Bob may read the blob. The upstream does not
        // send the content again.
        upstream.mount("private/both", &digest);
        eventually("the cached denial expires", || {
            get(&cache, &at("private/both"), &login("bob")).status == 200
        });
        get(&cache, &at("private/both"), &login("bob")).expect(&content.bytes());
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("private/bob", d),
            &digest,
            &login("bob"),
        );
        // After the blob becomes public, every client may read the blob.
        upstream.mount("public/one", &digest);
        eventually("the cached denial expires", || {
            get(&cache, &at("public/one"), "").status == 200
        });
        get(&cache, &at("public/one"), "").expect(&content.bytes());
        assert_eq!(bodies(&upstream, &digest), 1, "{hidden}");
    }
}

#[test]
fn public_content_stays_public_if_first_requested_with_credentials() {
    let upstream = registry(403);
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "public/one", "v1", fresh_seed());
    for authorization in [
        login("alice"),
        upstream.token_of("alice", "public/one"),
        basic("alice", "guessed"),
        String::new(),
    ] {
        for reference in ["v1", &image.digest] {
            let got = get(
                &cache,
                &upstream.manifest_url("public/one", reference),
                &authorization,
            );
            got.expect(&image.manifest);
            assert!(
                got.field("cache-control").unwrap_or_default().contains("public"),
                "{got}"
            );
        }
        for (digest, content) in &image.blobs {
            let got = get(&cache, &upstream.blob_url("public/one", digest), &authorization);
            got.expect(&content.bytes());
            assert!(
                got.field("cache-control").unwrap_or_default().contains("public"),
                "{got}"
            );
            cache.wait_stored(digest);
        }
    }
    for (digest, _) in &image.blobs {
        assert_eq!(bodies(&upstream, digest), 1);
    }
    for seen in upstream.log() {
        for user in ["alice", "bob", "carol"] {
            assert!(
                !seen.holds(&login(user)),
                "no registry returned a challenge, but a request has credentials: {seen:#?}"
            );
        }
    }
}

#[test]
fn a_private_fill_is_shared_with_permitted_clients_and_hidden_from_others() {
    let upstream = registry(403);
    let cache = Server::options(&upstream).cores(2).start();
    let content = PseudoRandom::new(fresh_seed(), 4_000_000);
    let digest = upstream.blob_in("private/alice", content.clone());
    let path = upstream.blob_url("private/alice", &digest);
    let gate = Gate::new();
    upstream.on(
        On::path(&digest).get().range(false),
        Reply::new().hold_at(2_000_000, &gate),
    );
    std::thread::scope(|scope| {
        let pull = |authorization: String| {
            let (cache, path, content) = (&cache, &path, &content);
            move || {
                let fields = [("Authorization", authorization.as_str())];
                let got = cache.client().try_pull(path, &fields, content, 0).expect("whole");
                assert_eq!((got.status, got.received), (200, content.size));
                expect_private(&got);
            }
        };
        let alice = scope.spawn(pull(login("alice")));
        gate.wait_arrived(1);
        for authorization in ["", &login("bob"), &basic("alice", "guessed")] {
            expect_nothing_known(
                &cache,
                &|d| upstream.blob_url("private/alice", d),
                &digest,
                authorization,
            );
        }
        expect_nothing_known(&cache, &|d| upstream.blob_url("public/one", d), &digest, "");
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("private/both", d),
            &digest,
            &login("alice"),
        );
        expect_nothing_known(
            &cache,
            &|d| upstream.blob_url("private/bob", d),
            &digest,
            &login("bob"),
        );
        let head = ask(&cache, "HEAD", &path, &login("carol"), &[]);
        assert_eq!((head.status, head.content_length()), (200, Some(content.size)));
        // The last byte of a range waits for the digest check, like the last byte of a complete
        // response.
        let range = scope.spawn(|| {
            let range = [("Range", "bytes=1000-1999")];
            ask(&cache, "GET", &path, &login("carol"), &range)
        });
        let others = [
            scope.spawn(pull(login("carol"))),
            scope.spawn(pull(upstream.token_of("alice", "private/alice"))),
        ];
        gate.open();
        alice.join().unwrap();
        for other in others {
            other.join().unwrap();
        }
        let range = range.join().unwrap();
        assert_eq!(
            (range.status, range.body.as_slice()),
            (206, &content.bytes()[1000..2000]),
            "{range}"
        );
        expect_private(&range);
    });
    assert_eq!(bodies(&upstream, &digest), 1, "{:#?}", upstream.log());
}

#[test]
fn public_request_contacts_the_upstream_during_a_private_fill_of_the_same_blob() {
    let upstream = registry(403);
    let cache = Server::options(&upstream).cores(2).start();
    let content = PseudoRandom::new(fresh_seed(), 4_000_000);
    let digest = upstream.blob_in("private/alice", content.clone());
    upstream.mount("public/one", &digest);
    let gate = Gate::new();
    upstream.on(
        On::path(format!("private/alice/blobs/{digest}"))
            .get()
            .range(false),
        Reply::new().hold_at(3_000_000, &gate),
    );
    std::thread::scope(|scope| {
        let alice = scope.spawn(|| {
            let path = upstream.blob_url("private/alice", &digest);
            let mine = login("alice");
            cache
                .client()
                .try_pull(&path, &[("Authorization", &mine)], &content, 0)
                .expect("whole")
        });
        gate.wait_arrived(1);
        let public = scope.spawn(|| {
            cache
                .client()
                .pull(&upstream.blob_url("public/one", &digest), &content)
        });
        upstream.wait_until("a request without credentials arrives", |log| {
            log.iter().any(|seen| seen.target.contains("public/one"))
        });
        gate.open();
        assert_eq!(alice.join().unwrap().received, content.size);
        public.join().unwrap();
    });
    cache
        .client()
        .pull(&upstream.blob_url("public/one", &digest), &content);
}

#[test]
fn private_content_stays_private_after_a_restart() {
    let upstream = registry(403);
    let mut cache = Server::start(&upstream);
    let image = Image::small(&upstream, "private/alice", "v1", fresh_seed());
    let pull = |cache: &Server, user: &str| {
        for reference in ["v1", &image.digest] {
            get(
                cache,
                &upstream.manifest_url("private/alice", reference),
                &login(user),
            )
            .expect(&image.manifest);
        }
        for (digest, content) in &image.blobs {
            get(cache, &upstream.blob_url("private/alice", digest), &login(user)).expect(&content.bytes());
            cache.wait_stored(digest);
        }
    };
    pull(&cache, "alice");
    let manifest = disk::manifest_path(cache.root(), &upstream.name(), "private/alice", &image.digest);
    eventually("the manifest is stored", || manifest.exists());
    cache.stop();
    cache.restart();
    for authorization in ["", &login("bob")] {
        expect_nothing_known(
            &cache,
            &|d| upstream.manifest_url("private/alice", d),
            &image.digest,
            authorization,
        );
        expect_refused(&get(
            &cache,
            &upstream.manifest_url("private/alice", "v1"),
            authorization,
        ));
        for (digest, _) in &image.blobs {
            expect_nothing_known(
                &cache,
                &|d| upstream.blob_url("private/alice", d),
                digest,
                authorization,
            );
        }
    }
    pull(&cache, "carol");
    for (digest, _) in &image.blobs {
        assert_eq!(bodies(&upstream, digest), 1, "the upstream sends the blob once");
    }
    for canary in [
        "canary",
        &login("alice")["Basic ".len()..],
        &login("carol")["Basic ".len()..],
    ] {
        assert!(
            !disk::contains(cache.root(), canary),
            "the store contains {canary}"
        );
        assert!(!cache.stderr().contains(canary), "the log contains {canary}");
    }
}

#[test]
fn revoked_user_is_denied_immediately_with_an_unused_credential() {
    let upstream = registry(403);
    let cache = Server::start(&upstream);
    let image = Image::small(&upstream, "private/both", "v1", fresh_seed());
    let unused = upstream.token_of("alice", "private/both");
    let path = upstream.manifest_url("private/both", "v1");
    get(&cache, &path, &login("alice")).expect(&image.manifest);
    let (digest, content) = &image.blobs[1];
    let blob = upstream.blob_url("private/both", digest);
    get(&cache, &blob, &login("alice")).expect(&content.bytes());
    cache.wait_stored(digest);
    upstream.revoke("alice", "private/both");
    expect_nothing_known(&cache, &|d| upstream.blob_url("private/both", d), digest, &unused);
    expect_nothing_known(
        &cache,
        &|d| upstream.manifest_url("private/both", d),
        &image.digest,
        &unused,
    );
    expect_refused(&get(&cache, &path, &unused));
    // A right that was revoked and granted again is effective within seconds.
    upstream.allow("alice", "private/both");
    eventually("the cached denial expires", || {
        get(&cache, &blob, &unused).status == 200
    });
    get(&cache, &blob, &unused).expect(&content.bytes());
    // Bob never lost the right.
    get(&cache, &blob, &login("bob")).expect(&content.bytes());
}

#[test]
#[ignore = "waits 65 s until a cached permission expires"]
fn revoked_user_is_denied_when_the_remembered_permission_expires() {
    let upstream = registry(403);
    let cache = Server::options(&upstream).env("TAG_TTL", "10m").start();
    let image = Image::small(&upstream, "private/both", "v1", fresh_seed());
    let (digest, content) = &image.blobs[1];
    let blob = upstream.blob_url("private/both", digest);
    for user in ["alice", "bob"] {
        for reference in ["v1", &image.digest] {
            get(
                &cache,
                &upstream.manifest_url("private/both", reference),
                &login(user),
            )
            .expect(&image.manifest);
        }
        get(&cache, &blob, &login(user)).expect(&content.bytes());
    }
    cache.wait_stored(digest);
    upstream.revoke("alice", "private/both");
    std::thread::sleep(std::time::Duration::from_secs(65));
    expect_nothing_known(
        &cache,
        &|d| upstream.blob_url("private/both", d),
        digest,
        &login("alice"),
    );
    expect_nothing_known(
        &cache,
        &|d| upstream.manifest_url("private/both", d),
        &image.digest,
        &login("alice"),
    );
    expect_refused(&get(
        &cache,
        &upstream.manifest_url("private/both", "v1"),
        &login("alice"),
    ));
    get(&cache, &blob, &login("bob")).expect(&content.bytes());
}

#[test]
fn tag_made_private_upstream_is_denied_after_its_ttl() {
    let upstream = registry(403);
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let image = Image::small(&upstream, "public/one", "v1", fresh_seed());
    let path = upstream.manifest_url("public/one", "v1");
    cache.client().get(&path).expect(&image.manifest);
    upstream.revoke_anybody("public/one");
    let got = cache.client().get(&path);
    expect_refused(&got);
}

#[test]
fn clients_without_a_remembered_permission_are_denied_while_upstream_is_down() {
    let upstream = registry(403);
    let cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 50_000);
    let digest = upstream.blob_in("private/alice", content.clone());
    let path = upstream.blob_url("private/alice", &digest);
    get(&cache, &path, &login("alice")).expect(&content.bytes());
    cache.wait_stored(&digest);
    upstream.down();
    for authorization in ["", &login("carol"), &login("bob"), &basic("alice", "guessed")] {
        let got = get(&cache, &path, authorization);
        assert!(matches!(got.status, 401 | 403 | 404 | 500..=504), "{got}");
        assert!(got.received < 4_000, "{got}");
    }
    upstream.up();
    eventually("the upstream permits access again", || {
        get(&cache, &path, &login("carol")).status == 200
    });
    get(&cache, &path, &login("carol")).expect(&content.bytes());
    expect_nothing_known(
        &cache,
        &|d| upstream.blob_url("private/alice", d),
        &digest,
        &login("bob"),
    );
}

#[test]
fn permission_of_one_registry_does_not_apply_to_another() {
    let (one, two) = (registry(403), registry(403));
    two.revoke("alice", "private/alice");
    let cache = Server::options(&one).registry(two.name(), two.addr()).start();
    let content = PseudoRandom::new(fresh_seed(), 50_000);
    let digest = one.blob_in("private/alice", content.clone());
    two.blob_in("private/alice", content.clone());
    get(&cache, &one.blob_url("private/alice", &digest), &login("alice")).expect(&content.bytes());
    cache.wait_stored(&digest);
    expect_nothing_known(
        &cache,
        &|d| two.blob_url("private/alice", d),
        &digest,
        &login("alice"),
    );
    get(&cache, &two.blob_url("private/alice", &digest), &login("carol")).expect(&content.bytes());
    // The other registry has delivered the content.
    assert_eq!((bodies(&one, &digest), bodies(&two, &digest)), (1, 1));
}

/// Creates a registry that confirms every request for `digest` without having the content.
fn wrong_upstream(digest: &str, size: u64) -> Registry {
    let wrong_upstream = Registry::new();
    let permitted = |reply: Reply| {
        reply
            .set("Docker-Content-Digest", digest)
            .set("Accept-Ranges", "bytes")
            .set("Content-Type", "application/octet-stream")
    };
    wrong_upstream.on(
        On::path(digest).range(true),
        permitted(Reply::status(206).body("x")).set("Content-Range", format!("bytes 0-0/{size}")),
    );
    wrong_upstream.on(On::path(digest), permitted(Reply::status(200).body("x")));
    wrong_upstream
}

#[test]
fn a_lying_registry_gives_no_access_to_content_of_another() {
    let upstream = registry(403);
    let content = PseudoRandom::new(fresh_seed(), 4_000_000);
    let digest = upstream.blob_in("private/alice", content.clone());
    let wrong_upstream = wrong_upstream(&digest, content.size);
    let cache = Server::options(&upstream)
        .registry(wrong_upstream.name(), wrong_upstream.addr())
        .cores(2)
        .start();
    let gate = Gate::new();
    upstream.on(
        On::path(&digest).get().range(false),
        Reply::new().hold_at(2_000_000, &gate),
    );
    let path = upstream.blob_url("private/alice", &digest);
    // Any client can run a registry. A registry's answers must therefore count only for its own
    // content.
    let nothing_is_opened = || {
        for authorization in ["", &login("bob")] {
            for more in [&[][..], &[("Range", "bytes=0-99")]] {
                for method in ["GET", "HEAD"] {
                    let mut fields = more.to_vec();
                    fields.extend((!authorization.is_empty()).then_some(("Authorization", authorization)));
                    let path = wrong_upstream.blob_url("any/thing", &digest);
                    if let Ok(got) = cache.client().try_request(method, &path, &fields) {
                        let begin = &content.bytes()[..got.body.len().min(100)];
                        assert!(
                            got.body.is_empty() || got.body[..begin.len()] != *begin,
                            "{method} {more:?}: {got}"
                        );
                        assert_ne!(
                            got.content_length(),
                            Some(content.size),
                            "{method} {more:?}: {got}"
                        );
                    }
                }
            }
            expect_nothing_known(
                &cache,
                &|d| upstream.blob_url("private/alice", d),
                &digest,
                authorization,
            );
        }
    };
    std::thread::scope(|scope| {
        let alice = scope.spawn(|| {
            let mine = login("alice");
            cache
                .client()
                .try_pull(&path, &[("Authorization", &mine)], &content, 0)
                .expect("whole")
        });
        gate.wait_arrived(1);
        // The gate opens after any result. Otherwise a failure would wait for the timeout.
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(nothing_is_opened));
        gate.open();
        assert_eq!(alice.join().unwrap().received, content.size);
        found.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    cache.wait_stored(&digest);
    nothing_is_opened();
    get(&cache, &path, &login("carol")).expect(&content.bytes());
}

#[test]
fn a_registry_that_stalls_does_not_hold_up_another() {
    let (complete, stalling) = (Registry::new(), Registry::new());
    let content = PseudoRandom::new(fresh_seed(), 4_000_000);
    let digest = complete.blob(content.clone());
    stalling.blob(content.clone());
    let gate = Gate::new();
    stalling.on(On::path(&digest), Reply::new().hold_at(2_000_000, &gate));
    let cache = Server::options(&complete)
        .registry(stalling.name(), stalling.addr())
        .cores(2)
        .start();
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            cache
                .client()
                .try_pull(&stalling.blob_url("a", &digest), &[], &content, 0)
        });
        gate.wait_arrived(1);
        let started = std::time::Instant::now();
        let got = cache
            .client()
            .try_pull(&complete.blob_url("a", &digest), &[], &content, 0);
        let took = started.elapsed();
        gate.open();
        let _ = slow.join();
        let got = got.expect("whole");
        assert_eq!((got.status, got.received), (200, content.size));
        assert!(
            took < std::time::Duration::from_secs(45),
            "the response took {took:?}"
        );
    });
}

#[test]
fn content_private_at_one_registry_is_served_if_public_at_another() {
    let (one, two) = (registry(403), Registry::new());
    let content = PseudoRandom::new(fresh_seed(), 200_000);
    let digest = one.blob_in("private/alice", content.clone());
    two.blob(content.clone());
    let cache = Server::options(&one).registry(two.name(), two.addr()).start();
    get(&cache, &one.blob_url("private/alice", &digest), &login("alice")).expect(&content.bytes());
    cache.wait_stored(&digest);
    expect_nothing_known(&cache, &|d| one.blob_url("private/alice", d), &digest, "");
    get(&cache, &two.blob_url("any/thing", &digest), "").expect(&content.bytes());
    // The content is public now, because anonymous clients can read the content.
    get(&cache, &two.blob_url("any/thing", &digest), "").expect(&content.bytes());
}

// === Content shared by configuration ===

#[test]
fn shared_access_serves_private_content_to_all_clients() {
    let upstream = registry(403);
    let image = Image::small(&upstream, "private/alice", "v1", fresh_seed());
    let keys = "auth: {username: alice, password: canary-alice}, access: shared";
    let cache = Server::bare()
        .registry_with("private.test", upstream.addr(), keys)
        .start();
    for authorization in ["", &login("bob")] {
        for reference in ["v1", &image.digest] {
            let path = format!("/v2/private.test/private/alice/manifests/{reference}");
            let got = get(&cache, &path, authorization);
            got.expect(&image.manifest);
            expect_private(&got);
        }
        for (digest, content) in &image.blobs {
            let got = get(
                &cache,
                &format!("/v2/private.test/private/alice/blobs/{digest}"),
                authorization,
            );
            got.expect(&content.bytes());
            expect_private(&got);
            cache.wait_stored(digest);
        }
    }
    for (digest, _) in &image.blobs {
        assert_eq!(bodies(&upstream, digest), 1);
    }
    assert!(
        upstream.saw(&login("bob")).is_empty(),
        "the upstream receives no credentials of clients"
    );
}

#[test]
fn verify_access_denies_clients_without_their_own_permission() {
    let upstream = registry(403);
    let content = PseudoRandom::new(fresh_seed(), 50_000);
    let digest = upstream.blob_in("private/alice", content.clone());
    let keys = "auth: {username: alice, password: canary-alice}, access: verify";
    let cache = Server::bare()
        .registry_with("private.test", upstream.addr(), keys)
        .start();
    let path_of = |digest: &str| format!("/v2/private.test/private/alice/blobs/{digest}");
    expect_nothing_known(&cache, &path_of, &digest, "");
    expect_nothing_known(&cache, &path_of, &digest, &login("bob"));
    get(&cache, &path_of(&digest), &login("carol")).expect(&content.bytes());
    cache.wait_stored(&digest);
    expect_nothing_known(&cache, &path_of, &digest, "");
    expect_nothing_known(&cache, &path_of, &digest, &login("bob"));
}

#[test]
fn passthrough_access_does_not_store_private_content() {
    let upstream = registry(403);
    let content = PseudoRandom::new(fresh_seed(), 50_000);
    let digest = upstream.blob_in("private/alice", content.clone());
    let cache = Server::bare()
        .registry_with("private.test", upstream.addr(), "access: passthrough")
        .start();
    let path_of = |digest: &str| format!("/v2/private.test/private/alice/blobs/{digest}");
    for _ in 0..3 {
        let got = get(&cache, &path_of(&digest), &login("alice"));
        got.expect(&content.bytes());
        expect_private(&got);
    }
    assert_eq!(bodies(&upstream, &digest), 3);
    assert!(!disk::is_stored(cache.root(), &digest));
    expect_nothing_known(&cache, &path_of, &digest, "");
}

// === Random requests ===

/// Content in the registry and its repositories.
struct Thing {
    what: What,
    content: Vec<u8>,
    repositories: HashSet<&'static str>,
}

#[derive(Debug)]
enum What {
    Blob(String),
    Manifest(String),
    Tag(String),
}

const REPOSITORIES: [&str; 7] = [
    "public/one",
    "public/two",
    "private/alice",
    "private/bob",
    "private/carol",
    "private/both",
    "private/none",
];

/// Whether `user` may read `repository`, as configured by [`registry`].
fn may(user: &str, repository: &str) -> bool {
    repository.starts_with("public/")
        || matches!(
            (user, repository),
            ("alice", "private/alice" | "private/both")
                | ("bob", "private/bob" | "private/both")
                | ("carol", "private/carol" | "private/alice")
        )
}

/// Fills the registry with blobs and manifests in one or several repositories, and tags with
/// different content in each.
fn things(upstream: &Registry, random: &mut Random) -> Vec<Thing> {
    let mut things = Vec::new();
    for n in 0..40 {
        let mut repositories = HashSet::from([*random.pick(&REPOSITORIES)]);
        while random.chance(2) {
            repositories.insert(*random.pick(&REPOSITORIES));
        }
        let sizes = [10, 900, 5_000, 70_000, 300_000, 1_500_000];
        let size = *random.pick(&sizes);
        let content = PseudoRandom::new(random.next(), size);
        let digest = content.digest();
        let bytes = content.bytes();
        for repository in &repositories {
            upstream.blob_in(repository, content.clone());
        }
        things.push(Thing {
            what: What::Blob(digest.clone()),
            content: bytes,
            repositories: repositories.clone(),
        });
        if n % 2 == 0 {
            let json = format!(
                r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{digest}","size":{size}}},"layers":[],"annotations":{{"n":"{}"}}}}"#,
                Flavor::Oci.manifest(),
                random.next()
            );
            let mut digest = String::new();
            for repository in &repositories {
                digest = upstream.manifest(repository, Flavor::Oci.manifest(), json.clone().into_bytes());
                upstream.tag(repository, &format!("t{n}"), &digest);
            }
            things.push(Thing {
                what: What::Manifest(digest),
                content: json.clone().into_bytes(),
                repositories: repositories.clone(),
            });
            things.push(Thing {
                what: What::Tag(format!("t{n}")),
                content: json.into_bytes(),
                repositories,
            });
        }
    }
    things
}

/// A client: a user and a kind of credentials.
struct Caller {
    user: &'static str,
    says: Says,
}

#[derive(Clone, Copy)]
enum Says {
    Nothing,
    Guesses(&'static str),
    Password,
    Token,
}

impl Caller {
    /// Returns the `Authorization` for `repository`. A token is valid for a single repository.
    fn authorization(&self, upstream: &Registry, repository: &str) -> String {
        match self.says {
            Says::Nothing => String::new(),
            Says::Guesses(text) => text.into(),
            Says::Password => login(self.user),
            Says::Token => upstream.token_of(self.user, repository),
        }
    }
}

const CALLERS: [Caller; 9] = {
    const fn caller(user: &'static str, says: Says) -> Caller {
        Caller { user, says }
    }
    [
        caller("", Says::Nothing),
        // `alice:guessed`.
        caller("", Says::Guesses("Basic YWxpY2U6Z3Vlc3NlZA==")),
        caller("", Says::Guesses("Bearer guessed")),
        caller("alice", Says::Password),
        caller("alice", Says::Token),
        caller("bob", Says::Password),
        caller("bob", Says::Token),
        caller("carol", Says::Password),
        caller("carol", Says::Token),
    ]
};

#[test]
fn thousands_of_requests_are_answered_as_the_upstream_would() {
    const THREADS: usize = 4;
    const REQUESTS: usize = 2_500;
    let mut random = Random::for_test("thousands_of_requests_are_answered_as_the_upstream_would");
    let hidden = *random.pick(&[401, 403, 404]);
    let upstream = registry(hidden);
    let things = things(&upstream, &mut random);
    let authorizations: Vec<Vec<String>> = CALLERS
        .iter()
        .map(|caller| {
            REPOSITORIES
                .map(|name| caller.authorization(&upstream, name))
                .into()
        })
        .collect();
    let cache = Server::options(&upstream).cores(2).start();
    let seeds: Vec<u64> = (0..THREADS).map(|_| random.next()).collect();
    let asked = std::thread::scope(|scope| {
        let threads: Vec<_> = seeds
            .into_iter()
            .map(|seed| {
                let (upstream, cache, things) = (&upstream, &cache, &things);
                let authorizations = &authorizations;
                scope.spawn(move || {
                    let mut random = Random::new(seed);
                    let mut asked = HashSet::new();
                    for _ in 0..REQUESTS {
                        let caller = random.below(CALLERS.len() as u64) as usize;
                        let repository = random.below(REPOSITORIES.len() as u64) as usize;
                        let authorization = &authorizations[caller][repository];
                        let op = Operation {
                            user: CALLERS[caller].user,
                            authorization,
                            repository: REPOSITORIES[repository],
                            thing: random.pick(things),
                        };
                        asked.insert((authorization.clone(), op.repository));
                        op.perform(upstream, cache, things, &mut random);
                    }
                    asked
                })
            })
            .collect();
        let mut all = HashSet::new();
        for thread in threads {
            all.extend(thread.join().expect("no client received content"));
        }
        all
    });

    let log = upstream.log();
    let ours: HashSet<&String> = authorizations.iter().flatten().collect();
    for seen in &log {
        let Some(given) = seen.field("authorization").map(str::to_owned) else {
            continue;
        };
        if !ours.contains(&given) {
            assert!(
                given.starts_with("Bearer "),
                "the cache does not send its own token: {seen:#?}"
            );
            continue;
        }
        // Each credential is used only for requests of its owner, and the token service receives no tokens.
        let target = seen.target.replace("%3A", ":").replace("%2F", "/");
        let used = REPOSITORIES.iter().any(|repository| {
            let about_it = match seen.kind {
                Kind::Token => {
                    given.starts_with("Basic ")
                        && target.ends_with(&format!("&scope=repository:{repository}:pull"))
                }
                _ => target.starts_with(&format!("/v2/{repository}/")),
            };
            about_it && asked.contains(&(given.clone(), *repository))
        });
        assert!(used, "{seen:#?}");
    }
    for thing in &things {
        let What::Blob(digest) = &thing.what else { continue };
        let transfers = log
            .iter()
            .filter(|seen| is_body(seen) && seen.target.contains(digest.as_str()))
            .count();
        // Content with public and private locations may be fetched concurrently in both ways.
        let public = thing.repositories.iter().any(|repository| may("", repository));
        assert!(
            transfers <= if public { 2 } else { 1 },
            "the upstream sent {digest} {transfers} times"
        );
    }
    for canary in ["canary", &login("alice")["Basic ".len()..], "guessed"] {
        assert!(
            !disk::contains(cache.root(), canary),
            "the store contains {canary}"
        );
        assert!(!cache.stderr().contains(canary), "the log contains {canary}");
    }
    cache.settled_store().expect_clean();
}

/// A request of the random test.
struct Operation<'a> {
    user: &'static str,
    authorization: &'a str,
    repository: &'static str,
    thing: &'a Thing,
}

impl Operation<'_> {
    fn perform(&self, upstream: &Registry, cache: &Server, things: &[Thing], random: &mut Random) {
        let path_of = |reference: &str| match self.thing.what {
            What::Blob(_) => upstream.blob_url(self.repository, reference),
            _ => upstream.manifest_url(self.repository, reference),
        };
        let reference = match &self.thing.what {
            What::Blob(reference) | What::Manifest(reference) | What::Tag(reference) => reference,
        };
        let content = &self.thing.content;
        let (from, to) = {
            let a = random.below(content.len() as u64);
            let b = random.below(content.len() as u64);
            (a.min(b), a.max(b))
        };
        let range = format!("bytes={from}-{to}");
        let etag = format!("\"{reference}\"");
        let (method, more) = match random.below(10) {
            0..5 => ("GET", vec![]),
            5..7 => ("HEAD", vec![]),
            7..9 => ("GET", vec![("Range", range.as_str())]),
            _ => ("GET", vec![("If-None-Match", etag.as_str())]),
        };
        let got = ask(cache, method, &path_of(reference), self.authorization, &more);
        let context = || {
            format!(
                "{:?} in {}, {method} {more:?} by {:?} with {:?}: {got}",
                self.thing.what, self.repository, self.user, self.authorization
            )
        };

        let here = self.thing.repositories.contains(self.repository);
        let allowed = here && may(self.user, self.repository);
        // A tag is defined only in its repository.
        let is_tag = matches!(self.thing.what, What::Tag(_));
        let public = self.thing.repositories.iter().any(|name| may("", name)) && !is_tag;
        if got.status < 400 {
            assert!(allowed || public, "{}", context());
            let is_manifest = !matches!(self.thing.what, What::Blob(_));
            match (got.status, more.first()) {
                (206, Some(("Range", _))) => {
                    assert!(!is_manifest, "{}", context());
                    assert!(got.body == content[from as usize..=to as usize], "{}", context());
                }
                (304, Some(("If-None-Match", _))) => assert!(!is_tag && got.body.is_empty(), "{}", context()),
                (200, None | Some(("If-None-Match", _))) if method == "GET" => {
                    assert!(got.body == *content, "{}", context());
                }
                (200, Some(("Range", _))) => assert!(got.body == *content, "{}", context()),
                (200, None) => {
                    assert_eq!(got.content_length(), Some(content.len() as u64), "{}", context());
                }
                _ => panic!("{}", context()),
            }
            if !public && !may("", self.repository) {
                expect_private(&got);
            }
            return;
        }
        assert!(!allowed, "{}", context());
        assert!(matches!(got.status, 401 | 403 | 404), "{}", context());
        assert!(got.received < 4_000, "{}", context());
        if random.chance(3) {
            let missing = if is_tag {
                format!("t{}", 100 + random.below(900))
            } else {
                nowhere()
            };
            assert!(
                !things
                    .iter()
                    .any(|thing| matches!(&thing.what, What::Tag(tag) if *tag == missing))
            );
            let unknown = ask(cache, method, &path_of(&missing), self.authorization, &more);
            // A missing tag with a name of another length may change the code of a 404, so only the
            // status is compared.
            if !is_tag {
                assert_eq!(look(&got, reference), look(&unknown, &missing), "{}", context());
            }
            assert_eq!(got.status, unknown.status, "{}", context());
        }
    }
}
