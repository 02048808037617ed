//! The admin API, for operators on the machine of the cache. HTTP/1.1 with JSON on a unix socket in
//! the directory of the store. `docs/reference/admin-api.md` describes the API.
//!
//! The socket accepts the user of the cache and root. The operations are in [`crate::manage`].

mod api;
mod client;
mod client_jobs;
mod jobs;
mod plans;
mod problem;

use std::convert::Infallible;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use crate::limits::{ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_TIMEOUT, ADMIN_REQUEST_TIMEOUT};
use crate::runtime::helper::Helper;
use crate::store::FsStore;

pub use client::{AdminClient, AdminError, ServerPlan};
pub use jobs::{JobState, JobStatus};

use api::Api;

/// The name of the socket in the directory of the store.
const SOCKET: &str = ".admin.sock";

/// Mode of the socket: the user and the group of the cache.
const SOCKET_MODE: u32 = 0o660;

/// The user of a client.
#[derive(Clone, Copy, Debug)]
struct Actor {
    uid: u32,
}

/// The open socket. The drop removes the name of the socket.
pub struct AdminSocket(PathBuf);

impl Drop for AdminSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Returns the path of the socket of the cache with the store in `root`.
pub fn socket_path(root: &Path) -> PathBuf {
    root.join(SOCKET)
}

/// Opens the socket and answers its clients on the helper pool. The caller holds the lock of the
/// store, so an existing socket belongs to a process that has ended.
///
/// # Errors
///
/// The socket cannot be created, for example because its path is too long: 107 bytes are the limit.
pub fn start(store: Arc<FsStore>, helper: &Helper) -> io::Result<AdminSocket> {
    // Another name until the socket has its mode. The rename replaces the socket of a killed process.
    let unready = store.temporary_dir().join("admin.sock");
    let listener = std::os::unix::net::UnixListener::bind(&unready)?;
    fs::set_permissions(&unready, Permissions::from_mode(SOCKET_MODE))?;
    listener.set_nonblocking(true)?;
    let socket = AdminSocket(socket_path(store.root()));
    fs::rename(&unready, &socket.0)?;
    let api = Arc::new(Api::new(store));
    helper.spawn(async move {
        match UnixListener::from_std(listener) {
            Ok(listener) => accept(listener, api).await,
            Err(error) => tracing::warn!(%error, "admin socket not opened"),
        }
    });
    Ok(socket)
}

async fn accept(listener: UnixListener, api: Arc<Api>) {
    let slots = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    // The semaphore is never closed.
    while let Ok(slot) = slots.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let api = api.clone();
                tokio::spawn(async move {
                    let serving = serve(stream, api);
                    let _ = tokio::time::timeout(ADMIN_REQUEST_TIMEOUT, serving).await;
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
async fn serve(stream: UnixStream, api: Arc<Api>) {
    let Ok(peer) = stream.peer_cred() else { return };
    let actor = Actor { uid: peer.uid() };
    let is_allowed = actor.uid == 0 || actor.uid == rustix::process::geteuid().as_raw();
    let service = service_fn(move |request| {
        let api = api.clone();
        async move {
            let response = if is_allowed {
                api.answer(actor, request).await
            } else {
                Err(problem::Problem::Forbidden)
            };
            Ok::<_, Infallible>(response.unwrap_or_else(problem::Problem::response))
        }
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
