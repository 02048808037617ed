//! What carries a connection's bytes. Everything above it speaks HTTP and does not know which it is.

use std::io::{self, IoSlice};
use std::net::Shutdown;

use super::tls::TlsStream;
use crate::http::Certificate;
use crate::sys::{Local, Socket};

/// A client's byte stream: calls that never wait, and readiness to wait for.
///
/// # Cancellation
///
/// Free everywhere: nothing is lent to the kernel across an await.
pub enum Stream {
    Plain(Socket),
    /// Boxed: a session is a few KiB, and most connections are one or the other for their whole life.
    Tls(Box<TlsStream>),
}

impl Stream {
    /// The socket, when bytes of files may go to it as they are.
    pub fn bare(&self) -> Option<&Socket> {
        match self {
            Stream::Plain(socket) => Some(socket),
            Stream::Tls(_) => None,
        }
    }

    /// Whether HTTP/2 was agreed on. On a plain connection nothing was: there the first bytes say it.
    pub fn is_h2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.is_h2(),
        }
    }

    /// The certificate the client has proved to be its own.
    pub fn certificate(&self) -> Option<&Certificate> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls.certificate(),
        }
    }

    /// Appends what has arrived to `inbox`, at most its spare capacity; 0 is the end.
    pub fn recv(&self, inbox: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.recv(inbox),
            Stream::Tls(tls) => tls.recv(inbox),
        }
    }

    /// Takes some of `bytes`; `more` says that the rest of a segment follows at once. What was taken may still be with the
    /// session: see [`Stream::flush`].
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send(bytes, more),
            Stream::Tls(tls) => tls.send_vectored(&[IoSlice::new(bytes)], more),
        }
    }

    /// Takes some of `slices` with one call.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send_vectored(slices, more),
            Stream::Tls(tls) => tls.send_vectored(slices, more),
        }
    }

    /// Hands the kernel what was taken and is still here; for the end of a response. `Ok(())`: the kernel has everything.
    /// `WouldBlock`: wait until it is writable, and call again.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Says in the session that nothing more will be sent, then as [`Stream::flush`]. Never after a body that was cut off:
    /// its client must not believe that it has everything.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(tls) => tls.finish(),
        }
    }

    /// Waits until there is something to read (or the end, or an error).
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.readable().await,
            Stream::Tls(tls) => tls.readable().await,
        }
    }

    /// Waits until there is room to write.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.writable().await,
            Stream::Tls(tls) => tls.socket().writable().await,
        }
    }

    /// What the watch may shut down.
    pub fn local(&self) -> Local {
        match self {
            Stream::Plain(socket) => socket.local(),
            Stream::Tls(tls) => tls.socket().local(),
        }
    }

    pub fn shutdown(&self, how: Shutdown) {
        self.local().shutdown(how);
    }

    /// Makes the coming close a reset, so that no client can take what it has for complete.
    pub fn reset_on_close(&self) {
        match self {
            Stream::Plain(socket) => socket.reset_on_close(),
            Stream::Tls(tls) => tls.socket().reset_on_close(),
        }
    }
}
