//! A client connection over HTTP/1: reads a request head, sends the response, and repeats. A
//! connection that starts with the HTTP/2 preface moves to [`h2`].

use std::future::{Future, poll_fn};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;

use super::access_log::{End, Record, Stopwatch};
use super::deadlines::{ConnectionDeadline, WaitReason};
use super::h1::parse::{HeadError, parse_head};
use super::h1::send::{Sending, Sent};
use super::stream::Stream;
use super::{Handler, Server, h2};
use crate::http::{CacheResult, Method, RequestDetails, RequestHead, Version};
use crate::limits::{
    CLIENT_CHECK_INTERVAL, FIRST_REQUEST_TIMEOUT, HALF_CLOSED_TIMEOUT, KEEP_ALIVE_TIMEOUT,
    RECEIVE_BUFFER_BYTES, REQUEST_HEAD_TIMEOUT,
};
use crate::sys::Peer;
use crate::trace;

/// A client connection with its received but unused bytes.
pub struct Connection<H> {
    // Declared before the socket, because the deadline must not outlive the descriptor that it may
    // shut down.
    deadline: ConnectionDeadline,
    stream: Stream,
    peer: Option<SocketAddr>,
    server: Rc<Server<H>>,
    /// Received bytes. `buffer[used..]` is not parsed yet.
    buffer: Vec<u8>,
    used: usize,
    /// The server has answered or rejected a request.
    answered: bool,
}

/// The next step of the connection after a request or a read.
enum Next {
    Continue,
    /// Close the connection in order. No response is pending.
    Close,
    /// Close the connection. The client receives no more bytes.
    Gone,
}

/// Returns whether the first line has three words like a request line, but names neither a path nor
/// an HTTP version. Such a line is an invalid HTTP/2 preface or another protocol. An invalid
/// preface must not receive an HTTP/1 response (RFC 9113, 3.4).
fn names_no_http(buffer: &[u8]) -> bool {
    let is_name = |word: &[u8]| !word.is_empty() && word.iter().all(u8::is_ascii_uppercase);
    let line = buffer.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(method), Some(target), Some(version), None) => {
            !method.is_empty() && is_name(target) && is_name(version)
        }
        _ => false,
    }
}

/// The protocol of a client, from its first bytes. `Upgrade: h2c` is ignored (RFC 9113, 3.1).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// No byte or an incomplete HTTP/2 preface has arrived. Only a complete preface selects HTTP/2.
    Unknown,
    Http1,
    Http2,
}

impl Protocol {
    /// Detects the protocol. With `agreed`, the TLS session has negotiated HTTP/2, and the client
    /// must use it.
    fn from(buffer: &[u8], agreed: bool) -> Self {
        if agreed || buffer.starts_with(h2::PREFACE) {
            Protocol::Http2
        } else if h2::PREFACE.starts_with(buffer) {
            Protocol::Unknown
        } else {
            Protocol::Http1
        }
    }
}

impl<H: Handler> Connection<H> {
    pub fn new(
        server: Rc<Server<H>>,
        deadline: ConnectionDeadline,
        stream: Stream,
        peer: Option<SocketAddr>,
    ) -> Self {
        Connection {
            deadline,
            stream,
            peer,
            server,
            buffer: Vec::new(),
            used: 0,
            answered: false,
        }
    }

    /// Serves HTTP/1 requests until either side closes the connection. Returns the connection if
    /// the client uses HTTP/2.
    pub async fn run(mut self) -> Option<h2::AcceptedH2<H>> {
        if let (Stream::Tls(tls), Some(context)) = (&self.stream, &self.server.tls) {
            if let Err(error) =
                Box::pin(tls.handshake(&self.deadline, &context.handshakes, &self.server.shutdown)).await
            {
                tracing::debug!(client = self.peer.map(tracing::field::display), %error, "TLS handshake failed");
                return None;
            }
            let handed_over;
            (self.stream, handed_over) = self.stream.into_ktls();
            if let Err(error) = handed_over {
                tracing::debug!(client = self.peer.map(tracing::field::display), %error, "kTLS setup failed");
                return None;
            }
            if matches!(self.stream, Stream::Ktls(_)) {
                tracing::debug!(client = self.peer.map(tracing::field::display), "kTLS enabled");
            }
        }
        let mut scanned = 0;
        let mut protocol = Protocol::Unknown;
        loop {
            if protocol == Protocol::Unknown {
                protocol = Protocol::from(&self.buffer, self.stream.is_h2());
                match protocol {
                    Protocol::Unknown => match self.receive().await {
                        Next::Continue => continue,
                        Next::Close | Next::Gone => return None,
                    },
                    Protocol::Http2 => {
                        let Connection {
                            deadline,
                            stream,
                            peer,
                            server,
                            buffer,
                            ..
                        } = self;
                        deadline.set(WaitReason::Input, REQUEST_HEAD_TIMEOUT);
                        return Some(h2::AcceptedH2 {
                            deadline,
                            stream,
                            server,
                            peer,
                            received: buffer,
                        });
                    }
                    Protocol::Http1 => {}
                }
            }
            let next = match parse_head(&self.buffer[self.used..], &mut scanned) {
                Ok(Some((mut head, len))) => {
                    scanned = 0;
                    head.id = self.server.request_ids.next();
                    head.peer = self.peer.map(|peer| peer.ip());
                    head.certificate = self.stream.certificate();
                    head.trace = trace::of_request(head.traceparent());
                    head.is_tls = self.stream.is_tls();
                    let next = self.respond(&head).await;
                    self.used += len;
                    self.answered = true;
                    next
                }
                Ok(None) => self.receive().await,
                Err(error) => Box::pin(self.refuse(&error)).await,
            };
            match next {
                Next::Continue => {}
                Next::Close => {
                    // No response is truncated, so a close notification is correct.
                    self.stream.leave(&self.deadline).await;
                    return None;
                }
                Next::Gone => return None,
            }
        }
    }

    async fn respond(&self, head: &RequestHead<'_>) -> Next {
        let server = &*self.server;
        let stopwatch = Stopwatch::start();
        let keep_alive = head.keep_alive && !server.shutdown.draining() && !self.stream.is_key_near_limit();
        let sending = Sending {
            stream: &self.stream,
            deadline: &self.deadline,
            helper: &server.helper,
            head,
            keep_alive,
            stopwatch: &stopwatch,
        };
        let mut details = RequestDetails::default();
        let (status, cache, sent) = match server.handler.ready(head) {
            Some(ready) => {
                details = RequestDetails::of_hit(&ready);
                let _memory = ready.file.as_ref().map(|_| server.resources.memory.response());
                (200, CacheResult::Hit, sending.ready(&ready).await)
            }
            None => {
                let _memory = server.resources.memory.response();
                // The connection waits for the cache, not for the client.
                self.deadline.clear();
                let context = head.trace.map(|trace| trace.context);
                let answer = trace::within(context, server.handler.answer(head, &details));
                let answer = AssertUnwindSafe(answer).catch_unwind();
                match self.unless_gone(answer).await {
                    // Boxed, like everything except a hit from memory. An idle connection pays for
                    // the largest state of its future.
                    Some(Ok(response)) => (
                        response.status,
                        response.cache,
                        Box::pin(sending.response(response)).await,
                    ),
                    // The panic hook has logged the message and location. The connection closes
                    // without a response.
                    Some(Err(_)) => {
                        tracing::error!(id = %head.id, "connection task panicked");
                        (0, CacheResult::None, Sent::nothing())
                    }
                    None => (0, CacheResult::None, Sent::nothing()),
                }
            }
        };
        self.record(head, &details, &stopwatch, (status, cache), &sent);
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

    fn record(
        &self,
        head: &RequestHead<'_>,
        details: &RequestDetails,
        stopwatch: &Stopwatch,
        (status, cache): (u16, CacheResult),
        sent: &Sent,
    ) {
        self.server.record(&Record {
            peer: self.peer,
            head,
            details,
            stopwatch,
            status,
            bytes: sent.bytes,
            cache,
            end: if sent.complete {
                End::Complete
            } else {
                End::cut(head, status, sent.bytes, sent.client_gone)
            },
        });
    }

    /// Runs `work`. Returns `None` if the client has closed the connection, or has closed its
    /// sending side for [`HALF_CLOSED_TIMEOUT`]. Without a send, the server cannot distinguish the
    /// two cases. If `work` completes at the first poll, no timer is armed.
    async fn unless_gone<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        if let Poll::Ready(result) = poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx))).await {
            return Some(result);
        }
        let mut closed = Duration::ZERO;
        loop {
            if let Ok(result) = monoio::time::timeout(CLIENT_CHECK_INTERVAL, work.as_mut()).await {
                return Some(result);
            }
            match self.stream.local().peer() {
                Peer::Open => closed = Duration::ZERO,
                Peer::Closing if closed < HALF_CLOSED_TIMEOUT => closed += CLIENT_CHECK_INTERVAL,
                Peer::Closing | Peer::Gone => return None,
            }
        }
    }

    /// Reads more bytes of a request head.
    async fn receive(&mut self) -> Next {
        if self.used == self.buffer.len() {
            self.buffer.clear();
            self.used = 0;
            // Large heads are rare. The connection does not keep their buffer.
            if self.buffer.capacity() > 4 * RECEIVE_BUFFER_BYTES {
                self.buffer = Vec::new();
            }
            self.deadline.set(WaitReason::Idle, KEEP_ALIVE_TIMEOUT);
            if self.server.shutdown.draining() {
                return Box::pin(self.receive_last()).await;
            }
        } else if self.used > 0 {
            // The buffer holds the start of a pipelined request.
            self.buffer.drain(..self.used);
            self.used = 0;
            self.deadline.set(WaitReason::Input, REQUEST_HEAD_TIMEOUT);
        }
        let begins = self.buffer.is_empty();
        loop {
            let waited = {
                let readable = pin!(self.stream.readable());
                self.deadline.unless_ended(readable).await
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
                        // The deadline covers the whole head. Later bytes do not extend it.
                        self.deadline.set(WaitReason::Input, REQUEST_HEAD_TIMEOUT);
                    }
                    Next::Continue
                }
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => Next::Gone,
                Err(_) if ended && !begins => Box::pin(self.refuse(&HeadError::Timeout)).await,
                Err(_) if ended && self.server.shutdown.draining() => Box::pin(self.receive_last()).await,
                Err(_) if ended => Next::Close,
                // A partial TLS record is not a request and extends no deadline.
                Err(_) => continue,
            };
        }
    }

    /// Appends the bytes that the socket has received to the buffer.
    fn take(&mut self) -> io::Result<usize> {
        if self.buffer.capacity() == self.buffer.len() {
            // The capacity doubles. The parser rejects a head above its size limit before the
            // buffer exceeds that limit.
            self.buffer.reserve(RECEIVE_BUFFER_BYTES.max(self.buffer.len()));
        }
        self.stream.recv(&mut self.buffer)
    }

    /// Reads the start of a last request while the server drains. The server still answers a
    /// request that has arrived. On a new connection, the first request is probably in flight, and
    /// a close would reset the connection.
    async fn receive_last(&mut self) -> Next {
        // The sleep alone ends this wait. A deadline would shut down the socket while a request
        // arrives.
        self.deadline.clear();
        let mut taken = self.take();
        if !self.answered && !matches!(taken, Ok(1..)) {
            monoio::time::sleep(FIRST_REQUEST_TIMEOUT).await;
            taken = self.take();
        }
        match taken {
            Ok(1..) => {
                self.deadline.set(WaitReason::Input, REQUEST_HEAD_TIMEOUT);
                Next::Continue
            }
            _ => Next::Close,
        }
    }

    /// Rejects an invalid request head and closes the connection.
    async fn refuse(&self, error: &HeadError) -> Next {
        if *error == HeadError::RequestLine && !self.answered && names_no_http(&self.buffer) {
            tracing::debug!(
                client = self.peer.map(tracing::field::display),
                "connection without HTTP closed"
            );
            return Next::Close;
        }
        let server = &*self.server;
        let head = RequestHead {
            id: server.request_ids.next(),
            ..RequestHead::refused()
        };
        tracing::debug!(id = %head.id, client = self.peer.map(tracing::field::display), reason = error.reason(), "request head rejected");
        let stopwatch = Stopwatch::start();
        debug_assert!(head.method == Method::Other && head.version == Version::Http11);
        let sending = Sending {
            stream: &self.stream,
            deadline: &self.deadline,
            helper: &server.helper,
            head: &head,
            keep_alive: false,
            stopwatch: &stopwatch,
        };
        let sent = sending.response(super::h1::refusal(error)).await;
        let result = (error.status(), CacheResult::None);
        self.record(&head, &RequestDetails::default(), &stopwatch, result, &sent);
        if sent.complete {
            self.linger().await;
        }
        Next::Close
    }

    /// Closes the sending side and briefly waits for the client to close. Closing a socket with
    /// unread input resets the connection, and a reset can destroy the response in flight.
    async fn linger(&self) {
        self.stream.leave(&self.deadline).await;
        self.stream.shutdown(Shutdown::Write);
        self.stream.discard_input(&self.deadline).await;
    }
}
