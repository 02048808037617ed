//! The cache under test, as a process of its own.

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

/// What servers store in that choose nothing themselves: `fs`, or what `TEST_STORAGE` says.
pub fn storage_of_run() -> String {
    std::env::var("TEST_STORAGE").unwrap_or_else(|_| "fs".to_owned())
}

/// What a server is started with.
pub struct Options {
    env: Vec<(String, String)>,
    args: Vec<String>,
    /// Name, address, and further keys of the entry as YAML in flow style: `auth: {…}, access: verify`.
    registries: Vec<(String, SocketAddr, String)>,
    config: Option<String>,
    root: Option<PathBuf>,
    file_limit: Option<u32>,
    /// What stands before the server's command line.
    launcher: Vec<String>,
    /// Sockets that it inherits, with the names they have for it.
    passed: Vec<(&'static str, Arc<TcpListener>)>,
}

/// Runs the server as a supervisor would: the first two sockets come as standard input and output, become descriptors 3 and
/// 4, and the number of the process is said, which only the process itself knows in time.
const PASS: &str = "export LISTEN_PID=$$; exec 3<&0 4<&1 </dev/null >/dev/null; exec \"$0\" \"$@\"";

impl Options {
    /// Passes `socket` on at every start, under `name`. Two at most.
    pub fn pass(mut self, name: &'static str, socket: &Arc<TcpListener>) -> Self {
        self.passed.push((name, socket.clone()));
        assert!(self.passed.len() <= 2);
        self
    }

    /// Has another program run the server: its command line is what follows these words.
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

    /// Makes `name` mean the plain-http registry at `addr`.
    pub fn registry(mut self, name: impl Into<String>, addr: SocketAddr) -> Self {
        self.registries.push((name.into(), addr, String::new()));
        self
    }

    /// The same, with further keys: `auth: {username: u, password: p}, access: verify`.
    pub fn registry_with(
        mut self,
        name: impl Into<String>,
        addr: SocketAddr,
        keys: impl Into<String>,
    ) -> Self {
        self.registries.push((name.into(), addr, keys.into()));
        self
    }

    /// Replaces the configuration file's text.
    pub fn config(mut self, yaml: impl Into<String>) -> Self {
        self.config = Some(yaml.into());
        self
    }

    /// Uses a directory the test owns, such as a small file system, instead of a temporary one.
    pub fn root(mut self, root: &Path) -> Self {
        self.root = Some(root.into());
        self
    }

    /// Lets the server open no more than `files` files.
    pub fn file_limit(mut self, files: u32) -> Self {
        self.file_limit = Some(files);
        self
    }

    /// Starts the server and waits until it listens.
    #[track_caller]
    pub fn start(self) -> Server {
        match self.try_start() {
            Ok(server) => server,
            Err((status, stderr)) => panic!("the server did not start ({status:?}); it wrote:\n{stderr}"),
        }
    }

    /// Puts a bucket behind a server that chooses no storage, when `TEST_STORAGE` says so.
    fn with_storage_of_run(self) -> (Self, Option<Bucket>) {
        let backend = storage_of_run();
        if backend == "fs" || self.env.iter().any(|(name, _)| name == "STORAGE_BACKEND") {
            return (self, None);
        }
        let bucket = Bucket::new();
        (bucket.behind(self, &backend), Some(bucket))
    }

    /// Starts the server; its exit status and stderr if it ended instead of listening.
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

/// Writes a file that only its owner may read, as a file with a secret should be.
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
        .expect("write a file of a test");
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

/// A running (or stopped) server and its directories. Ended, and removed, on drop.
pub struct Server {
    options: Options,
    /// One of its own, where the whole run is to have one.
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
    /// A server with an empty store that knows every listener of `registry` by its `ip:port`.
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

    /// A server that knows no registry.
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
        // All clients of all tests have one address.
        .env("MAX_CONNECTIONS_PER_CLIENT", 0)
    }

    /// The usual case: one core, an empty store, this registry.
    #[track_caller]
    pub fn start(registry: &Registry) -> Self {
        Self::options(registry).start()
    }

    /// The command line and environment a server (or a subcommand of it) is run with.
    ///
    /// `TEST_BINARY` replaces the binary cargo built, for a run against a release.
    /// The environment is built from nothing, so a proxy or a log level in the developer's shell changes no test.
    pub fn command(home: &Path, root: &Path) -> Command {
        let built = env!("CARGO_BIN_EXE_oci-pull-through").into();
        let mut command = Command::new(std::env::var_os("TEST_BINARY").unwrap_or(built));
        command.env_clear();
        const KEPT: [&str; 6] = [
            "PATH",
            "LLVM_PROFILE_FILE",
            "RUST_BACKTRACE",
            // Where the reports of a sanitizer go, see `scripts/sanitize.sh`.
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
        let found = stderr.wait_for(listening_on);
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

    /// Where it listens for `http` or `https`, as it says itself.
    #[track_caller]
    pub fn addr_for(&self, scheme: &str) -> SocketAddr {
        let process = self.process.as_ref().expect("running");
        let found = process.stderr.wait_for(|text| {
            let end = text.find(&format!(" ({scheme})"))?;
            text[..end].rsplit(' ').next()?.parse().ok()
        });
        found.unwrap_or_else(|| panic!("it does not listen for {scheme}"))
    }

    pub fn client(&self) -> Client {
        Client::new(self.addr)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory above the store; the server has no business in it but the store and its configuration.
    pub fn home(&self) -> &Path {
        &self.home.path
    }

    /// Everything the current process wrote to stderr so far.
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
        assert!(found.is_some(), "no `{fragment}` on stderr");
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("running").child.id()
    }

    /// Resident memory, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most resident memory there ever was, in bytes.
    pub fn rss_peak_bytes(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("running");
        let line = status
            .lines()
            .find(|line| line.starts_with(key))
            .expect("the kernel reports it");
        let kib: u64 = line[key.len()..]
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number of kB");
        kib * 1024
    }

    /// Processor time used so far, user and system.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("running");
        // Fields are counted after the parenthesis, because the name in it may contain spaces.
        let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
        let ticks: u64 =
            fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime");
        // USER_HZ is 100 on every architecture we run on.
        Duration::from_millis(ticks * 10)
    }

    /// The server uses no more than `most` of a second in which `meanwhile` is all that happens. A server that spins does so in
    /// each of five looks; what only disturbs one is the machine.
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
        panic!("of a second each: {looks:?}");
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

    /// Asks it to read its configuration again.
    pub fn sighup(&self) {
        let pid = rustix::process::Pid::from_child(&self.process.as_ref().expect("running").child);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).expect("running");
    }

    /// Asks it to finish what it does and exit.
    pub fn sigterm(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process.as_ref().expect("running").child);
        rustix::process::kill_process(pid, signal).expect("running");
    }

    /// Ends it at once, if it runs.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
            process.stderr.wait_for(|_| None::<()>);
            self.home.note(&process.stderr.text.lock().unwrap().0);
        }
    }

    /// Waits for its end; `None` if it still runs at the deadline.
    pub fn wait_exit(&mut self, within: Duration) -> Option<ExitStatus> {
        let process = self.process.as_mut().expect("started");
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = process.child.try_wait().expect("our child") {
                process.stderr.wait_for(|_| None::<()>);
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// SIGTERM, and exit 0 within the time a drain may take.
    #[track_caller]
    pub fn stop(&mut self) {
        self.sigterm();
        let status = self
            .wait_exit(PATIENCE + Duration::from_secs(5))
            .expect("it ends on SIGTERM");
        assert!(status.success(), "exit {status:?}");
        self.kill9();
    }

    /// Starts it again on the same store (and, in general, another port).
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill9();
        if let Err((status, stderr)) = self.try_spawn() {
            panic!("the server did not start again ({status:?}); it wrote:\n{stderr}");
        }
    }

    /// Changes the environment of the next start.
    pub fn set_env(&mut self, name: &str, value: impl ToString) {
        self.options.env.retain(|(n, _)| n != name);
        self.options.env.push((name.into(), value.to_string()));
    }

    /// Waits until nothing is under way in the store, then reads it. The server may keep running.
    ///
    /// Commits happen off the client's path, so a complete pull is a promise and not yet a file.
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

    /// Waits until the server asks `registry` for content of `repository` again, which has failed and is well by now.
    #[track_caller]
    pub fn wait_asks(&self, registry: &Registry, repository: &str) {
        let probe = registry.blob(super::fresh_seed().to_string().as_str());
        super::eventually("the registry is asked again", || {
            self.client().get(&registry.blob_url(repository, &probe)).status == 200
        });
    }

    /// The bucket that `TEST_STORAGE` has put behind this server.
    pub fn bucket(&self) -> Option<&Bucket> {
        self.bucket.as_ref()
    }

    /// Waits until the content of this digest is committed.
    #[track_caller]
    pub fn wait_stored(&self, digest: &str) {
        super::eventually(&format!("{digest} is stored"), || match &self.bucket {
            Some(bucket) if storage_of_run() == "s3" => bucket.has(digest),
            _ => disk::is_stored(&self.root, digest),
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            eprintln!(
                "--- the server wrote (store kept in {}) ---\n{}---",
                self.root.display(),
                self.home.notes()
            );
        }
    }
}

/// The same command, by way of a shell that lowers both limits of open files.
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

/// `command`, with its environment, as the last words of another command line.
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

/// Finds `listening on <ip>:<port>` in what a server wrote.
fn listening_on(stderr: &str) -> Option<SocketAddr> {
    // Only whole lines: half an address may parse too.
    let (whole, _) = stderr.rsplit_once('\n')?;
    let (_, rest) = whole.split_once("listening on ")?;
    let word = rest.split_whitespace().next()?;
    let addr = word.trim_matches(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '[' | ']' | ':' | '.')));
    let mut addr: SocketAddr = addr.parse().ok()?;
    if addr.ip().is_unspecified() {
        addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    Some(addr)
}

/// A directory of its own, removed on drop unless the test failed.
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
                "x\n INFO listening on 127.0.0.1:4711 (io_uring)\n",
                Some("127.0.0.1:4711"),
            ),
            ("listening on [::1]:80,\n", Some("[::1]:80")),
            ("listening on 0.0.0.0:80\n", Some("127.0.0.1:80")),
            ("listening on 127.0.0.1:47", None),
            ("nothing\n", None),
        ] {
            assert_eq!(listening_on(text), want.map(|w| w.parse().unwrap()), "{text:?}");
        }
    }
}
