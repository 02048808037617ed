//! Client certificates: request, verification, and session resumption.

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};

use crate::harness::server::{Options, TempDir};
use crate::harness::*;

/// The server's authority, the clients' authority, and the directory with the files.
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

    /// Returns the certificate stored under `name`.
    fn read(&self, name: &str) -> Issued {
        let read = |end: &str| std::fs::read_to_string(self.file(&format!("{name}.{end}"))).unwrap();
        Issued {
            chain: read("crt"),
            key: read("key"),
        }
    }

    fn config_with(
        &self,
        version: &'static SupportedProtocolVersion,
        issued: Option<&Issued>,
    ) -> Arc<ClientConfig> {
        self.ours.client_config(&[version], &["http/1.1"], issued)
    }
}

/// Returns whether the server accepts a client. In TLS 1.3, the client sees a rejection only at its
/// first read.
fn is_accepted(cache: &Server, config: &Arc<ClientConfig>) -> bool {
    let Ok(mut connection) = Connection::open_tls(cache.addr(), config.clone()) else {
        return false;
    };
    connection.request("GET", "/v2/", &[]).is_ok()
        && connection
            .read("GET")
            .is_ok_and(|response| response.status == 200)
}

#[test]
fn only_clients_with_a_certificate_of_the_authority_are_accepted() {
    let pki = Pki::new();
    let cache = pki.serve().start();
    cache.wait_stderr("client_certificate=required");
    let right = pki.clients.issue("right");
    let other = Authority::new("other").issue("wrong");
    let namesake = Authority::new("clients").issue("wrong");
    let expired = pki.clients.issue_with("expired", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    for version in VERSIONS {
        assert!(is_accepted(&cache, &pki.config_with(version, Some(&right))));
        for wrong in [None, Some(&other), Some(&namesake), Some(&expired)] {
            assert!(
                !is_accepted(&cache, &pki.config_with(version, wrong)),
                "{version:?}"
            );
        }
    }
}

#[test]
fn a_client_s_self_made_certificate_may_be_the_authority_itself() {
    let pki = Pki::new();
    let made = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        change(&mut params);
        let key = rcgen::KeyPair::generate().unwrap();
        Issued {
            chain: params.self_signed(&key).unwrap().pem(),
            key: key.serialize_pem(),
        }
    };
    let named = made(|_| {});
    let namesake = made(|_| {});
    let expired = made(|params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let both = format!("{}{}", named.chain, expired.chain);
    pki::write(&pki.dir.path, "clients.crt", &both);
    let cache = pki.serve().start();
    for version in VERSIONS {
        assert!(
            is_accepted(&cache, &pki.config_with(version, Some(&named))),
            "{version:?}"
        );
        for wrong in [None, Some(&namesake), Some(&expired)] {
            assert!(
                !is_accepted(&cache, &pki.config_with(version, wrong)),
                "{version:?}"
            );
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
        assert!(is_accepted(&cache, &pki.config_with(version, Some(&right))));
        assert!(is_accepted(&cache, &pki.config_with(version, None)));
        assert!(!is_accepted(&cache, &pki.config_with(version, Some(&wrong))));
        // Without a certificate request, a client sends no certificate.
        assert!(is_accepted(
            &asked_for_none,
            &pki.config_with(version, Some(&wrong))
        ));
    }
}

#[test]
fn ociregistry_client_auth_setting_requires_client_certificates() {
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
    assert!(is_accepted(&cache, &pki.config_with(&TLS13, Some(&right))));
    assert!(!is_accepted(&cache, &pki.config_with(&TLS13, None)));
}

#[test]
fn resumed_sessions_are_accepted_until_the_client_authority_changes() {
    let pki = Pki::new();
    let cache = pki.serve().start();
    let right = pki.clients.issue("right");
    for version in VERSIONS {
        let config = pki.config_with(version, Some(&right));
        let mut last = HandshakeKind::Full;
        for _ in 0..2 {
            let mut connection = Connection::open_tls(cache.addr(), config.clone()).unwrap();
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
            last = connection.session().handshake_kind().unwrap();
        }
        assert_eq!(last, HandshakeKind::Resumed, "{version:?}");
    }
    let old: Vec<_> = VERSIONS
        .map(|version| pki.config_with(version, Some(&right)))
        .into();
    for config in &old {
        assert!(is_accepted(&cache, config));
    }
    // With a new authority, resumed sessions are no longer accepted.
    let next = Authority::new("next");
    pki::write(&pki.dir.path, "clients.crt", &next.pem);
    cache.sighup();
    let newcomer = next.issue("newcomer");
    eventually("clients of the next authority are accepted", || {
        is_accepted(&cache, &pki.config_with(&TLS13, Some(&newcomer)))
    });
    for config in &old {
        assert!(!is_accepted(&cache, config));
    }
}

/// A session ticket easily outlives a certificate.
#[test]
fn a_resumed_session_ends_with_its_certificate() {
    let pki = Pki::new();
    let cache = pki.serve().start();
    let end = SystemTime::now() + Duration::from_secs(12);
    let brief = pki.clients.issue_with("brief", |params| {
        params.not_after = date_time_ymd(1970, 1, 1) + end.duration_since(UNIX_EPOCH).unwrap();
    });
    let configs = VERSIONS.map(|version| pki.config_with(version, Some(&brief)));
    for config in &configs {
        assert!(is_accepted(&cache, config));
        let mut connection = Connection::open_tls(cache.addr(), config.clone()).unwrap();
        connection.request("GET", "/v2/", &[]).unwrap();
        connection.read("GET").unwrap().expect(b"{}");
        let kind = connection.session().handshake_kind();
        assert_eq!(kind, Some(HandshakeKind::Resumed));
    }
    for config in &configs {
        eventually("the expired certificate is rejected", || {
            SystemTime::now() > end && !is_accepted(&cache, config)
        });
    }
}

#[test]
fn health_check_passes_if_the_server_requires_a_client_certificate() {
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
    assert!(said.contains("requires a client certificate"), "{said}");
}

// ---- Client authentication ----------------------------------------------------------------------

/// Both protocols, as options of curl.
const PROTOCOLS: [&str; 2] = ["--http1.1", "--http2"];

/// A curl process as client, because curl supports both protocols over TLS.
struct Curl<'a> {
    pki: &'a Pki,
    cache: &'a Server,
    protocol: &'static str,
}

/// Status, `WWW-Authenticate` and body of a response.
struct Said {
    status: u16,
    challenge: String,
    body: String,
}

impl Curl<'_> {
    /// Requests `path`, with the named certificate unless `certificate` is empty.
    fn get(&self, path: &str, certificate: &str, fields: &[(&str, &str)]) -> Said {
        let mut command = Command::new("curl");
        command
            .env_clear()
            .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"])
            .arg(self.protocol)
            .args(["--cacert", &self.pki.file("ours.crt")])
            .args([
                "--write-out",
                "\n%{http_version} %{http_code} %header{www-authenticate}",
            ]);
        if !certificate.is_empty() {
            command
                .args(["--cert", &self.pki.file(&format!("{certificate}.crt"))])
                .args(["--key", &self.pki.file(&format!("{certificate}.key"))]);
        }
        for (name, value) in fields {
            command.args(["--header", &format!("{name}: {value}")]);
        }
        command.arg(format!("https://localhost:{}{path}", self.cache.addr().port()));
        let output = command.output().expect("curl is installed");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, told) = text.rsplit_once('\n').unwrap_or_default();
        let mut words = told.splitn(3, ' ');
        let version = words.next().unwrap_or_default();
        let wanted = if self.protocol == "--http2" { "2" } else { "1.1" };
        assert_eq!(version, wanted, "{}", String::from_utf8_lossy(&output.stderr));
        Said {
            status: words
                .next()
                .and_then(|code| code.parse().ok())
                .unwrap_or_default(),
            challenge: words.next().unwrap_or_default().to_owned(),
            body: body.to_owned(),
        }
    }
}

impl Pki {
    /// Writes client certificates of one authority: a builder, a node, and a guest.
    fn issue_clients(&self) {
        pki::write(&self.dir.path, "ours.crt", &self.ours.pem);
        let names = |names: &'static [&'static str]| {
            move |params: &mut CertificateParams| {
                params.subject_alt_names =
                    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                        .unwrap()
                        .subject_alt_names;
            }
        };
        let issue = |file: &str, name: &str, alternative: &'static [&'static str]| {
            let issued = self.clients.issue_with(name, names(alternative));
            issued.write(&self.dir.path, file);
        };
        issue("builder", "builder-7", &[]);
        issue("node", "anything", &["N1.nodes.test"]);
        issue("guest", "guest", &["nodes.test", "a.b.nodes.test"]);
    }

    /// Returns the options of a cache in front of `upstream` with `auth` and `more` in its
    /// configuration file.
    fn guard(&self, upstream: &Registry, auth: &str, more: &str) -> Options {
        let name = upstream.name();
        Server::options(upstream)
            .config(format!(
                "auth: {{{auth}}}\n{more}registries:\n  - {{name: \"{name}\", url: \"http://{name}\"}}\n"
            ))
            .env("LISTEN_ADDR", "https://127.0.0.1:0")
            .env("TLS_CERT_FILE", self.file("server.crt"))
            .env("TLS_KEY_FILE", self.file("server.key"))
            .env("TLS_CLIENT_CA_FILE", self.file("clients.crt"))
    }
}

const CERTIFICATES: &str = "client_certificates: [\"CN=builder-*\", \"DNS:*.nodes.test\"]";

#[test]
fn clients_authenticate_by_certificate_or_password() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    pki.issue_clients();
    let blob = upstream.blob("content");
    let auth = format!("username: alice, password: canary, {CERTIFICATES}");
    let cache = pki
        .guard(&upstream, &auth, "")
        .env("TLS_CLIENT_AUTH", "optional")
        .env("LOG_LEVEL", "trace")
        .start();
    let right = basic("alice", "canary");
    let wrong = basic("alice", "guessed");
    for protocol in PROTOCOLS {
        let curl = Curl {
            pki: &pki,
            cache: &cache,
            protocol,
        };
        // The first request is a miss, the later ones are hits.
        for path in [
            "/v2/",
            &upstream.blob_url("a", &blob),
            &upstream.blob_url("a", &blob),
        ] {
            for (certificate, password, status) in [
                ("builder", None, 200),
                ("node", None, 200),
                ("guest", None, 401),
                ("", None, 401),
                ("guest", Some(&right), 200),
                ("", Some(&right), 200),
                ("", Some(&wrong), 401),
                // With a valid certificate, the password is ignored.
                ("builder", Some(&wrong), 200),
            ] {
                let fields: Vec<_> = password
                    .iter()
                    .map(|shown| ("Authorization", shown.as_str()))
                    .collect();
                let said = curl.get(path, certificate, &fields);
                assert_eq!(
                    said.status, status,
                    "{protocol} {path} {certificate:?} {password:?}"
                );
                let challenge = if status == 401 {
                    "Basic realm=\"oci-pull-through\""
                } else {
                    ""
                };
                assert_eq!(said.challenge, challenge);
                if status == 200 && path != "/v2/" {
                    assert_eq!(said.body, "content");
                }
            }
        }
        // Health checks need no authentication.
        assert_eq!(curl.get("/healthz", "", &[]).status, 200);
    }
    // With client authentication, the cache forwards no `Authorization` field, even if a certificate
    // authenticated the client.
    assert_eq!(
        upstream.count(|seen| seen.field("authorization").is_some()),
        0,
        "{:#?}",
        upstream.log()
    );
    assert!(!cache.stderr().contains("canary"));
}

#[test]
fn no_password_challenge_is_sent_if_only_certificates_are_configured() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    pki.issue_clients();
    let blob = upstream.blob("content");
    let path = upstream.blob_url("a", &blob);
    let cache = pki.guard(&upstream, CERTIFICATES, "").start();
    for protocol in PROTOCOLS {
        let curl = Curl {
            pki: &pki,
            cache: &cache,
            protocol,
        };
        assert_eq!(curl.get(&path, "builder", &[]).body, "content");
        let said = curl.get(&path, "guest", &[]);
        assert_eq!((said.status, said.challenge.as_str()), (403, ""), "{}", said.body);
        assert!(
            said.body.contains("DENIED") && said.body.contains("certificate"),
            "{}",
            said.body
        );
    }
}

#[test]
fn rules_are_about_the_names_in_certificates() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    pki.issue_clients();
    let (team, other) = (
        upstream.blob("content of the team"),
        upstream.blob("content of other users"),
    );
    let rules =
        "allow: [{users: [\"cert:builder-*\"], repositories: [team/*]}, {users: [\"cert:n1.nodes.test\"]}]\n";
    let cache = pki.guard(&upstream, CERTIFICATES, rules).start();
    let (team, other) = (
        upstream.blob_url("team/app", &team),
        upstream.blob_url("other/app", &other),
    );
    for protocol in PROTOCOLS {
        let curl = Curl {
            pki: &pki,
            cache: &cache,
            protocol,
        };
        // Cold, from the disk, and from memory.
        for _ in 0..3 {
            for (path, certificate, status) in [
                (&team, "builder", 200),
                (&other, "builder", 403),
                (&team, "node", 200),
                (&other, "node", 200),
                (&team, "guest", 403),
            ] {
                let said = curl.get(path, certificate, &[]);
                assert_eq!(
                    said.status, status,
                    "{protocol} {path} {certificate}: {}",
                    said.body
                );
            }
        }
    }
    // All requests of a connection have the identity of its certificate.
    let builder = pki.read("builder");
    let mut connection = Connection::open_tls(cache.addr(), pki.config_with(&TLS13, Some(&builder))).unwrap();
    for (path, status) in [(&team, 200), (&other, 403), (&team, 200)] {
        connection.request("GET", path, &[]).unwrap();
        assert_eq!(connection.read("GET").unwrap().status, status);
    }
}

/// A resumed session keeps the identity of its first handshake.
#[test]
fn resumed_session_keeps_its_certificate_identity() {
    let (pki, upstream) = (Pki::new(), Registry::new());
    pki.issue_clients();
    let cache = pki.guard(&upstream, CERTIFICATES, "").start();
    let builder = pki.read("builder");
    for version in VERSIONS {
        let config = pki.config_with(version, Some(&builder));
        for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
            let mut connection = Connection::open_tls(cache.addr(), config.clone()).unwrap();
            connection.request("GET", "/v2/", &[]).unwrap();
            connection.read("GET").unwrap().expect(b"{}");
            assert_eq!(connection.session().handshake_kind(), Some(kind), "{version:?}");
        }
    }
}

/// In TLS 1.3, a client without a certificate sends its request before the rejection. A reset must
/// not discard the alert in transit.
#[test]
fn client_without_a_certificate_receives_the_tls_alert() {
    let pki = Pki::new();
    pki::write(&pki.dir.path, "ours.crt", &pki.ours.pem);
    let cache = pki.serve().start();
    let url = format!("https://localhost:{}/v2/", cache.addr().port());
    for _ in 0..20 {
        let mut command = Command::new("curl");
        command
            .env_clear()
            .args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "60"])
            .args(["--cacert", &pki.file("ours.crt"), "--tlsv1.3", &url]);
        let output = command.output().expect("curl is installed");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("alert certificate required"), "{said}");
    }
}
