//! The page of the admin listener. Its content comes from the admin API.

use super::assets::{Assets, WebFile};
use super::markup::filled;

const TEMPLATE: &str = include_str!("files/admin.html");

/// Renders the page, plain and compressed.
pub fn render(assets: &Assets) -> (WebFile, WebFile) {
    let html = filled(
        TEMPLATE,
        &[
            ("style", assets.path("style")),
            ("admin-style", assets.path("admin-style")),
            ("script", assets.path("admin")),
            ("version", env!("CARGO_PKG_VERSION")),
        ],
    );
    let page = WebFile::page(html);
    let gzip = page.compressed();
    (page, gzip)
}
