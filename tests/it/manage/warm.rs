//! Rules of `warm`: checks of tags at their registries, the reserve of the request budget, and the jobs.

use std::time::Duration;

use super::{pull, run, send_json};
use crate::harness::image::{ACCEPT_ALL, Flavor};
use crate::harness::*;

const COMPLETED: &str = "warm rule completed";
const REPOSITORY: &str = "org/app";

fn config(upstream: &Registry, rules: &str) -> String {
    format!(
        "{rules}\nregistries: [{{name: '{}', url: 'http://{}'}}]\n",
        upstream.name(),
        upstream.addr()
    )
}

/// A cache without rules, whose tags stay fresh.
fn started(upstream: &Registry) -> Server {
    let cache = Server::bare()
        .env("STORAGE_BACKEND", "fs")
        .env("TAG_TTL", "1d")
        .env("LOAD_PLATFORMS", "all")
        .config(config(upstream, ""))
        .start();
    cache.wait_stderr("store scanned");
    cache
}

/// Replaces the rules of a running cache.
fn set_rules(cache: &Server, upstream: &Registry, rules: &str) {
    let file = cache.home().join("config.yaml");
    std::fs::write(file, config(upstream, rules)).expect("write the configuration");
    cache.sighup();
}

/// Returns the only rule, with the shortest interval and further keys. The name is that of the test's
/// repository with `rest`.
fn rule(upstream: &Registry, rest: &str, more: &str) -> String {
    format!(
        "warm: [{{pattern: '{}/{REPOSITORY}{rest}', every: 10s{more}}}]",
        upstream.name()
    )
}

/// Waits for the end of run `number`. Returns its log line.
fn end_of_run(cache: &Server, number: usize) -> String {
    eventually("the run has ended", || {
        cache.stderr().matches(COMPLETED).count() >= number
    });
    let log = cache.stderr();
    let line = log
        .lines()
        .filter(|line| line.contains(COMPLETED))
        .nth(number - 1);
    line.expect("a line of the run").to_owned()
}

/// Waits for the end of a run with `field`. Returns its log line.
fn end_of_run_with(cache: &Server, field: &str) -> String {
    let found = || {
        let log = cache.stderr();
        let mut lines = log.lines().filter(|line| line.contains(COMPLETED));
        let found = lines.find(|line| line.split(' ').any(|part| part == field));
        found.map(str::to_owned)
    };
    eventually("a run ends with this field", || found().is_some());
    found().expect("a line of the run")
}

#[track_caller]
fn expect_fields(line: &str, fields: &[&str]) {
    for field in fields {
        assert!(line.split(' ').any(|part| part == *field), "{field}: {line}");
    }
}

/// Pushes an image of `org/app`, and pulls it.
fn pulled(cache: &Server, upstream: &Registry, tag: &str) -> Image {
    let image = Image::small(upstream, REPOSITORY, tag, fresh_seed());
    pull(cache, upstream, REPOSITORY, tag, &image);
    eventually("the tag is stored", || {
        disk::tag_path(cache.root(), &upstream.name(), REPOSITORY, tag).exists()
    });
    image
}

/// Pulls an image without a request to the upstream.
#[track_caller]
fn expect_local(cache: &Server, upstream: &Registry, tag: &str, image: &Image) {
    let before = upstream.requests();
    let path = upstream.manifest_url(REPOSITORY, tag);
    // A core forgets its own answer within a second.
    eventually("the tag has its new manifest", || {
        let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
        got.body == image.manifest
    });
    for (digest, content) in image.all_blobs() {
        let path = upstream.blob_url(REPOSITORY, digest);
        cache.client().get(&path).expect(&content.bytes());
    }
    assert_eq!(upstream.requests(), before, "{:#?}", upstream.log());
}

#[test]
fn moved_tag_is_served_with_its_new_digest_without_an_upstream_request() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let old = pulled(&cache, &upstream, "v1");
    let same = pulled(&cache, &upstream, "v2");
    let seed = fresh_seed();
    let layer = |n: u64| [Content::from(PseudoRandom::new(seed + n, 50_000))];
    let new = Image::push_index(&upstream, REPOSITORY, "v1", Flavor::Oci, [&layer(0), &layer(1)]);
    upstream.clear_log();
    set_rules(&cache, &upstream, &rule(&upstream, "", ""));
    let line = end_of_run(&cache, 1);
    let fields = [
        "rule=warm[0]",
        "images=2",
        "checked=2",
        "changed=1",
        "failed=0",
        "held_back=0",
    ];
    expect_fields(&line, &fields);
    assert_eq!(upstream.heads("/manifests/v"), 2, "{:#?}", upstream.log());
    assert_eq!(upstream.gets("/manifests/"), 3, "an index with two manifests");
    assert_eq!(upstream.gets("/blobs/"), new.all_blobs().len());
    expect_local(&cache, &upstream, "v1", &new);
    expect_local(&cache, &upstream, "v2", &same);
    expect_local(&cache, &upstream, &old.digest, &old);
    cache.settled_store().expect_sound();
}

#[test]
fn next_run_checks_the_tags_again_although_they_are_fresh() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    pulled(&cache, &upstream, "v1");
    set_rules(&cache, &upstream, &rule(&upstream, ":v*", ""));
    expect_fields(&end_of_run(&cache, 1), &["checked=1", "changed=0", "bytes=0"]);
    let new = Image::small(&upstream, REPOSITORY, "v1", fresh_seed());
    let line = end_of_run_with(&cache, "changed=1");
    expect_fields(&line, &["checked=1", "failed=0"]);
    expect_local(&cache, &upstream, "v1", &new);
}

#[test]
fn newest_versions_of_the_registry_are_fetched_for_the_platforms_of_the_rule() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let seed = fresh_seed();
    let layer = |n: u64| [Content::from(PseudoRandom::new(seed + n, 20_000))];
    let images: Vec<Image> = ["1.9.0", "1.10.0", "1.2.0", "latest"]
        .iter()
        .zip(0..)
        .map(|(tag, n)| {
            let layers = [&layer(2 * n), &layer(2 * n + 1)];
            Image::push_index(
                &upstream,
                REPOSITORY,
                tag,
                Flavor::Oci,
                layers.map(|layer| &layer[..]),
            )
        })
        .collect();
    let tags = r#"{"name": "org/app", "tags": ["1.9.0", "1.10.0", "1.2.0", "latest"]}"#;
    let page = Reply::status(200)
        .set("Content-Type", "application/json")
        .body(tags);
    upstream.on(On::path("/tags/list"), page);
    let more = ", newest: 2, platforms: [linux/arm64]";
    set_rules(&cache, &upstream, &rule(&upstream, ":*", more));
    expect_fields(&end_of_run(&cache, 1), &["images=2", "checked=2", "changed=2"]);
    for (image, is_newest) in images.iter().zip([true, true, false, false]) {
        assert_eq!(cache.is_stored(&image.digest), is_newest);
        for (child, is_wanted) in image.children.iter().zip([false, true]) {
            for (digest, _) in &child.blobs {
                assert_eq!(cache.is_stored(digest), is_newest && is_wanted);
            }
        }
    }
    assert_eq!(upstream.count(|seen| seen.target.contains("/tags/list")), 1);
}

#[test]
fn named_tag_is_fetched_and_pinned_although_no_client_has_pulled_it() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let image = Image::small(&upstream, REPOSITORY, "v1", fresh_seed());
    set_rules(&cache, &upstream, &rule(&upstream, ":v1", ", pin: true"));
    expect_fields(&end_of_run(&cache, 1), &["images=1", "checked=1", "changed=1"]);
    expect_local(&cache, &upstream, "v1", &image);
    let pins = String::from_utf8(run(&cache, &["pin"]).stdout);
    let pins = pins.expect("names are text");
    assert!(
        pins.contains(&format!("{}/{REPOSITORY}:v1", upstream.name())),
        "{pins}"
    );
}

#[test]
fn rule_leaves_the_reserve_to_clients_and_continues_in_the_next_window() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let count = 6;
    for n in 0..count {
        pulled(&cache, &upstream, &format!("v{n}"));
    }
    for n in 0..count {
        Image::small(&upstream, REPOSITORY, &format!("v{n}"), fresh_seed());
    }
    // Three requests above the reserve.
    upstream.behaviour(|own| own.budget = Some(Budget::hub(33)));
    set_rules(&cache, &upstream, &rule(&upstream, ":v*", ""));
    let line = end_of_run(&cache, 1);
    expect_fields(
        &line,
        &[
            "images=6",
            "changed=3",
            "held_back=3",
            "held_back_by=budget",
            "failed=0",
        ],
    );
    assert_eq!(upstream.pulls_left(), 30);
    // The response to a client states the budget of the next window.
    upstream.behaviour(|own| own.budget = Some(Budget::hub(100)));
    let other = Image::small(&upstream, "org/other", "v1", fresh_seed());
    pull(&cache, &upstream, "org/other", "v1", &other);
    let line = end_of_run_with(&cache, "held_back=0");
    expect_fields(
        &line,
        &["images=6", "changed=3", "recent=3", "held_back=0", "failed=0"],
    );
    assert_eq!(upstream.pulls_left(), 96);
}

#[test]
fn run_with_idle_clients_converges_within_its_budget() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let tags: Vec<String> = (0..5).map(|n| format!("v{n}")).collect();
    for tag in &tags {
        pulled(&cache, &upstream, tag);
    }
    let new: Vec<Image> = tags
        .iter()
        .map(|tag| Image::small(&upstream, REPOSITORY, tag, fresh_seed()))
        .collect();
    upstream.behaviour(|own| own.budget = Some(Budget::hub(100)));
    set_rules(&cache, &upstream, &rule(&upstream, ":v*", ""));
    expect_fields(&end_of_run(&cache, 1), &["checked=5", "changed=5", "held_back=0"]);
    assert_eq!(upstream.pulls_left(), 95);
    for (tag, image) in tags.iter().zip(&new) {
        expect_local(&cache, &upstream, tag, image);
    }
}

#[test]
fn rate_limit_stops_the_rule_until_its_end() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    for tag in ["v1", "v2", "v3"] {
        pulled(&cache, &upstream, tag);
    }
    let new = Image::small(&upstream, REPOSITORY, "v1", fresh_seed());
    let wait = Duration::from_secs(3);
    upstream.on(On::kind(Kind::Manifest).once(), Reply::too_many_requests("3"));
    upstream.clear_log();
    set_rules(&cache, &upstream, &rule(&upstream, ":v*", ""));
    let line = end_of_run(&cache, 1);
    expect_fields(&line, &["images=3", "held_back_by=rate_limit", "failed=0"]);
    let line = end_of_run_with(&cache, "held_back=0");
    expect_fields(&line, &["changed=1", "failed=0"]);
    let log = upstream.log();
    assert_eq!(log[0].status, 429, "{log:#?}");
    assert!(log[1].at - log[0].at >= wait, "{:?}", log[1].at - log[0].at);
    expect_local(&cache, &upstream, "v1", &new);
}

#[test]
fn client_joins_the_fill_of_a_rule_and_keeps_the_old_image_until_the_new_one_is_complete() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let old = pulled(&cache, &upstream, "v1");
    let new = Image::small(&upstream, REPOSITORY, "v1", fresh_seed());
    let (digest, content) = new.blobs.last().expect("an image has layers");
    let gate = Gate::new();
    upstream.on(On::path(digest), Reply::new().hold_at(100, &gate));
    set_rules(&cache, &upstream, &rule(&upstream, ":v1", ""));
    gate.wait_arrived(1);
    let path = upstream.manifest_url(REPOSITORY, "v1");
    let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
    got.expect(&old.manifest);
    let (status, jobs) = send_json(&cache, "GET", "/api/v1/jobs", "");
    assert_eq!(
        (status, &jobs["jobs"][0]["kind"]),
        (200, &"warm".into()),
        "{jobs}"
    );
    assert_eq!(jobs["jobs"][0]["state"], "running", "{jobs}");
    let path = upstream.blob_url(REPOSITORY, digest);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| cache.client().get(&path));
        eventually("the client follows the fill", || {
            let (_, fills) = send_json(&cache, "GET", "/api/v1/fills", "");
            // The rule and the client.
            let fills = fills["fills"].as_array().expect("a list");
            fills
                .iter()
                .any(|fill| fill["digest"] == digest.as_str() && fill["followers"] == 2)
        });
        gate.open();
        client.join().expect("the client reads").expect(&content.bytes());
    });
    expect_fields(&end_of_run(&cache, 1), &["checked=1", "changed=1"]);
    assert_eq!(upstream.gets(digest), 1);
    expect_local(&cache, &upstream, "v1", &new);
}

#[test]
fn canceled_run_ends_and_the_stored_tag_stays() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let old = pulled(&cache, &upstream, "v1");
    let new = Image::small(&upstream, REPOSITORY, "v1", fresh_seed());
    let gate = Gate::new();
    upstream.on(On::path(&new.blobs[0].0), Reply::new().hold_head(&gate));
    let slow = rule(&upstream, ":v1", "").replace("10s", "20s");
    set_rules(&cache, &upstream, &slow);
    gate.wait_arrived(1);
    let (_, jobs) = send_json(&cache, "GET", "/api/v1/jobs", "");
    let job = jobs["jobs"][0]["job"].as_u64().expect("a number");
    let (status, _) = send_json(&cache, "DELETE", &format!("/api/v1/jobs/{job}"), "");
    assert_eq!(status, 200);
    expect_fields(&end_of_run(&cache, 1), &["changed=0", "complete=false"]);
    let (_, status) = send_json(&cache, "GET", &format!("/api/v1/jobs/{job}"), "");
    eventually("the job has ended", || {
        let (_, job) = send_json(&cache, "GET", &format!("/api/v1/jobs/{job}"), "");
        job["state"] == "canceled" && job["result"]["rule"] == "warm[0]"
    });
    assert_eq!(status["kind"], "warm", "{status}");
    let path = upstream.manifest_url(REPOSITORY, "v1");
    let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
    got.expect(&old.manifest);
    gate.open();
}

#[test]
fn tag_that_is_gone_fails_and_the_stored_image_and_the_other_tags_stay() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    let gone = pulled(&cache, &upstream, "v1");
    pulled(&cache, &upstream, "v2");
    upstream.on(On::path("/manifests/v1"), Reply::status(404));
    set_rules(&cache, &upstream, &rule(&upstream, ":v*", ""));
    expect_fields(
        &end_of_run(&cache, 1),
        &["images=2", "checked=1", "changed=0", "failed=1"],
    );
    let image = format!("image={}/{REPOSITORY}:v1", upstream.name());
    assert!(cache.stderr().contains(&image), "{}", cache.stderr());
    let path = upstream.manifest_url(REPOSITORY, "v1");
    let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
    got.expect(&gone.manifest);
}

#[test]
fn registry_without_head_gets_one_get_for_each_tag() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    pulled(&cache, &upstream, "v1");
    let new = Image::small(&upstream, REPOSITORY, "v1", fresh_seed());
    upstream.on(On::kind(Kind::Manifest).head(), Reply::new().without_digest());
    upstream.clear_log();
    set_rules(&cache, &upstream, &rule(&upstream, ":v1", ""));
    expect_fields(&end_of_run(&cache, 1), &["checked=1", "changed=1", "failed=0"]);
    assert_eq!(upstream.gets("/manifests/"), 1, "{:#?}", upstream.log());
    expect_local(&cache, &upstream, "v1", &new);
}

#[test]
fn sighup_replaces_the_rules_and_an_invalid_rule_changes_nothing() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    pulled(&cache, &upstream, "v1");
    pulled(&cache, &upstream, "w1");
    set_rules(&cache, &upstream, &rule(&upstream, ":v*", ", newst: 1"));
    cache.wait_stderr("configuration not reloaded");
    set_rules(&cache, &upstream, &rule(&upstream, ":w*", ""));
    upstream.wait_until("a check of w1", |log| {
        log.iter()
            .any(|seen| seen.method == "HEAD" && seen.target.contains("/manifests/w1"))
    });
    assert_eq!(upstream.heads("/manifests/v1"), 0, "{:#?}", upstream.log());
    assert!(!cache.stderr().contains("needs a restart"), "{}", cache.stderr());
}

#[test]
fn air_gapped_cache_runs_no_rule() {
    let upstream = Registry::new();
    let cache = started(&upstream);
    pulled(&cache, &upstream, "v1");
    upstream.clear_log();
    let rules = format!("air_gapped: true\n{}", rule(&upstream, ":v1", ""));
    set_rules(&cache, &upstream, &rules);
    cache.wait_stderr("warm rule not run");
    assert_eq!(upstream.requests(), 0);
    cache.wait_stderr("has no effect, because air_gapped is set");
}
