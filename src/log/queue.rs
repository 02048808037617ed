//! The queue of log lines, and the thread that writes the lines to the output.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tracing::Level;

use super::encoder::{Format, Line};
use super::output::Output;
use super::time::unix_millis;
use crate::limits::LOG_MESSAGES_MAX;

enum Message {
    Text(Vec<u8>),
    /// Signals that all earlier messages are written.
    Flush(Sender<()>),
    /// Wakes the log thread, which finds the request to reopen the output.
    Wake,
}

/// The sending side of the queue, shared by all threads.
pub(super) struct Queue {
    sender: Sender<Message>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Waiting bytes.
    waiting: AtomicUsize,
    /// Lines dropped since the last report.
    dropped: AtomicU64,
    /// Requests the log thread to reopen the output. A full queue cannot lose the request.
    reopen: AtomicBool,
}

impl Queue {
    /// Starts the thread that writes to `out`. The thread encodes its own lines in `format`.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(super) fn start(out: impl Output + Send + 'static, format: Format) -> io::Result<Self> {
        let (sender, messages) = crossbeam_channel::bounded(LOG_MESSAGES_MAX);
        let shared = Arc::new(Shared::default());
        let writer = Writer::new(out, format, shared.clone());
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || writer.run(&messages))?;
        Ok(Queue { sender, shared })
    }

    /// Queues `text`, which must be whole lines. If more than `bytes_max` would wait, the lines are
    /// dropped and counted. Never waits.
    pub(super) fn put(&self, text: Vec<u8>, bytes_max: usize) {
        let bytes = text.len();
        let waiting = self.shared.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if waiting > bytes_max {
            Some(text)
        } else {
            match self.sender.try_send(Message::Text(text)) {
                Err(error) => match error.into_inner() {
                    Message::Text(text) => Some(text),
                    Message::Flush(_) | Message::Wake => None,
                },
                Ok(()) => None,
            }
        };
        if let Some(text) = refused {
            self.shared.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.shared.dropped.fetch_add(lines(&text), Ordering::Relaxed);
        }
    }

    /// Requests the log thread to reopen the output before its next message. Never waits. Waiting
    /// lines may follow in the new file.
    pub(super) fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Release);
        // The thread of a full queue needs no further message.
        let _ = self.sender.try_send(Message::Wake);
    }

    /// Waits until all earlier lines are written, for `limit` at most.
    pub(super) fn flush(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        let (flushed, done) = crossbeam_channel::bounded(1);
        if self
            .sender
            .send_deadline(Message::Flush(flushed), deadline)
            .is_ok()
        {
            let _ = done.recv_deadline(deadline);
        }
    }
}

fn lines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

/// The log thread.
struct Writer<O> {
    out: O,
    format: Format,
    shared: Arc<Shared>,
    /// The output ends within a line.
    torn: bool,
}

impl<O: Output> Writer<O> {
    fn new(out: O, format: Format, shared: Arc<Shared>) -> Self {
        Writer {
            torn: out.was_torn(),
            out,
            format,
            shared,
        }
    }

    /// Writes messages until the queue is closed. Text that cannot be written is dropped and
    /// counted. The count follows the next text that can be written.
    fn run(mut self, messages: &Receiver<Message>) {
        for message in messages {
            if self.shared.reopen.swap(false, Ordering::Acquire) {
                self.reopen();
            }
            match message {
                Message::Text(text) => {
                    let written = self.write(&text);
                    self.shared.waiting.fetch_sub(text.len(), Ordering::Relaxed);
                    if written {
                        self.report_dropped();
                    }
                }
                Message::Flush(flushed) => {
                    let _ = flushed.send(());
                }
                Message::Wake => {}
            }
        }
    }

    fn reopen(&mut self) {
        match self.out.reopen() {
            Ok(()) => self.torn = self.out.was_torn(),
            Err(error) => {
                self.report(Level::ERROR, "log file not reopened", |line| {
                    line.display("error", &error);
                });
            }
        }
    }

    fn report_dropped(&mut self) {
        let dropped = self.shared.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0
            && !self.report(Level::WARN, "log lines dropped", |line| {
                line.number("lines", dropped);
            })
        {
            // The failed write has counted the report as a line.
            self.shared.dropped.fetch_add(dropped - 1, Ordering::Relaxed);
        }
    }

    /// Writes a line of the log thread. Returns whether the line was written.
    fn report(&mut self, level: Level, message: &str, fields: impl FnOnce(&mut Line<'_>)) -> bool {
        let mut text = Vec::new();
        let mut line = Line::begin(&mut text, self.format, unix_millis(), level, message);
        fields(&mut line);
        line.end();
        self.write(&text)
    }

    /// Writes whole lines. Counts the lines that cannot be written, and returns whether all lines
    /// were written.
    fn write(&mut self, text: &[u8]) -> bool {
        // A line after a part of a line would be lost too.
        if self.torn && matches!(self.out.write(b"\n"), Ok(1)) {
            self.torn = false;
        }
        let mut rest = text;
        while !rest.is_empty() {
            match self.out.write(rest) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => break,
                Ok(written) => {
                    self.torn = rest[written - 1] != b'\n';
                    rest = &rest[written..];
                }
            }
        }
        self.shared.dropped.fetch_add(lines(rest), Ordering::Relaxed);
        rest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{LOG_BATCH_BYTES, LOG_EVENT_BYTES_MAX, LOG_REQUEST_BYTES_MAX};
    use crate::log::output::LogFile;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    impl Output for UnixStream {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            io::Write::write(self, text)
        }
    }

    const SOON: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn logging_does_not_block_without_a_reader_and_reports_dropped_lines() {
        let (out, mut reader) = UnixStream::pair().unwrap();
        let queue = Queue::start(out, Format::Text).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let put = 3 * LOG_MESSAGES_MAX;
        for _ in 0..put {
            queue.put(line.clone(), LOG_EVENT_BYTES_MAX);
        }
        assert!(queue.shared.waiting.load(Ordering::Relaxed) <= LOG_EVENT_BYTES_MAX);
        queue.flush(SOON);
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        queue.flush(LIMIT);
        drop(queue);
        let text = read.join().unwrap();
        let (reports, kept): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains("dropped"));
        let dropped: usize = reports
            .iter()
            .map(|line| line.rsplit_once("lines=").unwrap().1.parse::<usize>().unwrap())
            .sum();
        assert_eq!(kept.len() + dropped, put, "{reports:?}");
        assert!(dropped > 0);
    }

    #[test]
    fn lines_about_requests_leave_room_for_events() {
        let (out, _unread) = UnixStream::pair().unwrap();
        let queue = Queue::start(out, Format::Text).unwrap();
        let batch = vec![b'\n'; LOG_BATCH_BYTES];
        for _ in 0..1_000 {
            queue.put(batch.clone(), LOG_REQUEST_BYTES_MAX);
        }
        let before = queue.shared.dropped.load(Ordering::Relaxed);
        assert!(before > 0);
        queue.put(b"an event\n".to_vec(), LOG_EVENT_BYTES_MAX);
        assert_eq!(queue.shared.dropped.load(Ordering::Relaxed), before);
    }

    /// An output that waits before each write, and reports each reopening.
    struct Gated {
        gate: Receiver<()>,
        reopened: Sender<()>,
    }

    impl Output for Gated {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            // The gate is open after the sender is dropped.
            let _ = self.gate.recv();
            Ok(text.len())
        }

        fn reopen(&mut self) -> io::Result<()> {
            let _ = self.reopened.send(());
            Ok(())
        }
    }

    #[test]
    fn output_is_reopened_after_a_request_to_a_full_queue() {
        let (closed, gate) = crossbeam_channel::bounded(0);
        let (reopened, reopenings) = crossbeam_channel::bounded(1);
        let queue = Queue::start(Gated { gate, reopened }, Format::Text).unwrap();
        while queue.shared.dropped.load(Ordering::Relaxed) == 0 {
            queue.put(b"\n".to_vec(), LOG_EVENT_BYTES_MAX);
        }
        queue.reopen();
        drop(closed);
        assert_eq!(reopenings.recv_timeout(LIMIT), Ok(()));
    }

    #[test]
    fn output_is_reopened_without_a_further_line() {
        let (_, gate) = crossbeam_channel::bounded(0);
        let (reopened, reopenings) = crossbeam_channel::bounded(1);
        let queue = Queue::start(Gated { gate, reopened }, Format::Text).unwrap();
        queue.reopen();
        assert_eq!(reopenings.recv_timeout(LIMIT), Ok(()));
    }

    #[test]
    fn an_output_that_fails_costs_lines_and_not_the_thread() {
        struct Failing(u32, UnixStream);
        impl Output for Failing {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 <= 2 {
                    return Err(io::Error::from_raw_os_error(libc::EPIPE));
                }
                Output::write(&mut self.1, text)
            }
        }
        let (out, mut reader) = UnixStream::pair().unwrap();
        let queue = Queue::start(Failing(0, out), Format::Text).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            queue.put(line.into(), LOG_EVENT_BYTES_MAX);
        }
        queue.flush(LIMIT);
        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(
            text.starts_with("three\n") && text.ends_with("lines=2\n"),
            "{text}"
        );
    }

    #[test]
    fn line_after_a_partial_write_begins_a_new_line() {
        /// An output for five bytes, then an error, then any bytes.
        struct Full(u32, UnixStream);
        impl Output for Full {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => Output::write(&mut self.1, &text[..5]),
                    2 => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                    _ => Output::write(&mut self.1, text),
                }
            }
        }
        let (out, mut reader) = UnixStream::pair().unwrap();
        let queue = Queue::start(Full(0, out), Format::Json).unwrap();
        for line in ["first line\n", "second line\n"] {
            queue.put(line.into(), LOG_EVENT_BYTES_MAX);
        }
        queue.flush(LIMIT);
        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["first", "second line"], "{text}");
        let report: serde_json::Value = serde_json::from_str(lines[2]).unwrap();
        assert_eq!(
            (&report["msg"], &report["lines"]),
            (&"log lines dropped".into(), &1.into())
        );
    }

    #[test]
    fn first_line_after_a_reopening_begins_at_the_start_of_the_file() {
        /// A full file for two bytes. The file after the rotation takes any bytes.
        struct Rotated(Option<usize>, UnixStream);
        impl Output for Rotated {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                match &mut self.0 {
                    Some(0) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
                    Some(room) => Ok(std::mem::take(room)),
                    None => Output::write(&mut self.1, text),
                }
            }

            fn reopen(&mut self) -> io::Result<()> {
                self.0 = None;
                Ok(())
            }
        }
        let (out, mut reader) = UnixStream::pair().unwrap();
        let queue = Queue::start(Rotated(Some(2), out), Format::Text).unwrap();
        queue.put(b"lost\n".to_vec(), LOG_EVENT_BYTES_MAX);
        queue.flush(LIMIT);
        queue.reopen();
        queue.put(b"first\n".to_vec(), LOG_EVENT_BYTES_MAX);
        queue.flush(LIMIT);
        drop(queue);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("first\n"), "{text:?}");
    }

    #[test]
    fn first_line_after_a_part_of_a_line_begins_a_new_line() {
        let path = std::env::temp_dir().join(format!("log-queue-torn-{}", std::process::id()));
        std::fs::write(&path, "a part of").unwrap();
        let queue = Queue::start(LogFile::open(&path).unwrap(), Format::Text).unwrap();
        queue.put(b"first\n".to_vec(), LOG_EVENT_BYTES_MAX);
        queue.flush(LIMIT);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(text, "a part of\nfirst\n");
    }
}
