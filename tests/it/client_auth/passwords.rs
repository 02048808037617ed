//! Client authentication by password, htpasswd file, and rules.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::*;

/// `alice:open sesame`.
const ALICE: (&str, &str) = ("Authorization", "Basic YWxpY2U6b3BlbiBzZXNhbWU=");

fn guarded(upstream: &Registry) -> Server {
    let yaml = format!(
        "auth: {{username: alice, password: open sesame}}\n\
         registries:\n  - name: \"{0}\"\n    url: \"http://{0}\"\n",
        upstream.name()
    );
    Server::options(upstream)
        .config(yaml)
        .env("LOG_LEVEL", "trace")
        .start()
}

#[track_caller]
fn expect_refused(got: &Response) {
    got.expect_error(401, "UNAUTHORIZED");
    assert_eq!(
        got.field("www-authenticate"),
        Some("Basic realm=\"oci-pull-through\""),
        "{got}"
    );
}

#[test]
fn requests_without_valid_credentials_get_401_on_all_protected_paths() {
    let upstream = Registry::new();
    let cache = guarded(&upstream);
    let digest = upstream.blob("content");
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    for path in [
        "/v2/".to_owned(),
        "/v2".to_owned(),
        upstream.blob_url("a", &digest),
        upstream.manifest_url("a", "v1"),
        upstream.manifest_url("a", &image.digest),
        format!("/v2/{}/a/tags/list", upstream.name()),
        "/v2/no/such/thing".to_owned(),
        "/_/stats".to_owned(),
        "/_/anything".to_owned(),
    ] {
        expect_refused(&cache.client().get(&path));
        let head = cache.client().head(&path);
        assert_eq!(head.status, 401, "{path}");
        for wrong in [
            "Basic YWxpY2U6b3BlbiBzZXNhbWY=",
            "Basic YWxpY2U6",
            "Basic Om9wZW4gc2VzYW1l",
            "Basic Ym9iOm9wZW4gc2VzYW1l",
            "Basic YWxpY2U6b3BlbiBzZXNhbWU",
            "Basic",
            "Bearer YWxpY2U6b3BlbiBzZXNhbWU=",
            "alice:open sesame",
        ] {
            let got = cache.client().get_with(&path, &[("Authorization", wrong)]);
            assert_eq!(got.status, 401, "{path}, Authorization: {wrong}");
        }
    }
    let got = cache.client().request(
        "PUT",
        &upstream.manifest_url("a", "v1"),
        &[("Content-Length", "0")],
    );
    assert_eq!(got.status, 401, "{got}");
    assert_eq!(upstream.requests(), 0, "{:#?}", upstream.log());
    for path in ["/healthz", "/livez", "/readyz", "/_/health"] {
        assert_eq!(cache.client().get(path).status, 200, "{path}");
    }
    assert_ne!(cache.client().get("/").status, 401);
    let stats = cache.client().get_with("/_/stats", &[ALICE]);
    assert_eq!(stats.status, 200, "the statistics require credentials: {stats}");
}

#[test]
fn wrong_credentials_and_missing_credentials_get_different_messages() {
    let upstream = Registry::new();
    let cache = guarded(&upstream);
    let path = upstream.manifest_url("a", "v1");
    let message = |fields: &[(&str, &str)]| {
        let got = cache.client().get_with(&path, fields);
        expect_refused(&got);
        let json: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
        json["errors"][0]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let none = message(&[]);
    assert!(none.contains("send a user name and a password"), "{none}");
    // `alice:open sesamf` and `bob:open sesame`.
    let wrong = message(&[("Authorization", "Basic YWxpY2U6b3BlbiBzZXNhbWY=")]);
    assert!(wrong.contains("is wrong"), "{wrong}");
    assert_eq!(message(&[("Authorization", "Basic Ym9iOm9wZW4gc2VzYW1l")]), wrong);
    assert_eq!(message(&[("Authorization", "Bearer YWxpY2U")]), none);
}

/// The cache answers hits from memory at an early stage. Client authentication must come even
/// earlier.
#[test]
fn cached_content_requires_authentication() {
    let upstream = Registry::new();
    let cache = guarded(&upstream);
    let small = upstream.blob("small content");
    let large = upstream.blob(PseudoRandom::new(fresh_seed(), 200_000));
    Image::small(&upstream, "a", "v1", fresh_seed());
    for path in [
        upstream.blob_url("a", &small),
        upstream.blob_url("a", &large),
        upstream.manifest_url("a", "v1"),
    ] {
        assert_eq!(cache.client().get_with(&path, &[ALICE]).status, 200);
        eventually("the response is cached", || {
            cache.client().get_with(&path, &[ALICE]).x_cache() == "HIT"
        });
        for _ in 0..3 {
            assert_eq!(cache.client().get_with(&path, &[ALICE]).x_cache(), "HIT");
            expect_refused(&cache.client().get(&path));
            assert_eq!(cache.client().head(&path).status, 401);
            expect_refused(&cache.client().get_with(&path, &[("Range", "bytes=0-1")]));
            expect_refused(&cache.client().get_with(&path, &[("If-None-Match", "*")]));
        }
    }
    // Several users may share a connection, because the server authenticates each request.
    let path = upstream.blob_url("a", &small);
    let mut connection = cache.client().open();
    for (fields, status) in [(&[ALICE][..], 200), (&[], 401), (&[ALICE], 200)] {
        connection.request("GET", &path, fields).unwrap();
        assert_eq!(connection.read("GET").unwrap().status, status);
    }
}

/// The cache never sends a client's credentials for the cache to a registry.
#[test]
fn client_credentials_for_the_cache_are_never_sent_upstream() {
    let upstream = Registry::new();
    let cache = guarded(&upstream);
    let digest = upstream.blob("content");
    let get = |path: &str| cache.client().get_with(path, &[ALICE]);
    assert_eq!(get(&upstream.blob_url("a", &digest)).status, 200);
    upstream.on(On::any(), Reply::status(401));
    let private = upstream.blob("private");
    for path in [
        upstream.blob_url("a", &private),
        upstream.manifest_url("a", "private"),
        format!("/v2/{}/a/tags/list", upstream.name()),
    ] {
        let got = get(&path);
        assert!(matches!(got.status, 401 | 403), "{got}");
    }
    assert_eq!(
        upstream.count(|seen| seen.field("authorization").is_some()),
        0,
        "{:#?}",
        upstream.log()
    );
    for secret in ["open sesame", "YWxpY2U6b3BlbiBzZXNhbWU"] {
        assert!(!cache.stderr().contains(secret), "the log contains the password");
    }
}

#[test]
fn requests_succeed_without_credentials_if_authentication_is_off() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let digest = upstream.blob("content");
    for fields in [&[][..], &[ALICE]] {
        assert_eq!(cache.client().get_with("/v2/", fields).status, 200);
        assert_eq!(
            cache
                .client()
                .get_with(&upstream.blob_url("a", &digest), fields)
                .status,
            200
        );
    }
}

// ---- users of a file -------------------------------------------------------------------------------------------------

/// Replaces a file atomically.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// Starts a cache with the users in `lines`.
fn with_users(upstream: &Registry, file: &Path, lines: &str) -> Server {
    write(file, lines);
    Server::options(upstream)
        .env("AUTH_HTPASSWD_FILE", file.display())
        .env("LOG_LEVEL", "trace")
        .start()
}

/// Returns the status of a `GET` by this user.
fn as_user(cache: &Server, path: &str, user: &str, password: &str) -> u16 {
    let shown = basic(user, password);
    let got = cache.client().get_with(path, &[("Authorization", &shown)]);
    if got.status == 401 {
        expect_refused(&got);
    }
    got.status
}

#[test]
fn users_of_the_htpasswd_file_log_in_with_their_passwords() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let lines = [
        "# people\n",
        &htpasswd::line("alice", "open:sesame", 4),
        &htpasswd::line("bob", "ü ß", 4),
    ]
    .concat();
    let cache = with_users(&upstream, &home.path.join("users"), &lines);
    let small = upstream.blob("small content");
    let large = upstream.blob(PseudoRandom::new(fresh_seed(), 200_000));
    Image::small(&upstream, "a", "v1", fresh_seed());
    for path in [
        "/v2/".to_owned(),
        "/_/stats".to_owned(),
        upstream.blob_url("a", &small),
        upstream.blob_url("a", &large),
        upstream.manifest_url("a", "v1"),
    ] {
        // Cold, warm, and from memory.
        for _ in 0..3 {
            assert_eq!(as_user(&cache, &path, "alice", "open:sesame"), 200, "{path}");
            assert_eq!(as_user(&cache, &path, "bob", "ü ß"), 200, "{path}");
            for (user, password) in [
                ("alice", "ü ß"),
                ("alice", ""),
                ("eve", "open:sesame"),
                ("", ""),
                ("alice", "open"),
            ] {
                assert_eq!(
                    as_user(&cache, &path, user, password),
                    401,
                    "{path} {user} {password}"
                );
            }
            expect_refused(&cache.client().get(&path));
        }
    }
    assert_eq!(cache.client().get("/healthz").status, 200);
    eventually("the response is cached", || {
        let shown = basic("alice", "open:sesame");
        let path = upstream.blob_url("a", &small);
        let got = cache.client().get_with(&path, &[("Authorization", &shown)]);
        got.x_cache() == "HIT"
    });
    assert_eq!(upstream.count(|seen| seen.field("authorization").is_some()), 0);
    let log = cache.stderr();
    for secret in [
        "sesame",
        "ü ß",
        "$2y$",
        &basic("alice", "open:sesame")["Basic ".len()..],
    ] {
        assert!(!log.contains(secret), "the log contains {secret}: {log}");
    }
}

#[test]
fn wrong_passwords_are_logged_once_a_minute() {
    let began = Instant::now();
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let cache = with_users(
        &upstream,
        &home.path.join("users"),
        &htpasswd::line("alice", "p", 4),
    );
    for n in 0..50 {
        as_user(&cache, "/v2/", "mallory", &format!("guess {n}"));
        assert_eq!(
            cache.client().get("/v2/").status,
            401,
            "a request without credentials does not count as a guess"
        );
    }
    cache.wait_stderr("msg=\"wrong user name or password\"");
    let log = cache.stderr();
    let lines = log.matches("msg=\"wrong user name or password\"").count() as u64;
    assert!(
        (1..=1 + began.elapsed().as_secs() / 60).contains(&lines),
        "{lines} lines"
    );
    assert!(!log.contains("mallory") && !log.contains("guess"), "{log}");
}

#[test]
fn a_changed_htpasswd_file_is_reloaded_without_a_restart() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let file = home.path.join("users");
    let (alice, bob) = (htpasswd::line("alice", "p", 4), htpasswd::line("bob", "p", 4));
    let cache = with_users(&upstream, &file, &alice);
    let path = upstream.blob_url("a", &upstream.blob("content"));
    let status = |user: &str| as_user(&cache, &path, user, "p");
    assert_eq!((status("alice"), status("bob")), (200, 401));
    write(&file, &bob);
    // The new file discards the remembered success of Alice and the remembered failure of Bob.
    eventually("the new user is accepted and the old user is rejected", || {
        (status("alice"), status("bob")) == (401, 200)
    });
    // An invalid file changes nothing.
    write(&file, &format!("{alice}eve:$apr1$canary$canary\n"));
    cache.wait_stderr("error=\"line 2: only bcrypt");
    assert_eq!((status("alice"), status("bob")), (401, 200));
    write(&file, &format!("{alice}{bob}"));
    eventually("both users are accepted", || {
        (status("alice"), status("bob")) == (200, 200)
    });
    assert!(!cache.stderr().contains("canary"));
}

#[test]
fn client_authentication_is_reloaded_with_the_configuration() {
    let upstream = Registry::new();
    let path = upstream.blob_url("a", &upstream.blob("content"));
    let yaml = |auth: &str| {
        let name = upstream.name();
        format!("{auth}\nregistries:\n  - {{name: \"{name}\", url: \"http://{name}\"}}\n")
    };
    let cache = Server::options(&upstream).config(yaml("")).start();
    assert_eq!(cache.client().get(&path).status, 200);
    let file = cache.home().join("config.yaml");
    let reload = |auth: &str| {
        write(&file, &yaml(auth));
        let before = cache.stderr().matches("configuration reloaded").count();
        let pid = rustix::process::Pid::from_raw(cache.pid() as i32).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        eventually("the configuration is reloaded", || {
            cache.stderr().matches("configuration reloaded").count() > before
        });
    };
    reload("auth: {username: alice, password: one}");
    let statuses = || {
        let users = ["one", "two"].map(|password| as_user(&cache, &path, "alice", password));
        (cache.client().get(&path).status, users)
    };
    assert_eq!(statuses(), (401, [200, 401]));
    reload("auth: {username: alice, password: two}");
    assert_eq!(statuses(), (401, [401, 200]));
    let users = cache.home().join("users");
    write(&users, &htpasswd::line("alice", "one", 4));
    reload(&format!("auth: {{htpasswd_file: {}}}", users.display()));
    assert_eq!(statuses(), (401, [200, 401]));
    reload("");
    assert_eq!(statuses(), (200, [200, 200]));
}

#[test]
fn client_credentials_can_be_set_in_the_environment() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let file = home.path.join("password");
    std::fs::write(&file, "open sesame\n").unwrap();
    for (name, value) in [
        ("AUTH_PASSWORD_FILE", file.display().to_string()),
        ("AUTH_PASSWORD", "open sesame".to_owned()),
    ] {
        let cache = Server::options(&upstream)
            .env("AUTH_USERNAME", "alice")
            .env(name, value)
            .start();
        assert_eq!(cache.client().get_with("/v2/", &[ALICE]).status, 200, "{name}");
        expect_refused(&cache.client().get("/v2/"));
    }
    let mut half = Server::options(&upstream)
        .env("AUTH_USERNAME", "alice")
        .try_start();
    let (status, log) = half
        .as_mut()
        .err()
        .expect("a server with half of a password does not start");
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{log}");
}

// ---- guesses ---------------------------------------------------------------------------------------------------------

/// Returns the processor time of the threads with this name prefix, in hundredths of a second, and
/// the thread count.
fn threads(cache: &Server, name: &str) -> (u64, usize) {
    let (mut ticks, mut count) = (0, 0);
    for task in std::fs::read_dir(format!("/proc/{}/task", cache.pid())).unwrap() {
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else {
            continue;
        };
        let (begin, end) = (stat.find('(').unwrap(), stat.rfind(')').unwrap());
        if stat[begin + 1..end].starts_with(name) {
            let fields: Vec<&str> = stat[end + 2..].split(' ').collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
            count += 1;
        }
    }
    (ticks, count)
}

/// If many clients start to use a credential, the cache verifies the credential once, on any core.
#[test]
fn concurrent_requests_with_one_password_share_a_check() {
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let file = home.path.join("users");
    write(
        &file,
        &[htpasswd::line("one", "p", 12), htpasswd::line("many", "p", 12)].concat(),
    );
    let cache = Server::options(&upstream)
        .cores(2)
        .env("AUTH_HTPASSWD_FILE", file.display())
        .start();
    let cost = |work: &dyn Fn()| {
        let before = threads(&cache, "auth-").0;
        work();
        threads(&cache, "auth-").0 - before
    };
    let once = cost(&|| assert_eq!(as_user(&cache, "/v2/", "one", "p"), 200));
    let many = cost(&|| {
        std::thread::scope(|scope| {
            for _ in 0..40 {
                scope.spawn(|| assert_eq!(as_user(&cache, "/v2/", "many", "p"), 200));
            }
        });
    });
    assert!(
        many < 5 * once.max(1),
        "40 clients took {many} CPU ticks, one client took {once}"
    );
}

#[test]
fn a_thousand_wrong_passwords_do_not_slow_down_authenticated_clients() {
    raise_file_limit();
    let upstream = Registry::new();
    let home = server::TempDir::new();
    let file = home.path.join("users");
    write(
        &file,
        &[htpasswd::line("alice", "p", 4), htpasswd::line("victim", "p", 10)].concat(),
    );
    let cache = Server::options(&upstream)
        .cores(2)
        .env("AUTH_HTPASSWD_FILE", file.display())
        .start();
    let path = upstream.blob_url("a", &upstream.blob("content"));
    let alice = basic("alice", "p");
    let hit = || {
        let began = Instant::now();
        let got = cache.client().get_with(&path, &[("Authorization", &alice)]);
        got.expect(b"content");
        began.elapsed()
    };
    let median = |mut times: Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    hit();
    let alone = median((0..50).map(|_| hit()).collect());
    let threads_before = threads(&cache, "").1;

    let over = AtomicBool::new(false);
    let (statuses, disturbed, threads_then) = std::thread::scope(|scope| {
        let guessers: Vec<_> = (0..20)
            .map(|guesser| {
                let cache = &cache;
                scope.spawn(move || {
                    let mut connections: Vec<_> = (0..50).map(|_| cache.client().open()).collect();
                    for (n, connection) in connections.iter_mut().enumerate() {
                        let shown = basic("victim", &format!("guess {guesser} {n}"));
                        let fields = [("Authorization", shown.as_str())];
                        connection.request("GET", "/v2/", &fields).unwrap();
                    }
                    let read = |mut connection: Connection| {
                        let got = connection.read("GET").unwrap();
                        if got.status == 503 {
                            got.expect_error(503, "UNAVAILABLE");
                            assert!(got.field("retry-after").is_some(), "{got}");
                        } else {
                            expect_refused(&got);
                        }
                        got.status
                    };
                    connections.into_iter().map(read).collect::<Vec<_>>()
                })
            })
            .collect();
        let bystander = scope.spawn(|| {
            let (mut times, mut most) = (Vec::new(), 0);
            while times.len() < 20 || !over.load(Ordering::Relaxed) {
                times.push(hit());
                if times.len() % 20 == 0 {
                    most = most.max(threads(&cache, "").1);
                }
            }
            (times, most)
        });
        let statuses: Vec<u16> = guessers
            .into_iter()
            .flat_map(|guesser| guesser.join().unwrap())
            .collect();
        over.store(true, Ordering::Relaxed);
        let (times, most) = bystander.join().unwrap();
        (statuses, times, most)
    });
    assert_eq!(statuses.len(), 1_000);
    assert!(statuses.contains(&401), "the server checks some of the passwords");
    assert!(
        statuses.contains(&503),
        "the server checks only a few of the passwords"
    );
    let slow = median(disturbed);
    // A generous limit: twenty attackers, the cache and other tests share the machine.
    let bound = 100 * alone.max(Duration::from_millis(1));
    assert!(slow < bound, "hit: {slow:?} beside the guesses, {alone:?} alone");
    assert_eq!(threads(&cache, "auth-").1, 2);
    // File threads start and stop. No thread was started for a password.
    assert!(
        threads_then <= threads_before + 8,
        "the number of threads rose from {threads_before} to {threads_then}"
    );
    // Clients with valid credentials are still admitted.
    eventually("a client with the right password is accepted", || {
        as_user_or_busy(&cache, "victim", "p") == 200
    });
}

fn as_user_or_busy(cache: &Server, user: &str, password: &str) -> u16 {
    let shown = basic(user, password);
    cache
        .client()
        .get_with("/v2/", &[("Authorization", &shown)])
        .status
}
