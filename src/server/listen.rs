//! One listening socket per core on one address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel keeps for a core that is busy; bounded further by `net.core.somaxconn`.
const BACKLOG: i32 = 4_096;

/// One core's listening socket on one address.
#[derive(Debug)]
pub struct Listener {
    pub socket: TcpListener,
    /// Clients speak TLS here.
    pub tls: bool,
    /// A supervisor has it too, and keeps it when we go.
    pub inherited: bool,
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
pub fn bind(host: Option<IpAddr>, port: u16, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
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

    #[test]
    fn a_second_process_on_the_port_is_refused() {
        let loopback = Some(Ipv4Addr::LOCALHOST.into());
        let (local, sockets) = bind(loopback, 0, 3).unwrap();
        assert_eq!(sockets.len(), 3);
        let again = bind(loopback, local.port(), 3).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
    }
}
