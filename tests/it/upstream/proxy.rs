//! Real proxies between the cache and its registries. The logs of the proxies show the forwarded
//! connections.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::harness::server::TempDir;
use crate::harness::*;

// ---- Programs -----------------------------------------------------------------------------------

/// A proxy process for one test.
struct Proxy {
    addr: SocketAddr,
    child: Child,
    dir: TempDir,
}

impl Proxy {
    /// Starts `program` with a configuration for a directory and a port. If the program is missing,
    /// prints `SKIPPED` and returns `None`. With `CHECK_STRICT=1`, a missing program is an error.
    fn start(
        program: &str,
        arguments: &[&str],
        configuration: impl Fn(&Path, u16) -> String,
    ) -> Option<Self> {
        let Some(program) = find(program) else {
            let strict = std::env::var("CHECK_STRICT").is_ok_and(|strict| strict == "1");
            assert!(
                !strict,
                "{program} is not installed, and CHECK_STRICT=1 permits no skipped test"
            );
            eprintln!("SKIPPED: {program} is not installed");
            return None;
        };
        for _ in 0..10 {
            let dir = TempDir::new();
            // The programs drop their privileges before they write to the directory.
            std::fs::set_permissions(&dir.path, std::fs::Permissions::from_mode(0o777)).unwrap();
            // Another process may bind the port first. The proxy then exits, and the loop tries
            // another port.
            let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let file = dir.path.join("proxy.conf");
            std::fs::write(&file, configuration(&dir.path, addr.port())).unwrap();
            let mut child = Command::new(&program)
                .args(arguments)
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("the proxy program starts");
            let mut up = false;
            eventually("the proxy listens or exits", || {
                up = TcpStream::connect(addr).is_ok();
                up || !matches!(child.try_wait(), Ok(None))
            });
            let proxy = Proxy { addr, child, dir };
            if up {
                return Some(proxy);
            }
        }
        panic!("{} has no listener", program.display());
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path.join(name)).unwrap_or_default()
    }

    #[track_caller]
    fn wait_log(&self, name: &str, fragment: &str) {
        eventually(&format!("the log of the proxy contains {fragment}"), || {
            self.log(name).contains(fragment)
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin"])
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
}

fn tinyproxy(extra: &str) -> Option<Proxy> {
    Proxy::start("tinyproxy", &["-d", "-c"], |dir, port| {
        format!(
            "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 50\nAllow 127.0.0.1\nLogLevel Connect\nLogFile \"{}/log\"\n{extra}\n",
            dir.display()
        )
    })
}

fn danted() -> Option<Proxy> {
    Proxy::start("danted", &["-f"], |dir, port| {
        format!(
            "logoutput: {}/log\ninternal: 127.0.0.1 port = {port}\nexternal: 127.0.0.1\nclientmethod: none\nsocksmethod: none\n\
             client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 log: connect error }}\n\
             socks pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 log: connect error }}\n",
            dir.display()
        )
    })
}

fn squid() -> Option<Proxy> {
    Proxy::start("squid", &["-N", "-f"], |dir, port| {
        let dir = dir.display();
        format!(
            "http_port 127.0.0.1:{port}\npid_filename {dir}/pid\naccess_log stdio:{dir}/log\ncache_log {dir}/cache.log\n\
             cache deny all\ncoredump_dir {dir}\nshutdown_lifetime 0 seconds\npinger_enable off\n\
             acl all_ports port 1-65535\nhttp_access allow all_ports\n"
        )
    })
}

// ---- A registry with separate token service and blob store --------------------------------------

/// A registry, its token service and its blob store, each on a separate port.
struct Scattered {
    registry: Registry,
    tokens: SocketAddr,
    store: SocketAddr,
}

impl Scattered {
    fn new() -> Self {
        let registry = Registry::new();
        let tokens = registry.add_listener();
        let store = registry.add_listener();
        registry.require_tokens(Auth {
            realm: Some(format!("http://{tokens}/token")),
            ..Auth::default()
        });
        Scattered {
            registry,
            tokens,
            store,
        }
    }

    /// Adds a blob that exists in the store only.
    fn blob(&self, content: &PseudoRandom) -> String {
        let digest = self.registry.blob(content.clone());
        let elsewhere = Reply::redirect(307, format!("http://{}/cdn/{digest}", self.store));
        // The first request receives the challenge.
        self.registry
            .on(On::path(&digest).and_kind(Kind::Blob).after(1), elsewhere);
        digest
    }

    fn cache(&self, url: &str, keys: &str) -> Server {
        let yaml = format!("registries:\n  - {{name: r.test, url: \"{url}\", {keys}}}\n");
        Server::bare().config(yaml).env("LOG_LEVEL", "trace").start()
    }

    fn ports(&self) -> [u16; 3] {
        [self.registry.addr().port(), self.tokens.port(), self.store.port()]
    }
}

fn pull(cache: &Server, digest: &str, content: &PseudoRandom) {
    cache
        .client()
        .pull(&format!("/v2/r.test/a/blobs/{digest}"), content);
}

#[test]
fn registry_token_service_and_redirects_are_reached_through_tinyproxy() {
    let Some(proxy) = tinyproxy("BasicAuth user p4ssw0rd") else {
        return;
    };
    let upstream = Scattered::new();
    let content = PseudoRandom::new(fresh_seed(), 300_000);
    let digest = upstream.blob(&content);
    let keys = format!("upstream_proxy: \"http://user:p4ssw0rd@{}\"", proxy.addr);
    let cache = upstream.cache(&format!("http://{}", upstream.registry.addr()), &keys);
    pull(&cache, &digest, &content);
    for port in upstream.ports() {
        proxy.wait_log("log", &format!("127.0.0.1:{port}"));
    }
    assert!(upstream.registry.saw("p4ssw0rd").is_empty());
    assert!(
        upstream
            .registry
            .log()
            .iter()
            .all(|seen| seen.field("proxy-authorization").is_none())
    );
    assert!(!cache.stderr().contains("p4ssw0rd"));
}

#[test]
fn registry_token_service_and_redirects_are_reached_through_squid() {
    let Some(proxy) = squid() else { return };
    let upstream = Scattered::new();
    let content = PseudoRandom::new(fresh_seed(), 300_000);
    let digest = upstream.blob(&content);
    let keys = format!("upstream_proxy: \"http://{}\"", proxy.addr);
    let cache = upstream.cache(&format!("http://{}", upstream.registry.addr()), &keys);
    pull(&cache, &digest, &content);
    for port in upstream.ports() {
        proxy.wait_log("log", &format!("127.0.0.1:{port}/"));
    }
}

#[test]
fn registry_token_service_and_redirects_are_reached_through_dante() {
    for scheme in ["socks5", "socks5h"] {
        let Some(proxy) = danted() else { return };
        let upstream = Scattered::new();
        let content = PseudoRandom::new(fresh_seed(), 300_000);
        let digest = upstream.blob(&content);
        let keys = format!("upstream_proxy: \"{scheme}://{}\"", proxy.addr);
        // A host name, so that name resolution is necessary.
        let cache = upstream.cache(
            &format!("http://localhost:{}", upstream.registry.addr().port()),
            &keys,
        );
        pull(&cache, &digest, &content);
        for port in upstream.ports() {
            proxy.wait_log("log", &format!(".{port}"));
        }
    }
}

/// Starts a SOCKS5 proxy (RFC 1928, 1929) that logs logins and targets, and accepts only the
/// correct password.
fn socks_with_password(user: &'static str, password: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let log = Arc::<Mutex<Vec<String>>>::default();
    let noted = log.clone();
    // The thread holds only a port and ends with the process.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let noted = noted.clone();
            std::thread::spawn(move || serve_socks(stream, user, password, &noted));
        }
    });
    (addr, log)
}

fn serve_socks(mut stream: TcpStream, user: &str, password: &str, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut take = |n: usize| {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let methods = take(2)?;
    take(methods[1].into())?;
    stream.write_all(&[5, 2]).ok()?;
    let mut take = |n: usize| {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let length = take(2)?[1];
    let name = String::from_utf8(take(length.into())?).ok()?;
    let length = take(1)?[0];
    let word = String::from_utf8(take(length.into())?).ok()?;
    log.lock().unwrap().push(format!("{name}:{word}"));
    let right = name == user && word == password;
    stream.write_all(&[1, u8::from(!right)]).ok()?;
    if !right {
        return None;
    }
    let mut take = |n: usize| {
        let mut bytes = vec![0; n];
        stream.read_exact(&mut bytes).ok().map(|()| bytes)
    };
    let host = match take(4)?[3] {
        1 => {
            let address: [u8; 4] = take(4)?.try_into().ok()?;
            std::net::Ipv4Addr::from(address).to_string()
        }
        3 => {
            let length = take(1)?[0];
            String::from_utf8(take(length.into())?).ok()?
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(take(2)?.try_into().ok()?);
    log.lock().unwrap().push(format!("to {host}"));
    let to = SocketAddr::from(([127, 0, 0, 1], port));
    let mut there = TcpStream::connect(to).ok()?;
    stream.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    let (mut from, mut into) = (stream.try_clone().ok()?, there.try_clone().ok()?);
    std::thread::spawn(move || std::io::copy(&mut from, &mut into));
    std::io::copy(&mut there, &mut stream).ok()?;
    let _ = stream.shutdown(std::net::Shutdown::Both);
    Some(())
}

#[test]
fn a_socks_proxy_gets_its_password_and_a_wrong_one_is_an_error() {
    // In a URL, `us@er` and `p:w/d` are percent-encoded.
    let (addr, log) = socks_with_password("us@er", "p:w/d");
    let upstream = Scattered::new();
    let content = PseudoRandom::new(fresh_seed(), 10_000);
    let digest = upstream.blob(&content);
    let url = format!("http://{}", upstream.registry.addr());
    let right = upstream.cache(
        &url,
        &format!("upstream_proxy: \"socks5://us%40er:p%3Aw%2Fd@{addr}\""),
    );
    pull(&right, &digest, &content);
    let told = || std::mem::take(&mut *log.lock().unwrap());
    let known = ["us@er:p:w/d", "to 127.0.0.1"];
    assert!(told().iter().all(|line| known.contains(&line.as_str())));
    // `socks5` sends addresses, `socks5h` sends names.
    for (scheme, expected) in [("socks5", "to 127.0.0.1"), ("socks5h", "to localhost")] {
        let url = format!("http://localhost:{}", upstream.registry.addr().port());
        let keys = format!("upstream_proxy: \"{scheme}://us%40er:p%3Aw%2Fd@{addr}\"");
        let content = PseudoRandom::new(fresh_seed(), 10_000);
        let digest = upstream.blob(&content);
        pull(&upstream.cache(&url, &keys), &digest, &content);
        let told = told();
        assert!(told.iter().any(|line| line == expected), "{scheme}: {told:?}");
        assert_eq!(
            told.iter().any(|line| line == "to localhost"),
            scheme == "socks5h",
            "{told:?}"
        );
    }

    let before = upstream.registry.requests();
    let wrong = upstream.cache(
        &url,
        &format!("upstream_proxy: \"socks5://us%40er:wr0ng@{addr}\""),
    );
    fails_by(&wrong, &digest, addr, "wr0ng");
    assert_eq!(upstream.registry.requests(), before);
}

/// Fails unless a pull through a broken proxy returns 502 with the address of the proxy and without
/// its password.
#[track_caller]
fn fails_by(cache: &Server, digest: &str, proxy: SocketAddr, password: &str) {
    let got = cache.client().get(&format!("/v2/r.test/a/blobs/{digest}"));
    let text = String::from_utf8_lossy(&got.body).into_owned();
    assert_eq!(got.status, 502, "{got}");
    assert!(
        text.contains(&proxy.to_string()) && text.contains("proxy"),
        "{text}"
    );
    assert!(
        !text.contains(password) && !cache.stderr().contains(password),
        "{text}"
    );
}

#[test]
fn a_proxy_that_fails_is_an_error_and_never_passed_by() {
    let upstream = Registry::new();
    let digest = upstream.blob("x");
    let scattered = Scattered::new();
    let no_proxy = Port::new();
    let closed = no_proxy.addr();
    for scheme in ["http", "https", "socks5", "socks5h"] {
        for target in ["http", "https"] {
            let url = format!("{target}://{}", upstream.addr());
            let keys = format!("upstream_proxy: \"{scheme}://u:s3cr3t@{closed}\"");
            fails_by(&scattered.cache(&url, &keys), &digest, closed, "s3cr3t");
        }
    }
    // A proxy that rejects the credentials, for a tunnel and in a response.
    if let Some(proxy) = tinyproxy("BasicAuth user p4ssw0rd") {
        let keys = format!("upstream_proxy: \"http://user:wr0ng@{}\"", proxy.addr);
        let cache = scattered.cache(&format!("https://{}", upstream.addr()), &keys);
        fails_by(&cache, &digest, proxy.addr, "wr0ng");
    }
    let proxy = Registry::new();
    proxy.on(
        On::any(),
        Reply::status(407).set("Proxy-Authenticate", "Basic realm=\"p\""),
    );
    let keys = format!("upstream_proxy: \"http://user:wr0ng@{}\"", proxy.addr());
    let cache = scattered.cache(&format!("http://{}", upstream.addr()), &keys);
    fails_by(&cache, &digest, proxy.addr(), "wr0ng");
    assert_eq!(upstream.requests(), 0);
}

#[test]
fn the_environment_s_proxy_is_used_where_it_says_and_nowhere_else() {
    let Some(proxy) = tinyproxy("") else { return };
    let upstream = Registry::new();
    let port = upstream.addr().port();
    let yaml = format!(
        "registries:\n  - {{name: a.test, url: \"http://127.0.0.1:{port}\"}}\n  - {{name: b.test, url: \"http://localhost:{port}\"}}\n  \
         - {{name: c.test, url: \"http://127.0.0.1:{port}\", upstream_proxy: none}}\n"
    );
    let cache = Server::bare()
        .config(yaml)
        .env("HTTP_PROXY", format!("http://{}", proxy.addr))
        .env("NO_PROXY", format!("localhost:{port},10.0.0.0/8"))
        .start();
    let connections = || proxy.log("log").matches("Established connection to host").count();
    for (name, through) in [("a.test", true), ("b.test", false), ("c.test", false)] {
        let before = connections();
        let digest = upstream.blob(format!("of {name}"));
        let got = cache.client().get(&format!("/v2/{name}/a/blobs/{digest}"));
        got.expect(format!("of {name}").as_bytes());
        let seen = upstream
            .log()
            .into_iter()
            .find(|seen| seen.target.contains(&digest))
            .unwrap();
        // The `Via` field contains Tinyproxy, in addition to the cache.
        let marked = seen.fields.iter().any(|(name, value)| {
            name.eq_ignore_ascii_case("via") && String::from_utf8_lossy(value).contains("tinyproxy")
        });
        assert_eq!(marked, through, "{name}: {seen:?}");
        if through {
            eventually("the log of the proxy has the connection", || {
                connections() > before
            });
        } else {
            assert_eq!(connections(), before, "{name}");
        }
    }
}
