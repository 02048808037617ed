//! Commands that look at stored content or remove it.

/// The listener of the admin API: tokens, roles, pages and forged requests.
mod admin;

/// Rules that remove images in the background.
mod background;

/// The commands on a bucket.
mod bucket;

/// The description of the admin API.
mod description;

/// The command `export`: bundles, volumes and deltas.
mod export;

/// The command `import`: archives, split bundles and directories.
mod import;

/// The space that removals free.
mod freed;

/// Kills during removals.
mod kill;

/// The commands of ociregistry on the data port.
mod legacy;

/// The images of a store, beside a running cache and without one.
mod list;

/// The command `load`, its jobs, and `PRELOAD_IMAGES`.
mod load;

/// The metrics for Prometheus.
mod metrics;

/// References that clients requested in vain.
mod missing;

/// The formats of the output of all commands.
mod output;

/// Pins with platforms and ranges of versions, `pin --fetch`, and damaged content of pinned images.
mod pins;

/// The progress of long commands.
mod progress;

/// The command `offline-ready`.
mod ready;

/// Loads with referrers and signatures.
mod referrers;

/// Registries with a store of their own.
mod registry_stores;

/// The commands `purge` and `prune`, and the admin socket.
mod remove;

/// The scrub of a running cache, and the verification before the first response.
mod scrub;

/// Events, lines of JSON, sorted pages and fills of the admin API.
mod streams;

/// The command `verify` and its jobs.
mod verify;

/// The command `top`.
mod top;

/// Rules that keep images up to date.
mod warm;
/// The web page.
mod web;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};

use serde_json::Value;

use crate::harness::image::{ACCEPT_ALL, Flavor};
use crate::harness::*;

/// Starts a cache with a directory, and waits for the end of its scan.
fn started(options: server::Options) -> Server {
    let cache = options.env("STORAGE_BACKEND", "fs").start();
    cache.wait_stderr("store scanned");
    cache
}

/// Runs a command with the settings of `cache`.
fn run(cache: &Server, arguments: &[&str]) -> Output {
    Server::command(cache.home(), cache.root())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts")
}

/// Runs a command that fails with an exit code and a message.
#[track_caller]
fn fails(cache: &Server, code: i32, part: &str, arguments: &[&str]) {
    let output = run(cache, arguments);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert!(stderr.contains(part), "{arguments:?}: {stderr}");
}

/// Sends a request to the admin socket. Returns status, head and body of the response.
#[track_caller]
fn send(cache: &Server, request: &str) -> (u16, String, String) {
    let mut socket = UnixStream::connect(cache.root().join(".admin.sock")).expect("the socket accepts");
    socket.write_all(request.as_bytes()).expect("the socket reads");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("the response is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (
        status.expect("a status"),
        head.to_ascii_lowercase(),
        body.to_owned(),
    )
}

/// Sends a request to the admin socket, with `body` as JSON. Returns the status and the JSON of the
/// response.
#[track_caller]
fn send_json(cache: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    let (status, _, body) = send(cache, &request);
    let json = serde_json::from_str(&body).unwrap_or_else(|_| panic!("no JSON: {body}"));
    (status, json)
}

/// Returns the name of an image of `org/app`: `rest` is empty, a tag or a digest.
fn name(upstream: &Registry, rest: &str) -> String {
    format!("{}/org/app{rest}", upstream.name())
}

/// Two images of `org/app` with a common layer, pulled by the tags `v1` and `v2`. Each has a config and
/// two layers.
fn two_images(cache: &Server, upstream: &Registry) -> [Image; 2] {
    let seed = fresh_seed();
    let layer = |n: u64| Content::from(PseudoRandom::new(seed + n, 300_000));
    let images = [1, 2].map(|n| {
        let tag = format!("v{n}");
        let image = Image::push(upstream, "org/app", &tag, Flavor::Oci, &[layer(0), layer(n)]);
        pull(cache, upstream, "org/app", &tag, &image);
        image
    });
    // The pointer of the tag is written after the manifest.
    cache.settled_store();
    eventually("both tags are stored", || {
        let output = run(cache, &["list", "--output", "name"]);
        String::from_utf8_lossy(&output.stdout).matches(":v").count() == 2
    });
    images
}

/// Pulls a manifest and all its blobs, and waits until the cache has stored them.
fn pull(cache: &Server, upstream: &Registry, repository: &str, reference: &str, image: &Image) {
    let path = upstream.manifest_url(repository, reference);
    let got = cache.client().get_with(&path, &[("Accept", ACCEPT_ALL)]);
    got.expect(&image.manifest);
    cache.wait_stored(&image.digest);
    for (digest, content) in &image.blobs {
        let path = upstream.blob_url(repository, digest);
        cache.client().get(&path).expect(&content.bytes());
        cache.wait_stored(digest);
    }
}
