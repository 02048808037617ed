//! The commands `purge` and `prune`, beside a running cache and after its end, and the admin socket.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use super::{fails, name, pull, run, send, started, two_images};
use crate::harness::disk::bytes_on_disk;
use crate::harness::image::Flavor;
use crate::harness::*;

fn cache(upstream: &Registry) -> Server {
    started(Server::options(upstream))
}

/// Runs a removal, and returns its report.
#[track_caller]
fn report(cache: &Server, arguments: &[&str]) -> Value {
    let output = run(cache, &[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("the output is a report in JSON")
}

/// Purges `v1`, and checks the report, the disk and the next pull.
fn purge_the_first_of(cache: &mut Server, upstream: &Registry, is_running: bool) {
    let [first, second] = two_images(cache, upstream);
    if !is_running {
        cache.stop();
    }
    let before = bytes_on_disk(cache.root());
    let planned = report(cache, &["purge", &name(upstream, ":v1"), "--dry-run"]);
    assert_eq!(bytes_on_disk(cache.root()), before, "a dry run removes nothing");
    let removed = report(cache, &["purge", &name(upstream, ":v1"), "--yes"]);
    assert_eq!(removed, planned);
    assert_eq!(removed["images"], serde_json::json!([name(upstream, ":v1")]));
    // Tag, manifest, config and layer. The common layer stays.
    assert_eq!((&removed["objects"], &removed["kept"]), (&4.into(), &0.into()));
    let freed = before - bytes_on_disk(cache.root());
    let bytes = removed["bytes"].as_u64().expect("a number");
    assert!(
        bytes.abs_diff(freed) * 100 <= freed,
        "reported {bytes}, freed {freed}"
    );

    if !is_running {
        cache.restart();
    }
    upstream.clear_log();
    pull(cache, upstream, "org/app", "v2", &second);
    assert_eq!(
        upstream.count(|seen| seen.is_get("/v2/")),
        0,
        "the other image is complete"
    );
    pull(cache, upstream, "org/app", "v1", &first);
    let [own, common] = ["own", "common"].map(|which| {
        let shared = |digest: &str| second.blobs.iter().any(|(other, _)| other == digest);
        let is_wanted = |digest: &str| shared(digest) == (which == "common");
        let digests = first.blobs.iter().filter(|(digest, _)| is_wanted(digest));
        digests
            .map(|(digest, _)| upstream.gets(digest))
            .collect::<Vec<_>>()
    });
    assert!(own.iter().all(|&count| count == 1), "{own:?}");
    assert!(common.iter().all(|&count| count == 0), "{common:?}");
    assert_eq!(upstream.gets("/manifests/"), 1);
    cache.settled_store().expect_sound();
}

#[test]
fn purge_beside_a_running_cache_removes_an_image_and_keeps_common_layers() {
    let upstream = Registry::new();
    purge_the_first_of(&mut cache(&upstream), &upstream, true);
}

#[test]
fn purge_without_a_running_cache_removes_the_same() {
    let upstream = Registry::new();
    purge_the_first_of(&mut cache(&upstream), &upstream, false);
}

#[test]
fn purge_of_a_repository_by_digest_or_without_a_match() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let [first, _] = two_images(&cache, &upstream);
    let by_digest = name(&upstream, &format!("@{}", first.digest));
    assert_eq!(report(&cache, &["purge", &by_digest, "--yes"])["objects"], 4);
    fails(
        &cache,
        3,
        "no stored image matches",
        &["purge", &by_digest, "--yes"],
    );
    assert_eq!(
        report(&cache, &["purge", &name(&upstream, ""), "--yes"])["objects"],
        5
    );
    cache.settled_store().expect_clean();
    fails(
        &cache,
        3,
        "no stored image matches",
        &["purge", &name(&upstream, ""), "--yes"],
    );
}

#[test]
fn removal_needs_a_confirmation_and_a_valid_command_line() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    two_images(&cache, &upstream);
    let before = bytes_on_disk(cache.root());
    let v1 = name(&upstream, ":v1");
    fails(&cache, 4, "--yes", &["purge", &v1]);
    fails(&cache, 4, "--yes", &["prune", "--all"]);
    fails(&cache, 2, "[registry/]repository", &["purge", "UPPER", "--yes"]);
    fails(&cache, 2, "set all", &["prune", "--yes"]);
    fails(
        &cache,
        2,
        "YYYY-MM-DDTHH:MM:SS",
        &["prune", "--date", "today", "--yes"],
    );
    fails(
        &cache,
        2,
        "regular expression",
        &["prune", "--pattern", "(", "--yes"],
    );
    assert_eq!(bytes_on_disk(cache.root()), before);
}

#[test]
fn prune_selects_by_pattern_age_and_number() {
    let upstream = Registry::new();
    let mut cache = cache(&upstream);
    two_images(&cache, &upstream);
    let selected = |cache: &Server, rules: &[&str]| {
        let report = report(cache, &[&["prune", "--dry-run"], rules].concat());
        let images = report["images"].as_array().expect("a list").iter();
        let tag = |image: &Value| {
            image
                .as_str()
                .expect("a reference")
                .rsplit(':')
                .next()
                .map(str::to_owned)
        };
        images.filter_map(tag).collect::<Vec<_>>()
    };
    let both = ["v1", "v2"];
    for is_running in [true, false] {
        if !is_running {
            cache.stop();
        }
        assert_eq!(selected(&cache, &["--pattern", "app:v1"]), ["v1"], "{is_running}");
        assert_eq!(selected(&cache, &["--all"]), both, "{is_running}");
        assert_eq!(
            selected(&cache, &["--date", "2999-01-01T00:00:00"]),
            both,
            "{is_running}"
        );
        assert_eq!(selected(&cache, &["--unused-for", "0s"]), both, "{is_running}");
        assert_eq!(selected(&cache, &["--keep-newest", "1"]).len(), 1, "{is_running}");
        for nothing in [
            ["--older-than", "1h"],
            ["--unused-for", "1h"],
            ["--prune-before", "2020-01-01T00:00:00"],
            ["--keep-newest", "2"],
        ] {
            let output = run(&cache, &[&["prune", "--yes"][..], &nothing].concat());
            assert_eq!(output.status.code(), Some(0), "{nothing:?}: {output:?}");
        }
    }
    cache.restart();
    cache.wait_stderr("store scanned");
    assert_eq!(report(&cache, &["prune", "--all", "--yes"])["objects"], 9);
    cache.wait_stderr("change completed");
    cache.settled_store().expect_clean();
}

#[test]
fn pinned_image_survives_a_kill_and_every_removal_until_its_pin_is_removed() {
    let upstream = Registry::new();
    let mut cache = cache(&upstream);
    two_images(&cache, &upstream);
    let (v1, v2) = (name(&upstream, ":v1"), name(&upstream, ":v2"));
    let prints = |cache: &Server, arguments: &[&str], expected: &str| {
        let output = run(cache, arguments);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{arguments:?}");
    };
    prints(&cache, &["pin", &v1], &format!("{v1} pinned\n"));
    prints(&cache, &["pin", &v1], &format!("{v1} was pinned already\n"));
    cache.kill9();
    prints(&cache, &["pin"], &format!("{v1}\n"));
    for is_running in [false, true] {
        if is_running {
            cache.restart();
            cache.wait_stderr("store scanned");
        }
        fails(&cache, 1, "is pinned", &["purge", &v1, "--yes"]);
        let planned = report(&cache, &["prune", "--all", "--dry-run"]);
        assert_eq!(planned["images"], serde_json::json!([v2]), "{is_running}");
    }
    report(&cache, &["prune", "--all", "--yes"]);
    prints(&cache, &["list", "--output", "name"], &format!("{v1}\n"));
    let missing = run(&cache, &["list", "--output", "json"]);
    let images: Value = serde_json::from_slice(&missing.stdout).expect("a list in JSON");
    assert_eq!(images[0]["missingBlobs"], 0);
    prints(&cache, &["unpin", &v1], &format!("{v1} unpinned\n"));
    fails(&cache, 3, "no pin", &["unpin", &v1]);
    report(&cache, &["purge", &v1, "--yes"]);
    cache.settled_store().expect_clean();
}

#[test]
fn pattern_pins_every_matching_tag() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    two_images(&cache, &upstream);
    let pattern = name(&upstream, ":v*");
    assert!(run(&cache, &["pin", &pattern]).status.success());
    let output = run(&cache, &["prune", "--all", "--yes"]);
    assert!(output.status.success(), "{output:?}");
    let listed = run(&cache, &["list", "--output", "name"]);
    assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 2);
    fails(&cache, 2, "no name of an image", &["pin", "UPPER"]);
}

#[test]
fn prune_keeps_the_platforms_of_the_newest_index() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let seed = fresh_seed();
    let layer = |n| [Content::from(PseudoRandom::new(seed + n, 50_000))];
    let index = Image::push_index(&upstream, "org/app", "v1", Flavor::Oci, [&layer(0), &layer(1)]);
    pull(&cache, &upstream, "org/app", "v1", &index);
    for platform in &index.children {
        pull(&cache, &upstream, "org/app", &platform.digest, platform);
    }
    cache.settled_store();
    let kept = run(&cache, &["prune", "--keep-newest", "1", "--yes"]);
    assert!(kept.status.success() && kept.stdout.is_empty(), "{kept:?}");
    let removed = report(&cache, &["purge", &name(&upstream, ":v1"), "--yes"]);
    // The tag, three manifests, two configs and two layers.
    assert_eq!(removed["objects"], 8);
    cache.settled_store().expect_clean();
}

#[test]
fn admin_socket_rejects_wrong_requests_with_problem_details() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let mode = cache
        .root()
        .join(".admin.sock")
        .metadata()
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    let json = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: ";
    for (request, status) in [
        ("GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(), 404),
        (
            "GET /api/v1/prune HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            405,
        ),
        (
            "POST /api/v1/images/a HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            405,
        ),
        (
            "GET /api/v1/images/a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            404,
        ),
        (
            "GET /api/v1/stats HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(),
            421,
        ),
        (
            "DELETE /api/v1/images/A%2F HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            400,
        ),
        (
            "DELETE /api/v1/images/a?force HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST /api/v1/prune HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".to_owned(),
            415,
        ),
        (format!("POST /api/v1/prune HTTP/1.1\r\n{json}2\r\n\r\n{{}}"), 400),
        (format!("POST /api/v1/verify HTTP/1.1\r\n{json}2\r\n\r\n[]"), 400),
        (
            format!("POST /api/v1/prune HTTP/1.1\r\n{json}7\r\n\r\n{{\"a\":1}}"),
            400,
        ),
        (
            format!("POST /api/v1/prune/7/apply HTTP/1.1\r\n{json}0\r\n\r\n"),
            404,
        ),
    ] {
        let (found, head, body) = send(&cache, &request);
        assert_eq!(found, status, "{request}: {body}");
        assert!(head.contains("content-type: application/problem+json"), "{head}");
        let problem: Value = serde_json::from_str(&body).expect("problem details");
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty())
        );
    }
    let (status, _, body) = send(&cache, "GET /api/v1/stats HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let stats: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (status, &stats["scanned"], &stats["objects"]),
        (200, &true.into(), &0.into())
    );
}

#[test]
fn second_removal_after_a_change_keeps_the_new_content() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let [first, _] = two_images(&cache, &upstream);
    let body = r#"{"pattern": ":v1$"}"#;
    let plan = format!(
        "POST /api/v1/prune HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, _, planned) = send(&cache, &plan);
    assert_eq!(status, 201, "{planned}");
    let planned: Value = serde_json::from_str(&planned).expect("JSON");
    report(&cache, &["purge", &name(&upstream, ":v1"), "--yes"]);
    pull(&cache, &upstream, "org/app", "v1", &first);
    let apply = format!(
        "POST /api/v1/prune/{}/apply HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        planned["plan"]
    );
    let (status, _, applied) = send(&cache, &apply);
    assert_eq!(status, 200, "{applied}");
    assert_eq!(send(&cache, &apply).0, 404, "a plan is applied once");
    cache.settled_store().expect_sound();
    pull(&cache, &upstream, "org/app", "v1", &first);
}
