//! An S3 server in the test process, with scripted failures.
//!
//! Another implementation (`s3s-fs`) stores objects, builds responses and checks signatures. This
//! module contains the sockets, one thread per connection, and the failures. Objects are files, so
//! a test can read, damage and remove objects.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};

use super::pki::Issued;
use super::server::{Options, TempDir};
use super::{PATIENCE, eventually, uninterrupted};

pub const ACCESS_KEY: &str = "AKIAITISATEST";
pub const SECRET_KEY: &str = "a-secret-that-must-not-be-seen";
pub const NAME: &str = "images";

/// A failure of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// An S3 error: status and code.
    Error(u16, &'static str),
    /// A delay of the response head.
    Late(Duration),
    /// No response until the failure is removed.
    Silence,
    /// The body and the connection end after this number of bytes.
    Cut(u64),
    /// The lowest bit of the body byte at this offset is inverted.
    Flip(u64),
    /// Bytes per second.
    Rate(u64),
}

/// A failure and its requests, selected by method and by a part of the key.
#[derive(Clone, Debug)]
struct Rule {
    method: &'static str,
    fragment: String,
    fault: Fault,
    left: usize,
}

/// A request as received.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub target: String,
    pub range: Option<String>,
    /// The region in the request's signature.
    pub region: Option<String>,
}

/// A connection, with or without TLS.
trait Stream: io::Read + io::Write {}

impl<S: io::Read + io::Write> Stream for S {}

pub struct Bucket {
    inner: Arc<Inner>,
    addr: SocketAddr,
    dir: TempDir,
}

struct Inner {
    service: S3Service,
    root: PathBuf,
    runtime: tokio::runtime::Runtime,
    rules: Mutex<Vec<Rule>>,
    log: Mutex<Vec<Asked>>,
    /// Whether the bucket closes existing connections and refuses new ones.
    down: AtomicBool,
    stop: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    tls: Option<Arc<ServerConfig>>,
}

impl Default for Bucket {
    fn default() -> Self {
        Bucket::new()
    }
}

impl Bucket {
    /// Creates an empty bucket.
    pub fn new() -> Self {
        Self::speaking(None)
    }

    /// Creates an empty bucket that serves TLS with this certificate.
    pub fn with_tls(issued: &Issued) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(issued.chain.as_bytes()).expect("a certificate")];
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key));
        Self::speaking(Some(Arc::new(config.expect("the key fits the certificate"))))
    }

    fn speaking(tls: Option<Arc<ServerConfig>>) -> Self {
        let dir = TempDir::new();
        std::fs::create_dir_all(dir.path.join(NAME)).expect("a directory for the bucket");
        let fs = s3s_fs::FileSystem::new(&dir.path).expect("a directory");
        let mut builder = S3ServiceBuilder::new(fs);
        builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("threads");
        let inner = Arc::new(Inner {
            service: builder.build(),
            root: dir.path.clone(),
            runtime,
            rules: Mutex::default(),
            log: Mutex::default(),
            down: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            streams: Mutex::default(),
            tls,
        });
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("bound");
        let for_thread = inner.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if for_thread.stop.load(Ordering::SeqCst) {
                    return;
                }
                let inner = for_thread.clone();
                std::thread::spawn(move || drop(inner.serve(stream)));
            }
        });
        Bucket { inner, addr, dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Configures a server to use this bucket as its only store (`s3`) or behind a disk (`tiered`).
    pub fn behind(&self, options: Options, backend: &str) -> Options {
        let scheme = if self.inner.tls.is_some() { "https" } else { "http" };
        options
            .env("STORAGE_BACKEND", backend)
            .env("S3_BUCKET", NAME)
            .env("AWS_ENDPOINT_URL", format!("{scheme}://{}", self.addr))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
            .env("S3_LIFECYCLE_DAYS", "0")
    }

    // --- Behaviour ---

    /// Adds a failure for all requests with `method` (`*`: any) whose target contains `fragment`.
    pub fn add_fault(&self, method: &'static str, fragment: &str, fault: Fault) {
        self.add_fault_times(usize::MAX, method, fragment, fault);
    }

    /// Adds a failure as [`Bucket::add_fault`] does, for the next `times` matching requests.
    pub fn add_fault_times(&self, times: usize, method: &'static str, fragment: &str, fault: Fault) {
        self.inner.rules.lock().unwrap().push(Rule {
            method,
            fragment: fragment.into(),
            fault,
            left: times,
        });
    }

    /// Removes all failures and accepts connections again.
    pub fn clear_faults(&self) {
        self.inner.rules.lock().unwrap().clear();
        self.inner.down.store(false, Ordering::SeqCst);
    }

    /// Closes every connection, and each new connection immediately.
    pub fn down(&self) {
        self.inner.down.store(true, Ordering::SeqCst);
        for stream in self.inner.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    // --- Contents ---

    fn bucket(&self) -> PathBuf {
        self.dir.path.join(NAME)
    }

    /// Returns the file path of the object `key`, even if the object does not exist.
    pub fn path(&self, key: &str) -> PathBuf {
        self.bucket().join(key)
    }

    /// Returns the key of a blob.
    pub fn blob_key(digest: &str) -> String {
        format!("blobs/{}", digest.replace(':', "-"))
    }

    /// Whether content and sidecar of `digest` are stored, as a blob or as a manifest of any
    /// repository.
    pub fn has(&self, digest: &str) -> bool {
        let name = digest.replace(':', "-");
        let sidecar = format!("{name}.meta.json");
        let keys = self.keys();
        let under = |key: &String, name: &str| key.rsplit('/').next() == Some(name);
        keys.iter().any(|key| under(key, &name)) && keys.iter().any(|key| under(key, &sidecar))
    }

    #[track_caller]
    pub fn wait_has(&self, digest: &str) {
        eventually(&format!("the bucket has {digest}"), || self.has(digest));
    }

    /// Returns all keys, sorted.
    pub fn keys(&self) -> Vec<String> {
        fn walk(dir: &Path, root: &Path, keys: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    walk(&path, root, keys);
                } else if let Ok(key) = path.strip_prefix(root) {
                    keys.push(key.display().to_string());
                }
            }
        }
        let mut keys = Vec::new();
        walk(&self.bucket(), &self.bucket(), &mut keys);
        keys.sort();
        keys
    }

    // --- Received requests ---

    pub fn log(&self) -> Vec<Asked> {
        self.inner.log.lock().unwrap().clone()
    }

    pub fn clear_log(&self) {
        self.inner.log.lock().unwrap().clear();
    }

    pub fn count(&self, method: &str, fragment: &str) -> usize {
        let log = self.inner.log.lock().unwrap();
        log.iter()
            .filter(|asked| asked.method == method && asked.target.contains(fragment))
            .count()
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::SeqCst);
        self.inner.rules.lock().unwrap().clear();
        self.down();
        let _ = TcpStream::connect(self.addr);
    }
}

impl Inner {
    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        self.streams.lock().unwrap().push(stream.try_clone()?);
        let socket = stream.try_clone()?;
        let served = match &self.tls {
            None => self.serve_requests(&mut stream),
            Some(config) => {
                let connection = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
                self.serve_requests(&mut StreamOwned::new(connection, stream))
            }
        };
        socket.shutdown(Shutdown::Both)?;
        served
    }

    fn serve_requests(&self, stream: &mut dyn Stream) -> io::Result<()> {
        let mut inbox = Vec::new();
        while !self.down.load(Ordering::SeqCst)
            && let Some(request) = read_request(stream, &mut inbox)?
        {
            let goes_on = self.answer(stream, request)?;
            stream.flush()?;
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Returns the file of a request's object.
    fn file_of(&self, target: &str) -> PathBuf {
        let path = target.split('?').next().unwrap_or_default();
        self.root
            .join(super::registry::percent_decoded(path).trim_start_matches('/'))
    }

    /// Returns the failure for a request and counts its use.
    fn rule_for(&self, asked: &Asked) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| {
            rule.left > 0
                && (rule.method == "*" || rule.method == asked.method)
                && asked.target.contains(&rule.fragment)
        })?;
        rule.left -= 1;
        Some(rule.fault.clone())
    }

    /// Answers a request. Returns whether the connection stays open.
    fn answer(&self, stream: &mut dyn Stream, request: http::Request<Vec<u8>>) -> io::Result<bool> {
        let field = |name| {
            let value = request.headers().get(name)?;
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let asked = Asked {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            range: field("range"),
            // Credential=<key>/<date>/<region>/s3/aws4_request
            region: field("authorization").and_then(|text| Some(text.split('/').nth(2)?.to_owned())),
        };
        self.log.lock().unwrap().push(asked.clone());
        let fault = self.rule_for(&asked);
        match fault {
            Some(Fault::Error(status, code)) => {
                let body = if asked.method == "HEAD" {
                    String::new()
                } else {
                    format!(
                        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as told</Message></Error>"
                    )
                };
                let head = format!(
                    "HTTP/1.1 {status} Fault\r\ncontent-type: application/xml\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all(head.as_bytes())?;
                stream.write_all(body.as_bytes())?;
                return Ok(true);
            }
            Some(Fault::Silence) => {
                while !self.rules.lock().unwrap().is_empty() && !self.down.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return Ok(false);
            }
            Some(Fault::Late(time)) => std::thread::sleep(time),
            _ => {}
        }
        let file = self.file_of(&asked.target);
        let (head, mut body) = self.runtime.block_on(async {
            let request = request.map(s3s::Body::from);
            let response = self
                .service
                .call(request)
                .await
                .map_err(|_| io::Error::other("s3s"))?;
            let (head, mut body) = response.into_parts();
            if asked.method == "GET"
                && let Some(part) = part_of(&file, &head)
            {
                // `s3s-fs` would read the file in pieces of 4 KiB, with a thread switch for each
                // piece.
                return Ok((head, part));
            }
            let body = body.store_all_limited(1 << 30).await;
            let body = body.map_err(|_| io::Error::other("the object cannot be read"))?;
            Ok::<_, io::Error>((head, body.to_vec()))
        })?;
        let mut text = format!("HTTP/1.1 {} Whatever\r\n", head.status.as_u16());
        let is_head = asked.method == "HEAD";
        for (name, value) in &head.headers {
            let framing = name == "transfer-encoding" || (name == "content-length" && !is_head);
            if !framing {
                text.push_str(&format!(
                    "{name}: {}\r\n",
                    String::from_utf8_lossy(value.as_bytes())
                ));
            }
        }
        let bodiless = is_head || matches!(head.status.as_u16(), 204 | 304);
        if !bodiless {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        stream.write_all(text.as_bytes())?;
        if bodiless {
            return Ok(true);
        }
        match fault {
            Some(Fault::Cut(at)) => {
                stream.write_all(&body[..body.len().min(at as usize)])?;
                return Ok(false);
            }
            Some(Fault::Flip(at)) => {
                if let Some(byte) = body.get_mut(at as usize) {
                    *byte ^= 1;
                }
                stream.write_all(&body)?;
            }
            Some(Fault::Rate(rate)) => {
                for piece in body.chunks((rate as usize / 20).max(1)) {
                    stream.write_all(piece)?;
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            _ => stream.write_all(&body)?,
        }
        Ok(true)
    }
}

/// Returns the body of a successful response about the object in `file`.
fn part_of(file: &Path, head: &http::response::Parts) -> Option<Vec<u8>> {
    let span = match (head.status.as_u16(), head.headers.get("content-range")) {
        (200, _) => None,
        (206, Some(range)) => {
            let range = range.to_str().ok()?.strip_prefix("bytes ")?;
            let (from, to) = range.split('/').next()?.split_once('-')?;
            Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?))
        }
        _ => return None,
    };
    let Some((from, to)) = span else {
        return std::fs::read(file).ok();
    };
    let mut part = vec![0; usize::try_from(to + 1 - from).ok()?];
    let file = std::fs::File::open(file).ok()?;
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, from).ok()?;
    Some(part)
}

/// Reads the next complete request of a connection. `None` at the end of the connection.
fn read_request(stream: &mut dyn Stream, inbox: &mut Vec<u8>) -> io::Result<Option<http::Request<Vec<u8>>>> {
    let mut piece = vec![0; 256 * 1024];
    let head_len = loop {
        if let Some(at) = inbox.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match uninterrupted(|| stream.read(&mut piece))? {
            0 => return Ok(None),
            read => inbox.extend_from_slice(&piece[..read]),
        }
    };
    let head = String::from_utf8_lossy(&inbox[..head_len]).into_owned();
    inbox.drain(..head_len);
    let bad = |what: &str| io::Error::other(what.to_owned());
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let mut request = http::Request::builder().method(method).uri(target);
    let mut length = 0;
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| bad("a field without a colon"))?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        match name.as_str() {
            "content-length" => length = value.parse().map_err(|_| bad("an invalid Content-Length"))?,
            "transfer-encoding" => return Err(bad("a chunked body")),
            "expect" => stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?,
            _ => {}
        }
        request = request.header(name, value);
    }
    while inbox.len() < length {
        match uninterrupted(|| stream.read(&mut piece))? {
            0 => return Ok(None),
            read => inbox.extend_from_slice(&piece[..read]),
        }
    }
    let body = inbox.drain(..length).collect();
    request.body(body).map(Some).map_err(|_| bad("not a request"))
}
