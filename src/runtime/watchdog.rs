//! The watchdog: a thread that misses the beats of cores that hang, says where they hang, and in the end has the process
//! restarted.

use std::fmt;
use std::time::Duration;

use super::clock::monotonic_micros;
use super::helper::Workers;
use super::vitals::{Pulse, Vitals};
use crate::fail_point::reach;
use crate::limits::{CORE_DEAD, CORE_SILENT, DELAY_REPORT, WATCHDOG_TICK};
use crate::log;

/// Tells a supervisor that all is well, as often as it wants to hear it.
pub struct Keepalive {
    pub every: Duration,
    pub tell: Box<dyn Fn() + Send>,
}

/// Listens to `vitals` from a thread of its own, for as long as the process runs. A core that has been silent for
/// [`CORE_SILENT`] ends liveness, and for [`CORE_DEAD`] the process, so that it is restarted; a supervisor is told that all
/// is well only while no core is silent.
///
/// # Errors
///
/// When the thread cannot be had.
pub fn start(vitals: Vitals, workers: Workers, keepalive: Option<Keepalive>) -> std::io::Result<()> {
    std::thread::Builder::new()
        .name("watchdog".into())
        .spawn(move || {
            let watching = std::panic::AssertUnwindSafe(|| watch(&vitals, workers, keepalive.as_ref()));
            if std::panic::catch_unwind(watching).is_err() {
                tracing::error!("the watchdog died; ending the process so that it is restarted");
                log::abort();
            }
        })
        .map(drop)
}

fn watch(vitals: &Vitals, mut workers: Workers, keepalive: Option<&Keepalive>) {
    let mut charts: Vec<Chart> = vitals
        .cores()
        .iter()
        .enumerate()
        .map(|(core, pulse)| Chart::new(Whose::Core(core), pulse))
        .collect();
    charts.push(Chart::new(Whose::Helper, vitals.helper()));
    let threads = vitals.helper_threads().iter().enumerate();
    charts.extend(threads.map(|(thread, pulse)| Chart::new(Whose::HelperThread(thread), pulse)));
    charts.push(Chart::new(Whose::Store, vitals.store()));
    let tick = keepalive.map_or(WATCHDOG_TICK, |keepalive| keepalive.every.min(WATCHDOG_TICK));
    let (mut unsaid, mut unreported) = (Duration::ZERO, Duration::ZERO);
    let mut last = monotonic_micros();
    loop {
        std::thread::park_timeout(tick);
        reach("watchdog");
        let now = monotonic_micros();
        // A process that was stopped as a whole, or a machine that slept, has missed no beat: what counts is the time
        // in which we ourselves could have heard one.
        let passed = Duration::from_micros(now.saturating_sub(last)).min(2 * tick);
        last = now;
        workers.beat(vitals.helper_threads());
        for chart in &mut charts {
            let change = chart.listen(passed);
            tell(chart, change);
        }
        unsaid += passed;
        if let Some(keepalive) = keepalive.filter(|keepalive| unsaid >= keepalive.every) {
            unsaid = Duration::ZERO;
            if vitals.alive().is_ok() {
                (keepalive.tell)();
            }
        }
        unreported += passed;
        if unreported >= DELAY_REPORT {
            unreported = Duration::ZERO;
            report_delays(vitals);
        }
    }
}

/// The longest that each core's loop kept something waiting, for who looks for stalls.
fn report_delays(vitals: &Vitals) {
    for (core, pulse) in vitals.cores().iter().enumerate() {
        let micros = pulse.take_delay_micros_max();
        tracing::debug!(core, delay_us_max = micros, "the core's loop");
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whose {
    Core(usize),
    Helper,
    HelperThread(usize),
    Store,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whose::Core(core) => write!(f, "core {core}"),
            Whose::Helper => f.write_str("the helper pool"),
            Whose::HelperThread(thread) => write!(f, "helper thread {thread}"),
            Whose::Store => f.write_str("the store"),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Change {
    None,
    FellSilent,
    BeatsAgain,
    /// A core that will not come back.
    Dead,
}

/// What was heard of one pulse.
struct Chart {
    whose: Whose,
    pulse: Pulse,
    beats: u64,
    silence: Duration,
}

impl Chart {
    fn new(whose: Whose, pulse: &Pulse) -> Self {
        Chart {
            whose,
            pulse: pulse.clone(),
            beats: 0,
            silence: Duration::ZERO,
        }
    }

    /// Listens once, `passed` after the last time.
    fn listen(&mut self, passed: Duration) -> Change {
        let beats = self.pulse.beats();
        let was_silent = self.pulse.is_silent();
        if beats != self.beats {
            self.beats = beats;
            self.silence = Duration::ZERO;
        } else {
            self.silence += passed;
        }
        let is_silent = self.silence >= CORE_SILENT;
        self.pulse.set_silent(is_silent);
        match (was_silent, is_silent) {
            (_, true) if self.silence >= CORE_DEAD && matches!(self.whose, Whose::Core(_)) => Change::Dead,
            (false, true) => Change::FellSilent,
            (true, false) => Change::BeatsAgain,
            _ => Change::None,
        }
    }
}

fn tell(chart: &Chart, change: Change) {
    let (whose, seconds) = (chart.whose, chart.silence.as_secs());
    let place = || chart.pulse.thread().map_or_else(String::new, whereabouts);
    match change {
        Change::None => {}
        Change::FellSilent => {
            tracing::error!("{whose} has not moved for {seconds} s{}", place());
        }
        Change::BeatsAgain => tracing::warn!("{whose} moves again"),
        Change::Dead => {
            tracing::error!(
                "{whose} has not moved for {seconds} s{}; ending the process so that it is restarted",
                place()
            );
            log::abort();
        }
    }
}

/// Where in the kernel a thread of ours is, as far as we may know: its state, what it waits for, and its system call.
fn whereabouts(thread: i32) -> String {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/{name}")).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    // After the name in parentheses, which may hold anything.
    let state = read("stat").and_then(|stat| {
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_whitespace().next().map(str::to_owned)
    });
    // `0` for a thread that runs or whose place is not told.
    let wchan = read("wchan").filter(|wchan| wchan != "0");
    let syscall = read("syscall").map(|line| {
        let number = line.split(' ').next().unwrap_or_default();
        number.to_owned()
    });
    let mut text = format!(" (thread {thread}");
    for (name, value) in [("state", state), ("wchan", wchan), ("syscall", syscall)] {
        if let Some(value) = value {
            text.push_str(&format!(", {name} {value}"));
        }
    }
    text + ")"
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_pulse_is_missed_heard_again_and_given_up() {
        let pulse = Pulse::default();
        let mut chart = Chart::new(Whose::Core(0), &pulse);
        pulse.beat();
        assert_eq!(chart.listen(SECOND), Change::None);
        for _ in 0..4 {
            assert_eq!(chart.listen(SECOND), Change::None);
        }
        assert_eq!(chart.listen(SECOND), Change::FellSilent);
        assert!(pulse.is_silent());
        assert_eq!(chart.listen(SECOND), Change::None);
        pulse.beat();
        assert_eq!(chart.listen(SECOND), Change::BeatsAgain);
        assert!(!pulse.is_silent());
        let changes: Vec<Change> = (0..30).map(|_| chart.listen(SECOND)).collect();
        assert_eq!(
            changes.iter().filter(|&&change| change != Change::None).count(),
            2
        );
        assert_eq!((changes[4], changes[29]), (Change::FellSilent, Change::Dead));
    }

    #[test]
    fn only_cores_die() {
        let mut chart = Chart::new(Whose::Helper, &Pulse::default());
        assert!((0..100).all(|_| chart.listen(SECOND) != Change::Dead));
    }

    #[test]
    fn a_thread_is_found_where_it_waits() {
        let text = whereabouts(rustix::thread::gettid().as_raw_nonzero().get());
        assert!(text.contains("state R"), "{text}");
    }
}
