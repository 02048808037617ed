//! Dependencies of the process besides clients and registries: port, log reader, resource limits
//! and file modes.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::server::{TempDir, write_private};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// Returns a loopback address that no other test uses, so that the port stays free.
pub(super) fn address_of_our_own() -> SocketAddr {
    let [.., a, b, c] = fresh_seed().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, a | 1, b, c.clamp(1, 254)), 5_000))
}

#[test]
fn a_killed_server_starts_again_on_its_port_at_once() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .cores(2)
        .env("LISTEN_ADDR", address_of_our_own())
        .start();
    let content = PseudoRandom::new(fresh_seed(), 100_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    for round in 0..20 {
        // Connections are open, and one connection waits for a request.
        let _kept = cache.client().open();
        cache.client().pull(&path, &content);
        let signal = [Signal::KILL, Signal::ABORT][round % 2];
        cache.signal(signal);
        cache.wait_exit(PATIENCE).expect("it ends by a signal");
        cache.restart();
        // The port was free after the process ended. Neither the process nor io_uring keeps the
        // listener open.
        assert!(
            !cache.stderr().contains("listen address in use"),
            "round {round}: {}",
            cache.stderr()
        );
    }
    cache.client().pull(&path, &content);
}

#[test]
fn a_start_waits_for_a_port_that_is_being_released() {
    let addr = address_of_our_own();
    let mut first = Server::bare().env("LISTEN_ADDR", addr).start();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| Server::bare().env("LISTEN_ADDR", addr).start());
        first.stop();
        let second = second.join().expect("it starts");
        second.client().get("/v2/").expect(b"{}");
    });
}

pub(super) fn config_for(upstream: &Registry) -> String {
    let addr = upstream.addr();
    format!("registries: [{{name: \"{addr}\", insecure: true, url: \"http://{addr}\"}}]\n")
}

fn home_with(config: &str) -> TempDir {
    let home = TempDir::new();
    write_private(&home.path.join("config.yaml"), config);
    home
}

/// A server whose standard error is a full pipe.
struct Unread {
    child: Child,
    addr: SocketAddr,
    reader: File,
    _home: TempDir,
}

impl Unread {
    /// Starts a server with `config` and additional variables.
    fn spawn(config: &str, env: &[(&str, &str)]) -> Self {
        let home = home_with(config);
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        fill(&writer);
        let addr = address_of_our_own();
        let mut command = Server::command(&home.path, &home.path.join("store"));
        command
            .env("LISTEN_ADDR", addr.to_string())
            .env("CORES", "1")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(writer));
        let child = command.spawn().unwrap();
        Unread {
            child,
            addr,
            reader: File::from(reader),
            _home: home,
        }
    }

    fn behind(upstream: &Registry, env: &[(&str, &str)]) -> Self {
        let server = Self::spawn(&config_for(upstream), env);
        eventually("it listens", || TcpStream::connect(server.addr).is_ok());
        server
    }

    fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// Waits for the exit code.
    fn wait(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    fn stop(&mut self) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, Signal::TERM).unwrap();
        self.wait()
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Fills a pipe completely and restores blocking mode.
fn fill(pipe: &OwnedFd) {
    rustix::pipe::fcntl_setpipe_size(pipe, 4096).unwrap();
    let flags = rustix::fs::fcntl_getfl(pipe).unwrap();
    rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while rustix::io::write(pipe, &[b'.'; 512]).is_ok() {}
    rustix::fs::fcntl_setfl(pipe, flags).unwrap();
}

/// Causes every kind of log line: cold pulls of a manifest and a blob, a hit, and an error. Returns
/// the elapsed time.
fn pull(upstream: &Registry, client: &Client) -> Duration {
    let seed = fresh_seed();
    let name = format!("r{seed:x}");
    let content = PseudoRandom::new(seed, 70_000);
    let blob = upstream.blob_url(&name, &upstream.blob(content.clone()));
    let image = Image::small(upstream, &name, "v1", seed);
    let missing = upstream.manifest_url(&name, "none");
    let began = Instant::now();
    client.pull(&blob, &content);
    client
        .get(&upstream.manifest_url(&name, "v1"))
        .expect(&image.manifest);
    assert_eq!(client.get(&missing).status, 404);
    client.pull(&blob, &content);
    began.elapsed()
}

#[test]
fn a_stalled_log_reader_does_not_slow_down_requests() {
    let upstream = Registry::new();
    let alone = Server::options(&upstream).env("LOG_LEVEL", "debug").start();
    let mut cache = Unread::behind(&upstream, &[("LOG_LEVEL", "debug")]);
    // Alternates between both servers, so that other load on the machine affects both.
    let (mut read, mut unread): (Vec<Duration>, Vec<Duration>) = (0..40)
        .map(|_| (pull(&upstream, &alone.client()), pull(&upstream, &cache.client())))
        .unzip();
    read.sort();
    unread.sort();
    let (read, unread) = (read[20], unread[20]);
    assert!(
        unread <= 2 * read + Duration::from_millis(20),
        "{unread:?}, and {read:?} with a reader"
    );
    for path in ["/livez", "/readyz"] {
        assert_eq!(cache.client().get(path).status, 200, "{path}");
    }
    assert_eq!(cache.stop(), Some(0), "it stops as if the log were read");
}

#[test]
fn a_resumed_log_reader_receives_the_number_of_dropped_lines() {
    let upstream = Registry::new();
    let mut cache = Unread::behind(&upstream, &[]);
    let digest = upstream.blob("x");
    let path = format!("{}?last={}", upstream.blob_url("a", &digest), "x".repeat(900));
    let client = cache.client();
    // Each line has a kilobyte. The log queue holds 2 MiB.
    let mut connection = client.open();
    for _ in 0..4_000 {
        connection.request("GET", &path, &[]).unwrap();
        assert_eq!(connection.read("GET").unwrap().status, 200);
    }
    let mut reader = cache.reader.try_clone().unwrap();
    let text = std::thread::spawn(move || {
        let mut text = Vec::new();
        reader.read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    });
    assert_eq!(cache.stop(), Some(0));
    let text = text.join().unwrap();
    let dropped: usize = text
        .lines()
        .filter(|line| line.contains("log lines dropped"))
        .map(|line| line.rsplit_once("lines=").unwrap().1.parse::<usize>().unwrap())
        .sum();
    let kept = text.matches("msg=request").count();
    assert!(dropped > 0 && kept + dropped >= 4_000, "{kept} + {dropped}");
    assert!(
        text.contains("msg=listening "),
        "events have room that requests do not take"
    );
    assert!(
        text.contains("msg=\"shutdown finished\""),
        "the last lines are written"
    );
}

#[test]
fn a_configuration_error_ends_the_process_even_if_the_log_is_unread() {
    let mut cache = Unread::spawn("tag_ttl: never\n", &[]);
    assert_eq!(cache.wait(), Some(2));
}

#[test]
fn a_second_signal_ends_the_process_even_if_the_log_is_unread() {
    let upstream = Registry::new();
    let gate = Gate::new();
    let content = PseudoRandom::new(fresh_seed(), 3 * MIB);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    upstream.on(On::path(content.digest()), Reply::new().hold_at(MIB, &gate));
    let mut cache = Unread::behind(&upstream, &[("DRAIN_TIMEOUT", "1h")]);
    let mut pulling = cache.client().open();
    pulling.request("GET", &path, &[]).unwrap();
    pulling.read_head().unwrap();
    let pid = rustix::process::Pid::from_child(&cache.child);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    eventually("it stops accepting", || TcpStream::connect(cache.addr).is_err());
    assert_eq!(cache.stop(), Some(1));
    gate.open();
}

#[cfg(feature = "fail-points")]
#[test]
fn a_panic_ends_only_its_connection_even_if_the_log_is_unread() {
    let upstream = Registry::new();
    let content = PseudoRandom::new(fresh_seed(), 100_000);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    let mut cache = Unread::behind(&upstream, &[("FAIL_POINT", "request:panic:2")]);
    cache.client().pull(&path, &content);
    let mut met = cache.client().open();
    met.request("GET", &path, &[]).unwrap();
    met.read("GET").expect_err("the second request meets the panic");
    cache.client().pull(&path, &content);
    assert_eq!(cache.stop(), Some(0));
}

#[test]
fn a_closed_log_pipe_does_not_affect_requests() {
    let upstream = Registry::new();
    let mut cache = Unread::behind(&upstream, &[("LOG_LEVEL", "debug")]);
    // From here on, writes fail with EPIPE.
    cache.reader = File::open("/dev/null").unwrap();
    for _ in 0..5 {
        pull(&upstream, &cache.client());
    }
    assert_eq!(cache.stop(), Some(0));
}

#[test]
fn a_background_process_of_a_terminal_is_not_stopped_by_logging() {
    let upstream = Registry::new();
    let home = home_with(&config_for(&upstream));
    let addr = address_of_our_own();
    let server = Server::command(&home.path, &home.path.join("store"));
    let pid_file = home.path.join("pid");
    // The shell leads the session of a new terminal. Under `set -m`, its job is a background
    // process group.
    let words = format!(
        "stty tostop; set -m; '{}' & echo $! > '{}'; wait $!",
        server.get_program().display(),
        pid_file.display()
    );
    let mut script = std::process::Command::new("script");
    script
        .args(["-qefc", &words, "/dev/null"])
        .env_clear()
        .envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("LISTEN_ADDR", addr.to_string())
        .env("CORES", "1")
        .env("LOG_LEVEL", "debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut terminal = Ended(script.spawn().unwrap());
    let pid = || -> Option<i32> { std::fs::read_to_string(&pid_file).ok()?.trim().parse().ok() };
    eventually("the job has begun", || pid().is_some());
    let pid = pid().and_then(rustix::process::Pid::from_raw).unwrap();
    let job = Job(pid);
    let is_stopped = || {
        let stat =
            std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let mut stopped = false;
    eventually("it listens, or is stopped", || {
        // The shell exits when its job is stopped.
        stopped = is_stopped() || terminal.0.try_wait().unwrap().is_some();
        stopped || TcpStream::connect(addr).is_ok()
    });
    assert!(!stopped, "its first line has stopped it");
    for _ in 0..3 {
        pull(&upstream, &Client::new(addr));
    }
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    let mut status = None;
    eventually("it ends", || {
        status = terminal.0.try_wait().unwrap();
        status.is_some()
    });
    // From here on, the process ID may belong to another process.
    std::mem::forget(job);
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

/// A job of a shell. Killed if the test fails.
struct Job(rustix::process::Pid);

impl Drop for Job {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, Signal::KILL);
    }
}

/// A process that is killed at the end of its test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn missing_standard_descriptors_are_opened_as_dev_null() {
    let upstream = Registry::new();
    let home = home_with(&config_for(&upstream));
    let addr = address_of_our_own();
    let server = Server::command(&home.path, &home.path.join("store"));
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "exec \"$0\" <&- >&- 2>&-"])
        .arg(server.get_program())
        .env_clear()
        .envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .env("LISTEN_ADDR", addr.to_string())
        .env("CORES", "1");
    let mut server = Unread {
        child: shell.spawn().unwrap(),
        addr,
        reader: File::open("/dev/null").unwrap(),
        _home: home,
    };
    eventually("it listens", || TcpStream::connect(addr).is_ok());
    for _ in 0..3 {
        pull(&upstream, &server.client());
    }
    for number in 0..3 {
        let descriptor = format!("/proc/{}/fd/{number}", server.child.id());
        let target = std::fs::read_link(&descriptor).unwrap();
        assert_eq!(target, Path::new("/dev/null"), "{descriptor}");
    }
    assert_eq!(server.stop(), Some(0));
}

/// Returns options for a server that a shell starts after `words`.
fn prepared(upstream: &Registry, words: &str) -> server::Options {
    let script = format!("{words} && exec \"$0\" \"$@\"");
    Server::options(upstream).launched_by(&["sh", "-c", &script])
}

#[test]
fn blobs_above_the_file_size_limit_are_served_but_not_cached() {
    let upstream = Registry::new();
    // In units of 512 bytes.
    let mut cache = prepared(&upstream, "ulimit -f 2048").start();
    let small = PseudoRandom::new(fresh_seed(), MIB / 2);
    let large = PseudoRandom::new(fresh_seed(), 3 * MIB);
    for _ in 0..2 {
        for content in [&large, &small] {
            let path = upstream.blob_url("a", &upstream.blob(content.clone()));
            cache.client().pull(&path, content);
        }
        cache.wait_stored(&small.digest());
    }
    cache.wait_stderr("ulimit -f, LimitFSIZE=");
    assert!(!disk::is_stored(cache.root(), &large.digest()));
    assert!(cache.is_running());
    cache.settled_store().expect_clean();
}

/// Returns path, mode and kind of `dir` and every file and directory below.
fn modes(dir: &Path) -> Vec<(String, u32, bool)> {
    let mut found = Vec::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        found.push((
            path.display().to_string(),
            meta.permissions().mode() & 0o7777,
            meta.is_dir(),
        ));
        if meta.is_dir() {
            waiting.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        }
    }
    found
}

#[test]
fn store_files_are_inaccessible_to_other_users_for_every_umask() {
    for umask in ["000", "022", "077"] {
        let upstream = Registry::new();
        let mut cache = prepared(&upstream, &format!("umask {umask}"))
            .env("STORAGE_BACKEND", "fs")
            .start();
        let content = PseudoRandom::new(fresh_seed(), 100_000);
        let digest = upstream.blob(content.clone());
        let image = Image::small(&upstream, "a", "v1", fresh_seed());
        cache.client().pull(&upstream.blob_url("a", &digest), &content);
        cache
            .client()
            .get(&upstream.manifest_url("a", "v1"))
            .expect(&image.manifest);
        eventually("all is stored", || {
            disk::is_stored(cache.root(), &digest)
                && disk::tag_path(cache.root(), &upstream.addr().to_string(), "a", "v1").exists()
        });
        cache.stop();
        for (path, mode, is_dir) in modes(cache.root()) {
            let wanted = match (is_dir, path.ends_with("/.lock")) {
                (true, _) => 0o750,
                (_, true) => 0o600,
                _ => 0o640,
            };
            assert_eq!(mode, wanted, "{path} has {mode:o} with umask {umask}");
        }
    }
}

#[test]
fn start_removes_access_of_other_users_to_an_older_store() {
    let home = TempDir::new();
    let root = home.path.join("store");
    let blobs = root.join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let lock = root.join(".lock");
    File::create(&lock).unwrap().write_all(b"").unwrap();
    for (path, mode) in [(&root, 0o755), (&blobs, 0o755), (&lock, 0o666)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let _cache = Server::bare().env("STORAGE_BACKEND", "fs").root(&root).start();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&lock), mode(&blobs)), (0o600, 0o750));
}

#[test]
fn a_world_readable_configuration_with_a_secret_is_logged() {
    let home = TempDir::new();
    let file = home.path.join("secret.yaml");
    write_private(
        &file,
        "registries: [{name: r.lan, auth: {username: u, password: canary}}]\n",
    );
    let warned = |mode: u32| {
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
        let cache = Server::bare().env("CONFIG_FILE", file.display()).start();
        assert!(!cache.stderr().contains("canary"));
        cache
            .stderr()
            .contains("secret.yaml (mode 0644)\" reason=\"holds a secret")
    };
    assert!(warned(0o644));
    assert!(!warned(0o600));
}
