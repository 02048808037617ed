//! A keep-alive connection and its current exchange.

use std::fmt;
use std::net::TcpStream;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::head::{Head, HeadReader, Wrong};
use crate::target::Target;

/// Largest response head. Registries send well below 1 KiB.
const HEAD_BYTES: usize = 8 * 1024;
/// Largest read of a head. A head and a 2 KiB body fit, and little of a large body is copied.
const HEAD_READ: usize = 4 * 1024;
/// Largest read of a dropped body.
pub const BODY_READ: usize = 1024 * 1024;
/// Bytes that one connection may receive before other connections run.
const TURN_BYTES: u64 = 4 * BODY_READ as u64;

/// The result of a turn on a connection.
pub enum Turn {
    /// Nothing more to read now.
    Waiting,
    /// The budget of the turn is used up. There may be more to read.
    Unfinished,
    /// A response is complete and correct.
    Complete,
}

/// The reason why a connection is unusable.
#[derive(Debug)]
pub enum Broken {
    Wrong(Wrong),
    HeadTooLarge,
    Surplus,
    CutShort,
    Closed,
    Io(Errno),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wrong(wrong) => wrong.fmt(f),
            Self::HeadTooLarge => write!(f, "the response head exceeds {HEAD_BYTES} bytes"),
            Self::Surplus => f.write_str("the server sent more than the response"),
            Self::CutShort => f.write_str("the server closed the connection within a response"),
            Self::Closed => f.write_str("the server closed the connection between responses"),
            Self::Io(errno) => errno.fmt(f),
        }
    }
}

enum State {
    Idle,
    Head { filled: usize },
    Body { remaining: u64 },
}

/// State shared by all connections of a run.
pub struct Shared<'a> {
    pub target: &'a Target,
    pub heads: HeadReader,
    /// Never written, because `MSG_TRUNC` drops the bytes. The pages of the buffer are never
    /// mapped.
    pub sink: Vec<u8>,
    /// Body bytes received so far by all connections.
    pub received: u64,
}

pub struct Connection {
    stream: TcpStream,
    state: State,
    /// Sent bytes of the request.
    sent: usize,
    buffer: Box<[u8; HEAD_BYTES]>,
    closes: bool,
    /// Start time (closed loop) or due time (open loop) of the current request.
    pub since: Instant,
}

impl Connection {
    /// Opens a connection to `target`.
    ///
    /// # Errors
    /// The server does not accept the connection.
    pub fn open(target: &Target, since: Instant) -> std::io::Result<Self> {
        let stream = target.connect()?;
        stream.set_nonblocking(true)?;
        let buffer = Box::new([0; HEAD_BYTES]);
        Ok(Self {
            stream,
            state: State::Idle,
            sent: 0,
            buffer,
            closes: false,
            since,
        })
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// Returns whether the server announced to close the connection after the last response.
    pub fn closes(&self) -> bool {
        self.closes
    }

    /// Starts the next exchange.
    pub fn start(&mut self, shared: &Shared<'_>) -> Result<(), Broken> {
        self.state = State::Head { filled: 0 };
        self.sent = 0;
        self.flush(shared)
    }

    fn flush(&mut self, shared: &Shared<'_>) -> Result<(), Broken> {
        while let Some(rest) = shared
            .target
            .request
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match send(&self.stream, rest, SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(Broken::Io(errno)),
            }
        }
        Ok(())
    }

    /// Receives available bytes, up to the end of the response or of the turn.
    pub fn turn(&mut self, shared: &mut Shared<'_>) -> Result<Turn, Broken> {
        if !self.is_idle() && self.sent < shared.target.request.len() {
            self.flush(shared)?;
        }
        let mut budget = TURN_BYTES;
        loop {
            match self.state {
                State::Idle => return self.expect_silence(),
                State::Head { filled } => {
                    if filled == HEAD_BYTES {
                        return Err(Broken::HeadTooLarge);
                    }
                    let end = HEAD_BYTES.min(filled + HEAD_READ);
                    let count = match recv(&self.stream, &mut self.buffer[filled..end], RecvFlags::empty()) {
                        Ok((_, 0)) if filled == 0 => return Err(Broken::Closed),
                        Ok((_, 0)) => return Err(Broken::CutShort),
                        Ok((_, count)) => count,
                        Err(Errno::AGAIN) => return Ok(Turn::Waiting),
                        Err(errno) => return Err(Broken::Io(errno)),
                    };
                    let filled = filled + count;
                    self.state = State::Head { filled };
                    match shared.heads.read(&self.buffer[..filled]).map_err(Broken::Wrong)? {
                        None => continue,
                        Some(head) => self.enter_body(head, filled, shared)?,
                    }
                }
                State::Body { remaining: 0 } => {
                    self.state = State::Idle;
                    return Ok(Turn::Complete);
                }
                State::Body { .. } if budget == 0 => return Ok(Turn::Unfinished),
                State::Body { remaining } => {
                    let wanted = usize::try_from(remaining).unwrap_or(BODY_READ).min(BODY_READ);
                    let count = match recv(&self.stream, &mut shared.sink[..wanted], RecvFlags::TRUNC) {
                        Ok((_, 0)) => return Err(Broken::CutShort),
                        Ok((_, count)) => count,
                        Err(Errno::AGAIN) => return Ok(Turn::Waiting),
                        Err(errno) => return Err(Broken::Io(errno)),
                    };
                    shared.received += count as u64;
                    budget = budget.saturating_sub(count as u64);
                    let remaining = remaining - count as u64;
                    self.state = State::Body { remaining };
                    // A short read has emptied the socket. Later bytes raise a new edge.
                    if remaining > 0 && count < wanted {
                        return Ok(Turn::Waiting);
                    }
                }
            }
        }
    }

    /// Counts the body bytes that arrived with the head.
    fn enter_body(&mut self, head: Head, filled: usize, shared: &mut Shared<'_>) -> Result<(), Broken> {
        let early = (filled - head.size) as u64;
        let remaining = head.body.checked_sub(early).ok_or(Broken::Surplus)?;
        shared.received += early;
        self.closes = head.closes;
        self.state = State::Body { remaining };
        Ok(())
    }

    /// Between exchanges, a server may close the connection but must not send bytes.
    fn expect_silence(&mut self) -> Result<Turn, Broken> {
        match recv(&self.stream, &mut self.buffer[..1], RecvFlags::empty()) {
            Ok((_, 0)) => Err(Broken::Closed),
            Ok(_) => Err(Broken::Surplus),
            Err(Errno::AGAIN) => Ok(Turn::Waiting),
            Err(errno) => Err(Broken::Io(errno)),
        }
    }
}
