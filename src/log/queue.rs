//! The queue of log lines, and the thread that writes the lines to standard error.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, poll};

/// Bytes that may wait for the writer. Lines about requests may take 64 batches of 32 KiB. Events
/// may fill twice as much, so that a burst of requests does not displace the explanation of the
/// burst.
pub(super) const REQUEST_BYTES_MAX: usize = 64 * 32 * 1024;
pub(super) const EVENT_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;

/// Messages of any size that may wait. 8,192 events of 500 bytes are [`EVENT_BYTES_MAX`].
const MESSAGES_MAX: usize = 8_192;

enum Message {
    Text(Vec<u8>),
    /// Signals that all earlier messages are written.
    Flush(Sender<()>),
}

/// The sending side of the queue, shared by all threads.
pub(super) struct Queue {
    sender: Sender<Message>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// Waiting bytes.
    waiting: AtomicUsize,
    /// Lines dropped since the last report.
    dropped: AtomicU64,
}

impl Queue {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    ///
    /// The thread cannot be started.
    pub(super) fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (sender, messages) = crossbeam_channel::bounded(MESSAGES_MAX);
        let counts = Arc::new(Counts::default());
        let counted = counts.clone();
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || write_all(&messages, &counted, out))?;
        Ok(Queue { sender, counts })
    }

    /// Queues `text`, which must be whole lines. If more than `bytes_max` would wait, the lines are
    /// dropped and counted. Never waits.
    pub(super) fn put(&self, text: Vec<u8>, bytes_max: usize) {
        let bytes = text.len();
        let waiting = self.counts.waiting.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let refused = if waiting > bytes_max {
            Some(text)
        } else {
            match self.sender.try_send(Message::Text(text)) {
                Err(error) => match error.into_inner() {
                    Message::Text(text) => Some(text),
                    Message::Flush(_) => None,
                },
                Ok(()) => None,
            }
        };
        if let Some(text) = refused {
            self.counts.waiting.fetch_sub(bytes, Ordering::Relaxed);
            self.counts.dropped.fetch_add(lines(&text), Ordering::Relaxed);
        }
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

/// Writes messages until the queue is closed. Text that cannot be written is dropped and counted.
/// The count follows the next text that can be written.
fn write_all(messages: &Receiver<Message>, counts: &Counts, mut out: impl Write) {
    for message in messages {
        let text = match message {
            Message::Text(text) => text,
            Message::Flush(flushed) => {
                let _ = flushed.send(());
                continue;
            }
        };
        let written = out.write_all(&text);
        counts.waiting.fetch_sub(text.len(), Ordering::Relaxed);
        if written.is_err() {
            counts.dropped.fetch_add(lines(&text), Ordering::Relaxed);
            continue;
        }
        let dropped = counts.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let report = format!(
                "ts={}.{:03} level=warn msg=\"log lines were dropped: standard error was not read in time\" lines={dropped}\n",
                now.as_secs(),
                now.subsec_millis(),
            );
            if out.write_all(report.as_bytes()).is_err() {
                counts.dropped.fetch_add(dropped, Ordering::Relaxed);
            }
        }
    }
}

/// Standard error without the lock of [`io::stderr`], which would be held during a write.
pub(super) struct Stderr;

impl Write for Stderr {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let stderr = rustix::stdio::stderr();
        loop {
            match rustix::io::write(stderr, text) {
                // `O_NONBLOCK` belongs to the open file, so another process with the file may have
                // set the flag.
                Err(rustix::io::Errno::AGAIN) => {
                    let mut ready = [PollFd::new(&stderr, PollFlags::OUT)];
                    match poll(&mut ready, None) {
                        Ok(_) | Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                // `write_all` retries after EINTR.
                outcome => return Ok(outcome?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;

    const SOON: Duration = Duration::from_millis(20);
    const LIMIT: Duration = Duration::from_secs(60);

    #[test]
    fn logging_does_not_block_without_a_reader_and_reports_dropped_lines() {
        let (out, mut reader) = UnixStream::pair().unwrap();
        let queue = Queue::start(out).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        let put = 3 * MESSAGES_MAX;
        for _ in 0..put {
            queue.put(line.clone(), EVENT_BYTES_MAX);
        }
        assert!(queue.counts.waiting.load(Ordering::Relaxed) <= EVENT_BYTES_MAX);
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
        let queue = Queue::start(out).unwrap();
        let batch = vec![b'\n'; 32 * 1024];
        for _ in 0..1_000 {
            queue.put(batch.clone(), REQUEST_BYTES_MAX);
        }
        let before = queue.counts.dropped.load(Ordering::Relaxed);
        assert!(before > 0);
        queue.put(b"an event\n".to_vec(), EVENT_BYTES_MAX);
        assert_eq!(queue.counts.dropped.load(Ordering::Relaxed), before);
    }

    #[test]
    fn an_output_that_fails_costs_lines_and_not_the_thread() {
        struct Failing(u32, UnixStream);
        impl Write for Failing {
            fn write(&mut self, text: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                if self.0 <= 2 {
                    return Err(io::Error::from_raw_os_error(libc::EPIPE));
                }
                self.1.write(text)
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (out, mut reader) = UnixStream::pair().unwrap();
        let queue = Queue::start(Failing(0, out)).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            queue.put(line.into(), EVENT_BYTES_MAX);
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
}
