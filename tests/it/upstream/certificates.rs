//! TLS with registries: trusted certificates, client certificates of the cache, and no fallback to
//! plain HTTP.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection};

use crate::harness::pki::{Issued, self_made};
use crate::harness::server::TempDir;
use crate::harness::*;

// ---- Certificates -------------------------------------------------------------------------------

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    fn issue(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued {
            chain: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

fn file(dir: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

// ---- A TLS front --------------------------------------------------------------------------------

/// A TLS endpoint in front of a plain server. Handles one request per connection.
struct Front {
    addr: SocketAddr,
    /// The number of requests received after a successful handshake.
    served: Arc<AtomicUsize>,
}

impl Front {
    /// Starts a front. With `clients`, only clients with a certificate of this authority are
    /// accepted.
    fn new(behind: SocketAddr, issued: &Issued, clients: Option<&Authority>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap())
                    .unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (addr, served) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
        let count = served.clone();
        // The thread holds only a port and ends with the process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, count) = (config.clone(), count.clone());
                std::thread::spawn(move || serve(stream, config, behind, &count));
            }
        });
        Front { addr, served }
    }

    fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }
}

/// Forwards one request without a body, and its response.
fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    behind: SocketAddr,
    count: &AtomicUsize,
) -> Option<()> {
    let connection = ServerConnection::new(config).ok()?;
    let mut tls = rustls::StreamOwned::new(connection, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    count.fetch_add(1, Ordering::Relaxed);
    let mut plain = TcpStream::connect(behind).ok()?;
    plain.write_all(&head).ok()?;
    plain.shutdown(Shutdown::Write).ok()?;
    let mut answer = Vec::new();
    plain.read_to_end(&mut answer).ok()?;
    tls.write_all(&answer).ok()?;
    tls.conn.send_close_notify();
    tls.flush().ok()
}

// ---- The tests ----------------------------------------------------------------------------------

/// Starts a cache with `registry.test` at `front` and additional `keys` in the configuration.
fn cache(front: SocketAddr, keys: &str) -> Server {
    Server::bare()
        .config(format!(
            "registries:\n  - {{name: registry.test, url: \"https://{front}\", {keys}}}\n"
        ))
        .env("LOG_LEVEL", "debug")
        .start()
}

fn get(cache: &Server, digest: &str) -> Response {
    cache.client().get(&format!("/v2/registry.test/a/blobs/{digest}"))
}

fn refused(got: &Response, reason: &str) {
    let text = String::from_utf8_lossy(&got.body).to_lowercase();
    assert_eq!(got.status, 502, "{got}");
    assert!(text.contains("tls") && text.contains(reason), "{reason}: {text}");
}

#[test]
fn a_registry_s_own_authority_is_trusted_and_no_other() {
    let (upstream, dir) = (Registry::new(), TempDir::new());
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (ca, other) = (
        file(&dir, "ca.pem", &ours.pem),
        file(&dir, "other.pem", &theirs.pem),
    );
    let trusting = format!("tls: {{ca: \"{}\"}}", ca.display());
    let good = ours.issue("127.0.0.1", |_| {});
    let front = Front::new(upstream.addr(), &good, None);

    let digest = upstream.blob("good");
    get(&cache(front.addr, &trusting), &digest).expect(b"good");
    assert_eq!(front.served(), 1);
    // Neither the system's authorities nor another authority accept the certificate.
    refused(&get(&cache(front.addr, "realm_hosts: []"), &digest), "issuer");
    let wrong = format!("tls: {{ca: \"{}\"}}", other.display());
    refused(&get(&cache(front.addr, &wrong), &digest), "cert");
    assert_eq!(front.served(), 1);

    let expired = ours.issue("127.0.0.1", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let elsewhere = ours.issue("127.0.0.2", |_| {});
    for (issued, reason) in [(&expired, "expired"), (&elsewhere, "name")] {
        let front = Front::new(upstream.addr(), issued, None);
        refused(&get(&cache(front.addr, &trusting), &digest), reason);
        assert_eq!(front.served(), 0);
        // With `insecure_skip_verify`, any certificate is accepted.
        get(&cache(front.addr, "tls: {insecure_skip_verify: true}"), &digest).expect(b"good");
    }
}

#[test]
fn a_client_certificate_is_shown_to_the_registry_that_asks_for_one() {
    let (upstream, dir) = (Registry::new(), TempDir::new());
    let (ours, clients, others) = (Authority::new(), Authority::new(), Authority::new());
    let front = Front::new(upstream.addr(), &ours.issue("127.0.0.1", |_| {}), Some(&clients));
    let ca = file(&dir, "ca.pem", &ours.pem);
    let keys = |name: &str, issued: &Issued| {
        let cert = file(&dir, &format!("{name}.pem"), &issued.chain);
        let key = file(&dir, &format!("{name}.key"), &issued.key);
        format!(
            "tls: {{ca: \"{}\", cert: \"{}\", key: \"{}\"}}",
            ca.display(),
            cert.display(),
            key.display()
        )
    };
    let (good, wrong) = (clients.issue("cache", |_| {}), others.issue("cache", |_| {}));
    let digest = upstream.blob("content behind a client certificate");
    get(&cache(front.addr, &keys("good", &good)), &digest).expect(b"content behind a client certificate");
    assert_eq!(front.served(), 1);
    for keys in [
        keys("wrong", &wrong),
        format!("tls: {{ca: \"{}\"}}", ca.display()),
    ] {
        let got = get(&cache(front.addr, &keys), &digest);
        assert_eq!(got.status, 502, "{got}");
    }
    assert_eq!((front.served(), upstream.gets(&digest)), (1, 1));
}

#[test]
fn client_certificate_is_sent_only_to_its_registry() {
    let (upstream, cdn, dir) = (Registry::new(), Registry::new(), TempDir::new());
    let (ours, clients) = (Authority::new(), Authority::new());
    let issued = ours.issue("127.0.0.1", |_| {});
    let front = Front::new(upstream.addr(), &issued, Some(&clients));
    // The server also requests a certificate and would accept that of the cache.
    let requesting = Front::new(cdn.addr(), &issued, Some(&clients));
    let own = clients.issue("cache", |_| {});
    let keys = format!(
        "tls: {{ca: \"{}\", cert: \"{}\", key: \"{}\"}}",
        file(&dir, "ca.pem", &ours.pem).display(),
        file(&dir, "own.pem", &own.chain).display(),
        file(&dir, "own.key", &own.key).display()
    );
    let digest = upstream.blob("elsewhere");
    cdn.blob("elsewhere");
    upstream.on(
        On::path(&digest),
        Reply::redirect(307, format!("https://{}/cdn/{digest}", requesting.addr)),
    );
    let got = get(&cache(front.addr, &keys), &digest);
    assert_eq!(got.status, 502, "{got}");
    assert_eq!((requesting.served(), cdn.requests()), (0, 0));
    // A host that requests no certificate works with the registry's authority.
    let plain = Front::new(cdn.addr(), &issued, None);
    upstream.clear_rules();
    upstream.on(
        On::path(&digest),
        Reply::redirect(307, format!("https://{}/cdn/{digest}", plain.addr)),
    );
    get(&cache(front.addr, &keys), &digest).expect(b"elsewhere");
}

#[test]
fn redirects_and_realms_from_https_to_http_are_rejected() {
    let (upstream, dir) = (Registry::new(), TempDir::new());
    let ours = Authority::new();
    let front = Front::new(upstream.addr(), &ours.issue("127.0.0.1", |_| {}), None);
    let http_only = Registry::new();
    let keys = format!(
        "auth: {{username: canary, password: c4n4ry}}, realm_hosts: [\"{}\"], tls: {{ca: \"{}\"}}",
        http_only.addr(),
        file(&dir, "ca.pem", &ours.pem).display()
    );
    let digest = upstream.blob("x");
    for reply in [
        Reply::redirect(307, format!("http://{}/cdn/{digest}", http_only.addr())),
        Reply::redirect(302, format!("http://{}/v2/a/blobs/{digest}", upstream.addr())),
        Reply::status(401).set(
            "WWW-Authenticate",
            format!("Bearer realm=\"http://{}/token\"", http_only.addr()),
        ),
    ] {
        upstream.clear_rules();
        upstream.on(On::path(&digest), reply);
        let got = get(&cache(front.addr, &keys), &digest);
        assert_eq!(got.status, 502, "{got}");
    }
    assert_eq!(http_only.requests(), 0);
    assert_eq!(upstream.requests(), 3);
}

#[test]
fn a_token_service_at_the_registry_s_own_host_is_asked_over_tls() {
    let (upstream, dir) = (Registry::new(), TempDir::new());
    let ours = Authority::new();
    let front = Front::new(upstream.addr(), &ours.issue("127.0.0.1", |_| {}), None);
    upstream.user("robot", "c4n4ry");
    let digest = upstream.blob("content");
    let ca = file(&dir, "ca.pem", &ours.pem);
    for login in ["auth: {username: robot, password: c4n4ry}, ", ""] {
        // The registry does not know about the TLS proxy in front. The realm has the port of the
        // proxy, no port, or port 80.
        for realm in [
            format!("http://{}/token", front.addr),
            "http://127.0.0.1/token".to_owned(),
            "http://127.0.0.1:80/token".to_owned(),
        ] {
            upstream.require_tokens(Auth {
                realm: Some(realm),
                ..Auth::default()
            });
            upstream.clear_log();
            let keys = format!("{login}tls: {{ca: \"{}\"}}", ca.display());
            let served = front.served();
            get(&cache(front.addr, &keys), &digest).expect(b"content");
            // Every request to the registry came over TLS.
            assert_eq!(front.served() - served, upstream.requests());
            assert_eq!(upstream.count(|seen| seen.kind == Kind::Token), 1);
        }
    }
    // For a redirect of the registry to itself over plain HTTP, the cache uses HTTPS too.
    upstream.require_tokens(Auth::basic());
    upstream.on(
        On::path(&digest).once(),
        Reply::redirect(307, format!("http://{}/cdn/{digest}", front.addr)),
    );
    let keys = format!("tls: {{ca: \"{}\"}}", ca.display());
    get(&cache(front.addr, &keys), &digest).expect(b"content");
}

#[test]
fn a_self_made_certificate_that_is_an_authority_may_be_named_itself() {
    let (upstream, dir) = (Registry::new(), TempDir::new());
    let digest = upstream.blob("content");
    let good = self_made("127.0.0.1", |_| {});
    let expired = self_made("127.0.0.1", |params| {
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2021, 1, 1);
    });
    let elsewhere = self_made("127.0.0.2", |_| {});
    let keys = |issued: &Issued| {
        let path = file(&dir, "named.pem", &issued.chain);
        format!("tls: {{ca: \"{}\"}}", path.display())
    };
    let front = Front::new(upstream.addr(), &good, None);
    get(&cache(front.addr, &keys(&good)), &digest).expect(b"content");
    for (issued, reason) in [(&expired, "expired"), (&elsewhere, "name")] {
        let front = Front::new(upstream.addr(), issued, None);
        refused(&get(&cache(front.addr, &keys(issued)), &digest), reason);
        assert_eq!(front.served(), 0);
    }
    // Another certificate with an equal name is not trusted. A self-signed certificate without a
    // configured `tls.ca` is not trusted either.
    let other = self_made("127.0.0.1", |_| {});
    refused(&get(&cache(front.addr, &keys(&other)), &digest), "tls.ca");
    refused(&get(&cache(front.addr, "realm_hosts: []"), &digest), "tls.ca");
}

#[test]
fn plain_http_where_tls_is_expected_is_an_error_and_so_is_the_reverse() {
    let upstream = Registry::new();
    let digest = upstream.blob("x");
    let got = get(&cache(upstream.addr(), "realm_hosts: []"), &digest);
    // The fake registry waits for the end of a request head, which never arrives.
    assert!(matches!(got.status, 502 | 504), "{got}");
    assert_eq!(upstream.gets(&digest), 0, "a second connection in plain HTTP");

    let front = Front::new(
        upstream.addr(),
        &Authority::new().issue("127.0.0.1", |_| {}),
        None,
    );
    let yaml = format!(
        "registries:\n  - {{name: registry.test, url: \"http://{}\"}}\n",
        front.addr
    );
    let cache = Server::bare().config(yaml).start();
    assert_eq!(get(&cache, &digest).status, 502);
    assert_eq!(front.served(), 0);
}
