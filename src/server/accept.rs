//! The accept loop of one core. Accepts or rejects connections, and hands some of them to other
//! cores.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, acceptfrom_with};
use tracing::field::display;

use super::connection::Connection;
use super::connection_limits::LimitExceeded;
use super::core::{CoreResources, Server, open_reserve};
use super::deadlines::DeadlineTable;
use super::h1::CONNECTION_LIMIT_RESPONSE;
use super::listen::Listener;
use super::rebalance::{self, AcceptedSocket};
use super::stream::Stream;
use super::tls::TlsStream;
use super::{Handler, h2};
use crate::limits::{
    ACCEPTS_PER_TURN, CONNECTION_SWEEP_INTERVAL, EVICTIONS_AT_ONCE_DIVISOR, EVICTIONS_AT_ONCE_MAX,
};
use crate::log;
use crate::runtime::clock::monotonic_seconds;
use crate::runtime::condition_log::{LoggedCondition, Transition};
use crate::sys::Socket;

/// The pause when descriptors or memory are exhausted and the server cannot even reject a client.
/// Connections that end release resources.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// The pause after [`ACCEPTS_PER_TURN`] accepts or after an eviction, in which the core serves its
/// connections.
const TURN: Duration = Duration::from_millis(1);

/// The interval at which a core without new clients checks for shutdown.
const DRAIN_CHECK: Duration = Duration::from_millis(100);

impl<H: Handler> Server<H> {
    /// Sweeps every [`CONNECTION_SWEEP_INTERVAL`]: checks deadlines, evicts connections of a full
    /// server, logs overload, calls the handler's periodic work, and flushes the access log.
    async fn sweep(&self) -> ! {
        loop {
            monoio::time::sleep(CONNECTION_SWEEP_INTERVAL).await;
            self.deadlines.sweep(self.shutdown.draining());
            if self.resources.limits.is_full() {
                // The next connection may arrive on a core without idle connections.
                self.evict(DeadlineTable::evict_long_idle);
            }
            self.log_overload();
            self.handler.tick();
            if let Some(log) = &self.access_log {
                log.flush();
            }
        }
    }

    /// Evicts a few of the longest-waiting connections, selected by `end`. Returns their number.
    fn evict(&self, end: impl FnOnce(&DeadlineTable, usize) -> usize) -> usize {
        let limits = &self.resources.limits;
        let count = (limits.max() / EVICTIONS_AT_ONCE_DIVISOR).clamp(1, EVICTIONS_AT_ONCE_MAX);
        let ended = end(&self.deadlines, count);
        limits.events().evicted.fetch_add(ended as u64, Ordering::Relaxed);
        ended
    }

    /// Logs the transitions of the overload conditions. Only one core logs each transition.
    fn log_overload(&self) {
        let CoreResources {
            core, limits, memory, ..
        } = &self.resources;
        let count = limits.count(*core);
        if self.last_count.replace(count) != count {
            tracing::debug!(core, count, "open connections");
        }
        let events = limits.events();
        log_transition(
            &events.process_limit,
            ["connection limit reached", "connection limit no longer reached"],
            Some(("max_connections", limits.max() as u64)),
        );
        log_transition(
            &events.client_limit,
            ["connection limit reached", "connection limit no longer reached"],
            Some(("max_connections_per_client", limits.per_client_max() as u64)),
        );
        log_transition(
            &events.descriptors,
            [
                "file descriptors exhausted",
                "file descriptors no longer exhausted",
            ],
            None,
        );
        log_transition(
            memory.budget().refused(),
            ["memory budget exhausted", "memory budget no longer exhausted"],
            Some(("memory_budget", memory.budget().limit())),
        );
    }

    /// Accepts or rejects a connection. Returns whether other connections were evicted. Evicted
    /// connections need a pause to end.
    fn admit(self: &Rc<Self>, stream: std::net::TcpStream, peer: Option<SocketAddr>, tls: bool) -> bool {
        let CoreResources {
            core,
            limits,
            handoff_queues,
            ..
        } = &self.resources;
        let client = peer.map(|peer| peer.ip());
        let mut outcome = limits.acquire(*core, client);
        let mut made_room = false;
        if matches!(outcome, Err(LimitExceeded::Process)) {
            let events = &limits.events().process_limit;
            events.record(1);
            made_room = self.evict(DeadlineTable::evict_idle) > 0;
            if made_room {
                outcome = limits.acquire(*core, client);
            }
        }
        let slot = match outcome {
            Ok(slot) => slot,
            Err(exceeded) => {
                if exceeded == LimitExceeded::Client {
                    limits.events().client_limit.record(1);
                }
                refuse(&stream, tls);
                return made_room;
            }
        };
        let mut accepted = AcceptedSocket {
            stream,
            peer,
            tls,
            slot,
            running: self.shutdown.count(),
        };
        let better = limits.less_loaded_core(*core);
        if let Some((to, queue)) = better.and_then(|to| Some((to, handoff_queues.get(to)?))) {
            accepted.slot.move_to(to);
            match queue.push(accepted) {
                Ok(()) => return made_room,
                Err(back) => accepted = back,
            }
            accepted.slot.move_to(*core);
        }
        spawn(self.clone(), accepted);
        made_room
    }

    /// Rejects one client of `listener` when descriptors are exhausted. Returns whether a client
    /// was rejected.
    fn out_of_descriptors(&self, listener: &Listener) -> bool {
        self.resources.limits.events().descriptors.record(1);
        self.evict(DeadlineTable::evict_idle);
        let Some(reserve) = self.reserve.take() else {
            self.reserve.replace(open_reserve());
            return false;
        };
        drop(reserve);
        let accepted = acceptfrom_with(
            listener.socket.as_fd(),
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        );
        if let Ok((fd, _)) = &accepted {
            refuse(fd, listener.tls);
        }
        let rejected = accepted.is_ok();
        drop(accepted);
        // If another thread took the descriptor, the next call tries again.
        self.reserve.replace(open_reserve());
        rejected
    }
}

/// Rejects a connection above the limit. A client without TLS receives a 503 if the send does not
/// block.
fn refuse(stream: impl AsFd, tls: bool) {
    if tls {
        return;
    }
    let _ = rustix::net::send(
        &stream,
        CONNECTION_LIMIT_RESPONSE,
        SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
    );
    let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Write);
    // Closing a socket with unread bytes resets the connection, and the client may lose the 503.
    let _ = rustix::net::recv(&stream, &mut [0; 4096], RecvFlags::DONTWAIT);
}

/// Logs a transition of `condition`, with the setting of its limit.
fn log_transition(condition: &LoggedCondition, [started, ended]: [&str; 2], limit: Option<(&str, u64)>) {
    let setting = limit.map(|(setting, _)| display(setting));
    let limit = limit.map(|(_, limit)| limit);
    match condition.transition(monotonic_seconds()) {
        None => {}
        Some(Transition::Started) => tracing::warn!(limit, setting, "{started}"),
        Some(Transition::Ended(times)) => tracing::info!(limit, setting, times, "{ended}"),
    }
}

/// Accepts on `listeners` until the server drains, then closes the listeners. Connections continue.
/// Never returns, because the core runs as long as the process.
pub async fn serve<H: Handler>(server: Rc<Server<H>>, listeners: Vec<Listener>) {
    let (queue, receiver) = rebalance::handoff_queue();
    let to = server.clone();
    monoio::spawn(async move { receiver.serve(|accepted| spawn(to.clone(), accepted)).await });
    let CoreResources {
        core, handoff_queues, ..
    } = &server.resources;
    handoff_queues.set(*core, queue);
    for listener in listeners {
        let server = server.clone();
        monoio::spawn(async move {
            if let Err(error) = accept_all(&server, listener).await {
                // A core without a listener is useless. The process must not continue with only
                // some of its cores.
                tracing::error!(core = server.resources.core, %error, "accept failed; aborting the process");
                log::abort();
            }
        });
    }
    server.sweep().await;
}

async fn accept_all<H: Handler>(server: &Rc<Server<H>>, listener: Listener) -> io::Result<()> {
    let _accepting = server.shutdown.count_listener();
    let readiness = listener.readiness()?;
    while !server.shutdown.draining() {
        let mut readable = std::pin::pin!(readiness.readable(false));
        // The wait for a client continues across the drain checks, so that no wait is cancelled
        // midway.
        loop {
            match select(
                readable.as_mut(),
                std::pin::pin!(monoio::time::sleep(DRAIN_CHECK)),
            )
            .await
            {
                Either::Left((ready, _)) => break ready?,
                Either::Right(_) if server.shutdown.draining() => {
                    return accept_last(server, &listener).await;
                }
                Either::Right(_) => {}
            }
        }
        accept_pending(server, &listener).await?;
    }
    accept_last(server, &listener).await
}

/// Ends accepting. Accepts the pending connections of a socket of this process, because closing the
/// socket would reset them. Leaves the connections of an inherited socket to the next process.
async fn accept_last<H: Handler>(server: &Rc<Server<H>>, listener: &Listener) -> io::Result<()> {
    if listener.inherited {
        return Ok(());
    }
    accept_pending(server, listener).await
}

async fn accept_pending<H: Handler>(server: &Rc<Server<H>>, listener: &Listener) -> io::Result<()> {
    let mut turn = 0;
    loop {
        match acceptfrom_with(
            listener.socket.as_fd(),
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        ) {
            Ok((fd, peer)) => {
                let peer: Option<SocketAddr> = peer.and_then(|peer| peer.try_into().ok());
                // A dual-stack socket reports an IPv4 client as an IPv6 address. The log shows the
                // IPv4 address.
                let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
                if server.admit(std::net::TcpStream::from(fd), peer, listener.tls) {
                    turn = 0;
                    monoio::time::sleep(TURN).await;
                }
            }
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::MFILE | Errno::NFILE) if server.out_of_descriptors(listener) => {}
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                monoio::time::sleep(OUT_OF_DESCRIPTORS).await;
            }
            // Errors of one connection (the client or its network failed), not of the listener.
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
        turn += 1;
        if turn % ACCEPTS_PER_TURN == 0 {
            monoio::time::sleep(TURN).await;
        }
    }
}

/// Runs one connection. A panic ends only this connection.
fn spawn<H: Handler>(server: Rc<Server<H>>, accepted: AcceptedSocket) {
    let AcceptedSocket {
        stream,
        peer,
        tls,
        slot,
        running,
    } = accepted;
    let stream = match Socket::new(stream).and_then(|socket| match &server.tls {
        Some(context) if tls => TlsStream::new(socket, context.config(), context.ktls())
            .map(Box::new)
            .map(Stream::Tls),
        _ => Ok(Stream::Plain(socket)),
    }) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::warn!(%error, "connection not registered with the driver");
            return;
        }
    };
    let deadline = server.deadlines.add(stream.local(), slot);
    let connection = Connection::new(server, deadline, stream, peer);
    drop(monoio::spawn(contained(async move {
        if let Some(accepted_h2) = connection.run().await {
            // A separate task, so that the HTTP/1 state is freed.
            let serving = h2::serve(accepted_h2).map(move |()| drop(running));
            drop(monoio::spawn(contained(serving)));
        }
    })));
}

/// Catches a panic of `task`. The panic hook has logged the message and location.
///
/// Not an `async` function: its future would hold both the argument and the awaited future, so
/// every connection would pay twice.
fn contained(task: impl Future<Output = ()>) -> impl Future<Output = ()> {
    AssertUnwindSafe(task).catch_unwind().map(|ended| {
        if ended.is_err() {
            tracing::error!("connection task panicked");
        }
    })
}
