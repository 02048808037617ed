//! Commands that look at stored content or remove it.

/// The listener of the admin API: tokens, roles, pages and forged requests.
mod admin;
/// Rules that remove images in the background.
mod background;

/// The description of the admin API.
mod description;

/// The images of a store, beside a running cache and without one.
mod list;

/// The commands `purge` and `prune`, and the admin socket.
mod remove;

use crate::harness::image::ACCEPT_ALL;
use crate::harness::*;

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
