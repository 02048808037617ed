//! One line per request, written by a thread of its own: a core never waits for whoever reads the log.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::accept::SWEEP;
use crate::http::{CacheResult, RequestHead};
use crate::runtime::clock::unix_millis;

/// Lines collected before they are handed over, at the next sweep at the latest.
const BATCH_BYTES: usize = 32 * 1024;

/// Batches that may wait for the writer: 64 × 32 KiB = 2 MiB. Beyond, lines are dropped and counted.
const BATCHES_MAX: usize = 64;

/// How long the end of the process waits for whoever reads the log.
const READER_PATIENCE: Duration = Duration::from_secs(1);

/// Longest target logged.
const TARGET_BYTES_MAX: usize = 1_024;

/// A core's end.
pub struct AccessLog {
    batch: RefCell<String>,
    to_writer: Sender<Message>,
    dropped: Arc<AtomicU64>,
}

/// What the writer is sent.
enum Message {
    Lines(String),
    /// Everything before it was written.
    Flushed(Sender<()>),
}

/// The writer's end; [`AccessLogWriter::log`] makes one for each core.
#[derive(Clone)]
pub struct AccessLogWriter {
    to_writer: Sender<Message>,
    dropped: Arc<AtomicU64>,
}

impl AccessLogWriter {
    /// Starts the thread that writes to standard error.
    ///
    /// # Errors
    ///
    /// When the thread cannot be had.
    pub fn start() -> std::io::Result<Self> {
        let (to_writer, batches) = crossbeam_channel::bounded(BATCHES_MAX);
        let dropped = Arc::new(AtomicU64::new(0));
        let counted = dropped.clone();
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write_all(&batches, &counted))?;
        Ok(AccessLogWriter { to_writer, dropped })
    }

    /// Waits until what the cores have logged is written: for a sweep of theirs, and for a slow reader a second or
    /// two at most. Blocking; for the end of the process.
    pub fn finish(&self) {
        let (flushed, done) = crossbeam_channel::bounded(1);
        let _ = done.recv_timeout(2 * SWEEP);
        if self
            .to_writer
            .send_timeout(Message::Flushed(flushed), READER_PATIENCE)
            .is_ok()
        {
            let _ = done.recv_timeout(READER_PATIENCE);
        }
    }

    pub fn log(&self) -> AccessLog {
        AccessLog {
            batch: RefCell::new(String::new()),
            to_writer: self.to_writer.clone(),
            dropped: self.dropped.clone(),
        }
    }
}

fn write_all(messages: &Receiver<Message>, dropped: &AtomicU64) {
    let mut out = std::io::stderr();
    for message in messages {
        let batch = match message {
            Message::Lines(batch) => batch,
            Message::Flushed(told) => {
                let _ = told.send(());
                continue;
            }
        };
        // Nobody reads: there is nobody to tell either.
        let _ = out.write_all(batch.as_bytes());
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(
                out,
                "level=warn msg=\"the reader of this log is too slow\" batches_lost={lost}"
            );
        }
        let _ = out.flush();
    }
}

/// How a response ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Complete,
    /// The client closed the connection, or reset the stream, when it had a part of an open range.
    ClosedByClient,
    /// It did not reach its end.
    Aborted,
}

impl End {
    /// Of a response that did not reach its end. `is_gone`: the client went away, and nothing else was wrong.
    pub fn cut(head: &RequestHead<'_>, status: u16, bytes: u64, is_gone: bool) -> Self {
        if is_gone && status == 206 && bytes > 0 && head.has_open_range() {
            End::ClosedByClient
        } else {
            End::Aborted
        }
    }
}

/// What one request came to.
pub struct Record<'a> {
    pub peer: Option<SocketAddr>,
    pub head: &'a RequestHead<'a>,
    pub status: u16,
    /// Body bytes handed to the kernel.
    pub bytes: u64,
    pub micros: u64,
    pub cache: CacheResult,
    pub end: End,
}

impl AccessLog {
    pub fn write(&self, record: &Record<'_>) {
        let mut batch = self.batch.borrow_mut();
        push_line(&mut batch, unix_millis(), record);
        if batch.len() >= BATCH_BYTES {
            drop(batch);
            self.flush();
        }
    }

    /// Hands collected lines to the writer.
    pub fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty() {
            return;
        }
        let full = std::mem::take(&mut *batch);
        if let Err(TrySendError::Full(_)) = self.to_writer.try_send(Message::Lines(full)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

fn push_line(out: &mut String, now_ms: u64, record: &Record<'_>) {
    let Record {
        peer,
        head,
        status,
        bytes,
        micros,
        cache,
        end,
    } = record;
    // Writing to a String cannot fail.
    let _ = write!(
        out,
        "ts={}.{:03} level=info msg=request",
        now_ms / 1000,
        now_ms % 1000
    );
    if let Some(peer) = peer {
        let _ = write!(out, " remote={peer}");
    }
    let _ = write!(out, " method={} path=\"", head.method_text);
    push_escaped(out, head.target, TARGET_BYTES_MAX);
    let _ = write!(
        out,
        "\" status={status} bytes={bytes} duration_ms={}.{:03} cache={}",
        micros / 1000,
        micros % 1000,
        cache.label()
    );
    if let Some(agent) = head.user_agent {
        out.push_str(" user_agent=\"");
        push_escaped(out, agent, 256);
        out.push('"');
    }
    match end {
        End::Complete => {}
        End::ClosedByClient => out.push_str(" client_closed=true"),
        End::Aborted => out.push_str(" aborted=true"),
    }
    out.push('\n');
}

/// Text of a client between quotes: one line, printable, bounded.
fn push_escaped(out: &mut String, text: &str, max: usize) {
    for c in text.chars().take(max) {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}
