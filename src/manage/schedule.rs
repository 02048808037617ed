//! The times at which rules of the configuration run in the background. Pure.

use std::time::Duration;

use crate::config::{DailyWindow, PruneRuleConfig};

/// A rule that runs at intervals.
pub(super) trait RepeatedRule: Clone + PartialEq {
    /// The time from the start of a run to the next run.
    fn every(&self) -> Duration;

    /// The time of day in which a run may start. `None` means any time.
    fn window(&self) -> Option<DailyWindow>;

    /// The time from the moment at which the rule is due to the start of its run. Constant for a rule.
    fn delay(&self) -> Duration {
        Duration::ZERO
    }
}

impl RepeatedRule for PruneRuleConfig {
    fn every(&self) -> Duration {
        self.every
    }

    fn window(&self) -> Option<DailyWindow> {
        self.window
    }
}

/// The rules, each with the time of its next run.
#[derive(Debug)]
pub(super) struct Schedule<R>(Vec<ScheduledRule<R>>);

/// A rule with its times in this process, in milliseconds of the monotonic clock.
#[derive(Debug)]
struct ScheduledRule<R> {
    rule: R,
    /// The time at which the rule is due. `None` at the start: a cache that restarts each day runs each
    /// rule too.
    due_at: Option<u64>,
    /// The time since which the rule is due within its window.
    ready_since: Option<u64>,
}

impl<R> Default for Schedule<R> {
    fn default() -> Self {
        Schedule(Vec::new())
    }
}

impl<R: RepeatedRule> Schedule<R> {
    /// Replaces the rules. An unchanged rule keeps the time of its next run.
    pub fn replace(&mut self, rules: Vec<R>) {
        let before = std::mem::take(&mut self.0);
        let scheduled = rules.into_iter().map(|rule| {
            let old = before.iter().find(|old| old.rule == rule);
            ScheduledRule {
                due_at: old.and_then(|old| old.due_at),
                ready_since: old.and_then(|old| old.ready_since),
                rule,
            }
        });
        self.0 = scheduled.collect();
    }

    /// Returns the rule that is due for the longest time, and records the start of its run. `millis` is of
    /// the monotonic clock, and `unix_seconds` decides about the window of a rule.
    pub fn take_due(&mut self, millis: u64, unix_seconds: u64) -> Option<R> {
        for scheduled in &mut self.0 {
            let is_due = scheduled.due_at.is_none_or(|due_at| due_at <= millis);
            let window = scheduled.rule.window();
            let is_ready = is_due && window.is_none_or(|window| window.contains(unix_seconds));
            scheduled.ready_since = is_ready.then(|| scheduled.ready_since.unwrap_or(millis));
        }
        let begins = |scheduled: &&mut ScheduledRule<R>| {
            let delay = millis_of(scheduled.rule.delay());
            scheduled
                .ready_since
                .is_some_and(|since| since.saturating_add(delay) <= millis)
        };
        let due = self
            .0
            .iter_mut()
            .filter(begins)
            .min_by_key(|scheduled| scheduled.due_at)?;
        // The delay is not part of the interval.
        let began = millis.saturating_sub(millis_of(due.rule.delay()));
        due.due_at = Some(began.saturating_add(millis_of(due.rule.every())));
        due.ready_since = None;
        Some(due.rule.clone())
    }

    /// Moves the next run of `rule` to `millis` of the monotonic clock.
    pub fn move_to(&mut self, rule: &R, millis: u64) {
        if let Some(scheduled) = self.0.iter_mut().find(|scheduled| scheduled.rule == *rule) {
            scheduled.due_at = Some(millis);
        }
    }
}

fn millis_of(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ImageFilter;

    const HOUR: u64 = 3_600_000;

    fn rule(place: &str, hours: u64) -> PruneRuleConfig {
        PruneRuleConfig {
            place: place.into(),
            filter: ImageFilter::default(),
            unused_for: None,
            older_than: None,
            keep_newest: 1,
            every: Duration::from_millis(hours * HOUR),
            window: None,
            images_max: None,
            dry_run: false,
        }
    }

    fn due(schedule: &mut Schedule<PruneRuleConfig>, hour: u64) -> Vec<String> {
        let due = std::iter::from_fn(|| schedule.take_due(hour * HOUR, hour * HOUR / 1000));
        due.map(|rule| rule.place).collect()
    }

    #[test]
    fn rule_runs_at_the_start_and_then_after_each_interval() {
        let mut schedule = Schedule::default();
        schedule.replace(vec![rule("often", 1), rule("daily", 24)]);
        assert_eq!(due(&mut schedule, 100), ["often", "daily"]);
        assert_eq!(due(&mut schedule, 100), [""; 0]);
        assert_eq!(due(&mut schedule, 101), ["often"]);
        assert_eq!(due(&mut schedule, 123), ["often"]);
        assert_eq!(due(&mut schedule, 124), ["often", "daily"]);
    }

    #[test]
    fn reload_keeps_the_time_of_an_unchanged_rule_and_runs_a_changed_rule() {
        let mut schedule = Schedule::default();
        schedule.replace(vec![rule("a", 24), rule("b", 24)]);
        assert_eq!(due(&mut schedule, 1), ["a", "b"]);
        schedule.replace(vec![rule("a", 24), rule("b", 12), rule("c", 24)]);
        assert_eq!(due(&mut schedule, 2), ["b", "c"]);
        schedule.replace(Vec::new());
        assert_eq!(due(&mut schedule, 99), [""; 0]);
    }

    #[test]
    fn due_rule_waits_for_its_window() {
        let windowed = PruneRuleConfig {
            window: DailyWindow::parse("02:00-05:00"),
            ..rule("night", 24)
        };
        let mut schedule = Schedule::default();
        schedule.replace(vec![windowed]);
        let runs = (12..96).filter(|&hour| !due(&mut schedule, hour).is_empty());
        assert_eq!(runs.collect::<Vec<_>>(), [26, 50, 74]);
    }

    #[derive(Clone, PartialEq, Debug)]
    struct Delayed(&'static str, u64, Option<DailyWindow>);

    impl RepeatedRule for Delayed {
        fn every(&self) -> Duration {
            Duration::from_millis(10 * HOUR)
        }

        fn window(&self) -> Option<DailyWindow> {
            self.2
        }

        fn delay(&self) -> Duration {
            Duration::from_millis(self.1 * HOUR)
        }
    }

    fn runs(schedule: &mut Schedule<Delayed>, hours: std::ops::Range<u64>) -> Vec<(u64, &'static str)> {
        let due = |hour: u64| {
            let rule = schedule.take_due(hour * HOUR, hour * HOUR / 1000)?;
            Some((hour, rule.0))
        };
        hours.filter_map(due).collect()
    }

    #[test]
    fn each_run_has_the_delay_of_its_rule_and_the_interval_stays() {
        let mut schedule = Schedule::default();
        schedule.replace(vec![Delayed("a", 2, None), Delayed("b", 3, None)]);
        let expected = [(2, "a"), (3, "b"), (12, "a"), (13, "b"), (22, "a"), (23, "b")];
        assert_eq!(runs(&mut schedule, 0..30), expected);
        let mut schedule = Schedule::default();
        schedule.replace(vec![Delayed("night", 1, DailyWindow::parse("02:00-05:00"))]);
        assert_eq!(
            runs(&mut schedule, 0..52),
            [(3, "night"), (27, "night"), (51, "night")]
        );
    }

    #[test]
    fn moved_run_begins_at_its_new_time_and_the_others_keep_theirs() {
        let mut schedule = Schedule::default();
        let (a, b) = (Delayed("a", 0, None), Delayed("b", 0, None));
        schedule.replace(vec![a.clone(), b]);
        assert_eq!(runs(&mut schedule, 0..2), [(0, "a"), (1, "b")]);
        schedule.move_to(&a, 4 * HOUR);
        assert_eq!(runs(&mut schedule, 2..15), [(4, "a"), (11, "b"), (14, "a")]);
    }

    #[test]
    fn rule_that_is_due_for_the_longest_time_runs_first() {
        let mut schedule = Schedule::default();
        schedule.replace(vec![Delayed("a", 0, None), Delayed("b", 0, None)]);
        assert_eq!(runs(&mut schedule, 0..2), [(0, "a"), (1, "b")]);
        schedule.move_to(&Delayed("a", 0, None), 30 * HOUR);
        assert_eq!(runs(&mut schedule, 40..42), [(40, "b"), (41, "a")]);
    }
}
