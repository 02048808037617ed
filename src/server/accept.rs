//! The accept loop of one core.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::connection::Connection;
use super::listen::Listener;
use super::stream::Stream;
use super::tls::{Acceptor, Door, TlsStream};
use super::watch::WatchList;
use super::{AccessLog, Handler};
use crate::limits::CONNECTIONS_PER_CORE_MAX;
use crate::runtime::helper::Helper;
use crate::runtime::shutdown::Shutdown;
use crate::sys::Socket;

/// Pause when descriptors have run out: connections that end free some.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// How often deadlines are looked at and log lines handed over.
pub(super) const SWEEP: Duration = Duration::from_millis(250);

/// How often a core without new clients looks whether to stop.
const DRAIN_CHECK: Duration = Duration::from_millis(100);

/// What every connection of a core shares.
pub struct Server<H> {
    pub handler: Rc<H>,
    pub helper: Helper,
    pub shutdown: Shutdown,
    pub access_log: Option<AccessLog>,
    /// For listeners with TLS.
    pub(super) tls: Option<Door>,
    watches: WatchList,
}

impl<H: Handler> Server<H> {
    pub fn new(
        handler: Rc<H>,
        helper: Helper,
        shutdown: Shutdown,
        access_log: Option<AccessLog>,
        tls: Option<Acceptor>,
    ) -> Rc<Self> {
        Rc::new(Server {
            handler,
            helper,
            shutdown,
            access_log,
            tls: tls.map(Door::new),
            watches: WatchList::default(),
        })
    }

    /// Every [`SWEEP`]: deadlines and the log.
    async fn sweep(&self) -> ! {
        loop {
            monoio::time::sleep(SWEEP).await;
            self.watches.sweep(self.shutdown.draining());
            if let Some(log) = &self.access_log {
                log.flush();
            }
        }
    }
}

/// Accepts on `listeners` until the server drains, then closes them; connections go on. Never returns: the
/// core runs for as long as the process.
pub async fn serve<H: Handler>(server: Rc<Server<H>>, listeners: Vec<Listener>) {
    for listener in listeners {
        let server = server.clone();
        monoio::spawn(async move {
            if let Err(error) = accept_all(&server, listener).await {
                // Without its listener the core is useless, and the process must not live on as a part of itself.
                tracing::error!(%error, "cannot accept any more; ending the process so that it is restarted");
                std::process::abort();
            }
        });
    }
    server.sweep().await;
}

async fn accept_all<H: Handler>(server: &Rc<Server<H>>, listener: Listener) -> io::Result<()> {
    // One handle for readiness, one for the call: both are the same socket.
    let waiting = monoio::net::TcpListener::from_std(listener.socket.try_clone()?)?;
    while !server.shutdown.draining() {
        let mut readable = std::pin::pin!(waiting.readable(false));
        // The wait for a client is kept across the checks for a stop, so that none is cancelled half-way.
        loop {
            match select(
                readable.as_mut(),
                std::pin::pin!(monoio::time::sleep(DRAIN_CHECK)),
            )
            .await
            {
                Either::Left((arrived, _)) => break arrived?,
                Either::Right(_) if server.shutdown.draining() => {
                    return accept_waiting(server, &listener).await;
                }
                Either::Right(_) => {}
            }
        }
        accept_waiting(server, &listener).await?;
    }
    // What the kernel has already accepted for us is served; closing now would reset it.
    accept_waiting(server, &listener).await
}

/// Accepts until nobody waits.
async fn accept_waiting<H: Handler>(server: &Rc<Server<H>>, listener: &Listener) -> io::Result<()> {
    loop {
        if server.watches.count() >= CONNECTIONS_PER_CORE_MAX {
            monoio::time::sleep(OUT_OF_DESCRIPTORS).await;
            continue;
        }
        match acceptfrom_with(
            listener.socket.as_fd(),
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        ) {
            Ok((fd, peer)) => {
                let peer: Option<SocketAddr> = peer.and_then(|peer| peer.try_into().ok());
                // On a dual-stack socket IPv4 clients look like IPv6 ones; a log should not.
                let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
                let stream = std::net::TcpStream::from(fd);
                let tls = listener.tls;
                spawn(server.clone(), Arrived { stream, peer, tls });
            }
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                tracing::warn!("out of file descriptors or memory; accepting again in 50 ms");
                monoio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
            // The client went away, or its network did: errors of one connection, not of the listener.
            Err(
                Errno::INTR
                | Errno::CONNABORTED
                | Errno::PROTO
                | Errno::PERM
                | Errno::NETDOWN
                | Errno::NETUNREACH
                | Errno::HOSTUNREACH
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::NOPROTOOPT
                | Errno::OPNOTSUPP
                | Errno::TIMEDOUT,
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A connection the kernel has made and nobody has read from.
struct Arrived {
    stream: std::net::TcpStream,
    peer: Option<SocketAddr>,
    tls: bool,
}

/// Runs one connection; a panic in it ends it and nothing else.
fn spawn<H: Handler>(server: Rc<Server<H>>, arrived: Arrived) {
    let stream = match Socket::new(arrived.stream).and_then(|socket| match &server.tls {
        Some(door) if arrived.tls => TlsStream::new(socket, door.config())
            .map(Box::new)
            .map(Stream::Tls),
        _ => Ok(Stream::Plain(socket)),
    }) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "cannot register a connection with the driver");
            return;
        }
    };
    let running = server.shutdown.count();
    let watch = server.watches.add(&stream);
    let connection = Connection::new(server, watch, stream, arrived.peer);
    drop(monoio::spawn(contained(async move {
        connection.run().await;
        drop(running);
    })));
}

/// Catches a panic of `task`. The message and place have been logged by the panic hook.
async fn contained(task: impl Future<Output = ()>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        tracing::error!("a connection ended by a panic; this is a bug worth reporting");
    }
}
