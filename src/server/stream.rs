//! What carries a connection's bytes. Everything above it speaks HTTP and does not know which it is.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::Shutdown;

use super::tls::{KernelStream, TlsStream};
use super::watch::Watch;
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
    /// A session after its handshake, where the kernel encrypts.
    Kernel(Box<KernelStream>),
}

impl Stream {
    /// A session whose handshake is over goes on in the kernel, if that can be. With an error the stream is good for closing
    /// only.
    pub fn into_kernel(self) -> (Self, io::Result<()>) {
        match self {
            Stream::Tls(tls) => match tls.into_kernel() {
                Ok((kernel, outcome)) => (Stream::Kernel(Box::new(kernel)), outcome),
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
    pub fn is_worn_out(&self) -> bool {
        match self {
            Stream::Plain(_) | Stream::Tls(_) => false,
            Stream::Kernel(kernel) => kernel.is_worn_out(),
        }
    }

    /// Whether HTTP/2 was agreed on. On a plain connection nothing was: there the first bytes say it.
    pub fn is_h2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.is_h2(),
            Stream::Kernel(kernel) => kernel.is_h2(),
        }
    }

    /// The certificate the client has proved to be its own.
    pub fn certificate(&self) -> Option<&Certificate> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls.certificate(),
            Stream::Kernel(kernel) => kernel.certificate(),
        }
    }

    /// Appends what has arrived to `inbox`, at most its spare capacity; 0 is the end.
    pub fn recv(&self, inbox: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.recv(inbox),
            Stream::Tls(tls) => tls.recv(inbox),
            Stream::Kernel(kernel) => kernel.recv(inbox),
        }
    }

    /// Takes some of `bytes`; `more` says that the rest of a segment follows at once. What was taken may still be with the
    /// session: see [`Stream::flush`].
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send(bytes, more),
            Stream::Tls(tls) => tls.send_vectored(&[IoSlice::new(bytes)], more),
            Stream::Kernel(kernel) => kernel.send(bytes, more),
        }
    }

    /// Takes some of `slices` with one call.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send_vectored(slices, more),
            Stream::Tls(tls) => tls.send_vectored(slices, more),
            Stream::Kernel(kernel) => kernel.send_vectored(slices, more),
        }
    }

    /// Hands the kernel what was taken and is still here; for the end of a response. `Ok(())`: the kernel has everything.
    /// `WouldBlock`: wait until it is writable, and call again.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) | Stream::Kernel(_) => Ok(()),
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Says in the session that nothing more will be sent, then as [`Stream::flush`]. Never after a body that was cut off:
    /// its client must not believe that it has everything.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(tls) => tls.finish(),
            Stream::Kernel(kernel) => kernel.finish(),
        }
    }

    /// Says that nothing more will be sent, before the stream is shut down for writing or closed in order: as far as it is taken
    /// at once, and in the kernel to the end.
    pub async fn leave(&self, watch: &Watch) {
        match self {
            // Boxed: an idle connection should not pay for the wait.
            Stream::Kernel(kernel) => Box::pin(kernel.leave(watch)).await,
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
            Stream::Kernel(kernel) => kernel.sendfile(file, offset, len),
        }
    }

    /// Sends some of what `pipe` holds; errors as of [`Stream::sendfile`].
    pub fn splice(&self, pipe: &mut Pipe, more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.splice(pipe, more),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            Stream::Kernel(kernel) => kernel.splice(pipe, more),
        }
    }

    /// Waits until there is something to read (or the end, or an error).
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.readable().await,
            Stream::Tls(tls) => tls.readable().await,
            Stream::Kernel(kernel) => kernel.socket().readable().await,
        }
    }

    /// Waits until there is room to write.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.writable().await,
            Stream::Tls(tls) => tls.socket().writable().await,
            Stream::Kernel(kernel) => kernel.socket().writable().await,
        }
    }

    /// As [`Socket::limit_unsent`].
    pub fn limit_unsent(&self, bytes: u32) {
        match self {
            Stream::Plain(socket) => socket.limit_unsent(bytes),
            Stream::Tls(tls) => tls.socket().limit_unsent(bytes),
            Stream::Kernel(kernel) => kernel.socket().limit_unsent(bytes),
        }
    }

    /// What the watch may shut down.
    pub fn local(&self) -> Local {
        match self {
            Stream::Plain(socket) => socket.local(),
            Stream::Tls(tls) => tls.socket().local(),
            Stream::Kernel(kernel) => kernel.socket().local(),
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
            Stream::Kernel(kernel) => kernel.reset_on_close(),
        }
    }
}
