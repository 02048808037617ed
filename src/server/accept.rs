//! The accept loop of one core: who comes in, who is refused, who goes to another core.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, select};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, acceptfrom_with, socket_with,
};

use super::connection::Connection;
use super::crowd::{Crowd, Full, Place};
use super::h1::CROWDED;
use super::h2;
use super::handover;
use super::listen::Listener;
use super::stream::Stream;
use super::tls::{Acceptor, Door, TlsStream};
use super::watch::WatchList;
use super::{AccessLog, Handler};
use crate::limits::{ACCEPTS_PER_TURN, CLOSED_AT_ONCE_MAX, CLOSED_AT_ONCE_PART};
use crate::log;
use crate::runtime::clock::monotonic_seconds;
use crate::runtime::episode::{Episode, News};
use crate::runtime::helper::Helper;
use crate::runtime::memory::CoreMemory;
use crate::runtime::shutdown::{Running, Shutdown};
use crate::sys::Socket;

/// Pause when descriptors or memory have run out and not even a refusal is possible: connections that end free some.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(50);

/// Pause after [`ACCEPTS_PER_TURN`], or when some were told to go, in which the core looks after the connections it has.
const TURN: Duration = Duration::from_millis(1);

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
    pub load: Load,
    /// For listeners with TLS.
    pub(super) tls: Option<Door>,
    watches: WatchList,
    /// Given up when descriptors have run out, so that whoever waits can be told.
    spare: RefCell<Option<OwnedFd>>,
    /// Connections at the last sweep.
    told: Cell<usize>,
}

/// What a core has to bear, as a part of what the process has.
pub struct Load {
    /// The core's number.
    pub core: usize,
    pub crowd: Crowd,
    pub memory: CoreMemory,
}

impl<H: Handler> Server<H> {
    pub fn new(
        handler: Rc<H>,
        helper: Helper,
        shutdown: Shutdown,
        access_log: Option<AccessLog>,
        tls: Option<Acceptor>,
        load: Load,
    ) -> Rc<Self> {
        Rc::new(Server {
            handler,
            helper,
            shutdown,
            access_log,
            tls: tls.map(Door::new),
            load,
            watches: WatchList::default(),
            spare: RefCell::new(spare()),
            told: Cell::new(0),
        })
    }

    /// Every [`SWEEP`]: deadlines, room for those who wait for it, and the log.
    async fn sweep(&self) -> ! {
        loop {
            monoio::time::sleep(SWEEP).await;
            self.watches.sweep(self.shutdown.draining());
            if self.load.crowd.is_full() {
                // The next connection may come to a core that has no idle one.
                self.make_room(WatchList::make_spare_room);
            }
            self.tell();
            if let Some(log) = &self.access_log {
                log.flush();
            }
        }
    }

    /// Ends a few of the longest waiting connections, chosen by `end`. Returns their number.
    fn make_room(&self, end: impl FnOnce(&WatchList, usize) -> usize) -> usize {
        let crowd = &self.load.crowd;
        let count = (crowd.max() / CLOSED_AT_ONCE_PART).clamp(1, CLOSED_AT_ONCE_MAX);
        let ended = end(&self.watches, count);
        crowd
            .trouble()
            .made_room
            .fetch_add(ended as u64, Ordering::Relaxed);
        ended
    }

    /// Says what has changed. One core says it for all.
    fn tell(&self) {
        let Load { core, crowd, memory } = &self.load;
        let count = crowd.count(*core);
        if self.told.replace(count) != count {
            tracing::debug!(core, count, "connections");
        }
        let trouble = crowd.trouble();
        tell(&trouble.crowded, || {
            format!(
                "there are as many connections as there may be ({}, max_connections); idle ones are closed and new ones refused",
                crowd.max()
            )
        });
        tell(&trouble.greedy, || {
            "a client has as many connections as one may have (max_connections_per_client); its new ones are refused".into()
        });
        tell(&trouble.descriptors, || {
            "out of file descriptors; idle connections are closed and new ones refused".into()
        });
        tell(memory.budget().refused(), || {
            format!(
                "the memory budget is used up ({} bytes, memory_budget); what has to be fetched is refused",
                memory.budget().limit()
            )
        });
    }

    /// Takes a connection in, or refuses it. Whether others were told to go for it: they need a turn to do so.
    fn admit(self: &Rc<Self>, stream: std::net::TcpStream, peer: Option<SocketAddr>, tls: bool) -> bool {
        let Load { core, crowd, .. } = &self.load;
        let client = peer.map(|peer| peer.ip());
        let mut outcome = crowd.enter(*core, client);
        let mut made_room = false;
        if matches!(outcome, Err(Full::Process)) {
            let trouble = &crowd.trouble().crowded;
            trouble.happened(1);
            made_room = self.make_room(WatchList::make_room) > 0;
            if made_room {
                outcome = crowd.enter(*core, client);
            }
        }
        let place = match outcome {
            Ok(place) => place,
            Err(full) => {
                if full == Full::Client {
                    crowd.trouble().greedy.happened(1);
                }
                refuse(&stream, tls);
                return made_room;
            }
        };
        let mut arrived = Arrived {
            stream,
            peer,
            tls,
            place,
            running: self.shutdown.count(),
        };
        let better = crowd.better_core(*core);
        if let Some((to, mailbox)) = better.and_then(|to| Some((to, crowd.mailbox(to)?))) {
            arrived.place.move_to(to);
            match mailbox.put(arrived) {
                Ok(()) => return made_room,
                Err(back) => arrived = back,
            }
            arrived.place.move_to(*core);
        }
        spawn(self.clone(), arrived);
        made_room
    }

    /// Tells one who waits on `listener` that there is no descriptor for him; false when not even that is possible.
    fn out_of_descriptors(&self, listener: &Listener) -> bool {
        self.load.crowd.trouble().descriptors.happened(1);
        self.make_room(WatchList::make_room);
        let Some(given_up) = self.spare.take() else {
            self.spare.replace(spare());
            return false;
        };
        drop(given_up);
        let accepted = acceptfrom_with(
            listener.socket.as_fd(),
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        );
        if let Ok((fd, _)) = &accepted {
            refuse(fd, listener.tls);
        }
        let told = accepted.is_ok();
        drop(accepted);
        // Somebody else may have been faster; then the next pause tries again.
        self.spare.replace(spare());
        told
    }
}

/// A descriptor to give up when there is no other.
fn spare() -> Option<OwnedFd> {
    socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()
}

/// Closes a connection that is one too many. Without TLS it is told so, if that needs no waiting.
fn refuse(stream: impl AsFd, tls: bool) {
    if tls {
        return;
    }
    let _ = rustix::net::send(&stream, CROWDED, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    let _ = rustix::net::shutdown(&stream, rustix::net::Shutdown::Write);
    // What lies unread when a socket is closed resets the connection, and the client may not see what it was told.
    let _ = rustix::net::recv(&stream, &mut [0; 4096], RecvFlags::DONTWAIT);
}

fn tell(episode: &Episode, what: impl Fn() -> String) {
    match episode.look(monotonic_seconds()) {
        None => {}
        Some(News::Begun) => tracing::warn!("{}", what()),
        Some(News::Over(times)) => tracing::info!(times, "over: {}", what()),
    }
}

/// Accepts on `listeners` until the server drains, then closes them; connections go on. Never returns: the
/// core runs for as long as the process.
pub async fn serve<H: Handler>(server: Rc<Server<H>>, listeners: Vec<Listener>) {
    let (mailbox, inbox) = handover::mailbox();
    let to = server.clone();
    monoio::spawn(async move { inbox.serve(|arrived| spawn(to.clone(), arrived)).await });
    server.load.crowd.install(server.load.core, mailbox);
    for listener in listeners {
        let server = server.clone();
        monoio::spawn(async move {
            if let Err(error) = accept_all(&server, listener).await {
                // Without its listener the core is useless, and the process must not live on as a part of itself.
                tracing::error!(%error, "cannot accept any more; ending the process so that it is restarted");
                log::abort();
            }
        });
    }
    server.sweep().await;
}

async fn accept_all<H: Handler>(server: &Rc<Server<H>>, listener: Listener) -> io::Result<()> {
    let _accepting = server.shutdown.count_listener();
    let waiting = listener.readiness()?;
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
                    return accept_last(server, &listener).await;
                }
                Either::Right(_) => {}
            }
        }
        accept_waiting(server, &listener).await?;
    }
    accept_last(server, &listener).await
}

/// Ends the accepting. What waits in a socket of our own is served, because closing would reset it; what waits in one that
/// a supervisor keeps open is for whoever accepts next.
async fn accept_last<H: Handler>(server: &Rc<Server<H>>, listener: &Listener) -> io::Result<()> {
    if listener.inherited {
        return Ok(());
    }
    accept_waiting(server, listener).await
}

/// Accepts until nobody waits.
async fn accept_waiting<H: Handler>(server: &Rc<Server<H>>, listener: &Listener) -> io::Result<()> {
    let mut turn = 0;
    loop {
        match acceptfrom_with(
            listener.socket.as_fd(),
            SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
        ) {
            Ok((fd, peer)) => {
                let peer: Option<SocketAddr> = peer.and_then(|peer| peer.try_into().ok());
                // On a dual-stack socket IPv4 clients look like IPv6 ones; a log should not.
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
        turn += 1;
        if turn % ACCEPTS_PER_TURN == 0 {
            monoio::time::sleep(TURN).await;
        }
    }
}

/// A connection the kernel has made and nobody has read from.
pub(super) struct Arrived {
    stream: std::net::TcpStream,
    peer: Option<SocketAddr>,
    tls: bool,
    place: Place,
    running: Running,
}

/// Runs one connection; a panic in it ends it and nothing else.
fn spawn<H: Handler>(server: Rc<Server<H>>, arrived: Arrived) {
    let Arrived {
        stream,
        peer,
        tls,
        place,
        running,
    } = arrived;
    let stream = match Socket::new(stream).and_then(|socket| match &server.tls {
        Some(door) if tls => TlsStream::new(socket, door.config(), door.offload())
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
    let watch = server.watches.add(&stream, place);
    let connection = Connection::new(server, watch, stream, peer);
    drop(monoio::spawn(contained(async move {
        if let Some(begun) = connection.run().await {
            // In a task of its own, so that what HTTP/1 needs is given back.
            let serving = h2::serve(begun).map(move |()| drop(running));
            drop(monoio::spawn(contained(serving)));
        }
    })));
}

/// Catches a panic of `task`. The message and place have been logged by the panic hook.
///
/// No `async` function, in which what is given and what is waited for would both have room: every connection would pay twice.
fn contained(task: impl Future<Output = ()>) -> impl Future<Output = ()> {
    AssertUnwindSafe(task).catch_unwind().map(|ended| {
        if ended.is_err() {
            tracing::error!("a connection ended by a panic; this is a bug worth reporting");
        }
    })
}
