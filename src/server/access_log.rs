//! One line per request, collected by the core and written by the log's thread.

use std::cell::RefCell;
use std::fmt::Write as _;
use std::net::SocketAddr;

use crate::http::{CacheResult, RequestHead};
use crate::limits::CONNECTION_SWEEP_INTERVAL;
use crate::log;
use crate::runtime::clock::unix_millis;

/// Lines collected before they are handed over, at the next sweep at the latest.
const BATCH_BYTES: usize = 32 * 1024;

/// Longest target logged.
const TARGET_BYTES_MAX: usize = 1_024;

/// One core's lines.
#[derive(Default)]
pub struct AccessLog {
    batch: RefCell<String>,
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
    /// Waits until the cores have handed their lines over, which a sweep of theirs does. Blocking: for the end of the process.
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

    /// Hands collected lines over.
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
