//! Listening sockets: one per core on each address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::event::epoll;
use socket2::{Domain, Protocol, Socket, Type};

/// Pending connections that the kernel queues for a busy core. The kernel also applies
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// The time for which [`bind`] retries an address that is in use. After the exit of a killed
/// process, the kernel needs about ten milliseconds to tear down its io_uring instances. A process
/// that shuts down closes its listeners within `DRAIN_CHECK`. A loaded machine needs several times
/// as long. If another process still holds the port after this time, [`bind`] returns the error.
pub const BIND_WAIT: Duration = Duration::from_secs(3);

/// The pause between two attempts to bind.
const BIND_PAUSE: Duration = Duration::from_millis(10);

/// The listening socket of one core on one address.
#[derive(Debug)]
pub struct Listener {
    pub socket: TcpListener,
    /// Clients use TLS on this socket.
    pub tls: bool,
    /// The service manager also holds the socket and keeps it open after the process ends.
    pub inherited: bool,
}

impl Listener {
    /// Returns a handle that becomes readable when a client waits, without keeping the socket open.
    ///
    /// With a poll on the socket itself, io_uring would hold a reference until the teardown of the
    /// ring. After a kill, the process ends before that teardown. Meanwhile the port would stay in
    /// use, and clients would connect to a socket without an accepting process. An epoll instance
    /// holds no reference to the files in its interest list.
    ///
    /// # Errors
    ///
    /// The process has no free file descriptor.
    pub(super) fn readiness(&self) -> io::Result<monoio::net::TcpListener> {
        let instance = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(
            &instance,
            &self.socket,
            epoll::EventData::new_u64(0),
            epoll::EventFlags::IN,
        )?;
        // The runtime has no type for other descriptors. The handle is only used for `readable`.
        monoio::net::TcpListener::from_std(TcpListener::from(instance))
    }
}

/// Binds like `bind_now`, and retries for `wait` while the address is in use. Calls `waiting` once,
/// before the first pause. Blocking; only for startup.
///
/// # Errors
///
/// The errors of `bind_now`.
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

/// Binds `count` sockets to one address, listens, and returns the shared address. Without `host`,
/// the sockets accept IPv6 and IPv4 on all addresses. For port 0, the kernel chooses the port.
///
/// The first socket is bound without `SO_REUSEPORT`, so that a second process cannot bind the port
/// and receive half of the connections. Afterwards the option is set, so that the other sockets can
/// join.
///
/// # Errors
///
/// The address is in use, is not an address of this host, or is privileged.
fn bind_now(host: Option<IpAddr>, port: u16, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let first = match host {
        Some(host) => claim(SocketAddr::new(host, port))?,
        None => claim(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)).or_else(|error| {
            // A host without IPv6 lacks the address family or its addresses. The fallback to IPv4
            // is no operator error.
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
        // `[::]` also serves IPv4. Any other IPv6 address serves only IPv6.
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
        assert_eq!(waited, 1, "several attempts report the wait once");
    }

    #[test]
    fn bind_succeeds_once_the_port_is_released() {
        let (local, sockets) = bind_now(LOOPBACK, 0, 1).unwrap();
        let wait = Duration::from_secs(60);
        let (again, _) = bind(LOOPBACK, local.port(), 2, wait, || drop(sockets)).unwrap();
        assert_eq!(again, local);
    }
}
