//! The watchdog: a thread that misses the beats of cores that hang, says where they hang, and in the end has the process
//! restarted.

use std::fmt;
use std::time::Duration;

use super::clock::monotonic_micros;
use super::helper::Workers;
use super::vitals::{Pulse, Vitals};
use crate::fail_point::reach;
use crate::limits::{CORE_DEAD, CORE_DEAD_IN_KERNEL, CORE_SILENT, DELAY_REPORT, WATCHDOG_TICK};
use crate::log;

/// Tells a supervisor that all is well, as often as it wants to hear it.
pub struct Keepalive {
    pub every: Duration,
    pub tell: Box<dyn Fn() + Send>,
}

/// Listens to `vitals` from a thread of its own, for as long as the process runs. A core that has been silent for
/// [`CORE_SILENT`] ends liveness, and for [`CORE_DEAD`] the process, so that it is restarted; a supervisor is told that all
/// is well only while no core is silent. Time in which the kernel holds the core, for a device or for work of its own,
/// ends the process only after [`CORE_DEAD_IN_KERNEL`].
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
            let change = chart.listen(passed, Sample::of);
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
    /// The part of the silence in which the kernel held the thread.
    in_kernel: Duration,
    sample: Option<Sample>,
}

/// What a thread does, as the kernel counts it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Sample {
    /// `R` runs, `S` waits for another thread or an event, `D` waits for a device.
    state: char,
    /// Time spent in the program and in the kernel, in [`CLOCK_TICK`].
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
        // After the name in parentheses, which may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // `state` is the third field, `utime` the fourteenth.
        let user = fields.nth(10)?.parse().ok()?;
        let system = fields.next()?.parse().ok()?;
        Some(Sample { state, user, system })
    }

    /// Whether the kernel has held the thread for `passed`, since `before`: it waits for a device, or more than half of
    /// the time went to the kernel and none to the program. A thread that waits for a lock sleeps (`S`).
    fn is_in_kernel(&self, before: Option<&Sample>, passed: Duration) -> bool {
        self.state == 'D'
            || before.is_some_and(|before| {
                let ticks = u32::try_from(self.system.saturating_sub(before.system)).unwrap_or(u32::MAX);
                self.user == before.user && CLOCK_TICK.saturating_mul(ticks) * 2 > passed
            })
    }
}

impl Chart {
    fn new(whose: Whose, pulse: &Pulse) -> Self {
        Chart {
            whose,
            pulse: pulse.clone(),
            beats: 0,
            silence: Duration::ZERO,
            in_kernel: Duration::ZERO,
            sample: None,
        }
    }

    /// Listens once, `passed` after the last time. `sample` looks at the thread of a core that is silent.
    fn listen(&mut self, passed: Duration, sample: impl FnOnce(i32) -> Option<Sample>) -> Change {
        let beats = self.pulse.beats();
        let was_silent = self.pulse.is_silent();
        if beats != self.beats {
            self.beats = beats;
            self.silence = Duration::ZERO;
            self.in_kernel = Duration::ZERO;
            self.sample = None;
        } else {
            self.silence += passed;
            let now = self.pulse.thread().and_then(sample);
            if now.is_some_and(|now| now.is_in_kernel(self.sample.as_ref(), passed)) {
                self.in_kernel += passed;
            }
            self.sample = now;
        }
        let is_silent = self.silence >= CORE_SILENT;
        self.pulse.set_silent(is_silent);
        match (was_silent, is_silent) {
            (_, true) if self.is_dead() && matches!(self.whose, Whose::Core(_)) => Change::Dead,
            (false, true) => Change::FellSilent,
            (true, false) => Change::BeatsAgain,
            _ => Change::None,
        }
    }

    /// Whether the process is to end for it.
    fn is_dead(&self) -> bool {
        self.silence.saturating_sub(self.in_kernel) >= CORE_DEAD || self.silence >= CORE_DEAD_IN_KERNEL
    }
}

fn tell(chart: &Chart, change: Change) {
    let (whose, seconds) = (chart.whose, chart.silence.as_secs());
    let in_kernel = chart.in_kernel.as_secs();
    let place = || chart.pulse.thread().map_or_else(String::new, whereabouts);
    match change {
        Change::None => {}
        Change::FellSilent => {
            tracing::error!(
                in_kernel_s = in_kernel,
                "{whose} has not moved for {seconds} s{}",
                place()
            );
        }
        Change::BeatsAgain => tracing::warn!("{whose} moves again"),
        Change::Dead => {
            tracing::error!(
                in_kernel_s = in_kernel,
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
        assert_eq!(chart.listen(SECOND, |_| None), Change::None);
        for _ in 0..4 {
            assert_eq!(chart.listen(SECOND, |_| None), Change::None);
        }
        assert_eq!(chart.listen(SECOND, |_| None), Change::FellSilent);
        assert!(pulse.is_silent());
        assert_eq!(chart.listen(SECOND, |_| None), Change::None);
        pulse.beat();
        assert_eq!(chart.listen(SECOND, |_| None), Change::BeatsAgain);
        assert!(!pulse.is_silent());
        let changes: Vec<Change> = (0..30).map(|_| chart.listen(SECOND, |_| None)).collect();
        assert_eq!(
            changes.iter().filter(|&&change| change != Change::None).count(),
            2
        );
        assert_eq!((changes[4], changes[29]), (Change::FellSilent, Change::Dead));
    }

    #[test]
    fn only_cores_die() {
        let mut chart = Chart::new(Whose::Helper, &Pulse::default());
        assert!((0..100).all(|_| chart.listen(SECOND, |_| None) != Change::Dead));
    }

    /// Listens to a core that does not beat for `seconds`, and is found to be `sample(second)`.
    fn silent_for(seconds: u64, sample: impl Fn(u64) -> Sample) -> Vec<Change> {
        let pulse = Pulse::default();
        pulse.set_thread(1);
        let mut chart = Chart::new(Whose::Core(0), &pulse);
        (0..seconds)
            .map(|second| chart.listen(SECOND, |_| Some(sample(second))))
            .filter(|&change| change != Change::None)
            .collect()
    }

    fn sample(state: char, user: u64, system: u64) -> Sample {
        Sample { state, user, system }
    }

    #[test]
    fn a_core_that_waits_for_a_device_is_silent_and_not_given_up_before_the_long_bound() {
        let waits = |_| sample('D', 5, 5);
        assert_eq!(silent_for(500, waits), [Change::FellSilent]);
        assert_eq!(silent_for(600, waits), [Change::FellSilent, Change::Dead]);
        // It reads page after page, and is found between two of them now and then.
        let reads = |second| sample(if second % 5 == 0 { 'R' } else { 'D' }, 5, second);
        assert_eq!(silent_for(140, reads), [Change::FellSilent]);
    }

    #[test]
    fn a_core_that_the_kernel_keeps_busy_is_not_given_up_before_the_long_bound() {
        let reclaims = |second| sample('R', 5, 90 * second);
        assert_eq!(silent_for(500, reclaims), [Change::FellSilent]);
    }

    #[test]
    fn a_core_that_spins_or_waits_for_a_lock_is_given_up() {
        let given_up = [Change::FellSilent, Change::Dead];
        assert_eq!(silent_for(30, |second| sample('R', 100 * second, 0)), given_up);
        assert_eq!(silent_for(30, |_| sample('S', 5, 5)), given_up);
        // A loop of system calls is the program's.
        let calls = |second| sample('R', 20 * second, 80 * second);
        assert_eq!(silent_for(30, calls), given_up);
    }

    #[test]
    fn the_times_of_a_thread_are_read() {
        let stat = "7 (a ) b) D 1 1 1 0 -1 4194368 9 0 1 0 321 654 0 0 20 0 3 0 99";
        assert_eq!(Sample::parse(stat), Some(sample('D', 321, 654)));
        assert_eq!(Sample::parse(""), None);
        assert!(Sample::of(rustix::thread::gettid().as_raw_nonzero().get()).is_some());
    }

    #[test]
    fn a_thread_is_found_where_it_waits() {
        let text = whereabouts(rustix::thread::gettid().as_raw_nonzero().get());
        assert!(text.contains("state R"), "{text}");
    }
}
