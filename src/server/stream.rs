//! What carries a connection's bytes. Everything above it speaks HTTP and does not know which it is.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::Shutdown;

use super::deadlines::ConnectionDeadline;
use super::tls::{KtlsStream, TlsStream};
use crate::http::Certificate;
use crate::sys::{Local, Pipe, Socket};

/// A client's byte stream: calls that never wait, and readiness to wait for.
///
/// # Cancellation
///
/// Free everywhere: nothing is lent to the kernel across an await.
pub enum Stream {
    Plain(Socket),
    /// Boxed: a session is a few KiB, and most connections are one or the other for their whole life.
    Tls(Box<TlsStream>),
    /// A session after its handshake, encrypted by kTLS.
    Ktls(Box<KtlsStream>),
}

impl Stream {
    /// Moves a session to kTLS after the handshake, where kTLS supports the session. With an error the stream is good
    /// for closing only.
    pub fn into_ktls(self) -> (Self, io::Result<()>) {
        match self {
            Stream::Tls(tls) => match tls.into_ktls() {
                Ok((ktls, outcome)) => (Stream::Ktls(Box::new(ktls)), outcome),
                Err(tls) => (Stream::Tls(tls), Ok(())),
            },
            other => (other, Ok(())),
        }
    }

    /// Whether bytes of files may go to it as they are: [`Stream::sendfile`] and [`Stream::splice`].
    pub fn takes_files(&self) -> bool {
        !matches!(self, Stream::Tls(_))
    }

    /// Whether it should take no further request.
    pub fn is_key_near_limit(&self) -> bool {
        match self {
            Stream::Plain(_) | Stream::Tls(_) => false,
            Stream::Ktls(ktls) => ktls.is_key_near_limit(),
        }
    }

    /// Whether HTTP/2 was agreed on. On a plain connection nothing was: there the first bytes say it.
    pub fn is_h2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.is_h2(),
            Stream::Ktls(ktls) => ktls.is_h2(),
        }
    }

    /// The certificate the client has proved to be its own.
    pub fn certificate(&self) -> Option<&Certificate> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls.certificate(),
            Stream::Ktls(ktls) => ktls.certificate(),
        }
    }

    /// Appends received bytes to `buffer`, at most its spare capacity; 0 is the end.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.recv(buffer),
            Stream::Tls(tls) => tls.recv(buffer),
            Stream::Ktls(ktls) => ktls.recv(buffer),
        }
    }

    /// Takes some of `bytes`; `more` says that the rest of a segment follows at once. What was taken may still be with the
    /// session: see [`Stream::flush`].
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send(bytes, more),
            Stream::Tls(tls) => tls.send_vectored(&[IoSlice::new(bytes)], more),
            Stream::Ktls(ktls) => ktls.send(bytes, more),
        }
    }

    /// Takes some of `slices` with one call.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send_vectored(slices, more),
            Stream::Tls(tls) => tls.send_vectored(slices, more),
            Stream::Ktls(ktls) => ktls.send_vectored(slices, more),
        }
    }

    /// Hands the kernel what was taken and is still here; for the end of a response. `Ok(())`: the kernel has everything.
    /// `WouldBlock`: wait until it is writable, and call again.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) | Stream::Ktls(_) => Ok(()),
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Says in the session that nothing more will be sent, then as [`Stream::flush`]. Never after a body that was cut off:
    /// its client must not believe that it has everything.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(tls) => tls.finish(),
            Stream::Ktls(ktls) => ktls.finish(),
        }
    }

    /// Says that nothing more will be sent, before the stream is shut down for writing or closed in order: as far as it is taken
    /// at once, and in the kernel to the end.
    pub async fn leave(&self, deadline: &ConnectionDeadline) {
        match self {
            // Boxed: an idle connection should not pay for the wait.
            Stream::Ktls(ktls) => Box::pin(ktls.leave(deadline)).await,
            other => {
                let _ = other.finish();
            }
        }
    }

    /// Sends some of `len` bytes of `file` at `offset` without a copy through our memory; 0 at the file's end.
    ///
    /// # Errors
    ///
    /// `Unsupported` where it does not take files.
    pub fn sendfile(&self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.sendfile(file, offset, len),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            Stream::Ktls(ktls) => ktls.sendfile(file, offset, len),
        }
    }

    /// Sends some of what `pipe` holds; errors as of [`Stream::sendfile`].
    pub fn splice(&self, pipe: &mut Pipe, more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.splice(pipe, more),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            Stream::Ktls(ktls) => ktls.splice(pipe, more),
        }
    }

    /// Waits until there is something to read (or the end, or an error).
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.readable().await,
            Stream::Tls(tls) => tls.readable().await,
            Stream::Ktls(ktls) => ktls.socket().readable().await,
        }
    }

    /// Waits until there is room to write.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.writable().await,
            Stream::Tls(tls) => tls.socket().writable().await,
            Stream::Ktls(ktls) => ktls.socket().writable().await,
        }
    }

    /// As [`Socket::limit_unsent`].
    pub fn limit_unsent(&self, bytes: u32) {
        match self {
            Stream::Plain(socket) => socket.limit_unsent(bytes),
            Stream::Tls(tls) => tls.socket().limit_unsent(bytes),
            Stream::Ktls(ktls) => ktls.socket().limit_unsent(bytes),
        }
    }

    /// Returns the socket handle that the connection deadline may shut down.
    pub fn local(&self) -> Local {
        match self {
            Stream::Plain(socket) => socket.local(),
            Stream::Tls(tls) => tls.socket().local(),
            Stream::Ktls(ktls) => ktls.socket().local(),
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
            Stream::Ktls(ktls) => ktls.reset_on_close(),
        }
    }
}
