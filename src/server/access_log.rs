//! The access log: one line per request. Each core collects lines, and the log thread writes them.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use tracing::Level;

use crate::http::{CacheResult, ContentItem, RequestDetails, RequestHead, redacted};
use crate::limits::{CONNECTION_SWEEP_INTERVAL, LOG_BATCH_BYTES, LOG_FIELD_CHARS_MAX, LOG_TARGET_CHARS_MAX};
use crate::log::{self, Format, Line};
use crate::metrics::FinishedRequest;
use crate::runtime::clock::{monotonic_micros, unix_millis};

/// The collected lines of one core.
pub struct AccessLog {
    /// The lowest level of lines that are written.
    level: Level,
    format: Format,
    batch: RefCell<Vec<u8>>,
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

/// The times of a request, in microseconds of the monotonic clock.
pub struct Stopwatch {
    pub(super) started: u64,
    head_sent: Cell<Option<u64>>,
}

impl Stopwatch {
    /// Starts with the parsed request head.
    pub fn start() -> Self {
        Stopwatch {
            started: monotonic_micros(),
            head_sent: Cell::new(None),
        }
    }

    /// Records that the response head was sent. Later calls have no effect.
    pub fn head_sent(&self) {
        if self.head_sent.get().is_none() {
            self.head_sent.set(Some(monotonic_micros()));
        }
    }
}

/// A request and its result, for the access log and the metrics.
pub struct Record<'a> {
    pub peer: Option<SocketAddr>,
    pub head: &'a RequestHead<'a>,
    pub details: &'a RequestDetails,
    pub stopwatch: &'a Stopwatch,
    pub status: u16,
    /// Body bytes passed to the kernel.
    pub bytes: u64,
    pub cache: CacheResult,
    pub end: End,
}

impl Record<'_> {
    /// Returns the request for the metrics. `now` is the end of the response, in microseconds of the
    /// monotonic clock.
    pub fn finished(&self, now: u64) -> FinishedRequest {
        let Stopwatch { started, head_sent } = self.stopwatch;
        FinishedRequest {
            resource: self.details.resource.get(),
            result: self.cache,
            status: self.status,
            bytes: self.bytes,
            first_byte_micros: head_sent.get().map(|at| at.saturating_sub(*started)),
            duration_micros: now.saturating_sub(*started),
        }
    }
}

impl AccessLog {
    /// Creates the log of a core, for lines of `level` and above.
    pub fn new(level: Level, format: Format) -> Self {
        AccessLog {
            level,
            format,
            batch: RefCell::default(),
        }
    }

    /// Waits until a sweep of each core has handed over its lines. Blocking; for the end of the
    /// process.
    pub fn wait_for_cores() {
        let (_kept, never) = crossbeam_channel::bounded::<()>(0);
        let _ = never.recv_timeout(2 * CONNECTION_SWEEP_INTERVAL);
    }

    /// Adds the line of a request, if the level of the line is logged. `now` is the end of the response,
    /// in microseconds of the monotonic clock.
    pub fn write(&self, record: &Record<'_>, now: u64) {
        let level = level_of(record.status);
        // `tracing` orders levels by verbosity.
        if level > self.level {
            return;
        }
        let mut batch = self.batch.borrow_mut();
        let mut line = Line::begin(&mut batch, self.format, unix_millis(), level, "request");
        add_request(&mut line, record);
        add_result(&mut line, record, now);
        line.end();
        if batch.len() >= LOG_BATCH_BYTES {
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
        // The copy has no spare capacity, and the batch keeps its memory for the next lines.
        log::requests(batch.clone());
        batch.clear();
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Returns the level of the line. Status 0 is a client that left before the response.
fn level_of(status: u16) -> Level {
    match status {
        500.. => Level::ERROR,
        400..=499 => Level::WARN,
        _ => Level::INFO,
    }
}

fn add_request(line: &mut Line<'_>, record: &Record<'_>) {
    let head = record.head;
    line.token("id", head.id);
    if let Some(trace) = head.trace {
        line.token("trace_id", trace.context.trace);
    }
    if let Some(peer) = record.peer {
        line.token("client", peer);
    }
    line.text("method", head.method_text);
    if let Some(content) = record.details.content.get() {
        line.text("registry", &content.registry);
        line.text("repository", &content.repository);
        match &content.item {
            ContentItem::Tag(tag) => line.text("reference", tag),
            ContentItem::Digest(digest) => line.text("digest", digest),
            ContentItem::None => {}
        }
    }
    line.text("path", clipped(&redacted(head.target), LOG_TARGET_CHARS_MAX));
    if let Some(range) = head.range {
        line.text("range", clipped(range, LOG_FIELD_CHARS_MAX));
    }
}

fn add_result(line: &mut Line<'_>, record: &Record<'_>, now: u64) {
    let Stopwatch { started, head_sent } = record.stopwatch;
    line.number("status", record.status.into());
    line.number("bytes", record.bytes);
    if let Some(head_sent) = head_sent.get() {
        line.millis("ttfb_ms", head_sent.saturating_sub(*started));
    }
    line.millis("duration_ms", now.saturating_sub(*started));
    line.text("result", record.cache.label());
    if let Some(status) = record.details.upstream_status.get() {
        line.number("upstream_status", status.into());
    }
    match record.end {
        End::Complete => {}
        End::ClosedByClient => line.flag("client_closed", true),
        End::Aborted => line.flag("aborted", true),
    }
    if let Some(agent) = record.head.user_agent {
        line.text("user_agent", clipped(agent, LOG_FIELD_CHARS_MAX));
    }
}

/// Returns the first `max` characters.
fn clipped(text: &str, max: usize) -> &str {
    // A character has at least one byte.
    if text.len() <= max {
        return text;
    }
    text.char_indices().nth(max).map_or(text, |(end, _)| &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn level_follows_the_class_of_the_status() {
        for (status, level) in [
            (0, Level::INFO),
            (200, Level::INFO),
            (307, Level::INFO),
            (400, Level::WARN),
            (499, Level::WARN),
            (500, Level::ERROR),
            (508, Level::ERROR),
        ] {
            assert_eq!(level_of(status), level, "{status}");
        }
    }

    #[test]
    fn text_is_clipped_after_whole_characters() {
        for (text, clip) in [
            ("", ""),
            ("ab", "ab"),
            ("abcd", "abc"),
            ("äöü", "äöü"),
            ("äöüß", "äöü"),
        ] {
            assert_eq!(clipped(text, 3), clip);
        }
    }

    /// Writes the line of a request with `status`.
    fn write(log: &AccessLog, status: u16) {
        let record = Record {
            peer: None,
            head: &RequestHead::refused(),
            details: &RequestDetails::default(),
            stopwatch: &Stopwatch::start(),
            status,
            bytes: 0,
            cache: CacheResult::None,
            end: End::Complete,
        };
        log.write(&record, monotonic_micros());
    }

    #[test]
    fn batch_keeps_its_memory_after_a_flush() {
        let log = AccessLog::new(Level::INFO, Format::Text);
        write(&log, 200);
        let memory = |log: &AccessLog| (log.batch.borrow().as_ptr(), log.batch.borrow().capacity());
        let before = memory(&log);
        log.flush();
        assert!(log.batch.borrow().is_empty());
        write(&log, 200);
        assert_eq!(memory(&log), before);
    }

    #[test]
    fn line_below_the_level_is_not_written() {
        let lines = |level, status| {
            let log = AccessLog::new(level, Format::Text);
            write(&log, status);
            log.batch.take().iter().filter(|&&byte| byte == b'\n').count()
        };
        assert_eq!(lines(Level::INFO, 200), 1);
        assert_eq!(lines(Level::WARN, 200), 0);
        assert_eq!(lines(Level::WARN, 404), 1);
        assert_eq!(lines(Level::ERROR, 404), 0);
        assert_eq!(lines(Level::ERROR, 502), 1);
    }
}
