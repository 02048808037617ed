//! TLS with clients: versions, resumption, bodies, certificate changes, and clients with another
//! protocol.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::date_time_ymd;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, SupportedProtocolVersion};

use crate::harness::client::{Flow, Why};
use crate::harness::server::{Options, TempDir};
use crate::harness::*;

const MIB: u64 = 1024 * 1024;

/// The time limit of a handshake, and the tolerance for a busy machine.
const HANDSHAKE: Duration = Duration::from_secs(10);
const LATE: Duration = Duration::from_secs(60);

/// An authority, its server certificate, and the directory with the files.
pub struct Pki {
    pub authority: Authority,
    dir: TempDir,
}

impl Pki {
    pub fn new() -> Self {
        let pki = Pki {
            authority: Authority::new("the authority"),
            dir: TempDir::new(),
        };
        pki.authority.issue("first").write(&pki.dir.path, "server");
        pki
    }

    /// Adds a TLS address and the certificate to the options of a server.
    pub fn serve(&self, options: Options) -> Options {
        let file = |name: &str| self.dir.path.join(name).display().to_string();
        options
            .env("LISTEN_ADDR", "https://127.0.0.1:0")
            .env("TLS_CERT_FILE", file("server.crt"))
            .env("TLS_KEY_FILE", file("server.key"))
    }

    fn client(&self, cache: &Server) -> Client {
        Client::with_tls(cache.addr(), self.authority.client())
    }

    pub fn ca_file(&self) -> String {
        let path = pki::write(&self.dir.path, "ca.crt", &self.authority.pem);
        path.display().to_string()
    }

    /// Returns the certificate that a new client receives, in DER.
    fn shown(&self, cache: &Server) -> Vec<u8> {
        let connection = Connection::open_tls(cache.addr(), self.authority.client()).unwrap();
        connection.session().peer_certificates().unwrap()[0].to_vec()
    }
}

fn der(issued: &Issued) -> Vec<u8> {
    CertificateDer::from_pem_slice(issued.chain.as_bytes())
        .unwrap()
        .to_vec()
}

/// Runs `openssl` with `input`. Returns both outputs.
fn openssl(args: &[&str], input: &[u8]) -> String {
    let mut child = Command::new("openssl")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl is installed");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input).expect("openssl reads");
    drop(stdin);
    let output = child.wait_with_output().expect("openssl ends");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

// ---- Sessions -----------------------------------------------------------------------------------

#[test]
fn both_versions_are_spoken_and_a_protocol_is_agreed_on() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let versions: [&'static SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
    for version in versions {
        for (offered, agreed) in [
            (&["http/1.1"][..], Some("http/1.1")),
            (&["http/1.0", "http/1.1"], Some("http/1.1")),
            // The server selects the protocol, independent of the client's order.
            (&["http/1.1", "h2"], Some("h2")),
            (&[], None),
        ] {
            let config = pki.authority.client_config(&[version], offered, None);
            let mut connection = Connection::open_tls(cache.addr(), config).unwrap();
            let session = connection.session();
            assert_eq!(session.protocol_version(), Some(version.version));
            assert_eq!(session.alpn_protocol(), agreed.map(str::as_bytes));
            if agreed == Some("h2") {
                continue;
            }
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
        }
    }
    // Without a common protocol, the handshake fails.
    let config = pki
        .authority
        .client_config(rustls::ALL_VERSIONS, &["spdy/3"], None);
    let refused = Connection::open_tls(cache.addr(), config).err().unwrap();
    assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
}

#[test]
fn sessions_are_resumed_in_both_versions() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).cores(2).start();
    let versions: [&'static SupportedProtocolVersion; 2] = [&TLS12, &TLS13];
    for version in versions {
        let config = pki.authority.client_config(&[version], &["http/1.1"], None);
        let mut kinds = Vec::new();
        for _ in 0..4 {
            let mut connection = Connection::open_tls(cache.addr(), config.clone()).unwrap();
            connection.request("GET", "/v2/", &[]).unwrap();
            // Tickets arrive with the response.
            connection.read("GET").unwrap().expect(b"{}");
            kinds.push(connection.session().handshake_kind().unwrap());
        }
        assert_eq!(kinds[0], HandshakeKind::Full, "{version:?}");
        assert_eq!(kinds[1..], [HandshakeKind::Resumed; 3], "{version:?}");
    }
}

#[test]
fn openssl_resumes_with_tickets_and_without() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let (addr, ca) = (cache.addr().to_string(), pki.ca_file());
    let request = b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let session = pki.dir.path.join("session").display().to_string();
    // Without tickets, TLS 1.2 resumes by session ID. The server keeps the sessions in memory.
    for how in [&["-tls1_3"][..], &["-tls1_2"], &["-tls1_2", "-no_ticket"]] {
        let mut args = vec![
            "s_client",
            "-connect",
            &addr,
            "-CAfile",
            &ca,
            "-verify_return_error",
            "-ign_eof",
        ];
        args.extend(how);
        let first = openssl(&[&args[..], &["-sess_out", &session]].concat(), request);
        assert!(
            first.contains("HTTP/1.1 200 OK") && first.contains("New, TLS"),
            "{how:?}: {first}"
        );
        assert!(first.contains("Verify return code: 0 (ok)"), "{first}");
        let second = openssl(&[&args[..], &["-sess_in", &session]].concat(), request);
        assert!(
            second.contains("HTTP/1.1 200 OK") && second.contains("Reused, TLS"),
            "{how:?}: {second}"
        );
    }
}

#[test]
fn old_tls_versions_and_early_data_are_rejected() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let addr = cache.addr().to_string();
    for old in ["-tls1_1", "-tls1"] {
        let said = openssl(
            &["s_client", "-connect", &addr, old, "-cipher", "ALL:@SECLEVEL=0"],
            b"",
        );
        assert!(said.contains("Cipher is (NONE)"), "{old}: {said}");
    }
    let session = pki.dir.path.join("session").display().to_string();
    let said = openssl(
        &[
            "s_client",
            "-connect",
            &addr,
            "-tls1_3",
            "-ign_eof",
            "-sess_out",
            &session,
        ],
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert!(said.contains("Max Early Data: 0"), "{said}");
}

#[test]
fn several_requests_share_a_session_and_its_end_is_orderly() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let cache = pki.serve(Server::options(&upstream)).start();
    let digest = upstream.blob("16 bytes of text");
    let path = upstream.blob_url("a", &digest);
    let mut connection = pki.client(&cache).open();
    for _ in 0..3 {
        connection.request("GET", &path, &[]).unwrap();
        connection.read("GET").unwrap().expect(b"16 bytes of text");
        connection.request("HEAD", &path, &[]).unwrap();
        assert_eq!(connection.read("HEAD").unwrap().content_length(), Some(16));
    }
    // Two requests in one record.
    connection
        .send(
            b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\nGET /v2/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        .unwrap();
    connection.read("GET").unwrap().expect(b"{}");
    connection.read("GET").unwrap().expect(b"{}");
    // A close_notify. Without close_notify, the reader would report an unexpected end.
    assert_eq!(connection.read_to_close(), (Vec::new(), Why::Truncated));
}

#[test]
fn a_head_may_come_in_many_records_and_a_record_in_many_pieces() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let mut connection = pki.client(&cache).open();
    let long = "x".repeat(20_000);
    let head = format!("GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Long: {long}\r\n\r\n");
    for byte in head.as_bytes()[..64].iter() {
        connection.send(std::slice::from_ref(byte)).unwrap();
    }
    connection.send(&head.as_bytes()[64..]).unwrap();
    connection.read("GET").unwrap().expect(b"{}");
}

// ---- Bodies -------------------------------------------------------------------------------------

#[test]
fn bodies_of_every_kind_arrive_byte_for_byte() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let mut cache = pki.serve(Server::options(&upstream)).start();
    let mut random = Random::for_test("bodies_of_every_kind_arrive_byte_for_byte");
    let mut contents = Vec::new();
    // Around the sizes of records, of encryption batches, of the memory cache, and of pipes.
    for size in [
        1,
        16_383,
        16_384,
        16_385,
        32 * 1024 + 1,
        65_535,
        65_537,
        MIB,
        MIB + 1,
        64 * MIB,
    ] {
        let content = PseudoRandom::new(random.next(), size);
        let digest = upstream.blob(content.clone());
        contents.push((upstream.blob_url("a", &digest), digest, content));
    }
    let client = pki.client(&cache);
    for (path, digest, content) in &contents {
        // From the growing file, then from the complete file or from memory.
        client.pull(path, content);
        cache.wait_stored(digest);
        client.pull(path, content);
        client.pull(path, content);
    }
    // From the disk, with the upstream down.
    upstream.down();
    cache.restart();
    let client = pki.client(&cache);
    let mut connection = client.open();
    for (path, _, content) in &contents {
        connection.request("GET", path, &[]).unwrap();
        let got = connection.read_into("GET", &mut |at, piece| {
            content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
        });
        assert_eq!(got.unwrap().received, content.size);
    }
}

#[test]
fn ranges_are_what_they_are_without_tls() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let cache = pki
        .serve(Server::options(&upstream))
        .env("LISTEN_ADDR", "https://127.0.0.1:0,http://127.0.0.1:0")
        .start();
    let content = PseudoRandom::new(fresh_seed(), 3 * MIB + 17);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let plain = Client::new(cache.addr_for("http"));
    let tls = Client::with_tls(cache.addr_for("https"), pki.authority.client());
    plain.pull(&path, &content);
    cache.wait_stored(&digest);
    for range in [
        "bytes=0-0",
        "bytes=-1",
        "bytes=100000-2000000",
        "bytes=3145700-",
        "bytes=9999999-",
        "bytes=0-99,70000-80000,-10",
        "bytes=0-1500000,1500001-3000000",
    ] {
        let fields = [("Range", range)];
        let (wanted, got) = (plain.get_with(&path, &fields), tls.get_with(&path, &fields));
        assert_eq!(
            (got.status, got.received),
            (wanted.status, wanted.received),
            "{range}"
        );
        // The boundary differs in each response, but has a constant length.
        let single = !range.contains(',');
        assert!(!single || got.body == wanted.body, "{range}: wrong bytes");
        assert_eq!(got.body.len(), wanted.body.len(), "{range}");
    }
}

#[test]
fn a_list_and_an_unknown_length_travel_too() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let cache = pki.serve(Server::options(&upstream)).start();
    let content = PseudoRandom::new(fresh_seed(), 2 * MIB);
    let digest = upstream.blob(content.clone());
    upstream.on(On::path(&digest), Reply::new().framing(Framing::Chunked));
    pki.client(&cache)
        .pull(&upstream.blob_url("a", &digest), &content);
}

/// A slow client gets the complete body and does not delay others.
#[test]
fn a_slow_reader_gets_everything() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let cache = pki.serve(Server::options(&upstream)).start();
    let content = PseudoRandom::new(fresh_seed(), 8 * MIB);
    let digest = upstream.blob(content.clone());
    let path = upstream.blob_url("a", &digest);
    let client = pki.client(&cache);
    client.pull(&path, &content);
    cache.wait_stored(&digest);
    let mut slow = client.open();
    slow.request("GET", &path, &[]).unwrap();
    // Enough requests for the socket of the slow client to fill up.
    for _ in 0..20 {
        client.get("/v2/").expect(b"{}");
    }
    client.pull(&path, &content);
    let got = slow.read_into("GET", &mut |at, piece| {
        content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
    });
    assert_eq!(got.unwrap().received, content.size);
}

#[test]
fn wrong_bytes_end_in_a_reset_and_never_in_an_orderly_end() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let cache = pki.serve(Server::options(&upstream)).start();
    let content = PseudoRandom::new(fresh_seed(), 4 * MIB);
    let digest = upstream.blob(content.clone());
    let gate = Gate::new();
    upstream.on(
        On::path(&digest),
        Reply::new().flip(3 * MIB).hold_at(2 * MIB, &gate),
    );
    let path = upstream.blob_url("a", &digest);
    let broken = pki.client(&cache).get_broken(&path, &gate);
    // An end without close_notify is also correct, if the reset is lost. An end with close_notify
    // is wrong.
    assert_ne!(broken.why, Why::Truncated, "{:?}", broken.why);
    assert!(broken.received < content.size);
    // Small bodies are verified before the first byte is sent.
    let small = upstream.blob(PseudoRandom::new(fresh_seed(), 1000));
    upstream.on(On::path(&small), Reply::new().flip(10));
    let got = pki.client(&cache).get(&upstream.blob_url("a", &small));
    assert_eq!(got.status, 502, "{got}");
    upstream.clear_rules();
    pki.client(&cache).pull(&path, &content);
}

// ---- Clients with another protocol --------------------------------------------------------------

#[test]
fn plain_http_on_the_tls_port_is_told_so() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).env("LOG_LEVEL", "debug").start();
    for request in [
        "GET /v2/a/tags/list",
        "GET /v2/a/manifests/1",
        "HEAD /v2/",
        "POST /v2/",
    ] {
        let mut plain = TcpStream::connect(cache.addr()).unwrap();
        plain.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(plain, "{request} HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = String::new();
        plain.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("Content-Length: {}", body.len())),
            "{answer}"
        );
        // Without a login, Docker requests a manifest, and prints this code and message.
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let error = &body["errors"][0];
        assert_eq!(error["code"], "UNAUTHORIZED", "{answer}");
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            message.contains("https://") && message.contains("login"),
            "{answer}"
        );
    }
    cache.wait_stderr("plain HTTP on a TLS listener");
}

/// The request of Docker 28 after a rejected password over https. Docker reports the status of this
/// response.
#[test]
fn docker_s_ping_in_plain_http_is_told_that_it_is_unauthorized() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let mut plain = TcpStream::connect(cache.addr()).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = "GET /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: docker/28.5.2 go/go1.24.9 os/linux\r\n\
                   Accept-Encoding: gzip\r\n\r\n";
    plain.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    // A challenge would make Docker send the password in plain text.
    assert!(
        !head.to_ascii_lowercase().contains("www-authenticate"),
        "{answer}"
    );
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["errors"][0]["code"], "UNAUTHORIZED");
    assert!(
        body["errors"][0]["message"]
            .as_str()
            .unwrap()
            .contains("https://"),
        "{answer}"
    );
}

#[test]
fn tls_on_the_plain_port_gets_what_its_client_can_tell_from_tls() {
    let cache = Server::bare().start();
    let pki = Pki::new();
    assert!(Connection::open_tls(cache.addr(), pki.authority.client()).is_err());
    // Go clients check for these first bytes, and report an HTTP response to an HTTPS client.
    let mut stream = TcpStream::connect(cache.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"\x16\x03\x01\x00\xf0\x01").unwrap();
    let mut beginning = [0; 5];
    stream.read_exact(&mut beginning).unwrap();
    assert_eq!(&beginning, b"HTTP/");
    cache.client().get("/v2/").expect(b"{}");
}

#[test]
fn garbage_and_broken_records_end_the_connection_and_nothing_else() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    pki.client(&cache).get("/v2/").expect(b"{}");
    let files = cache.open_files();
    let mut random = Random::for_test("garbage_and_broken_records_end_the_connection_and_nothing_else");
    for round in 0..60 {
        let mut stream = TcpStream::connect(cache.addr()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut bytes: Vec<u8> = (0..random.below(600) + 6).map(|_| random.next() as u8).collect();
        match round % 3 {
            // Random bytes, which must not look like an incomplete record.
            0 => bytes[0] |= 0x80,
            // A record with random content.
            1 => {
                let len = bytes.len() as u16;
                bytes.splice(0..0, [22, 3, 1].into_iter().chain(len.to_be_bytes()));
            }
            // A truncated record.
            _ => {
                bytes.splice(0..0, [22, 3, 1, 0x3f, 0xff]);
                stream.write_all(&bytes).unwrap();
                stream.shutdown(std::net::Shutdown::Write).unwrap();
                bytes.clear();
            }
        }
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.len() <= 7 && answer.first().is_none_or(|kind| *kind == 21),
            "{answer:?}"
        );
    }
    // A session with a record modified in transit.
    let config = pki.authority.client();
    let mut session = rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut stream = TcpStream::connect(cache.addr()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    while session.is_handshaking() {
        session.complete_io(&mut stream).unwrap();
    }
    session
        .writer()
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")
        .unwrap();
    let mut record = Vec::new();
    session.write_tls(&mut record).unwrap();
    let last = record.len() - 1;
    record[last] ^= 1;
    stream.write_all(&record).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.windows(4).any(|part| part == b"HTTP"));
    drop(stream);
    pki.client(&cache).get("/v2/").expect(b"{}");
    eventually("every connection is closed", || cache.open_files() <= files);
}

#[test]
fn a_handshake_that_takes_too_long_is_ended() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let begun = Instant::now();
    let mut silent = TcpStream::connect(cache.addr()).unwrap();
    let mut dripping = TcpStream::connect(cache.addr()).unwrap();
    let mut drips = dripping.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A record of 16 KiB, one byte at a time, until the server closes the connection.
            let bytes = [22, 3, 1, 0x3f, 0xff].into_iter().chain(std::iter::repeat(1));
            for byte in bytes.take(400) {
                if drips.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        for stream in [&mut silent, &mut dripping] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            let took = begun.elapsed();
            assert!(
                took + Duration::from_secs(2) > HANDSHAKE && took < HANDSHAKE + LATE,
                "{took:?}"
            );
        }
        let _ = dripping.shutdown(std::net::Shutdown::Both);
    });
}

#[test]
fn handshakes_of_many_do_not_keep_others_waiting() {
    const BYSTANDERS: usize = 40;
    let pki = Pki::new();
    let cache = pki
        .serve(Server::bare())
        .env("LISTEN_ADDR", "https://127.0.0.1:0,http://127.0.0.1:0")
        .start();
    let (tls, plain) = (cache.addr_for("https"), Client::new(cache.addr_for("http")));
    let config = pki.authority.client();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|_| {
                // Without stored sessions, every handshake is a full one.
                let mut config = (*config).clone();
                config.resumption = rustls::client::Resumption::disabled();
                let config = Arc::new(config);
                scope.spawn(move || {
                    for _ in 0..50 {
                        let mut connection = Connection::open_tls(tls, config.clone()).unwrap();
                        connection.request("GET", "/v2/", &[]).unwrap();
                        connection.read("GET").unwrap().expect(b"{}");
                    }
                })
            })
            .collect();
        let mut connection = plain.open();
        for _ in 0..BYSTANDERS {
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
        }
        for worker in workers {
            worker.join().unwrap();
        }
    });
}

#[test]
fn a_thousand_idle_sessions_cost_little() {
    const CONNECTIONS: usize = 1_000;
    /// The documented cost is 250 MiB for 10,000 sessions.
    const GROWTH_MAX: u64 = 25 * MIB;
    raise_file_limit();
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let client = pki.client(&cache);
    client.get("/v2/").expect(b"{}");
    let idle = cache.rss_bytes();
    let mut connections: Vec<_> = (0..CONNECTIONS).map(|_| client.open()).collect();
    for connection in &mut connections {
        connection.request("GET", "/v2/", &[]).unwrap();
        connection.read("GET").unwrap().expect(b"{}");
    }
    let grown = cache.rss_bytes().saturating_sub(idle);
    eprintln!("{} bytes each", grown / CONNECTIONS as u64);
    assert!(grown <= GROWTH_MAX, "memory grew by {grown} bytes");
}

// ---- Certificates -------------------------------------------------------------------------------

#[test]
fn replaced_certificate_is_sent_to_new_clients_and_open_sessions_continue() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    let cache = pki.serve(Server::options(&upstream)).start();
    let content = PseudoRandom::new(fresh_seed(), 8 * MIB);
    let digest = upstream.blob(content.clone());
    let gate = Gate::new();
    upstream.on(On::path(&digest), Reply::new().hold_at(4 * MIB, &gate));
    let mut busy = pki.client(&cache).open();
    busy.request("GET", &upstream.blob_url("a", &digest), &[])
        .unwrap();
    let head = busy.read_head().unwrap();
    gate.wait_arrived(1);

    // The server notices the changed files without a signal.
    let second = pki.authority.issue("second");
    second.write(&pki.dir.path, "server");
    eventually("the server presents the new certificate", || {
        pki.shown(&cache) == der(&second)
    });
    // After SIGHUP, the server reads the files at once.
    let third = pki.authority.issue("third");
    third.write(&pki.dir.path, "server");
    cache.sighup();
    eventually("the server presents the third certificate", || {
        pki.shown(&cache) == der(&third)
    });

    gate.open();
    let whole = busy.read_body(head, "GET", &mut |at, piece| {
        content.compare(at, piece).map_or_else(Flow::Wrong, |()| Flow::Go)
    });
    assert_eq!(whole.unwrap().received, content.size);
}

#[test]
fn mismatched_new_certificate_is_logged_once_and_the_old_one_stays() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let first = pki.shown(&cache);
    // A certificate without its key.
    let second = pki.authority.issue("second");
    pki::write(&pki.dir.path, "server.crt", &second.chain);
    cache.wait_stderr("TLS files not reloaded");
    assert!(cache.stderr().contains("the key does not match the certificate"));
    assert_eq!(pki.shown(&cache), first);
    cache.sighup();
    cache.wait_stderr("configuration not reloaded");
    assert_eq!(pki.shown(&cache), first);
    // The matching key is written later.
    pki::write(&pki.dir.path, "server.key", &second.key);
    eventually("the server presents the new pair", || {
        pki.shown(&cache) == der(&second)
    });
    let told = cache.stderr().matches("TLS files not reloaded").count();
    assert_eq!(told, 1);
}

#[test]
fn mistakes_with_certificates_are_found_at_the_start() {
    let pki = Pki::new();
    let other = pki.authority.issue("other");
    other.write(&pki.dir.path, "other");
    let file = |name: &str| pki.dir.path.join(name).display().to_string();
    for (change, reason) in [
        (
            ("TLS_KEY_FILE", file("other.key")),
            "does not match the certificate",
        ),
        (("TLS_KEY_FILE", file("none.key")), "cannot be read"),
        (("TLS_CERT_FILE", file("other.key")), "holds no certificate"),
        (
            ("GENERATE_SELF_SIGNED_TLS", "true".into()),
            "conflicts with TLS_CERT_FILE",
        ),
        (
            ("LISTEN_ADDR", "http://127.0.0.1:0".into()),
            "no address here is for https",
        ),
    ] {
        let options = pki.serve(Server::bare()).env(change.0, change.1);
        let (status, stderr) = options.try_start().err().expect("the server does not start");
        assert_eq!(status.and_then(|status| status.code()), Some(2), "{stderr}");
        assert!(stderr.contains(reason), "{reason}: {stderr}");
    }
}

#[test]
fn the_log_says_whom_the_certificate_is_for_and_when_it_ends() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    cache.wait_stderr("TLS certificate loaded\" names=\"localhost, 127.0.0.1\" valid_until=");
    assert!(!cache.stderr().contains("level=warn"), "{}", cache.stderr());
    let expired = pki.authority.issue_with("expired", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    expired.write(&pki.dir.path, "server");
    let cache = pki.serve(Server::bare()).start();
    cache.wait_stderr("TLS certificate expired");
    let expected = "valid_until=\"Fri, 01 Jan 2021 00:00:00 GMT\"";
    assert!(cache.stderr().contains(expected), "{}", cache.stderr());
    // The server uses the expired certificate, and the client rejects the handshake.
    let refused = Connection::open_tls(cache.addr(), pki.authority.client())
        .err()
        .unwrap();
    assert!(refused.to_string().contains("xpired"), "{refused}");
}

#[test]
fn a_client_that_trusts_another_authority_refuses_us() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let other = Authority::new("another authority");
    assert!(Connection::open_tls(cache.addr(), other.client()).is_err());
    let curl = |ca: &str, url: &str| {
        let args = [
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--cacert",
            ca,
            url,
        ];
        let output = Command::new("curl")
            .args(args)
            .output()
            .expect("curl is installed");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let wrong = pki::write(&pki.dir.path, "other.crt", &other.pem);
    let url = format!("https://localhost:{}/v2/", cache.addr().port());
    let (code, ..) = curl(&wrong.display().to_string(), &url);
    assert_eq!(
        code,
        Some(60),
        "the exit code of curl for an untrusted certificate"
    );
    let (code, body, stderr) = curl(&pki.ca_file(), &url);
    assert_eq!((code, body.as_str()), (Some(0), "{}"), "{stderr}");
}

#[test]
fn generated_certificate_covers_this_machine_for_ten_years() {
    let cache = Server::bare()
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .env("GENERATE_SELF_SIGNED_TLS", "true")
        .start();
    let addr = cache.addr().to_string();
    let said = openssl(&["s_client", "-connect", &addr, "-showcerts"], b"");
    let begin = said.find("-----BEGIN CERTIFICATE-----").expect("a certificate");
    let end = said
        .find("-----END CERTIFICATE-----")
        .expect("the end of the certificate");
    let pem = format!("{}-----END CERTIFICATE-----\n", &said[begin..end]);
    let text = openssl(&["x509", "-noout", "-text"], pem.as_bytes());
    for part in [
        "DNS:localhost",
        "IP Address:127.0.0.1",
        "IP Address:0:0:0:0:0:0:0:1",
        "DNS:host.docker.internal",
        "prime256v1",
        "TLS Web Server Authentication",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let years = |from: &str| {
        let line = text.lines().find(|line| line.contains(from)).unwrap();
        let mut words = line.split_whitespace().rev();
        assert_eq!(words.next(), Some("GMT"));
        words.next().unwrap().parse::<u32>().unwrap()
    };
    assert!((9..=10).contains(&(years("Not After") - years("Not Before"))));
    // A client that trusts the certificate itself is served.
    let dir = TempDir::new();
    let ca = pki::write(&dir.path, "self.crt", &pem).display().to_string();
    let said = openssl(
        &[
            "s_client",
            "-connect",
            &addr,
            "-CAfile",
            &ca,
            "-verify_ip",
            "127.0.0.1",
            "-verify_return_error",
            "-ign_eof",
        ],
        b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    assert!(said.contains("HTTP/1.1 200 OK"), "{said}");
}

#[test]
fn name_of_a_passed_socket_selects_its_protocol() {
    let pki = Pki::new();
    let listener = || Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
    let (https, http, nameless) = (listener(), listener(), listener());
    let at = |socket: &TcpListener| socket.local_addr().unwrap();
    let tls = |socket| Client::with_tls(at(socket), pki.authority.client());
    // The address is in use, so a bind would fail.
    let taken = format!("https://{}", at(&https));
    let cache = pki.serve(Server::bare()).env("LISTEN_ADDR", &taken).cores(2);
    let cache = cache.pass("https", &https).pass("http", &http).start();
    tls(&https).get("/v2/").expect(b"{}");
    Client::new(at(&http)).get("/v2/").expect(b"{}");
    drop(cache);
    // A socket with an unknown name is treated as an address without a scheme.
    let cache = pki
        .serve(Server::bare())
        .pass("oci-pull-through.socket", &nameless);
    let cache = cache.start();
    tls(&nameless).get("/v2/").expect(b"{}");
    drop(cache);
    let refused = Server::bare().pass("https", &https).try_start();
    let (status, stderr) = refused
        .err()
        .expect("the server does not start without a certificate");
    assert_eq!(status.and_then(|status| status.code()), Some(2), "{stderr}");
    assert!(stderr.contains("for https; set TLS_CERT_FILE"), "{stderr}");
}

#[test]
fn the_health_check_asks_over_tls_too() {
    let pki = Pki::new();
    let cache = pki.serve(Server::bare()).start();
    let check = |change: &[(&str, String)]| {
        let mut command = Server::command(cache.home(), cache.root());
        command
            .env("LISTEN_ADDR", format!("https://{}", cache.addr()))
            .env("TLS_CERT_FILE", pki.dir.path.join("server.crt"))
            .env("TLS_KEY_FILE", pki.dir.path.join("server.key"))
            .envs(change.iter().map(|(name, value)| (name, value)))
            .arg("healthcheck");
        let output = command.output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = check(&[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("healthy: https://"), "{said}");
    // Over plain HTTP, the check fails because of the other protocol.
    let (code, said) = check(&[("LISTEN_ADDR", format!("http://{}", cache.addr()))]);
    assert_eq!(code, Some(1), "{said}");
}
