//! Collectors that are down, silent or broken. Pulls succeed, and the spans are counted as lost.

use crate::harness::*;

/// Requests of a test: more than the queue of spans holds.
const REQUESTS: usize = 2_600;

/// Returns the sample `trace_spans_total` of this result.
fn spans(cache: &Server, result: &str) -> u64 {
    let metrics = Client::new(cache.addr_of("metrics")).get("/metrics");
    let text = String::from_utf8(metrics.body).expect("text");
    let name = format!("oci_pull_through_trace_spans_total{{result=\"{result}\"}} ");
    let sample = text.lines().find_map(|line| line.strip_prefix(&name));
    sample
        .unwrap_or_else(|| panic!("no {name}in\n{text}"))
        .parse()
        .expect("a number")
}

/// Starts a cache with this endpoint.
fn start(upstream: &Registry, endpoint: &str) -> Server {
    Server::options(upstream)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("METRICS_ADDR", "127.0.0.1:0")
        .env("ACCESS_LOG", "off")
        .start()
}

/// Pulls a blob cold, and then as a hit until spans are dropped for lack of room in the queue.
fn pull_beyond_the_queue(upstream: &Registry, cache: &Server) {
    let digest = upstream.blob("hello");
    let path = upstream.blob_url("a", &digest);
    let mut connection = cache.client().open();
    for _ in 0..REQUESTS {
        connection.request("GET", &path, &[]).unwrap();
        connection.read("GET").unwrap().expect(b"hello");
    }
}

/// Checks that a failing collector costs nothing besides its spans.
fn check(endpoint: &str, collector: Option<&Collector>) {
    let upstream = Registry::new();
    let mut cache = start(&upstream, endpoint);
    cache.client().get("/v2/");
    match collector {
        Some(collector) => collector.wait_request(),
        None => cache.wait_stderr("trace export failed"),
    }
    // The queue fills at the latest while the export pauses or waits.
    eventually("spans are dropped", || {
        pull_beyond_the_queue(&upstream, &cache);
        spans(&cache, "dropped") > 0
    });
    assert_eq!(spans(&cache, "exported"), 0);
    let idle = cache.rss_bytes();
    for _ in 0..2 {
        pull_beyond_the_queue(&upstream, &cache);
    }
    let grown = cache.rss_bytes().saturating_sub(idle);
    assert!(grown < 32 * 1024 * 1024, "memory grew by {grown} bytes");
    cache.stop();
}

#[test]
fn pulls_succeed_and_spans_are_dropped_while_the_collector_is_down() {
    let port = Port::new();
    check(&format!("http://{}", port.addr()), None);
}

#[test]
fn pulls_succeed_and_spans_are_dropped_while_the_collector_does_not_answer() {
    let collector = Collector::new(Answering::Never);
    check(&collector.endpoint(), Some(&collector));
}

#[test]
fn pulls_succeed_and_spans_are_dropped_while_the_collector_answers_500() {
    let collector = Collector::new(Answering::Status(500));
    check(&collector.endpoint(), Some(&collector));
}

#[test]
fn spans_of_a_working_collector_are_exported_at_the_latest_at_the_stop() {
    let (upstream, collector) = (Registry::new(), Collector::new(Answering::Status(200)));
    let mut cache = start(&upstream, &collector.endpoint());
    let digest = upstream.blob("hello");
    cache
        .client()
        .get(&upstream.blob_url("a", &digest))
        .expect(b"hello");
    cache.stop();
    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.name == "request blob"), "{spans:#?}");
}
