//! Secrets reach only their origin and its token service, for every challenge, redirect and mirror
//! of a registry.
//!
//! A proxy simulates all hosts and sees every request with its original host name. Therefore the
//! test detects a canary at a wrong host, port or scheme, even without a listener.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::harness::content::sha256;
use crate::harness::server::TempDir;
use crate::harness::*;

/// The password of `canary`. `PASSWORD_ENCODED` is the login `canary:c4n4ry-p4ssw0rd` in Base64.
const PASSWORD: &str = "c4n4ry-p4ssw0rd";
const PASSWORD_ENCODED: &str = "Y2FuYXJ5OmM0bjRyeS1wNHNzdzByZA==";
const IDENTITY: &str = "c4n4ry-1d3nt1ty";
/// The login `:c4n4ry-1d3nt1ty` in Base64, the form for a token service without POST.
const IDENTITY_ENCODED: &str = "OmM0bjRyeS0xZDNudDF0eQ==";
const TOKEN: &str = "c4n4ry-t0k3n";
/// The login `client:c4n4ry-cl13nt`.
const CLIENT: &str = "Basic Y2xpZW50OmM0bjRyeS1jbDEzbnQ=";
const CLIENT_ENCODED: &str = "Y2xpZW50OmM0bjRyeS1jbDEzbnQ=";
/// The login `proxy:c4n4ry-pr0xy` in Base64.
const PROXY_ENCODED: &str = "cHJveHk6YzRuNHJ5LXByMHh5";

const CANARIES: [&str; 8] = [
    PASSWORD,
    PASSWORD_ENCODED,
    IDENTITY,
    IDENTITY_ENCODED,
    TOKEN,
    CLIENT_ENCODED,
    PROXY_ENCODED,
    "c4n4ry",
];

// ---- Simulated hosts ----------------------------------------------------------------------------

/// A request as received by the proxy.
#[derive(Clone, Debug)]
struct Asked {
    method: String,
    /// The target as `host:port`.
    authority: String,
    path: String,
    /// The complete request without `Proxy-Authorization`, with lower-case field names.
    text: String,
    proxy_authorization: Option<String>,
}

impl Asked {
    fn authorization(&self) -> Option<&str> {
        self.text
            .lines()
            .find_map(|line| line.strip_prefix("authorization: "))
    }
}

/// A proxy that simulates every host.
struct Fixture {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Asked>>>,
}

impl Fixture {
    fn new(answer: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind a loopback port");
        let addr = listener.local_addr().expect("bound");
        let seen = Arc::<Mutex<Vec<Asked>>>::default();
        let (log, answer) = (seen.clone(), Arc::new(answer));
        // The thread holds only a port and ends with the process, because no event marks the end of
        // the test.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, answer) = (log.clone(), answer.clone());
                std::thread::spawn(move || {
                    if let Some((asked, mut stream)) = receive(stream) {
                        log.lock().unwrap().push(asked.clone());
                        let _ = stream.write_all(answer(&asked).as_bytes());
                    }
                });
            }
        });
        Fixture { addr, seen }
    }

    fn seen(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().clone()
    }
}

fn receive(mut stream: TcpStream) -> Option<(Asked, TcpStream)> {
    let mut bytes = Vec::new();
    let (head, length, end) = loop {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&piece[..n]);
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let length = head.lines().find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")
                    .map(str::to_owned)
            });
            break (head, length.map_or(0, |l| l.parse::<usize>().unwrap()), end + 4);
        }
    };
    while bytes.len() < end + length {
        let mut piece = [0; 4096];
        let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&piece[..n]);
    }
    let body = String::from_utf8_lossy(&bytes[end..]).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (authority, path) = match target.strip_prefix("http://") {
        Some(rest) => match rest.split_once('/') {
            Some((authority, path)) => (authority.to_owned(), format!("/{path}")),
            None => (rest.to_owned(), "/".to_owned()),
        },
        None => (target.clone(), String::new()),
    };
    let authority = if authority.contains(':') {
        authority
    } else {
        format!("{authority}:80")
    };
    let mut text = format!("{target}\n");
    let mut proxy_authorization = None;
    for line in lines {
        let (name, value) = line.split_once(": ")?;
        match name.to_lowercase().as_str() {
            "proxy-authorization" => proxy_authorization = Some(value.to_owned()),
            name => text.push_str(&format!("{name}: {value}\n")),
        }
    }
    text.push_str(&body);
    let asked = Asked {
        method,
        authority,
        path,
        text,
        proxy_authorization,
    };
    Some((asked, stream))
}

fn reply(status: u16, fields: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n{fields}\r\n{body}",
        body.len()
    )
}

// ---- The matrix ---------------------------------------------------------------------------------

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Means {
    Basic,
    Bearer,
    Identity,
    Client,
}

const KINDS: [Means; 4] = [Means::Basic, Means::Bearer, Means::Identity, Means::Client];

/// A simulated registry, `registry.c<number>.test`, and its behavior.
struct Cell {
    kind: Means,
    /// Scheme and authority of the token service.
    realm: String,
    /// Whether the token service may receive the credentials.
    trusted: bool,
    /// The targets of the successive redirects of an authorized request.
    chain: Vec<String>,
    mirrored: bool,
    listed: bool,
}

impl Cell {
    fn host(number: usize) -> String {
        format!("registry.c{number}.test")
    }

    fn content(number: usize) -> String {
        format!("content of cell {number}")
    }
}

/// Returns all cells. `@` in the literals stands for the number of the cell.
fn cells() -> Vec<Cell> {
    let own = "http://registry.c@.test";
    let mut cells = Vec::new();
    let mut add = |kind, realm: &str, trusted, chain: &[&str], mirrored, listed| {
        let number = cells.len().to_string();
        let fill = |text: &str| text.replace('@', &number);
        cells.push(Cell {
            kind,
            realm: fill(realm),
            trusted,
            chain: chain.iter().map(|hop| fill(hop)).collect(),
            mirrored,
            listed,
        });
    };
    for kind in KINDS {
        for (realm, trusted) in [
            (own, true),
            ("http://auth.c@.test", true),
            ("http://c@.test", true),
            ("http://registry.c@.test:5001", true),
            ("http://evil.test", false),
            ("http://c@.test.evil.test", false),
            ("http://evilc@.test", false),
            ("http://registry.c@.example", false),
            ("https://evil.test", false),
            ("http://127.0.0.1", false),
            ("http://127.0.0.2:8080", false),
            ("http://localhost", false),
            ("http://[::1]", false),
            ("http://10.0.0.1", false),
            ("http://0x7f.1", false),
        ] {
            add(kind, realm, trusted, &[], false, false);
        }
        add(kind, "http://elsewhere.test:5001", true, &[], false, true);
        for chain in [
            &["http://cdn.test"][..],
            &["http://registry.c@.test:5001"],
            &["http://sub.registry.c@.test"],
            &["http://c@.test"],
            &["http://127.0.0.1"],
            &["http://registry.c@.test", "http://cdn.test"],
            &["http://cdn.test", own],
            &["http://cdn.test", own, "http://cdn.test"],
            &[own, "http://cdn.test", own],
            &["http://registry.c@.test:5001", own, "http://other.test", own],
            &[
                "http://a.test",
                "http://b.test",
                "http://a.test",
                own,
                "http://b.test",
            ],
            &[own, own, "http://a.test", own, own],
        ] {
            add(kind, own, true, chain, false, false);
        }
        add(kind, own, true, &[], true, false);
        add(kind, own, true, &["http://cdn.test", own], true, false);
    }
    cells
}

/// Returns the response of the simulated hosts.
fn answer(cells: &[Cell], asked: &Asked) -> String {
    if asked.method == "CONNECT" {
        return reply(502, "", "");
    }
    let (first, rest) = asked.path[1..].split_once('/').unwrap_or((&asked.path[1..], ""));
    let hop = |number: usize, at: usize| {
        let cell = &cells[number];
        match cell.chain.get(at) {
            Some(next) => reply(307, &format!("Location: {next}/hop/{number}/{}\r\n", at + 1), ""),
            None => reply(200, "", &Cell::content(number)),
        }
    };
    match first {
        "token" => reply(200, "", &format!("{{\"token\":\"{TOKEN}\",\"expires_in\":300}}")),
        "hop" => {
            let (number, at) = rest.split_once('/').unwrap();
            hop(number.parse().unwrap(), at.parse().unwrap())
        }
        "v2" if asked.authority.starts_with("registry.c") => {
            let number = asked.authority["registry.c".len()..]
                .split('.')
                .next()
                .unwrap()
                .parse()
                .unwrap();
            let cell: &Cell = &cells[number];
            let bearer = format!("Bearer {TOKEN}");
            let wanted = match cell.kind {
                Means::Basic => format!("Basic {PASSWORD_ENCODED}"),
                Means::Client => CLIENT.to_owned(),
                Means::Bearer | Means::Identity => bearer,
            };
            match asked.authorization() {
                Some(secret) if secret == wanted => hop(number, 0),
                _ => {
                    let scheme = if cell.kind == Means::Basic {
                        "Basic"
                    } else {
                        "Bearer"
                    };
                    let challenge = format!("{scheme} realm=\"{}/token/{number}\",service=\"s\"", cell.realm);
                    reply(401, &format!("WWW-Authenticate: {challenge}\r\n"), "{}")
                }
            }
        }
        // A mirror that requests credentials.
        "v2" => reply(401, "WWW-Authenticate: Basic realm=\"mirror\"\r\n", ""),
        _ => reply(404, "", ""),
    }
}

fn configuration(cells: &[Cell], fixture: SocketAddr) -> String {
    let mut yaml =
        format!("defaults:\n  upstream_proxy: \"http://proxy:c4n4ry-pr0xy@{fixture}\"\nregistries:\n");
    for (number, cell) in cells.iter().enumerate() {
        let host = Cell::host(number);
        yaml.push_str(&format!("  - name: {host}\n    url: http://{host}\n"));
        match cell.kind {
            Means::Basic | Means::Bearer => {
                yaml.push_str(&format!("    auth: {{username: canary, password: {PASSWORD}}}\n"));
            }
            Means::Identity => yaml.push_str(&format!("    auth: {{identity_token: {IDENTITY}}}\n")),
            Means::Client => {}
        }
        if cell.mirrored {
            yaml.push_str("    mirrors: [\"http://mirror.test\", \"http://sub.registry.test\"]\n");
        }
        if cell.listed {
            yaml.push_str("    realm_hosts: [\"elsewhere.test:5001\"]\n");
        }
    }
    yaml
}

/// Returns the misplaced secrets in the requests for cell `number`.
fn misplaced(cell: &Cell, number: usize, seen: &[&Asked]) -> Vec<String> {
    let own = format!("{}:80", Cell::host(number));
    let realm_authority = cell.realm.split_once("://").unwrap().1;
    let realm_authority = match realm_authority.contains(':') {
        true => realm_authority.to_owned(),
        false => format!("{realm_authority}:80"),
    };
    // All hops before the first redirect to another host may receive the registry's secrets.
    let near = cell
        .chain
        .iter()
        .take_while(|hop| **hop == format!("http://{}", Cell::host(number)))
        .count();
    let mut wrong = Vec::new();
    for asked in seen {
        let at_registry = asked.authority == own && {
            let hop = asked.path.strip_prefix(&format!("/hop/{number}/"));
            asked.path.starts_with("/v2/") || hop.is_some_and(|at| at.parse::<usize>().unwrap() <= near)
        };
        let at_realm =
            cell.trusted && asked.authority == realm_authority && asked.path.starts_with("/token/");
        let mut forbid = |what: &str, allowed: bool| {
            if asked.text.contains(what) && !allowed {
                wrong.push(format!("cell {number} ({:?}): {what} in {asked:?}", cell.kind));
            }
        };
        let kind = cell.kind;
        forbid(PASSWORD, false);
        forbid(
            PASSWORD_ENCODED,
            (kind == Means::Basic && at_registry) || (kind == Means::Bearer && at_realm),
        );
        forbid(IDENTITY, kind == Means::Identity && at_realm);
        forbid(IDENTITY_ENCODED, false);
        forbid(TOKEN, at_registry);
        forbid(CLIENT_ENCODED, kind == Means::Client && at_registry);
        forbid(PROXY_ENCODED, false);
    }
    wrong
}

#[test]
fn secrets_reach_only_their_origin_and_its_token_service() {
    let all = Arc::new(cells());
    let of_world = all.clone();
    let fixture = Fixture::new(move |asked| answer(&of_world, asked));
    let cache = Server::bare()
        .cores(2)
        .config(configuration(&all, fixture.addr))
        .env("LOG_LEVEL", "trace")
        .start();
    for (number, cell) in all.iter().enumerate() {
        let digest = sha256(Cell::content(number).as_bytes());
        let path = format!("/v2/{}/a/blobs/{digest}", Cell::host(number));
        let fields: &[(&str, &str)] = match cell.kind {
            Means::Client => &[("Authorization", CLIENT)],
            _ => &[],
        };
        let before = fixture.seen().len();
        let got = cache.client().get_with(&path, fields);
        let head = cache.client().request("HEAD", &path, fields);
        // A Basic password needs no token service. A client's request is first sent anonymously, so
        // its token service must respond.
        let works = cell.trusted
            || cell.kind == Means::Basic
            || (cell.kind == Means::Client && !cell.realm.starts_with("https"));
        if works && cell.kind != Means::Client {
            got.expect(Cell::content(number).as_bytes());
        }
        if !works {
            assert_eq!(
                (got.status, head.status),
                (502, 502),
                "cell {number} {:?}: {got}",
                cell.realm
            );
            let text = String::from_utf8_lossy(&got.body).into_owned();
            // A token service with https receives an anonymous request, and the proxy rejects the
            // tunnel.
            let reason = if cell.realm.starts_with("https") {
                "proxy"
            } else {
                "realm_hosts"
            };
            assert!(text.contains(reason), "{text}");
        }
        let seen = fixture.seen();
        let seen: Vec<&Asked> = seen[before..].iter().collect();
        let wrong = misplaced(cell, number, &seen);
        assert!(wrong.is_empty(), "{wrong:#?}");
        // The canary must appear at the permitted places. Otherwise its absence elsewhere proves
        // nothing.
        if works {
            let own = format!("{}:80", Cell::host(number));
            let shown = seen
                .iter()
                .any(|asked| asked.authority == own && asked.authorization().is_some());
            assert!(
                shown,
                "cell {number} {:?}: no request has a secret: {seen:#?}",
                cell.kind
            );
        }
        for response in [got, head] {
            let text = format!(
                "{:?} {}",
                response.fields,
                String::from_utf8_lossy(&response.body)
            );
            for canary in CANARIES {
                assert!(
                    !text.contains(canary),
                    "cell {number}: the response contains {canary}: {text}"
                );
            }
        }
    }
    // The proxy receives only its own secret in `Proxy-Authorization`.
    let seen = fixture.seen();
    let expected = format!("Basic {PROXY_ENCODED}");
    assert!(
        seen.iter()
            .all(|asked| asked.proxy_authorization.as_deref() == Some(&*expected))
    );
    let mirrored = seen
        .iter()
        .filter(|asked| asked.authority.starts_with("mirror.test"))
        .count();
    assert!(mirrored > 0, "mirrors receive requests");
    let stderr = cache.stderr();
    for canary in CANARIES {
        assert!(!stderr.contains(canary), "the log contains {canary}");
        assert!(
            !disk::contains(cache.root(), canary),
            "the store contains {canary}"
        );
    }
}

// ---- Helpers and files --------------------------------------------------------------------------

/// Installs a credential helper that returns the content of `answer` and logs each call.
fn install_helper(dir: &Path, name: &str) {
    let program = dir.join(format!("docker-credential-{name}"));
    let script = format!(
        "#!/bin/sh\nserver=$(cat)\necho \"$1 $server\" >> '{0}/asked'\nexec cat '{0}/answer'\n",
        dir.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn helper_path(dir: &Path) -> String {
    format!("{}:{}", dir.display(), std::env::var("PATH").unwrap_or_default())
}

/// A registry that accepts the Basic credentials in `accepted`, and rejects others with the status
/// in `accepted`.
fn guarded(accepted: &Arc<Mutex<(String, u16)>>) -> Fixture {
    let accepted = accepted.clone();
    Fixture::new(move |asked| {
        let (wanted, refusal) = accepted.lock().unwrap().clone();
        match asked.authorization() {
            Some(secret) if secret == wanted => manifest(asked.path.rsplit('/').next().unwrap()),
            Some(_) => reply(
                refusal,
                "",
                "Your Authorization Token has expired. Please run 'aws ecr get-login'",
            ),
            None => reply(401, "WWW-Authenticate: Basic realm=\"r\"\r\n", ""),
        }
    })
}

fn manifest(name: &str) -> String {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let body = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{media_type}\",\"config\":{{}},\"layers\":[],\"annotations\":{{\"name\":\"{name}\"}}}}"
    );
    reply(200, &format!("Content-Type: {media_type}\r\n"), &body)
}

fn tag(cache: &Server, name: &str) -> Response {
    cache.client().get(&format!("/v2/r.test/a/manifests/{name}"))
}

#[test]
fn a_helper_is_asked_once_and_again_after_a_refusal() {
    let dir = TempDir::new();
    install_helper(&dir.path, "test");
    let answer = |secret: &str| {
        let json = format!(r#"{{"ServerURL":"r.test","Username":"AWS","Secret":"{secret}"}}"#);
        std::fs::write(dir.path.join("answer"), json).unwrap();
    };
    // The logins `AWS:one` and `AWS:two`.
    let accepted = Arc::new(Mutex::new(("Basic QVdTOm9uZQ==".to_owned(), 403)));
    let fixture = guarded(&accepted);
    let yaml = format!(
        "registries:\n  - name: r.test\n    url: http://r.test\n    upstream_proxy: \"http://{}\"\n    auth: {{helper: test}}\n",
        fixture.addr
    );
    let cache = Server::bare()
        .config(yaml)
        .env("PATH", helper_path(&dir.path))
        .env("LOG_LEVEL", "trace")
        .start();
    answer("one");
    for n in 0..3 {
        assert_eq!(tag(&cache, &format!("v{n}")).status, 200);
    }
    let asked = || std::fs::read_to_string(dir.path.join("asked")).unwrap();
    assert_eq!(asked(), "get r.test\n");
    // Expired passwords are reported with different statuses.
    for (status, secret, encoded, times) in [(403, "two", "QVdTOnR3bw==", 2), (401, "one", "QVdTOm9uZQ==", 3)]
    {
        *accepted.lock().unwrap() = (format!("Basic {encoded}"), status);
        answer(secret);
        // New credentials are not replaced again at once.
        eventually("the new credentials are sent", || {
            tag(&cache, &format!("after-{status}")).status == 200
        });
        assert_eq!(asked().lines().count(), times, "{status}");
    }
    // If new credentials are rejected too, the rejection is final and does not start the helper for
    // each request.
    *accepted.lock().unwrap() = ("Basic bm9ib2R5".to_owned(), 403);
    let refused = tag(&cache, "refused");
    assert!(matches!(refused.status, 401 | 403), "{refused}");
    assert!(asked().lines().count() <= 4);
    assert!(!cache.stderr().contains("QVdT"));
}

/// Starts a cache with registry `fixture` and the login from the helper in `dir`.
fn with_helper(fixture: &Fixture, dir: &TempDir) -> Server {
    let yaml = format!(
        "registries:\n  - name: r.test\n    url: http://r.test\n    upstream_proxy: \"http://{}\"\n    auth: {{helper: test}}\n",
        fixture.addr
    );
    Server::bare()
        .config(yaml)
        .env("PATH", helper_path(&dir.path))
        .start()
}

#[test]
fn failing_credential_helper_is_a_502_and_an_empty_result_is_anonymous() {
    let dir = TempDir::new();
    install_helper(&dir.path, "test");
    let accepted = Arc::new(Mutex::new(("Basic nothing".to_owned(), 403)));
    let fixture = guarded(&accepted);
    let cache = with_helper(&fixture, &dir);
    std::fs::write(dir.path.join("answer"), "S3CRET and no JSON").unwrap();
    let failed = tag(&cache, "v1");
    assert_eq!(failed.status, 502, "{failed}");
    let text = String::from_utf8_lossy(&failed.body).into_owned();
    assert!(
        text.contains("docker-credential-test") && !text.contains("S3CRET"),
        "{text}"
    );
    assert!(!cache.stderr().contains("S3CRET"));
    // A failure is cached for seconds only.
    std::fs::write(dir.path.join("answer"), "{}").unwrap();
    eventually("the credential helper is called again", || {
        matches!(tag(&cache, "v2").status, 401 | 403)
    });
    assert!(fixture.seen().iter().all(|asked| asked.authorization().is_none()));
}

#[test]
fn a_helper_begins_with_every_signal_as_by_default_and_blocks_none() {
    let dir = TempDir::new();
    let told = dir.path.join("signals");
    let program = dir.path.join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\ncat > /dev/null\ngrep ^Sig /proc/self/status > '{}'\n\
         echo '{{\"Username\":\"u\",\"Secret\":\"p\"}}'\n",
        told.display()
    );
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let fixture = guarded(&Arc::new(Mutex::new(("Basic dTpw".to_owned(), 403))));
    let cache = with_helper(&fixture, &dir);
    assert_eq!(tag(&cache, "v1").status, 200);
    // Higher bits are real-time signals, which belong to the C library.
    let set = |text: &str, name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap() & ((1 << 31) - 1)
    };
    let told = std::fs::read_to_string(told).unwrap();
    assert_eq!(set(&told, "SigBlk:"), 0, "{told}");
    // The helper inherits the ignored signals of the test process, except SIGPIPE, which Rust
    // ignores in its own process only.
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let inherited = set(&own, "SigIgn:") & !(1 << (13 - 1));
    assert_eq!(set(&told, "SigIgn:") & !inherited, 0, "{told}");
}

#[test]
fn a_docker_config_serves_each_repository_its_own() {
    let dir = TempDir::new();
    install_helper(&dir.path, "test");
    std::fs::write(dir.path.join("answer"), r#"{"Username":"helped","Secret":"p"}"#).unwrap();
    let file = dir.path.join("config.json");
    let json = r#"{
        "auths": {
            "r.test": {"username": "host", "password": "p"},
            "r.test/team": {"username": "team", "password": "p"}
        },
        "credHelpers": {"helped.test": "test"}
    }"#;
    std::fs::write(&file, json).unwrap();
    let fixture = Fixture::new(|asked| match asked.authorization() {
        Some(_) => manifest("any"),
        None => reply(401, "WWW-Authenticate: Basic realm=\"r\"\r\n", ""),
    });
    let mut yaml = String::from("registries:\n");
    for name in ["r.test", "helped.test"] {
        yaml.push_str(&format!(
            "  - name: {name}\n    url: http://{name}\n    upstream_proxy: \"http://{}\"\n    auth: {{docker_config: \"{}\"}}\n",
            fixture.addr,
            file.display()
        ));
    }
    let cache = Server::bare()
        .config(yaml)
        .env("PATH", helper_path(&dir.path))
        .start();
    // The logins `host:p`, `team:p` and `helped:p`.
    for (path, secret) in [
        ("r.test/app", "aG9zdDpw"),
        ("r.test/team/app", "dGVhbTpw"),
        ("helped.test/app", "aGVscGVkOnA="),
    ] {
        let got = cache.client().get(&format!("/v2/{path}/manifests/v1"));
        assert_eq!(got.status, 200, "{path}: {got}");
        let shown = fixture.seen().last().unwrap().authorization().map(str::to_owned);
        assert_eq!(shown, Some(format!("Basic {secret}")), "{path}");
    }
}
