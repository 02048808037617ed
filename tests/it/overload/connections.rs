//! Too many connections, too little memory and slow clients. Tests which connections are closed,
//! rejected with 503, or served as usual.

use std::cell::Cell;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::client::{Flow, Why, request_bytes};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;
/// Time after which a connection without send progress is closed.
const SEND_STALL: Duration = Duration::from_secs(60);
/// Idle time after which a connection may be closed in favor of a new one.
pub const IDLE_PATIENCE: Duration = Duration::from_secs(1);
/// Enough time for a connection to count as idle.
pub const BECOMES_IDLE: Duration = Duration::from_millis(1_050);
const LATE: Duration = Duration::from_secs(10);

/// Runs `round` until success. A failed round is repeated only if its connections, opened after
/// `IdleSince` was set, were open long enough to count as idle. Busy machines cause such delays.
pub fn within_idle_patience(round: impl Fn(&IdleSince)) {
    for _ in 0..20 {
        let since = IdleSince::new(Instant::now());
        let Err(failure) = std::panic::catch_unwind(AssertUnwindSafe(|| round(&since))) else {
            return;
        };
        if since.get().elapsed() < IDLE_PATIENCE {
            std::panic::resume_unwind(failure);
        }
    }
    panic!("every round took longer than {IDLE_PATIENCE:?}: the machine is too busy for this test");
}

/// Time at which a round opened the first of the connections to keep.
pub type IdleSince = Cell<Instant>;

/// Returns a connection after one request and its response.
fn asked(cache: &Server) -> Connection {
    let mut connection = cache.client().open();
    ask(&mut connection).expect("answered").expect(b"{}");
    connection
}

fn ask(connection: &mut Connection) -> Result<Response, Broken> {
    // A closed connection fails either on write or on read.
    let _ = connection.request("GET", "/v2/", &[]);
    connection.read("GET")
}

/// A connection with requests in quick succession.
pub struct Busy {
    client: Client,
    connection: Connection,
    /// The time before the last request that was answered.
    asked: Instant,
}

impl Busy {
    #[track_caller]
    pub fn new(client: Client) -> Self {
        let mut connection = client.open();
        let asked = Instant::now();
        ask(&mut connection).expect("answered").expect(b"{}");
        Busy {
            client,
            connection,
            asked,
        }
    }

    /// Sends a request. The connection must be open, unless this client was so late that the
    /// connection counted as idle. Such a connection is replaced.
    #[track_caller]
    pub fn ask(&mut self) {
        let previous = std::mem::replace(&mut self.asked, Instant::now());
        match ask(&mut self.connection) {
            Ok(answer) => {
                answer.expect(b"{}");
            }
            Err(broken) => {
                let idle = previous.elapsed();
                assert!(
                    idle >= IDLE_PATIENCE,
                    "a connection with requests stays open: {broken:?} after {idle:?}"
                );
                // A single new connection may be rejected.
                eventually("a new connection is served", || {
                    self.asked = Instant::now();
                    self.client.connect().is_ok_and(|connection| {
                        self.connection = connection;
                        ask(&mut self.connection).is_ok_and(|answer| answer.status == 200)
                    })
                });
            }
        }
    }
}

/// Fails unless the connection receives the response for connections over the limit.
#[track_caller]
fn expect_rejected(connection: &mut Connection) {
    let told = connection
        .read("GET")
        .expect("the server sends a response without a request");
    told.expect_error(503, "UNAVAILABLE");
    assert_eq!(told.field("retry-after"), Some("1"));
    assert_eq!(connection.read_to_close(), (Vec::new(), Why::Truncated));
}

#[test]
fn longest_idle_connection_is_closed_for_a_new_one_at_the_limit() {
    within_idle_patience(|since| {
        let cache = Server::bare().env("MAX_CONNECTIONS", 8).start();
        let mut longest = asked(&cache);
        std::thread::sleep(BECOMES_IDLE);
        since.set(Instant::now());
        let mut kept: Vec<_> = (1..8).map(|_| asked(&cache)).collect();
        kept.push(asked(&cache));
        assert_eq!(longest.read_to_close(), (Vec::new(), Why::Truncated));
        for connection in &mut kept {
            ask(connection).expect("kept").expect(b"{}");
        }
    });
}

#[test]
fn a_new_connection_is_kept_while_no_other_comes() {
    within_idle_patience(|since| {
        let cache = Server::bare().env("MAX_CONNECTIONS", 8).start();
        since.set(Instant::now());
        let _others: Vec<_> = (1..8).map(|_| asked(&cache)).collect();
        let mut new = cache.client().open();
        // The server searches for idle connections at least twice in this time.
        std::thread::sleep(IDLE_PATIENCE * 3 / 5);
        ask(&mut new).expect("kept").expect(b"{}");
    });
}

#[test]
fn new_connections_receive_503_while_all_others_are_busy() {
    const MAX: usize = 4;
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("MAX_CONNECTIONS", MAX).start();
    let gate = Gate::new();
    let mut busy: Vec<_> = (0..MAX)
        .map(|_| {
            let content = PseudoRandom::new(fresh_seed(), 10_000);
            let digest = upstream.blob(content.clone());
            upstream.on(On::path(&digest).get(), Reply::new().hold_head(&gate));
            let mut connection = cache.client().open();
            connection
                .request("GET", &upstream.blob_url("a", &digest), &[])
                .unwrap();
            (connection, content)
        })
        .collect();
    gate.wait_arrived(MAX);
    for _ in 0..3 {
        expect_rejected(&mut cache.client().open());
    }
    cache.wait_stderr(&format!(
        "connection limit reached\" limit={MAX} setting=max_connections\n"
    ));
    gate.open();
    for (connection, content) in &mut busy {
        connection.read("GET").unwrap().expect(&content.bytes());
    }
    drop(busy);
    eventually("a new connection is accepted", || {
        cache
            .client()
            .try_get("/v2/")
            .is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn connections_per_client_are_limited_and_other_clients_are_served() {
    const EACH: usize = 5;
    let cache = Server::bare()
        .cores(2)
        .env("MAX_CONNECTIONS_PER_CLIENT", EACH)
        .start();
    let greedy = Ipv4Addr::new(127, 0, 0, 2);
    let open = |source| Connection::open_from(source, cache.addr()).unwrap();
    let mut held: Vec<_> = (0..EACH).map(|_| open(greedy)).collect();
    for connection in &mut held {
        ask(connection)
            .expect("a connection below the limit is served")
            .expect(b"{}");
    }
    expect_rejected(&mut open(greedy));
    cache.wait_stderr(&format!(
        "connection limit reached\" limit={EACH} setting=max_connections_per_client"
    ));
    for other in 3..6 {
        ask(&mut open(Ipv4Addr::new(127, 0, 0, other)))
            .expect("a connection of another client is served")
            .expect(b"{}");
    }
    for connection in &mut held {
        ask(connection)
            .expect("an open connection stays open")
            .expect(b"{}");
    }
    held.pop();
    eventually("the client can open a new connection", || {
        ask(&mut open(greedy)).is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn clients_are_served_during_a_flood_of_idle_connections() {
    const MAX: usize = 300;
    const FLOOD: usize = 3_000;
    raise_file_limit();
    let cache = Server::bare().cores(2).env("MAX_CONNECTIONS", MAX).start();
    let files = cache.open_files();
    let mut busy = Busy::new(cache.client());
    let flooded = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cache, flooded) = (&cache, &flooded);
        scope.spawn(move || {
            let held: Vec<_> = (0..FLOOD).map(|_| cache.client().open()).collect();
            flooded.store(true, Ordering::SeqCst);
            drop(held);
        });
        while !flooded.load(Ordering::SeqCst) {
            busy.ask();
            // A single new connection may be rejected with 503.
            let come = |_| {
                cache
                    .client()
                    .try_get("/v2/")
                    .is_ok_and(|answer| answer.status == 200)
            };
            assert!((0..20).any(come), "no new client is served");
            let open = cache.open_files();
            assert!(
                open <= files + MAX + 200,
                "the number of open files rose from {files} to {open}"
            );
        }
    });
}

#[test]
fn without_descriptors_open_connections_are_served_and_new_ones_receive_503() {
    const FLOOD: usize = 300;
    let cache = Server::bare()
        .file_limit(150)
        .env("MAX_CONNECTIONS", 100_000)
        .start();
    assert!(
        cache
            .stderr()
            .contains("connection limit exceeds the file descriptor limit"),
        "{}",
        cache.stderr()
    );
    let mut inside = asked(&cache);
    std::thread::scope(|scope| {
        let cache = &cache;
        let flood = scope.spawn(move || {
            let mut held = Vec::new();
            for _ in 0..FLOOD {
                let mut connection = cache.client().open();
                // An incomplete request head, so that the connection does not count as idle at
                // once.
                let _ = connection.send(b"GET /v2/ HT");
                connection.set_read_timeout(Duration::from_millis(1));
                held.push(connection);
            }
            held
        });
        while !flood.is_finished() {
            ask(&mut inside)
                .expect("an open connection stays open")
                .expect(b"{}");
        }
        let mut held = flood.join().unwrap();
        eventually("a client receives a 503", || {
            held.iter_mut().any(|connection| {
                ask(&mut inside)
                    .expect("an open connection stays open")
                    .expect(b"{}");
                connection.read("GET").is_ok_and(|answer| answer.status == 503)
            })
        });
        cache.wait_stderr("file descriptors exhausted");
        // Without new connections, the server must not use the CPU.
        cache.assert_rests(Duration::from_millis(300), || {
            // A connection without requests for a second makes room.
            ask(&mut inside)
                .expect("an open connection stays open")
                .expect(b"{}");
        });
        drop(held);
    });
    eventually("new connections are served", || {
        ask(&mut inside)
            .expect("an open connection stays open")
            .expect(b"{}");
        cache
            .client()
            .try_get("/v2/")
            .is_ok_and(|answer| answer.status == 200)
    });
}

#[test]
fn what_needs_memory_that_is_not_there_is_refused_and_what_we_hold_is_served() {
    let upstream = Registry::new();
    // Memory for two fills, a few responses, and the quarter that is reserved for other registries.
    let cache = Server::options(&upstream).env("MEMORY_BUDGET", "13MiB").start();
    let held = PseudoRandom::new(fresh_seed(), 3 * MIB);
    let held_url = upstream.blob_url("a", &upstream.blob(held.clone()));
    let small = upstream.blob("small");
    let small_url = upstream.blob_url("a", &small);
    cache.client().pull(&held_url, &held);
    cache.client().get(&small_url).expect(b"small");
    cache.wait_stored(&held.digest());
    cache.wait_stored(&small);

    let gate = Gate::new();
    let large: Vec<_> = (0..2)
        .map(|_| {
            let content = PseudoRandom::new(fresh_seed(), 8 * MIB);
            let digest = upstream.blob(content.clone());
            upstream.on(On::path(&digest).get(), Reply::new().hold_at(6 * MIB, &gate));
            (upstream.blob_url("a", &digest), content)
        })
        .collect();
    let another = PseudoRandom::new(fresh_seed(), 2 * MIB);
    let another_url = upstream.blob_url("a", &upstream.blob(another.clone()));
    std::thread::scope(|scope| {
        let client = cache.client();
        let pullers: Vec<_> = large
            .iter()
            .map(|(url, content)| scope.spawn(move || client.pull(url, content)))
            .collect();
        gate.wait_arrived(2);
        let refused = cache.client().get(&another_url);
        refused.expect_error(503, "UNAVAILABLE");
        assert_eq!(refused.field("retry-after"), Some("1"));
        let refused = cache.client().get(&upstream.manifest_url("a", "v1"));
        refused.expect_error(503, "UNAVAILABLE");
        cache.wait_stderr("memory budget exhausted");
        for _ in 0..3 {
            cache.client().pull(&held_url, &held);
            cache.client().get(&small_url).expect(b"small");
            cache.client().get("/readyz");
        }
        // A client that joins a fill needs no window.
        let (url, content) = &large[0];
        let follower = scope.spawn(move || client.pull(url, content));
        gate.open();
        for puller in pullers {
            puller.join().unwrap();
        }
        follower.join().unwrap();
    });
    eventually("memory is available again", || {
        cache.client().get(&another_url).status == 200
    });
    cache.client().pull(&another_url, &another);
}

#[test]
fn endless_pipelining_does_not_starve_other_clients() {
    let cache = Server::bare().cores(1).env("ACCESS_LOG", false).start();
    let endless = TcpStream::connect(cache.addr()).unwrap();
    let taken = Arc::new(AtomicU64::new(0));
    // Both threads end when the server closes the connection.
    let mut sending = endless.try_clone().unwrap();
    std::thread::spawn(move || {
        let requests = request_bytes("GET", "/v2/", &[]).repeat(1_000);
        while sending.write_all(&requests).is_ok() {}
    });
    let (mut answers, count_taken) = (endless, taken.clone());
    std::thread::spawn(move || {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = answers.read(&mut bytes) {
            count_taken.fetch_add(count as u64, Ordering::Relaxed);
        }
    });
    for round in 1..=10 {
        eventually("the response makes progress", || {
            taken.load(Ordering::Relaxed) > round * MIB
        });
        cache.client().get("/v2/").expect(b"{}");
    }
}

#[test]
#[ignore = "waits 60 s for the send limit"]
fn client_below_the_minimum_rate_is_closed_and_a_slow_one_is_not() {
    let (_upstream, cache, content, url) = stored(64 * MIB);
    let files = cache.open_files();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cache, url, content, done) = (&cache, &url, &content, &done);
        // Bytes per second. One client is below the limit. The other one is above the limit, but so
        // slow that the kernel reports no progress for minutes.
        let read = move |rate: u64| {
            let mut connection = Connection::open_narrow(cache.addr(), 4_096).unwrap();
            connection.request("GET", url, &[]).unwrap();
            let mut pace = 0;
            connection.read_into("GET", &mut |at, piece| {
                if let Err(wrong) = content.compare(at, piece) {
                    return Flow::Wrong(wrong);
                }
                pace += piece.len() as u64;
                while pace >= rate / 4 {
                    pace -= rate / 4;
                    std::thread::sleep(Duration::from_millis(250));
                    if done.load(Ordering::SeqCst) {
                        return Flow::Stop;
                    }
                }
                Flow::Go
            })
        };
        let dripping = scope.spawn(move || read(400));
        let slow = scope.spawn(move || read(64 * 1024));
        eventually("both clients read the response", || {
            cache.open_files() >= files + 2
        });
        std::thread::sleep(SEND_STALL + LATE);
        let log = cache.stderr();
        assert_eq!(log.matches("aborted=true").count(), 1, "{log}");
        done.store(true, Ordering::SeqCst);
        let end =
            |outcome: Result<Response, Broken>| outcome.expect_err("the client stopped before the end").why;
        assert_eq!(end(slow.join().unwrap()), Why::Stopped);
        dripping
            .join()
            .unwrap()
            .expect_err("the server closed the connection");
    });
}
