//! The log: fields, formats, levels and secrets of its lines, and the log file with its rotation.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use super::drivers::has_python;
use super::process::{address_of_our_own, config_for};
use crate::harness::h2::Peer;
use crate::harness::server::{TempDir, write_private};
use crate::harness::*;

/// The fields of a line in their order, as texts.
pub type Fields = Vec<(String, String)>;

/// Parses a line in text or JSON.
fn fields(line: &str) -> Fields {
    if line.starts_with('{') {
        let values: BTreeMap<String, serde_json::Value> = serde_json::from_str(line).expect(line);
        let mut fields: Fields = values
            .into_iter()
            .map(|(key, value)| match value {
                serde_json::Value::String(text) => (key, text),
                value => (key, value.to_string()),
            })
            .collect();
        fields.sort_by_key(|(key, _)| line.find(&format!("\"{key}\":")));
        return fields;
    }
    let mut fields = Fields::new();
    let mut rest = line;
    while let Some((key, value)) = rest.split_once('=') {
        let quoted = serde_json::Deserializer::from_str(value).into_iter::<String>();
        let (text, after) = match quoted {
            mut quoted if value.starts_with('"') => {
                let text = quoted.next().expect(line).expect(line);
                (text, quoted.byte_offset())
            }
            _ => {
                let end = value.find(' ').unwrap_or(value.len());
                (value[..end].to_owned(), end)
            }
        };
        fields.push((key.to_owned(), text));
        rest = value[after..].strip_prefix(' ').unwrap_or_default();
    }
    fields
}

/// Returns the parsed lines of this phrase.
pub fn lines_of(log: &str, phrase: &str) -> Vec<Fields> {
    let complete = log.rsplit_once('\n').map_or("", |(lines, _)| lines);
    let all = complete.lines().map(fields);
    all.filter(|fields| value(fields, "msg") == Some(phrase))
        .collect()
}

pub fn value<'a>(fields: &'a Fields, key: &str) -> Option<&'a str> {
    let found = fields.iter().find(|(found, _)| found == key);
    found.map(|(_, value)| value.as_str())
}

/// Waits for `count` access log lines of a server with its log on standard error.
pub fn requests(cache: &Server, count: usize) -> Vec<Fields> {
    eventually("each request has a line", || {
        lines_of(&cache.stderr(), "request").len() >= count
    });
    lines_of(&cache.stderr(), "request")
}

const KEYS_OF_MISS: [&str; 15] = [
    "ts",
    "level",
    "msg",
    "id",
    "client",
    "method",
    "registry",
    "repository",
    "reference",
    "path",
    "status",
    "bytes",
    "ttfb_ms",
    "duration_ms",
    "result",
];

/// Pulls a manifest and a part of a blob, each twice, and checks the four lines.
fn check_fields(format: &str, pull: impl Fn(&Server, &str, &[(&str, &str)]) -> u16) {
    let upstream = Registry::new();
    // The lines of a single core are in the order of the requests.
    let cache = Server::options(&upstream)
        .cores(1)
        .env("LOG_FORMAT", format)
        .start();
    let image = Image::small(&upstream, "a", "v1", fresh_seed());
    let digest = upstream.blob("hello");
    let manifest = upstream.manifest_url("a", "v1");
    let blob = upstream.blob_url("a", &digest);
    let agent = ("user-agent", "agent/1");
    assert_eq!(pull(&cache, &manifest, &[agent]), 200);
    assert_eq!(pull(&cache, &manifest, &[agent]), 200);
    assert_eq!(pull(&cache, &blob, &[]), 200);
    cache.wait_stored(&digest);
    assert_eq!(pull(&cache, &blob, &[("range", "bytes=1-2")]), 206);
    let lines = requests(&cache, 4);

    let keys: Vec<&str> = lines[0].iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys[..15], KEYS_OF_MISS, "{lines:?}");
    assert_eq!(keys[15..], ["upstream_status", "user_agent"], "{lines:?}");
    let size = image.manifest.len().to_string();
    for (line, result, upstream_status) in [(&lines[0], "miss", Some("200")), (&lines[1], "hit", None)] {
        for (key, wanted) in [
            ("level", Some("info")),
            ("method", Some("GET")),
            ("registry", Some(&*upstream.name())),
            ("repository", Some("a")),
            ("reference", Some("v1")),
            ("digest", None),
            ("path", Some(&*manifest)),
            ("range", None),
            ("status", Some("200")),
            ("bytes", Some(&*size)),
            ("result", Some(result)),
            ("upstream_status", upstream_status),
            ("user_agent", Some("agent/1")),
        ] {
            assert_eq!(value(line, key), wanted, "{key} of {line:?}");
        }
    }
    for (key, wanted) in [
        ("digest", Some(&*digest)),
        ("reference", None),
        ("range", Some("bytes=1-2")),
    ] {
        assert_eq!(value(&lines[3], key), wanted, "{key} of {:?}", lines[3]);
    }
    check_times_and_ids(&lines);
}

fn check_times_and_ids(lines: &[Fields]) {
    let mut ids: Vec<&str> = lines.iter().filter_map(|line| value(line, "id")).collect();
    assert!(
        ids.iter()
            .all(|id| id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit())),
        "{ids:?}"
    );
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), lines.len(), "{lines:?}");
    for line in lines {
        let millis = |key| -> f64 { value(line, key).expect(key).parse().expect(key) };
        assert!(millis("ttfb_ms") <= millis("duration_ms"), "{line:?}");
        let time = value(line, "ts").expect("a time");
        assert!(time.len() == 24 && time.ends_with('Z'), "{time}");
        let client = value(line, "client").expect("an address");
        assert!(client.starts_with("127.0.0.1:"), "{client}");
    }
}

#[test]
fn line_of_a_pull_over_http_1_has_every_field_in_both_formats() {
    for format in ["text", "json"] {
        check_fields(format, |cache, path, fields| {
            cache.client().get_with(path, fields).status
        });
    }
}

#[test]
fn line_of_a_pull_over_http_2_has_every_field_in_both_formats() {
    for format in ["text", "json"] {
        check_fields(format, |cache, path, fields| {
            let mut peer = Peer::begin(cache.addr());
            let id = peer.request("GET", path, fields);
            peer.answer(id).status
        });
    }
}

#[test]
fn events_and_line_of_a_failed_pull_have_the_same_id() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).env("LOG_FORMAT", "json").start();
    let digest = upstream.blob("hello");
    upstream.on(On::path(&digest), Reply::status(500));
    assert_eq!(cache.client().get(&upstream.blob_url("a", &digest)).status, 502);
    let line = requests(&cache, 1).remove(0);
    assert_eq!(value(&line, "level"), Some("error"), "{line:?}");
    assert_eq!(value(&line, "upstream_status"), Some("500"), "{line:?}");
    let events = lines_of(&cache.stderr(), "pull failed");
    assert_eq!(events.len(), 1, "{}", cache.stderr());
    for key in ["id", "registry", "repository", "status"] {
        assert_eq!(value(&events[0], key), value(&line, key), "{key}");
    }
}

#[test]
fn blob_that_the_registry_refuses_or_lacks_causes_no_warning() {
    let upstream = Registry::new();
    let cache = Server::start(&upstream);
    let path_with = |status| {
        let digest = upstream.blob(PseudoRandom::new(fresh_seed(), 100));
        upstream.on(On::path(&digest), Reply::status(status));
        upstream.blob_url("a", &digest)
    };
    for status in [404, 403, 401, 410] {
        let got = cache.client().get(&path_with(status)).status;
        assert!(matches!(got, 401 | 403 | 404), "{status}: {got}");
    }
    // The event of a failure shows that the events of the earlier requests are complete.
    assert_eq!(cache.client().get(&path_with(500)).status, 502);
    cache.wait_stderr("fill failed");
    let log = cache.stderr();
    assert_eq!(lines_of(&log, "fill failed").len(), 1, "{log}");
    assert!(lines_of(&log, "fill not started").is_empty(), "{log}");
}

#[test]
fn line_of_unusable_upstream_content_has_the_upstream_status() {
    let upstream = Registry::new();
    let cache = Server::options(&upstream).cores(1).start();
    let page = || {
        Reply::status(200)
            .body("<html>")
            .set("Content-Type", "text/html")
            .without_digest()
    };
    upstream.on(On::path("manifests/page"), page());
    upstream.on(On::path("manifests/large"), page().body("<".repeat(5 << 20)));
    upstream.on(On::path("referrers"), page());
    let digest = PseudoRandom::new(fresh_seed(), 100).digest();
    upstream.blob_as(&digest, "other content");
    let paths = [
        upstream.manifest_url("a", "page"),
        upstream.manifest_url("a", "large"),
        upstream.blob_url("a", &digest),
        format!("/v2/{}/a/referrers/{digest}", upstream.name()),
    ];
    for (path, status) in paths.iter().zip([502, 502, 502, 404]) {
        assert_eq!(cache.client().get(path).status, status, "{path}");
    }
    for line in requests(&cache, paths.len()) {
        assert_eq!(value(&line, "upstream_status"), Some("200"), "{line:?}");
    }
}

#[test]
fn redirect_for_the_client_is_no_rejection_and_has_the_upstream_status() {
    let (upstream, store) = (Registry::new(), Registry::new());
    let name = upstream.name();
    let cache = Server::options(&upstream)
        .config(format!(
            "registries:\n  - {{name: \"{name}\", url: \"http://{name}\", follow_redirects: false}}\n"
        ))
        .env("LOG_LEVEL", "debug")
        .start();
    let digest = upstream.blob("hello");
    let target = format!("http://{}/object", store.name());
    upstream.on(On::path(&digest), Reply::status(302).set("Location", &*target));
    let got = cache.client().get(&upstream.blob_url("a", &digest));
    assert_eq!(
        (got.status, got.field("location")),
        (307, Some(&*target)),
        "{got}"
    );
    let line = requests(&cache, 1).remove(0);
    assert_eq!(value(&line, "upstream_status"), Some("302"), "{line:?}");
    cache.wait_stderr("redirect passed to the client");
    let log = cache.stderr();
    assert!(lines_of(&log, "request rejected").is_empty(), "{log}");
    assert!(lines_of(&log, "fill failed").is_empty(), "{log}");
}

#[test]
fn line_of_a_denied_request_names_the_content() {
    let upstream = Registry::new();
    let name = upstream.name();
    let cache = Server::options(&upstream)
        .cores(1)
        .config(format!(
            "allow: [{{repositories: [public]}}]\nregistries:\n  - {{name: \"{name}\", url: \"http://{name}\"}}\n"
        ))
        .start();
    let unserved = "/v2/unserved.example/a/manifests/v1";
    for path in [&upstream.manifest_url("secret", "v1"), unserved] {
        assert_eq!(cache.client().get(path).status, 403, "{path}");
    }
    let lines = requests(&cache, 2);
    for (line, registry, repository) in [
        (&lines[0], &*name, "secret"),
        (&lines[1], "unserved.example", "a"),
    ] {
        assert_eq!(value(line, "registry"), Some(registry), "{line:?}");
        assert_eq!(value(line, "repository"), Some(repository), "{line:?}");
        assert_eq!(value(line, "reference"), Some("v1"), "{line:?}");
    }
}

#[test]
fn hostile_text_stays_in_its_field_and_secrets_are_not_logged() {
    for format in ["text", "json"] {
        let cache = Server::bare()
            .cores(1)
            .env("LOG_FORMAT", format)
            .env("LOG_LEVEL", "trace")
            .start();
        let target =
            "/v2/a%0Amsg=x%1b[31m\"\\/manifests/v1?ns=a%20b&token=canary&X-Amz-Signature=canary&canary";
        let agent = "\"q\" \\n level=error \u{9b}31m";
        // The Base64 form of `alice:canary`.
        let secret = "YWxpY2U6Y2FuYXJ5";
        let fields = [
            ("User-Agent", agent),
            ("Authorization", &format!("Basic {secret}")),
        ];
        let status = cache.client().get_with(target, &fields).status;
        let line = requests(&cache, 1).remove(0);
        assert_eq!(value(&line, "status"), Some(&*status.to_string()), "{line:?}");
        let logged = target
            .replace("canary&X", "REDACTED&X")
            .replace("canary&canary", "REDACTED&REDACTED");
        let (path, user_agent) = (value(&line, "path"), value(&line, "user_agent"));
        assert!(
            matches!(path, Some(path) if path == logged || path == "-"),
            "{line:?}"
        );
        assert!(user_agent.is_none_or(|text| text == agent), "{line:?}");
        // A head with a control character is rejected.
        let mut raw = cache.client().open();
        raw.send(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nUser-Agent: \x1b[31mcanary\r\n\r\n")
            .unwrap();
        assert_eq!(raw.read("GET").unwrap().status, 400);
        let rejected = requests(&cache, 2).remove(1);
        assert_eq!(value(&rejected, "path"), Some("-"), "{rejected:?}");
        assert_eq!(value(&rejected, "level"), Some("warn"), "{rejected:?}");
        let log = cache.stderr();
        assert!(!log.contains("canary") && !log.contains(secret), "{log}");
        assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log:?}");
    }
}

/// A server that logs nothing on standard error, so that its address must be known.
struct Quiet {
    child: Child,
    addr: std::net::SocketAddr,
    home: TempDir,
}

impl Quiet {
    fn start(upstream: &Registry, settings: &[(&str, &str)]) -> Self {
        let home = TempDir::new();
        write_private(&home.path.join("config.yaml"), &config_for(upstream));
        let addr = address_of_our_own();
        let stderr = fs::File::create(home.path.join("stderr")).unwrap();
        let child = Server::command(&home.path, &home.path.join("store"))
            .env("LISTEN_ADDR", addr.to_string())
            .env("CORES", "1")
            .envs(settings.iter().copied())
            .current_dir(&home.path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr)
            .spawn()
            .unwrap();
        let server = Quiet { child, addr, home };
        eventually("it listens", || TcpStream::connect(addr).is_ok());
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path.join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops the server, which writes its last lines.
    fn stop(&mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn level_error_writes_only_the_lines_of_failed_requests() {
    let upstream = Registry::new();
    let mut cache = Quiet::start(&upstream, &[("LOG_LEVEL", "error")]);
    let client = client::Client::new(cache.addr);
    let (good, bad) = (upstream.blob("good"), upstream.blob("bad"));
    upstream.on(On::path(&bad), Reply::status(500));
    client.get(&upstream.blob_url("a", &good)).expect(b"good");
    client.get(&upstream.blob_url("a", &good)).expect(b"good");
    assert_eq!(client.get(&upstream.manifest_url("a", "none")).status, 404);
    assert_eq!(client.get(&upstream.blob_url("a", &bad)).status, 502);
    cache.stop();
    let log = cache.text("stderr");
    let lines = lines_of(&log, "request");
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(value(&lines[0], "status"), Some("502"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn log_file_takes_both_kinds_of_lines_and_sighup_opens_a_new_file() {
    let upstream = Registry::new();
    let mut cache = Quiet::start(&upstream, &[("LOG_FILE", "cache.log")]);
    let client = client::Client::new(cache.addr);
    let path = upstream.blob_url("a", &upstream.blob("hello"));
    client.get(&path).expect(b"hello");
    eventually("the request is in the file", || {
        lines_of(&cache.text("cache.log"), "request").len() == 1
    });
    assert_eq!(lines_of(&cache.text("cache.log"), "listening").len(), 1);
    let mode = fs::metadata(cache.path("cache.log"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o640);

    fs::rename(cache.path("cache.log"), cache.path("cache.log.1")).unwrap();
    cache.signal(Signal::HUP);
    eventually("a new file exists", || {
        !lines_of(&cache.text("cache.log"), "configuration reloaded").is_empty()
    });
    client.get(&path).expect(b"hello");
    cache.stop();
    assert_eq!(lines_of(&cache.text("cache.log"), "request").len(), 1);
    assert_eq!(lines_of(&cache.text("cache.log.1"), "request").len(), 1);
    assert_eq!(cache.text("stderr"), "");
}

#[test]
fn sighup_during_the_drain_delay_opens_a_new_log_file() {
    let upstream = Registry::new();
    let mut cache = Quiet::start(&upstream, &[("LOG_FILE", "cache.log"), ("DRAIN_DELAY", "1h")]);
    cache.signal(Signal::TERM);
    eventually("the drain delay has started", || {
        let log = cache.text("cache.log");
        let lines = lines_of(&log, "drain delay started");
        lines
            .first()
            .is_some_and(|line| value(line, "delay_ms") == Some("3600000"))
    });
    fs::rename(cache.path("cache.log"), cache.path("cache.log.1")).unwrap();
    cache.signal(Signal::HUP);
    eventually("a new file exists", || cache.path("cache.log").exists());
    cache.signal(Signal::TERM);
    assert_eq!(cache.child.wait().unwrap().code(), Some(1));
    let log = cache.text("cache.log");
    let phrase = "second signal received; process ends at once";
    assert_eq!(lines_of(&log, phrase).len(), 1, "{log}");
}

#[test]
fn log_file_that_cannot_be_reopened_stays_in_use() {
    let upstream = Registry::new();
    let directory = TempDir::new();
    let file = directory.path.join("logs/cache.log");
    let moved = directory.path.join("old");
    fs::create_dir(directory.path.join("logs")).unwrap();
    let mut cache = Quiet::start(&upstream, &[("LOG_FILE", file.to_str().unwrap())]);
    fs::rename(directory.path.join("logs"), &moved).unwrap();
    cache.signal(Signal::HUP);
    let log = || fs::read_to_string(moved.join("cache.log")).unwrap();
    eventually("the error is in the earlier file", || {
        !lines_of(&log(), "log file not reopened").is_empty()
    });
    let client = client::Client::new(cache.addr);
    assert_eq!(client.get("/livez").status, 200);
    cache.stop();
    assert_eq!(lines_of(&log(), "request").len(), 1, "{}", log());
    assert_eq!(lines_of(&log(), "shutdown finished").len(), 1, "{}", log());
}

/// Runs a command with `file` as log file. Returns exit code, standard output and standard error.
fn run_with_log_file(file: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    run_with(&[("LOG_FILE", file.to_str().unwrap())], arguments)
}

/// Runs a command with `settings`. Returns exit code, standard output and standard error.
fn run_with(settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String, String) {
    let home = TempDir::new();
    write_private(&home.path.join("config.yaml"), "registries: []\n");
    let output = Server::command(&home.path, &home.path.join("store"))
        .envs(settings.iter().copied())
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn log_file_that_cannot_be_opened_is_a_start_error() {
    let directory = TempDir::new();
    let file = directory.path.join("none/cache.log");
    let (code, _, stderr) = run_with_log_file(&file, &["serve"]);
    assert_eq!(code, Some(1), "{stderr}");
    let wanted = format!("cannot open the log file {}: No such file", file.display());
    assert!(
        stderr.contains(&wanted) && stderr.contains("change LOG_FILE"),
        "{stderr}"
    );
}

#[test]
fn start_error_is_an_event_with_the_format_json() {
    let directory = TempDir::new();
    let (missing, file) = (
        directory.path.join("none/cache.log"),
        directory.path.join("cache.log"),
    );
    let (missing, file) = (missing.to_str().unwrap(), file.to_str().unwrap());
    for (settings, error) in [
        (
            [("LOG_FILE", missing), ("FS_ROOT", "/dev/null")],
            "cannot open the log file",
        ),
        ([("LOG_FILE", file), ("FS_ROOT", "/dev/null")], "/dev/null"),
    ] {
        let settings = [&settings[..], &[("LOG_FORMAT", "json")]].concat();
        let (code, _, stderr) = run_with(&settings, &["serve"]);
        assert_eq!(code, Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        let line = &lines_of(&stderr, "start failed")[0];
        assert_eq!(value(line, "level"), Some("error"), "{stderr}");
        assert!(value(line, "error").unwrap().contains(error), "{stderr}");
    }
}

#[test]
fn named_pipe_without_a_reader_as_log_file_is_a_start_error() {
    let directory = TempDir::new();
    let pipe = directory.path.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let (code, _, stderr) = run_with_log_file(&pipe, &["serve"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("start the reader before the cache, or change LOG_FILE"),
        "{stderr}"
    );
}

#[test]
fn start_error_without_threads_is_on_standard_error() {
    let directory = TempDir::new();
    let file = directory.path.join("cache.log");
    // No thread has an address space of 128 TiB for its stack.
    let stack = (1_u64 << 47).to_string();
    let file = ("LOG_FILE", file.to_str().unwrap());
    for settings in [&[][..], &[file]] {
        let settings = [settings, &[("RUST_MIN_STACK", &stack)]].concat();
        let (code, _, stderr) = run_with(&settings, &["serve"]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains("cannot start the log thread: "), "{stderr}");
    }
}

#[test]
fn config_check_does_not_create_the_log_file() {
    let directory = TempDir::new();
    let file = directory.path.join("cache.log");
    let (code, _, stderr) = run_with_log_file(&file, &["config", "check"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(!file.exists());
}

/// Runs a command on a terminal until its first line about a listener, and prints the output.
const ON_A_TERMINAL: &str = r"
import os, pty, signal, sys
child, terminal = pty.fork()
if child == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
output = b''
while b'listening' not in output:
    output += os.read(terminal, 65536)
os.kill(child, signal.SIGTERM)
try:
    while True:
        output += os.read(terminal, 65536)
except OSError:
    pass
os.waitpid(child, 0)
sys.stdout.buffer.write(output)
";

#[test]
fn levels_are_coloured_on_a_terminal_without_no_color() {
    if !has_python() {
        return;
    }
    for (no_color, format, coloured) in [("", "auto", true), ("1", "auto", false), ("", "text", false)] {
        let home = TempDir::new();
        write_private(&home.path.join("config.yaml"), "registries: []\n");
        let server = Server::command(&home.path, &home.path.join("store"));
        let mut command = std::process::Command::new("python3");
        command
            .args(["-c", ON_A_TERMINAL])
            .arg(server.get_program())
            .env_clear();
        command.envs(server.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = command
            .env("NO_COLOR", no_color)
            .env("LOG_FORMAT", format)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            text.contains("listening"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert_eq!(
            text.contains("level=\u{1b}[32minfo\u{1b}[0m"),
            coloured,
            "{no_color:?} {format}: {text}"
        );
        assert_eq!(text.contains('\u{1b}'), coloured, "{no_color:?} {format}: {text}");
    }
}
