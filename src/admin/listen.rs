//! The socket and the listeners of the admin API.

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::access::Peer;
use super::api::Api;
use super::import::LongRequest;
use super::socket_path;
use crate::config::ListenAddr;
use crate::limits::{
    ADMIN_BIND_PAUSE, ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_TIMEOUT, ADMIN_REQUEST_TIMEOUT, IMPORT_TIMEOUT,
};
use crate::store::FsStore;

/// Mode of the socket: the user and the group of the cache.
const SOCKET_MODE: u32 = 0o660;

/// The operations of a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Serves {
    Everything,
    /// Health checks only.
    Health,
    /// Metrics only.
    Metrics,
}

impl Serves {
    /// Returns the setting of the listener's address.
    fn setting(self) -> &'static str {
        match self {
            Serves::Everything => "ADMIN_ADDR",
            Serves::Health => "HEALTH_ADDR",
            Serves::Metrics => "METRICS_ADDR",
        }
    }
}

/// The open socket. The drop removes the name of the socket.
pub struct AdminSocket(PathBuf);

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Opens the socket in the directory of `store`. A failure is logged: for example, 107 bytes are the
/// limit of the path.
pub fn open_socket(store: &FsStore) -> Option<(AdminSocket, std::os::unix::net::UnixListener)> {
    let path = socket_path(store.root());
    match bind_socket(store, path.clone()) {
        Ok(opened) => Some(opened),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "admin socket not opened");
            None
        }
    }
}

fn bind_socket(
    store: &FsStore,
    path: PathBuf,
) -> io::Result<(AdminSocket, std::os::unix::net::UnixListener)> {
    // Another name until the socket has its mode. The rename replaces the socket of a killed process.
    let unready = store.temporary_dir().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&unready)?;
    fs::set_permissions(&unready, Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    let socket = AdminSocket(path);
    fs::rename(&unready, &socket.0)?;
    Ok((socket, listener))
}

/// Answers the clients of the socket.
pub async fn serve_socket(listener: std::os::unix::net::UnixListener, api: Arc<Api>) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::warn!(%error, "admin socket not opened"),
    };
    let accept = || async {
        let (stream, _) = listener.accept().await?;
        let peer = Peer::User(stream.peer_cred()?.uid());
        Ok((stream, peer))
    };
    serve_all(accept, Serves::Everything, api).await;
}

/// Binds `addr` and answers its clients. While another process uses the address, as an earlier process
/// of the cache may, binds again after a pause.
pub async fn serve_address(addr: ListenAddr, serves: Serves, api: Arc<Api>) {
    let mut is_logged = false;
    let listener = loop {
        match bind(addr).await {
            Ok(listener) => break listener,
            Err(error) => {
                if !is_logged {
                    tracing::warn!(address = %addr, setting = serves.setting(), %error, "admin address not opened");
                    is_logged = true;
                }
                tokio::time::sleep(ADMIN_BIND_PAUSE).await;
            }
        }
    };
    if let Ok(address) = listener.local_addr() {
        let url = format!("http://{address}");
        match serves {
            Serves::Everything => tracing::info!(address = url, "admin listening"),
            Serves::Health => tracing::info!(address = url, "health listening"),
            Serves::Metrics => tracing::info!(address = url, "metrics listening"),
        }
    }
    let accept = || async {
        let (stream, address) = listener.accept().await?;
        Ok((stream, Peer::Address(address)))
    };
    serve_all(accept, serves, api).await;
}

async fn bind(addr: ListenAddr) -> io::Result<TcpListener> {
    let at = |host: IpAddr| SocketAddr::new(host, addr.port);
    match addr.host {
        Some(host) => TcpListener::bind(at(host)).await,
        // An IPv6 socket also accepts IPv4.
        None => match TcpListener::bind(at(Ipv6Addr::UNSPECIFIED.into())).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            Err(_) => TcpListener::bind(at(Ipv4Addr::UNSPECIFIED.into())).await,
            bound => bound,
        },
    }
}

async fn serve_all<S, F>(accept: impl Fn() -> F, serves: Serves, api: Arc<Api>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = io::Result<(S, Peer)>>,
{
    let slots = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match accept().await {
            Ok((stream, peer)) => {
                let api = api.clone();
                tokio::spawn(async move {
                    let long = LongRequest::default();
                    let mut serving = pin!(serve(stream, peer, serves, api, long.clone()));
                    let served = tokio::time::timeout(ADMIN_REQUEST_TIMEOUT, &mut serving).await;
                    if served.is_err() && long.is_allowed() {
                        let _ = tokio::time::timeout(IMPORT_TIMEOUT, serving).await;
                    }
                    drop(slot);
                });
            }
            // Too few descriptors, for example.
            Err(error) => {
                tracing::debug!(%error, "admin connection not accepted");
                tokio::time::sleep(ADMIN_HEAD_TIMEOUT / 10).await;
            }
        }
    }
}

/// Answers one request. A client that breaks the protocol loses its connection.
async fn serve<S>(stream: S, peer: Peer, serves: Serves, api: Arc<Api>, long: LongRequest)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(long.clone());
        let api = api.clone();
        async move { Ok::<_, Infallible>(api.answer(peer, serves, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection failed");
    }
}
