//! One client connection: read a head, have it answered, send the answer, again. Who begins with the preface of HTTP/2
//! is handed on.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use super::access_log::{End, Record};
use super::h1::parse::{HeadError, parse_head};
use super::h1::send::{Sending, Sent};
use super::stream::Stream;
use super::watch::{Waiting, Watch};
use super::{Handler, Server, h2};
use crate::http::{CacheResult, Method, RequestHead, Version};
use crate::limits::{
    CLIENT_CHECK, CLIENT_GONE, FIRST_REQUEST, HEAD_SECONDS, IDLE_SECONDS, INBOX_BYTES, LINGER_BYTES_MAX,
    LINGER_SECONDS,
};
use crate::runtime::clock::monotonic_micros;
use crate::sys::Peer;

/// A connection and what it has received but not yet used.
pub struct Connection<H> {
    // Before the socket: the watch must not outlive the descriptor it may shut down.
    watch: Watch,
    stream: Stream,
    peer: Option<SocketAddr>,
    server: Rc<Server<H>>,
    /// Received bytes; `inbox[used..]` is not parsed yet.
    inbox: Vec<u8>,
    used: usize,
    /// A request was answered, or refused.
    answered: bool,
}

/// What happens to the connection after a step.
enum Next {
    Continue,
    /// Close; everything was said.
    Close,
    /// The client is told nothing more, or cannot be told.
    Gone,
}

/// Whether the first line has the form of a request's and nothing else of it: a preface of HTTP/2 that is wrong, which is
/// to be closed without an answer in HTTP/1 (RFC 9113, 3.4), or of another protocol.
fn names_no_http(inbox: &[u8]) -> bool {
    let is_name = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    let line = inbox.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) => {
            !method.is_empty() && is_name(target) && is_name(version)
        }
        _ => false,
    }
}

/// What the client speaks, by its first bytes. `Upgrade: h2c` is ignored, as RFC 9113, 3.1 has it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spoken {
    /// Nothing came yet, or a beginning of the preface of HTTP/2, which must be whole to count.
    Unknown,
    Http1,
    Http2,
}

impl Spoken {
    /// `agreed`: the TLS session is for HTTP/2, and whatever comes must be that.
    fn from(inbox: &[u8], agreed: bool) -> Self {
        if agreed || inbox.starts_with(h2::PREFACE) {
            Spoken::Http2
        } else if h2::PREFACE.starts_with(inbox) {
            Spoken::Unknown
        } else {
            Spoken::Http1
        }
    }
}

impl<H: Handler> Connection<H> {
    pub fn new(server: Rc<Server<H>>, watch: Watch, stream: Stream, peer: Option<SocketAddr>) -> Self {
        Connection {
            watch,
            stream,
            peer,
            server,
            inbox: Vec::new(),
            used: 0,
            answered: false,
        }
    }

    /// Serves requests until one side has had enough; or gives the connection back, as soon as it is known to be for HTTP/2.
    pub async fn run(mut self) -> Option<h2::Begun<H>> {
        if let (Stream::Tls(tls), Some(door)) = (&self.stream, &self.server.tls) {
            if let Err(error) = Box::pin(tls.handshake(&self.watch, &door.gate, &self.server.shutdown)).await
            {
                tracing::debug!(peer = ?self.peer, %error, "no TLS session");
                return None;
            }
            let handed_over;
            (self.stream, handed_over) = self.stream.into_kernel();
            if let Err(error) = handed_over {
                tracing::debug!(peer = ?self.peer, %error, "the kernel did not take a TLS session over");
                return None;
            }
            if matches!(self.stream, Stream::Kernel(_)) {
                tracing::debug!(peer = ?self.peer, "encrypted by the kernel from here on");
            }
        }
        let mut scanned = 0;
        let mut spoken = Spoken::Unknown;
        loop {
            if spoken == Spoken::Unknown {
                spoken = Spoken::from(&self.inbox, self.stream.is_h2());
                match spoken {
                    Spoken::Unknown => match self.receive().await {
                        Next::Continue => continue,
                        Next::Close | Next::Gone => return None,
                    },
                    Spoken::Http2 => {
                        let Connection {
                            watch,
                            stream,
                            peer,
                            server,
                            inbox,
                            ..
                        } = self;
                        watch.set(Waiting::Input, HEAD_SECONDS);
                        return Some(h2::Begun {
                            watch,
                            stream,
                            server,
                            peer,
                            received: inbox,
                        });
                    }
                    Spoken::Http1 => {}
                }
            }
            let step = match parse_head(&self.inbox[self.used..], &mut scanned) {
                Ok(Some((mut head, len))) => {
                    scanned = 0;
                    head.peer = self.peer.map(|peer| peer.ip());
                    head.certificate = self.stream.certificate();
                    let next = self.respond(&head).await;
                    self.used += len;
                    self.answered = true;
                    next
                }
                Ok(None) => self.receive().await,
                Err(error) => Box::pin(self.refuse(&error)).await,
            };
            match step {
                Next::Continue => {}
                Next::Close => {
                    // The client has what it asked for.
                    self.stream.leave(&self.watch).await;
                    return None;
                }
                Next::Gone => return None,
            }
        }
    }

    async fn respond(&self, head: &RequestHead<'_>) -> Next {
        let server = &*self.server;
        let started = server.access_log.as_ref().map(|_| monotonic_micros());
        let keep_alive = head.keep_alive && !server.shutdown.draining() && !self.stream.is_worn_out();
        let sending = Sending {
            stream: &self.stream,
            watch: &self.watch,
            helper: &server.helper,
            head,
            keep_alive,
        };
        let (status, cache, sent) = match server.handler.ready(head) {
            Some(ready) => {
                let _memory = ready.file.as_ref().map(|_| server.load.memory.response());
                (200, CacheResult::Hit, sending.ready(&ready).await)
            }
            None => {
                let _memory = server.load.memory.response();
                // The connection waits for us, not for the client.
                self.watch.clear();
                match self.unless_gone(server.handler.answer(head)).await {
                    // Boxed, as everything that is not a hit from memory: an idle connection pays for the largest
                    // state it could be in.
                    Some(response) => (
                        response.status,
                        response.cache,
                        Box::pin(sending.response(response)).await,
                    ),
                    None => (0, CacheResult::None, Sent::nothing()),
                }
            }
        };
        if let (Some(log), Some(started)) = (&server.access_log, started) {
            log.write(&Record {
                peer: self.peer,
                head,
                status,
                bytes: sent.bytes,
                micros: monotonic_micros().saturating_sub(started),
                cache,
                end: if sent.complete {
                    End::Complete
                } else {
                    End::cut(head, status, sent.bytes, sent.client_gone)
                },
            });
        }
        if sent.file_failed {
            server.handler.file_failed(head);
        }
        match sent {
            Sent {
                complete: true,
                keep_alive: true,
                ..
            } => Next::Continue,
            Sent { complete: true, .. } => {
                Box::pin(self.linger()).await;
                Next::Close
            }
            Sent { .. } => Next::Gone,
        }
    }

    /// The result of `work`; `None` when the client has closed its connection, or, for [`CLIENT_GONE`], its sending side: the
    /// one cannot be told from the other before something is sent. No timer is armed for what is there at once.
    async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            return Some(result);
        }
        let mut closed = Duration::ZERO;
        loop {
            if let Ok(result) = monoio::time::timeout(CLIENT_CHECK, work.as_mut()).await {
                return Some(result);
            }
            match self.stream.local().peer() {
                Peer::Open => closed = Duration::ZERO,
                Peer::Closing if closed < CLIENT_GONE => closed += CLIENT_CHECK,
                Peer::Closing | Peer::Gone => return None,
            }
        }
    }

    /// Reads more of a head.
    async fn receive(&mut self) -> Next {
        if self.used == self.inbox.len() {
            self.inbox.clear();
            self.used = 0;
            // A large head was an exception: its buffer is not kept for the connection's life.
            if self.inbox.capacity() > 4 * INBOX_BYTES {
                self.inbox = Vec::new();
            }
            self.watch.set(Waiting::Idle, IDLE_SECONDS);
            if self.server.shutdown.draining() {
                return Box::pin(self.receive_last()).await;
            }
        } else if self.used > 0 {
            // The beginning of a head that came along with the request before it.
            self.inbox.drain(..self.used);
            self.used = 0;
            self.watch.set(Waiting::Input, HEAD_SECONDS);
        }
        let begins = self.inbox.is_empty();
        loop {
            let waited = {
                let readable = pin!(self.stream.readable());
                self.watch.unless_ended(readable).await
            };
            let ended = match waited {
                Some(Ok(())) => false,
                Some(Err(_)) => return Next::Gone,
                None => true,
            };
            return match self.take() {
                Ok(0) => Next::Close,
                Ok(_) => {
                    if begins {
                        // From the first byte to the last: more bytes do not move it.
                        self.watch.set(Waiting::Input, HEAD_SECONDS);
                    }
                    Next::Continue
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Next::Gone,
                Err(_) if ended && !begins => Box::pin(self.refuse(&HeadError::Timeout)).await,
                Err(_) if ended && self.server.shutdown.draining() => Box::pin(self.receive_last()).await,
                Err(_) if ended => Next::Close,
                // A part of a TLS record is no request yet, and moves no deadline.
                Err(_) => continue,
            };
        }
    }

    /// Takes what the socket has.
    fn take(&mut self) -> io::Result<usize> {
        if self.inbox.capacity() == self.inbox.len() {
            // Grows by doubling; the parser refuses a head before it exceeds its limit.
            self.inbox.reserve(INBOX_BYTES.max(self.inbox.len()));
        }
        self.stream.recv(&mut self.inbox)
    }

    /// Takes the beginning of a last request where the server stops. What has come already is answered, and a client that
    /// has only just connected has its first request on the way: closing now would reset it.
    async fn receive_last(&mut self) -> Next {
        // Nothing ends this wait but itself: the socket must not be shut down under what may come.
        self.watch.clear();
        let mut taken = self.take();
        if !self.answered && !matches!(taken, Ok(1..)) {
            monoio::time::sleep(FIRST_REQUEST).await;
            taken = self.take();
        }
        match taken {
            Ok(1..) => {
                self.watch.set(Waiting::Input, HEAD_SECONDS);
                Next::Continue
            }
            _ => Next::Close,
        }
    }

    /// Answers a head that is not one, and closes.
    async fn refuse(&self, error: &HeadError) -> Next {
        if *error == HeadError::RequestLine && !self.answered && names_no_http(&self.inbox) {
            tracing::debug!(peer = ?self.peer, "neither HTTP/1 nor the preface of HTTP/2");
            return Next::Close;
        }
        tracing::debug!(peer = ?self.peer, reason = error.reason(), "refused a request");
        let head = RequestHead::refused();
        debug_assert!(head.method == Method::Other && head.version == Version::Http11);
        let sending = Sending {
            stream: &self.stream,
            watch: &self.watch,
            helper: &self.server.helper,
            head: &head,
            keep_alive: false,
        };
        let sent = sending.response(super::h1::refusal(error)).await;
        if let Some(log) = &self.server.access_log {
            log.write(&Record {
                peer: self.peer,
                head: &head,
                status: error.status(),
                bytes: sent.bytes,
                micros: 0,
                cache: CacheResult::None,
                end: if sent.complete {
                    End::Complete
                } else {
                    End::Aborted
                },
            });
        }
        if sent.complete {
            self.linger().await;
        }
        Next::Close
    }

    /// Says that nothing more comes and waits a little for the client to see it: closing a socket with
    /// unread input resets it, which can destroy the answer on its way.
    async fn linger(&self) {
        self.stream.leave(&self.watch).await;
        self.stream.shutdown(Shutdown::Write);
        self.watch.set(Waiting::Input, LINGER_SECONDS);
        let mut rubbish = Vec::with_capacity(4 * 1024);
        let mut thrown_away = 0;
        while thrown_away < LINGER_BYTES_MAX {
            rubbish.clear();
            match self.stream.recv(&mut rubbish) {
                Ok(0) => return,
                Ok(received) => thrown_away += received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.stream.readable().await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
