//! One keep-alive connection and the exchange in progress on it.

use std::fmt;
use std::net::TcpStream;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::head::{Head, HeadReader, Wrong};
use crate::target::Target;

/// Largest response head; registries send well below 1 KiB.
const HEAD_BYTES: usize = 8 * 1024;
/// What one read of a head may take: a head and a 2 KiB body fit, and little of a large body is copied in
/// passing.
const HEAD_READ: usize = 4 * 1024;
/// What one read of a body may drop.
pub const BODY_READ: usize = 1024 * 1024;
/// What one connection may receive before the others get their turn.
const TURN_BYTES: u64 = 4 * BODY_READ as u64;

/// What a turn on a connection came to.
pub enum Turn {
    /// Nothing more to read now.
    Waiting,
    /// The turn's budget is spent; there may be more to read.
    Unfinished,
    /// A response is complete and right.
    Complete,
}

/// Why a connection is of no use any more.
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

/// What all connections of a run share.
pub struct Shared<'a> {
    pub target: &'a Target,
    pub heads: HeadReader,
    /// Never written: `MSG_TRUNC` drops what would go here, so its pages are never even mapped.
    pub sink: Vec<u8>,
    /// Body bytes received so far by all connections.
    pub received: u64,
}

pub struct Connection {
    stream: TcpStream,
    state: State,
    /// How much of the request has gone out.
    sent: usize,
    buffer: Box<[u8; HEAD_BYTES]>,
    closes: bool,
    /// When the current request started (closed loop) or was due (open loop).
    pub since: Instant,
}

impl Connection {
    /// # Errors
    /// The server does not accept.
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

    /// The server said that it closes after the last response.
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

    /// Receives what is there, up to the end of the response or of the turn.
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
                    // A short read emptied the socket: what comes later raises a new edge.
                    if remaining > 0 && count < wanted {
                        return Ok(Turn::Waiting);
                    }
                }
            }
        }
    }

    /// Takes the body bytes that came with the head.
    fn enter_body(&mut self, head: Head, filled: usize, shared: &mut Shared<'_>) -> Result<(), Broken> {
        let early = (filled - head.size) as u64;
        let remaining = head.body.checked_sub(early).ok_or(Broken::Surplus)?;
        shared.received += early;
        self.closes = head.closes;
        self.state = State::Body { remaining };
        Ok(())
    }

    /// Between exchanges a server may close the connection, and may not say anything.
    fn expect_silence(&mut self) -> Result<Turn, Broken> {
        match recv(&self.stream, &mut self.buffer[..1], RecvFlags::empty()) {
            Ok((_, 0)) => Err(Broken::Closed),
            Ok(_) => Err(Broken::Surplus),
            Err(Errno::AGAIN) => Ok(Turn::Waiting),
            Err(errno) => Err(Broken::Io(errno)),
        }
    }
}
