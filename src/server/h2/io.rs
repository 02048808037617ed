//! I/O adapter between one connection and the `h2` crate. The adapter is polled, collects writes so that many small
//! frames leave with one call, and counts every frame.
//!
//! The adapter never waits: [`drive`] waits for the socket and for every other wake of its task.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use h2::Reason;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame_limits::{Incoming, Outgoing};
use super::unread::OpenRanges;
use crate::http::Certificate;
use crate::limits::{
    H2_SEND_BUFFER_BYTES, KEEP_ALIVE_TIMEOUT, LINGER_BYTES_MAX, LINGER_TIMEOUT, SEND_STALL_TIMEOUT,
    SEND_TURN_BYTES,
};
use crate::runtime::clock::monotonic_seconds;
use crate::server::deadlines::{ConnectionDeadline, WaitReason};
use crate::server::stream::Stream;

/// Read at once, into a buffer that all connections of a core share.
const RECEIVE_BYTES: usize = 16 * 1024;

/// What is received in one turn before others on the core run: some hundred requests.
const TURN_RECEIVED_BYTES: usize = 64 * 1024;

/// Payloads from here on are sent from where they are; smaller ones are collected.
const DIRECT_BYTES: usize = 8 * 1024;

/// Idle output buffers that a core keeps: 1 MiB, and the growth of single buffers.
const IDLE_OUTPUT_BUFFERS_MAX: usize = 16;

thread_local! {
    static RECEIVED: RefCell<Vec<u8>> = RefCell::new(Vec::with_capacity(RECEIVE_BYTES));
    static IDLE_OUTPUT_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Why we end the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The client has done what it must not, or too much of what it may.
    Fault(Reason),
    /// A deadline has passed, or the server drains and no request is in progress.
    Expired,
}

/// A connection's bytes. Clones are the same connection.
#[derive(Clone)]
pub struct H2Io(Rc<Inner>);

/// An [`H2Io`] that may be gone.
pub struct WeakH2Io(Weak<Inner>);

impl WeakH2Io {
    /// As [`Stream::limit_unsent`].
    pub fn limit_unsent(&self, bytes: u32) {
        if let Some(io) = self.0.upgrade() {
            io.stream.limit_unsent(bytes);
        }
    }

    /// Bytes given to the kernel that the client's kernel has not confirmed; 0 for a connection that is gone, and where the
    /// kernel cannot tell.
    pub fn unconfirmed(&self) -> u64 {
        self.0
            .upgrade()
            .and_then(|io| io.deadline.unconfirmed())
            .unwrap_or(0)
    }
}

struct Inner {
    // Before the stream: the deadline must not outlive the descriptor that the deadline may shut down.
    deadline: ConnectionDeadline,
    stream: Stream,
    state: RefCell<State>,
    verdict: Cell<Option<Verdict>>,
    /// The last deadline set, so that one that still holds is not set again.
    phase: Cell<Phase>,
}

struct State {
    /// Received and not yet taken.
    input: Vec<u8>,
    taken: usize,
    /// To be sent; without an allocation while there is nothing.
    output: Vec<u8>,
    sent: usize,
    incoming: Incoming,
    outgoing: Outgoing,
    /// The socket had nothing more to give, or took nothing more.
    read_blocked: bool,
    write_blocked: bool,
    /// The socket took something since the last look.
    progress: bool,
    received: usize,
    forwarded: usize,
    failed: Option<io::ErrorKind>,
}

/// What a connection waits for, as far as deadlines go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// The client has not sent all that it must before its first request.
    Greeting,
    /// No request is in progress.
    Idle,
    /// For ourselves, or for a stream, which has deadlines of its own.
    Busy,
    /// For the client to take bytes.
    Sending,
    /// The server stops, and has said so.
    Leaving,
}

impl H2Io {
    /// `received` is what the client has sent so far.
    ///
    /// # Errors
    ///
    /// The bytes are no HTTP/2 preface.
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
                progress: false,
                received: 0,
                forwarded: 0,
                failed: None,
            }),
            verdict: Cell::new(None),
            // The caller has set the deadline for the preface.
            phase: Cell::new(Phase::Greeting),
        })))
    }

    pub fn deadline(&self) -> &ConnectionDeadline {
        &self.0.deadline
    }

    /// Why the connection must end, if it must.
    pub fn verdict(&self) -> Option<Verdict> {
        self.0.verdict.get()
    }

    pub fn end_for(&self, verdict: Verdict) {
        if self.0.verdict.get().is_none() {
            self.0.verdict.set(Some(verdict));
        }
    }

    /// The certificate the client has proved to be its own.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.0.stream.certificate()
    }

    /// Whether it should take no further request.
    pub fn is_key_near_limit(&self) -> bool {
        self.0.stream.is_key_near_limit()
    }

    /// The open ranges that this connection sends.
    pub fn open_ranges(&self) -> Rc<OpenRanges> {
        self.0.state.borrow().incoming.open_ranges().clone()
    }

    /// For tasks that may outlive the connection.
    pub fn downgrade(&self) -> WeakH2Io {
        WeakH2Io(Rc::downgrade(&self.0))
    }

    /// Whether the client has sent its SETTINGS.
    pub fn greeted(&self) -> bool {
        self.0.state.borrow().incoming.greeted()
    }

    /// Sets the deadline for what the connection waits for now. `renewed`: what it waited for has come, and the same is
    /// waited for again.
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

    /// Sends what is left, says that nothing more comes, and waits a little for the client to see it: closing a socket
    /// with unread input resets it, which can destroy what is on its way.
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
        // What a stream has said of its end does not depend on it.
        stream.leave(self.deadline()).await;
        stream.shutdown(Shutdown::Write);
        if evicted {
            // A new connection waits for the descriptor.
            return;
        }
        self.deadline().set(WaitReason::Input, LINGER_TIMEOUT);
        let mut rubbish = Vec::with_capacity(4 * 1024);
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES_MAX {
            rubbish.clear();
            match stream.recv(&mut rubbish) {
                Ok(0) => return,
                Ok(received) => thrown_away += received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if stream.readable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }

    /// Sends what is collected, as far as the socket takes it; whether all is sent.
    fn flush(&self) -> io::Result<bool> {
        let state = &mut *self.0.state.borrow_mut();
        let result = state.flush(&self.0.stream, &self.0.deadline);
        if let Err(error) = &result {
            state.failed = Some(error.kind());
        }
        result
    }

    /// Receives, looks at what came, and gives as much as there is room for.
    fn receive(&self, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let state = &mut *self.0.state.borrow_mut();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if state.taken == state.input.len() && self.0.verdict.get().is_none() {
            state.input = Vec::new();
            state.taken = 0;
            if state.read_blocked || state.received >= TURN_RECEIVED_BYTES {
                return Poll::Pending;
            }
            return RECEIVED.with_borrow_mut(|received| {
                received.clear();
                match self.0.stream.recv(received) {
                    // The deadline shut the socket down; the client gets a GOAWAY.
                    Ok(0) if self.0.deadline.expired() => {
                        self.0.verdict.set(Some(Verdict::Expired));
                        Poll::Pending
                    }
                    Ok(0) => Poll::Ready(Ok(())),
                    Ok(count) => {
                        state.received += count;
                        if let Err(reason) = state.incoming.inspect(received, monotonic_seconds()) {
                            self.0.verdict.set(Some(Verdict::Fault(reason)));
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
        if self.0.verdict.get().is_some() {
            return Poll::Pending;
        }
        let rest = &state.input[state.taken..];
        let now = rest.len().min(room.remaining());
        room.put_slice(&rest[..now]);
        state.taken += now;
        Poll::Ready(Ok(()))
    }

    /// Takes what fits: all of it, but for a client that takes nothing.
    fn forward(&self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let state = &mut *self.0.state.borrow_mut();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let count = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if state.output.len() - state.sent >= H2_SEND_BUFFER_BYTES {
            // Full: what h2 has more must wait, and with it what it would read.
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
        match stream.flush() {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.write_blocked = true;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn took(&mut self, sent: usize) {
        self.sent += sent;
        self.forwarded += sent;
        self.progress = true;
    }

    /// Sends what is collected and `slices` with one call; how much of `slices` went.
    fn send_with(
        &mut self,
        stream: &Stream,
        deadline: &ConnectionDeadline,
        slices: &[IoSlice<'_>],
    ) -> io::Result<usize> {
        /// What h2 gives at once is a head and a payload; a few more do not hurt.
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

    /// Keeps `slices` but for the first `skip` bytes.
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
        // h2 asks for it after each frame with a payload; [`drive`] sends when nothing more is to come.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // [`H2Io::finish`] does it.
        Poll::Ready(Ok(()))
    }
}

/// Calls `step` until it is ready: whenever its task is woken, and whenever the socket can give or take more. Between calls
/// what was collected is sent, and `rest` is called when nothing more is to be done for now.
pub async fn drive<T>(
    io: &H2Io,
    mut step: impl FnMut(&mut Context<'_>) -> Poll<T>,
    mut rest: impl FnMut(),
) -> T {
    let stream = &io.0.stream;
    let mut readable = pin!(stream.readable());
    let mut reading = true;
    // Boxed while it is needed: most connections wait for a client that says something.
    let mut writable = None;
    let mut others: Option<monoio::task::JoinHandle<()>> = None;
    poll_fn(|cx| {
        io.deadline().wake_by(Some(cx.waker()));
        loop {
            if let Some(turn) = &mut others {
                if Pin::new(turn).poll(cx).is_pending() {
                    return Poll::Pending;
                }
                others = None;
            }
            if let Poll::Ready(done) = step(cx) {
                return Poll::Ready(done);
            }
            if io.flush().is_err() {
                // h2 is told when it reads or writes next.
                io.0.state.borrow_mut().read_blocked = false;
                continue;
            }
            let (read_blocked, write_blocked) = {
                let state = io.0.state.borrow();
                (state.read_blocked, state.write_blocked)
            };
            let mut again = false;
            if read_blocked {
                if !reading {
                    readable.set(stream.readable());
                    reading = true;
                }
                if readable.as_mut().poll(cx).is_ready() {
                    reading = false;
                    io.0.state.borrow_mut().read_blocked = false;
                    again = true;
                }
            }
            if write_blocked {
                let room = writable.get_or_insert_with(|| Box::pin(stream.writable()));
                if room.as_mut().poll(cx).is_ready() {
                    writable = None;
                    let mut state = io.0.state.borrow_mut();
                    state.write_blocked = false;
                    if io.0.phase.get() == Phase::Sending {
                        if !io.0.deadline.meets_minimum_rate() {
                            state.failed = Some(io::ErrorKind::TimedOut);
                        }
                        // What was waited is counted; the next wait begins now.
                        io.0.deadline.set(WaitReason::Output, SEND_STALL_TIMEOUT);
                    }
                    again = true;
                }
            }
            let mut state = io.0.state.borrow_mut();
            let (received, sent) = (
                state.received >= TURN_RECEIVED_BYTES,
                state.forwarded as u64 >= SEND_TURN_BYTES,
            );
            if received || sent {
                // Others on the core first: a task that wakes itself comes before all of them, and the socket has not been
                // waited for yet, which would be a turn.
                state.read_blocked |= received;
                state.write_blocked |= sent;
                state.end_turn();
                others = Some(monoio::spawn(async {}));
                continue;
            }
            if !again {
                state.end_turn();
                drop(state);
                rest();
                return Poll::Pending;
            }
        }
    })
    .await
}

impl State {
    fn end_turn(&mut self) {
        self.received = 0;
        self.forwarded = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::server::connection_limits::ConnectionLimits;
    use crate::server::deadlines::DeadlineTable;
    use crate::server::h2::PREFACE;
    use crate::sys::Socket;

    /// SETTINGS of 100 values, of which a client sends one byte whenever the last one was read.
    #[test]
    fn a_client_that_always_has_more_leaves_others_their_turn() {
        const SETTINGS: [u8; 9] = [0, 2, 88, 4, 0, 0, 0, 0, 0];
        let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new()
            .enable_timer()
            .build()
            .unwrap();
        let steps = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            client.set_nodelay(true).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            let stream = Stream::Plain(Socket::new(accepted).unwrap());
            let slot = ConnectionLimits::new(1, 0, 1).acquire(0, None).ok().unwrap();
            let deadline = DeadlineTable::default().add(&stream, slot);
            let io = H2Io::new(deadline, stream, [&PREFACE[..], &SETTINGS].concat())
                .ok()
                .unwrap();
            let had_their_turn = Rc::new(Cell::new(false));
            let mut steps = 0;
            let step = |cx: &mut Context<'_>| {
                let mut bytes = [0; 64];
                while let Poll::Ready(read) =
                    Pin::new(&mut io.clone()).poll_read(cx, &mut ReadBuf::new(&mut bytes))
                {
                    read.unwrap();
                }
                if had_their_turn.get() || steps == 500 {
                    return Poll::Ready(steps);
                }
                steps += 1;
                // The driver has said once that the socket is ready, and epoll may take its word for it from then on.
                if steps == 2 {
                    let others = had_their_turn.clone();
                    drop(monoio::spawn(async move { others.set(true) }));
                }
                client.write_all(&[0]).unwrap();
                Poll::Pending
            };
            drive(&io, step, || {}).await
        });
        assert!(steps <= 4, "{} steps before anybody else", steps - 1);
    }
}
