//! Clients' certificates: asked for, verified, and remembered for as long as the same is asked for.

use std::sync::Arc;

use rcgen::date_time_ymd;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};

use crate::harness::server::{Options, TempDir};
use crate::harness::*;

/// Our authority, that of our clients, and the directory with the files.
struct Pki {
    ours: Authority,
    clients: Authority,
    dir: TempDir,
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

impl Pki {
    fn new() -> Self {
        let pki = Pki {
            ours: Authority::new("ours"),
            clients: Authority::new("clients"),
            dir: TempDir::new(),
        };
        pki.ours.issue("server").write(&pki.dir.path, "server");
        pki::write(&pki.dir.path, "clients.crt", &pki.clients.pem);
        pki
    }

    fn file(&self, name: &str) -> String {
        self.dir.path.join(name).display().to_string()
    }

    fn serve(&self) -> Options {
        Server::bare()
            .env("LISTEN_ADDR", "https://127.0.0.1:0")
            .env("TLS_CERT_FILE", self.file("server.crt"))
            .env("TLS_KEY_FILE", self.file("server.key"))
            .env("TLS_CLIENT_CA_FILE", self.file("clients.crt"))
    }

    fn shows(
        &self,
        version: &'static SupportedProtocolVersion,
        issued: Option<&Issued>,
    ) -> Arc<ClientConfig> {
        self.ours.client_config(&[version], &["http/1.1"], issued)
    }
}

/// Whether a client comes in. In TLS 1.3 it learns that it does not when it reads its first answer.
fn comes_in(cache: &Server, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut connection) = Connection::open_tls(cache.addr(), config.clone()) else {
        return false;
    };
    connection.request("GET", "/v2/", &[]).is_ok()
        && connection
            .read("GET")
            .is_ok_and(|response| response.status == 200)
}

#[test]
fn only_who_shows_a_certificate_of_the_authority_comes_in() {
    let pki = Pki::new();
    let cache = pki.serve().start();
    cache.wait_stderr("clients must show a certificate");
    let right = pki.clients.issue("right");
    let other = Authority::new("other").issue("wrong");
    let namesake = Authority::new("clients").issue("wrong");
    let expired = pki.clients.issue_with("expired", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    for version in VERSIONS {
        assert!(comes_in(&cache, &pki.shows(version, Some(&right))));
        for wrong in [None, Some(&other), Some(&namesake), Some(&expired)] {
            assert!(!comes_in(&cache, &pki.shows(version, wrong)), "{version:?}");
        }
    }
}

#[test]
fn a_certificate_may_be_optional_and_a_wrong_one_still_stays_outside() {
    let pki = Pki::new();
    let right = pki.clients.issue("right");
    let wrong = Authority::new("other").issue("wrong");
    let cache = pki.serve().env("TLS_CLIENT_AUTH", "optional").start();
    let asked_for_none = pki.serve().env("TLS_CLIENT_AUTH", "none").start();
    for version in VERSIONS {
        assert!(comes_in(&cache, &pki.shows(version, Some(&right))));
        assert!(comes_in(&cache, &pki.shows(version, None)));
        assert!(!comes_in(&cache, &pki.shows(version, Some(&wrong))));
        // Who is not asked shows nothing.
        assert!(comes_in(&asked_for_none, &pki.shows(version, Some(&wrong))));
    }
}

#[test]
fn the_words_of_another_system_ask_for_certificates_too() {
    let pki = Pki::new();
    let cache = Server::bare()
        .env("LISTEN_ADDR", "127.0.0.1:0")
        .config(format!(
            "serverTlsConfig:\n  cert: {}\n  key: {}\n  ca: {}\n  clientAuth: verify\n",
            pki.file("server.crt"),
            pki.file("server.key"),
            pki.file("clients.crt")
        ))
        .start();
    let right = pki.clients.issue("right");
    assert!(comes_in(&cache, &pki.shows(&TLS13, Some(&right))));
    assert!(!comes_in(&cache, &pki.shows(&TLS13, None)));
}

#[test]
fn resumed_clients_are_believed_until_another_authority_is_asked_for() {
    let pki = Pki::new();
    let cache = pki.serve().start();
    let right = pki.clients.issue("right");
    for version in VERSIONS {
        let config = pki.shows(version, Some(&right));
        let mut last = HandshakeKind::Full;
        for _ in 0..2 {
            let mut connection = Connection::open_tls(cache.addr(), config.clone()).unwrap();
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
            last = connection.session().handshake_kind().unwrap();
        }
        assert_eq!(last, HandshakeKind::Resumed, "{version:?}");
    }
    let old: Vec<_> = VERSIONS.map(|version| pki.shows(version, Some(&right))).into();
    for config in &old {
        assert!(comes_in(&cache, config));
    }
    // Their authority is replaced: what they showed before does not count any more.
    let next = Authority::new("next");
    pki::write(&pki.dir.path, "clients.crt", &next.pem);
    cache.sighup();
    let newcomer = next.issue("newcomer");
    eventually("the next authority is asked for", || {
        comes_in(&cache, &pki.shows(&TLS13, Some(&newcomer)))
    });
    for config in &old {
        assert!(!comes_in(&cache, config));
    }
}

#[test]
fn the_health_check_counts_a_demand_for_a_certificate_as_life() {
    let pki = Pki::new();
    let cache = pki.serve().start();
    let mut command = Server::command(cache.home(), cache.root());
    command
        .env("LISTEN_ADDR", format!("https://{}", cache.addr()))
        .env("TLS_CERT_FILE", pki.file("server.crt"))
        .env("TLS_KEY_FILE", pki.file("server.key"))
        .env("TLS_CLIENT_CA_FILE", pki.file("clients.crt"))
        .arg("healthcheck");
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("asks for a certificate"), "{said}");
}
