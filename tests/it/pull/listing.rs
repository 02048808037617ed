//! Lists of tags and of referrers: repository names, links to the next page, lifetimes, and access.

use serde_json::{Value, json};

use crate::harness::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn tags_reply(tags: &Value) -> Reply {
    let body = json!({"name": "upstream/name", "tags": tags}).to_string();
    Reply::status(200).body(body)
}

fn index_reply(manifests: &Value) -> Reply {
    let body = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
    Reply::status(200).body(body).set("Content-Type", INDEX)
}

fn body(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{response}");
    serde_json::from_slice(&response.body).unwrap_or_else(|error| panic!("{error}: {response}"))
}

fn tags_of(response: &Response) -> Vec<String> {
    let json = body(response);
    let tags = json["tags"].as_array().expect("an array");
    tags.iter()
        .map(|tag| tag.as_str().expect("a text").to_owned())
        .collect()
}

/// Returns the target of the only `Link`, which leads to the next page.
fn next_of(response: &Response) -> Option<String> {
    let link = response.field("link")?;
    let (target, relation) = link.strip_prefix('<').unwrap().split_once('>').unwrap();
    assert_eq!(relation, "; rel=\"next\"", "{link}");
    Some(target.to_owned())
}

fn digest_of(letter: char) -> String {
    format!("sha256:{}", letter.to_string().repeat(64))
}

#[test]
fn tags_are_listed_under_the_name_the_client_used() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("DEFAULT_REGISTRY", upstream.name())
        .start();
    let name = upstream.name();
    upstream.on(
        On::path("/v2/org/app/tags/list"),
        tags_reply(&json!(["1.0", "V1_2", "latest"])),
    );
    for (path, named) in [
        (format!("/v2/{name}/org/app/tags/list"), format!("{name}/org/app")),
        (format!("/v2/org/app/tags/list?ns={name}"), "org/app".to_owned()),
        ("/v2/org/app/tags/list".to_owned(), "org/app".to_owned()),
    ] {
        let got = cache.client().get(&path);
        assert_eq!(tags_of(&got), ["1.0", "V1_2", "latest"]);
        assert_eq!(body(&got)["name"], named);
        assert_eq!(got.field("content-type"), Some("application/json"));
        assert_eq!(got.field("cache-control"), Some("public, max-age=15"));
        assert_eq!(got.field("oci-namespace").is_some(), path.contains("ns="));
        let head = cache.client().head(&path);
        assert_eq!(
            (head.status, head.content_length()),
            (200, Some(got.body.len() as u64))
        );
        assert_eq!(head.x_cache(), "HIT");
    }
    assert_eq!(
        upstream.requests(),
        1,
        "every name of the repository uses one list: {:#?}",
        upstream.log()
    );
}

#[test]
fn concurrent_list_requests_cost_one_upstream_request() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(2).start();
    let gate = Gate::new();
    upstream.on(On::path("/tags/list"), tags_reply(&json!(["a"])).hold_head(&gate));
    let path = format!("/v2/{}/a/tags/list", upstream.name());
    std::thread::scope(|scope| {
        let requests: Vec<_> = (0..40)
            .map(|_| scope.spawn(|| cache.client().get(&path)))
            .collect();
        gate.wait_arrived(1);
        gate.open();
        for one in requests {
            assert_eq!(tags_of(&one.join().unwrap()), ["a"]);
        }
    });
    assert_eq!(upstream.requests(), 1, "{:#?}", upstream.log());
}

/// For every format of a registry's links, the next page is requested at the cache. All pages
/// together form the complete list.
#[test]
fn the_next_page_is_found_at_the_cache() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("DEFAULT_REGISTRY", upstream.name())
        .start();
    let name = upstream.name();
    let page = |fragment: &str, tag: &str, link: Option<&str>| {
        let reply = tags_reply(&json!([tag]));
        let reply = match link {
            Some(link) => reply.set("Link", link),
            None => reply,
        };
        upstream.on(On::path(fragment), reply);
    };
    page("a/tags/list?n=1&last=t3&token=A%2FB%3D", "t4", None);
    page(
        "a/tags/list?n=1&last=t2",
        "t3",
        Some("<?n=1&last=t3&token=A%2FB%3D&ns=somewhere.else>;rel=next"),
    );
    page(
        "a/tags/list?n=1&last=t1",
        "t2",
        Some(
            "</x>; rel=\"prev\", <https://elsewhere.example:444/v9/?n=1&last=t2#x>; title=\"a, b\"; rel=\"next last\"",
        ),
    );
    page(
        "a/tags/list?n=1",
        "t1",
        Some("</v2/a/tags/list?n=1&last=t1>; rel=\"next\""),
    );
    for (first, keeps) in [
        (
            format!("/v2/{name}/a/tags/list?n=1"),
            format!("/v2/{name}/a/tags/list?"),
        ),
        (
            format!("/v2/a/tags/list?n=1&ns={}", name.replace(':', "%3A")),
            "/v2/a/tags/list?".to_owned(),
        ),
        ("/v2/a/tags/list?n=1".to_owned(), "/v2/a/tags/list?".to_owned()),
    ] {
        let (mut path, mut found) = (Some(first.clone()), Vec::new());
        while let Some(asked) = path {
            assert!(asked.starts_with(&keeps), "{asked}");
            assert_eq!(asked.contains("ns="), first.contains("ns="), "{asked}");
            let got = cache.client().get(&asked);
            found.extend(tags_of(&got));
            path = next_of(&got);
            assert!(found.len() <= 4, "the list has too many pages: {found:?}");
        }
        assert_eq!(found, ["t1", "t2", "t3", "t4"], "{first}");
    }
    assert_eq!(upstream.requests(), 4);
}

#[test]
fn invalid_next_page_links_are_not_forwarded() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    for (n, link) in [
        "</v2/a/tags/list>; rel=\"next\"",
        "</v2/a/tags/list?last=b>; rel=\"prev\"",
        "</v2/a/tags/list?last=b",
        "not a link",
        "<?ns=x.io>; rel=next",
    ]
    .into_iter()
    .enumerate()
    {
        let repository = format!("r{n}");
        upstream.on(
            On::path(format!("/v2/{repository}/")),
            tags_reply(&json!(["a"])).set("Link", link),
        );
        let got = cache
            .client()
            .get(&format!("/v2/{}/{repository}/tags/list", upstream.name()));
        assert_eq!((got.status, next_of(&got)), (200, None), "{link}: {got}");
    }
    // A link to the requested page itself is not a link to the next page.
    upstream.on(
        On::path("/v2/same/"),
        tags_reply(&json!(["a"])).set("Link", "<?n=5&last=x>; rel=next"),
    );
    let got = cache
        .client()
        .get(&format!("/v2/{}/same/tags/list?n=5&last=x", upstream.name()));
    assert_eq!((got.status, next_of(&got)), (200, None), "{got}");
}

#[test]
fn requested_page_size_is_validated_and_capped() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    upstream.on(On::path("/tags/list"), tags_reply(&json!(["a"])));
    let list = |query: &str| {
        cache
            .client()
            .get(&format!("/v2/{}/a/tags/list{query}", upstream.name()))
    };
    for bad in ["?n=-1", "?n=x", "?n=1&n=2", "?last=a&last=b", "?n=1e3"] {
        list(bad).expect_error(400, "UNSUPPORTED");
    }
    let none = list("?n=0&last=b");
    assert_eq!((tags_of(&none), next_of(&none)), (Vec::new(), None));
    assert_eq!(
        upstream.requests(),
        0,
        "an invalid name causes an upstream request: {:#?}",
        upstream.log()
    );
    for (query, asked) in [
        ("", "/v2/a/tags/list"),
        ("?n=7", "/v2/a/tags/list?n=7"),
        ("?n=1001", "/v2/a/tags/list?n=1000"),
        (
            "?n=99999999999999999999999&last=b",
            "/v2/a/tags/list?n=1000&last=b",
        ),
    ] {
        assert_eq!(list(query).status, 200);
        assert_eq!(upstream.log().last().unwrap().target, asked, "{query}");
    }
}

#[test]
fn invalid_list_is_an_upstream_error_and_null_is_an_empty_list() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let list = |repository: &str, reply: Reply| {
        upstream.on(On::path(format!("/v2/{repository}/")), reply);
        cache
            .client()
            .get(&format!("/v2/{}/{repository}/tags/list", upstream.name()))
    };
    assert_eq!(
        tags_of(&list("null", tags_reply(&Value::Null))),
        Vec::<String>::new()
    );
    let odd = json!(["a", 3, null, ["b"], "not a tag", "\u{1b}[2J", "<script>", "z"]);
    assert_eq!(tags_of(&list("odd", tags_reply(&odd))), ["a", "z"]);
    for (repository, reply) in [
        (
            "html",
            Reply::status(200)
                .body("<html>hello</html>")
                .set("Content-Type", "text/html"),
        ),
        ("text", tags_reply(&json!("a"))),
        ("cut", Reply::status(200).body("{\"tags\":[\"a\"")),
        ("deep", Reply::status(200).body("[".repeat(100_000))),
        ("large", tags_reply(&json!([" ".repeat(5 * 1024 * 1024)]))),
        (
            "endless",
            tags_reply(&json!([" ".repeat(5 * 1024 * 1024)])).framing(Framing::Chunked),
        ),
        ("gzip", tags_reply(&json!(["a"])).set("Content-Encoding", "gzip")),
    ] {
        let got = list(repository, reply);
        assert_eq!(got.status, 502, "{repository}: {got}");
    }
}

#[test]
fn a_list_is_stale_rather_than_missing_while_its_upstream_is_away() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let name = upstream.name();
    let digest = digest_of('a');
    let tags = format!("/v2/{name}/a/tags/list");
    let referrers = format!("/v2/{name}/a/referrers/{digest}");
    upstream.on(On::path("/tags/list").once(), tags_reply(&json!(["a"])));
    upstream.on(On::path("/referrers/").once(), index_reply(&json!([])));
    let before: Vec<_> = [&tags, &referrers].map(|path| cache.client().get(path)).to_vec();
    for status in [500, 503, 429] {
        upstream.on(On::any().times(2), Reply::status(status));
    }
    for round in 0..4 {
        if round == 3 {
            upstream.down();
        }
        for (path, before) in [&tags, &referrers].into_iter().zip(&before) {
            let got = cache.client().get(path);
            got.expect(&before.body);
            assert_eq!(got.x_cache(), "STALE", "{got}");
            let warning = got.field("warning").unwrap();
            assert!(
                warning.starts_with("299 - \"") && warning.contains(&name),
                "{warning}"
            );
            assert!(
                got.field("cache-status")
                    .unwrap()
                    .contains("upstream-unavailable"),
                "{got}"
            );
        }
    }
    let other = cache.client().get(&format!("/v2/{name}/other/tags/list"));
    assert!(
        matches!(other.status, 429 | 502),
        "a list without a cached copy has a wrong status: {other}"
    );
}

#[test]
fn list_errors_of_the_upstream_are_mapped_by_class() {
    for (status, code) in [
        (404, "NAME_UNKNOWN"),
        (403, "DENIED"),
        (429, "TOOMANYREQUESTS"),
        (500, "UNAVAILABLE"),
    ] {
        // A new registry each time, because a failed or rate-limited registry gets no immediate
        // request.
        let upstream = Registry::new();
        let cache = Server::start(&upstream);
        upstream.on(On::any(), Reply::status(status).set("Retry-After", "7"));
        let got = cache
            .client()
            .get(&format!("/v2/{}/a/tags/list", upstream.name()));
        got.expect_error(if status == 500 { 502 } else { status }, code);
        if status == 429 {
            assert_eq!(got.field("retry-after"), Some("7"));
        }
    }
}

/// A 404 is not an outage, so the cache must not serve the previous list.
#[test]
fn list_is_not_served_stale_after_a_404() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("TAG_TTL", "0s").start();
    let path = format!("/v2/{}/a/tags/list", upstream.name());
    upstream.on(On::path("/tags/list").once(), tags_reply(&json!(["a"])));
    assert_eq!(cache.client().get(&path).status, 200);
    upstream.on(On::path("/tags/list").once(), Reply::status(404));
    cache.client().get(&path).expect_error(404, "NAME_UNKNOWN");
    upstream.down();
    assert_eq!(cache.client().get(&path).status, 502);
}

#[test]
fn list_fetched_with_client_credentials_is_not_served_to_other_clients() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let name = upstream.name();
    let paths = [
        format!("/v2/{name}/a/tags/list"),
        format!("/v2/{name}/a/referrers/{}", digest_of('a')),
    ];
    upstream.on(
        On::path("/tags/list").authorized(true),
        tags_reply(&json!(["secret"])),
    );
    upstream.on(
        On::path("/referrers/").authorized(true),
        index_reply(&json!([{"artifactType": "secret"}])),
    );
    upstream.on(On::any(), Reply::status(401));
    for path in &paths {
        let mine = [("Authorization", "Basic bWU6bXk=")];
        for _ in 0..2 {
            let got = cache.client().get_with(path, &mine);
            assert_eq!(got.status, 200, "{got}");
            assert!(String::from_utf8_lossy(&got.body).contains("secret"), "{got}");
            assert_eq!(got.field("cache-control"), Some("private"));
        }
        let got = cache.client().get(path);
        assert!(matches!(got.status, 401 | 403), "{got}");
        assert!(!got.to_string().contains("secret"), "{got}");
    }
    let with = upstream.count(|seen| seen.field("authorization") == Some("Basic bWU6bXk="));
    assert_eq!(
        with,
        4,
        "not every request is sent to the upstream: {:#?}",
        upstream.log()
    );
}

/// A public list needs no credentials.
#[test]
fn a_public_list_is_not_asked_for_with_a_client_s_credentials() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    upstream.on(On::path("/tags/list"), tags_reply(&json!(["a"])));
    let path = format!("/v2/{}/a/tags/list", upstream.name());
    let got = cache
        .client()
        .get_with(&path, &[("Authorization", "Bearer canary")]);
    assert_eq!(tags_of(&got), ["a"]);
    assert_eq!(upstream.count(|seen| seen.field("authorization").is_some()), 0);
}

#[test]
fn referrers_are_passed_on_and_chosen_where_the_upstream_does_not_choose() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = digest_of('b');
    let all = json!([
        {"mediaType": "m", "digest": digest_of('1'), "size": 1, "artifactType": "application/spdx+json"},
        {"mediaType": "m", "digest": digest_of('2'), "size": 2, "artifactType": "application/vnd.sig"},
        {"mediaType": "m", "digest": digest_of('3'), "size": 3},
    ]);
    let name = upstream.name();
    let ask = |repository: &str, query: &str| {
        cache
            .client()
            .get(&format!("/v2/{name}/{repository}/referrers/{digest}{query}"))
    };
    upstream.on(On::path("/v2/plain/"), index_reply(&all));
    upstream.on(
        On::path("/v2/chooses/"),
        index_reply(&json!([all[2]])).set("OCI-Filters-Applied", "artifactType"),
    );

    let got = ask("plain", "");
    assert_eq!(body(&got)["manifests"], all);
    assert_eq!(
        (got.field("content-type"), got.field("oci-filters-applied")),
        (Some(INDEX), None)
    );
    for (query, kept) in [
        ("?artifactType=application%2Fspdx%2Bjson", json!([all[0]])),
        ("?artifactType=application/vnd.sig", json!([all[1]])),
        ("?artifactType=application%2Fnone", json!([])),
    ] {
        let got = ask("plain", query);
        assert_eq!(body(&got)["manifests"], kept, "{query}");
        assert_eq!(got.field("oci-filters-applied"), Some("artifactType"));
        assert_eq!(body(&got)["mediaType"], INDEX);
        assert!(
            upstream.log().last().unwrap().target.ends_with(query),
            "the upstream receives the query"
        );
    }
    assert_eq!(
        ask("plain", "").x_cache(),
        "HIT",
        "each query has a separate cached response"
    );

    let got = ask("chooses", "?artifactType=application/vnd.sig");
    assert_eq!(
        body(&got)["manifests"],
        json!([all[2]]),
        "the response has the selection of the upstream"
    );
    assert_eq!(got.field("oci-filters-applied"), Some("artifactType"));
    ask("plain", "?artifactType=a&artifactType=b").expect_error(400, "UNSUPPORTED");
}

#[test]
fn referrers_have_pages_too() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let (name, digest) = (upstream.name(), digest_of('c'));
    let link = format!("</v2/a/referrers/{digest}?artifactType=x%2Fy&page=2>; rel=\"next\"");
    upstream.on(On::path("page=2"), index_reply(&json!([])));
    upstream.on(On::path("/referrers/"), index_reply(&json!([])).set("Link", link));
    let got = cache
        .client()
        .get(&format!("/v2/{name}/a/referrers/{digest}?artifactType=x%2Fy"));
    let next = next_of(&got).unwrap();
    assert_eq!(
        next,
        format!("/v2/{name}/a/referrers/{digest}?artifactType=x%2Fy&page=2")
    );
    assert_eq!(next_of(&cache.client().get(&next)), None);
}

/// After a 404, clients search for the tag that replaces the list. After any other error, clients
/// abort.
#[test]
fn a_registry_without_referrers_is_404_however_it_says_so() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let name = upstream.name();
    let digest = digest_of('d');
    let page = format!("http://{}/web/page", upstream.addr());
    for (repository, reply) in [
        ("missing", Reply::status(404)),
        ("gone", Reply::status(410)),
        ("not-allowed", Reply::status(405)),
        ("not-acceptable", Reply::status(406)),
        ("not-implemented", Reply::status(501)),
        ("bad", Reply::status(400)),
        ("moved", Reply::redirect(303, &page)),
        ("moved-here", Reply::redirect(307, "/v2/elsewhere/referrers/x")),
        (
            "html",
            Reply::status(200)
                .body("<html></html>")
                .set("Content-Type", "text/html; charset=utf-8"),
        ),
        ("json", Reply::status(200).body("{\"message\":\"hello\"}")),
        (
            "manifest",
            Reply::status(200)
                .body("{}")
                .set("Content-Type", "application/vnd.oci.image.manifest.v1+json"),
        ),
    ] {
        upstream.on(On::path(format!("/v2/{repository}/")), reply);
        let got = cache
            .client()
            .get(&format!("/v2/{name}/{repository}/referrers/{digest}"));
        got.expect_error(404, "MANIFEST_UNKNOWN");
        let head = cache
            .client()
            .head(&format!("/v2/{name}/{repository}/referrers/{digest}"));
        assert_eq!(head.status, 404, "{repository}");
    }
    // The cache follows a redirect only within the API.
    assert_eq!(upstream.gets("/web/page"), 0, "{:#?}", upstream.log());
    assert!(upstream.gets("/v2/elsewhere/") > 0, "{:#?}", upstream.log());
    for bad in ["latest", "sha256:abc", "sha256-abc"] {
        cache
            .client()
            .get(&format!("/v2/{name}/a/referrers/{bad}"))
            .expect_error(400, "DIGEST_INVALID");
    }
}

/// Clients detect support for referrers with a request for this digest.
#[test]
fn referrers_of_the_zero_digest_are_answered() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let path = |repository: &str| {
        format!(
            "/v2/{}/{repository}/referrers/{}",
            upstream.name(),
            digest_of('0')
        )
    };
    upstream.on(On::path("/v2/has/"), index_reply(&Value::Null));
    assert_eq!(body(&cache.client().get(&path("has")))["manifests"], json!([]));
    cache
        .client()
        .get(&path("has-not"))
        .expect_error(404, "MANIFEST_UNKNOWN");
}

#[test]
fn lists_are_not_cached_without_tag_caching() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream)
        .env("CACHE_TAG_MANIFESTS", "false")
        .start();
    upstream.on(On::path("/tags/list"), tags_reply(&json!(["a"])));
    let path = format!("/v2/{}/a/tags/list", upstream.name());
    for asked in 1..=3 {
        assert_eq!(cache.client().get(&path).status, 200);
        assert_eq!(upstream.requests(), asked);
    }
    upstream.down();
    assert_eq!(cache.client().get(&path).status, 502);
}
