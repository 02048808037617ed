//! TLS with encryption in the kernel (kTLS) after the handshake. If the kernel has no kTLS, the
//! tests print a message and end. `scripts/ktls.sh` runs these tests, and those of
//! [`sessions`](super::sessions) with `TEST_KERNEL_TLS=auto`, under a kernel with kTLS.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring::cipher_suite::{
    TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection};

use crate::harness::client::{Flow, Why, request_bytes};
use crate::harness::server::Options;
use crate::harness::*;
use crate::tls::Pki;

const MIB: u64 = 1024 * 1024;

/// The log message of a session handed over to the kernel.
const HANDED_OVER: &str = "kTLS enabled";

/// Starts a server with kTLS. Returns `None` if the kernel has no kTLS. The message does not start with
/// `SKIPPED`, because `CHECK_STRICT` cannot provide the kernel module, and would fail.
fn start(pki: &Pki, options: Options) -> Option<Server> {
    let options = options.env("KERNEL_TLS", "auto").env("LOG_LEVEL", "debug");
    let cache = pki.serve(options).start();
    if cache.stderr().contains("kTLS unavailable") {
        println!("not run here: the kernel has no kTLS");
        return None;
    }
    Some(cache)
}

/// Fails unless exactly `times` sessions have been handed over. The log line may appear after the
/// response.
#[track_caller]
fn expect_handed_over(cache: &Server, times: usize) {
    let count = || cache.stderr().matches(HANDED_OVER).count();
    eventually("the log has a line for each session", || count() >= times);
    assert_eq!(count(), times);
}

/// Returns a client session before its handshake, and its socket.
fn session(cache: &Server, config: Arc<ClientConfig>) -> (ClientConnection, TcpStream) {
    (new_session(config), TcpStream::connect(cache.addr()).unwrap())
}

fn new_session(config: Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap()
}

#[test]
fn the_start_says_whether_the_kernel_encrypts_and_why() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).env("KERNEL_TLS", "auto").start();
    let said = cache.stderr();
    let line = said.lines().find(|line| line.contains("kTLS "));
    let line = line.unwrap_or_else(|| panic!("no log line about kTLS in\n{said}"));
    assert!(
        line.contains("kTLS available\" ciphers=") && line.contains("AES-128-GCM")
            || line.contains("kTLS unavailable\" reason=\"the kernel "),
        "{line}"
    );
    Client::with_tls(cache.addr(), pki.authority.client())
        .get("/v2/")
        .expect(b"{}");
    // Without kTLS in the configuration, or without TLS, the log does not mention kTLS.
    for (settings, name) in [("off", "https://127.0.0.1:0"), ("auto", "http://127.0.0.1:0")] {
        let options = match settings {
            "off" => pki.serve(Server::bare()),
            _ => Server::bare(),
        };
        let cache = options
            .env("LISTEN_ADDR", name)
            .env("KERNEL_TLS", settings)
            .start();
        assert!(!cache.stderr().contains("kTLS"), "{}", cache.stderr());
    }
}

#[test]
fn bodies_are_right_with_every_cipher() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let Some(cache) = start(&pki, Server::options(&upstream)) else {
        return;
    };
    let mut random = Random::for_test("bodies_are_right_with_every_cipher");
    let contents: Vec<_> = [1, 16_384, 16_385, 64 * 1024, MIB + 1, 64 * MIB]
        .map(|size| PseudoRandom::new(random.next(), size))
        .into_iter()
        .map(|content| (upstream.blob(content.clone()), content))
        .collect();
    for (times, suite) in [
        TLS13_AES_128_GCM_SHA256,
        TLS13_AES_256_GCM_SHA384,
        TLS13_CHACHA20_POLY1305_SHA256,
    ]
    .into_iter()
    .enumerate()
    {
        let config = pki.authority.client_of(suite);
        let mut connection = Connection::open_tls(cache.addr(), config).unwrap();
        assert_eq!(connection.session().negotiated_cipher_suite(), Some(suite));
        // First from the growing file, then from the complete file, all on one connection.
        for (digest, content) in &contents {
            let path = upstream.blob_url("a", digest);
            connection.request("HEAD", &path, &[]).unwrap();
            assert_eq!(
                connection.read("HEAD").unwrap().content_length(),
                Some(content.size)
            );
            connection.request("GET", &path, &[]).unwrap();
            let got = connection.read_into("GET", &mut |at, piece| {
                content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
            });
            assert_eq!(got.unwrap().received, content.size, "{suite:?}");
            cache.wait_stored(digest);
            if content.size < 100 {
                continue;
            }
            for range in ["bytes=0-0", "bytes=-1", "bytes=5-16390", "bytes=0-3,50-60,-10"] {
                connection.request("GET", &path, &[("Range", range)]).unwrap();
                let got = connection.read("GET").unwrap();
                assert_eq!(got.status, 206, "{got}");
                assert!(range.contains(',') || got.body.len() as u64 == got.content_length().unwrap());
            }
        }
        expect_handed_over(&cache, times + 1);
    }
}

#[test]
fn curl_gets_the_same_over_both_protocols() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let Some(cache) = start(&pki, Server::options(&upstream)) else {
        return;
    };
    let ca = pki.ca_file();
    let mut random = Random::for_test("curl_gets_the_same_over_both_protocols");
    for size in [2_000, 64 * 1024, 64 * MIB] {
        let content = PseudoRandom::new(random.next(), size);
        let digest = upstream.blob(content.clone());
        let url = format!(
            "https://localhost:{}{}",
            cache.addr().port(),
            upstream.blob_url("a", &digest)
        );
        // Twice on one connection: first during or after the fill, then from memory or the file.
        for protocol in ["--http1.1", "--http2", "--http2"] {
            let args = ["-sSf", "--cacert", &ca, "--tlsv1.3", protocol, &url, &url];
            let output = Command::new("curl")
                .args(args)
                .output()
                .expect("curl is installed");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{protocol}, {size} bytes: {said}");
            let (one, other) = output.stdout.split_at(output.stdout.len() / 2);
            for body in [one, other] {
                assert_eq!(body.len() as u64, size, "{protocol}");
                assert_eq!(content.compare(0, body), Ok(()), "{protocol}");
            }
            cache.wait_stored(&digest);
        }
        let args = ["-sSf", "--cacert", &ca, "--http2", "-r", "100-1299", &url];
        let output = Command::new("curl").args(args).output().unwrap();
        assert_eq!(output.stdout.len(), 1200);
        assert_eq!(content.compare(100, &output.stdout), Ok(()));
    }
    expect_handed_over(&cache, 3 * 4);
}

/// The kernel accepts more data than TCP has room for, and loses data if the connection is closed
/// too early.
#[test]
fn the_last_bytes_of_a_connection_are_not_lost() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let Some(cache) = start(&pki, Server::options(&upstream)) else {
        return;
    };
    let mut random = Random::for_test("the_last_bytes_of_a_connection_are_not_lost");
    let content = PseudoRandom::new(random.next(), 8 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let others = Client::with_tls(cache.addr(), pki.authority.client());
    others.pull(&path, &content);
    cache.wait_stored(&digest);
    let room = Silent::ask(&cache, &pki, &path, content.size).held_when_stuck();
    assert!(room < content.size, "the sockets hold all of the {room} bytes");
    // Responses of about this size. Some are just short enough to be accepted completely while the
    // client does not read. TCP then has no room for further data, and sometimes not even for the
    // end of the response.
    let sizes = (0..64).map(|step| room.saturating_sub(40_000).max(1) + 1_000 * step);
    let clients: Vec<_> = sizes
        .map(|size| (size, Silent::ask(&cache, &pki, &path, size)))
        .collect();
    let said = |size: u64| format!("status=206 bytes={size} ");
    cache.wait_stderr(&said(clients[0].0));
    // After responses to other clients, the server has handled each of these connections.
    for _ in 0..10 {
        others.get("/v2/").expect(b"{}");
    }
    let whole = clients
        .iter()
        .filter(|(size, _)| cache.stderr().contains(&said(*size)))
        .count();
    println!(
        "the kernel accepted {whole} of {} responses completely",
        clients.len()
    );
    // In parallel, because the server closes a connection without progress.
    let readers: Vec<_> = clients
        .into_iter()
        .map(|(size, client)| (size, std::thread::spawn(move || client.read())))
        .collect();
    for (size, reader) in readers {
        let (body, end) = reader.join().unwrap();
        assert_eq!(body.len() as u64, size, "{end:?}");
        assert_eq!(content.compare(0, &body), Ok(()));
        // An end without close_notify is an error.
        end.unwrap_or_else(|error| panic!("{size} bytes: {error}"));
    }
}

/// A client that has sent a request and does not read. Small buffers and segments limit the data in
/// the sockets.
struct Silent {
    session: ClientConnection,
    socket: TcpStream,
}

impl Silent {
    /// Requests the first `size` bytes of `path`, and then the end of the connection.
    fn ask(cache: &Server, pki: &Pki, path: &str, size: u64) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket.set_tcp_mss(1400).unwrap();
        socket.connect(&cache.addr().into()).unwrap();
        let (mut session, mut socket) = (new_session(pki.authority.client()), TcpStream::from(socket));
        while session.is_handshaking() {
            session.complete_io(&mut socket).unwrap();
        }
        let range = format!("bytes=0-{}", size - 1);
        let request = request_bytes("GET", path, &[("Range", &range), ("Connection", "close")]);
        rustls::Stream::new(&mut session, &mut socket)
            .write_all(&request)
            .unwrap();
        Silent { session, socket }
    }

    /// Returns the number of bytes in the TCP queues, once the number is constant.
    fn held_when_stuck(&self) -> u64 {
        let (ours, theirs) = (
            self.socket.local_addr().unwrap(),
            self.socket.peer_addr().unwrap(),
        );
        let (mut before, mut same) = (0, 0);
        eventually("the queues of the sockets are full", || {
            std::thread::sleep(Duration::from_millis(45));
            let now = queued(theirs.port(), ours.port()).0 + queued(ours.port(), theirs.port()).1;
            same = if now == before && now > 0 { same + 1 } else { 0 };
            before = now;
            same == 10
        });
        before
    }

    /// Reads the body of the response. Returns the body and the result of the connection's end.
    fn read(mut self) -> (Vec<u8>, std::io::Result<()>) {
        self.socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut stream = BufReader::new(rustls::Stream::new(&mut self.session, &mut self.socket));
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert_ne!(stream.read_line(&mut line).unwrap(), 0);
        }
        let mut body = Vec::new();
        let end = stream.read_to_end(&mut body).map(drop);
        (body, end)
    }
}

/// Returns the TCP queues of a connection between two local ports: bytes not acknowledged, and
/// bytes not read.
fn queued(from: u16, to: u16) -> (u64, u64) {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = format!(" 0100007F:{from:04X} 0100007F:{to:04X} ");
    let line = table
        .lines()
        .find(|line| line.contains(&ends))
        .expect("the connection is open");
    let queues = line.split_whitespace().nth(4).unwrap();
    let (sent, received) = queues.split_once(':').unwrap();
    let bytes = |hex| u64::from_str_radix(hex, 16).unwrap();
    (bytes(sent), bytes(received))
}

#[test]
fn a_request_may_come_along_with_the_end_of_the_handshake() {
    let pki = Pki::new();
    let Some(cache) = start(&pki, Server::bare()) else {
        return;
    };
    for _ in 0..20 {
        let (mut session, mut socket) = session(&cache, pki.authority.client());
        // The session buffers the request and sends both the request and the last handshake record
        // in one write.
        let request = request_bytes("GET", "/v2/", &[("Connection", "close")]);
        session.writer().write_all(&request).unwrap();
        let mut answer = String::new();
        rustls::Stream::new(&mut session, &mut socket)
            .read_to_string(&mut answer)
            .unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("{}"),
            "{answer}"
        );
    }
    expect_handed_over(&cache, 20);
}

#[test]
fn client_that_updates_its_keys_is_closed_with_close_notify() {
    let pki = Pki::new();
    let Some(cache) = start(&pki, Server::bare()) else {
        return;
    };
    let (mut session, mut socket) = session(&cache, pki.authority.client());
    let mut stream = rustls::Stream::new(&mut session, &mut socket);
    stream.write_all(&request_bytes("GET", "/v2/", &[])).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"{}") {
        let mut bytes = [0; 1000];
        let read = stream.read(&mut bytes).unwrap();
        assert!(
            read > 0,
            "the connection was closed before the end of the response"
        );
        answer.extend_from_slice(&bytes[..read]);
    }
    stream.conn.refresh_traffic_keys().unwrap();
    stream.flush().unwrap();
    // The server closes the session with close_notify and without delay.
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let read = rustls::Stream::new(&mut session, &mut socket).read(&mut [0; 10]);
    assert_eq!(read.unwrap(), 0);
}

#[test]
fn wrong_bytes_with_kernel_tls_end_in_a_reset() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let Some(cache) = start(&pki, Server::options(&upstream)) else {
        return;
    };
    let content = PseudoRandom::new(fresh_seed(), 4 * MIB);
    let digest = upstream.blob(content.clone());
    let gate = Gate::new();
    upstream.on(
        On::path(&digest),
        Reply::new().flip(3 * MIB).hold_at(2 * MIB, &gate),
    );
    let client = Client::with_tls(cache.addr(), pki.authority.client());
    let broken = client.get_broken(&upstream.blob_url("a", &digest), &gate);
    assert_ne!(broken.why, Why::Truncated, "{:?}", broken.why);
    assert!(broken.received < content.size);
}

#[test]
fn tls_1_2_sessions_are_not_offloaded_to_the_kernel() {
    let pki = Pki::new();
    let Some(cache) = start(&pki, Server::bare()) else {
        return;
    };
    for (version, times) in [(&TLS12, 0), (&TLS13, 1)] {
        let config = pki.authority.client_config(&[version], &["http/1.1"], None);
        Client::with_tls(cache.addr(), config).get("/v2/").expect(b"{}");
        expect_handed_over(&cache, times);
    }
}
