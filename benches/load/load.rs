//! The load mode: connections, their events, and the report.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};
use rustix::fd::OwnedFd;

use crate::arguments::Arguments;
use crate::connection::{BODY_READ, Broken, Connection, Shared, Turn};
use crate::cpu;
use crate::head::HeadReader;
use crate::histogram::Histogram;
use crate::target::Target;

/// Events received from the kernel per call.
const EVENTS: usize = 256;
/// Longest sleep, so that a run ends in time even if the server stops responding.
const WAIT_MAX: Duration = Duration::from_millis(20);
/// Number of errors after which a run stops.
const MAX_ERRORS: u64 = 1_000;

/// The result of a run.
pub struct Report {
    connections: u32,
    elapsed: Duration,
    /// Received body bytes, including responses cut off at the end of the run.
    bytes: u64,
    latency: Histogram,
    /// Open loop: due requests without a response at the end. `latency` contains their wait so far.
    overdue: u64,
    pub errors: u64,
    first_error: Option<String>,
    reconnects: u64,
    cpu: Duration,
}

struct Run<'a> {
    shared: Shared<'a>,
    epoll: OwnedFd,
    connections: Vec<Connection>,
    /// Connections whose turn ended before the socket was empty. Edge-triggered events do not
    /// repeat for them.
    unfinished: Vec<usize>,
    /// Open loop: time between two requests of one connection.
    interval: Option<Duration>,
    latency: Histogram,
    errors: u64,
    first_error: Option<String>,
    reconnects: u64,
}

/// Loads the target for the given time.
///
/// # Errors
/// The server does not accept connections, or epoll fails. Wrong responses are counted in the
/// report.
pub fn run(target: &Target, arguments: &Arguments) -> Result<Report, Box<dyn std::error::Error>> {
    let count = arguments.connections;
    let mut run = Run {
        shared: Shared {
            target,
            heads: HeadReader::new(target),
            sink: vec![0; BODY_READ],
            received: 0,
        },
        epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        connections: Vec::new(),
        unfinished: Vec::new(),
        interval: arguments
            .rate
            .map(|rate| Duration::from_secs_f64(f64::from(count) / rate)),
        latency: Histogram::new(),
        errors: 0,
        first_error: None,
        reconnects: 0,
    };
    for index in 0..count as usize {
        let connection = Connection::open(target, Instant::now())?;
        run.register(&connection, index)?;
        run.connections.push(connection);
    }
    run.measure(Duration::from_secs_f64(arguments.seconds), count)
}

impl Run<'_> {
    fn register(&self, connection: &Connection, index: usize) -> rustix::io::Result<()> {
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        epoll::add(
            &self.epoll,
            connection.stream(),
            epoll::EventData::new_u64(index as u64),
            flags,
        )
    }

    fn measure(mut self, length: Duration, count: u32) -> Result<Report, Box<dyn std::error::Error>> {
        let cpu_before = cpu::used();
        let start = Instant::now();
        let end = start + length;
        for index in 0..self.connections.len() {
            match self.interval {
                None => self.begin(index, start)?,
                // Spreads the start times over one interval, so that connections do not all send at
                // once.
                Some(interval) => self.connections[index].since = start + interval * index as u32 / count,
            }
        }
        let mut events = Vec::with_capacity(EVENTS);
        let mut now = start;
        while now < end && self.errors <= MAX_ERRORS {
            if self.interval.is_some() {
                self.begin_what_is_due(now)?;
            }
            self.wait(&mut events, now, end)?;
            for event in events.drain(..) {
                // The index fits, because `register` stored a `usize`.
                self.turn(event.data.u64() as usize)?;
            }
            for index in std::mem::take(&mut self.unfinished) {
                self.turn(index)?;
                if Instant::now() >= end {
                    break;
                }
            }
            now = Instant::now();
        }
        let overdue = self.charge_overdue(now, end);
        Ok(Report {
            connections: count,
            elapsed: now - start,
            bytes: self.shared.received,
            latency: self.latency,
            overdue,
            errors: self.errors,
            first_error: self.first_error,
            reconnects: self.reconnects,
            cpu: cpu::used().saturating_sub(cpu_before),
        })
    }

    /// Fills `events`. Returns at once if some connection is unfinished.
    fn wait(&mut self, events: &mut Vec<epoll::Event>, now: Instant, end: Instant) -> rustix::io::Result<()> {
        let mut wait = WAIT_MAX.min(end.saturating_duration_since(now));
        if !self.unfinished.is_empty() {
            wait = Duration::ZERO;
        }
        if self.interval.is_some() {
            let idle = self.connections.iter().filter(|connection| connection.is_idle());
            if let Some(next) = idle.map(|connection| connection.since).min() {
                wait = wait.min(next.saturating_duration_since(Instant::now()));
            }
            // `epoll_wait` sleeps in whole milliseconds, `ppoll` in nanoseconds.
            let mut ready = [PollFd::new(&self.epoll, PollFlags::IN)];
            retry(|| poll(&mut ready, Some(&timespec(wait))))?;
            wait = Duration::ZERO;
        }
        retry(|| {
            events.clear();
            epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(events),
                Some(&timespec(wait)),
            )
        })?;
        Ok(())
    }

    fn begin_what_is_due(&mut self, now: Instant) -> Result<(), Box<dyn std::error::Error>> {
        for index in 0..self.connections.len() {
            let connection = &self.connections[index];
            if connection.is_idle() && connection.since <= now {
                let due = connection.since;
                self.begin(index, due)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, index: usize, since: Instant) -> Result<(), Box<dyn std::error::Error>> {
        if self.connections[index].closes() {
            self.replace(index, since)?;
        }
        self.connections[index].since = since;
        if let Err(broken) = self.connections[index].start(&self.shared) {
            self.fail(index, &broken)?;
        }
        Ok(())
    }

    fn turn(&mut self, index: usize) -> Result<(), Box<dyn std::error::Error>> {
        match self.connections[index].turn(&mut self.shared) {
            Ok(Turn::Waiting) => Ok(()),
            Ok(Turn::Unfinished) => {
                self.unfinished.push(index);
                Ok(())
            }
            Ok(Turn::Complete) => {
                let now = Instant::now();
                let since = self.connections[index].since;
                self.latency.record(now.saturating_duration_since(since));
                match self.interval {
                    None => self.begin(index, now),
                    Some(interval) => {
                        let due = since + interval;
                        self.connections[index].since = due;
                        if due <= now {
                            self.begin(index, due)
                        } else {
                            Ok(())
                        }
                    }
                }
            }
            Err(broken) => self.fail(index, &broken),
        }
    }

    /// Counts the failure and continues with a new connection. An open loop keeps the due time of
    /// the request, because the request has no response yet.
    fn fail(&mut self, index: usize, broken: &Broken) -> Result<(), Box<dyn std::error::Error>> {
        let connection = &self.connections[index];
        let since = connection.since;
        let quiet_close = matches!(broken, Broken::Closed) && connection.is_idle();
        if !quiet_close {
            self.errors += 1;
            self.first_error.get_or_insert_with(|| broken.to_string());
            if self.errors > MAX_ERRORS {
                return Ok(());
            }
        }
        self.replace(index, since)?;
        if self.interval.is_none() {
            self.begin(index, Instant::now())?;
        }
        Ok(())
    }

    fn replace(&mut self, index: usize, since: Instant) -> Result<(), Box<dyn std::error::Error>> {
        self.reconnects += 1;
        // The assignment closes the old socket, which also leaves the epoll set.
        self.connections[index] = Connection::open(self.shared.target, since)?;
        self.register(&self.connections[index], index)?;
        Ok(())
    }

    /// Records the wait of requests that were due before the end and have no response. Without
    /// these requests, a server that stalls at the end would look fast.
    fn charge_overdue(&mut self, now: Instant, end: Instant) -> u64 {
        let Some(interval) = self.interval else { return 0 };
        let mut overdue = 0;
        for connection in &self.connections {
            let mut due = connection.since;
            while due < end.min(now) {
                // Also records requests sent just before the end, although their short wait means
                // nothing.
                self.latency.record(now - due);
                overdue += 1;
                due += interval;
            }
        }
        overdue
    }
}

impl Report {
    fn seconds(&self) -> f64 {
        self.elapsed.as_secs_f64()
    }

    fn answered(&self) -> u64 {
        self.latency.total() - self.overdue
    }

    /// Returns the used fraction of one core. At 1, the generator was the bottleneck instead of the
    /// server.
    fn utilisation(&self) -> f64 {
        self.cpu.as_secs_f64() / self.seconds()
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "connections": self.connections,
            "seconds": self.seconds(),
            "requests": self.answered(),
            "requests_per_second": self.answered() as f64 / self.seconds(),
            "bytes": self.bytes,
            "bytes_per_second": self.bytes as f64 / self.seconds(),
            "latency_ms": self.latency.json(),
            "overdue": self.overdue,
            "errors": self.errors,
            "first_error": self.first_error,
            "reconnects": self.reconnects,
            "client_cpu": self.utilisation(),
        })
    }

    pub fn text(&self) -> String {
        let quantile = |part| self.latency.quantile_ms(part);
        let mut text = format!(
            "{} connections, {:.2} s: {:.0} requests/s, {:.3} GB/s\n\
             latency ms: p50 {:.3}  p95 {:.3}  p98 {:.3}  p99 {:.3}  p99.9 {:.3}  max {:.3}\n\
             errors {}, reconnects {}, overdue {}, client CPU {:.2} of a core",
            self.connections,
            self.seconds(),
            self.answered() as f64 / self.seconds(),
            self.bytes as f64 / self.seconds() / 1e9,
            quantile(0.5),
            quantile(0.95),
            quantile(0.98),
            quantile(0.99),
            quantile(0.999),
            self.latency.max_ms(),
            self.errors,
            self.reconnects,
            self.overdue,
            self.utilisation(),
        );
        if let Some(error) = &self.first_error {
            text.push_str("\nfirst error: ");
            text.push_str(error);
        }
        text
    }
}

/// Repeats a call interrupted by a signal, for example of a profiler or a terminal.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return other,
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    // A duration is at most `WAIT_MAX`, so both fields fit.
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: duration.subsec_nanos().into(),
    }
}
