//! The runs of the rules of `warm`, on one thread. One rule runs at a time.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, select};

use super::report::WarmReport;
use super::run::WarmRun;
use crate::config::{DailyWindow, LoadSettings, WarmRuleConfig};
use crate::limits::{WARM_CHECK_INTERVAL, WARM_DELAY_DIVISOR, WARM_PAUSE_MIN};
use crate::manage::Loader;
use crate::manage::schedule::{RepeatedRule, Schedule};
use crate::oci::Namespace;
use crate::runtime::clock::{monotonic_millis, unix_millis, unix_seconds};
use crate::store::Stores;
use crate::sync::Mutex;

/// The running thread. The drop ends the thread. A run in progress is a job, which ends by itself.
pub struct BackgroundWarm {
    new_rules: Arc<NewRules>,
    _stop: Sender<()>,
}

/// Rules that the thread has not read. `None` if the rules are unchanged.
type NewRules = Mutex<Option<Vec<WarmRuleConfig>>>;

/// Starts a run as a job. The receiver gets the report, and is disconnected if the job fails.
pub type StartRun = Box<dyn Fn(WarmRun) -> Result<Receiver<WarmReport>, String> + Send>;

/// A rule with the delay of its runs, so that many caches do not send their requests at the same instant.
#[derive(Clone, PartialEq, Debug)]
struct DelayedRule {
    rule: WarmRuleConfig,
    delay: Duration,
}

impl RepeatedRule for DelayedRule {
    fn every(&self) -> Duration {
        self.rule.every
    }

    fn window(&self) -> Option<DailyWindow> {
        self.rule.window
    }

    fn delay(&self) -> Duration {
        self.delay
    }
}

impl DelayedRule {
    /// `seed` is constant during the life of the process.
    fn new(rule: WarmRuleConfig, seed: &RandomState) -> Self {
        let longest = (rule.every / WARM_DELAY_DIVISOR).as_millis().max(1);
        let millis = u128::from(seed.hash_one(&rule.place)) % longest;
        DelayedRule {
            rule,
            delay: Duration::from_millis(u64::try_from(millis).unwrap_or_default()),
        }
    }
}

impl BackgroundWarm {
    /// Starts the thread with `rules`. The first runs begin when the scan of the stores has ended.
    ///
    /// # Errors
    ///
    /// The thread cannot be created.
    pub fn start(
        stores: Stores,
        loader: Loader,
        settings: LoadSettings,
        rules: &[WarmRuleConfig],
        start: StartRun,
    ) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let new_rules = Arc::new(Mutex::new(Some(rules.to_vec())));
        let mut rules = Rules {
            stores,
            loader,
            settings,
            start,
            schedule: Schedule::default(),
            continued: HashMap::new(),
        };
        let for_thread = new_rules.clone();
        thread::Builder::new()
            .name("warm-rules".into())
            .spawn(move || rules.repeat(&for_thread, &stopped))?;
        Ok(BackgroundWarm {
            new_rules,
            _stop: stop,
        })
    }

    /// Replaces the rules. A run in progress keeps its rule.
    pub fn replace(&self, rules: &[WarmRuleConfig]) {
        *self.new_rules.lock() = Some(rules.to_vec());
    }
}

/// The rules of the thread.
struct Rules {
    stores: Stores,
    loader: Loader,
    settings: LoadSettings,
    start: StartRun,
    schedule: Schedule<DelayedRule>,
    /// The registries that held back the last run of a rule, by the place of the rule. With the begin of that
    /// run, in milliseconds since 1970.
    continued: HashMap<String, BTreeMap<Namespace, u64>>,
}

impl Rules {
    fn repeat(&mut self, new_rules: &NewRules, stopped: &Receiver<()>) {
        let seed = RandomState::new();
        // The sender never sends, so only the drop of the sender ends the wait early.
        while stopped.recv_timeout(WARM_CHECK_INTERVAL) == Err(RecvTimeoutError::Timeout) {
            if let Some(rules) = new_rules.lock().take() {
                let delayed = rules.into_iter().map(|rule| DelayedRule::new(rule, &seed));
                self.schedule.replace(delayed.collect());
                self.continued.clear();
            }
            if !self.stores.are_scanned() {
                continue;
            }
            if let Some(rule) = self.schedule.take_due(monotonic_millis(), unix_seconds()) {
                // A panic is a bug, and the other rules may succeed.
                let run = AssertUnwindSafe(|| self.run(&rule, stopped));
                if catch_unwind(run).is_err() {
                    tracing::error!(rule = rule.rule.place, "warm rule panicked");
                }
            }
        }
    }

    fn run(&mut self, due: &DelayedRule, stopped: &Receiver<()>) {
        let rule = &due.rule.place;
        if self.loader.live().registries().air_gapped {
            return tracing::warn!(rule, reason = "air_gapped is set", "warm rule not run");
        }
        let began_ms = unix_millis();
        let continued = self.continued.remove(rule).unwrap_or_default();
        let run = WarmRun {
            loader: self.loader.clone(),
            stores: self.stores.clone(),
            rule: due.rule.clone(),
            settings: self.settings.clone(),
            began_ms,
            continued: continued.clone(),
        };
        let report = match (self.start)(run) {
            Ok(report) => report,
            Err(reason) => return tracing::warn!(rule, reason, "warm rule not run"),
        };
        let report = select! {
            recv(report) -> report => report,
            recv(stopped) -> _ => return,
        };
        // The job has a log line with its failure.
        let Ok(report) = report else { return };
        let limited = report.limited.into_iter().map(|registry| {
            let since_ms = continued.get(&registry).copied().unwrap_or(began_ms);
            (registry, since_ms)
        });
        self.continued.insert(rule.clone(), limited.collect());
        if let Some(wait) = report.continue_in.map(|wait| wait.max(WARM_PAUSE_MIN))
            && wait < due.rule.every
        {
            let wait = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            let at = monotonic_millis().saturating_add(wait);
            self.schedule.move_to(due, at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ImagePattern;

    #[test]
    fn delay_is_constant_in_a_process_and_below_a_tenth_of_the_interval() {
        let seed = RandomState::new();
        for number in 0..100 {
            let rule = WarmRuleConfig {
                place: format!("warm[{number}]"),
                pattern: ImagePattern::parse("alpine").unwrap(),
                newest: None,
                platforms: None,
                every: Duration::from_secs(10),
                window: None,
                pin: false,
                reserve_percent: 30,
            };
            let delayed = DelayedRule::new(rule.clone(), &seed);
            assert!(delayed.delay < Duration::from_secs(1), "{delayed:?}");
            assert_eq!(delayed, DelayedRule::new(rule, &seed));
        }
    }
}
