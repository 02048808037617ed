//! Connections that end in every known manner leave no resources behind.

use std::net::SocketAddr;
use std::time::Duration;

use crate::harness::client::{Flow, request_bytes};
use crate::harness::h2::*;
use crate::harness::*;
use crate::tls::Pki;

const MIB: u64 = 1024 * 1024;

/// Targets and addresses for the requests of a connection.
struct Wanted {
    small: String,
    stored: String,
    filling: String,
    plain: SocketAddr,
    tls: Client,
}

type Way = fn(Connection, &Wanted);

fn get(connection: &mut Connection, url: &str) {
    let _ = connection.send(&request_bytes("GET", url, &[]));
}

/// Starts to read a body, and resets the connection.
fn read_a_little(mut connection: Connection, url: &str) {
    get(&mut connection, url);
    let _ = connection.read_into("GET", &mut |_, _| Flow::Stop);
    connection.abort();
}

const WAYS: [(&str, Way); 21] = [
    ("FIN before the first byte", |connection, _| drop(connection)),
    ("RST before the first byte", |connection, _| connection.abort()),
    ("FIN in a head", |mut connection, _| {
        let _ = connection.send(b"GET /v2/ HTTP/1.1\r\nHo");
    }),
    ("RST in a head", |mut connection, _| {
        let _ = connection.send(b"GET /v2/ HTTP/1.1\r\nHo");
        connection.abort();
    }),
    ("FIN before the response", |mut connection, wanted| {
        get(&mut connection, &wanted.small);
    }),
    ("RST before the response", |mut connection, wanted| {
        get(&mut connection, &wanted.small);
        connection.abort();
    }),
    ("FIN after the response", |mut connection, wanted| {
        get(&mut connection, &wanted.small);
        let _ = connection.read("GET");
    }),
    ("RST after the response", |mut connection, wanted| {
        get(&mut connection, &wanted.small);
        let _ = connection.read("GET");
        connection.abort();
    }),
    (
        "half-closed, and the response is read",
        |mut connection, wanted| {
            get(&mut connection, &wanted.small);
            connection.finish_sending();
            let _ = connection.read("GET");
            connection.read_to_close();
        },
    ),
    ("RST in a file", |connection, wanted| {
        read_a_little(connection, &wanted.stored);
    }),
    ("RST in a fill", |connection, wanted| {
        read_a_little(connection, &wanted.filling);
    }),
    ("a bad head", |mut connection, _| {
        let _ = connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello\r\n\r\n");
        connection.read_to_close();
    }),
    ("the server closes", |mut connection, wanted| {
        let _ = connection.send(&request_bytes("GET", &wanted.small, &[("Connection", "close")]));
        connection.read_to_close();
    }),
    ("RST in the second of two", |mut connection, wanted| {
        get(&mut connection, &wanted.small);
        get(&mut connection, &wanted.stored);
        let _ = connection.read("GET");
        connection.abort();
    }),
    ("invalid bytes in a handshake", |_, wanted| {
        let mut connection = Connection::open(wanted.tls.addr).unwrap();
        let _ = connection.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not a ClientHello");
        connection.abort();
    }),
    ("FIN in a handshake", |_, wanted| {
        let mut connection = Connection::open(wanted.tls.addr).unwrap();
        let _ = connection.send(b"\x16\x03\x01\x02");
    }),
    ("RST after a handshake", |_, wanted| wanted.tls.open().abort()),
    ("RST in a file over TLS", |_, wanted| {
        read_a_little(wanted.tls.open(), &wanted.stored);
    }),
    ("FIN after the HTTP/2 preface", |_, wanted| {
        let _ = Peer::try_begin(wanted.plain);
    }),
    ("FIN in three streams", |_, wanted| {
        let mut peer = Peer::begin(wanted.plain);
        for url in [&wanted.small, &wanted.stored, &wanted.filling] {
            peer.request("GET", url, &[]);
        }
        let _ = peer.step();
    }),
    ("streams reset, and a GOAWAY", |_, wanted| {
        let mut peer = Peer::begin(wanted.plain);
        for url in [&wanted.stored, &wanted.filling] {
            let id = peer.request("GET", url, &[]);
            let _ = peer.send(&reset(id, CANCEL));
        }
        let _ = peer.send(&Frame::new(GOAWAY, 0, 0, [0; 8]));
        peer.until_closed();
    }),
];

fn threads(cache: &Server) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", cache.pid()))
        .expect("running")
        .count()
}

#[test]
fn connections_that_end_in_every_way_leave_nothing_behind() {
    const ROUNDS: usize = 60;
    const GROWTH_MAX: u64 = 32 * MIB;
    let upstream = Registry::new();
    let pki = Pki::new();
    let cache = pki
        .serve(Server::options(&upstream))
        .env("LISTEN_ADDR", "http://127.0.0.1:0,https://127.0.0.1:0")
        .cores(2)
        .start();
    let stored = PseudoRandom::new(fresh_seed(), 4 * MIB);
    let filling = PseudoRandom::new(fresh_seed(), 4 * MIB);
    let gate = Gate::new();
    let (stored_digest, filling_digest) = (upstream.blob(stored.clone()), upstream.blob(filling.clone()));
    upstream.on(
        On::path(&filling_digest).get(),
        Reply::new().hold_at(3 * MIB, &gate),
    );
    let small = upstream.blob("small");
    let wanted = Wanted {
        small: upstream.blob_url("a", &small),
        stored: upstream.blob_url("a", &stored_digest),
        filling: upstream.blob_url("a", &filling_digest),
        plain: cache.addr_for("http"),
        tls: Client::with_tls(cache.addr_for("https"), pki.authority.client()),
    };
    cache.client().get(&wanted.small).expect(b"small");
    cache.client().pull(&wanted.stored, &stored);
    cache.wait_stored(&small);
    cache.wait_stored(&stored_digest);
    let all_ways = |rounds: usize| {
        std::thread::scope(|scope| {
            for (_, way) in WAYS {
                let (cache, wanted) = (&cache, &wanted);
                scope.spawn(move || (0..rounds).for_each(|_| way(cache.client().open(), wanted)));
            }
        });
    };
    let files = cache.open_files();
    // Excludes the growth of the first use: threads, the window of the fill, and memory for a
    // number of concurrent connections.
    all_ways(ROUNDS / 6);
    gate.wait_arrived(1);
    let rss = cache.rss_bytes();
    all_ways(ROUNDS);
    // If a client leaves while the upstream sends no data, the server notices with the next data.
    gate.open();
    cache.client().pull(&wanted.filling, &filling);
    cache.wait_stored(&filling_digest);
    // The server keeps some idle pipes and files, but no connections.
    let kept = files + 40;
    eventually("the descriptors of the connections are closed", || {
        cache.open_files() <= kept
    });
    eventually("the threads for blocking work have ended", || {
        threads(&cache) <= 64
    });
    let grown = || cache.rss_bytes().saturating_sub(rss);
    eventually("the memory of the connections is released", || {
        grown() <= GROWTH_MAX
    });
    cache.client().get(&wanted.small).expect(b"small");
}

#[test]
fn descriptors_of_2000_simultaneously_closed_connections_are_released() {
    const CONNECTIONS: usize = 2_000;
    raise_file_limit();
    let cache = Server::bare().start();
    let mut bystander = cache.client().open();
    bystander.request("GET", "/v2/", &[]).unwrap();
    bystander.read("GET").unwrap().expect(b"{}");
    let files = cache.open_files();
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| cache.client().open()).collect();
    for connection in &mut connections {
        connection.request("GET", "/v2/", &[]).unwrap();
        connection.read("GET").unwrap().expect(b"{}");
    }
    drop(connections);
    bystander.request("GET", "/v2/", &[]).unwrap();
    bystander.read("GET").unwrap().expect(b"{}");
    eventually("every connection is closed", || cache.open_files() <= files + 2);
    cache.assert_rests(Duration::from_millis(100), || ());
    cache.client().get("/v2/").expect(b"{}");
}

/// Opens connections with clients that request `url` and read only the response head.
fn stall(cache: &Server, url: &str, count: usize) -> Vec<Connection> {
    let one = |_| {
        let mut connection = Connection::open_narrow(cache.addr(), 4_096).unwrap();
        get(&mut connection, url);
        connection.read_head().unwrap();
        connection
    };
    (0..count).map(one).collect()
}

/// Clients that read nothing occupy no thread and no kernel worker, and delay no other client.
#[test]
fn readers_that_stall_hold_no_thread() {
    const STALLED: usize = 200;
    const THREADS_MAX: usize = 64;
    raise_file_limit();
    let (_upstream, cache, content, url) = stored(32 * MIB);
    let stalled = stall(&cache, &url, STALLED);
    for _ in 0..5 {
        cache.client().pull(&url, &content);
    }
    assert!(threads(&cache) <= THREADS_MAX, "{} threads", threads(&cache));
    drop(stalled);
}

/// Each stalled client costs its own descriptor. The descriptors for all bodies together are
/// limited.
#[test]
fn readers_that_stall_leave_descriptors_to_newcomers() {
    const STALLED: usize = 400;
    /// Two for each of the 256 pipes of a core, and the open files.
    const SHARED_MAX: usize = 2 * 256 + 16;
    raise_file_limit();
    let (_upstream, cache, content, url) = stored(32 * MIB);
    let files = cache.open_files();
    let stalled = stall(&cache, &url, STALLED);
    cache.client().pull(&url, &content);
    let held = cache.open_files() - files;
    assert!(
        (STALLED..=STALLED + SHARED_MAX).contains(&held),
        "{held} descriptors are open"
    );
    drop(stalled);
    eventually("the descriptors are closed", || {
        cache.open_files() <= files + SHARED_MAX
    });
}
