//! Commands that look at stored content or remove it.

/// The listener of the admin API: tokens, roles, pages and forged requests.
mod admin;
/// Rules that remove images in the background.
mod background;

/// The description of the admin API.
mod description;

/// Kills during removals.
mod kill;

/// The images of a store, beside a running cache and without one.
mod list;

/// The commands `purge` and `prune`, and the admin socket.
mod remove;

/// The scrub of a running cache, and the verification before the first response.
mod scrub;

/// The command `verify` and its jobs.
mod verify;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::harness::image::ACCEPT_ALL;
use crate::harness::*;

/// Sends a request to the admin socket, with `body` as JSON. Returns the status and the JSON of the
/// response.
#[track_caller]
fn admin(cache: &Server, method: &str, path: &str, body: &str) -> (u16, Value) {
    let mut socket = UnixStream::connect(cache.root().join(".admin.sock")).expect("the socket accepts");
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    socket.write_all(request.as_bytes()).expect("the socket reads");
    let mut text = String::new();
    socket.read_to_string(&mut text).expect("the response is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = serde_json::from_str(body).unwrap_or_else(|_| panic!("no JSON: {text}"));
    (status.expect("a status"), body)
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
