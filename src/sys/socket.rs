//! A client socket. Calls are non-blocking on the core, and the driver reports readiness. The
//! kernel holds no buffer across an await, so every future can be dropped.

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
use rustix::net::sockopt::set_tcp_cork;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use super::Pipe;

/// An accepted, non-blocking stream socket.
pub struct Socket {
    stream: monoio::net::TcpStream,
}

/// A handle of a socket for owners of a deadline, which may only query the socket or shut it down.
#[derive(Clone, Copy, Debug)]
pub struct Local {
    fd: std::os::fd::RawFd,
}

impl Local {
    /// Shuts down the socket, which wakes the task that waits on the socket.
    ///
    /// The descriptor must still be open. The connection deadline that holds a `Local` belongs to
    /// the connection that owns the socket, and is dropped first.
    pub fn shutdown(self, how: Shutdown) {
        // SAFETY: the connection owns this descriptor. Before closing the socket, the connection
        // removes its deadline from the deadline table (field order in `Connection` and `H2Io`).
        // Both live on this thread. Therefore the descriptor is open and refers to that socket
        // during the call.
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
    /// Returns the bytes passed to the kernel but not acknowledged by the client. `None` if the
    /// kernel cannot report them.
    pub fn unsent(self) -> Option<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: `TIOCOUTQ` writes one `int`, which lives here. The descriptor is open and refers
        // to that socket, as in `shutdown`.
        let outcome = unsafe { libc::ioctl(self.fd, libc::TIOCOUTQ, &raw mut bytes) };
        (outcome == 0).then(|| u64::try_from(bytes).unwrap_or(0))
    }

    /// Returns the TCP state of the client.
    pub fn peer(self) -> Peer {
        let mut state = 0_u8;
        let mut len: libc::socklen_t = 1;
        // SAFETY: `tcp_info` starts with the state, one byte. The kernel writes at most `len`
        // bytes, which live here. The descriptor is open and refers to that socket, as in
        // `shutdown`.
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

/// The TCP state of the other end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    Open,
    /// The peer has closed its sending side or both sides. Without a send, the two cases cannot be
    /// distinguished.
    Closing,
    /// The peer has reset the connection.
    Gone,
}

/// While the value lives, the kernel sends only full segments (`TCP_CORK`). The drop sends the
/// rest, on every path.
pub struct Cork<'a>(&'a Socket);

impl Drop for Cork<'_> {
    fn drop(&mut self) {
        self.0.set_cork(false);
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: `stream` owns the descriptor and is neither closed nor replaced while `self`
        // lives.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }
}

/// Retries on EINTR. EAGAIN remains `WouldBlock`.
fn call(mut f: impl FnMut() -> rustix::io::Result<usize>) -> io::Result<usize> {
    loop {
        match f() {
            Err(Errno::INTR) => continue,
            other => return other.map_err(io::Error::from),
        }
    }
}

/// Waits for `readiness`, and lets the other tasks of the core run. With io_uring, the wait polls
/// the ring and thus yields. With epoll, the readiness may be known at once, repeatedly for a
/// client that sends or receives continuously. Then an empty task at the end of the run queue runs
/// first. (`yield_now` of monoio puts the caller at the head of the queue.)
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
    /// Registers an accepted, non-blocking socket with the driver of the calling core.
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

    /// Waits for input, the end of the stream or an error. Lets the other tasks of the core run.
    pub async fn readable(&self) -> io::Result<()> {
        others_first(self.stream.readable(false)).await
    }

    /// Waits until the socket accepts output. Lets the other tasks of the core run.
    pub async fn writable(&self) -> io::Result<()> {
        others_first(self.stream.writable(false)).await
    }

    /// Appends received bytes to `buffer`, up to its spare capacity. Returns 0 at the end of the
    /// stream.
    pub fn recv(&self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        debug_assert!(buffer.len() < buffer.capacity());
        call(|| recv(self, spare_capacity(buffer), RecvFlags::DONTWAIT).map(|(received, _)| received))
    }

    /// Reads received bytes into `bytes`. Returns 0 at the end of the stream.
    pub fn recv_into(&self, bytes: &mut [u8]) -> io::Result<usize> {
        call(|| recv(self, &mut *bytes, RecvFlags::DONTWAIT).map(|(received, _)| received))
    }

    /// Sends some of `bytes`. With `more`, the rest of a segment follows at once.
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

    /// Sends up to `len` bytes of `file` from `offset` without a copy in user space. Returns 0 at
    /// the end of the file.
    pub fn sendfile(&self, file: &File, offset: u64, len: usize) -> io::Result<usize> {
        let mut offset = offset;
        call(|| sendfile(self, file, Some(&mut offset), len))
    }

    /// Holds back partial segments until the drop of the returned value. Has no effect if the
    /// kernel rejects the option.
    pub fn cork(&self) -> Cork<'_> {
        self.set_cork(true);
        Cork(self)
    }

    /// Sends some of the bytes in `pipe`, at most `max`.
    pub fn splice(&self, pipe: &mut Pipe, max: u64, more: bool) -> io::Result<usize> {
        pipe.drain_to(self, max, more)
    }

    /// With `on`, holds back partial segments until the next call without `on`, for at most 200 ms.
    /// Has no effect if the kernel rejects the option.
    pub fn set_cork(&self, on: bool) {
        let _ = set_tcp_cork(self, on);
    }

    /// Limits the unsent bytes that the kernel accepts to `bytes` (`TCP_NOTSENT_LOWAT`). Has no
    /// effect if the kernel rejects the option.
    pub fn limit_unsent(&self, bytes: u32) {
        // SAFETY: the kernel reads one `u32`, which lives here. The descriptor is open, because
        // `self` owns it.
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

    /// Makes the next close a reset, so that no client treats a partial response as complete.
    pub fn reset_on_close(&self) {
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

fn send_flags(more: bool) -> SendFlags {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    if more { flags | SendFlags::MORE } else { flags }
}
