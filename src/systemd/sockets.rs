//! Sockets that a service manager has opened for us and keeps while we come and go (`sd_listen_fds(3)`).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;

use rustix::net::sockopt;

/// Why passed sockets cannot be used. The service manager's configuration is to blame.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    #[error("{0}")]
    Descriptor(#[from] io::Error),
    #[error("socket {0} of those passed is no TCP socket that listens (ListenStream= with a port)")]
    NotListening(usize),
}

/// Takes over `count` sockets, with the addresses they listen on. Once in a process, before it opens anything.
///
/// # Errors
///
/// One is missing, or is not a TCP socket that listens.
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
            // Fails for what has no internet address, such as a Unix socket.
            let address = socket.local_addr().map_err(|_| TakeError::NotListening(index))?;
            // The flag is of the socket, not of our descriptor: whoever shares it waits before it accepts, as we do.
            socket.set_nonblocking(true)?;
            Ok((address, socket))
        })
        .collect()
}
