//! `prune` and `prune_config`: the rules that remove stored images in the background.

use std::num::NonZeroUsize;
use std::time::Duration;

use super::super::model::units::{parse_duration, parse_go_duration};
use super::super::model::{DailyWindow, ImageFilter, PruneRuleConfig};
use super::super::value::Kind;
use super::keys::{PRUNE_CONFIG, PRUNE_IMAGES_MAX, PRUNE_RULE, PRUNE_TYPES};
use super::reader::{Field, Fields, Reader, Spanned};
use crate::limits::{PRUNE_INTERVAL_DEFAULT, PRUNE_INTERVAL_MIN, PRUNE_RULES_MAX};

/// The images of a run of `prune_config` without `count`, as in ociregistry.
const OCIREGISTRY_COUNT: usize = 50;

const GO_DURATION_EXPECTED: &str =
    "a duration such as 90s, 1h30m or 30d, with the units ns, us, ms, s, m, h and d";

impl Reader<'_> {
    /// Reads the rules of `prune`. After a diagnostic, the caller rejects the configuration.
    pub(super) fn prune(&mut self, field: Option<Field>) -> Vec<Spanned<PruneRuleConfig>> {
        let path = field.as_ref().map(|field| field.path.clone());
        let before = self.diagnostics.len();
        let (Some(path), Some(maps)) = (path, self.maps(field, PRUNE_RULE, None)) else {
            return Vec::new();
        };
        if maps.value.len() > PRUNE_RULES_MAX {
            self.record_error_at(maps.line, &path, &format!("more than {PRUNE_RULES_MAX} rules"));
        }
        let mut rules = Vec::new();
        for (place, fields) in maps.value {
            let rule = self.prune_rule(&place.value, fields);
            if !rule.has_condition() && self.diagnostics.len() == before {
                let why = "a rule without a condition would remove every image; add pattern, unused_for, older_than or keep_newest";
                self.record_error_at(place.line, &place.value, why);
            }
            rules.push(place.map(|_| rule));
        }
        rules
    }

    fn prune_rule(&mut self, place: &str, mut fields: Fields) -> PruneRuleConfig {
        let filter = self.parsed(fields.take("pattern"), ImageFilter::parse);
        let keep_newest = self.parsed(fields.take("keep_newest"), parse_count);
        let window = self.parsed(fields.take("window"), |text| {
            DailyWindow::parse(text).ok_or_else(|| format!("expected {}", DailyWindow::EXPECTED))
        });
        PruneRuleConfig {
            place: place.to_owned(),
            filter: value(filter).unwrap_or_default(),
            unused_for: value(self.duration(fields.take("unused_for"))),
            older_than: value(self.duration(fields.take("older_than"))),
            keep_newest: value(keep_newest).map_or(0, NonZeroUsize::get),
            every: self.interval(fields.take("every"), parse_duration, &Kind::Duration.expected()),
            window: value(window),
            images_max: value(self.parsed(fields.take("count"), parse_count)),
            dry_run: value(self.switch(fields.take("dry_run"))).unwrap_or(false),
        }
    }

    /// Reads the rule of ociregistry. `None` unless the rule is enabled.
    pub(super) fn prune_config(&mut self, field: Field) -> Option<Spanned<PruneRuleConfig>> {
        let (line, path) = (field.node.line, field.path.clone());
        let before = self.diagnostics.len();
        let mut fields = self.fields(&path, field.node, PRUNE_CONFIG);
        let is_enabled = value(self.switch(fields.take("enabled"))).unwrap_or(false);
        let kind = self.parsed(fields.take("type"), |text| {
            let is_known = PRUNE_TYPES.contains(&text);
            let kind = is_known.then(|| text.to_owned());
            kind.ok_or_else(|| format!("expected {}", Kind::Word(PRUNE_TYPES).expected()))
        });
        let duration = self.parsed(fields.take("duration"), |text| {
            parse_go_duration(text).ok_or_else(|| format!("expected {GO_DURATION_EXPECTED}"))
        });
        let (kind, duration) = (value(kind), value(duration));
        let filter = self.parsed(fields.take("expr"), ImageFilter::parse);
        let is_of = |name: &str| kind.as_deref() == Some(name);
        let rule = PruneRuleConfig {
            place: path.clone(),
            filter: value(filter).filter(|_| is_of("pattern")).unwrap_or_default(),
            unused_for: duration.filter(|_| is_of("accessed")),
            older_than: duration.filter(|_| is_of("created")),
            keep_newest: 0,
            every: self.interval(fields.take("frequency"), parse_go_duration, GO_DURATION_EXPECTED),
            window: None,
            images_max: match self.parsed(fields.take("count"), parse_count_or_all) {
                Some(count) => count.value,
                None => NonZeroUsize::new(OCIREGISTRY_COUNT),
            },
            dry_run: value(self.switch(fields.take("dry_run"))).unwrap_or(false),
        };
        if !is_enabled {
            return None;
        }
        if !rule.has_condition() && self.diagnostics.len() == before {
            let why = match kind.as_deref() {
                Some("accessed") => "type accessed needs duration, the time without a use",
                Some("created") => "type created needs duration, the age of an image",
                Some(_) => "type pattern needs expr, regular expressions for the reference of an image",
                None => "an enabled rule needs type: accessed, created or pattern",
            };
            self.record_error_at(line, &path, why);
        }
        Some(Spanned { value: rule, line })
    }

    /// Reads the time between two runs of a rule.
    fn interval(
        &mut self,
        field: Option<Field>,
        parse: impl Fn(&str) -> Option<Duration>,
        expected: &str,
    ) -> Duration {
        let interval = self.parsed(field, |text| match parse(text) {
            None => Err(format!("expected {expected}")),
            Some(every) if every < PRUNE_INTERVAL_MIN => Err(format!(
                "expected at least {} s, because each run reads the whole index",
                PRUNE_INTERVAL_MIN.as_secs()
            )),
            Some(every) => Ok(every),
        });
        value(interval).unwrap_or(PRUNE_INTERVAL_DEFAULT)
    }
}

fn value<T>(spanned: Option<Spanned<T>>) -> Option<T> {
    spanned.map(|spanned| spanned.value)
}

fn parse_count(text: &str) -> Result<NonZeroUsize, String> {
    let count = text.parse::<NonZeroUsize>().ok();
    count
        .filter(|count| count.get() as u64 <= PRUNE_IMAGES_MAX)
        .ok_or_else(|| format!("expected {}", Kind::Count(PRUNE_IMAGES_MAX).expected()))
}

/// Parses a number of images. Returns `None` for -1, which means all.
fn parse_count_or_all(text: &str) -> Result<Option<NonZeroUsize>, String> {
    match text {
        "-1" => Ok(None),
        _ => parse_count(text)
            .map(Some)
            .map_err(|expected| format!("{expected}, or -1 for all")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::Machine;

    fn rules(text: &str) -> Vec<PruneRuleConfig> {
        Machine::with_file(text).config().prune
    }

    fn hours(hours: u64) -> Duration {
        Duration::from_secs(hours * 3600)
    }

    #[test]
    fn rule_has_its_conditions_and_controls() {
        let text = "
prune:
  - {pattern: 'a/,b/', unused_for: 30d, older_than: 7d, keep_newest: 3, every: 1d, window: '22:00-05:00', count: 10, dry_run: true}
  - {keepNewest: 5}
";
        let full = PruneRuleConfig {
            place: "prune[0]".into(),
            filter: ImageFilter::parse("a/,b/").unwrap(),
            unused_for: Some(hours(30 * 24)),
            older_than: Some(hours(7 * 24)),
            keep_newest: 3,
            every: hours(24),
            window: DailyWindow::parse("22:00-05:00"),
            images_max: NonZeroUsize::new(10),
            dry_run: true,
        };
        let short = PruneRuleConfig {
            place: "prune[1]".into(),
            filter: ImageFilter::default(),
            unused_for: None,
            older_than: None,
            keep_newest: 5,
            every: hours(5),
            window: None,
            images_max: None,
            dry_run: false,
        };
        assert_eq!(rules(text), [full, short]);
        assert_eq!(rules("prune: []"), []);
    }

    #[test]
    fn rule_of_ociregistry_keeps_its_meaning() {
        let plain = |change: fn(&mut PruneRuleConfig)| {
            let mut rule = PruneRuleConfig {
                place: "pruneConfig".into(),
                filter: ImageFilter::default(),
                unused_for: None,
                older_than: None,
                keep_newest: 0,
                every: hours(5),
                window: None,
                images_max: NonZeroUsize::new(50),
                dry_run: false,
            };
            change(&mut rule);
            rule
        };
        for (text, rule) in [
            (
                "enabled: true, type: accessed, duration: 30d, frequency: 1d, count: -1",
                plain(|rule| {
                    rule.unused_for = Some(hours(30 * 24));
                    rule.every = hours(24);
                    rule.images_max = None;
                }),
            ),
            (
                "enabled: true, type: created, duration: 1h30m, count: 7, dryRun: true",
                plain(|rule| {
                    rule.older_than = Some(hours(1) + hours(1) / 2);
                    rule.images_max = NonZeroUsize::new(7);
                    rule.dry_run = true;
                }),
            ),
            (
                "enabled: true, type: pattern, expr: 'quay.io,alpine', dryrun: true",
                plain(|rule| {
                    rule.filter = ImageFilter::parse("quay.io,alpine").unwrap();
                    rule.dry_run = true;
                }),
            ),
        ] {
            assert_eq!(rules(&format!("pruneConfig: {{{text}}}")), [rule], "{text}");
        }
        for off in [
            "",
            "{}",
            "{enabled: false, type: accessed, duration: 30d}",
            "{duration: 30d}",
        ] {
            assert_eq!(rules(&format!("pruneConfig: {off}")), [], "{off}");
        }
        let both = "prune: [{keep_newest: 1}]\nprune_config: {enabled: true, type: accessed, duration: 1d}";
        assert_eq!(rules(both).len(), 2);
    }

    #[test]
    fn mistake_in_a_rule_is_a_diagnostic_with_its_remedy() {
        for (text, expected) in [
            (
                "prune: [{}]",
                "f.yaml:1: prune[0]: a rule without a condition would remove every image; add",
            ),
            ("prune: [{every: 1d}]", "prune[0]: a rule without a condition"),
            ("prune: [{pattern: ','}]", "prune[0]: a rule without a condition"),
            (
                "prune: [{pattern: '('}]",
                "prune[0].pattern: \"(\": the pattern \"(\" is no regular expression",
            ),
            (
                "prune: [{unused_for: 7w}]",
                "prune[0].unused_for: \"7w\": expected a duration",
            ),
            (
                "prune: [{older_than: soon}]",
                "prune[0].older_than: \"soon\": expected a duration",
            ),
            (
                "prune: [{keep_newest: 0}]",
                "prune[0].keep_newest: \"0\": expected a number from 1",
            ),
            (
                "prune: [{keep_newest: 1, count: -1}]",
                "prune[0].count: \"-1\": expected a number from 1",
            ),
            (
                "prune: [{keep_newest: 1, every: 10s}]",
                "prune[0].every: \"10s\": expected at least 60 s",
            ),
            (
                "prune: [{keep_newest: 1, window: '2-5'}]",
                "prune[0].window: \"2-5\": expected two different times",
            ),
            (
                "prune: [{keep_newest: 1, dry_run: maybe}]",
                "prune[0].dry_run: \"maybe\": expected true",
            ),
            ("prune: [{unused: 1d}]", "unknown key; did you mean unusedFor?"),
            ("prune: 30d", "prune[0]: expected a map of pattern, "),
            (
                "pruneConfig: {enabled: true}",
                "f.yaml:1: pruneConfig: an enabled rule needs type",
            ),
            (
                "pruneConfig: {enabled: true, type: accessed}",
                "pruneConfig: type accessed needs duration",
            ),
            (
                "pruneConfig: {enabled: true, type: created}",
                "pruneConfig: type created needs duration",
            ),
            (
                "pruneConfig: {enabled: true, type: pattern, duration: 1d}",
                "pruneConfig: type pattern needs expr",
            ),
            (
                "pruneConfig: {enabled: true, type: old}",
                "pruneConfig.type: \"old\": expected accessed, created or",
            ),
            (
                "pruneConfig: {enabled: true, type: created, duration: 1y}",
                "pruneConfig.duration: \"1y\": expected a",
            ),
            (
                "pruneConfig: {enabled: true, type: created, duration: 1d, count: 0}",
                "pruneConfig.count: \"0\": ",
            ),
            (
                "pruneConfig: {enabled: maybe}",
                "pruneConfig.enabled: \"maybe\": expected true",
            ),
            (
                "pruneConfig: {enabled: false, durations: 1d}",
                "unknown key; did you mean duration?",
            ),
            (
                "pruneConfig: {enabled: false, dryRun: true, dryrun: true}",
                "pruneConfig.dryrun: repeats",
            ),
        ] {
            let diagnostics = Machine::with_file(text).diagnostics();
            assert_eq!(diagnostics.len(), 1, "{text}: {diagnostics:#?}");
            assert!(diagnostics[0].contains(expected), "{text}: {diagnostics:#?}");
        }
        let many = "{keep_newest: 1}, ".repeat(PRUNE_RULES_MAX + 1);
        let diagnostics = Machine::with_file(&format!("prune: [{many}]")).diagnostics();
        assert!(diagnostics[0].contains("more than 64 rules"), "{diagnostics:?}");
    }
}
