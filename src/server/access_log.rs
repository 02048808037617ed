//! The access log: one line per request. Each core collects lines, and the log thread writes them.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::http::{CacheResult, RequestHead};
use crate::limits::CONNECTION_SWEEP_INTERVAL;
use crate::log;
use crate::runtime::clock::unix_millis;

/// The size at which a core hands its lines to the log thread. A sweep hands over smaller batches.
const BATCH_BYTES: usize = 32 * 1024;

/// The longest logged target, in characters.
const TARGET_BYTES_MAX: usize = 1_024;

/// The collected lines of one core.
#[derive(Default)]
pub struct AccessLog {
    batch: RefCell<String>,
}

/// The end of a response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    Complete,
    /// The client closed the connection or reset the stream after part of an open range.
    ClosedByClient,
    /// The response was truncated.
    Aborted,
}

impl End {
    /// Classifies a truncated response. `is_gone`: the client closed the connection, and no other
    /// error occurred.
    pub fn cut(head: &RequestHead<'_>, status: u16, bytes: u64, is_gone: bool) -> Self {
        if is_gone && status == 206 && bytes > 0 && head.has_open_range() {
            End::ClosedByClient
        } else {
            End::Aborted
        }
    }
}

/// A request and its result.
pub struct Record<'a> {
    pub peer: Option<SocketAddr>,
    pub head: &'a RequestHead<'a>,
    pub status: u16,
    /// Body bytes passed to the kernel.
    pub bytes: u64,
    pub micros: u64,
    pub cache: CacheResult,
    pub end: End,
}

impl AccessLog {
    /// Waits until a sweep of each core has handed over its lines. Blocking; for the end of the
    /// process.
    pub fn wait_for_cores() {
        let (_kept, never) = crossbeam_channel::bounded::<()>(0);
        let _ = never.recv_timeout(2 * CONNECTION_SWEEP_INTERVAL);
    }

    pub fn write(&self, record: &Record<'_>) {
        let mut batch = self.batch.borrow_mut();
        push_line(&mut batch, unix_millis(), record);
        if batch.len() >= BATCH_BYTES {
            drop(batch);
            self.flush();
        }
    }

    /// Hands the collected lines to the log thread.
    pub fn flush(&self) {
        let mut batch = self.batch.borrow_mut();
        if batch.is_empty() {
            return;
        }
        log::requests(std::mem::take(&mut *batch).into_bytes());
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
    // Writing to a `String` cannot fail.
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

/// Writes text of a client for use between quotes: one line, printable, at most `max` characters.
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
