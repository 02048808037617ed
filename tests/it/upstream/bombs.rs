//! Documents that cost the reader more than the sender: deep, wide, repeated and endless JSON, at
//! every place that reads JSON.

use std::time::Duration;

use crate::harness::*;

const MIB: usize = 1024 * 1024;

/// Permitted CPU time to fetch, hash, store and serve one document. The documented value for a
/// release build is 50 ms. The limit allows for a build with less optimization and for CPU times in
/// ticks of 10 ms.
const CPU_MAX: Duration = Duration::from_millis(500);

/// Permitted growth of the process over all documents together.
const MEMORY_BYTES_MAX: u64 = 96 * MIB as u64;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn descriptor(number: usize) -> String {
    format!(r#"{{"mediaType":"a/b","digest":"sha256:{number:064x}","size":1,"artifactType":"x"}}"#)
}

/// Returns documents of at most 4 MiB with their names.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let up_to = |size: usize, part: &str| part.repeat(size / part.len());
    let deep = |open: &str, close: &str| format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
    let head = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","#);
    let list = |inner: &str| format!(r#"{head}"manifests":[{inner}]}}"#);
    let many: Vec<String> = (0..20_000).map(descriptor).collect();
    let own = list(&format!("{},{}", descriptor(1), descriptor(1)));
    let mut bombs: Vec<(&str, String)> = vec![
        ("arrays in arrays", deep("[", "]")),
        ("objects in objects", deep(r#"{"a":"#, "}")),
        (
            "arrays in a manifest",
            format!(r#"{head}"manifests":{}}}"#, deep("[", "]")),
        ),
        (
            "arrays in a tag",
            format!(r#"{{"name":"a","tags":{}}}"#, deep("[", "]")),
        ),
        ("arrays without an end", "[".repeat(4 * MIB - 1)),
        (
            "a million descriptors",
            list(up_to(4 * MIB - 200, "{},").trim_end_matches(',')),
        ),
        (
            "a million nulls",
            list(up_to(4 * MIB - 200, "null,").trim_end_matches(',')),
        ),
        ("twenty thousand descriptors", list(&many.join(","))),
        (
            "a million empty tags",
            format!(r#"{{"tags":[{}""]}}"#, up_to(4 * MIB - 50, r#""","#)),
        ),
        (
            "a million tags",
            format!(r#"{{"tags":[{}"a"]}}"#, up_to(4 * MIB - 50, r#""a","#)),
        ),
        (
            "escapes",
            format!(r#"{{"tags":["{}"]}}"#, up_to(4 * MIB - 50, r"\u0000")),
        ),
        (
            "the same key repeatedly",
            format!("{{{}\"a\":1}}", up_to(4 * MIB - 50, "\"a\":1,")),
        ),
        (
            "two media types",
            format!(r#"{head}"mediaType":"{MANIFEST}","manifests":[]}}"#),
        ),
        (
            "manifest and index in one object",
            format!(r#"{head}"config":{},"layers":[],"manifests":[]}}"#, descriptor(0)),
        ),
        (
            "a number without an end",
            format!(r#"{{"schemaVersion":{}}}"#, up_to(4 * MIB - 50, "9")),
        ),
        (
            "an exponent without an end",
            format!(r#"{{"schemaVersion":1e{}}}"#, up_to(MIB, "9")),
        ),
        (
            "a string without an end",
            format!("\"{}", up_to(4 * MIB - 50, "a")),
        ),
        ("spaces", format!("{}{own}", " ".repeat(4 * MIB - own.len()))),
        ("twice the same manifest", own),
    ];
    bombs.push((
        "exactly 4 MiB",
        format!(r#"{head}"a":"{}"}}"#, "x".repeat(4 * MIB - head.len() - 7)),
    ));
    bombs.push((
        "4 MiB and one byte",
        format!(r#"{head}"a":"{}"}}"#, "x".repeat(4 * MIB - head.len() - 6)),
    ));
    let mut bombs: Vec<(&str, Vec<u8>)> = bombs
        .into_iter()
        .map(|(name, text)| (name, text.into_bytes()))
        .collect();
    bombs.push(("invalid UTF-8", b"{\"tags\":[\"\xff\xfe\"]}".to_vec()));
    bombs.push(("zeros", vec![0; 4 * MIB]));
    bombs
}

#[test]
fn no_document_costs_much_more_than_its_own_size() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("ACCESS_LOG", "off").start();
    let bystander = Image::small(&upstream, "b", "v1", fresh_seed());
    let bystander_path = upstream.manifest_url("b", "v1");
    cache.client().get(&bystander_path).expect(&bystander.manifest);
    // A document of the largest size first, so that the measurement excludes the usual cost
    // of a large document.
    let long = upstream.manifest("a", MANIFEST, vec![b' '; 4 * MIB].as_slice());
    let _ = cache.client().try_get(&upstream.manifest_url("a", &long));
    let before = cache.rss_bytes();
    let mut costliest = (Duration::ZERO, "");
    for (number, (name, bytes)) in bombs().into_iter().enumerate() {
        let digest = upstream.manifest("a", INDEX, bytes.as_slice());
        // A new tag, without a stored copy of an earlier document.
        let tag = format!("v{number}");
        upstream.tag("a", &tag, &digest);
        let referrers = format!("/v2/{}/a/referrers/{digest}", upstream.name());
        let lists = [
            format!("/v2/{}/a/tags/list?n={}", upstream.name(), bytes.len()),
            referrers.clone(),
            format!("{referrers}?artifactType=x"),
        ];
        upstream.on(On::path("/tags/list"), Reply::new().body(bytes.as_slice()));
        upstream.on(
            On::path("/referrers/"),
            Reply::new().body(bytes.as_slice()).set("Content-Type", INDEX),
        );
        let manifests = [
            upstream.manifest_url("a", &tag),
            upstream.manifest_url("a", &digest),
        ];
        for path in manifests.iter().chain(&lists) {
            let cpu = cache.cpu_time();
            let got = cache.client().get(path);
            let cost = cache.cpu_time().saturating_sub(cpu);
            costliest = costliest.max((cost, name));
            assert!(cost < CPU_MAX, "{name}, {path}: {cost:?}");
            if manifests.contains(path) && got.status == 200 {
                assert!(
                    got.body == bytes,
                    "{name}, {path}: the bytes differ from the upstream"
                );
            } else if got.status == 200 {
                let read: Result<serde_json::Value, _> = serde_json::from_slice(&got.body);
                // The cache forwards a list of referrers unchanged at any depth, after one parse.
                assert!(
                    read.is_ok() || got.body == bytes,
                    "{name}, {path}: the body is not JSON"
                );
            }
        }
        upstream.clear_rules();
        cache.client().get(&bystander_path).expect(&bystander.manifest);
    }
    let grown = cache.rss_peak_bytes().saturating_sub(before);
    eprintln!(
        "bombs: at most {:?} of CPU time ({}), memory grew by {grown} bytes",
        costliest.0, costliest.1
    );
    assert!(grown < MEMORY_BYTES_MAX, "memory grew by {grown} bytes");
}
