//! An S3 engine in this process, behind a fault proxy on loopback. The proxy follows the script of
//! a test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_s3::config::{Credentials, Region, SharedCredentialsProvider};
use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::config::S3Settings;
use crate::store::s3::{S3OpenError, S3Store};
use crate::store::tests::files_below;
use crate::sync::Mutex;

pub const ACCESS: &str = "GK000000000000000000000001";
pub const SECRET: &str = "canary-secret";

/// Longest name below the prefix, in bytes. The engine stores the metadata of an object in a file
/// named after the object.
pub const ENGINE_NAME_MAX: usize = 150;

/// A directory that is removed at the end of the test.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("s3-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The action of the fault proxy for a request.
#[derive(Clone, Debug)]
pub enum Act {
    Forward,
    /// Status and code of an error response.
    Refuse(u16, &'static str),
    /// No response.
    Hang,
    /// The engine's response, cut after this many body bytes. The connection then ends.
    Cut(usize),
    /// The head of the engine's response, without a body.
    Stall,
}

type Script = Box<dyn FnMut(&str) -> Act + Send>;

/// An engine and the fault proxy in front of it.
pub struct Engine {
    /// The root, with a directory per bucket.
    pub dir: Scratch,
    proxy: String,
    script: Arc<Mutex<Script>>,
    /// Received request lines: `PUT /bucket/key`.
    pub seen: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    pub async fn start() -> Engine {
        let dir = Scratch::new();
        let mut service = S3ServiceBuilder::new(FileSystem::new(&dir.0).unwrap());
        service.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = service.build();
        let engine = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = engine.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((socket, _)) = engine.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(socket), service).await;
                });
            }
        });

        let script: Arc<Mutex<Script>> = Arc::new(Mutex::new(Box::new(|_| Act::Forward)));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = proxy.local_addr().unwrap();
        let (script_there, seen_there) = (script.clone(), seen.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = proxy.accept().await {
                let (script, seen) = (script_there.clone(), seen_there.clone());
                tokio::spawn(async move {
                    let _ = pass(client, behind, script, seen).await;
                });
            }
        });
        Engine {
            dir,
            proxy: format!("http://{address}"),
            script,
            seen,
        }
    }

    pub fn script(&self, script: impl FnMut(&str) -> Act + Send + 'static) {
        *self.script.lock() = Box::new(script);
    }

    pub fn heal(&self) {
        self.script(|_| Act::Forward);
    }

    pub fn settings(&self) -> S3Settings {
        S3Settings {
            bucket: "oci-cache".into(),
            prefix: "eu/".into(),
            force_path_style: true,
            lifecycle_days: 0,
            redirect: false,
            ca_bundle: None,
        }
    }

    pub fn sdk(&self, secret: &str) -> SdkConfig {
        let credentials = Credentials::new(ACCESS, secret, None, None, "test");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(super::super::connect::http_client(None))
            .region(Region::new("us-east-1"))
            .endpoint_url(&self.proxy)
            .build()
    }

    pub async fn open(&self) -> Result<S3Store, S3OpenError> {
        S3Store::open_at(&self.sdk(SECRET), &self.settings()).await
    }

    /// Returns the path of an object in the bucket.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.0.join("oci-cache").join(name)
    }

    pub fn requests(&self, prefix: &str) -> usize {
        let seen = self.seen.lock();
        seen.iter().filter(|line| line.starts_with(prefix)).count()
    }

    /// Returns the path of the object `name` below the prefix of a store.
    pub fn place(&self, name: &str) -> PathBuf {
        self.path("eu").join(name)
    }

    /// Returns the names of all objects below the prefix, except the self-test object.
    pub fn names(&self) -> Vec<String> {
        let mut names = files_below(&self.path("eu"));
        names.retain(|name| name != ".self-test");
        names
    }
}

/// Handles one request per connection: reads the whole request, runs the script, and forwards the
/// request or not.
async fn pass(
    mut client: TcpStream,
    behind: std::net::SocketAddr,
    script: Arc<Mutex<Script>>,
    seen: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let Some((head, body)) = message(&mut client).await? else {
        return Ok(());
    };
    let line = head.lines().next().unwrap_or_default();
    let line = line.rsplit_once(' ').map_or(line, |(line, _)| line).to_owned();
    seen.lock().push(line.clone());
    let act = (script.lock())(&line);
    if let Act::Hang = act {
        // Waits until the client gives up.
        let _ = client.read(&mut [0; 1]).await;
        return Ok(());
    }
    if let Act::Refuse(status, code) = act {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{code}</Code><Message>scripted by the test</Message></Error>"
        );
        let body = if line.starts_with("HEAD") {
            String::new()
        } else {
            body
        };
        let answer = format!(
            "HTTP/1.1 {status} x\r\nContent-Type: application/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        return client.write_all(answer.as_bytes()).await;
    }
    let mut engine = TcpStream::connect(behind).await?;
    let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    engine.write_all(head.as_bytes()).await?;
    engine.write_all(&body).await?;
    let mut answer = Vec::new();
    engine.read_to_end(&mut answer).await?;
    let head_end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or(0)
        + 4;
    match act {
        Act::Cut(bytes) => answer.truncate(head_end + bytes),
        Act::Stall => {
            client.write_all(&answer[..head_end]).await?;
            let _ = client.read(&mut [0; 1]).await;
            return Ok(());
        }
        _ => {}
    }
    client.write_all(&answer).await?;
    client.shutdown().await
}

/// Reads the head and body of a request.
async fn message(client: &mut TcpStream) -> std::io::Result<Option<(String, Vec<u8>)>> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        if client.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    };
    let body = bytes.split_off(end);
    let head = String::from_utf8(bytes).expect("heads are ASCII");
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap());
    let mut body = body;
    while body.len() < length {
        if client.read_buf(&mut body).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some((head, body)))
}

/// Waits until `holds` returns true, for work that continues after a response.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1_500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not within 30 seconds: {what}");
}
