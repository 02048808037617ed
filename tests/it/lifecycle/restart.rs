//! Stops and restarts without broken requests, passed sockets, and messages to a service manager.

use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::client::{Flow, Why};
use crate::harness::server::TempDir;
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// How long a server that stops waits for the first request of a connection.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// The requests of load clients. The content sizes cover all response paths of the server.
pub struct Load {
    pub paths: Vec<(String, PseudoRandom)>,
    pub stop: AtomicBool,
    pub done: AtomicUsize,
}

impl Load {
    /// Pulls and stores the content of a load.
    pub fn new(cache: &Server, client: &Client, upstream: &Registry) -> Self {
        let paths = [100, 40_000, 300_000, 3 * MIB].map(|size| {
            let content = PseudoRandom::new(fresh_seed(), size);
            let digest = upstream.blob(content.clone());
            let path = upstream.blob_url("a", &digest);
            client.pull(&path, &content);
            cache.wait_stored(&digest);
            (path, content)
        });
        Load {
            paths: paths.into(),
            stop: AtomicBool::new(false),
            done: AtomicUsize::new(0),
        }
    }

    /// Waits for `count` more responses.
    pub fn wait_for(&self, count: usize) {
        let wanted = self.done.load(Ordering::Relaxed) + count;
        eventually("the load makes progress", || {
            self.done.load(Ordering::Relaxed) >= wanted || self.stop.load(Ordering::Relaxed)
        });
    }

    /// Sends requests to `client` until the load stops, with one or several requests per
    /// connection. A connection that is closed between two responses, or before a late first request,
    /// is replaced, as usual for HTTP clients. All other failures are reported to `broken`.
    pub fn run(&self, client: &Client, seed: u64, broken: impl Fn(&Why, bool)) {
        let mut random = Random::new(seed);
        while !self.stop.load(Ordering::Relaxed) {
            let opened = Instant::now();
            let mut connection = match client.connect() {
                Ok(connection) => connection,
                Err(error) => {
                    broken(&Why::from(error), false);
                    continue;
                }
            };
            for nth in 0..=random.below(4) {
                let (path, content) = random.pick(&self.paths);
                let sent = connection.request("GET", path, &[]);
                let late = opened.elapsed() >= FIRST_REQUEST_TIMEOUT;
                let head = sent.map_err(Why::from).and_then(|()| connection.read_head());
                let head = match head {
                    Ok(head) => head,
                    Err(_) if nth > 0 || late => break,
                    Err(why) => {
                        broken(&why, false);
                        break;
                    }
                };
                assert_eq!(head.status, 200, "{head}");
                let closes = head.field("connection").is_some_and(|value| value == "close");
                let whole = connection.read_body(head, "GET", &mut |at, piece| {
                    content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
                });
                match whole {
                    Ok(whole) => assert_eq!(whole.received, content.size),
                    Err(error) => {
                        broken(&error.why, true);
                        break;
                    }
                }
                self.done.fetch_add(1, Ordering::Relaxed);
                if closes {
                    break;
                }
            }
        }
    }
}

pub fn listener() -> Arc<TcpListener> {
    Arc::new(TcpListener::bind("127.0.0.1:0").unwrap())
}

/// Receives a failure of a client, and whether a response had begun.
pub type Broken<'a> = dyn Fn(&Why, bool) + 'a;

/// Repeatedly stops a cache under the load of four clients. `STOPS` sets the number of stops. `run`
/// runs a client until the load stops, and reports failures.
pub fn stops_under_load(
    options: server::Options,
    upstream: &Registry,
    client: impl Fn(&Server) -> Client,
    run: impl Fn(&Load, &Client, u64, &Broken<'_>) + Sync,
) {
    let stops = std::env::var("STOPS").map_or(12, |text| text.parse().expect("STOPS is a number"));
    let mut random = Random::for_test("stops under load");
    let mut cache = options.cores(2).env("ACCESS_LOG", "off").start();
    let mut load = Load::new(&cache, &client(&cache), upstream);
    for stop in 0..stops {
        if stop > 0 {
            cache.restart();
        }
        load.stop = AtomicBool::new(false);
        let terminated = AtomicBool::new(false);
        let client = client(&cache);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (load, client, run) = (&load, &client, &run);
                let (terminated, seed) = (&terminated, random.next());
                scope.spawn(move || {
                    run(load, client, seed, &|why, begun| {
                        assert!(!begun, "stop {stop}: a response was truncated: {why:?}");
                        // A connection attempt while the listener closes is refused and loses
                        // nothing.
                        assert!(
                            terminated.load(Ordering::SeqCst),
                            "stop {stop}: {why:?} before the signal"
                        );
                        load.stop.store(true, Ordering::Relaxed);
                    });
                });
            }
            load.wait_for(random.below(60) as usize);
            terminated.store(true, Ordering::SeqCst);
            cache.sigterm();
            let status = cache
                .wait_exit(Duration::from_secs(31))
                .expect("the server exits before the drain timeout");
            load.stop.store(true, Ordering::Relaxed);
            assert_eq!(status.code(), Some(0), "stop {stop}: {}", cache.stderr());
        });
    }
}

/// Repeatedly restarts a cache with a passed socket under the load of six clients. No request may
/// fail.
pub fn restarts_under_load(
    options: server::Options,
    upstream: &Registry,
    client: impl Fn(&Server) -> Client,
    run: impl Fn(&Load, &Client, u64, &Broken<'_>) + Sync,
) {
    let mut random = Random::for_test("rolling restart");
    let mut cache = options.cores(2).env("ACCESS_LOG", "off").start();
    let client = client(&cache);
    let load = Load::new(&cache, &client, upstream);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            let (load, client, run, seed) = (&load, &client, &run, random.next());
            scope.spawn(move || {
                run(load, client, seed, &|why, begun| {
                    load.stop.store(true, Ordering::Relaxed);
                    panic!("a request failed (response begun: {begun}): {why:?}");
                });
            });
        }
        for _ in 0..5 {
            load.wait_for(50 + random.below(50) as usize);
            if load.stop.load(Ordering::Relaxed) {
                break;
            }
            cache.stop();
            cache.restart();
        }
        load.wait_for(50);
        assert!(
            !load.stop.swap(true, Ordering::Relaxed),
            "requests failed during the restart: {}",
            cache.stderr()
        );
    });
}

#[test]
fn a_stop_under_load_cuts_no_response() {
    let upstream = Registry::new();
    stops_under_load(
        Server::options(&upstream),
        &upstream,
        Server::client,
        |load, client, seed, broken| load.run(client, seed, broken),
    );
}

#[test]
fn connections_at_the_drain_timeout_are_cut_and_the_exit_code_is_3() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream).env("DRAIN_TIMEOUT", "1s").start();
    let digest = upstream.blob(PseudoRandom::new(fresh_seed(), 8 * MIB));
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(4 * MIB, &gate));
    let mut busy = cache.client().open();
    busy.request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    busy.read_head().unwrap();
    let began = Instant::now();
    cache.sigterm();
    let status = cache
        .wait_exit(Duration::from_secs(20))
        .expect("the server exits at the drain timeout");
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "the server exits before the drain timeout"
    );
    assert_eq!(status.code(), Some(3), "{}", cache.stderr());
    let log = cache.stderr();
    assert!(
        log.contains("connections cut off at the drain timeout\" connections=1"),
        "{log}"
    );
    gate.open();
}

#[test]
fn during_the_drain_delay_only_readiness_fails() {
    let upstream = Registry::new();
    let mut cache = Server::options(&upstream)
        .env("DRAIN_DELAY", "1h")
        .cores(2)
        .start();
    let content = PseudoRandom::new(fresh_seed(), MIB);
    let path = upstream.blob_url("a", &upstream.blob(content.clone()));
    assert_eq!(cache.client().get("/readyz").status, 200);
    cache.sigterm();
    eventually("not ready", || cache.client().get("/readyz").status == 503);
    cache.client().get("/readyz").expect_error(503, "UNAVAILABLE");
    assert_eq!(cache.client().head("/readyz").status, 503);
    for path in ["/livez", "/healthz", "/_/health"] {
        assert_eq!(cache.client().get(path).status, 200, "{path}");
    }
    cache.client().pull(&path, &content);
    assert!(cache.is_running());
    // A second signal skips the delay.
    cache.sigterm();
    let status = cache
        .wait_exit(Duration::from_secs(10))
        .expect("the server exits without a delay");
    assert_eq!(status.code(), Some(1));
}

/// The kernel has accepted these connections, but the server has not. A stop must not drop the
/// connections.
#[test]
fn connections_in_the_accept_queue_at_a_stop_are_answered() {
    let upstream = Registry::new();
    let mut cache = Server::start(&upstream);
    let digest = upstream.blob(PseudoRandom::new(fresh_seed(), 8 * MIB));
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(4 * MIB, &gate));
    // Delays the exit of the server.
    let mut busy = cache.client().open();
    busy.request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    busy.read_head().unwrap();
    let mut asked: Vec<Connection> = (0..50)
        .map(|_| {
            let mut connection = cache.client().open();
            connection.request("GET", "/v2/", &[]).unwrap();
            connection
        })
        .collect();
    let mut silent: Vec<Connection> = (0..5).map(|_| cache.client().open()).collect();
    cache.sigterm();
    for connection in &mut asked {
        connection.read("GET").unwrap().expect(b"{}");
    }
    for connection in &mut silent {
        assert_eq!(
            connection.read_to_close().0,
            b"",
            "a connection without a request receives no bytes"
        );
    }
    gate.open();
    cache.wait_exit(PATIENCE).expect("the server exits");
}

#[test]
fn a_server_stops_after_the_drain_delay() {
    let mut cache = Server::bare().env("DRAIN_DELAY", "200ms").start();
    cache.stop();
}

// ---- Passed sockets ----------------------------------------------------------------------------------------------------

#[test]
fn passed_sockets_are_served_by_all_cores_and_nothing_is_bound() {
    let (first, second) = (listener(), listener());
    let mut cache = Server::bare()
        // An occupied address, so that binding would fail.
        .env("LISTEN_ADDR", first.local_addr().unwrap())
        .cores(2)
        .pass("http", &first)
        .pass("oci-pull-through.socket", &second)
        .start();
    for socket in [&first, &second] {
        let client = Client::new(socket.local_addr().unwrap());
        let connections: Vec<Connection> = (0..16).map(|_| client.open()).collect();
        for mut connection in connections {
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
        }
    }
    cache.stop();
}

#[test]
fn a_rolling_restart_with_a_passed_socket_fails_no_request() {
    let upstream = Registry::new();
    restarts_under_load(
        Server::options(&upstream).pass("http", &listener()),
        &upstream,
        Server::client,
        |load, client, seed, broken| load.run(client, seed, broken),
    );
}

#[test]
fn a_client_connecting_between_two_processes_is_served_by_the_next() {
    let socket = listener();
    let mut cache = Server::bare().cores(2).pass("http", &socket).start();
    let client = cache.client();
    client.get("/v2/").expect(b"{}");
    cache.stop();
    let mut waiting = client.open();
    waiting.request("GET", "/v2/", &[]).unwrap();
    cache.restart();
    waiting.read("GET").unwrap().expect(b"{}");
}

#[test]
fn a_passed_socket_that_does_not_listen_is_rejected() {
    let socket = std::net::TcpStream::connect(listener().local_addr().unwrap());
    drop(socket);
    // A connected socket, passed as a listener.
    let listening = listener();
    let connected = std::net::TcpStream::connect(listening.local_addr().unwrap()).unwrap();
    let connected_socket = Arc::new(TcpListener::from(std::os::fd::OwnedFd::from(connected)));
    let Err((status, stderr)) = Server::bare().pass("http", &connected_socket).try_start() else {
        panic!("the server starts with a socket that is not a listener")
    };
    assert_eq!(status.and_then(|status| status.code()), Some(1), "{stderr}");
    assert!(stderr.contains("LISTEN_FDS"), "{stderr}");
}

// ---- The service manager ---------------------------------------------------------------------------------------------

/// A service manager's notification socket.
pub struct Manager {
    pub socket: UnixDatagram,
    dir: TempDir,
}

impl Default for Manager {
    fn default() -> Self {
        let dir = TempDir::new();
        let socket = UnixDatagram::bind(dir.path.join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, dir }
    }
}

impl Manager {
    pub fn address(&self) -> String {
        self.dir.path.join("notify").display().to_string()
    }

    /// Returns the next message accepted by `wanted`.
    pub fn receive(&self, wanted: impl Fn(&str) -> bool) -> String {
        let mut buffer = [0; 1_024];
        loop {
            let len = self
                .socket
                .recv(&mut buffer)
                .expect("a message of the server arrives");
            let message = String::from_utf8(buffer[..len].to_vec()).unwrap();
            if wanted(&message) {
                return message;
            }
        }
    }
}

#[test]
fn a_service_manager_is_notified_of_start_reload_and_stop() {
    let manager = Manager::default();
    let mut cache = Server::bare()
        .env("NOTIFY_SOCKET", manager.address())
        .env("DRAIN_TIMEOUT", "20s")
        .start();
    let any = |_: &str| true;
    let ready = manager.receive(any);
    assert!(
        ready.starts_with("READY=1\nSTATUS=serving on 127.0.0.1:"),
        "{ready}"
    );
    cache.client().get("/v2/").expect(b"{}");
    cache.signal(Signal::HUP);
    let reloading = manager.receive(any);
    let micros = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
    assert!(micros.split('\n').next().unwrap().parse::<u64>().unwrap() > 0);
    assert_eq!(manager.receive(any), ready);
    cache.stop();
    let stopping = manager.receive(any);
    assert!(
        stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=25000000\n"),
        "{stopping}"
    );
}

#[test]
fn a_service_manager_receives_watchdog_messages() {
    let manager = Manager::default();
    let cache = Server::bare()
        .env("NOTIFY_SOCKET", manager.address())
        .env("WATCHDOG_USEC", "200000")
        .start();
    for _ in 0..5 {
        manager.receive(|message| message == "WATCHDOG=1");
    }
    drop(cache);
}
