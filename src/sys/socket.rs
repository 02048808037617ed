//! A client's socket: non-blocking calls made from the core, readiness from the driver.
//!
//! Nothing is ever lent to the kernel across an await, so dropping a future leaves nothing behind.

use std::fs::File;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::fs::sendfile;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use super::Pipe;

/// An accepted, non-blocking stream socket.
pub struct Socket {
    stream: monoio::net::TcpStream,
}

/// What is kept of a socket by those who may only shut it down.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    fd: std::os::fd::RawFd,
}

impl Local {
    /// Ends both directions, so that the task that waits on the socket is woken.
    ///
    /// The descriptor must still be open. The connection deadline that holds a `Local` belongs to the connection that
    /// owns the socket, and is dropped first.
    pub fn shutdown(self, how: Shutdown) {
        // SAFETY: the connection that owns this descriptor removes itself from the deadline table before the socket
        // is closed (field order in `Connection` and `H2Io`). Both live on this thread, so the number is open and is
        // that socket's for the length of the call.
        let fd = unsafe { BorrowedFd::borrow_raw(self.fd) };
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        let _ = rustix::net::shutdown(fd, how);
    }
}

impl Local {
    /// Bytes given to the kernel that the client has not confirmed; `None` when it cannot say.
    pub fn unsent(self) -> Option<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: `TIOCOUTQ` writes one `int`, which lives here. The number is open and is that socket's, as in
        // `shutdown`.
        let outcome = unsafe { libc::ioctl(self.fd, libc::TIOCOUTQ, &raw mut bytes) };
        (outcome == 0).then(|| u64::try_from(bytes).unwrap_or(0))
    }

    /// What TCP knows of the client.
    pub fn peer(self) -> Peer {
        let mut state = 0_u8;
        let mut len: libc::socklen_t = 1;
        // SAFETY: `tcp_info` begins with the state, one byte, and the kernel writes no more than `len` bytes, which live here.
        // The number is open and is that socket's, as in `shutdown`.
        let outcome = unsafe {
            libc::getsockopt(
                self.fd,
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut state).cast(),
                &raw mut len,
            )
        };
        match (outcome, state) {
            (0, TCP_CLOSE) => Peer::Gone,
            (0, TCP_CLOSE_WAIT) => Peer::Closing,
            _ => Peer::Open,
        }
    }
}

const TCP_CLOSE: u8 = 7;
const TCP_CLOSE_WAIT: u8 = 8;

/// What TCP knows of the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Open,
    /// It has closed its sending side, or everything: both look the same until something is sent.
    Closing,
    /// It has reset the connection.
    Gone,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `stream` owns the descriptor and is neither closed nor replaced while `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }
}

/// Retries on EINTR; EAGAIN stays `WouldBlock`.
fn call(mut f: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match f() {
            Err(Errno::INTR) => continue,
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Waits for `readiness` in a way that is a turn for the core's other tasks. On io_uring that is so because the ring is
/// asked; epoll may know the answer at once, and time after time of a client that sends or takes without end: there a task
/// of no content goes to the end of the queue first. (monoio's own `yield_now` puts the caller at its head.)
async fn others_first(readiness: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut readiness = pin!(readiness);
    let at_once = poll_fn(|cx| match readiness.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => Poll::Ready(None),
    });
    match at_once.await {
        None => readiness.await,
        Some(outcome) => {
            monoio::spawn(async {}).await;
            outcome
        }
    }
}

impl Socket {
    /// Registers an accepted socket, which must be non-blocking, with the calling core's driver.
    pub fn new(stream: std::net::TcpStream) -> io::Result<Self> {
        let _ = stream.set_nodelay(true);
        Ok(Socket {
            stream: monoio::net::TcpStream::from_std(stream)?,
        })
    }

    pub fn local(&self) -> Local {
        Local {
            fd: self.stream.as_raw_fd(),
        }
    }

    /// Waits until there is something to read (or the end, or an error), and lets the core's other tasks run.
    pub async fn readable(&self) -> io::Result<()> {
        others_first(self.stream.readable(false)).await
    }

    /// Waits until there is room to write, and lets the core's other tasks run.
    pub async fn writable(&self) -> io::Result<()> {
        others_first(self.stream.writable(false)).await
    }

    /// Appends received bytes to `buffer`, at most its spare capacity; 0 is the end.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        debug_assert!(buffer.len() < buffer.capacity());
        call(|| recv(self, spare_capacity(buffer), RecvFlags::DONTWAIT).map(|(received, _)| received))
    }

    /// Reads what has arrived into `bytes`; 0 is the end.
    pub fn recv_into(&self, bytes: &mut [u8]) -> io::Result<usize> {
        call(|| recv(self, &mut *bytes, RecvFlags::DONTWAIT).map(|(received, _)| received))
    }

    /// Sends some of `bytes`; `more` tells the kernel that the rest of a segment follows at once.
    pub fn send(&self, bytes: &[u8], more: bool) -> io::Result<usize> {
        call(|| send(self, bytes, send_flags(more)))
    }

    /// Sends some of `slices` with one call.
    pub fn send_vectored(&self, slices: &[IoSlice<'_>], more: bool) -> io::Result<usize> {
        call(|| {
            sendmsg(
                self,
                slices,
                &mut SendAncillaryBuffer::default(),
                send_flags(more),
            )
        })
    }

    /// Sends some of `len` bytes of `file` at `offset` without a copy through our memory; 0 at the file's end.
    pub fn sendfile(&self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        let mut offset = offset;
        call(|| sendfile(self, file, Some(&mut offset), len))
    }

    /// Sends some of what `pipe` holds.
    pub fn splice(&self, pipe: &mut Pipe, more: bool) -> io::Result<usize> {
        pipe.drain_to(self, more)
    }

    /// Has the kernel take no more than `bytes` that it has not sent yet (`TCP_NOTSENT_LOWAT`), from now on. A kernel that
    /// refuses takes what it takes.
    pub fn limit_unsent(&self, bytes: u32) {
        // SAFETY: the kernel reads one `u32`, which lives here; the descriptor is open, because `self` owns it.
        unsafe {
            libc::setsockopt(
                self.stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_NOTSENT_LOWAT,
                (&raw const bytes).cast(),
                size_of::<u32>() as libc::socklen_t,
            );
        }
    }

    pub fn shutdown(&self, how: Shutdown) {
        self.local().shutdown(how);
    }

    /// Makes the coming close a reset, so that no client can take what it has for complete.
    pub fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

fn send_flags(more: bool) -> SendFlags {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if more { flags | SendFlags::MORE } else { flags }
}
