//! The times at which the rules of `prune` run. Pure.

use std::time::Duration;

use crate::config::PruneRuleConfig;

/// The rules, each with the time of its next run.
#[derive(Debug, Default)]
pub(super) struct PruneSchedule(Vec<ScheduledRule>);

#[derive(Debug)]
struct ScheduledRule {
    rule: PruneRuleConfig,
    /// The start of the last run in this process, in milliseconds of the monotonic clock.
    ran_at: Option<u64>,
}

impl PruneSchedule {
    /// Replaces the rules. An unchanged rule keeps the time of its next run.
    pub fn replace(&mut self, rules: Vec<PruneRuleConfig>) {
        let before = std::mem::take(&mut self.0);
        let scheduled = rules.into_iter().map(|rule| ScheduledRule {
            ran_at: before
                .iter()
                .find(|old| old.rule == rule)
                .and_then(|old| old.ran_at),
            rule,
        });
        self.0 = scheduled.collect();
    }

    /// Returns the next rule that is due, and records the start of its run. A rule is due after the
    /// start of the process, so that a cache that restarts each day runs each rule too. `millis` is of
    /// the monotonic clock, and `unix_seconds` decides about the window of a rule.
    pub fn take_due(&mut self, millis: u64, unix_seconds: u64) -> Option<PruneRuleConfig> {
        let due = self.0.iter_mut().find(|scheduled| {
            let since = |ran: u64| Duration::from_millis(millis.saturating_sub(ran));
            let is_due = scheduled
                .ran_at
                .is_none_or(|ran| since(ran) >= scheduled.rule.every);
            let window = scheduled.rule.window;
            is_due && window.is_none_or(|window| window.contains(unix_seconds))
        })?;
        due.ran_at = Some(millis);
        Some(due.rule.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DailyWindow, ImageFilter};

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

    fn due(schedule: &mut PruneSchedule, hour: u64) -> Vec<String> {
        let due = std::iter::from_fn(|| schedule.take_due(hour * HOUR, hour * HOUR / 1000));
        due.map(|rule| rule.place).collect()
    }

    #[test]
    fn rule_runs_at_the_start_and_then_after_each_interval() {
        let mut schedule = PruneSchedule::default();
        schedule.replace(vec![rule("often", 1), rule("daily", 24)]);
        assert_eq!(due(&mut schedule, 100), ["often", "daily"]);
        assert_eq!(due(&mut schedule, 100), [""; 0]);
        assert_eq!(due(&mut schedule, 101), ["often"]);
        assert_eq!(due(&mut schedule, 123), ["often"]);
        assert_eq!(due(&mut schedule, 124), ["often", "daily"]);
    }

    #[test]
    fn reload_keeps_the_time_of_an_unchanged_rule_and_runs_a_changed_rule() {
        let mut schedule = PruneSchedule::default();
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
        let mut schedule = PruneSchedule::default();
        schedule.replace(vec![windowed]);
        let runs = (12..96).filter(|&hour| !due(&mut schedule, hour).is_empty());
        assert_eq!(runs.collect::<Vec<_>>(), [26, 50, 74]);
    }
}
