//! Sends bodies as DATA frames, with one function per kind of body. No function reads more bytes
//! than the client has granted.

use std::future::poll_fn;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::SendStream;

use super::send_buffer::{BUFFER_BYTES, Buffer, Charge, Chunk};
use super::shared::Shared;
use super::unread::OpenRange;
use crate::http::{Growing, Piece, Span};
use crate::limits::{
    COLD_READ_BYTES, H2_OPEN_RANGE_TIMEOUT, OPEN_RANGE_UNSENT_BYTES, SEND_RATE_MIN, SEND_STALL_TIMEOUT,
    SPLICE_BYTES_MIN,
};
use crate::runtime::clock::monotonic_millis;
use crate::runtime::helper::ReadKind;
use crate::server::pages::{Pages, Reader};
use crate::shared_file::SharedFile;
use crate::sys::read_resident;

/// The reason for a truncated body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// The client has reset the stream or closed the connection.
    Gone,
    /// The client accepted no bytes for too long, or too few bytes.
    Stalled,
    /// The source of the body failed before the end.
    Aborted,
    /// The stored file was unreadable or too short.
    File,
}

/// The body of a response during its transmission.
pub struct Outbound<'a, H> {
    shared: &'a Shared<H>,
    stream: SendStream<Chunk>,
    open_range: Option<OpenRange>,
    bytes: u64,
    /// The time spent waiting for the client, and the bytes sent on the whole connection before.
    waited_ms: u64,
    sent_before: u64,
}

impl<'a, H> Outbound<'a, H> {
    pub fn new(shared: &'a Shared<H>, stream: SendStream<Chunk>) -> Self {
        Outbound {
            shared,
            stream,
            open_range: None,
            bytes: 0,
            waited_ms: 0,
            sent_before: shared.sent.get(),
        }
    }

    /// Limits how far the body runs ahead of the client program. At most
    /// [`H2_OPEN_RANGE_UNREAD_BYTES`] stay unread. From now on, the kernel holds at most
    /// [`OPEN_RANGE_UNSENT_BYTES`] of the connection.
    ///
    /// [`H2_OPEN_RANGE_UNREAD_BYTES`]: crate::limits::H2_OPEN_RANGE_UNREAD_BYTES
    pub fn limit_ahead(&mut self) {
        self.shared.io.limit_unsent(OPEN_RANGE_UNSENT_BYTES);
        let id = self.stream.stream_id().as_u32();
        self.open_range = Some(self.shared.open_ranges.begin(id));
    }

    /// Returns the number of body bytes passed to `h2`.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Ends a body that has no more bytes.
    pub fn end(&mut self) -> Result<(), Cut> {
        self.stream
            .send_data(Chunk::free(Bytes::new()), true)
            .map_err(|_| Cut::Gone)
    }

    /// Sends `bytes`. With `last`, also ends the stream.
    pub async fn memory(&mut self, mut bytes: Bytes, last: bool) -> Result<(), Cut> {
        if bytes.is_empty() && last {
            return self.end();
        }
        while !bytes.is_empty() {
            let (room, charge) = self.room(bytes.len()).await?;
            let piece = bytes.split_to(room);
            self.give(Chunk::shared(piece, charge), room, last && bytes.is_empty())?;
        }
        Ok(())
    }

    /// Sends a part of an immutable file.
    pub async fn span(&mut self, file: &SharedFile, span: Span, last: bool) -> Result<(), Cut> {
        let pages = Pages::of(file);
        let mut offset = span.start;
        while offset < span.end {
            let rest = usize::try_from(span.end - offset).unwrap_or(usize::MAX);
            let (room, charge) = self.room(rest).await?;
            let mut buffer = Buffer::take();
            let reader = pages.reader(file, offset, room as u64);
            let read = match reader {
                // At most `room`.
                Reader::Core(step) => read_resident(file, offset, &mut buffer.bytes_mut()[..step as usize]),
                Reader::HelperCached | Reader::HelperMissing => Ok(None),
            };
            match read {
                Ok(Some(0)) | Err(_) => return Err(Cut::File),
                Ok(Some(read)) => {
                    offset += read as u64;
                    let end = last && offset == span.end;
                    self.give(Chunk::lent(buffer, read, charge), read, end)?;
                }
                Ok(None) => {
                    // Other streams may use the room during the disk read.
                    self.stream.reserve_capacity(0);
                    drop((buffer, charge));
                    let kind = match reader {
                        Reader::HelperCached => ReadKind::Cached,
                        _ if span.size() < SPLICE_BYTES_MIN => ReadKind::Small,
                        _ => ReadKind::Large,
                    };
                    let window = COLD_READ_BYTES - offset % COLD_READ_BYTES;
                    let step = (span.end - offset).min(BUFFER_BYTES as u64).min(window);
                    // The bytes read wait for room again, outside the budget.
                    let _charge = self.place_to_read(step as usize).await;
                    let file = file.clone();
                    let read = self
                        .shared
                        .server
                        .helper
                        .read(kind, move || pages.read(&file, offset, step))
                        .await;
                    let Ok(Ok(read)) = read else {
                        return Err(Cut::File);
                    };
                    offset += read.len() as u64;
                    self.memory(Bytes::from(read), last && offset == span.end).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends parts of a file, each after its part head, and then `tail`.
    pub async fn parts(
        &mut self,
        file: &SharedFile,
        parts: Vec<(Vec<u8>, Span)>,
        tail: Vec<u8>,
    ) -> Result<(), Cut> {
        for (head, span) in parts {
            self.memory(Bytes::from(head), false).await?;
            self.span(file, span, false).await?;
        }
        self.memory(Bytes::from(tail), true).await
    }

    /// Sends the bytes of a growing body until the body is verified. `length` is the declared
    /// length.
    pub async fn growing(&mut self, mut growing: Box<dyn Growing>, length: Option<u64>) -> Result<(), Cut> {
        loop {
            let piece = {
                let next = growing.next();
                let reset = pin!(poll_fn(|cx| self.stream.poll_reset(cx)));
                match select(next, reset).await {
                    Either::Left((piece, _)) => piece,
                    Either::Right(_) => return Err(Cut::Gone),
                }
            };
            match piece {
                Ok(Some(Piece::Memory(bytes))) => self.memory(bytes, false).await?,
                Ok(Some(Piece::File { file, span })) => self.span(&file, span, false).await?,
                Ok(None) if length.is_some_and(|length| length != self.bytes) => return Err(Cut::Aborted),
                Ok(None) => return self.end(),
                Err(_) => return Err(Cut::Aborted),
            }
        }
    }

    fn give(&mut self, chunk: Chunk, count: usize, end: bool) -> Result<(), Cut> {
        self.stream.send_data(chunk, end).map_err(|_| Cut::Gone)?;
        self.bytes += count as u64;
        self.shared.sent.set(self.shared.sent.get() + count as u64);
        Ok(())
    }

    /// Returns whether the client accepts [`SEND_RATE_MIN`] over all streams of the connection. A
    /// single stream may have to wait for the others. Checked once this stream has waited
    /// [`SEND_STALL_TIMEOUT`] in total, even in short waits.
    fn meets_minimum_rate(&mut self, waited_ms: u64) -> bool {
        self.waited_ms += waited_ms;
        if self.waited_ms < SEND_STALL_TIMEOUT.as_millis() as u64 {
            return true;
        }
        let enough = SEND_RATE_MIN * std::mem::take(&mut self.waited_ms) / 1_000;
        let sent = self.shared.sent.get();
        sent - std::mem::replace(&mut self.sent_before, sent) >= enough
    }

    /// Waits until the other streams of the connection leave room for a helper thread to read
    /// `bytes`. Each stream has deadlines for its read and for its client.
    async fn place_to_read(&self, bytes: usize) -> Charge {
        loop {
            if let Some(charge) = self.shared.reads.take(bytes) {
                return charge;
            }
            self.shared.reads.wait(bytes).await;
        }
    }

    /// Waits while the client has received too many unread bytes of an open range.
    async fn open_range_is_read(&mut self) -> Result<(), Cut> {
        loop {
            let wait_start = monotonic_millis();
            let ranges = &self.shared.open_ranges;
            let waited = {
                let Some(range) = &self.open_range else {
                    return Ok(());
                };
                let read = range.read();
                // Bytes without an acknowledgement are not unread. Most steps need no system call
                // for the check.
                let sent_or_unread = self.bytes.saturating_sub(read);
                if sent_or_unread < ranges.unread_max()
                    || sent_or_unread.saturating_sub(self.shared.io.unconfirmed()) < ranges.unread_max()
                {
                    return Ok(());
                }
                let more = pin!(range.read_more_than(read));
                let reset = pin!(poll_fn(|cx| self.stream.poll_reset(cx)));
                monoio::time::timeout(H2_OPEN_RANGE_TIMEOUT, select(more, reset))
                    .await
                    .map(|first| match first {
                        Either::Left(_) => Ok(()),
                        Either::Right(_) => Err(Cut::Gone),
                    })
            };
            match waited {
                Ok(outcome) => outcome?,
                Err(_) => ranges.raise_unread_max(),
            }
            if !self.meets_minimum_rate(monotonic_millis().saturating_sub(wait_start)) {
                return Err(Cut::Stalled);
            }
        }
    }

    /// Waits until the client, the socket and the other streams of the connection leave room for
    /// some of `wanted` bytes. Returns the number of bytes and their charge.
    async fn room(&mut self, wanted: usize) -> Result<(usize, Charge), Cut> {
        let wanted = wanted.min(BUFFER_BYTES);
        self.open_range_is_read().await?;
        loop {
            // Reserved capacity counts against the window of the connection, and must be used or
            // released soon.
            self.stream.reserve_capacity(wanted);
            let mut room = self.stream.capacity();
            if room == 0 {
                let stall = SEND_STALL_TIMEOUT;
                let wait_start = monotonic_millis();
                let more = poll_fn(|cx| self.stream.poll_capacity(cx));
                room = match monoio::time::timeout(stall, more).await {
                    Ok(Some(Ok(room))) => room,
                    Ok(_) => return Err(Cut::Gone),
                    Err(_) => return Err(Cut::Stalled),
                };
                if !self.meets_minimum_rate(monotonic_millis().saturating_sub(wait_start)) {
                    return Err(Cut::Stalled);
                }
            }
            let room = room.min(wanted);
            if room == 0 {
                continue;
            }
            if let Some(charge) = self.shared.budget.take(room) {
                return Ok((room, charge));
            }
            self.stream.reserve_capacity(0);
            self.shared.budget.wait(room).await;
        }
    }
}
