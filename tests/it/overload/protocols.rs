//! Overload over TLS and HTTP/2, with the limits of plain HTTP/1.1 and the effects on other
//! clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connections::{BECOMES_IDLE, Busy, within_idle_patience};
use crate::harness::client::Why;
use crate::harness::h2::*;
use crate::harness::*;
use crate::tls::Pki;

const MIB: u64 = 1024 * 1024;
/// Time after which a connection without send progress is closed.
const SEND_STALL: Duration = Duration::from_secs(60);
const LATE: Duration = Duration::from_secs(10);

/// The setting for the initial flow-control window of a stream (RFC 9113, 6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;

const BOTH: &str = "http://127.0.0.1:0,https://127.0.0.1:0";

struct Front {
    config: Arc<ClientConfig>,
    cache: Server,
    _pki: Pki,
}

impl Front {
    /// Starts a cache with a plain address and a TLS address.
    fn start(options: server::Options) -> Self {
        let pki = Pki::new();
        let cache = pki.serve(options).env("LISTEN_ADDR", BOTH).start();
        Front {
            config: pki.authority.client(),
            cache,
            _pki: pki,
        }
    }

    fn plain(&self) -> Client {
        Client::new(self.cache.addr_for("http"))
    }

    fn tls(&self) -> Client {
        Client::with_tls(self.cache.addr_for("https"), self.config.clone())
    }

    /// Returns a TLS connection after one request and its response.
    fn asked(&self) -> Connection {
        let mut connection = self.tls().open();
        ask(&mut connection);
        connection
    }
}

#[track_caller]
fn ask(connection: &mut Connection) {
    connection.request("GET", "/v2/", &[]).unwrap();
    connection.read("GET").unwrap().expect(b"{}");
}

#[test]
fn over_tls_connection_above_the_client_limit_is_closed_without_data() {
    const EACH: usize = 3;
    let front = Front::start(Server::bare().env("MAX_CONNECTIONS_PER_CLIENT", EACH));
    let mut held: Vec<_> = (0..EACH).map(|_| front.asked()).collect();
    for _ in 0..3 {
        let mut refused = Connection::open(front.tls().addr).unwrap();
        assert_eq!(refused.read_to_close(), (Vec::new(), Why::Truncated));
    }
    front.cache.wait_stderr("setting=max_connections_per_client");
    held.iter_mut().for_each(ask);
    held.pop();
    eventually("the client can open a new connection", || {
        front.tls().try_get("/v2/").is_ok()
    });
}

#[test]
fn over_tls_longest_idle_connection_is_closed_with_close_notify() {
    within_idle_patience(|since| {
        let front = Front::start(Server::bare().env("MAX_CONNECTIONS", 8));
        let mut longest = front.asked();
        std::thread::sleep(BECOMES_IDLE);
        since.set(Instant::now());
        let mut kept: Vec<_> = (1..8).map(|_| front.asked()).collect();
        kept.push(front.asked());
        assert_eq!(longest.read_to_close(), (Vec::new(), Why::Truncated));
        kept.iter_mut().for_each(ask);
    });
}

#[test]
fn over_http2_the_longest_idle_makes_room_and_is_told_so() {
    within_idle_patience(|since| {
        let cache = Server::bare().env("MAX_CONNECTIONS", 8).start();
        let asked = || {
            let mut peer = Peer::begin(cache.addr());
            peer.get("/v2/").expect(b"{}");
            peer
        };
        let mut longest = asked();
        std::thread::sleep(BECOMES_IDLE);
        since.set(Instant::now());
        let mut kept: Vec<_> = (1..8).map(|_| asked()).collect();
        kept.push(asked());
        assert_eq!(longest.until_closed().0, Some(NO_ERROR));
        for peer in &mut kept {
            peer.get("/v2/").expect(b"{}");
        }
    });
}

/// Opens many more connections with `open` than the limit allows. Meanwhile one client sends
/// requests on an open connection, and other clients connect.
fn flood<T>(front: &Front, open: impl Fn(&Front) -> Option<T> + Sync) {
    const FLOOD: usize = 1_500;
    raise_file_limit();
    let files = front.cache.open_files();
    let mut busy = Busy::new(front.tls());
    let flooded = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (flooded, open) = (&flooded, &open);
        scope.spawn(move || {
            let held: Vec<_> = (0..FLOOD).map(|_| open(front)).collect();
            flooded.store(true, Ordering::SeqCst);
            drop(held);
        });
        while !flooded.load(Ordering::SeqCst) {
            busy.ask();
            // A single new connection may be rejected.
            let come = |_: u32| front.tls().try_get("/v2/").is_ok() || front.plain().try_get("/v2/").is_ok();
            let deadline = std::time::Instant::now() + PATIENCE;
            while !(0..20).any(come) {
                assert!(std::time::Instant::now() < deadline, "no new client is served");
            }
            let now = front.cache.open_files();
            assert!(
                now <= files + MAX + 500,
                "the number of open files rose from {files} to {now}"
            );
        }
    });
}

const MAX: usize = 300;

fn few_places() -> Front {
    Front::start(Server::bare().cores(2).env("MAX_CONNECTIONS", MAX))
}

#[test]
fn clients_are_served_during_a_flood_without_tls_handshakes() {
    flood(&few_places(), |front| Connection::open(front.tls().addr).ok());
}

#[test]
fn clients_are_served_during_a_flood_of_idle_http2_connections() {
    flood(&few_places(), |front| Peer::try_begin(front.plain().addr).ok());
}

#[test]
fn without_descriptors_open_sessions_are_served_and_new_ones_after_recovery() {
    const FLOOD: usize = 300;
    let front = Front::start(Server::bare().file_limit(150).env("MAX_CONNECTIONS", 100_000));
    let mut inside = front.asked();
    let mut peer = Peer::begin(front.plain().addr);
    let held: Vec<_> = (0..FLOOD)
        .map(|_| {
            let mut connection = Connection::open(front.tls().addr).unwrap();
            // The head of an incomplete record, so that the connection does not count as idle at
            // once.
            let _ = connection.send(&[0x16, 3, 1, 2, 0]);
            ask(&mut inside);
            peer.get("/v2/").expect(b"{}");
            connection
        })
        .collect();
    front.cache.wait_stderr("file descriptors exhausted");
    // A connection without data for a second makes room.
    front
        .cache
        .assert_rests(Duration::from_millis(300), || ask(&mut inside));
    drop(held);
    eventually("new connections are served", || {
        ask(&mut inside);
        front.tls().try_get("/v2/").is_ok()
    });
}

#[test]
fn tls_connections_are_spread_over_all_cores_and_served_after_the_move() {
    const CORES: usize = 4;
    const CLIENTS: usize = 16;
    let front = Front::start(Server::bare().cores(CORES as u32).env("LOG_LEVEL", "debug"));
    let mut connections: Vec<_> = (0..CLIENTS).map(|_| front.asked()).collect();
    let shares = || super::cores::shares(&front.cache);
    eventually("the connection counts of the cores add up", || {
        shares().values().sum::<usize>() == CLIENTS
    });
    let most = shares().values().max().copied().unwrap_or_default();
    assert!(2 * most * CORES <= 3 * CLIENTS, "{:?}", shares());
    connections.iter_mut().for_each(ask);
}

/// Over HTTP/2, a client reads slowly by small window updates.
#[test]
#[ignore = "waits 60 s for the send limit"]
fn over_http2_client_below_the_minimum_rate_is_closed_and_a_slow_one_is_not() {
    let upstream = Registry::new();
    let front = Front::start(Server::options(&upstream));
    let content = PseudoRandom::new(fresh_seed(), 64 * MIB);
    let digest = upstream.blob(content.clone());
    let url = upstream.blob_url("a", &digest);
    front.plain().pull(&url, &content);
    front.cache.wait_stored(&digest);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (front, url, done) = (&front, &url, &done);
        // Increment of the window in bytes, every quarter of a second.
        let drip = move |piece: u32| {
            // The initial window is small, so that the first burst is a negligible amount.
            let mut peer = Peer::begin_with(front.plain().addr, &[(INITIAL_WINDOW_SIZE, 4_096)]);
            peer.generous = false;
            peer.set_read_timeout(Duration::from_secs(1));
            let id = peer.request("GET", url, &[]);
            let mut writer = peer.writer();
            scope.spawn(move || {
                while !done.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(250));
                    let windows =
                        [window_update(0, piece).bytes(), window_update(id, piece).bytes()].concat();
                    if std::io::Write::write_all(&mut writer, &windows).is_err() {
                        break;
                    }
                }
            });
            loop {
                match peer.step() {
                    Ok(_) if peer.answers.get(&id).is_some_and(|answer| answer.reset.is_some()) => {
                        return true;
                    }
                    Ok(_) | Err(Why::Timeout) if done.load(Ordering::SeqCst) => return false,
                    Ok(_) | Err(Why::Timeout) => {}
                    Err(why) => panic!("the connection stays open: {why:?}"),
                }
            }
        };
        let dripping = scope.spawn(move || drip(100));
        let slow = scope.spawn(move || drip(16 * 1024));
        std::thread::sleep(SEND_STALL + LATE);
        assert!(
            dripping.is_finished(),
            "the server still sends to the client below the minimum rate"
        );
        done.store(true, Ordering::SeqCst);
        assert!(
            dripping.join().unwrap(),
            "the server reset the stream of the client below the minimum rate"
        );
        assert!(
            !slow.join().unwrap(),
            "the server reset the stream of the client above the minimum rate"
        );
    });
}
