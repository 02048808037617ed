//! Loopback ports that stay reserved while nothing listens on them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

/// A loopback port, reserved until drop.
///
/// A bound socket that never listens holds the port. Connections are refused unless a listener
/// exists, and neither another listener on port 0 nor an outgoing connection gets the port.
pub struct Port {
    addr: SocketAddr,
    _reserved: socket2::Socket,
}

impl Default for Port {
    fn default() -> Self {
        Port::new()
    }
}

impl Port {
    pub fn new() -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)
            .expect("create a socket");
        // With this option on both sockets, a listener may bind the same port.
        socket.set_reuse_address(true).expect("set an option");
        socket
            .bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
            .expect("bind a loopback port");
        let addr = socket.local_addr().expect("bound").as_socket();
        Port {
            addr: addr.expect("an IP address"),
            _reserved: socket,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens on the port until the listener is dropped. Panics while another listener exists.
    pub fn listen(&self) -> TcpListener {
        // The standard library sets SO_REUSEADDR.
        TcpListener::bind(self.addr).unwrap_or_else(|error| panic!("bind {}: {error}", self.addr))
    }
}
