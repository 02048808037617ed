//! The listener of the admin API, beside a running cache.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::pull;
use crate::harness::client::Response;
use crate::harness::image::Flavor;
use crate::harness::server::{Options, TempDir, write_private};
use crate::harness::*;

/// A cache with an admin listener, and a token for each role: the token is the name of the role.
pub struct Cache {
    pub server: Server,
    tokens: PathBuf,
    _dir: TempDir,
}

fn token_line(name: &str, role: &str) -> String {
    let sha256 = digest(&SHA256, name.as_bytes());
    let mut line = format!("{name} {role} ");
    for byte in sha256.as_ref() {
        write!(line, "{byte:02x}").expect("a string grows");
    }
    line + "\n"
}

pub fn start(upstream: &Registry) -> Cache {
    start_with(upstream, &[])
}

/// Starts a cache with further variables.
pub fn start_with(upstream: &Registry, variables: &[(&str, &str)]) -> Cache {
    let set = |options: Options, (name, value): &(&str, &str)| options.env(name, value);
    start_options(variables.iter().fold(Server::options(upstream), set))
}

/// Starts a cache with further options.
pub fn start_options(options: Options) -> Cache {
    let dir = TempDir::new();
    let tokens = dir.path.join("tokens");
    let lines = ["read", "operate", "admin"].map(|role| token_line(role, role));
    write_private(&tokens, &lines.concat());
    let server = options
        .env("STORAGE_BACKEND", "fs")
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("HEALTH_ADDR", "127.0.0.1:0")
        .env("ADMIN_TOKENS_FILE", tokens.display())
        .start();
    server.wait_stderr("store scanned");
    Cache {
        server,
        tokens,
        _dir: dir,
    }
}

/// Sends a request with the token `role`, or without a token.
pub fn send(addr: SocketAddr, role: Option<&str>, line: &str, fields: &[(&str, &str)]) -> Response {
    let (method, target) = line.split_once(' ').expect("a method and a target");
    let token = role.map(|role| format!("Bearer {role}"));
    let host = addr.to_string();
    let mut fields = fields.to_vec();
    if !fields.iter().any(|(name, _)| *name == "Host") {
        fields.push(("Host", &host));
    }
    fields.extend(token.as_ref().map(|token| ("Authorization", &**token)));
    Client::new(addr).request(method, target, &fields)
}

impl Cache {
    pub fn addr(&self) -> SocketAddr {
        self.server.addr_of("admin")
    }

    #[track_caller]
    fn status(&self, role: Option<&str>, line: &str) -> u16 {
        send(self.addr(), role, line, &[]).status
    }

    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        let response = send(self.addr(), Some("admin"), line, &[]);
        let text = String::from_utf8_lossy(&response.body).into_owned();
        assert_eq!(response.status, 200, "{line}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{line}: {error}: {text}"))
    }

    /// Pulls an image with one layer for each tag.
    pub fn pull_tags(&self, upstream: &Registry, tags: &[&str]) -> Vec<Image> {
        let seed = fresh_seed();
        let images = tags.iter().zip(0..).map(|(tag, n)| {
            let layer = Content::from(PseudoRandom::new(seed + n, 20_000));
            let image = Image::push(upstream, "org/app", tag, Flavor::Oci, &[layer]);
            pull(&self.server, upstream, "org/app", tag, &image);
            image
        });
        let images = images.collect();
        self.server.settled_store();
        // The pointer of the last tag is written after its manifest.
        eventually("all tags are stored", || {
            let listed = self.json("GET /api/v1/images");
            listed["images"].as_array().expect("a list").len() == tags.len()
        });
        images
    }
}

fn names(page: &Value) -> Vec<String> {
    let images = page["images"].as_array().expect("a list").iter();
    let tag = |image: &Value| image["tag"].as_str().expect("a tag").to_owned();
    images.map(tag).collect()
}

#[test]
fn each_role_reaches_its_operations_and_no_others() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let absent = format!("sha256:{}", "0".repeat(64));
    for (line, least) in [
        ("GET /health".to_owned(), 0),
        ("GET /openapi.json".to_owned(), 0),
        // The client is on this machine.
        ("GET /_/stats".to_owned(), 0),
        ("GET /metrics".to_owned(), 0),
        ("GET /api/v1/stats".to_owned(), 1),
        ("GET /api/v1/upstreams".to_owned(), 1),
        ("GET /api/v1/images".to_owned(), 1),
        ("GET /api/v1/images/org/app:v1".to_owned(), 1),
        (format!("GET /api/v1/blobs/{absent}"), 1),
        ("GET /api/v1/fills".to_owned(), 1),
        ("GET /api/v1/pins".to_owned(), 1),
        ("PUT /api/v1/pins/org%2Fapp".to_owned(), 2),
        ("DELETE /api/v1/pins/org%2Fapp".to_owned(), 2),
        ("DELETE /api/v1/images/org/app".to_owned(), 2),
        ("POST /api/v1/preload".to_owned(), 2),
        ("POST /api/v1/prune".to_owned(), 3),
        ("POST /api/v1/prune/1/apply".to_owned(), 3),
        ("POST /api/v1/reload".to_owned(), 3),
    ] {
        let roles = [None, Some("read"), Some("operate"), Some("admin")];
        for (rank, role) in roles.into_iter().enumerate() {
            let status = cache.status(role, &line);
            let expected = match (rank >= least, role) {
                (true, _) => [200, 202, 404, 415].contains(&status),
                (false, None) => status == 401,
                (false, Some(_)) => status == 403,
            };
            assert!(expected, "{line} as {role:?}: {status}");
        }
    }
}

#[test]
fn forged_request_has_no_effect() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    cache.pull_tags(&upstream, &["v1"]);
    let addr = cache.addr();
    let host = addr.to_string();
    let (purge, pin, stop) = (
        "DELETE /api/v1/images/org/app:v1",
        "PUT /api/v1/pins/forged",
        "POST /api/v1/stop",
    );
    let purge = purge.replace("org/app", &format!("{}/org/app", upstream.name()));
    let targets = [&*purge, pin, stop, "POST /api/v1/prune/1/apply"];
    let mut sent = 0;
    let mut rejected = |role: Option<&str>, line: &str, fields: &[(&str, &str)], status: &[u16]| {
        let response = send(addr, role, line, fields);
        sent += 1;
        let case = format!("{line} {role:?} {fields:?}");
        assert!(status.contains(&response.status), "{case}: {}", response.status);
        let problem: Value = serde_json::from_slice(&response.body).expect("problem details");
        assert_eq!(problem["status"], response.status, "{case}");
    };
    for line in targets {
        // A name that an attacker points at this machine.
        for name in [
            "evil.example",
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "a@127.0.0.1",
            "127.0.0.1:9090:1",
            "localhost evil",
            "[::1",
            "xn--localhost",
            "localhost.",
            "0x7f.1",
            "2130706433",
            "[::1].evil.example",
            "*",
        ] {
            rejected(Some("admin"), line, &[("Host", name)], &[400, 421]);
        }
        // A page of another site.
        for origin in [
            "null",
            "http://evil.example",
            "https://localhost",
            "file://",
            "http://127.0.0.1",
            "http://127.0.0.1:1",
            "chrome-extension://a",
            "",
        ] {
            let fields = [("Host", &*host), ("Origin", origin)];
            rejected(Some("admin"), line, &fields, &[403]);
            rejected(None, line, &fields, &[401, 403]);
        }
        for token in [
            None,
            Some(""),
            Some("wrong"),
            Some("ADMIN"),
            Some("admin admin"),
            Some("read"),
        ] {
            rejected(token, line, &[], &[401, 403]);
        }
        for credentials in [
            "admin",
            "Basic YWRtaW46YWRtaW4=",
            "Token admin",
            "Bearer",
            "bearer=admin",
        ] {
            rejected(None, line, &[("Authorization", credentials)], &[401]);
        }
        for query in [
            "token=admin",
            "access_token=admin",
            "Authorization=Bearer%20admin",
        ] {
            rejected(None, &format!("{line}?{query}"), &[], &[400, 401]);
        }
        let (method, target) = line.split_once(' ').expect("a method");
        for other in ["GET", "POST", "PATCH", "OPTIONS", "TRACE", "QUERY", "delete"] {
            if other != method {
                // A method in a field is ignored.
                let fields = [("X-HTTP-Method-Override", method)];
                rejected(None, &format!("{other} {target}"), &fields, &[400, 401, 405]);
            }
        }
    }
    assert!(sent >= 200, "{sent} requests");
    assert_eq!(names(&cache.json("GET /api/v1/images")), ["v1"]);
    assert_eq!(cache.json("GET /api/v1/pins")["pins"], serde_json::json!([]));
    assert!(!cache.server.stderr().contains("change requested"));
}

#[test]
fn pages_contain_every_image_once_while_images_leave() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let tags = ["v1", "v2", "v3", "v4", "v5"];
    cache.pull_tags(&upstream, &tags);
    let page = |query: &str| cache.json(&format!("GET /api/v1/images?{query}"));
    let mut found = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = page(&format!("limit=2{cursor}"));
        found.extend(names(&page));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
        if found.len() == 2 {
            // The image of the cursor, and one that a later page would have.
            for tag in ["v2", "v4"] {
                let purge = format!("DELETE /api/v1/images/{}/org/app:{tag}", upstream.name());
                assert_eq!(cache.json(&purge)["images"].as_array().expect("a list").len(), 1);
            }
        }
    }
    assert_eq!(found, ["v1", "v2", "v3", "v5"]);
    for (query, expected) in [
        ("tag=v3", vec!["v3"]),
        ("pattern=v[15]$", vec!["v1", "v5"]),
        ("repository=org/app&complete=true", vec!["v1", "v3", "v5"]),
        ("complete=false", vec![]),
        ("registry=other.example", vec![]),
        ("pinned=true", vec![]),
    ] {
        assert_eq!(names(&page(query)), expected, "{query}");
    }
    let pin = format!("PUT /api/v1/pins/{}%2Forg%2Fapp:v3", upstream.name());
    assert_eq!(cache.json(&pin)["changed"], true);
    assert_eq!(names(&page("pinned=true")), ["v3"]);
    assert_eq!(names(&page("pinned=false")), ["v1", "v5"]);
}

#[test]
fn image_and_blob_name_each_other() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let images = cache.pull_tags(&upstream, &["v1", "v2"]);
    let name = format!("{}/org/app", upstream.name());
    let shown = cache.json(&format!("GET /api/v1/images/{name}:v1"));
    let image = &shown["images"][0];
    assert_eq!(image["digest"], *images[0].digest);
    assert_eq!(image["complete"], true);
    let blobs = image["manifests"][0]["blobs"].as_array().expect("a list");
    assert_eq!(blobs.len(), images[0].blobs.len());
    for blob in blobs {
        assert_eq!(blob["stored"], true);
        let digest = blob["digest"].as_str().expect("a digest");
        let uses = cache.json(&format!("GET /api/v1/blobs/{digest}"));
        let by = uses["images"].as_array().expect("a list");
        assert!(by.contains(&format!("{name}:v1").into()), "{uses}");
    }
    let by_digest = cache.json(&format!("GET /api/v1/images/{name}@{}", images[1].digest));
    assert_eq!(by_digest["images"][0]["tag"], "v2");
    assert_eq!(
        cache.status(Some("read"), &format!("GET /api/v1/images/{name}")),
        400
    );
    assert_eq!(
        cache.status(Some("read"), &format!("GET /api/v1/images/{name}:v3")),
        404
    );
}

#[test]
fn health_listener_answers_health_checks_only() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let health = cache.server.addr_of("health");
    for host in ["localhost", "cache.example:3000"] {
        let response = send(health, None, "GET /health", &[("Host", host)]);
        assert_eq!(response.status, 200);
        assert_eq!(response.body, br#"{"status":"healthy"}"#);
    }
    for line in [
        "GET /api/v1/stats",
        "GET /",
        "POST /api/v1/stop",
        "GET /openapi.json",
    ] {
        assert_eq!(send(health, Some("admin"), line, &[]).status, 404, "{line}");
    }
}

#[test]
fn changed_file_of_tokens_has_effect_at_once_and_a_broken_file_permits_nothing() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    let stats = "GET /api/v1/stats";
    let write = |text: &str| write_private(Path::new(&cache.tokens), text);
    assert_eq!(cache.status(Some("read"), stats), 200);
    write(&token_line("other", "read"));
    assert_eq!(cache.status(Some("read"), stats), 401);
    assert_eq!(cache.status(Some("other"), stats), 200);
    let line = token_line("other", "read");
    write(&format!("{} 2000-01-01\n", line.trim_end()));
    let expired = send(cache.addr(), Some("other"), stats, &[]);
    assert_eq!(expired.status, 401);
    let text = String::from_utf8_lossy(&expired.body).into_owned();
    assert!(
        text.contains("the token other expired at 2000-01-01T00:00:00Z"),
        "{text}"
    );
    write(&format!("{} 9999-01-01T12:00:00Z\n", line.trim_end()));
    assert_eq!(cache.status(Some("other"), stats), 200);
    write("other read 12\n");
    assert_eq!(cache.status(Some("other"), stats), 401);
    cache.server.wait_stderr("admin tokens unusable");
    std::fs::remove_file(&cache.tokens).expect("the file exists");
    assert_eq!(cache.status(Some("other"), stats), 401);
    // The socket needs no token.
    let listed = Server::command(cache.server.home(), cache.server.root())
        .arg("pin")
        .output()
        .expect("the binary starts");
    assert!(listed.status.success(), "{listed:?}");
}

#[test]
fn change_is_logged_with_its_client_before_and_after() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    cache.pull_tags(&upstream, &["v1"]);
    let name = format!("{}/org/app:v1", upstream.name());
    let response = send(
        cache.addr(),
        Some("operate"),
        &format!("DELETE /api/v1/images/{name}"),
        &[],
    );
    assert_eq!(response.status, 200);
    let id = response.field("x-request-id").expect("an id").to_owned();
    cache.server.wait_stderr("change completed");
    let stderr = cache.server.stderr();
    let lines: Vec<&str> = stderr.lines().filter(|line| line.contains(&id)).collect();
    let [before, after] = lines[..] else {
        panic!("{lines:?}");
    };
    for part in [
        "\"change requested\"",
        "actor=token:operate",
        "role=operate",
        "remote=127.0.0.1:",
        "action=purge",
        &name,
        "objects=4",
    ] {
        assert!(before.contains(part), "{part}: {before}");
    }
    for part in ["\"change completed\"", "objects=4", "kept=0"] {
        assert!(after.contains(part), "{part}: {after}");
    }
}

#[test]
fn process_reloads_and_stops_on_request() {
    let upstream = Registry::new();
    let mut cache = start(&upstream);
    assert_eq!(cache.status(Some("admin"), "POST /api/v1/reload"), 202);
    cache.server.wait_stderr("configuration reloaded");
    assert_eq!(cache.status(Some("admin"), "POST /api/v1/stop"), 202);
    let status = cache.server.wait_exit(PATIENCE).expect("the server ends");
    assert!(status.success(), "{status:?}");
}

#[test]
fn address_in_use_leaves_the_cache_running_and_is_opened_later() {
    let upstream = Registry::new();
    let first = start(&upstream);
    let addr = first.addr();
    let second = Server::options(&upstream)
        .env("STORAGE_BACKEND", "fs")
        .env("ADMIN_ADDR", addr)
        .start();
    second.wait_stderr("admin address not opened");
    assert_eq!(second.client().get("/v2/").status, 200);
    drop(first);
    assert_eq!(second.addr_of("admin"), addr);
}

#[test]
fn explanation_of_a_running_and_of_a_stopped_cache_is_the_same() {
    let upstream = Registry::new();
    let mut cache = start(&upstream);
    cache.pull_tags(&upstream, &["v1"]);
    let name = format!("{}/org/app", upstream.name());
    let run = |cache: &Cache, arguments: &[&str]| {
        let output = Server::command(cache.server.home(), cache.server.root())
            .args(arguments)
            .env("TAG_TTL", "1h")
            .output()
            .expect("the binary starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let explain = |cache: &Cache, tag: &str| -> Value {
        let text = run(cache, &["explain", &format!("{name}:{tag}"), "--json"]);
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        // The running cache has another lifetime, and time passes.
        for member in ["ageSeconds", "lifetimeSeconds"] {
            if let Some(tag) = value["tag"].as_object_mut() {
                tag.remove(member);
            }
        }
        value
    };
    let running = ["v1", "v2"].map(|tag| explain(&cache, tag));
    assert_eq!(running[0]["pull"], "hit", "{}", running[0]);
    assert_eq!(running[1]["pull"], "fetched", "{}", running[1]);
    let causes = running[1]["findings"].as_array().expect("a list").iter();
    assert!(causes.clone().any(|finding| finding["cause"] == "not-stored"));
    let stats: Value = serde_json::from_str(&run(&cache, &["stats", "--json"])).expect("JSON");
    assert_eq!((&stats["scanned"], &stats["objects"]), (&true.into(), &4.into()));
    assert!(run(&cache, &["explain", &format!("{name}:v1")]).contains("next pull  hit"));

    cache.server.stop();
    assert_eq!(["v1", "v2"].map(|tag| explain(&cache, tag)), running);
    assert!(run(&cache, &["stats"]).contains("objects                4\n"));
}

#[test]
fn explanation_names_an_unavailable_registry() {
    let upstream = Registry::new();
    let cache = start(&upstream);
    cache.pull_tags(&upstream, &["v1"]);
    let name = format!("{}/org/app", upstream.name());
    drop(upstream);
    eventually("the circuit breaker trips", || {
        let path = format!("/v2/{name}/manifests/absent");
        cache.server.client().get(&path);
        let explained = cache.json(&format!("GET /api/v1/explain?ref={name}:absent"));
        let mut findings = explained["findings"].as_array().expect("a list").iter();
        explained["pull"] == "refused" && findings.any(|finding| finding["cause"] == "upstream-unavailable")
    });
}
