//! Encodes and sends HTTP/1.1 responses, with one function per kind of body.

use std::cell::RefCell;
use std::io::{self, IoSlice};

use super::encode;
use super::turn::Turn;
use crate::http::{Body, Method, Piece, Ready, RequestHead, Response, Span, Version};
use crate::limits::{
    COLD_READ_BYTES, OPEN_RANGE_UNSENT_BYTES, SEND_STALL_TIMEOUT, SEND_TURN_BYTES, SPLICE_BYTES_MIN,
    TLS_PENDING_BYTES, TLS_SEND_TURN_BYTES,
};
use crate::runtime::clock::unix_seconds;
use crate::runtime::helper::{Helper, ReadKind};
use crate::server::access_log::Stopwatch;
use crate::server::deadlines::{ConnectionDeadline, WaitReason};
use crate::server::pages::{Pages, Reader};
use crate::server::stream::Stream;
use crate::shared_file::SharedFile;
use crate::sys::{Pipe, read_resident};

thread_local! {
    /// The buffer for file bytes before encryption. Never borrowed across an await.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A response during its transmission.
pub struct Sending<'a> {
    pub stream: &'a Stream,
    pub deadline: &'a ConnectionDeadline,
    pub helper: &'a Helper,
    pub head: &'a RequestHead<'a>,
    pub keep_alive: bool,
    /// Set if the request is logged.
    pub stopwatch: Option<&'a Stopwatch>,
}

/// The result of sending a response.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Body bytes that the kernel accepted.
    pub bytes: u64,
    /// The whole response was sent. Otherwise the connection cannot be used again.
    pub complete: bool,
    /// The connection accepts another request.
    pub keep_alive: bool,
    /// The client closed the connection before the end of the response.
    pub client_gone: bool,
    /// The stored file was unreadable or too short.
    pub file_failed: bool,
}

impl Sent {
    /// Returns the result for a client that left before the response.
    pub fn nothing() -> Self {
        Sent {
            bytes: 0,
            complete: false,
            keep_alive: false,
            client_gone: true,
            file_failed: false,
        }
    }

    fn new(bytes: u64, result: &io::Result<()>, keep_alive: bool) -> Self {
        let file_failed = result.as_ref().is_err_and(|error| {
            error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(libc::EIO)
        });
        let client_gone = result.as_ref().is_err_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            )
        });
        Sent {
            bytes,
            client_gone,
            complete: result.is_ok(),
            keep_alive,
            file_failed,
        }
    }
}

/// The framing that ends a body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
    /// The end of the connection, for HTTP/1.0 and an unknown length.
    Close,
}

impl Sending<'_> {
    /// Sends an encoded response.
    pub async fn ready(&self, ready: &Ready) -> Sent {
        let encoded = match self.head.method {
            Method::Head => &ready.encoded[..ready.head_len],
            _ => &ready.encoded[..],
        };
        let file = ready.file.as_ref().filter(|_| self.head.method != Method::Head);
        let mut bytes = (encoded.len() - ready.head_len) as u64;
        let result = if self.keep_alive && self.head.version == Version::Http11 {
            // The common case, with one system call.
            let sent = self.stream.send(encoded, file.is_some());
            if sent.is_ok() {
                self.head_sent();
            }
            match sent {
                Ok(sent) if sent == encoded.len() => Ok(()),
                Ok(sent) => {
                    self.send_all(&mut [IoSlice::new(&encoded[sent..])], file.is_some())
                        .await
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.send_all(&mut [IoSlice::new(encoded)], file.is_some()).await
                }
                Err(error) => Err(error),
            }
        } else {
            let (head, body) = encoded.split_at(ready.head_len);
            let head = &head[..ready.head_len - 2];
            let end = [connection_field(self.keep_alive), b"\r\n"].concat();
            let mut slices = [IoSlice::new(head), IoSlice::new(&end), IoSlice::new(body)];
            self.send_all(&mut slices, file.is_some()).await
        };
        let result = match (result, file) {
            (Ok(()), Some((file, size))) => {
                let whole = Span { start: 0, end: *size };
                // Boxed, so that an idle connection does not pay for this state.
                let sent = Box::pin(self.span(file, whole, false, &mut bytes)).await;
                if sent.is_err() {
                    self.stream.reset_on_close();
                }
                sent
            }
            (result, _) => result,
        };
        let result = match result {
            Ok(()) if !self.stream.takes_files() => self.flush().await,
            result => result,
        };
        Sent::new(bytes, &result, self.keep_alive)
    }

    /// Sends a response. Resets the connection after a truncated response, so that the response
    /// does not look complete.
    pub async fn response(&self, response: Response) -> Sent {
        let head_only = self.head.method == Method::Head || matches!(response.status, 204 | 304);
        let framing = match response.length {
            Some(length) => Framing::Length(length),
            None if self.head.version == Version::Http11 => Framing::Chunked,
            None => Framing::Close,
        };
        let keep_alive = self.keep_alive && (framing != Framing::Close || head_only);
        let head = self.encode_head(&response, framing, keep_alive);
        if response.status == 206 && self.head.has_open_range() {
            self.stream.limit_unsent(OPEN_RANGE_UNSENT_BYTES);
        }
        let mut bytes = 0;
        let result = if head_only {
            self.send_all(&mut [IoSlice::new(&head)], false).await
        } else {
            self.body(&head, response.body, framing, &mut bytes).await
        };
        let result = match result {
            Ok(()) => self.flush().await,
            result => result,
        };
        if let Err(error) = &result {
            tracing::debug!(id = %self.head.id, path = self.head.path, %error, "response cut off");
            self.stream.reset_on_close();
        }
        debug_assert!(result.is_err() || head_only || !matches!(framing, Framing::Length(l) if l != bytes));
        Sent::new(bytes, &result, keep_alive)
    }

    fn encode_head(&self, response: &Response, framing: Framing, keep_alive: bool) -> Vec<u8> {
        let mut head = Vec::with_capacity(response.fields.as_bytes().len() + 160);
        encode::begin(
            &mut head,
            response.status,
            unix_seconds(),
            response.fields.as_bytes(),
        );
        match framing {
            // A 304 describes the 200 but has no body. No `Content-Length` is simplest and valid.
            _ if matches!(response.status, 204 | 304) => {}
            Framing::Length(length) => encode::content_length(&mut head, length),
            Framing::Chunked => head.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
            Framing::Close => {}
        }
        if !keep_alive || self.head.version == Version::Http10 {
            head.extend_from_slice(connection_field(keep_alive));
        }
        head.extend_from_slice(b"\r\n");
        head
    }

    async fn body(&self, head: &[u8], body: Body, framing: Framing, bytes: &mut u64) -> io::Result<()> {
        match body {
            Body::Empty => self.send_all(&mut [IoSlice::new(head)], false).await,
            Body::Bytes(body) => {
                self.send_all(&mut [IoSlice::new(head), IoSlice::new(&body)], false)
                    .await?;
                *bytes += body.len() as u64;
                Ok(())
            }
            Body::File { file, span } => {
                self.send_all(&mut [IoSlice::new(head)], span.size() > 0).await?;
                self.span(&file, span, false, bytes).await
            }
            Body::Parts { file, parts, tail } => {
                self.send_all(&mut [IoSlice::new(head)], true).await?;
                for (part_head, span) in parts {
                    self.send_all(&mut [IoSlice::new(&part_head)], true).await?;
                    *bytes += part_head.len() as u64;
                    self.span(&file, span, true, bytes).await?;
                }
                self.send_all(&mut [IoSlice::new(&tail)], false).await?;
                *bytes += tail.len() as u64;
                Ok(())
            }
            Body::Growing(mut growing) => {
                self.send_all(&mut [IoSlice::new(head)], false).await?;
                loop {
                    // The client is not responsible for a wait for the upstream. No deadline of
                    // this connection runs.
                    self.deadline.clear();
                    let piece = growing.next().await;
                    match piece {
                        Ok(Some(piece)) => self.piece(piece, framing, bytes).await?,
                        Ok(None) => break,
                        Err(_) => return Err(io::Error::other("the body ended early")),
                    }
                }
                match framing {
                    Framing::Chunked => self.send_all(&mut [IoSlice::new(b"0\r\n\r\n")], false).await,
                    _ => Ok(()),
                }
            }
        }
    }

    async fn piece(&self, piece: Piece, framing: Framing, bytes: &mut u64) -> io::Result<()> {
        let size = match &piece {
            Piece::Memory(memory) => memory.len() as u64,
            Piece::File { span, .. } => span.size(),
        };
        if framing == Framing::Chunked {
            let chunk = format!("{size:x}\r\n");
            self.send_all(&mut [IoSlice::new(chunk.as_bytes())], true).await?;
        }
        match piece {
            Piece::Memory(memory) => {
                self.send_all(&mut [IoSlice::new(&memory)], false).await?;
                *bytes += size;
            }
            Piece::File { file, span } => self.span(&file, span, false, bytes).await?,
        }
        if framing == Framing::Chunked {
            self.send_all(&mut [IoSlice::new(b"\r\n")], false).await?;
        }
        Ok(())
    }

    /// Records the time of the first sent bytes.
    fn head_sent(&self) {
        if let Some(stopwatch) = self.stopwatch {
            stopwatch.head_sent();
        }
    }

    async fn send_all(&self, mut slices: &mut [IoSlice<'_>], more: bool) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            match self.stream.send_vectored(slices, more) {
                Ok(sent) => {
                    self.head_sent();
                    self.deadline.sent(sent);
                    IoSlice::advance_slices(&mut slices, sent);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends a part of a file with the fastest measured method for its size.
    async fn span(&self, file: &SharedFile, span: Span, more: bool, bytes: &mut u64) -> io::Result<()> {
        if !self.stream.takes_files() {
            return self.encrypted(file, span, more, bytes).await;
        }
        if span.size() >= SPLICE_BYTES_MIN
            && let Ok(pipe) = Pipe::take()
        {
            return self.spliced(file, span, pipe, more, bytes).await;
        }
        self.sendfiled(file, span, bytes).await
    }

    /// Sends file bytes through memory and the TLS session, for streams without
    /// [`Stream::takes_files`]. The core reads bytes in the page cache into a buffer shared by all
    /// connections. A helper thread reads the other bytes.
    async fn encrypted(&self, file: &SharedFile, span: Span, more: bool, bytes: &mut u64) -> io::Result<()> {
        let pages = Pages::of(file);
        let mut offset = span.start;
        let mut turn = Turn::new(TLS_SEND_TURN_BYTES, bytes);
        while offset < span.end {
            self.end_turn(&mut turn).await?;
            // No file read for a client that accepts no bytes.
            self.flush().await?;
            let step = (span.end - offset).min(TLS_PENDING_BYTES as u64);
            let reader = pages.reader(file, offset, step);
            let sent = match reader {
                Reader::HelperCached | Reader::HelperMissing => Ok(None),
                Reader::Core(step) => READ_BUFFER.with_borrow_mut(|buffer| {
                    // At most `TLS_PENDING_BYTES`, so the cast never truncates.
                    buffer.resize(TLS_PENDING_BYTES, 0);
                    let read = read_resident(file, offset, &mut buffer[..step as usize])?;
                    match read {
                        None => Ok(None),
                        Some(0) => Err(truncated()),
                        Some(read) => {
                            let more = more || offset + (read as u64) < span.end;
                            self.stream.send(&buffer[..read], more).map(Some)
                        }
                    }
                }),
            };
            let sent = match sent {
                Ok(Some(sent)) => sent as u64,
                Ok(None) => {
                    if reader != Reader::HelperCached {
                        turn.limit_to(COLD_READ_BYTES);
                    }
                    let read = self.read(pages, file, offset, span, reader).await?;
                    turn.begin();
                    let more = more || offset + (read.len() as u64) < span.end;
                    self.send_all(&mut [IoSlice::new(&read)], more).await?;
                    read.len() as u64
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.next_turn(&mut turn).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            offset += sent;
            turn.count(sent);
        }
        Ok(())
    }

    /// Waits until the kernel has all sent bytes.
    async fn flush(&self) -> io::Result<()> {
        loop {
            match self.stream.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await?,
                result => return result,
            }
        }
    }

    /// Reads at `offset` of `span` on a helper thread. The read ends with the window, so that the
    /// next reads find the rest in memory.
    async fn read(
        &self,
        pages: Pages,
        file: &SharedFile,
        offset: u64,
        span: Span,
        reader: Reader,
    ) -> io::Result<Vec<u8>> {
        let file = file.clone();
        let length = (span.end - offset).min(COLD_READ_BYTES - offset % COLD_READ_BYTES);
        self.helper
            .read(read_kind(reader, span), move || pages.read(&file, offset, length))
            .await
            .map_err(io::Error::other)?
    }

    /// Sends file bytes through a pipe to the socket. A helper thread fills the pipe with the bytes
    /// that the core may not read. Thus the core never waits for the disk.
    ///
    /// The socket is corked, because an acknowledgement that arrives during a splice would send a
    /// partial segment.
    async fn spliced(
        &self,
        file: &SharedFile,
        span: Span,
        mut pipe: Pipe,
        more: bool,
        bytes: &mut u64,
    ) -> io::Result<()> {
        let pages = Pages::of(file);
        let mut offset = span.start;
        let mut turn = Turn::new(SEND_TURN_BYTES, bytes);
        let mut cork = None;
        while offset < span.end || pipe.held() > 0 {
            self.end_turn(&mut turn).await?;
            if pipe.held() == 0 {
                let room = (span.end - offset).min(pipe.capacity() as u64);
                let moved = match pages.reader(file, offset, room.min(turn.bytes_max)) {
                    // At most the capacity of the pipe, so the cast never truncates.
                    Reader::Core(step) => pipe.fill(file, offset, step as usize)?,
                    reader => {
                        if reader == Reader::HelperMissing {
                            turn.limit_to(COLD_READ_BYTES);
                        }
                        // The client must not wait with the disk for the bytes sent so far.
                        cork = None;
                        let file = file.clone();
                        let (filled, moved) = self
                            .helper
                            .read(read_kind(reader, span), move || {
                                let moved = pages.read_steps(&file, offset, room, |at, step| {
                                    pipe.fill(&file, at, step as usize)
                                });
                                (pipe, moved)
                            })
                            .await
                            .map_err(io::Error::other)?;
                        pipe = filled;
                        turn.begin();
                        moved?
                    }
                };
                if moved == 0 {
                    return Err(truncated());
                }
                offset += moved as u64;
            }
            cork.get_or_insert_with(|| self.stream.cork());
            let more = more || offset < span.end;
            let result = self.stream.splice(&mut pipe, turn.bytes_max, more);
            self.count_result(result, &mut turn).await?;
        }
        pipe.put_back();
        Ok(())
    }

    async fn sendfiled(&self, file: &SharedFile, span: Span, bytes: &mut u64) -> io::Result<()> {
        let pages = Pages::of(file);
        let mut offset = span.start;
        let mut turn = Turn::new(SEND_TURN_BYTES, bytes);
        while offset < span.end {
            self.end_turn(&mut turn).await?;
            let step = (span.end - offset).min(SPLICE_BYTES_MIN).min(turn.bytes_max);
            let step = match pages.reader(file, offset, step) {
                Reader::Core(step) => step,
                reader => {
                    if reader == Reader::HelperMissing {
                        turn.limit_to(COLD_READ_BYTES);
                    }
                    let read = self.read(pages, file, offset, span, reader).await?;
                    turn.begin();
                    offset += read.len() as u64;
                    self.send_all(&mut [IoSlice::new(&read)], offset < span.end)
                        .await?;
                    turn.count(read.len() as u64);
                    continue;
                }
            };
            // At most `SPLICE_BYTES_MIN`, so the cast never truncates.
            offset += match self.stream.sendfile(file, offset, step as usize) {
                Ok(0) => return Err(truncated()),
                result => self.count_result(result, &mut turn).await?,
            };
        }
        Ok(())
    }

    /// Counts the bytes that a call has sent, and returns their number. If the socket is full, waits
    /// for room and returns 0.
    async fn count_result(&self, result: io::Result<usize>, turn: &mut Turn<'_>) -> io::Result<u64> {
        match result {
            Ok(sent) => {
                self.deadline.sent(sent);
                turn.count(sent as u64);
                Ok(sent as u64)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.next_turn(turn).await?;
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// Begins the next turn if the current turn is over. Called before a call, so that the last
    /// bytes of a body never wait for another turn.
    async fn end_turn(&self, turn: &mut Turn<'_>) -> io::Result<()> {
        if turn.is_over() {
            self.next_turn(turn).await?;
        }
        Ok(())
    }

    /// Waits for room and begins the next turn. Meanwhile the core runs other tasks.
    async fn next_turn(&self, turn: &mut Turn<'_>) -> io::Result<()> {
        self.room().await?;
        turn.begin();
        Ok(())
    }

    /// Waits until the client accepts more bytes. Meanwhile the core runs other tasks.
    async fn room(&self) -> io::Result<()> {
        self.deadline.set(WaitReason::Output, SEND_STALL_TIMEOUT);
        self.stream.writable().await?;
        if self.deadline.expired() || !self.deadline.meets_minimum_rate() {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client received too little for a minute",
            ));
        }
        self.deadline.clear();
        Ok(())
    }
}

fn read_kind(reader: Reader, span: Span) -> ReadKind {
    match reader {
        Reader::HelperCached => ReadKind::Cached,
        Reader::Core(_) | Reader::HelperMissing if span.size() < SPLICE_BYTES_MIN => ReadKind::Small,
        Reader::Core(_) | Reader::HelperMissing => ReadKind::Large,
    }
}

fn connection_field(keep_alive: bool) -> &'static [u8] {
    if keep_alive {
        b"Connection: keep-alive\r\n"
    } else {
        b"Connection: close\r\n"
    }
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the stored file is shorter than its recorded size",
    )
}

/// Encodes a 200 for [`Sending::ready`]: the whole response for a body in memory, or only the head
/// for a file. `fields` are encoded fields.
pub fn encode_ready(
    fields: &[u8],
    age: Option<u64>,
    body: &[u8],
    file: Option<(SharedFile, u64)>,
    now: u64,
) -> Ready {
    let size = file.as_ref().map_or(body.len() as u64, |(_, size)| *size);
    // The other lines of the head have less than 128 bytes.
    let mut encoded = Vec::with_capacity(fields.len() + body.len() + 128);
    encode::begin(&mut encoded, 200, now, fields);
    let fields = encoded.len() - fields.len()..encoded.len();
    if let Some(seconds) = age {
        encode::age(&mut encoded, seconds);
    }
    encode::content_length(&mut encoded, size);
    encoded.extend_from_slice(b"\r\n");
    let head_len = encoded.len();
    encoded.extend_from_slice(body);
    Ready::new(encoded, head_len, fields, file)
}

#[cfg(test)]
mod tests;
