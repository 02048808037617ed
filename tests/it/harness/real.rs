//! Debian's `docker-registry` as a process, with content in a directory and with configurable
//! authentication.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use super::client::Client;
use super::{Image, PATIENCE, Response};

/// The authentication that the registry requires.
pub enum Login<'a> {
    /// No authentication, for reads and writes.
    Open,
    /// A user of a file written by `htpasswd -B`.
    Basic { htpasswd: &'a Path },
    /// A token signed with the key of this certificate.
    Tokens {
        realm: String,
        service: &'a str,
        certificate: &'a Path,
    },
}

/// A running registry. Killed on drop.
pub struct RealRegistry {
    child: Child,
    addr: SocketAddr,
    log: PathBuf,
}

impl RealRegistry {
    /// Whether the required programs are installed. Prints a message if a program is missing.
    pub fn is_installed() -> bool {
        for program in ["docker-registry", "htpasswd", "openssl"] {
            let found = std::env::var_os("PATH").is_some_and(|path| {
                std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
            });
            if !found {
                eprintln!("SKIPPED: docker-registry as upstream: {program} is not installed");
                return false;
            }
        }
        true
    }

    /// Starts a registry with content below `dir`. Several registries may serve a directory with
    /// different logins.
    pub fn start(dir: &Path, login: &Login<'_>) -> Self {
        static CALLS: AtomicU64 = AtomicU64::new(0);
        let number = CALLS.fetch_add(1, Ordering::Relaxed);
        let mut config = format!(
            "version: 0.1\nlog: {{level: info, formatter: text}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n\
             storage: {{filesystem: {{rootdirectory: \"{}\"}}}}\n",
            dir.join("content").display()
        );
        match login {
            Login::Open => {}
            Login::Basic { htpasswd } => writeln!(
                config,
                "auth: {{htpasswd: {{realm: a real one, path: \"{}\"}}}}",
                htpasswd.display()
            )
            .expect("memory"),
            Login::Tokens {
                realm,
                service,
                certificate,
            } => writeln!(
                config,
                "auth: {{token: {{realm: \"{realm}\", service: \"{service}\", issuer: \"{}\", rootcertbundle: \"{}\"}}}}",
                super::jwt::ISSUER,
                certificate.display()
            )
            .expect("memory"),
        }
        let file = dir.join(format!("registry-{number}.yml"));
        std::fs::write(&file, config).expect("write the configuration of docker-registry");
        let log = dir.join(format!("registry-{number}.log"));
        let output = std::fs::File::create(&log).expect("create the log of docker-registry");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("duplicate the handle of the log"))
            .stderr(output)
            .spawn()
            .expect("docker-registry can be started");
        let mut registry = RealRegistry {
            child,
            addr: SocketAddr::from(([127, 0, 0, 1], 0)),
            log,
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            if let Some(port) = registry.port() {
                registry.addr.set_port(port);
                return registry;
            }
            let ended = registry
                .child
                .try_wait()
                .expect("the status of the child process")
                .is_some();
            assert!(
                !ended && std::time::Instant::now() < deadline,
                "docker-registry does not listen; output:\n{}",
                registry.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the log so far, with a line for each answered request.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the number of answered GET and HEAD requests below `/v2/` whose log line contains
    /// `fragment`.
    pub fn served(&self, fragment: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains("] \"GET /v2/") || line.contains("] \"HEAD /v2/"))
            .filter(|line| line.contains(fragment))
            .count()
    }

    /// Returns the listening port of the process, which chooses a free port itself.
    fn port(&self) -> Option<u16> {
        let pid = self.child.id();
        let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .ok()?
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter_map(|link| {
                let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                Some(inode.to_owned())
            })
            .collect();
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp")).ok()?;
        table.lines().skip(1).find_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let listens = columns.get(3) == Some(&"0A");
            let ours = columns
                .get(9)
                .is_some_and(|inode| sockets.iter().any(|socket| socket == inode));
            let port = columns.get(1)?.rsplit(':').next()?;
            (listens && ours).then(|| u16::from_str_radix(port, 16).ok())?
        })
    }

    /// Pushes an image with the upload protocol. Requires an open registry.
    pub fn push(&self, repository: &str, tag: &str, image: &Image) {
        let client = Client::new(self.addr);
        let host = self.addr.to_string();
        let send = |method: &str, target: &str, media_type: &str, body: &[u8]| -> Response {
            let mut connection = client.open();
            let length = body.len().to_string();
            let fields = [
                ("Host", host.as_str()),
                ("Content-Type", media_type),
                ("Content-Length", &length),
            ];
            connection.request(method, target, &fields).expect("send");
            connection.send(body).expect("send");
            connection
                .read(method)
                .unwrap_or_else(|broken| panic!("{method} {target}: {broken:?}"))
        };
        for (digest, content) in image.all_blobs() {
            let begun = send(
                "POST",
                &format!("/v2/{repository}/blobs/uploads/"),
                "application/json",
                b"",
            );
            let location = begun
                .field("location")
                .expect("the response has a Location for the upload");
            let target = &location[location.find("/v2/").expect("a path")..];
            let target = format!("{target}&digest={digest}");
            let put = send("PUT", &target, "application/octet-stream", &content.bytes());
            assert_eq!(put.status, 201, "{put}");
        }
        for manifest in image.manifests().into_iter().rev() {
            let reference = if manifest.digest == image.digest {
                tag
            } else {
                &manifest.digest
            };
            let target = format!("/v2/{repository}/manifests/{reference}");
            let put = send("PUT", &target, &manifest.media_type, &manifest.manifest);
            assert_eq!(put.status, 201, "{put}");
        }
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- output of docker-registry ---\n{}---", self.log());
        }
    }
}
