//! What carries a connection's bytes. Everything above it speaks HTTP and does not know which it is.

use std::io::{self, IoSlice};
use std::net::Shutdown;

use crate::sys::{Local, Socket};

/// A client's byte stream: calls that never wait, and readiness to wait for.
///
/// # Cancellation
///
/// Free everywhere: nothing is lent to the kernel across an await.
pub enum Stream {
    Plain(Socket),
}

impl Stream {
    /// The socket, when bytes of files may go to it as they are.
    pub fn bare(&self) -> Option<&Socket> {
        match self {
            Stream::Plain(socket) => Some(socket),
        }
    }

    /// Appends what has arrived to `inbox`, at most its spare capacity; 0 is the end.
    pub fn recv(&self, inbox: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.recv(inbox),
        }
    }

    /// Takes some of `bytes`; `more` says that the rest of a segment follows at once.
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send(bytes, more),
        }
    }

    /// Takes some of `slices` with one call.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send_vectored(slices, more),
        }
    }

    /// Waits until there is something to read (or the end, or an error).
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.readable().await,
        }
    }

    /// Waits until there is room to write.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.writable().await,
        }
    }

    /// What the watch may shut down.
    pub fn local(&self) -> Local {
        match self {
            Stream::Plain(socket) => socket.local(),
        }
    }

    pub fn shutdown(&self, how: Shutdown) {
        self.local().shutdown(how);
    }

    /// Makes the coming close a reset, so that no client can take what it has for complete.
    pub fn reset_on_close(&self) {
        match self {
            Stream::Plain(socket) => socket.reset_on_close(),
        }
    }
}
