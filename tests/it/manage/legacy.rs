//! The commands of ociregistry on the data port.

use super::{pull, run};
use crate::harness::disk::bytes_on_disk;
use crate::harness::h2::Peer;
use crate::harness::image::Flavor;
use crate::harness::*;

/// `alice:open sesame`.
const ALICE: (&str, &str) = ("Authorization", "Basic YWxpY2U6b3BlbiBzZXNhbWU=");

fn options(upstream: &Registry) -> server::Options {
    Server::options(upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("AUTH_USERNAME", "alice")
        .env("AUTH_PASSWORD", "open sesame")
}

/// A cache with the commands, and with the images `v1` and `v2` of `org/app`, which share a layer.
fn cache(upstream: &Registry) -> (Server, [Image; 2]) {
    let cache = options(upstream).env("LEGACY_ADMIN", "true").start();
    cache.wait_stderr("store scanned");
    let seed = fresh_seed();
    let layer = |n: u64| Content::from(PseudoRandom::new(seed + n, 30_000));
    let images = [1, 2].map(|n| {
        let tag = format!("v{n}");
        let image = Image::push(upstream, "org/app", &tag, Flavor::Oci, &[layer(0), layer(n)]);
        let paths = std::iter::once((upstream.manifest_url("org/app", &tag), image.digest.clone()));
        let blobs = image.blobs.iter();
        let blobs = blobs.map(|(digest, _)| (upstream.blob_url("org/app", digest), digest.clone()));
        for (path, digest) in paths.chain(blobs) {
            assert_eq!(cache.client().get_with(&path, &[ALICE]).status, 200, "{path}");
            cache.wait_stored(&digest);
        }
        image
    });
    cache.settled_store();
    eventually("both tags are stored", || {
        let output = run(&cache, &["list", "--output", "name"]);
        String::from_utf8_lossy(&output.stdout).matches(":v").count() == 2
    });
    (cache, images)
}

#[track_caller]
fn command(cache: &Server, method: &str, target: &str) -> (u16, String) {
    let got = cache
        .client()
        .request(method, &format!("/cmd/{target}"), &[ALICE]);
    assert_eq!(got.field("content-type"), Some("text/plain"), "{target}: {got}");
    (
        got.status,
        String::from_utf8(got.body).expect("the response is text"),
    )
}

#[track_caller]
fn lines(cache: &Server, target: &str) -> Vec<String> {
    let (status, text) = command(cache, "GET", target);
    assert_eq!(status, 200, "{target}: {text}");
    text.lines().map(str::to_owned).collect()
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").expect("a digest")
}

#[test]
fn lists_have_the_columns_of_ociregistry_over_both_versions_of_http() {
    let upstream = Registry::new();
    let (cache, images) = cache(&upstream);
    let name = format!("{}/org/app", upstream.name());
    let listed = lines(&cache, "image/list");
    assert_eq!(listed[0], "URL DIGEST CREATED PULLED");
    assert_eq!(listed.len(), 3 + 2 * images[0].blobs.len(), "{listed:?}");
    for (tag, image) in ["v1", "v2"].iter().zip(&images) {
        let begin = format!("{name}:{tag} {}  20", hex(&image.digest));
        let place = listed.iter().position(|line| line.starts_with(&begin));
        let place = place.unwrap_or_else(|| panic!("{begin}: {listed:?}"));
        let mut blobs: Vec<String> = image
            .blobs
            .iter()
            .map(|(digest, _)| format!("- {digest}"))
            .collect();
        let mut found = listed[place + 1..][..blobs.len()].to_vec();
        blobs.sort();
        found.sort();
        assert_eq!(found, blobs);
    }
    let manifests = lines(&cache, "manifest/list?pattern=app:v2");
    assert_eq!(manifests.len(), 2, "{manifests:?}");
    assert!(manifests[1].starts_with(&format!("{name}:v2 ")), "{manifests:?}");

    let shared = |digest: &str| {
        images
            .iter()
            .all(|image| image.blobs.iter().any(|(own, _)| own == digest))
    };
    let mut expected: Vec<String> = Vec::new();
    for (digest, _) in images.iter().flat_map(|image| &image.blobs) {
        let count = if shared(digest) { 2 } else { 1 };
        expected.push(format!("{} {count}", hex(digest)));
    }
    expected.sort();
    expected.dedup();
    let blobs = lines(&cache, "blob/list");
    assert_eq!(blobs[0], "URL REFCNT");
    assert_eq!(blobs[1..], expected[..]);
    assert_eq!(lines(&cache, "blob/list?count=2")[1..], expected[..2]);
    let own = images[1]
        .blobs
        .iter()
        .find(|(digest, _)| !shared(digest))
        .expect("a layer of v2");
    let named = lines(&cache, &format!("image/list?digest={}", &hex(&own.0)[..12]));
    assert!(named[1].starts_with(&format!("{name}:v2 ")), "{named:?}");

    for empty in [
        "image/list?pattern=nothing",
        "manifest/list?count=0",
        "blob/list?substr=xyz",
    ] {
        assert_eq!(
            command(&cache, "GET", empty),
            (200, "no manifests found\n".to_owned()),
            "{empty}"
        );
    }
    let invalid = (400, "invalid parameters\n".to_owned());
    assert_eq!(command(&cache, "GET", "manifest/list?pattern=("), invalid);
    assert_eq!(command(&cache, "GET", "blob/list?count=many"), invalid);

    let mut connection = Peer::begin(cache.addr());
    let stream = connection.request("GET", "/cmd/blob/list", &[("authorization", ALICE.1)]);
    let text = String::from_utf8(connection.answer(stream).body).expect("the response is text");
    assert_eq!(text.lines().collect::<Vec<_>>(), blobs);
}

#[test]
fn prune_removes_what_its_dry_run_lists_and_logs_the_change() {
    let upstream = Registry::new();
    let (cache, images) = cache(&upstream);
    let name = format!("{}/org/app", upstream.name());
    let before = bytes_on_disk(cache.root());
    for rule in [
        "prune?type=pattern&expr=app:v1",
        "prune?type=pattern&expr=app:v1&dryRun=true",
        "prune?type=accessed&dur=1h&dryRun=false",
        "prune?type=created&dur=1h&dryRun=false",
        "prune?type=pattern&expr=nothing&dryRun=false",
    ] {
        let (status, text) = command(&cache, "DELETE", rule);
        assert_eq!(status, 200, "{rule}: {text}");
        let is_selected = rule.contains("v1");
        let count = usize::from(is_selected);
        assert!(
            text.contains(&format!("count of manifests to prune: {count}\"")),
            "{rule}: {text}"
        );
        let skipped = format!("skipping prune of manifest \\\"{name}:v1\\\"");
        assert_eq!(text.contains(&skipped), is_selected, "{rule}: {text}");
    }
    assert_eq!(bytes_on_disk(cache.root()), before, "nothing is removed");
    for (rule, part) in [
        ("prune", "accessed, created or pattern"),
        ("prune?type=pattern&dryRun=false", "expr is missing"),
        ("prune?type=pattern&expr=(&dryRun=false", "regular expression"),
    ] {
        let (status, text) = command(&cache, "DELETE", rule);
        assert_eq!(status, 400, "{rule}: {text}");
        assert!(text.contains(part), "{rule}: {text}");
    }

    let mut connection = Peer::begin(cache.addr());
    let rule = "/cmd/prune?type=pattern&expr=app:v1&dryRun=false";
    let stream = connection.request("DELETE", rule, &[("authorization", ALICE.1)]);
    let answer = connection.answer(stream);
    let text = String::from_utf8(answer.body).expect("the response is text");
    assert_eq!(answer.status, 200, "{text}");
    assert!(text.contains(&format!("removed manifest: {name}:v1")), "{text}");
    assert_eq!(lines(&cache, "manifest/list").len(), 2);
    cache.wait_stderr("change completed");
    let stderr = cache.stderr();
    let is_removal = |line: &&str| line.contains("change requested") && line.contains("app:v1");
    let requested = stderr.lines().find(is_removal).expect("a line");
    for part in [
        "actor=user:alice",
        "remote=127.0.0.1",
        "action=prune",
        "expr=app:v1",
        "objects=4",
    ] {
        assert!(requested.contains(part), "{part}: {requested}");
    }
    // The other image is complete, and the removed image is fetched again.
    upstream.clear_log();
    let get = |path: String| cache.client().get_with(&path, &[ALICE]);
    for (digest, content) in &images[1].blobs {
        get(upstream.blob_url("org/app", digest)).expect(&content.bytes());
    }
    assert_eq!(upstream.count(|seen| seen.is_get("/v2/")), 0);
    get(upstream.manifest_url("org/app", "v1")).expect(&images[0].manifest);
    assert_eq!(upstream.gets("/manifests/"), 1);
}

#[test]
fn commands_need_a_login_their_method_and_no_page() {
    let upstream = Registry::new();
    let (cache, _) = cache(&upstream);
    let before = bytes_on_disk(cache.root());
    let wrong = ("Authorization", "Basic YWxpY2U6b3BlbiBzZXNhbWY=");
    let prune = "/cmd/prune?type=pattern&expr=.&dryRun=false";
    for (method, target) in [
        ("DELETE", prune),
        ("GET", "/cmd/stop"),
        ("GET", "/cmd/image/list"),
        ("GET", "/cmd/x"),
    ] {
        for fields in [&[][..], &[wrong][..]] {
            assert_eq!(
                cache.client().request(method, target, fields).status,
                401,
                "{target}"
            );
        }
        for page in [
            ("Origin", "http://evil.example"),
            ("Sec-Fetch-Site", "cross-site"),
        ] {
            let got = cache.client().request(method, target, &[ALICE, page]);
            assert_eq!(got.status, 403, "{target} {page:?}");
        }
    }
    for (method, target, status) in [
        ("GET", prune, 405),
        ("HEAD", "/cmd/stop", 405),
        ("POST", "/cmd/stop", 405),
        ("GET", "/cmd/x", 404),
        ("GET", "/cmd/", 404),
    ] {
        assert_eq!(
            cache.client().request(method, target, &[ALICE]).status,
            status,
            "{method} {target}"
        );
    }
    assert_eq!(bytes_on_disk(cache.root()), before);
    assert!(!cache.stderr().contains("change requested"));
}

#[test]
fn stop_ends_the_cache() {
    let upstream = Registry::new();
    let mut cache = options(&upstream).env("LEGACY_ADMIN", "true").start();
    assert_eq!(command(&cache, "GET", "stop"), (200, String::new()));
    let status = cache.wait_exit(PATIENCE).expect("the server ends");
    assert!(status.success(), "{status:?}");
    let stderr = cache.stderr();
    assert!(
        stderr.contains("actor=user:alice") && stderr.contains("action=stop"),
        "{stderr}"
    );
}

#[test]
fn without_the_setting_the_paths_do_not_exist() {
    let upstream = Registry::new();
    let cache = options(&upstream).start();
    for fields in [&[][..], &[ALICE][..]] {
        let client = cache.client();
        client
            .request("GET", "/cmd/stop", fields)
            .expect_error(404, "NAME_UNKNOWN");
        assert_eq!(
            client.request("DELETE", "/cmd/prune?type=pattern", fields).status,
            405
        );
    }
}

#[test]
fn setting_without_client_authentication_is_refused_with_the_remedy() {
    let upstream = Registry::new();
    let refused = Server::options(&upstream).env("LEGACY_ADMIN", "true").try_start();
    let (status, stderr) = refused.err().expect("the server does not start");
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{stderr}");
    for part in [
        "LEGACY_ADMIN",
        "needs client authentication",
        "AUTH_HTPASSWD_FILE",
    ] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
}

#[test]
fn list_and_date_use_the_zone_of_the_machine() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("STORAGE_BACKEND", "fs").start();
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    pull(&cache, &upstream, "org/app", "v1", &image);
    let output = |zone: &str, arguments: &[&str]| {
        let output = Server::command(cache.home(), cache.root())
            .args(arguments)
            .env("TZ", zone)
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("the output is text")
    };
    // Zones without a clock change, 14 hours east and 12 hours west of Greenwich.
    let (east, west) = ("EAST-14", "WEST+12");
    let created = |zone: &str| {
        let row = output(zone, &["list"]);
        row.split(' ').nth(3).expect("a time").to_owned()
    };
    let (in_east, in_utc, in_west) = (created(east), created("UTC"), created(west));
    assert!(
        in_west < in_utc && in_utc < in_east,
        "{in_west} {in_utc} {in_east}"
    );
    let selected = |zone: &str, date: &str| {
        !output(zone, &["prune", "--date", date, "--dry-run", "--output", "name"]).is_empty()
    };
    // The time of storage in the east is still to come in the other zones.
    assert!(selected("UTC", &in_east));
    assert!(!selected(east, &in_utc));
    assert!(selected(west, &in_utc));
}
