//! One listening socket per core on one address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel keeps for a core that is busy; bounded further by `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// How long [`bind`] waits for an address that is in use. The kernel tears down the io_uring instances of a killed process
/// within some ten milliseconds after its exit, and a process that stops closes its listeners within `DRAIN_CHECK`; a loaded
/// machine takes some times that. A port that another process keeps is reported after this time.
pub const BIND_WAIT: Duration = Duration::from_secs(3);

/// Pause between two attempts to bind.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// One core's listening socket on one address.
#[derive(Debug)]
pub struct Listener {
    pub socket: TcpListener,
    /// Clients speak TLS here.
    pub tls: bool,
    /// The service manager holds the socket too, and keeps the socket open after the process ends.
    pub inherited: bool,
}

impl Listener {
    /// A handle that becomes readable when a client waits, and that does not keep the socket open.
    ///
    /// A poll on the socket itself would give io_uring a reference to it until the kernel has torn the ring down, which is
    /// after the end of a killed process: the port stays taken, and clients connect to a socket that will never be accepted
    /// from. An epoll instance holds no reference to the files it watches.
    ///
    /// # Errors
    ///
    /// When descriptors have run out.
    pub(super) fn readiness(&self) -> io::Result<monoio::net::TcpListener> {
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &instance,
            &self.socket,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
        // The runtime has no type for any other descriptor; of this one only `readable` is called.
        monoio::net::TcpListener::from_std(TcpListener::from(instance))
    }
}

/// Binds as `bind_now` does, and tries again within `wait` while the address is in use; `waiting` is called once, before
/// the first pause. Blocking: for the start.
///
/// # Errors
///
/// Those of `bind_now`.
pub fn bind(
    host: Option<IpAddr>,
    port: u16,
    count: usize,
    wait: Duration,
    waiting: impl FnOnce(),
) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let deadline = Instant::now() + wait;
    let mut waiting = Some(waiting);
    loop {
        match bind_now(host, port, count) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                if let Some(waiting) = waiting.take() {
                    waiting();
                }
                std::thread::park_timeout(BIND_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

/// Binds `count` sockets to one address and listens. Without a host: every address, IPv6 and IPv4; port 0
/// lets the kernel choose. Gives the address they share.
///
/// The first is bound without `SO_REUSEPORT`, so that a second process on the port is refused instead of
/// being given half of the connections; the option is set afterwards for the others to join.
///
/// # Errors
///
/// The address is in use, not ours, or privileged.
fn bind_now(host: Option<IpAddr>, port: u16, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = match host {
        Some(host) => claim(SocketAddr::new(host, port))?,
        None => claim(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).or_else(|error| {
            // A host without IPv6: its families or addresses are missing, which is no error of the operator's.
            match error.raw_os_error() {
                Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL) => {
                    claim(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
                }
                _ => Err(error),
            }
        })?,
    };
    let local = first
        .local_addr()?
        .as_socket()
        .ok_or_else(|| io::Error::other("the bound socket has no internet address"))?;
    first.set_reuse_port(true)?;
    let mut sockets = vec![first];
    for _ in 1..count {
        let socket = open(local)?;
        socket.set_reuse_port(true)?;
        socket.bind(&local.into())?;
        sockets.push(socket);
    }
    for socket in &sockets {
        socket.listen(BACKLOG)?;
    }
    Ok((local, sockets.into_iter().map(TcpListener::from).collect()))
}

fn claim(addr: SocketAddr) -> io::Result<Socket> {
    let socket = open(addr)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn open(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        // `[::]` serves IPv4 as well; a given address serves itself.
        socket.set_only_v6(addr.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn a_second_process_on_the_port_is_refused() {
        let (local, sockets) = bind_now(LOOPBACK, 0, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let mut waited = 0;
        let again = bind(LOOPBACK, local.port(), 3, 5 * BIND_PAUSE, || waited += 1).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(waited, 1, "one line, however many attempts");
    }

    #[test]
    fn a_port_that_is_let_go_meanwhile_is_bound() {
        let (local, sockets) = bind_now(LOOPBACK, 0, 1).unwrap();
        let wait = Duration::from_secs(60);
        let (again, _) = bind(LOOPBACK, local.port(), 2, wait, || drop(sockets)).unwrap();
        assert_eq!(again, local);
    }
}
