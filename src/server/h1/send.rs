//! Encodes and sends HTTP/1.1 responses, with one function per kind of body.

mod file;

use std::io::{self, IoSlice};

use super::encode;
use crate::http::{Body, Method, Piece, Ready, RequestHead, Response, Span, Version};
use crate::limits::{OPEN_RANGE_UNSENT_BYTES, SEND_STALL_TIMEOUT};
use crate::runtime::clock::unix_seconds;
use crate::runtime::helper::Helper;
use crate::server::access_log::Stopwatch;
use crate::server::deadlines::{ConnectionDeadline, WaitReason};
use crate::server::stream::Stream;
use crate::shared_file::SharedFile;

/// A response during its transmission.
pub struct Sending<'a> {
    pub stream: &'a Stream,
    pub deadline: &'a ConnectionDeadline,
    pub helper: &'a Helper,
    pub head: &'a RequestHead<'a>,
    pub keep_alive: bool,
    /// Set if the request is logged.
    pub stopwatch: &'a Stopwatch,
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
        self.stopwatch.head_sent();
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

    /// Waits until the kernel has all sent bytes.
    async fn flush(&self) -> io::Result<()> {
        loop {
            match self.stream.flush() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.room().await?,
                result => return result,
            }
        }
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

fn connection_field(keep_alive: bool) -> &'static [u8] {
    if keep_alive {
        b"Connection: keep-alive\r\n"
    } else {
        b"Connection: close\r\n"
    }
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
