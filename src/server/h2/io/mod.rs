//! I/O adapter between one connection and the `h2` crate. Collects writes, so that many small
//! frames leave with one call, and counts every frame.
//!
//! The adapter itself never waits. [`drive()`] waits for the socket and for every other wake of the
//! task.

mod drive;

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

pub use drive::drive;

use super::frame_limits::{Incoming, Outgoing};
use super::unread::OpenRanges;
use crate::http::Certificate;
use crate::limits::{
    H2_REQUESTS_PER_TURN, H2_SEND_BUFFER_BYTES, KEEP_ALIVE_TIMEOUT, LINGER_TIMEOUT, SEND_STALL_TIMEOUT,
};
use crate::runtime::clock::monotonic_seconds;
use crate::server::deadlines::{ConnectionDeadline, WaitReason};
use crate::server::stream::Stream;

/// The size of one read, into a buffer that all connections of a core share.
const RECEIVE_BYTES: usize = 16 * 1024;

/// Bytes received in one turn before other tasks of the core run. [`H2_REQUESTS_PER_TURN`] also ends a
/// turn.
const TURN_RECEIVED_BYTES: usize = 64 * 1024;

/// The size from which a write is sent directly. Smaller writes are collected.
const DIRECT_BYTES: usize = 8 * 1024;

/// The size from which a write corks the socket: the payload of a full frame, which usually has a
/// successor. The last frame of a small body needs no cork.
const CORK_BYTES: usize = 16 * 1024;

/// The number of idle output buffers per core: 1 MiB, plus the growth of single buffers.
const IDLE_OUTPUT_BUFFERS_MAX: usize = 16;

thread_local! {
    static RECEIVED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(RECEIVE_BYTES));
    static IDLE_OUTPUT_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The reason why the server ends the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EndReason {
    /// The client has violated the protocol or exceeded a limit.
    Fault(Reason),
    /// A deadline has passed, or the server drains and no request is in progress.
    Expired,
}

/// The byte stream of one connection. Clones share the connection.
#[derive(Clone)]
pub struct H2Io(Rc<Inner>);

/// A weak reference to an [`H2Io`].
pub struct WeakH2Io(Weak<Inner>);

impl WeakH2Io {
    /// Limits the unsent bytes in the kernel; see [`Stream::limit_unsent`].
    pub fn limit_unsent(&self, bytes: u32) {
        if let Some(io) = self.0.upgrade() {
            io.stream.limit_unsent(bytes);
        }
    }

    /// Returns the bytes passed to the kernel but not acknowledged by the client. 0 if the
    /// connection is closed or the kernel cannot report them.
    pub fn unconfirmed(&self) -> u64 {
        self.0
            .upgrade()
            .and_then(|io| io.deadline.unconfirmed())
            .unwrap_or(0)
    }
}

struct Inner {
    // Declared before the stream, because the deadline must not outlive the descriptor that it may
    // shut down.
    deadline: ConnectionDeadline,
    stream: Stream,
    state: RefCell<State>,
    end_reason: Cell<Option<EndReason>>,
    /// The phase of the last deadline. A deadline that still applies is not set again.
    phase: Cell<Phase>,
}

struct State {
    /// Received bytes that `h2` has not read yet.
    input: Vec<u8>,
    taken: usize,
    /// Bytes to send. Without an allocation while empty.
    output: Vec<u8>,
    sent: usize,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The last read or write returned `WouldBlock`, or the turn has ended.
    read_blocked: bool,
    write_blocked: bool,
    /// The socket holds back partial segments until all collected bytes are sent.
    corked: bool,
    /// The socket has accepted bytes since the last call of [`H2Io::wait_for`].
    progress: bool,
    /// Received bytes, accepted requests, and sent bytes of this turn.
    received: usize,
    requests: u32,
    forwarded: usize,
    failed: Option<io::ErrorKind>,
}

/// The reason why a connection waits, for the choice of its deadline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The client has not sent its whole preface.
    Greeting,
    /// No request is in progress.
    Idle,
    /// The cache or a stream is busy. Streams have separate deadlines.
    Busy,
    /// The connection waits for the client to accept bytes.
    Sending,
    /// The server drains and has sent a GOAWAY.
    Leaving,
}

impl H2Io {
    /// Creates the adapter. `received` holds the bytes received so far.
    ///
    /// # Errors
    ///
    /// The bytes are not a valid HTTP/2 preface.
    pub fn new(deadline: ConnectionDeadline, stream: Stream, received: Vec<u8>) -> Result<Self, Reason> {
        let mut incoming = Incoming::new(monotonic_seconds());
        incoming.inspect(&received, monotonic_seconds())?;
        Ok(H2Io(Rc::new(Inner {
            deadline,
            stream,
            state: RefCell::new(State {
                input: received,
                taken: 0,
                output: Vec::new(),
                sent: 0,
                incoming,
                outgoing: Outgoing::default(),
                read_blocked: false,
                write_blocked: false,
                corked: false,
                progress: false,
                received: 0,
                requests: 0,
                forwarded: 0,
                failed: None,
            }),
            end_reason: Cell::new(None),
            // The caller has set the deadline for the preface.
            phase: Cell::new(Phase::Greeting),
        })))
    }

    pub fn deadline(&self) -> &ConnectionDeadline {
        &self.0.deadline
    }

    /// Returns the reason why the connection must end, if any.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.0.end_reason.get()
    }

    /// Counts an accepted request of this turn.
    pub fn count_request(&self) {
        self.0.state.borrow_mut().requests += 1;
    }

    pub fn end_for(&self, end_reason: EndReason) {
        if self.0.end_reason.get().is_none() {
            self.0.end_reason.set(Some(end_reason));
        }
    }

    /// Returns the verified certificate of the client.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.0.stream.certificate()
    }

    /// Returns [`Stream::is_tls`].
    pub fn is_tls(&self) -> bool {
        self.0.stream.is_tls()
    }

    /// Returns [`Stream::is_key_near_limit`].
    pub fn is_key_near_limit(&self) -> bool {
        self.0.stream.is_key_near_limit()
    }

    /// Returns the open ranges that this connection sends.
    pub fn open_ranges(&self) -> Rc<OpenRanges> {
        self.0.state.borrow().incoming.open_ranges().clone()
    }

    /// Returns a weak reference, for tasks that may outlive the connection.
    pub fn downgrade(&self) -> WeakH2Io {
        WeakH2Io(Rc::downgrade(&self.0))
    }

    /// Returns whether the client has sent its SETTINGS.
    pub fn greeted(&self) -> bool {
        self.0.state.borrow().incoming.greeted()
    }

    /// Sets the deadline for the current phase. `renewed`: the awaited event has arrived, and a
    /// wait for another event of the same kind starts.
    pub fn wait_for(&self, phase: Phase, renewed: bool) {
        let mut state = self.0.state.borrow_mut();
        let progress = std::mem::take(&mut state.progress);
        let phase = if state.write_blocked {
            Phase::Sending
        } else {
            phase
        };
        let same = self.0.phase.replace(phase) == phase;
        let deadline = &self.0.deadline;
        match phase {
            Phase::Greeting => {}
            Phase::Sending if same && !progress => {}
            Phase::Idle if same && !renewed => {}
            Phase::Leaving if same => {}
            Phase::Leaving => deadline.set(WaitReason::Input, LINGER_TIMEOUT),
            Phase::Sending => deadline.set(WaitReason::Output, SEND_STALL_TIMEOUT),
            Phase::Idle => deadline.set(WaitReason::Idle, KEEP_ALIVE_TIMEOUT),
            Phase::Busy => deadline.clear(),
        }
    }

    /// Sends the collected bytes, closes the sending side, and briefly waits for the client to
    /// close. Closing a socket with unread input resets the connection, and a reset can destroy
    /// bytes in flight.
    pub async fn finish(&self) {
        let evicted = self.deadline().evicted();
        self.deadline().wake_by(None);
        self.deadline().set(WaitReason::Output, LINGER_TIMEOUT);
        loop {
            match self.flush() {
                Ok(true) => break,
                Ok(false) if self.0.stream.writable().await.is_ok() && !self.deadline().expired() => {
                    self.0.state.borrow_mut().write_blocked = false;
                }
                _ => return,
            }
        }
        let stream = &self.0.stream;
        // Streams end with END_STREAM, so a TLS close notification cannot make a truncated body
        // look complete.
        stream.leave(self.deadline()).await;
        stream.shutdown(Shutdown::Write);
        if evicted {
            // A new connection waits for the descriptor.
            return;
        }
        stream.discard_input(self.deadline()).await;
    }

    /// Sends the collected bytes until the socket blocks. Returns whether all bytes are sent.
    fn flush(&self) -> io::Result<bool> {
        let state = &mut *self.0.state.borrow_mut();
        let result = state.flush(&self.0.stream, &self.0.deadline);
        if let Err(error) = &result {
            state.failed = Some(error.kind());
        }
        result
    }

    /// Receives and inspects bytes, and copies as many as fit to `room`.
    fn receive(&self, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.state.borrow_mut();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if state.taken == state.input.len() && self.0.end_reason.get().is_none() {
            state.input = Vec::new();
            state.taken = 0;
            if state.read_blocked || state.has_read_enough() {
                return Poll::Pending;
            }
            return RECEIVED.with_borrow_mut(|received| {
                received.clear();
                match self.0.stream.recv(received) {
                    // The deadline shut down the socket. The client receives a GOAWAY.
                    Ok(0) if self.0.deadline.expired() => {
                        self.0.end_reason.set(Some(EndReason::Expired));
                        Poll::Pending
                    }
                    Ok(0) => Poll::Ready(Ok(())),
                    Ok(count) => {
                        state.received += count;
                        if let Err(reason) = state.incoming.inspect(received, monotonic_seconds()) {
                            self.0.end_reason.set(Some(EndReason::Fault(reason)));
                            return Poll::Pending;
                        }
                        let (now, later) = received.split_at(count.min(room.remaining()));
                        room.put_slice(now);
                        state.input.extend_from_slice(later);
                        Poll::Ready(Ok(()))
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        state.read_blocked = true;
                        Poll::Pending
                    }
                    Err(error) => Poll::Ready(Err(error)),
                }
            });
        }
        // Requests received before a fault get no response.
        if self.0.end_reason.get().is_some() {
            return Poll::Pending;
        }
        let rest = &state.input[state.taken..];
        let now = rest.len().min(room.remaining());
        room.put_slice(&rest[..now]);
        state.taken += now;
        Poll::Ready(Ok(()))
    }

    /// Accepts all bytes of `slices`. If the client accepts no bytes and the buffer is full,
    /// accepts none.
    fn forward(&self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.state.borrow_mut();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if state.output.len() - state.sent >= H2_SEND_BUFFER_BYTES {
            // The buffer is full. `h2` must wait with further writes, and therefore also with
            // reads.
            match state.flush(&self.0.stream, &self.0.deadline) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        let data = slices
            .iter()
            .map(|slice| state.outgoing.count_data_frames(slice))
            .sum();
        state.incoming.answered(data);
        let mut direct = 0;
        if count >= DIRECT_BYTES && !state.write_blocked {
            if count >= CORK_BYTES {
                state.cork(&self.0.stream);
            }
            match state.send_with(&self.0.stream, &self.0.deadline, slices) {
                Ok(sent) => direct = sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => state.write_blocked = true,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        state.collect(slices, direct);
        Poll::Ready(Ok(count))
    }
}

impl State {
    /// Returns whether other tasks of the core must run before the next read.
    fn has_read_enough(&self) -> bool {
        self.received >= TURN_RECEIVED_BYTES || self.requests >= H2_REQUESTS_PER_TURN
    }

    fn end_turn(&mut self) {
        self.received = 0;
        self.requests = 0;
        self.forwarded = 0;
    }

    fn flush(&mut self, stream: &Stream, deadline: &ConnectionDeadline) -> io::Result<bool> {
        while self.sent < self.output.len() {
            if self.write_blocked {
                return Ok(false);
            }
            match stream.send(&self.output[self.sent..], false) {
                Ok(sent) => {
                    deadline.sent(sent);
                    self.took(sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.write_blocked = true,
                Err(error) => return Err(error),
            }
        }
        if self.output.capacity() > 0 {
            let mut output = std::mem::take(&mut self.output);
            output.clear();
            self.sent = 0;
            IDLE_OUTPUT_BUFFERS.with_borrow_mut(|idle| {
                if idle.len() < IDLE_OUTPUT_BUFFERS_MAX {
                    idle.push(output);
                }
            });
        }
        if self.write_blocked {
            return Ok(false);
        }
        if self.corked {
            self.corked = false;
            stream.set_cork(false);
        }
        match stream.flush() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.write_blocked = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Lets the frames of a turn share segments. [`State::flush`] sends the last segment.
    fn cork(&mut self, stream: &Stream) {
        if !self.corked {
            self.corked = true;
            stream.set_cork(true);
        }
    }

    fn took(&mut self, sent: usize) {
        self.sent += sent;
        self.forwarded += sent;
        self.progress = true;
    }

    /// Sends the collected bytes and `slices` with one call. Returns the number of bytes sent from
    /// `slices`.
    fn send_with(
        &mut self,
        stream: &Stream,
        deadline: &ConnectionDeadline,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        /// `h2` writes a head and a payload at once. A few more slices cost little.
        const SLICES: usize = 8;
        let pending = self.output.len() - self.sent;
        let mut all = [IoSlice::new(&[]); SLICES];
        all[0] = IoSlice::new(&self.output[self.sent..]);
        let used = slices.len().min(SLICES - 1);
        all[1..=used].copy_from_slice(&slices[..used]);
        let sent = stream.send_vectored(&all[..=used], false)?;
        deadline.sent(sent);
        self.took(sent.min(pending));
        let direct = sent.saturating_sub(pending);
        self.forwarded += direct;
        Ok(direct)
    }

    /// Collects `slices` without their first `skip` bytes.
    fn collect(&mut self, slices: &[IoSlice<'_>], mut skip: usize) {
        if self.output.capacity() == 0 {
            self.output = IDLE_OUTPUT_BUFFERS
                .with_borrow_mut(Vec::pop)
                .unwrap_or_else(|| Vec::with_capacity(H2_SEND_BUFFER_BYTES));
        }
        for slice in slices {
            let from = skip.min(slice.len());
            skip -= from;
            self.output.extend_from_slice(&slice[from..]);
        }
    }
}

impl AsyncRead for H2Io {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.receive(room)
    }
}

impl AsyncWrite for H2Io {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.forward(&[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.forward(slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // `h2` flushes after each frame with a payload. [`drive()`] sends once no more bytes follow.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // [`H2Io::finish`] shuts down the stream.
        Poll::Ready(Ok(()))
    }
}
