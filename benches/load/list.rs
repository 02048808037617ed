//! The `--list` mode: many paths, each requested once, over a number of keep-alive connections.

use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::arguments::Arguments;
use crate::cpu;
use crate::histogram::Histogram;
use crate::once;
use crate::target::Target;

type Failure = Box<dyn std::error::Error>;

/// Largest read of a body.
const READ: usize = 256 * 1024;

/// The figures of one connection, or of all.
pub struct Report {
    elapsed: Duration,
    bytes: u64,
    latency: Histogram,
    errors: Vec<String>,
    cpu: Duration,
}

/// Requests each path of `file` once. Each connection has a thread, which takes the next path.
///
/// # Errors
/// The file cannot be read or parsed. Wrong responses are counted in the report.
pub fn pull(arguments: &Arguments, file: &Path) -> Result<Report, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let targets = text
        .lines()
        .map(|line| parse(arguments, line))
        .collect::<Result<Vec<_>, _>>()?;
    let next = AtomicUsize::new(0);
    let mut whole = Report::new();
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.connections)
            .map(|_| scope.spawn(|| connection(&targets, &next)))
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(report) => whole.add(report),
                Err(_) => whole.errors.push("a thread panicked".into()),
            }
        }
    });
    whole.elapsed = start.elapsed();
    Ok(whole)
}

fn parse(arguments: &Arguments, line: &str) -> Result<Target, Failure> {
    let (length, path) = line.split_once(' ').ok_or("a line wants a length and a path")?;
    Ok(Target::of(arguments, path, Some(length.parse()?)))
}

fn connection(targets: &[Target], next: &AtomicUsize) -> Report {
    let mut report = Report::new();
    let mut buffer = vec![0; READ];
    let mut stream = None;
    while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
        let start = Instant::now();
        match exchange(target, &mut stream, &mut buffer, start) {
            Ok(bytes) => {
                report.bytes += bytes;
                report.latency.record(start.elapsed());
            }
            Err(error) => {
                report.errors.push(error.to_string());
                stream = None;
            }
        }
    }
    report.cpu = cpu::used();
    report
}

/// Sends the request over `stream`, or over a new connection. Returns the length of the body.
fn exchange(
    target: &Target,
    stream: &mut Option<TcpStream>,
    buffer: &mut [u8],
    start: Instant,
) -> Result<u64, Failure> {
    let open = match stream.take() {
        Some(open) => open,
        None => target.connect()?,
    };
    send(&open, &target.request, SendFlags::NOSIGNAL)?;
    let (head, early, _) = once::read_head(target, &open, buffer, start)?;
    let mut received = early as u64;
    while received < head.body {
        let limit = usize::try_from(head.body - received)?.min(buffer.len());
        let (_, count) = recv(&open, &mut buffer[..limit], RecvFlags::TRUNC)?;
        if count == 0 {
            return Err("the server closed the connection within a response".into());
        }
        received += count as u64;
    }
    *stream = (!head.closes).then_some(open);
    Ok(received)
}

impl Report {
    fn new() -> Self {
        Self {
            elapsed: Duration::ZERO,
            bytes: 0,
            latency: Histogram::new(),
            errors: Vec::new(),
            cpu: Duration::ZERO,
        }
    }

    fn add(&mut self, other: Self) {
        self.bytes += other.bytes;
        self.latency.add(&other.latency);
        self.errors.extend(other.errors);
        self.cpu += other.cpu;
    }

    pub fn errors(&self) -> usize {
        self.errors.len()
    }

    pub fn json(&self) -> serde_json::Value {
        let seconds = self.elapsed.as_secs_f64();
        serde_json::json!({
            "seconds": seconds,
            "requests": self.latency.total(),
            "requests_per_second": self.latency.total() as f64 / seconds,
            "bytes": self.bytes,
            "bytes_per_second": self.bytes as f64 / seconds,
            "latency_ms": self.latency.json(),
            "errors": self.errors.len(),
            "first_error": self.errors.first(),
            "client_cpu": self.cpu.as_secs_f64() / seconds,
        })
    }
}
