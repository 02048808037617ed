//! The watchdog thread. Checks the heartbeats, logs the location of a hanging core, and finally
//! aborts the process for a restart.

use std::fmt;
use std::time::Duration;

use super::clock::monotonic_micros;
use super::heartbeat::{Health, Heartbeat};
use super::helper::Workers;
use crate::fail_point::hit;
use crate::limits::{
    CORE_ABORT_TIMEOUT, CORE_ABORT_TIMEOUT_IN_KERNEL, DELAY_REPORT_INTERVAL, HEARTBEAT_TIMEOUT,
    WATCHDOG_INTERVAL,
};
use crate::log;

/// Sends the keepalives of the systemd watchdog, one per `every`.
pub struct Keepalive {
    pub every: Duration,
    pub send: Box<dyn Fn() + Send>,
}

/// Starts the watchdog thread. The thread checks `health` until the process ends.
///
/// A core without a tick for [`HEARTBEAT_TIMEOUT`] ends liveness. A core without a tick for
/// [`CORE_ABORT_TIMEOUT`] ends the process, for a restart by the service manager. The watchdog
/// sends a keepalive only while every core ticks. If the kernel holds the core, for a device or for
/// work such as memory reclaim, the process ends only after [`CORE_ABORT_TIMEOUT_IN_KERNEL`].
///
/// # Errors
///
/// Fails if the thread cannot be started.
pub fn start(health: Health, workers: Workers, keepalive: Option<Keepalive>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            let watchdog_loop = std::panic::AssertUnwindSafe(|| run(&health, workers, keepalive.as_ref()));
            if std::panic::catch_unwind(watchdog_loop).is_err() {
                tracing::error!("watchdog ended; aborting the process");
                log::abort();
            }
        })
        .map(drop)
}

fn run(health: &Health, mut workers: Workers, keepalive: Option<&Keepalive>) {
    let mut monitors: Vec<HeartbeatMonitor> = health
        .cores()
        .iter()
        .enumerate()
        .map(|(core, heartbeat)| HeartbeatMonitor::new(Monitored::Core(core), heartbeat))
        .collect();
    monitors.push(HeartbeatMonitor::new(Monitored::Helper, health.helper()));
    let threads = health.helper_threads().iter().enumerate();
    monitors.extend(
        threads.map(|(thread, heartbeat)| HeartbeatMonitor::new(Monitored::HelperThread(thread), heartbeat)),
    );
    monitors.push(HeartbeatMonitor::new(Monitored::Store, health.store()));
    let tick = keepalive.map_or(WATCHDOG_INTERVAL, |keepalive| {
        keepalive.every.min(WATCHDOG_INTERVAL)
    });
    let (mut since_keepalive, mut since_report) = (Duration::ZERO, Duration::ZERO);
    let mut last = monotonic_micros();
    loop {
        std::thread::park_timeout(tick);
        hit("watchdog");
        let now = monotonic_micros();
        // A stopped process or a suspended system has missed no tick. Only time with a running
        // watchdog counts.
        let elapsed = Duration::from_micros(now.saturating_sub(last)).min(2 * tick);
        last = now;
        workers.tick(health.helper_threads());
        for monitor in &mut monitors {
            let change = monitor.check(elapsed, Sample::of);
            log_change(monitor, change);
        }
        since_keepalive += elapsed;
        if let Some(keepalive) = keepalive.filter(|keepalive| since_keepalive >= keepalive.every) {
            since_keepalive = Duration::ZERO;
            if health.alive().is_ok() {
                (keepalive.send)();
            }
        }
        since_report += elapsed;
        if since_report >= DELAY_REPORT_INTERVAL {
            since_report = Duration::ZERO;
            report_delays(health);
        }
    }
}

/// Logs the largest delay of each core's loop, as a debug aid for stalls.
fn report_delays(health: &Health) {
    for (core, heartbeat) in health.cores().iter().enumerate() {
        let micros = heartbeat.take_delay_micros_max();
        tracing::debug!(core, delay_us_max = micros, "core loop delay");
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Monitored {
    Core(usize),
    Helper,
    HelperThread(usize),
    Store,
}

impl fmt::Display for Monitored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Monitored::Core(core) => write!(f, "core {core}"),
            Monitored::Helper => f.write_str("helper pool"),
            Monitored::HelperThread(thread) => write!(f, "helper thread {thread}"),
            Monitored::Store => f.write_str("store"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    None,
    Stopped,
    Resumed,
    /// A dead core. The process must be restarted.
    Dead,
}

/// The monitor of one heartbeat.
struct HeartbeatMonitor {
    monitored: Monitored,
    heartbeat: Heartbeat,
    ticks: u64,
    silence: Duration,
    /// The part of the silence spent in the kernel.
    in_kernel: Duration,
    sample: Option<Sample>,
}

/// The state of a thread, as reported by the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sample {
    /// `R`: running, `S`: sleeping for another thread or an event, `D`: waiting for a device.
    state: char,
    /// User and system time, in [`CLOCK_TICK`].
    user: u64,
    system: u64,
}

/// The unit of `utime` and `stime`: `USER_HZ` is 100 on every architecture.
const CLOCK_TICK: Duration = Duration::from_millis(10);

impl Sample {
    fn of(thread: i32) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).ok()?)
    }

    fn parse(stat: &str) -> Option<Self> {
        // The fields follow the name in parentheses. The name may contain any character.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // `state` is the third field, `utime` the fourteenth.
        let user = fields.nth(10)?.parse().ok()?;
        let system = fields.next()?.parse().ok()?;
        Some(Sample { state, user, system })
    }

    /// Returns whether the kernel held the thread during `elapsed`, since `before`. A thread in
    /// state `D` waits for a device. Otherwise more than half of the time must be system time, and
    /// none user time. A thread blocked on a lock sleeps (`S`).
    fn is_in_kernel(&self, before: Option<&Sample>, elapsed: Duration) -> bool {
        self.state == 'D'
            || before.is_some_and(|before| {
                let ticks = u32::try_from(self.system.saturating_sub(before.system)).unwrap_or(u32::MAX);
                self.user == before.user && CLOCK_TICK.saturating_mul(ticks) * 2 > elapsed
            })
    }
}

impl HeartbeatMonitor {
    fn new(monitored: Monitored, heartbeat: &Heartbeat) -> Self {
        HeartbeatMonitor {
            monitored,
            heartbeat: heartbeat.clone(),
            ticks: 0,
            silence: Duration::ZERO,
            in_kernel: Duration::ZERO,
            sample: None,
        }
    }

    /// Checks the heartbeat, `elapsed` after the last check. `sample` reads the thread state of a
    /// silent core.
    fn check(&mut self, elapsed: Duration, sample: impl FnOnce(i32) -> Option<Sample>) -> Change {
        let ticks = self.heartbeat.ticks();
        let was_silent = self.heartbeat.is_silent();
        if ticks != self.ticks {
            self.ticks = ticks;
            self.silence = Duration::ZERO;
            self.in_kernel = Duration::ZERO;
            self.sample = None;
        } else {
            self.silence += elapsed;
            let now = self.heartbeat.thread().and_then(sample);
            if now.is_some_and(|now| now.is_in_kernel(self.sample.as_ref(), elapsed)) {
                self.in_kernel += elapsed;
            }
            self.sample = now;
        }
        let is_silent = self.silence >= HEARTBEAT_TIMEOUT;
        self.heartbeat.set_silent(is_silent);
        match (was_silent, is_silent) {
            (_, true) if self.is_dead() && matches!(self.monitored, Monitored::Core(_)) => Change::Dead,
            (false, true) => Change::Stopped,
            (true, false) => Change::Resumed,
            _ => Change::None,
        }
    }

    /// Returns whether the process must end because of this heartbeat.
    fn is_dead(&self) -> bool {
        self.silence.saturating_sub(self.in_kernel) >= CORE_ABORT_TIMEOUT
            || self.silence >= CORE_ABORT_TIMEOUT_IN_KERNEL
    }
}

fn log_change(monitor: &HeartbeatMonitor, change: Change) {
    let thread = monitor.monitored.to_string();
    let phrase = match change {
        Change::None => return,
        Change::Resumed => return tracing::warn!(thread, "thread responds again"),
        Change::Stopped => "thread does not respond",
        Change::Dead => "thread does not respond; aborting the process",
    };
    let ThreadLocation {
        tid,
        state,
        wchan,
        syscall,
    } = monitor
        .heartbeat
        .thread()
        .map_or_else(ThreadLocation::default, ThreadLocation::of);
    tracing::error!(
        thread,
        silent_s = monitor.silence.as_secs(),
        in_kernel_s = monitor.in_kernel.as_secs(),
        tid,
        state,
        wchan,
        syscall,
        "{phrase}"
    );
    if change == Change::Dead {
        log::abort();
    }
}

/// The location of a thread in the kernel, as far as permissions allow.
#[derive(Debug, Default)]
struct ThreadLocation {
    /// The number of the thread.
    tid: Option<i32>,
    /// The state, such as `S` for a sleeping thread.
    state: Option<String>,
    /// The kernel function in which the thread waits.
    wchan: Option<String>,
    /// The number of the system call.
    syscall: Option<String>,
}

impl ThreadLocation {
    fn of(tid: i32) -> Self {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/self/task/{tid}/{name}")).ok()?;
            let text = text.trim();
            (!text.is_empty()).then(|| text.to_owned())
        };
        // The fields follow the name in parentheses. The name may contain any character.
        let state = read("stat").and_then(|stat| {
            let (_, rest) = stat.rsplit_once(')')?;
            rest.split_whitespace().next().map(str::to_owned)
        });
        // `0` for a running thread, or if the kernel hides the location.
        let wchan = read("wchan").filter(|wchan| wchan != "0");
        let syscall = read("syscall").map(|line| {
            let number = line.split(' ').next().unwrap_or_default();
            number.to_owned()
        });
        ThreadLocation {
            tid: Some(tid),
            state,
            wchan,
            syscall,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_heartbeat_is_missed_resumes_and_ends_the_process() {
        let heartbeat = Heartbeat::default();
        let mut monitor = HeartbeatMonitor::new(Monitored::Core(0), &heartbeat);
        heartbeat.tick();
        assert_eq!(monitor.check(SECOND, |_| None), Change::None);
        for _ in 0..4 {
            assert_eq!(monitor.check(SECOND, |_| None), Change::None);
        }
        assert_eq!(monitor.check(SECOND, |_| None), Change::Stopped);
        assert!(heartbeat.is_silent());
        assert_eq!(monitor.check(SECOND, |_| None), Change::None);
        heartbeat.tick();
        assert_eq!(monitor.check(SECOND, |_| None), Change::Resumed);
        assert!(!heartbeat.is_silent());
        let changes: Vec<Change> = (0..30).map(|_| monitor.check(SECOND, |_| None)).collect();
        assert_eq!(
            changes.iter().filter(|&&change| change != Change::None).count(),
            2
        );
        assert_eq!((changes[4], changes[29]), (Change::Stopped, Change::Dead));
    }

    #[test]
    fn silent_helper_thread_is_never_declared_dead() {
        let mut monitor = HeartbeatMonitor::new(Monitored::Helper, &Heartbeat::default());
        assert!((0..100).all(|_| monitor.check(SECOND, |_| None) != Change::Dead));
    }

    /// Returns the changes of a core without a tick for `seconds`, with the thread state
    /// `sample(second)`.
    fn silent_for(seconds: u64, sample: impl Fn(u64) -> Sample) -> Vec<Change> {
        let heartbeat = Heartbeat::default();
        heartbeat.set_thread(1);
        let mut monitor = HeartbeatMonitor::new(Monitored::Core(0), &heartbeat);
        (0..seconds)
            .map(|second| monitor.check(SECOND, |_| Some(sample(second))))
            .filter(|&change| change != Change::None)
            .collect()
    }

    fn sample(state: char, user: u64, system: u64) -> Sample {
        Sample { state, user, system }
    }

    #[test]
    fn a_core_that_waits_for_a_device_is_silent_and_not_given_up_before_the_long_bound() {
        let waits = |_| sample('D', 5, 5);
        assert_eq!(silent_for(500, waits), [Change::Stopped]);
        assert_eq!(silent_for(600, waits), [Change::Stopped, Change::Dead]);
        // A core that reads page after page. Some samples fall between two reads.
        let reads = |second| sample(if second % 5 == 0 { 'R' } else { 'D' }, 5, second);
        assert_eq!(silent_for(140, reads), [Change::Stopped]);
    }

    #[test]
    fn a_core_that_the_kernel_keeps_busy_is_not_given_up_before_the_long_bound() {
        let reclaims = |second| sample('R', 5, 90 * second);
        assert_eq!(silent_for(500, reclaims), [Change::Stopped]);
    }

    #[test]
    fn a_core_that_spins_or_waits_for_a_lock_is_given_up() {
        let given_up = [Change::Stopped, Change::Dead];
        assert_eq!(silent_for(30, |second| sample('R', 100 * second, 0)), given_up);
        assert_eq!(silent_for(30, |_| sample('S', 5, 5)), given_up);
        // A loop of system calls counts as work of the program.
        let calls = |second| sample('R', 20 * second, 80 * second);
        assert_eq!(silent_for(30, calls), given_up);
    }

    #[test]
    fn cpu_times_of_a_thread_are_parsed() {
        let stat = "7 (a ) b) D 1 1 1 0 -1 4194368 9 0 1 0 321 654 0 0 20 0 3 0 99";
        assert_eq!(Sample::parse(stat), Some(sample('D', 321, 654)));
        assert_eq!(Sample::parse(""), None);
        assert!(Sample::of(rustix::thread::gettid().as_raw_nonzero().get()).is_some());
    }

    #[test]
    fn thread_location_contains_the_state() {
        let location = ThreadLocation::of(rustix::thread::gettid().as_raw_nonzero().get());
        assert_eq!(location.state.as_deref(), Some("R"), "{location:?}");
    }
}
