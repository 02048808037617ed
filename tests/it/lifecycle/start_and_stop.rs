//! Start, health checks, command line and stop.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::client::{Flow, Why};
use crate::harness::server::TempDir;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Runs the binary with these arguments and environment until exit. Returns exit code, stdout and
/// stderr.
fn run(args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let home = TempDir::new();
    let mut command = Server::command(&home.path, &home.path.join("store"));
    command
        .env_remove("CONFIG_FILE")
        .args(args)
        .envs(env.iter().copied());
    let (status, out, err) = finish(command);
    (status, out, err)
}

/// Waits for a process that should exit immediately. Kills the process after 10 s.
fn finish(mut command: Command) -> (Option<i32>, String, String) {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    let (done, timeout) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if timeout.recv_timeout(Duration::from_secs(10)).is_err() {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    let _ = done.send(());
    watchdog.join().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_banner_shows_version_address_store_and_driver() {
    let cache = Server::bare().cores(2).start();
    let banner = cache.stderr();
    assert!(banner.contains(env!("CARGO_PKG_VERSION")), "{banner}");
    assert!(banner.contains(&cache.addr().to_string()), "{banner}");
    assert!(banner.contains(cache.root().to_str().unwrap()), "{banner}");
    assert!(
        banner.contains("io_uring") || banner.contains("epoll"),
        "{banner}"
    );
}

#[test]
fn both_io_drivers_serve_when_selected() {
    for driver in ["epoll", "io_uring", "auto"] {
        let upstream = Registry::new();
        let cache = match Server::options(&upstream).env("IO_DRIVER", driver).try_start() {
            Ok(cache) => cache,
            Err((_, stderr)) => {
                assert_eq!(driver, "io_uring", "only io_uring may be missing: {stderr}");
                assert!(stderr.contains("io_uring"), "and then it is said: {stderr}");
                eprintln!("SKIPPED: io_uring is not available here");
                continue;
            }
        };
        if driver != "auto" {
            assert!(cache.stderr().contains(driver), "{}", cache.stderr());
        }
        let content = PseudoRandom::new(fresh_seed(), 3 * MIB);
        let digest = upstream.blob(content.clone());
        for _ in 0..2 {
            cache.client().pull(&upstream.blob_url("a", &digest), &content);
            cache.wait_stored(&digest);
        }
        assert_eq!(upstream.gets(&digest), 1);
    }
}

#[test]
fn health_does_not_depend_on_an_upstream() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    upstream.down();
    for path in ["/healthz", "/livez", "/readyz", "/_/health"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(
                cache.client().request(method, path, &[]).status,
                200,
                "{method} {path}"
            );
        }
    }
}

#[test]
fn healthcheck_succeeds_only_if_the_server_runs() {
    for form in ["healthcheck", "-healthcheck"] {
        // No other server gets the port after the kill.
        let port = Port::new();
        let mut cache = Server::bare().env("LISTEN_ADDR", port.addr()).start();
        let addr = cache.addr().to_string();
        let (code, ..) = run(&[form], &[("LISTEN_ADDR", &addr)]);
        assert_eq!(code, Some(0), "{form}");
        let port_only = format!(":{}", cache.addr().port());
        let (code, ..) = run(&[form], &[("LISTEN_ADDR", &port_only)]);
        assert_eq!(code, Some(0), "{form} with a port alone");
        cache.kill9();
        let (code, _, stderr) = run(&[form], &[("LISTEN_ADDR", &addr)]);
        assert_eq!(code, Some(1), "{form}: {stderr}");
    }
}

#[test]
fn sigterm_lets_a_running_response_finish_and_exits_0() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .cores(2)
        .env("DRAIN_TIMEOUT", "600s")
        .start();
    let content = PseudoRandom::new(fresh_seed(), 8 * MIB);
    let digest = upstream.blob(content.clone());
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(4 * MIB, &gate));
    let mut idle = cache.client().open();
    idle.request("GET", "/v2/", &[]).unwrap();
    idle.read("GET").unwrap();
    let mut busy = cache.client().open();
    busy.request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    let head = busy.read_head().unwrap();
    gate.wait_arrived(1);
    cache.sigterm();
    eventually("no new connections", || Connection::open(cache.addr()).is_err());
    assert_eq!(
        idle.read_to_close().0,
        b"",
        "an idle connection ends without a word"
    );
    assert!(cache.is_running());
    gate.open();
    let whole = busy.read_body(head, "GET", &mut |at, piece| {
        content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
    });
    assert_eq!(whole.unwrap().received, content.size);
    let status = cache
        .wait_exit(Duration::from_secs(30))
        .expect("it ends when its work is done");
    assert_eq!(status.code(), Some(0));
    disk::check(cache.root()).expect_sound();
}

#[test]
fn an_idle_server_ends_at_once() {
    let mut cache = Server::bare().cores(2).env("DRAIN_TIMEOUT", "600s").start();
    let _idle = cache.client().open();
    let started = Instant::now();
    cache.stop();
    assert!(
        started.elapsed() < Duration::from_secs(30),
        "{:?}",
        started.elapsed()
    );
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("DRAIN_TIMEOUT", "600s").start();
    let content = PseudoRandom::new(fresh_seed(), 8 * MIB);
    let digest = upstream.blob(content);
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(4 * MIB, &gate));
    let mut busy = cache.client().open();
    busy.request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    busy.read_head().unwrap();
    cache.sigterm();
    eventually("no new connections", || Connection::open(cache.addr()).is_err());
    assert!(cache.is_running());
    cache.sigterm();
    assert!(
        cache.wait_exit(Duration::from_secs(30)).is_some(),
        "it still runs"
    );
    let broken = busy.read("GET").map(|_| ()).unwrap_err();
    assert!(!matches!(broken.why, Why::Timeout), "{broken:?}");
    gate.open();
}

#[test]
fn content_stored_before_sigterm_is_complete_after_the_stop() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let content = PseudoRandom::new(fresh_seed(), 2 * MIB);
    let digest = upstream.blob(content.clone());
    cache.client().pull(&upstream.blob_url("a", &digest), &content);
    // A stop waits for responses, but not for commits.
    cache.wait_stored(&digest);
    cache.stop();
    disk::check(cache.root()).expect_clean();
    assert!(disk::is_stored(cache.root(), &digest));
}

#[test]
fn a_second_process_on_the_same_port_is_refused() {
    let first = Server::bare().start();
    let second = Server::bare().env("LISTEN_ADDR", first.addr()).try_start();
    let Err((status, stderr)) = second else {
        panic!("two servers share a port")
    };
    assert_eq!(
        status.and_then(|s| s.code()).map(|code| code != 0),
        Some(true),
        "{stderr}"
    );
    assert!(
        stderr.contains(&first.addr().port().to_string()),
        "it says which port: {stderr}"
    );
    first.client().get("/v2/").expect(b"{}");
}

#[test]
fn a_second_process_on_the_same_store_is_refused() {
    let upstream = Registry::new();
    let mut first = Server::start(&upstream);
    let digest = upstream.blob("hello");
    first
        .client()
        .get(&upstream.blob_url("a", &digest))
        .expect(b"hello");
    first.wait_stored(&digest);
    let started = Instant::now();
    let Err((status, stderr)) = Server::options(&upstream).root(first.root()).try_start() else {
        panic!("two servers share a store")
    };
    assert!(started.elapsed() < Duration::from_secs(30));
    assert_eq!(
        status.and_then(|s| s.code()).map(|code| code != 0),
        Some(true),
        "{stderr}"
    );
    assert!(
        stderr.contains(first.root().to_str().unwrap()),
        "it says which store: {stderr}"
    );
    first
        .client()
        .get(&upstream.blob_url("a", &digest))
        .expect(b"hello");
    // The lock ends with its holder, even after a kill.
    first.kill9();
    let third = Server::options(&upstream).root(first.root()).start();
    upstream.down();
    third
        .client()
        .get(&upstream.blob_url("a", &digest))
        .expect(b"hello");
}

#[test]
fn an_invalid_setting_is_reported_with_exit_code_2() {
    for (name, value) in [
        ("CORES", "many"),
        ("CORES", "0"),
        ("TAG_TTL", "soon"),
        ("TAG_TTL", "-1s"),
        ("IO_DRIVER", "kqueue"),
        ("LISTEN_ADDR", "nowhere"),
        ("LISTEN_ADDR", "127.0.0.1:99999"),
        ("STORAGE_BACKEND", "floppy"),
        ("CACHE_LATEST_TAG", "perhaps"),
        ("CACHE_TAG_MANIFESTS", "2"),
        ("DEFAULT_REGISTRY", "not a host"),
        ("HELPER_THREADS", "-1"),
        ("LOG_LEVEL", "shouting"),
    ] {
        let (code, _, stderr) = run(&[], &[(name, value)]);
        assert_eq!(code, Some(2), "{name}={value}: {stderr}");
        assert!(stderr.contains(name), "{name}={value}: {stderr}");
    }
    let (code, _, stderr) = run(&[], &[("CORES", "many"), ("TAG_TTL", "soon")]);
    assert_eq!(code, Some(2));
    assert!(
        stderr.contains("CORES") && stderr.contains("TAG_TTL"),
        "all mistakes at once: {stderr}"
    );
    let (code, ..) = run(&["--no-such-flag"], &[]);
    assert_eq!(code, Some(2));
}

#[test]
fn an_invalid_configuration_file_is_reported_with_the_line() {
    let home = TempDir::new();
    for (yaml, names) in [
        ("registries:\n  - name: a.example\nregistriez: []\n", "registriez"),
        ("registries:\n  - name: a.example\n    insecur: true\n", "insecur"),
        ("registries:\n  - name: \"not a host\"\n", "name"),
        (
            "registries:\n  - name: a.example\n    insecure: perhaps\n",
            "insecure",
        ),
        (
            "registries:\n  - name: a.example\n    url: \"gopher://x\"\n",
            "url",
        ),
        ("registries: [\n", ""),
    ] {
        let path = home.path.join("bad.yaml");
        std::fs::write(&path, yaml).unwrap();
        let (code, _, stderr) = run(&[], &[("CONFIG_FILE", path.to_str().unwrap())]);
        assert_eq!(code, Some(2), "{yaml}: {stderr}");
        assert!(
            stderr.contains(names) && stderr.contains("bad.yaml"),
            "{yaml}: {stderr}"
        );
    }
    let (code, _, stderr) = run(&[], &[("CONFIG_FILE", "/nonexistent/config.yaml")]);
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains("/nonexistent/config.yaml"), "{stderr}");
}

#[test]
fn help_and_version_go_to_stdout() {
    let (code, stdout, _) = run(&["--help"], &[]);
    assert_eq!(code, Some(0));
    for name in ["LISTEN_ADDR", "FS_ROOT", "TAG_TTL", "healthcheck"] {
        assert!(stdout.contains(name), "{name} in {stdout}");
    }
    let (code, stdout, _) = run(&["version"], &[]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains(env!("CARGO_PKG_VERSION")), "{stdout}");
}

#[test]
fn each_request_leaves_a_line_in_the_log() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("LOG_LEVEL", "info").start();
    let digest = upstream.blob("hello");
    let path = upstream.blob_url("a", &digest);
    for result in ["MISS", "HIT"] {
        // Requests join a fill until its end, so a request soon after the first may not be a hit.
        eventually(&format!("a response with the result {result}"), || {
            let got = cache.client().get(&path);
            got.expect(b"hello").x_cache() == result
        });
        eventually(&format!("a line for the {result}"), || {
            let log = cache.stderr().to_ascii_uppercase();
            log.lines()
                .any(|line| line.contains(&digest.to_ascii_uppercase()) && line.contains(result))
        });
    }
}

#[test]
fn an_idle_server_uses_almost_no_cpu() {
    let cache = Server::bare().cores(2).start();
    cache.client().get("/v2/").expect(b"{}");
    cache.assert_rests(Duration::from_millis(50), || ());
}

#[test]
fn the_last_requests_before_a_stop_are_in_the_log() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("LOG_LEVEL", "info").start();
    let digest = upstream.blob("hello");
    for _ in 0..3 {
        cache
            .client()
            .get(&upstream.blob_url("a", &digest))
            .expect(b"hello");
    }
    cache.sigterm();
    cache.wait_exit(Duration::from_secs(30)).expect("it ends");
    let log = cache.stderr();
    assert_eq!(
        log.lines()
            .filter(|line| line.contains(&digest) && line.contains("msg=request"))
            .count(),
        3,
        "{log}"
    );
}

/// A pinned core also starts helper threads. If a helper thread inherited the core's CPU, its work
/// would delay the core.
#[test]
fn helper_threads_may_run_on_every_cpu() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(1).start();
    let content = PseudoRandom::new(fresh_seed(), 3 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    cache.client().pull(&path, &content);
    cache.wait_stored(&digest);
    cache.client().pull(&path, &content);
    let cpus = |task: &std::path::Path| {
        let status = std::fs::read_to_string(task.join("status")).unwrap_or_default();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.map(|list| list.trim().to_owned())
    };
    let process = std::path::PathBuf::from(format!("/proc/{}", cache.pid()));
    let all = cpus(&process).expect("the process runs");
    let mut helpers = 0;
    for task in std::fs::read_dir(process.join("task")).unwrap() {
        let task = task.unwrap().path();
        let name = std::fs::read_to_string(task.join("comm")).unwrap_or_default();
        if name.starts_with("helper") {
            helpers += 1;
            // A thread may have ended since the listing.
            assert!(cpus(&task).is_none_or(|list| list == all), "{name}");
        }
    }
    assert!(
        helpers >= 3,
        "two threads of the pool, and at least one for blocking work: {helpers}"
    );
}
