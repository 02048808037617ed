//! `GET /metrics`: access, the families, and counts that equal those of the clients and of the upstream.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use super::admin::{Cache, send, start_with};
use super::pull;
use crate::harness::{Image, Registry, eventually, fresh_seed};

/// A sample by its name, with the labels as written.
type Samples = BTreeMap<String, f64>;

struct Scrape {
    text: String,
    samples: Samples,
}

impl Scrape {
    fn of(cache: &Cache) -> Self {
        let response = send(cache.server.addr_of("metrics"), None, "GET /metrics", &[]);
        assert_eq!(response.status, 200);
        let media_type = response.field("Content-Type").expect("a media type");
        assert!(
            media_type.starts_with("application/openmetrics-text; version=1.0.0"),
            "{media_type}"
        );
        let text = String::from_utf8(response.body).expect("text");
        assert!(text.ends_with("# EOF\n"), "{text}");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("a name and a value");
            let name = name.strip_prefix("oci_pull_through_").expect("the prefix");
            (name.to_owned(), value.parse().expect("a number"))
        });
        let samples = samples.collect();
        Scrape { text, samples }
    }

    /// Returns the sum of the samples of `name` whose labels contain each of `labels`.
    fn sum(&self, name: &str, labels: &[&str]) -> u64 {
        let of_name = self.samples.iter().filter(|(key, _)| {
            let (found, found_labels) = key.split_once('{').unwrap_or((key, ""));
            found == name && labels.iter().all(|label| found_labels.contains(label))
        });
        of_name.map(|(_, value)| *value).sum::<f64>() as u64
    }

    fn families(&self) -> BTreeSet<String> {
        let types = self
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE oci_pull_through_"));
        types.map(|line| line.replace(' ', "|")).collect()
    }
}

fn cache(upstream: &Registry) -> Cache {
    start_with(upstream, &[("METRICS_ADDR", "127.0.0.1:0")])
}

#[test]
fn metrics_listener_answers_metrics_only() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let metrics = cache.server.addr_of("metrics");
    assert_eq!(
        send(metrics, None, "GET /metrics", &[("Host", "cache.example:2112")]).status,
        200
    );
    for line in ["GET /health", "GET /api/v1/stats", "POST /api/v1/stop", "GET /"] {
        assert_eq!(send(metrics, Some("admin"), line, &[]).status, 404, "{line}");
    }
}

#[test]
fn every_family_is_documented_with_its_type_and_no_other() {
    let upstream = Registry::new();
    let cache = start_with(&upstream, &[("METRICS_ADDR", "127.0.0.1:0"), ("TAG_TTL", "0s")]);
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    // Families of requests to registries appear with their first sample.
    pull(&cache.server, &upstream, "org/app", "v1", &image);
    eventually("the registry has confirmed the tag", || {
        cache.server.client().get(&upstream.manifest_url("org/app", "v1"));
        Scrape::of(&cache).families().contains("tag_checks|counter")
    });
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md");
    let page = fs::read_to_string(page).expect("the page of the metrics");
    let rows = page
        .lines()
        .filter(|line| line.starts_with("| `") && line.matches('|').count() == 6);
    let documented: BTreeSet<String> = rows
        .map(|row| {
            let columns: Vec<&str> = row
                .split('|')
                .map(|column| column.trim().trim_matches('`'))
                .collect();
            format!("{}|{}", columns[1], columns[2])
        })
        .collect();
    assert_eq!(Scrape::of(&cache).families(), documented);
}

#[test]
fn every_histogram_ends_with_an_infinite_bucket_of_all_observations() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    pull(&cache.server, &upstream, "org/app", "v1", &image);
    let scrape = Scrape::of(&cache);
    let counts: Vec<_> = scrape
        .samples
        .keys()
        .filter_map(|name| name.split_once("_seconds_count{"))
        .collect();
    assert!(counts.len() > 4, "{counts:?}");
    for (family, labels) in counts {
        let count = scrape.samples[&format!("{family}_seconds_count{{{labels}")];
        let last = format!("{family}_seconds_bucket{{le=\"+Inf\",{labels}");
        assert_eq!(scrape.samples.get(&last), Some(&count), "{last}: {}", scrape.text);
    }
}

#[test]
fn counts_equal_those_of_the_clients_and_of_the_upstream() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let seed = fresh_seed();
    let images: Vec<Image> = (0..5)
        .map(|n| Image::small(&upstream, "org/app", &format!("v{n}"), seed + n))
        .collect();
    let client = cache.server.client();
    let name = upstream.name();
    let (mut requests, mut bytes, mut denied) = (0, 0, 0);
    for round in 0..40 {
        for (image, n) in images.iter().zip(0..) {
            let manifest = client.get(&format!("/v2/{name}/org/app/manifests/v{n}"));
            assert_eq!(manifest.status, 200, "round {round}");
            bytes += manifest.body.len() as u64;
            for (digest, _) in image.all_blobs() {
                let blob = client.get(&format!("/v2/{name}/org/app/blobs/{digest}"));
                assert_eq!(blob.status, 200, "round {round}");
                bytes += blob.body.len() as u64;
                requests += 1;
            }
            requests += 1;
        }
        assert_eq!(
            client.get(&format!("/v2/{name}/org/app/manifests/absent")).status,
            404
        );
        denied += 1;
    }
    let expected_upstream = || upstream.requests() as u64;
    eventually("the counts are equal", || {
        let scrape = Scrape::of(&cache);
        let of_content = ["manifest", "blob"].map(|route| format!("route=\"{route}\""));
        let ok = |route: &String| scrape.sum("http_requests_total", &[route, "code=\"200\""]);
        let answered: u64 = of_content.iter().map(ok).sum();
        let bodies = |route: &String| {
            let all = scrape.sum("http_response_bytes_total", &[route]);
            all - scrape.sum("http_response_bytes_total", &[route, "result=\"none\""])
        };
        answered == requests
            && of_content.iter().map(bodies).sum::<u64>() == bytes
            && scrape.sum("http_requests_total", &["code=\"404\""]) == denied
            && scrape.sum("cache_lookups_total", &[]) == requests
            && scrape.sum("upstream_requests_total", &[]) == expected_upstream()
    });
    let scrape = Scrape::of(&cache);
    let registry = format!("registry=\"{name}\"");
    let blobs: u64 = images.iter().map(|image| image.all_blobs().len() as u64).sum();
    assert_eq!(
        scrape.sum("fills_total", &[&registry, "result=\"completed\""]),
        blobs
    );
    assert_eq!(scrape.sum("cache_lookups_total", &[&registry]), requests);
    assert_eq!(
        scrape.sum("http_request_duration_seconds_count", &["route=\"blob\""]),
        scrape.sum("http_requests_total", &["route=\"blob\""])
    );
}

#[test]
fn made_up_registries_get_no_series() {
    let upstream = Registry::new();
    let cache = cache(&upstream);
    let client = cache.server.client();
    Scrape::of(&cache);
    for n in 0..300 {
        client.get(&format!("/v2/made-up-{n}.invalid/a/manifests/{n}"));
        client.get(&format!("/made-up-{n}"));
    }
    let scrape = Scrape::of(&cache);
    assert!(!scrape.text.contains("made-up"), "{}", scrape.text);
    assert!(scrape.samples.len() < 1_000, "{}", scrape.samples.len());
}
