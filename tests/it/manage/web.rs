//! The web page: its addresses, its fields, and its access.

use super::admin::{send, start, start_with};
use crate::harness::client::Response;
use crate::harness::*;

/// The fields that keep a browser from foreign content.
const FIELDS: [(&str, &str); 4] = [
    ("Content-Security-Policy", "default-src 'none'"),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "require-trusted-types-for 'script'"),
];

#[track_caller]
fn assert_restricted(response: &Response) {
    for (name, part) in FIELDS {
        let value = response.field(name).unwrap_or_default();
        assert!(value.contains(part), "{name}: {value}");
    }
}

fn text(response: &Response) -> String {
    String::from_utf8_lossy(&response.body).into_owned()
}

/// Returns the paths of the files that a page names.
fn files(page: &str) -> Vec<String> {
    let parts = page.split('"').filter(|part| part.starts_with("/ui/"));
    parts.map(str::to_owned).collect()
}

#[test]
fn page_of_the_data_port_names_the_host_of_the_request() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let page = cache.client().get_with("/", &[("Host", "cache.example:8080")]);
    assert_eq!(page.status, 200);
    assert_restricted(&page);
    assert!(text(&page).contains("docker pull cache.example:8080/docker.io/library/alpine:3.20"));
    let hostile = cache
        .client()
        .get_with("/?image=%3Cscript%3E", &[("Host", "a&b")]);
    assert!(
        !text(&hostile).contains("a&b") && !text(&hostile).contains("<script>"),
        "{}",
        text(&hostile)
    );
    let head = cache.client().head("/");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(cache.client().request("POST", "/", &[]).status, 405);
}

#[test]
fn base_url_replaces_the_host_of_the_request() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("BASE_URL", "https://cache.example")
        .start();
    let page = text(&cache.client().get("/?image=nginx"));
    assert!(
        page.contains("podman pull cache.example/docker.io/library/nginx:latest"),
        "{page}"
    );
}

#[test]
fn files_are_immutable_and_compressed_and_pages_are_revalidated() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let page = cache.client().get("/");
    let files = files(&text(&page));
    assert_eq!(files.len(), 2, "{files:?}");
    for path in &files {
        let plain = cache.client().get(path);
        assert_restricted(&plain);
        assert!(
            plain
                .field("Cache-Control")
                .is_some_and(|value| value.contains("immutable"))
        );
        assert_eq!(plain.field("Content-Encoding"), None);
        let gzip = cache.client().get_with(path, &[("Accept-Encoding", "gzip")]);
        assert_eq!(gzip.field("Content-Encoding"), Some("gzip"));
        assert!(gzip.body.len() < plain.body.len());
    }
    let etag = page.field("ETag").expect("a page has an entity tag").to_owned();
    let known = cache.client().get_with("/", &[("If-None-Match", &etag)]);
    assert_eq!((known.status, known.body.len()), (304, 0));
    assert_eq!(cache.client().get("/ui/style.css").status, 404);
}

#[test]
fn page_needs_no_login_and_web_ui_turns_the_page_off() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("AUTH_USERNAME", "u")
        .env("AUTH_PASSWORD", "p")
        .start();
    assert_eq!(cache.client().get("/").status, 200);
    assert_eq!(cache.client().get("/v2/").status, 401);
    let off = start_with(&upstream, &[("WEB_UI", "off")]);
    assert_eq!(off.server.client().get("/").status, 404);
    assert_eq!(send(off.addr(), None, "GET /", &[]).status, 404);
}

#[test]
fn page_of_the_admin_listener_needs_no_token_but_its_data_does() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let page = send(cache.addr(), None, "GET /", &[]);
    assert_eq!(page.status, 200);
    assert_restricted(&page);
    for path in files(&text(&page)) {
        let file = send(cache.addr(), None, &format!("GET {path}"), &[]);
        assert_eq!(file.status, 200, "{path}");
        assert_restricted(&file);
    }
    let etag = page.field("ETag").expect("a page has an entity tag").to_owned();
    assert_eq!(
        send(cache.addr(), None, "GET /", &[("If-None-Match", &etag)]).status,
        304
    );
    assert_eq!(send(cache.addr(), None, "GET /api/v1/images", &[]).status, 401);
    assert_eq!(
        send(cache.addr(), None, "GET /", &[("Host", "evil.example")]).status,
        421
    );
    assert_eq!(send(cache.addr(), None, "POST /", &[]).status, 405);
}
