//! Content of a bucket over every protocol, under every access rule and with little memory, and the
//! effect of a bucket on health checks.

use crate::harness::h2::Peer;
use crate::harness::server::TempDir;
use crate::harness::*;
use crate::lifecycle::health::check;

const BACKENDS: [&str; 2] = ["s3", "tiered"];

const MIB: u64 = 1 << 20;

/// Returns a bucket with `content`, uploaded by another cache, and the path of the content.
fn held(upstream: &Registry, content: &PseudoRandom) -> (Bucket, String) {
    let bucket = Bucket::new();
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let first = bucket.behind(Server::options(upstream), "s3").start();
    first.client().pull(&path, content);
    bucket.wait_has(&digest);
    (bucket, path)
}

#[test]
fn the_bucket_is_served_over_tls_and_http_2_as_over_http_1() {
    let authority = Authority::new("the authority");
    let dir = TempDir::new();
    let (certificate, key) = authority.issue("server").write(&dir.path, "server");
    for backend in BACKENDS {
        for size in [900, 300_000, 5 * MIB] {
            let (upstream, content) = (Registry::new(), PseudoRandom::new(fresh_seed(), size));
            let (bucket, path) = held(&upstream, &content);
            let start = || {
                bucket
                    .behind(Server::options(&upstream), backend)
                    .env("LISTEN_ADDR", "http://127.0.0.1:0,https://127.0.0.1:0")
                    .env("TLS_CERT_FILE", certificate.display())
                    .env("TLS_KEY_FILE", key.display())
                    .start()
            };
            let bytes = content.bytes();
            let part = format!("bytes={}-", size / 2);
            // Each first request goes to a cache without the content. The second request reads the
            // content that the cache has stored.
            let cache = start();
            let client = Client::with_tls(cache.addr_for("https"), authority.client());
            for _ in 0..2 {
                client.get(&path).expect(&bytes);
                let got = client.get_with(&path, &[("Range", &part)]);
                assert!(
                    got.status == 206 && got.body == bytes[size as usize / 2..],
                    "{backend} {size}: {got}"
                );
            }
            let cache = start();
            let mut peer = Peer::begin(cache.addr_for("http"));
            for _ in 0..2 {
                // Two concurrent streams, one with a range.
                let whole = peer.request("GET", &path, &[]);
                let half = peer.request("GET", &path, &[("range", &part)]);
                peer.answer(whole).expect(&bytes);
                let half = peer.answer(half);
                assert!(
                    (half.status, half.ended) == (206, true) && half.body == bytes[size as usize / 2..],
                    "{backend} {size}: {}",
                    half.status
                );
            }
        }
    }
}

/// Starts a cache with `rules` at the top of its configuration file.
fn with_rules(bucket: &Bucket, upstream: &Registry, backend: &str, rules: &str) -> Server {
    let name = upstream.name();
    let yaml = format!("{rules}\nregistries:\n  - {{name: \"{name}\", url: \"http://{name}\"}}\n");
    bucket
        .behind(Server::options(upstream).config(yaml), backend)
        .env("S3_REDIRECT", "true")
        .start()
}

#[test]
fn access_rules_apply_to_bucket_content() {
    for backend in BACKENDS {
        for size in [900, 300_000, 3 * MIB] {
            let (upstream, content) = (Registry::new(), PseudoRandom::new(fresh_seed(), size));
            let (bucket, _) = held(&upstream, &content);
            let digest = content.digest();
            let open = upstream.blob_url("team/open", &digest);
            let shut = upstream.blob_url("team/shut", &digest);
            let rules = "allow: [{repositories: [team/open]}]";
            let cache = with_rules(&bucket, &upstream, backend, rules);
            let before = (upstream.requests(), bucket.log().len());
            for (method, fields) in [
                ("GET", &[][..]),
                ("HEAD", &[]),
                ("GET", &[("Range", "bytes=0-9")]),
            ] {
                let got = cache.client().request(method, &shut, fields);
                assert_eq!(got.status, 403, "{backend} {size}: {got}");
            }
            assert_eq!(
                (upstream.requests(), bucket.log().len()),
                before,
                "a rejected request causes an upstream or bucket request"
            );
            for _ in 0..2 {
                // An authorized client is not redirected to a URL that other clients could use.
                cache.client().get(&open).expect(&content.bytes());
                cache.client().get(&shut).expect_error(403, "DENIED");
            }
        }
    }
}

#[test]
fn access_of_one_user_to_bucket_content_is_not_cached_for_another() {
    for backend in BACKENDS {
        let (upstream, content) = (Registry::new(), PseudoRandom::new(fresh_seed(), 900));
        let (bucket, _) = held(&upstream, &content);
        let home = TempDir::new();
        let users = home.path.join("users");
        let lines = ["alice", "bob"].map(|user| htpasswd::line(user, user, 4));
        std::fs::write(&users, lines.concat()).unwrap();
        let rules = format!(
            "auth: {{htpasswd_file: {}}}\nallow: [{{users: [alice], repositories: [a]}}, {{users: [bob], repositories: [b]}}]",
            users.display()
        );
        let cache = with_rules(&bucket, &upstream, backend, &rules);
        let path = upstream.blob_url("a", &content.digest());
        for _ in 0..3 {
            for (user, status) in [("alice", 200), ("bob", 403), ("", 401)] {
                let shown = basic(user, user);
                let fields: &[_] = if user.is_empty() {
                    &[]
                } else {
                    &[("Authorization", shown.as_str())]
                };
                let got = cache.client().get_with(&path, fields);
                assert_eq!(got.status, status, "{backend} {user}: {got}");
            }
        }
    }
}

#[test]
fn bodies_of_the_bucket_are_refused_when_there_is_no_memory_for_them() {
    let (upstream, content) = (Registry::new(), PseudoRandom::new(fresh_seed(), 16 * MIB));
    let (bucket, path) = held(&upstream, &content);
    // Each body needs one MiB for its window and a quarter of a MiB for its response. A quarter of
    // the budget is reserved for others.
    let cache = bucket
        .behind(Server::options(&upstream), "s3")
        .env("MEMORY_BUDGET", "13MiB")
        .start();
    cache.client().get_with(&path, &[("Range", "bytes=0-9")]);
    let mut readers = Vec::new();
    let refused = loop {
        let mut connection =
            Connection::open_narrow(cache.addr(), 4_096).expect("the server accepts connections");
        connection
            .request("GET", &path, &[])
            .expect("the server accepts connections");
        let head = connection.read_head().expect("the server sends a response head");
        if head.status != 200 {
            break head;
        }
        readers.push(connection);
        assert!(readers.len() < 32, "the memory budget rejects no request");
    };
    assert_eq!(refused.status, 503, "{refused}");
    assert!((4..=8).contains(&readers.len()), "{} readers", readers.len());
    drop(readers);
    eventually("memory is available again", || {
        cache
            .client()
            .try_get(&path)
            .is_ok_and(|got| got.status == 200 && got.body.len() as u64 == 16 * MIB)
    });
}

/// All instances share the bucket, so a failing health check would only move clients to an instance
/// with the same fault.
#[test]
fn health_checks_pass_while_the_bucket_is_unavailable() {
    for backend in BACKENDS {
        let (upstream, content) = (Registry::new(), PseudoRandom::new(fresh_seed(), 3 * MIB));
        let (bucket, path) = held(&upstream, &content);
        let cache = bucket.behind(Server::options(&upstream), backend).start();
        cache.client().pull(&path, &content);
        for add_fault in [Some(Fault::Silence), None] {
            match add_fault {
                Some(add_fault) => bucket.add_fault("*", "", add_fault),
                None => bucket.down(),
            }
            let other = PseudoRandom::new(fresh_seed(), 100_000);
            let other_path = upstream.blob_url("a", &upstream.blob(other.clone()));
            cache.client().get(&other_path).expect(&other.bytes());
            for asked in ["/livez", "/readyz", "/healthz"] {
                assert_eq!(check(&cache, asked), 200, "{backend}: {asked}");
            }
        }
    }
}
