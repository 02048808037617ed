//! Listening sockets opened by the service manager (`sd_listen_fds(3)`). The sockets stay open
//! while the process restarts.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use rustix::net::sockopt;

/// The reason why passed sockets cannot be used. Caused by the service manager's configuration.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("{0}")]
    Descriptor(#[from] io::Error),
    #[error("inherited socket {0} is no listening TCP socket; set ListenStream= to an address with a port")]
    NotListening(usize),
}

/// Takes over `count` sockets, with their listening addresses. Called at most once, before the
/// process opens a descriptor.
///
/// # Errors
///
/// A socket is missing, or is not a listening TCP socket.
pub fn take_sockets(count: usize) -> Result<Vec<(SocketAddr, TcpListener)>, TakeError> {
    let descriptors = crate::sys::take_inherited(count)?;
    descriptors
        .into_iter()
        .enumerate()
        .map(|(index, fd)| {
            if !sockopt::socket_acceptconn(fd.as_fd()).unwrap_or(false) {
                return Err(TakeError::NotListening(index));
            }
            let socket = TcpListener::from(fd);
            // Fails for a socket without an internet address, such as a Unix socket.
            let address = socket.local_addr().map_err(|_| TakeError::NotListening(index))?;
            // The flag belongs to the socket and not to the descriptor. Every process with the
            // socket is affected, and must wait for readiness before `accept`.
            socket.set_nonblocking(true)?;
            Ok((address, socket))
        })
        .collect()
}
