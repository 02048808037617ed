//! The command `load`, its jobs, and `PRELOAD_IMAGES`.

use std::fs;
use std::io::Write as _;
use std::process::{Child, Output, Stdio};
use std::thread;

use serde_json::{Value, json};

use super::{fails, run, send_json};
use crate::harness::image::{ACCEPT_ALL, Flavor};
use crate::harness::server::TempDir;
use crate::harness::*;

/// The platform of the images of the fake registry.
const AMD64: [&str; 2] = ["--platform", "linux/amd64"];

/// Starts a cache without a scrub.
fn started(options: server::Options) -> Server {
    super::started(options.env("SCRUB_INTERVAL", "0"))
}

/// Runs `load` for `linux/amd64`. Returns the exit code and the report.
#[track_caller]
fn load(cache: &Server, arguments: &[&str]) -> (i32, Value) {
    let output = run(cache, &[&["load", "--output", "json"], arguments].concat());
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().expect("an exit code"), report)
}

/// Writes a list of images. Returns its path.
fn list(cache: &Server, text: &str) -> String {
    let path = cache.home().join("images.txt");
    fs::write(&path, text).expect("the directory is writable");
    path.to_str().expect("a path is text").to_owned()
}

/// Pushes `count` small images `app/N:v1`. Returns the images and their names.
fn images(upstream: &Registry, count: u64) -> (Vec<Image>, Vec<String>) {
    let seed = fresh_seed();
    let push = |n| Image::small(upstream, &format!("app/{n}"), "v1", seed + 10 * n);
    let name = |n| format!("{}/app/{n}:v1", upstream.name());
    ((0..count).map(push).collect(), (0..count).map(name).collect())
}

#[track_caller]
fn expect_stored<'a>(cache: &Server, images: impl IntoIterator<Item = &'a Image>) {
    for image in images {
        assert!(cache.is_stored(&image.digest));
        for (digest, _) in &image.blobs {
            assert!(cache.is_stored(digest), "{digest}");
        }
    }
}

/// Loads a list with a missing image twice, beside a running cache or without one.
fn one_missing_of_20(is_running: bool) {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    let (pushed, mut names) = images(&upstream, 19);
    let missing = format!("{}/app/missing:v1", upstream.name());
    names.insert(7, missing.clone());
    let path = list(&cache, &format!("# images\n\n{}\n", names.join("\n")));
    if !is_running {
        cache.stop();
    }
    let arguments = [&["--image-file", &path][..], &AMD64].concat();
    let (code, report) = load(&cache, &arguments);
    assert_eq!(
        (code, &report["held"], &report["failed"]),
        (1, &json!(19), &json!(1)),
        "{report}"
    );
    let images = report["images"].as_array().expect("a list");
    let loaded: Vec<&str> = images
        .iter()
        .filter_map(|image| image["image"].as_str())
        .collect();
    assert_eq!(loaded, names, "the order of the list");
    let failed = &images[7];
    assert_eq!(
        (&failed["state"], &failed["upstreamStatus"]),
        (&json!("failed"), &json!(404)),
        "{failed}"
    );
    assert!(failed["error"].as_str().is_some_and(|error| !error.is_empty()));
    let bytes = pushed.iter().map(|image| {
        let blobs: u64 = image.blobs.iter().map(|(_, content)| content.size()).sum();
        blobs + image.manifest.len() as u64
    });
    assert_eq!(report["fetchedBytes"], json!(bytes.sum::<u64>()));
    // No wait: a reported image is in the store.
    expect_stored(&cache, &pushed);
    let images: usize = pushed.iter().map(|image| image.blobs.len()).sum();
    assert_eq!(upstream.gets("/blobs/"), images);

    upstream.clear_log();
    let output = run(&cache, &[&["load"], &arguments[..]].concat());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let row = text
        .lines()
        .find(|line| line.starts_with(&missing))
        .expect("a row");
    assert!(row.contains("failed") && row.contains("status 404"), "{text}");
    assert!(text.ends_with("19 held, 1 failed, 0.0 MB fetched\n"), "{text}");
    assert_eq!(upstream.gets("/blobs/"), 0);
    cache.settled_store().expect_clean();

    if !is_running {
        cache.restart();
    }
    upstream.down();
    for (image, name) in pushed.iter().zip(names.iter().filter(|name| **name != missing)) {
        let repository = &name[upstream.name().len() + 1..name.len() - ":v1".len()];
        let path = upstream.manifest_url(repository, "v1");
        let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
        got.expect(&image.manifest);
    }
}

#[test]
fn list_with_a_missing_image_is_loaded_except_for_this_image() {
    one_missing_of_20(true);
}

#[test]
fn list_is_loaded_without_a_running_cache() {
    one_missing_of_20(false);
}

/// Starts `load` without waiting for its end.
fn begin_load(cache: &Server, arguments: &[&str]) -> Child {
    Server::command(cache.home(), cache.root())
        .args([&["load", "--quiet"], arguments].concat())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts")
}

#[test]
fn load_after_kills_fetches_no_stored_blob_again() {
    let upstream = Registry::new();
    let mut random = Random::for_test("kills during loads");
    let mut cache = started(Server::options(&upstream));
    let (pushed, names) = images(&upstream, 40);
    let path = list(&cache, &names.join("\n"));
    let arguments = [&["--image-file", &path][..], &AMD64].concat();
    // Bodies arrive slowly, so that each kill interrupts some.
    upstream.on(On::kind(Kind::Blob).get(), Reply::new().rate(2_000_000));
    let blobs: Vec<&String> = pushed
        .iter()
        .flat_map(|image| image.blobs.iter().map(|(digest, _)| digest))
        .collect();
    for round in 0..10 {
        // Half of the kills hit a running cache, and half a load without a cache.
        let is_running = round % 2 == 0;
        if !is_running {
            cache.kill9();
        }
        let stored: Vec<_> = blobs.iter().filter(|digest| cache.is_stored(digest)).collect();
        upstream.clear_log();
        let mut loading = begin_load(&cache, &arguments);
        let begun = random.below(8) as usize;
        let is_over = || cache.root().exists() && blobs.iter().all(|digest| cache.is_stored(digest));
        eventually("fetches have begun", || {
            upstream.gets("/blobs/") > begun || is_over()
        });
        if is_running {
            cache.kill9();
            loading.wait().expect("the command ends");
        } else {
            loading.kill().expect("a child process");
            loading.wait().expect("the command ends");
        }
        for digest in stored {
            assert_eq!(upstream.gets(digest), 0, "round {round}: {digest} was stored");
        }
        cache.restart();
        cache.wait_stderr("store scanned");
    }
    upstream.clear_rules();
    let (code, report) = load(&cache, &arguments);
    assert_eq!(code, 0, "{report}");
    expect_stored(&cache, &pushed);
    cache.settled_store().expect_clean();
}

#[test]
fn client_and_load_share_a_fill() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let (pushed, names) = images(&upstream, 1);
    let (digest, content) = pushed[0]
        .blobs
        .iter()
        .max_by_key(|(_, content)| content.size())
        .expect("blobs");
    let path = upstream.blob_url("app/0", digest);
    let gate = Gate::new();
    upstream.on(On::path(digest).get(), Reply::new().hold_at(1_000, &gate));
    thread::scope(|scope| {
        let loading = scope.spawn(|| load(&cache, &[&[names[0].as_str()][..], &AMD64].concat()));
        gate.wait_arrived(1);
        let pulling = scope.spawn(|| cache.client().get(&path));
        upstream.wait_until("the load has requested the other blobs", |log| {
            log.iter().filter(|request| request.is_get("/blobs/")).count() >= pushed[0].blobs.len()
        });
        gate.open();
        let got = pulling.join().expect("the client ends");
        got.expect(&content.bytes());
        let (code, report) = loading.join().expect("the load ends");
        assert_eq!(code, 0, "{report}");
    });
    assert_eq!(upstream.gets(digest), 1);
}

#[test]
fn platforms_of_a_load_decide_which_content_is_fetched() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let seed = fresh_seed();
    let layer = |n: u64| [Content::from(PseudoRandom::new(seed + n, 50_000))];
    let index = Image::push_index(&upstream, "org/multi", "v1", Flavor::Oci, [&layer(1), &layer(2)]);
    let [amd64, arm64] = &index.children[..] else {
        panic!("two platforms");
    };
    let name = format!("{}/org/multi:v1", upstream.name());
    let (code, report) = load(&cache, &[&name, "--os", "linux", "--arch", "amd64"]);
    assert_eq!(
        (code, &report["images"][0]["platforms"]),
        (0, &json!("linux/amd64"))
    );
    expect_stored(&cache, [amd64]);
    assert!(cache.is_stored(&index.digest) && !cache.is_stored(&arm64.digest));
    assert_eq!(upstream.gets(&arm64.blobs[0].0), 0);

    let (code, report) = load(&cache, &[&name, "--platform", "linux/s390x"]);
    let error = report["images"][0]["error"].as_str().expect("an error");
    assert_eq!(code, 1);
    assert!(
        error.contains("linux/s390x") && error.contains("linux/amd64, linux/arm64"),
        "{error}"
    );

    let (code, _) = load(&cache, &[&name, "--platform", "all"]);
    assert_eq!(code, 0);
    expect_stored(&cache, &index.children);
    assert_eq!(upstream.gets(&amd64.blobs[0].0), 1);
}

/// Runs `load` with `text` on standard input.
fn load_from_stdin(cache: &Server, text: &[u8]) -> Output {
    let mut child = Server::command(cache.home(), cache.root())
        .args([
            "load",
            "--image-file",
            "-",
            "--output",
            "json",
            "--platform",
            "all",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(text).expect("the command reads");
    drop(stdin);
    child.wait_with_output().expect("the command ends")
}

#[test]
fn lists_come_from_standard_input_and_mistakes_have_their_exit_codes() {
    let upstream = Registry::new();
    let mut cache = started(Server::options(&upstream));
    let (pushed, names) = images(&upstream, 2);
    let objects = format!(
        "kind: Pod\nspec:\n  containers:\n  - image: {}\n---\nkind: Pod\nspec:\n  initContainers:\n  - image: {}\n  - image: Wrong\n",
        names[0], names[1]
    );
    let output = load_from_stdin(&cache, objects.as_bytes());
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert_eq!(
        (&report["held"], &report["failed"]),
        (&json!(2), &json!(1)),
        "{report}"
    );
    let error = report["images"][2]["error"].as_str().expect("an error");
    assert!(error.starts_with("line 10: "), "{error}");
    expect_stored(&cache, &pushed);

    for (bytes, part) in [
        (&b"\x1f\x8b\x08\x00"[..], "gzip archive"),
        (b"# nothing\n", "names no image"),
        (b"{\"a\": ", "line 1"),
    ] {
        let output = load_from_stdin(&cache, bytes);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
    fails(&cache, 2, "--image-file", &["load"]);
    fails(
        &cache,
        2,
        "cannot read",
        &["load", "--image-file", "/nowhere/list"],
    );
    fails(&cache, 2, "[registry/]repository", &["load", "UPPER"]);
    fails(&cache, 2, "linux/amd64", &["load", "a:1", "--platform", "amd64"]);
    fails(
        &cache,
        2,
        "--platform alone",
        &["load", "a:1", "--platform", "all", "--os", "linux"],
    );
    fails(&cache, 2, "from 1 to", &["load", "a:1", "--concurrency", "0"]);
    cache.stop();
    let lock = fs::File::open(cache.root().join(".lock")).expect("the lock file");
    lock.lock().expect("the cache has ended");
    fails(&cache, 4, "another process uses the store", &["load", &names[0]]);
}

#[test]
fn job_of_a_load_has_progress_a_result_and_audit_lines() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let (pushed, names) = images(&upstream, 2);
    let body = json!({"images": names, "platforms": ["linux/amd64"], "pullTimeout": "1m"});
    let (status, started) = send_json(&cache, "POST", "/api/v1/preload", &body.to_string());
    assert_eq!((status, &started), (202, &json!({"job": 1})));
    let job = || send_json(&cache, "GET", "/api/v1/jobs/1", "").1;
    eventually("the job ends", || job()["state"] != "running");
    let job = job();
    assert_eq!(
        (&job["state"], &job["kind"]),
        (&json!("completed"), &json!("load")),
        "{job}"
    );
    assert_eq!(
        (&job["result"]["held"], &job["result"]["failed"]),
        (&json!(2), &json!(0))
    );
    // Two images, each with a config and two layers.
    let progress = &job["progress"];
    assert_eq!(
        (&progress["objects"], &progress["objectsTotal"]),
        (&json!(8), &json!(8)),
        "{job}"
    );
    expect_stored(&cache, &pushed);
    let listed = run(&cache, &["jobs"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("load   completed 8 of 8 objects"), "{listed}");
    cache.wait_stderr("change completed");
    let stderr = cache.stderr();
    let position = |phrase: &str| {
        let found = stderr
            .lines()
            .position(|line| line.contains(phrase) && line.contains("action=preload"));
        found.unwrap_or_else(|| panic!("{phrase}: {stderr}"))
    };
    assert!(position("change requested") < position("change completed"));

    for (body, part) in [
        (r#"{"images": []}"#, "no images"),
        (r#"{"images": ["UPPER"]}"#, "[registry/]repository"),
        (r#"{"image": "a"}"#, "unknown field"),
        (r#"{"images": ["a"], "platforms": ["x"]}"#, "platforms"),
    ] {
        let (status, problem) = send_json(&cache, "POST", "/api/v1/preload", body);
        assert_eq!(status, 400, "{problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(part)),
            "{problem}"
        );
    }
    assert_eq!(send_json(&cache, "GET", "/api/v1/preload", "").0, 405);
}

#[test]
fn canceled_load_ends_and_reports_the_images_so_far() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let (pushed, names) = images(&upstream, 2);
    let gate = Gate::new();
    upstream.on(
        On::path(&pushed[1].blobs[0].0).get(),
        Reply::new().hold_head(&gate),
    );
    let body = json!({"images": names, "platforms": ["all"]}).to_string();
    assert_eq!(send_json(&cache, "POST", "/api/v1/preload", &body).0, 202);
    gate.wait_arrived(1);
    eventually("the first image is in the store", || {
        pushed[0].blobs.iter().all(|(digest, _)| cache.is_stored(digest))
    });
    assert_eq!(send_json(&cache, "DELETE", "/api/v1/jobs/1", "").0, 200);
    let job = || send_json(&cache, "GET", "/api/v1/jobs/1", "").1;
    eventually("the job ends", || job()["state"] == "canceled");
    let result = &job()["result"];
    assert_eq!(
        (&result["complete"], &result["failed"]),
        (&json!(false), &json!(0)),
        "{result}"
    );
    gate.open();
}

#[test]
fn image_that_takes_too_long_fails_and_others_are_loaded() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream));
    let (pushed, names) = images(&upstream, 2);
    let gate = Gate::new();
    upstream.on(
        On::path(&pushed[0].blobs[0].0).get(),
        Reply::new().hold_head(&gate),
    );
    let (code, report) = load(
        &cache,
        &[&names[0], &names[1], "--platform", "all", "--pull-timeout", "1s"],
    );
    gate.open();
    assert_eq!(
        (code, &report["held"], &report["failed"]),
        (1, &json!(1), &json!(1)),
        "{report}"
    );
    let error = report["images"][0]["error"].as_str().expect("an error");
    assert!(
        error.contains("within 1 s") && error.contains("PULL_TIMEOUT"),
        "{error}"
    );
}

#[test]
fn content_that_the_store_does_not_keep_fails_the_image_after_one_request() {
    let upstream = Registry::new();
    let cache = started(Server::options(&upstream).env("CACHE_MAX_OBJECT_SIZE", 100_000));
    let seed = fresh_seed();
    for (repository, size) in [("app/held", 200_000), ("app/streamed", 3_000_000)] {
        let layer = Content::from(PseudoRandom::new(seed, size));
        let digest = layer.digest();
        Image::push(&upstream, repository, "v1", Flavor::Oci, &[layer]);
        let name = format!("{}/{repository}:v1", upstream.name());
        let (code, report) = load(&cache, &[&name, "--platform", "linux/amd64"]);
        let error = report["images"][0]["error"].as_str().expect("an error");
        assert_eq!(code, 1, "{report}");
        assert!(
            error.contains("did not keep") && error.contains("CACHE_MAX_OBJECT_SIZE"),
            "{error}"
        );
        assert_eq!(upstream.gets(&digest), 1, "{repository}");
    }
}

#[test]
fn list_of_the_configuration_is_for_a_command_without_images() {
    let upstream = Registry::new();
    let (_, names) = images(&upstream, 2);
    let directory = TempDir::new();
    let path = directory.path.join("images");
    fs::write(&path, &names[0]).expect("the directory is writable");
    let cache = started(Server::options(&upstream));
    let load_with_list = |arguments: &[&str]| {
        let output = Server::command(cache.home(), cache.root())
            .args([&["load", "--output", "json"][..], &AMD64, arguments].concat())
            .env("IMAGE_FILE", &path)
            .output()
            .expect("the binary starts");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let images = report["images"].as_array().expect("a list").clone();
        images
            .iter()
            .map(|image| image["image"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(load_with_list(&[]), [json!(names[0])]);
    assert_eq!(load_with_list(&[&names[1]]), [json!(names[1])]);
    let flag = format!("--image-file={}", path.display());
    assert_eq!(
        load_with_list(&[&names[1], &flag]),
        [json!(names[1]), json!(names[0])]
    );
}

#[test]
fn private_image_is_loaded_with_the_credentials_of_the_configuration_and_stays_private() {
    let upstream = Registry::new();
    upstream.require_tokens(Auth::basic());
    upstream.user("alice", "secret");
    upstream.allow("alice", "app/0");
    let keys = "auth: {username: alice, password: secret}, access: verify";
    let options = Server::bare().registry_with(upstream.name(), upstream.addr(), keys);
    let cache = started(options);
    let (pushed, names) = images(&upstream, 1);
    let (code, report) = load(&cache, &[&[names[0].as_str()][..], &AMD64].concat());
    assert_eq!(code, 0, "{report}");
    expect_stored(&cache, &pushed);
    for path in [
        upstream.manifest_url("app/0", "v1"),
        upstream.manifest_url("app/0", &pushed[0].digest),
        upstream.blob_url("app/0", &pushed[0].blobs[0].0),
    ] {
        let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
        assert_eq!(got.status, 401, "{path}");
    }
}

#[test]
fn preload_with_an_unreachable_registry_never_keeps_the_cache_from_serving() {
    let upstream = Registry::new();
    let unreachable = Registry::new();
    let (pushed, names) = images(&upstream, 1);
    let away = unreachable.name();
    unreachable.down();
    let directory = TempDir::new();
    let path = directory.path.join("images");
    let text = format!("{away}/app/0:v1\n{}\nWRONG\n", names[0]);
    fs::write(&path, text).expect("the directory is writable");
    let options = Server::options(&upstream)
        .registry(away.clone(), unreachable.addr())
        .env("PRELOAD_IMAGES", path.display())
        .env("LOAD_PLATFORMS", "linux/amd64");
    let cache = started(options);
    assert_eq!(cache.client().get("/v2/").status, 200);
    cache.wait_stderr("preload completed");
    let stderr = cache.stderr();
    let line = |phrase: &str| {
        let found = stderr.lines().find(|line| line.contains(phrase));
        found.unwrap_or_else(|| panic!("{phrase}: {stderr}")).to_owned()
    };
    assert!(line("preload started").contains("images=2"), "{stderr}");
    assert!(line("image not preloaded").contains(&away), "{stderr}");
    assert!(line("preload list entry ignored").contains("line=3"), "{stderr}");
    let completed = line("preload completed");
    assert!(
        completed.contains("held=1") && completed.contains("failed=1"),
        "{completed}"
    );
    assert_eq!(stderr.matches("image not preloaded").count(), 1);
    expect_stored(&cache, &pushed);
}

#[test]
fn unusable_preload_list_is_a_warning() {
    let upstream = Registry::new();
    let options = Server::options(&upstream).env("PRELOAD_IMAGES", "/nowhere/images");
    let cache = started(options);
    cache.wait_stderr("preload list unusable");
    assert_eq!(cache.client().get("/v2/").status, 200);
}

#[test]
fn preload_is_a_job_that_shows_its_images_and_can_be_canceled() {
    let upstream = Registry::new();
    // The bytes of small blobs count when the blob is whole.
    let layer = Content::from(PseudoRandom::new(fresh_seed(), 3_000_000));
    let image = Image::push(&upstream, "app/0", "v1", Flavor::Oci, &[layer]);
    let name = format!("{}/app/0:v1", upstream.name());
    let gate = Gate::new();
    let (digest, content) = &image.blobs[1];
    upstream.on(On::path(digest).get(), Reply::new().hold_at(2_000_000, &gate));
    let directory = TempDir::new();
    let path = directory.path.join("images");
    fs::write(&path, &name).expect("the directory is writable");
    let options = Server::options(&upstream)
        .env("PRELOAD_IMAGES", path.display())
        .env("LOAD_PLATFORMS", "linux/amd64");
    let cache = started(options);
    gate.wait_arrived(1);
    let job = || send_json(&cache, "GET", "/api/v1/jobs/1", "").1;
    let arrived = |job: &Value| job["images"][0]["bytes"].as_u64().unwrap_or(0);
    let others = image.blobs[0].1.size();
    eventually("the arrived bytes of the unfinished blob count", || {
        (others + 1..others + content.size()).contains(&arrived(&job()))
    });
    let status = job();
    assert_eq!(
        (&status["kind"], &status["images"][0]["image"]),
        (&json!("load"), &json!(name)),
        "{status}"
    );
    assert_eq!(status["images"][0]["registry"], json!(upstream.name()));
    assert_eq!(
        status["images"][0]["bytesTotal"],
        json!(others + content.size()),
        "{status}"
    );
    assert_eq!(run(&cache, &["jobs", "cancel", "1"]).status.code(), Some(0));
    eventually("the job ends", || job()["state"] == "canceled");
    assert_eq!(job()["images"], Value::Null);
    gate.open();
    cache.wait_stderr("preload completed");
    assert!(cache.stderr().contains("job=1"), "{}", cache.stderr());
}
