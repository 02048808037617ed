//! Sends parts of files, with one function per kind of stream and size.

use std::cell::RefCell;
use std::io::{self, IoSlice};

use super::Sending;
use crate::http::Span;
use crate::limits::{
    COLD_READ_BYTES, SEND_TURN_BYTES, SPLICE_BYTES_MIN, TLS_PENDING_BYTES, TLS_SEND_TURN_BYTES,
};
use crate::runtime::helper::ReadKind;
use crate::server::h1::turn::Turn;
use crate::server::pages::{Pages, Reader};
use crate::shared_file::SharedFile;
use crate::sys::{Pipe, read_resident};

thread_local! {
    /// The buffer for file bytes before encryption. Never borrowed across an await.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Sending<'_> {
    /// Sends a part of a file with the fastest measured method for its size.
    pub(super) async fn span(
        &self,
        file: &SharedFile,
        span: Span,
        more: bool,
        bytes: &mut u64,
    ) -> io::Result<()> {
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

    /// Sends file bytes through memory and the TLS session, for streams that take no files. The core
    /// reads bytes in the page cache into a buffer shared by all connections. A helper thread reads
    /// the other bytes.
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
}

fn read_kind(reader: Reader, span: Span) -> ReadKind {
    match reader {
        Reader::HelperCached => ReadKind::Cached,
        Reader::Core(_) | Reader::HelperMissing if span.size() < SPLICE_BYTES_MIN => ReadKind::Small,
        Reader::Core(_) | Reader::HelperMissing => ReadKind::Large,
    }
}

fn truncated() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the stored file is shorter than its recorded size",
    )
}

#[cfg(test)]
mod tests;
