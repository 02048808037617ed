//! The cache under test, as a separate process.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::bucket::Bucket;
use super::client::Client;
use super::registry::Registry;
use super::{PATIENCE, disk};

/// Returns the storage backend of servers without an explicit backend: `TEST_STORAGE`, or else
/// `fs`.
pub fn storage_of_run() -> String {
    std::env::var("TEST_STORAGE").unwrap_or_else(|_| "fs".to_owned())
}

/// Options for a server start.
pub struct Options {
    env: Vec<(String, String)>,
    args: Vec<String>,
    /// Name, address, and more keys of the entry as YAML in flow style:
    /// `auth: {…}, access: verify`.
    registries: Vec<(String, SocketAddr, String)>,
    config: Option<String>,
    root: Option<PathBuf>,
    file_limit: Option<u32>,
    /// Words in front of the server's command line.
    launcher: Vec<String>,
    /// Inherited sockets with their names.
    passed: Vec<(&'static str, Arc<TcpListener>)>,
}

/// Runs the server with inherited sockets like a supervisor does. The first two sockets arrive as
/// standard input and output and become descriptors 3 and 4. The shell sets `LISTEN_PID` because
/// the process ID is unknown before the start.
const PASS: &str = "export LISTEN_PID=$$; exec 3<&0 4<&1 </dev/null >/dev/null; exec \"$0\" \"$@\"";

impl Options {
    /// Passes `socket` to the server at every start, under `name`. Two sockets at most.
    pub fn pass(mut self, name: &'static str, socket: &Arc<TcpListener>) -> Self {
        self.passed.push((name, socket.clone()));
        assert!(self.passed.len() <= 2);
        self
    }

    /// Runs the server through another program. The server's command line follows these words.
    pub fn launched_by(mut self, words: &[&str]) -> Self {
        self.launcher = words.iter().map(|&word| word.to_owned()).collect();
        self
    }

    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.env.retain(|(n, _)| n != name);
        self.env.push((name.into(), value.to_string()));
        self
    }

    pub fn without_env(mut self, name: &str) -> Self {
        self.env.retain(|(n, _)| n != name);
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn cores(self, cores: u32) -> Self {
        self.env("CORES", cores)
    }

    /// Maps `name` to the plain-HTTP registry at `addr`.
    pub fn registry(mut self, name: impl Into<String>, addr: SocketAddr) -> Self {
        self.registries.push((name.into(), addr, String::new()));
        self
    }

    /// Maps `name` like [`Options::registry`], with more keys:
    /// `auth: {username: u, password: p}, access: verify`.
    pub fn registry_with(
        mut self,
        name: impl Into<String>,
        addr: SocketAddr,
        keys: impl Into<String>,
    ) -> Self {
        self.registries.push((name.into(), addr, keys.into()));
        self
    }

    /// Replaces the text of the configuration file.
    pub fn config(mut self, yaml: impl Into<String>) -> Self {
        self.config = Some(yaml.into());
        self
    }

    /// Uses a directory of the test, such as a small file system, instead of a temporary directory.
    pub fn root(mut self, root: &Path) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Limits the server to `files` open files.
    pub fn file_limit(mut self, files: u32) -> Self {
        self.file_limit = Some(files);
        self
    }

    /// Starts the server and waits until the server listens.
    #[track_caller]
    pub fn start(self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err((status, stderr)) => panic!("the server did not start ({status:?}); stderr:\n{stderr}"),
        }
    }

    /// Adds a bucket to a server without an explicit storage backend, if `TEST_STORAGE` requires a
    /// bucket.
    fn with_storage_of_run(self) -> (Self, Option<Bucket>) {
        let backend = storage_of_run();
        if backend == "fs" || self.env.iter().any(|(name, _)| name == "STORAGE_BACKEND") {
            return (self, None);
        }
        let bucket = Bucket::new();
        (bucket.behind(self, &backend), Some(bucket))
    }

    /// Starts the server. Returns exit status and stderr if the server ended before listening.
    pub fn try_start(self) -> Result<Server, (Option<ExitStatus>, String)> {
        let home = TempDir::new();
        let root = self.root.clone().unwrap_or_else(|| home.path.join("store"));
        let config = self
            .config
            .clone()
            .unwrap_or_else(|| registries_yaml(&self.registries));
        write_private(&home.path.join("config.yaml"), &config);
        let (options, bucket) = self.with_storage_of_run();
        let mut server = Server {
            options,
            bucket,
            home,
            root,
            process: None,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
        };
        server.try_spawn()?;
        Ok(server)
    }
}

/// Writes a file with mode 0600, as required for secrets.
pub fn write_private(path: &Path, text: &str) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .expect("write the file");
}

fn registries_yaml(registries: &[(String, SocketAddr, String)]) -> String {
    let mut yaml = String::from("registries:\n");
    for (name, addr, keys) in registries {
        let keys = if keys.is_empty() {
            String::new()
        } else {
            format!(", {keys}")
        };
        writeln!(
            yaml,
            "  - {{name: \"{name}\", insecure: true, url: \"http://{addr}\"{keys}}}"
        )
        .expect("memory");
    }
    if registries.is_empty() {
        "registries: []\n".into()
    } else {
        yaml
    }
}

/// A running or stopped server and its directories. On drop, the process is killed and the
/// directories are removed, unless the test failed.
pub struct Server {
    options: Options,
    /// The server's bucket, if `TEST_STORAGE` requires a bucket.
    bucket: Option<Bucket>,
    home: TempDir,
    root: PathBuf,
    process: Option<Process>,
    addr: SocketAddr,
}

struct Process {
    child: Child,
    stderr: Arc<Stderr>,
}

#[derive(Default)]
struct Stderr {
    text: Mutex<(String, bool)>,
    grown: Condvar,
}

impl Stderr {
    fn wait_for<T>(&self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut guard = self.text.lock().unwrap();
        loop {
            if let Some(found) = find(&guard.0) {
                return Some(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if guard.1 || left.is_zero() {
                return None;
            }
            guard = self.grown.wait_timeout(guard, left).unwrap().0;
        }
    }
}

impl Server {
    /// Returns options for a server with an empty store. Every listener of `registry` is configured
    /// by its `ip:port`.
    pub fn options(registry: &Registry) -> Options {
        let registries = registry
            .addrs()
            .into_iter()
            .map(|addr| (addr.to_string(), addr, String::new()))
            .collect();
        Options {
            registries,
            ..Self::bare()
        }
    }

    /// Returns options for a server without any registry.
    pub fn bare() -> Options {
        Options {
            env: Vec::new(),
            args: Vec::new(),
            registries: Vec::new(),
            config: None,
            root: None,
            file_limit: None,
            launcher: Vec::new(),
            passed: Vec::new(),
        }
        .cores(1)
        // All clients of all tests share an address.
        .env("MAX_CONNECTIONS_PER_CLIENT", 0)
    }

    /// Starts the usual server: a single core, an empty store, this registry.
    #[track_caller]
    pub fn start(registry: &Registry) -> Self {
        Self::options(registry).start()
    }

    /// Returns the command line and environment of a server or subcommand.
    ///
    /// `TEST_BINARY` replaces the binary built by cargo, for tests of a release. The environment
    /// starts empty, so that a proxy or log level in the developer's shell does not affect tests.
    pub fn command(home: &Path, root: &Path) -> Command {
        let built = env!("CARGO_BIN_EXE_oci-pull-through").into();
        let mut command = Command::new(std::env::var_os("TEST_BINARY").unwrap_or(built));
        command.env_clear();
        const KEPT: [&str; 6] = [
            "PATH",
            "LLVM_PROFILE_FILE",
            "RUST_BACKTRACE",
            // Destinations of sanitizer reports, see `scripts/sanitize.sh`.
            "ASAN_OPTIONS",
            "LSAN_OPTIONS",
            "TSAN_OPTIONS",
        ];
        for name in KEPT {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        if let Some(driver) = std::env::var_os("TEST_IO_DRIVER") {
            command.env("IO_DRIVER", driver);
        }
        if let Some(choice) = std::env::var_os("TEST_KERNEL_TLS") {
            command.env("KERNEL_TLS", choice);
        }
        command
            .env("HOME", home)
            .env("NO_COLOR", "1")
            .env("LISTEN_ADDR", "127.0.0.1:0")
            // The default address would be the same for all tests.
            .env("ADMIN_ADDR", "off")
            // Tests count the requests to the registry.
            .env("PREFETCH", "off")
            .env("STORAGE_BACKEND", "fs")
            .env("FS_ROOT", root)
            .env("CONFIG_FILE", home.join("config.yaml"));
        command
    }

    fn try_spawn(&mut self) -> Result<(), (Option<ExitStatus>, String)> {
        assert!(self.process.is_none(), "already running");
        let mut command = Self::command(&self.home.path, &self.root);
        if let Some(files) = self.options.file_limit {
            command = limited(&command, files);
        }
        command
            .envs(self.options.env.iter().map(|(name, value)| (name, value)))
            .args(&self.options.args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        if !self.options.passed.is_empty() {
            let words = ["sh", "-c", PASS].map(str::to_owned);
            command = launched(&words, &command);
            let names: Vec<&str> = self.options.passed.iter().map(|(name, _)| *name).collect();
            command
                .env("LISTEN_FDS", names.len().to_string())
                .env("LISTEN_FDNAMES", names.join(":"));
            let descriptor = |index: usize| match self.options.passed.get(index) {
                Some((_, socket)) => Stdio::from(OwnedFd::from(socket.try_clone().expect("duplicate"))),
                None => Stdio::null(),
            };
            command
                .stdin(descriptor(0))
                .stdout(descriptor(1))
                .stderr(Stdio::piped());
        }
        if !self.options.launcher.is_empty() {
            command = launched(&self.options.launcher, &command);
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
        }
        let mut child = command.spawn().expect("the binary can be started");
        let stderr = Arc::new(Stderr::default());
        let pipe = child.stderr.take().expect("piped");
        let into = stderr.clone();
        std::thread::spawn(move || {
            let mut lines = BufReader::new(pipe);
            let mut line = Vec::new();
            while matches!(lines.read_until(b'\n', &mut line), Ok(n) if n > 0) {
                into.text
                    .lock()
                    .unwrap()
                    .0
                    .push_str(&String::from_utf8_lossy(&line));
                into.grown.notify_all();
                line.clear();
            }
            into.text.lock().unwrap().1 = true;
            into.grown.notify_all();
        });
        let found = stderr.wait_for(|text| listeners(text).next().map(|(_, addr)| addr));
        self.process = Some(Process { child, stderr });
        match found {
            Some(addr) => {
                self.addr = addr;
                Ok(())
            }
            None => {
                let status = self.wait_exit(Duration::from_secs(1));
                let text = self.stderr();
                self.kill9();
                Err((status, text))
            }
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address that the server logged with the phrase `{purpose} listening`.
    #[track_caller]
    pub fn addr_of(&self, purpose: &str) -> SocketAddr {
        let process = self.process.as_ref().expect("running");
        let phrase = format!("msg=\"{purpose} listening\"");
        let found = process.stderr.wait_for(|text| {
            let line = text.lines().find(|line| line.contains(&phrase))?;
            let (_, rest) = line.split_once("http://")?;
            rest.split([' ', '"']).next()?.parse().ok()
        });
        found.unwrap_or_else(|| panic!("the server has no {purpose} listener"))
    }

    /// Returns the listening address for `http` or `https`, as logged by the server.
    #[track_caller]
    pub fn addr_for(&self, scheme: &str) -> SocketAddr {
        let process = self.process.as_ref().expect("running");
        let found = process.stderr.wait_for(|text| {
            let mut listeners = listeners(text);
            listeners.find_map(|(found, addr)| (found == scheme).then_some(addr))
        });
        found.unwrap_or_else(|| panic!("the server has no listener for {scheme}"))
    }

    pub fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// Returns the store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the directory above the store. Besides the store, the server may only use the
    /// configuration in this directory.
    pub fn home(&self) -> &Path {
        &self.home.path
    }

    /// Returns the complete stderr of the current process so far.
    pub fn stderr(&self) -> String {
        self.process
            .as_ref()
            .map(|p| p.stderr.text.lock().unwrap().0.clone())
            .unwrap_or_default()
    }

    /// Waits until stderr contains `fragment`.
    #[track_caller]
    pub fn wait_stderr(&self, fragment: &str) {
        let process = self.process.as_ref().expect("running");
        let found = process
            .stderr
            .wait_for(|text| text.contains(fragment).then_some(()));
        assert!(found.is_some(), "no `{fragment}` in stderr");
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").child.id()
    }

    /// Returns the resident memory, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Returns the peak of resident memory, in bytes.
    pub fn rss_peak_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("running");
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .expect("/proc/<pid>/status has the field");
        let kib: u64 = line[key.len()..]
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number of kB");
        kib * 1024
    }

    /// Returns the processor time used so far, user and system.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("running");
        // Fields are counted after the parenthesis, because the process name may contain spaces.
        let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        // USER_HZ is 100 on every supported architecture.
        Duration::from_millis(ticks * 10)
    }

    /// Fails unless the server uses at most `most` of processor time in one of five seconds, with
    /// only `meanwhile` running. A server in a busy loop exceeds `most` in all five; a short
    /// disturbance by the machine does not.
    #[track_caller]
    pub fn assert_rests(&self, most: Duration, mut meanwhile: impl FnMut()) {
        let mut looks = Vec::new();
        while looks.len() < 5 {
            let before = self.cpu_time();
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(200));
                meanwhile();
            }
            looks.push(self.cpu_time() - before);
            if looks.last() <= Some(&most) {
                return;
            }
        }
        panic!("the server uses too much CPU time per second: {looks:?}");
    }

    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid()))
            .expect("running")
            .count()
    }

    pub fn is_running(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|p| matches!(p.child.try_wait(), Ok(None)))
    }

    /// Sends SIGHUP: the server reloads its configuration.
    pub fn sighup(&self) {
        let pid = rustix::process::Pid::from_child(&self.process.as_ref().expect("running").child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("running");
    }

    /// Sends SIGTERM: the server drains and exits.
    pub fn sigterm(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process.as_ref().expect("running").child);
        rustix::process::kill_process(pid, signal).expect("running");
    }

    /// Kills a running server. Returns the complete stderr of the process.
    pub fn kill9(&mut self) -> String {
        let Some(mut process) = self.process.take() else {
            return String::new();
        };
        let _ = process.child.kill();
        let _ = process.child.wait();
        process.stderr.wait_for(|_| None::<()>);
        let stderr = process.stderr.text.lock().unwrap().0.clone();
        self.home.note(&stderr);
        stderr
    }

    /// Waits for the server's exit. Returns `None` if the server still runs at the deadline.
    pub fn wait_exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let process = self.process.as_mut().expect("started");
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = process.child.try_wait().expect("the status of the child process") {
                process.stderr.wait_for(|_| None::<()>);
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Sends SIGTERM and expects exit status 0 within the drain timeout.
    #[track_caller]
    pub fn stop(&mut self) {
        self.sigterm();
        let status = self
            .wait_exit(PATIENCE + Duration::from_secs(5))
            .expect("the server exits after SIGTERM");
        assert!(status.success(), "exit {status:?}");
        self.kill9();
    }

    /// Starts the server again on the same store, usually on another port.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill9();
        if let Err((status, stderr)) = self.try_spawn() {
            panic!("the server did not restart ({status:?}); stderr:\n{stderr}");
        }
    }

    /// Changes the environment of the next start.
    pub fn set_env(&mut self, name: &str, value: impl ToString) {
        self.options.env.retain(|(n, _)| n != name);
        self.options.env.push((name.into(), value.to_string()));
    }

    /// Waits until no fill is in progress, then checks the store. The server may keep running.
    ///
    /// Commits run asynchronously to responses, so a complete pull does not imply a committed file.
    #[track_caller]
    pub fn settled_store(&self) -> disk::Report {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let report = disk::check(&self.root);
            if report.is_clean() || Instant::now() > deadline {
                return report;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the cache requests content of `repository` from `registry` again, after a
    /// failure that is over.
    #[track_caller]
    pub fn wait_asks(&self, registry: &Registry, repository: &str) {
        let probe = registry.blob(super::fresh_seed().to_string().as_str());
        super::eventually("the cache sends requests to the registry again", || {
            self.client().get(&registry.blob_url(repository, &probe)).status == 200
        });
    }

    /// Returns the bucket that `TEST_STORAGE` added to this server.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// Returns whether the server bypassed a slow bucket. On a busy machine this is correct, and the
    /// server may have sent requests to the upstream.
    pub fn bypassed_bucket(&self) -> bool {
        let log = self.stderr();
        let slow = log.contains("bucket lookups suspended") || log.contains("bucket unavailable");
        if slow {
            eprintln!("slow bucket: upstream requests are not checked");
        }
        slow
    }

    /// Requests content that is in the bucket, while the upstream may be down. An error is accepted
    /// only after the server has bypassed a slow bucket. Then the request is repeated.
    #[track_caller]
    pub fn get_from_bucket(&self, path: &str) -> super::Response {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let got = self.client().get(path);
            if got.status < 500 || !self.bypassed_bucket() {
                return got;
            }
            assert!(
                Instant::now() < deadline,
                "not within {PATIENCE:?}: {path}: {got}"
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Waits until the content of this digest is committed.
    #[track_caller]
    pub fn wait_stored(&self, digest: &str) {
        super::eventually(&format!("{digest} is stored"), || self.is_stored(digest));
    }

    /// Whether the content of this digest is committed.
    pub fn is_stored(&self, digest: &str) -> bool {
        match &self.bucket {
            Some(bucket) if storage_of_run() == "s3" => bucket.has(digest),
            _ => disk::is_stored(&self.root, digest),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!(
                "--- stderr of the server (store kept in {}) ---\n{}---",
                self.root.display(),
                self.home.notes()
            );
        }
    }
}

/// Wraps a command in a shell that lowers both limits on open files.
fn limited(command: &Command, files: u32) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &files.to_string()])
        .arg(command.get_program())
        .env_clear()
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    shell
}

/// Appends `command`, with its environment, to another command line.
fn launched(words: &[String], command: &Command) -> Command {
    let mut launched = Command::new(&words[0]);
    launched
        .args(&words[1..])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            launched.env(name, value);
        }
    }
    launched
}

/// Returns scheme and address of each line about a listener, in text or JSON.
fn listeners(stderr: &str) -> impl Iterator<Item = (&str, SocketAddr)> {
    // Only complete lines, because half an address may also parse.
    let (whole, _) = stderr.rsplit_once('\n').unwrap_or_default();
    let lines = whole
        .lines()
        .filter(|line| line.contains("msg=listening ") || line.contains("\"msg\":\"listening\""));
    lines.filter_map(|line| {
        let (before, after) = line.split_once("://")?;
        let scheme = before.rsplit(['=', '"']).next()?;
        let mut addr: SocketAddr = after.split([' ', '"']).next()?.parse().ok()?;
        if addr.ip().is_unspecified() {
            addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Some((scheme, addr))
    })
}

/// A temporary directory, removed on drop unless the test failed.
pub struct TempDir {
    pub path: PathBuf,
    notes: Mutex<String>,
}

impl Default for TempDir {
    fn default() -> Self {
        TempDir::new()
    }
}

impl TempDir {
    pub fn new() -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("oci-pull-through-it-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("create a temporary directory");
        TempDir {
            path,
            notes: Mutex::default(),
        }
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push_str(text);
    }

    fn notes(&self) -> String {
        self.notes.lock().unwrap().clone()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_the_banner() {
        for (text, want) in [
            (
                "x\nlevel=info msg=listening version=1 address=http://127.0.0.1:4711 store=fs:/s\n",
                Some(("http", "127.0.0.1:4711")),
            ),
            (
                "{\"msg\":\"listening\",\"address\":\"https://[::1]:80\",\"cores\":1}\n",
                Some(("https", "[::1]:80")),
            ),
            (
                "msg=listening address=http://0.0.0.0:80\n",
                Some(("http", "127.0.0.1:80")),
            ),
            ("msg=listening address=http://127.0.0.1:47", None),
            ("nothing\n", None),
        ] {
            let want = want.map(|(scheme, addr)| (scheme, addr.parse().unwrap()));
            assert_eq!(listeners(text).next(), want, "{text:?}");
        }
    }
}
