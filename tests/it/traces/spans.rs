//! Spans at a collector: their parents, links and attributes, and `traceparent` in both directions.

use std::collections::BTreeSet;

use crate::harness::h2::Peer;
use crate::harness::server::Options;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const SPAN: &str = "00f067aa0ba902b7";

fn traced(options: Options, collector: &Collector) -> Options {
    options.env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())
}

fn named<'a>(spans: &'a [Span], name: &'a str) -> impl Iterator<Item = &'a Span> {
    spans.iter().filter(move |span| span.name == name)
}

/// Returns the only span of this name.
#[track_caller]
fn only<'a>(spans: &'a [Span], name: &'a str) -> &'a Span {
    let found: Vec<&Span> = named(spans, name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

#[test]
fn a_cold_pull_with_two_followers_has_one_fill_span_with_links_from_both_and_no_secret() {
    const USER: &str = "canary-user";
    const PASSWORD: &str = "canary-password";
    const HEADER: &str = "canary-header";
    let (upstream, collector) = (Registry::new(), Collector::new(Answering::Status(200)));
    let content = PseudoRandom::new(fresh_seed(), 3 * MIB);
    let digest = upstream.blob(content.clone());
    upstream.require_tokens(Auth::default());
    upstream.user(USER, PASSWORD);
    upstream.allow(USER, "a");
    let keys = format!("auth: {{username: {USER}, password: {PASSWORD}}}");
    let options = Server::bare().registry_with(upstream.name(), upstream.addr(), keys);
    let cache = traced(options, &collector)
        .env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-key={HEADER}"))
        .start();
    let path = upstream.blob_url("a", &digest);
    let gate = Gate::new();
    upstream.on(
        On::path(&digest).authorized(true),
        Reply::new().hold_at(2 * MIB, &gate),
    );
    let query = format!("{path}?token=canary-query");
    let get = || {
        let mut connection = cache.client().open();
        connection.request("GET", &query, &[]).unwrap();
        let head = connection.read_head().unwrap();
        assert_eq!(head.status, 200);
        (connection, head)
    };
    // The fill has begun when its first client gets the head.
    let clients = [get(), get(), get()];
    gate.open();
    for (mut connection, head) in clients {
        let body = connection.read_body(head, "GET", &mut |_, _| crate::harness::client::Flow::Go);
        assert_eq!(body.unwrap().received, content.size);
    }

    let spans = collector.wait_spans("three requests and a fill", |spans| {
        named(spans, "request blob").count() == 3 && named(spans, "fill").count() == 1
    });
    let fill = only(&spans, "fill");
    let (followers, leaders): (Vec<&Span>, Vec<&Span>) =
        named(&spans, "request blob").partition(|span| span.id != fill.parent);
    assert_eq!(leaders.len(), 1, "{spans:#?}");
    assert!(leaders[0].links.is_empty() && leaders[0].parent.is_empty() && leaders[0].kind == 2);
    assert_eq!((&leaders[0].trace, fill.kind), (&fill.trace, 1));
    assert_eq!(leaders[0].attribute("oci_pull_through.result"), Some("miss"));
    let link = (fill.trace.clone(), fill.id.clone());
    for follower in &followers {
        assert_eq!(follower.links, std::slice::from_ref(&link), "{follower:#?}");
        assert_eq!(follower.attribute("oci_pull_through.result"), Some("collapsed"));
    }
    let traces: BTreeSet<&String> = named(&spans, "request blob").map(|span| &span.trace).collect();
    assert_eq!(traces.len(), 3, "each request is a root");
    for span in named(&spans, "request blob").chain([fill]) {
        assert_eq!(span.attribute("oci_pull_through.digest"), Some(digest.as_str()));
        assert_eq!(
            span.attribute("oci_pull_through.registry"),
            Some(upstream.name().as_str())
        );
        assert!(span.start <= span.end && !span.is_error, "{span:#?}");
    }
    assert_eq!(fill.attribute("oci_pull_through.result"), Some("completed"));
    let blob: Vec<&Span> = named(&spans, "upstream blob").collect();
    assert!(!blob.is_empty() && blob.iter().all(|span| span.parent == fill.id && span.kind == 3));
    let answered = blob
        .iter()
        .filter(|span| span.attribute("http.response.status_code") == Some("200"));
    assert_eq!(answered.count(), 1, "{blob:#?}");
    assert_eq!(only(&spans, "store").parent, fill.id);

    let token = upstream.token_of(USER, "a");
    for request in collector.requests() {
        assert!(
            request.head.starts_with("POST /v1/traces HTTP/1.1\r\n"),
            "{}",
            request.head
        );
        assert!(
            request.head.contains(&format!("x-key: {HEADER}")),
            "{}",
            request.head
        );
        assert!(
            request.head.contains("content-type: application/x-protobuf"),
            "{}",
            request.head
        );
        let body = String::from_utf8_lossy(&request.body);
        for secret in [USER, PASSWORD, HEADER, "canary-query", token.as_str()] {
            assert!(!body.contains(secret), "{secret}");
        }
    }
    assert!(!cache.stderr().contains(HEADER));
}

#[test]
fn a_hit_from_memory_has_one_span_below_the_span_of_its_client_over_both_protocols() {
    let (upstream, collector) = (Registry::new(), Collector::new(Answering::Status(200)));
    let cache = traced(Server::options(&upstream), &collector)
        .env("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        .start();
    let digest = upstream.blob("hello");
    let path = upstream.blob_url("a", &digest);
    cache.client().get(&path).expect(b"hello");
    wait_hit(&cache, &path);
    // Not sampled: the sampler records no root, and the decision of a parent counts.
    let unsampled = format!("00-{TRACE}-{SPAN}-00");
    cache.client().get_with(&path, &[("traceparent", &unsampled)]);
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    cache.client().get_with(&path, &[("traceparent", &sampled)]);
    let mut peer = Peer::begin(cache.addr());
    let stream = peer.request("GET", &path, &[("traceparent", &sampled)]);
    peer.answer(stream).expect(b"hello");

    let spans = collector.wait_spans("two requests", |spans| spans.len() == 2);
    for span in &spans {
        assert_eq!(span.name, "request blob");
        assert_eq!((span.trace.as_str(), span.parent.as_str()), (TRACE, SPAN));
        assert_eq!(span.attribute("oci_pull_through.result"), Some("hit"));
    }
    assert_ne!(spans[0].id, spans[1].id);
}

#[test]
fn access_log_has_the_trace_of_a_request_with_a_traceparent_also_while_traces_are_off() {
    use crate::lifecycle::logs::{requests, value};
    let upstream = Registry::new();
    let cache = Server::options(&upstream).start();
    let digest = upstream.blob("hello");
    let path = upstream.blob_url("a", &digest);
    cache.client().get(&path);
    let sent = format!("00-{TRACE}-{SPAN}-01");
    cache.client().get_with(&path, &[("traceparent", &sent)]);
    cache
        .client()
        .get_with(&path, &[("traceparent", &sent), ("traceparent", &sent)]);
    let lines = requests(&cache, 3);
    let found: Vec<Option<&str>> = lines.iter().map(|line| value(line, "trace_id")).collect();
    assert_eq!(found, [None, Some(TRACE), None], "{lines:?}");
    assert_eq!(upstream.count(|seen| seen.field("traceparent").is_some()), 0);
}

#[test]
fn traceparent_reaches_a_mirror_and_not_the_registry_or_a_redirect_target() {
    let (registry, mirror, storage) = (Registry::new(), Registry::new(), Registry::new());
    let collector = Collector::new(Answering::Status(200));
    let (name, addr, at) = (registry.name(), registry.addr(), mirror.addr());
    let options = Server::bare().config(format!(
        "registries:\n  - name: \"{name}\"\n    url: \"http://{addr}\"\n    insecure: true\n    mirrors: [\"http://{at}\"]\n"
    ));
    let cache = traced(options, &collector).start();
    let sent = format!("00-{TRACE}-{SPAN}-01");
    let get = |digest: &str| {
        let path = registry.blob_url("a", digest);
        cache.client().get_with(&path, &[("traceparent", &sent)])
    };
    // The first blob is on the mirror, the second behind a redirect of the mirror, and the third on
    // the registry only.
    let mut digests = Vec::new();
    for (content, place) in [("one", &mirror), ("two", &storage), ("three", &registry)] {
        digests.push(place.blob(content));
    }
    let target = format!(
        "http://{}{}",
        storage.addr(),
        format_args!("/v2/a/blobs/{}", digests[1])
    );
    mirror.on(On::path(&digests[1]), Reply::redirect(307, target));
    for (digest, body) in digests.iter().zip(["one", "two", "three"]) {
        get(digest).expect(body.as_bytes());
    }
    for other in [&registry, &storage] {
        assert!(other.requests() > 0);
        assert_eq!(other.count(|seen| seen.field("traceparent").is_some()), 0);
    }
    let seen: Vec<String> = mirror
        .log()
        .iter()
        .map(|seen| seen.field("traceparent").expect("traceparent").to_owned())
        .collect();
    assert!(seen.len() >= 3, "{seen:?}");
    let spans = collector.wait_spans("three requests", |spans| {
        named(spans, "request blob").count() == 3
    });
    for value in seen {
        let parts: Vec<&str> = value.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[3]), ("00", TRACE, "01"), "{value}");
        let of_request = spans.iter().find(|span| span.id == parts[2]);
        assert_eq!(of_request.expect("a span").name, "upstream blob");
    }
}

#[test]
fn a_revalidation_has_a_span_below_its_request() {
    let (upstream, collector) = (Registry::new(), Collector::new(Answering::Status(200)));
    let cache = traced(Server::options(&upstream), &collector)
        .env("TAG_TTL", "0s")
        .start();
    Image::small(&upstream, "a", "v1", fresh_seed());
    let path = upstream.manifest_url("a", "v1");
    eventually("the cache has revalidated the tag", || {
        cache.client().get(&path);
        named(&collector.spans(), "revalidate").next().is_some()
    });
    let spans = collector.wait_spans("a revalidation", |spans| {
        named(spans, "revalidate").any(|span| spans.iter().any(|other| other.id == span.parent))
    });
    let revalidate = named(&spans, "revalidate")
        .find(|span| spans.iter().any(|other| other.id == span.parent))
        .unwrap();
    let request = spans.iter().find(|span| span.id == revalidate.parent).unwrap();
    assert_eq!(request.name, "request manifest");
    assert_eq!(revalidate.attribute("oci_pull_through.tag"), Some("v1"));
}
