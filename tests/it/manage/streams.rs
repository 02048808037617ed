//! Events, lines of JSON, sorted pages and fills of the admin API.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::Value;

use super::admin::{Cache, send, start, start_options};
use super::pull;
use crate::harness::image::Flavor;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// A client of the events.
struct Events {
    stream: TcpStream,
    text: String,
}

impl Events {
    /// Sends a request, and reads the head.
    fn open(cache: &Cache) -> Self {
        let mut stream = TcpStream::connect(cache.addr()).expect("the listener accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let request = "GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer read\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("the listener reads");
        let text = String::new();
        let mut events = Events { stream, text };
        events.wait("\r\n\r\n");
        events
    }

    /// Reads until the text contains `part`, and drops the text up to its end.
    #[track_caller]
    fn wait(&mut self, part: &str) -> String {
        let mut buffer = [0; 4096];
        loop {
            if let Some(at) = self.text.find(part) {
                let rest = self.text.split_off(at + part.len());
                return std::mem::replace(&mut self.text, rest);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => panic!("no {part}: {}", self.text),
                Ok(read) => self.text += &String::from_utf8_lossy(&buffer[..read]),
                Err(error) => panic!("no {part}: {error}: {}", self.text),
            }
        }
    }
}

/// Requests lines of JSON.
#[track_caller]
fn lines(cache: &Cache, line: &str) -> Vec<Value> {
    let response = send(
        cache.addr(),
        Some("admin"),
        line,
        &[("Accept", "application/x-ndjson")],
    );
    let text = String::from_utf8_lossy(&response.body).into_owned();
    assert_eq!(response.status / 100, 2, "{line}: {text}");
    assert_eq!(
        response.field("content-type"),
        Some("application/x-ndjson"),
        "{line}"
    );
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    text.lines().map(parse).collect()
}

/// Sends a body of JSON. Returns the lines of the response.
#[track_caller]
fn post_for_lines(cache: &Cache, path: &str, body: &str) -> Vec<Value> {
    let mut stream = TcpStream::connect(cache.addr()).expect("the listener accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: localhost\r\nAuthorization: Bearer admin\r\nAccept: application/x-ndjson\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).expect("the listener reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("the response is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.0 20"), "{text}");
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    body.lines().map(parse).collect()
}

#[test]
fn events_report_fills_removals_and_jobs_in_order() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let mut events = Events::open(&cache);
    events.wait(": events");
    let image = Image::small(&upstream, "org/app", "v1", fresh_seed());
    pull(&cache.server, &upstream, "org/app", "v1", &image);
    for (digest, _) in &image.blobs {
        for kind in ["fill-started", "fill-completed"] {
            let event = events.wait(&format!("\"event\":\"{kind}\""));
            assert!(!event.contains("fill-failed"), "{event}");
            events.wait(digest);
        }
    }
    let absent = format!("sha256:{}", "0".repeat(64));
    upstream.on(On::path(&absent), Reply::status(500));
    cache.server.client().get(&upstream.blob_url("org/app", &absent));
    events.wait("\"event\":\"fill-failed\"");
    let name = format!("{}/org/app:v1", upstream.name());
    cache.server.settled_store();
    cache.json(&format!("DELETE /api/v1/images/{name}"));
    events.wait("\"event\":\"image-removed\"");
    events.wait(&name);
    post_for_job(&cache);
    events.wait("\"event\":\"job-changed\",\"job\":1,\"state\":\"running\"");
    events.wait("\"event\":\"job-changed\",\"job\":1,\"state\":\"completed\"");
}

/// Starts a verification of the whole store.
#[track_caller]
fn post_for_job(cache: &Cache) {
    let started = post_for_lines(cache, "/api/v1/verify", "{}");
    assert_eq!(started, [serde_json::json!({"job": 1})]);
}

#[test]
fn fifth_reader_of_events_is_refused_until_another_leaves() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let mut readers: Vec<Events> = (0..4).map(|_| Events::open(&cache)).collect();
    let status = || send(cache.addr(), Some("read"), "HEAD /api/v1/events", &[]).status;
    assert_eq!(status(), 503);
    readers.pop();
    eventually("a place is free", || status() == 200);
}

#[test]
fn fills_have_their_bytes_and_followers_until_their_end() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let size = 4 * MIB;
    let digest = upstream.blob(PseudoRandom::new(fresh_seed(), size));
    let gate = Gate::new();
    upstream.on(On::path(&digest).get(), Reply::new().hold_at(size / 2, &gate));
    let path = upstream.blob_url("org/app", &digest);
    assert_eq!(cache.json("GET /api/v1/fills")["fills"], serde_json::json!([]));
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| cache.server.client().get(&path)))
            .collect();
        gate.wait_arrived(1);
        eventually("the fill has its bytes and clients", || {
            let fills = cache.json("GET /api/v1/fills");
            let fill = &fills["fills"][0];
            fill["bytes"] == size / 2 && fill["followers"] == 2
        });
        let listed = lines(&cache, "GET /api/v1/fills");
        let [fill] = &listed[..] else {
            panic!("{listed:?}");
        };
        for (member, expected) in [
            ("registry", Value::from(upstream.name())),
            ("repository", "org/app".into()),
            ("digest", (&*digest).into()),
            ("source", "upstream".into()),
            ("upstream", upstream.addr().to_string().into()),
            ("bytesTotal", size.into()),
        ] {
            assert_eq!(fill[member], expected, "{member}");
        }
        gate.open();
        for client in clients {
            assert_eq!(client.join().expect("a client").status, 200);
        }
    });
    eventually("the fill has ended", || {
        cache.json("GET /api/v1/fills")["fills"] == serde_json::json!([])
    });
}

#[test]
fn fill_names_the_mirror_that_sends_the_body() {
    const MIRRORED: &str = "mirrored.test";
    let (registry, mirror) = (Registry::new(), Registry::new());
    let keys = format!("mirrors: [\"http://{}\"]", mirror.addr());
    let options = Server::options(&registry).registry_with(MIRRORED, registry.addr(), &keys);
    let cache = start_options(options);
    let size = 4 * MIB;
    let blob = PseudoRandom::new(fresh_seed(), size);
    let digest = mirror.blob(blob.clone());
    let gate = Gate::new();
    mirror.on(On::path(&digest).get(), Reply::new().hold_at(size / 2, &gate));
    let path = format!("/v2/{MIRRORED}/org/app/blobs/{digest}");
    std::thread::scope(|scope| {
        let client = scope.spawn(|| cache.server.client().get(&path));
        gate.wait_arrived(1);
        eventually("the fill names the mirror", || {
            let fills = cache.json("GET /api/v1/fills");
            let fill = &fills["fills"][0];
            fill["upstream"] == mirror.addr().to_string() && fill["registry"] == MIRRORED
        });
        gate.open();
        assert_eq!(client.join().expect("a client").status, 200);
    });
}

#[test]
fn lines_of_a_listing_a_plan_and_a_job_are_complete() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let tags = ["v1", "v2", "v3", "v4", "v5"];
    cache.pull_tags(&upstream, &tags);
    let whole = cache.json("GET /api/v1/images")["images"].clone();
    for limit in [1, 2, 5, 100] {
        let streamed = lines(&cache, &format!("GET /api/v1/images?limit={limit}"));
        assert_eq!(Value::from(streamed), whole, "limit {limit}");
    }
    assert_eq!(lines(&cache, "GET /api/v1/images?tag=v3").len(), 1);
    let sorted = "GET /api/v1/images?sort=size";
    let refused = send(
        cache.addr(),
        Some("read"),
        sorted,
        &[("Accept", "application/x-ndjson")],
    );
    assert_eq!(refused.status, 400);

    let plan = post_for_lines(&cache, "/api/v1/prune", "{\"pattern\": \"v[12]$\"}");
    let images =
        ["v1", "v2"].map(|tag| serde_json::json!({"image": format!("{}/org/app:{tag}", upstream.name())}));
    assert_eq!(plan[1..], images);
    assert_eq!((&plan[0]["images"], &plan[0]["objects"]), (&2.into(), &8.into()));
    let removed = cache.json(&format!("POST /api/v1/prune/{}/apply", plan[0]["plan"]));
    assert_eq!(
        (&removed["objects"], &removed["bytes"]),
        (&8.into(), &plan[0]["bytes"])
    );

    post_for_job(&cache);
    let job = lines(&cache, "GET /api/v1/jobs/1");
    let (last, earlier) = job.split_last().expect("a line");
    assert_eq!(
        (&last["state"], &last["result"]["objects"]),
        (&"completed".into(), &9.into())
    );
    assert!(earlier.iter().all(|line| line["state"] == "running"), "{job:?}");
    let mut listed = lines(&cache, "GET /api/v1/jobs");
    assert_eq!(listed.pop().expect("a job")["job"], 1);
}

#[test]
fn sorted_pages_contain_every_image_once_while_images_leave() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let seed = fresh_seed();
    // The order of the sizes differs from the order of the names.
    for (tag, size) in [
        ("a", 30_000),
        ("b", 10_000),
        ("c", 50_000),
        ("d", 20_000),
        ("e", 40_000),
    ] {
        let layer = Content::from(PseudoRandom::new(seed + size, size));
        let image = Image::push(&upstream, "org/app", tag, Flavor::Oci, &[layer]);
        pull(&cache.server, &upstream, "org/app", tag, &image);
    }
    cache.server.settled_store();
    let pages = |query: &str, between: &dyn Fn()| {
        let mut found: Vec<String> = Vec::new();
        let mut cursor = String::new();
        loop {
            let page = cache.json(&format!("GET /api/v1/images?{query}{cursor}"));
            let images = page["images"].as_array().expect("a list").iter();
            found.extend(images.map(|image| image["tag"].as_str().expect("a tag").to_owned()));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found.concat(),
            }
            between();
        }
    };
    eventually("all tags are stored", || pages("limit=5", &|| ()).len() == 5);
    for limit in [1, 2, 3, 5, 100] {
        assert_eq!(
            pages(&format!("sort=size&limit={limit}"), &|| ()),
            "bdaec",
            "limit {limit}"
        );
        assert_eq!(
            pages(&format!("sort=-size&limit={limit}"), &|| ()),
            "ceadb",
            "limit {limit}"
        );
        assert_eq!(pages(&format!("sort=created&limit={limit}"), &|| ()).len(), 5);
        assert_eq!(pages(&format!("sort=-used&limit={limit}"), &|| ()).len(), 5);
    }
    assert_eq!(pages("sort=size&limit=2&pattern=[abe]$", &|| ()), "bae");
    // The image of the cursor leaves, and an image of a later page.
    let purge = || {
        for tag in ["d", "e"] {
            cache.json(&format!(
                "DELETE /api/v1/images/{}/org/app:{tag}",
                upstream.name()
            ));
        }
    };
    assert_eq!(pages("sort=size&limit=2", &purge), "bdac");
    let other = cache.json("GET /api/v1/images?limit=1")["next"].clone();
    let line = format!(
        "GET /api/v1/images?sort=size&cursor={}",
        other.as_str().expect("a cursor")
    );
    assert_eq!(send(cache.addr(), Some("read"), &line, &[]).status, 400);
}

#[test]
fn events_report_an_unavailable_registry() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let mut events = Events::open(&cache);
    let name = upstream.name();
    drop(upstream);
    eventually("the circuit breaker trips", || {
        cache
            .server
            .client()
            .get(&format!("/v2/{name}/org/app/manifests/absent"));
        cache.server.stderr().contains("upstream unavailable")
    });
    events.wait(&format!(
        "{{\"event\":\"registry-unavailable\",\"registry\":\"{name}\"}}"
    ));
}
