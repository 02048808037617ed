//! The byte stream of a client connection: plain TCP, TLS in user space, or kTLS. The HTTP layers
//! above do not depend on the kind.

use std::fs::File;
use std::io::{self, IoSlice};
use std::net::Shutdown;

use super::deadlines::{ConnectionDeadline, WaitReason};
use super::tls::{KtlsStream, TlsStream};
use crate::http::Certificate;
use crate::limits::{LINGER_BYTES_MAX, LINGER_TIMEOUT};
use crate::sys::{Cork, Local, Pipe, Socket};

/// Size of the buffer for discarded input.
const DISCARD_BUFFER_BYTES: usize = 4 * 1024;

/// A client's byte stream. Reads and writes never wait; a caller waits for readiness separately.
///
/// # Cancellation
///
/// All waits are cancel-safe. The kernel holds no buffer across an await.
pub enum Stream {
    Plain(Socket),
    /// Boxed, because a session takes a few KiB and most connections never change their kind.
    Tls(Box<TlsStream>),
    /// A TLS session after its handshake, encrypted by kTLS.
    Ktls(Box<KtlsStream>),
}

impl Stream {
    /// Moves a session to kTLS after the handshake, if kTLS supports the session. After an error,
    /// the caller can only close the stream.
    pub fn into_ktls(self) -> (Self, io::Result<()>) {
        match self {
            Stream::Tls(tls) => match tls.into_ktls() {
                Ok((ktls, outcome)) => (Stream::Ktls(Box::new(ktls)), outcome),
                Err(tls) => (Stream::Tls(tls), Ok(())),
            },
            other => (other, Ok(())),
        }
    }

    /// Returns whether the stream supports [`Stream::sendfile`] and [`Stream::splice`].
    pub fn takes_files(&self) -> bool {
        !matches!(self, Stream::Tls(_))
    }

    /// Returns whether the TLS key is near its usage limit. The connection must then accept no
    /// further request.
    pub fn is_key_near_limit(&self) -> bool {
        match self {
            Stream::Plain(_) | Stream::Tls(_) => false,
            Stream::Ktls(ktls) => ktls.is_key_near_limit(),
        }
    }

    pub fn is_tls(&self) -> bool {
        !matches!(self, Stream::Plain(_))
    }

    /// Returns whether TLS has negotiated HTTP/2. A plain connection has no negotiation; its first
    /// bytes select the protocol.
    pub fn is_h2(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(tls) => tls.is_h2(),
            Stream::Ktls(ktls) => ktls.is_h2(),
        }
    }

    /// Returns the verified certificate of the client.
    pub fn certificate(&self) -> Option<&Certificate> {
        match self {
            Stream::Plain(_) => None,
            Stream::Tls(tls) => tls.certificate(),
            Stream::Ktls(ktls) => ktls.certificate(),
        }
    }

    /// Appends received bytes to `buffer`, up to its spare capacity. Returns 0 at the end of the
    /// stream.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.recv(buffer),
            Stream::Tls(tls) => tls.recv(buffer),
            Stream::Ktls(ktls) => ktls.recv(buffer),
        }
    }

    /// Sends some of `bytes` and returns their number. With `more`, the rest of a segment follows
    /// at once. The TLS session may still buffer accepted bytes; see [`Stream::flush`].
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send(bytes, more),
            Stream::Tls(tls) => tls.send_vectored(&[IoSlice::new(bytes)], more),
            Stream::Ktls(ktls) => ktls.send(bytes, more),
        }
    }

    /// Sends some of `slices` with one call.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.send_vectored(slices, more),
            Stream::Tls(tls) => tls.send_vectored(slices, more),
            Stream::Ktls(ktls) => ktls.send_vectored(slices, more),
        }
    }

    /// Passes the bytes that the TLS session buffers to the kernel, at the end of a response.
    /// Returns `Ok(())` if the kernel has all bytes. On `WouldBlock`, wait until the stream is
    /// writable and call again.
    pub fn flush(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) | Stream::Ktls(_) => Ok(()),
            Stream::Tls(tls) => tls.flush(),
        }
    }

    /// Sends the close notification of the session, then flushes as [`Stream::flush`] does. Must
    /// not be called after a truncated body, because the client would treat the body as complete.
    pub fn finish(&self) -> io::Result<()> {
        match self {
            Stream::Plain(_) => Ok(()),
            Stream::Tls(tls) => tls.finish(),
            Stream::Ktls(ktls) => ktls.finish(),
        }
    }

    /// Announces the end of the data before a write shutdown or an orderly close. Waits for the
    /// kernel only on a kTLS stream. Elsewhere the notification is sent as far as the socket
    /// accepts it at once.
    pub async fn leave(&self, deadline: &ConnectionDeadline) {
        match self {
            // Boxed, so that an idle connection does not pay for the wait.
            Stream::Ktls(ktls) => Box::pin(ktls.leave(deadline)).await,
            other => {
                let _ = other.finish();
            }
        }
    }

    /// Reads and discards input until the client closes its sending side, at most
    /// [`LINGER_BYTES_MAX`] bytes and within [`LINGER_TIMEOUT`].
    pub async fn discard_input(&self, deadline: &ConnectionDeadline) {
        deadline.set(WaitReason::Input, LINGER_TIMEOUT);
        let mut buffer = Vec::with_capacity(DISCARD_BUFFER_BYTES);
        let mut discarded = 0;
        while discarded < LINGER_BYTES_MAX {
            buffer.clear();
            match self.recv(&mut buffer) {
                Ok(0) => return,
                Ok(received) => discarded += received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.readable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Sends up to `len` bytes of `file` from `offset` without a copy in user space. Returns 0 at
    /// the end of the file.
    ///
    /// # Errors
    ///
    /// `Unsupported` if [`Stream::takes_files`] is false.
    pub fn sendfile(&self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.sendfile(file, offset, len),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            Stream::Ktls(ktls) => ktls.sendfile(file, offset, len),
        }
    }

    /// Sends some of the bytes in `pipe`, at most `max`. Returns the errors of [`Stream::sendfile`].
    pub fn splice(&self, pipe: &mut Pipe, max: u64, more: bool) -> io::Result<usize> {
        match self {
            Stream::Plain(socket) => socket.splice(pipe, max, more),
            Stream::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
            Stream::Ktls(ktls) => ktls.splice(pipe, max, more),
        }
    }

    /// Holds back partial segments of a plain socket until the drop of the returned value. Returns
    /// `None` for TLS, whose records do not end with segments.
    pub fn cork(&self) -> Option<Cork<'_>> {
        match self {
            Stream::Plain(socket) => Some(socket.cork()),
            Stream::Tls(_) | Stream::Ktls(_) => None,
        }
    }

    /// Waits until the stream has input, an end of stream, or an error.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.readable().await,
            Stream::Tls(tls) => tls.readable().await,
            Stream::Ktls(ktls) => ktls.socket().readable().await,
        }
    }

    /// Waits until the stream accepts output.
    pub async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Plain(socket) => socket.writable().await,
            Stream::Tls(tls) => tls.socket().writable().await,
            Stream::Ktls(ktls) => ktls.socket().writable().await,
        }
    }

    /// Holds back partial segments of a plain socket; see [`Socket::set_cork`].
    pub fn set_cork(&self, on: bool) {
        if let Stream::Plain(socket) = self {
            socket.set_cork(on);
        }
    }

    /// Limits the unsent bytes in the kernel; see [`Socket::limit_unsent`].
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

    /// Makes the next close a reset, so that no client treats a partial response as complete.
    pub fn reset_on_close(&self) {
        match self {
            Stream::Plain(socket) => socket.reset_on_close(),
            Stream::Tls(tls) => tls.socket().reset_on_close(),
            Stream::Ktls(ktls) => ktls.reset_on_close(),
        }
    }
}
