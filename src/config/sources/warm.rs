//! `warm`: the rules that keep images in the store up to date.

use std::num::NonZeroUsize;

use super::super::model::units::parse_duration;
use super::super::model::{DailyWindow, ImagePattern, WarmRuleConfig};
use super::super::value::Kind;
use super::keys::WARM_RULE;
use super::reader::{Field, Fields, Reader, Spanned};
use crate::limits::{
    BUDGET_RESERVE_PERCENT, WARM_IMAGES_MAX, WARM_INTERVAL_DEFAULT, WARM_INTERVAL_MIN, WARM_RULES_MAX,
};
use crate::oci::Platforms;

impl Reader<'_> {
    /// Reads the rules of `warm`. After a diagnostic, the caller rejects the configuration.
    pub(super) fn warm(&mut self, field: Option<Field>) -> Vec<Spanned<WarmRuleConfig>> {
        let path = field.as_ref().map(|field| field.path.clone());
        let (Some(path), Some(maps)) = (path, self.maps(field, WARM_RULE, Some("pattern"))) else {
            return Vec::new();
        };
        if maps.value.len() > WARM_RULES_MAX {
            self.record_error_at(maps.line, &path, &format!("more than {WARM_RULES_MAX} rules"));
        }
        let rules = maps.value.into_iter();
        rules
            .filter_map(|(place, fields)| self.warm_rule(place, fields))
            .collect()
    }

    /// Reads a rule. `None` after a diagnostic.
    fn warm_rule(&mut self, place: Spanned<String>, mut fields: Fields) -> Option<Spanned<WarmRuleConfig>> {
        let before = self.diagnostics.len();
        let pattern = self.parsed(fields.take("pattern"), parse_pattern);
        if pattern.is_none() && self.diagnostics.len() == before {
            let why = "a rule needs pattern, such as alpine:3.20, redis:^7.2 or quay.io/team/*";
            self.record_error_at(place.line, &place.value, why);
        }
        let newest = self.parsed(fields.take("newest"), parse_newest);
        let platforms = self.platforms_of_rule(fields.take("platforms"));
        let every = self.parsed(fields.take("every"), |text| match parse_duration(text) {
            None => Err(format!("expected {}", Kind::Duration.expected())),
            Some(every) if every < WARM_INTERVAL_MIN => Err(format!(
                "expected at least {} s, because each run sends a request for each tag",
                WARM_INTERVAL_MIN.as_secs()
            )),
            Some(every) => Ok(every),
        });
        let window = self.parsed(fields.take("window"), |text| {
            DailyWindow::parse(text).ok_or_else(|| format!("expected {}", DailyWindow::EXPECTED))
        });
        let pin = self.switch(fields.take("pin")).is_some_and(|pin| pin.value);
        let reserve = self.parsed(fields.take("reserve"), parse_percent);
        let pattern = pattern?.value;
        if newest.is_some() && pattern.repository_of_tags().is_none() {
            let why = "newest needs a pattern of tags of one repository, such as redis:* or redis:^7.2";
            self.record_error_at(place.line, &place.value, why);
        }
        if newest.is_some() && pin {
            let why =
                "pin and newest exclude each other, because older versions would stay pinned; remove one";
            self.record_error_at(place.line, &place.value, why);
        }
        let rule = WarmRuleConfig {
            place: place.value.clone(),
            pattern,
            newest: newest.map(|newest| newest.value),
            platforms,
            every: every.map_or(WARM_INTERVAL_DEFAULT, |every| every.value),
            window: window.map(|window| window.value),
            pin,
            reserve_percent: reserve.map_or(BUDGET_RESERVE_PERCENT, |reserve| reserve.value),
        };
        Some(place.map(|_| rule))
    }

    /// Reads a list of platforms, or words in one value with commas.
    fn platforms_of_rule(&mut self, field: Option<Field>) -> Option<Platforms> {
        let path = field.as_ref()?.path.clone();
        let words = self.list(field, |text| Ok(text.to_owned()))?;
        let text = words.value.join(",");
        match Platforms::of_words(text.split(',').map(str::trim)) {
            Ok(platforms) => Some(platforms),
            Err(error) => {
                self.record_error_at(words.line, &path, &error.to_string());
                None
            }
        }
    }
}

fn parse_pattern(text: &str) -> Result<ImagePattern, String> {
    let pattern = ImagePattern::parse(text)?;
    if text.contains('@') {
        return Err("content of a digest never changes; expected a pattern of tags".to_owned());
    }
    Ok(pattern)
}

fn parse_newest(text: &str) -> Result<NonZeroUsize, String> {
    let newest = text.parse::<NonZeroUsize>().ok();
    newest
        .filter(|newest| newest.get() <= WARM_IMAGES_MAX)
        .ok_or_else(|| format!("expected {}", Kind::Count(WARM_IMAGES_MAX as u64).expected()))
}

fn parse_percent(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let percent = number.parse::<u64>().ok();
    percent
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| "expected a part of the request budget, from 0% to 100%".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::tests::Machine;

    fn rules(text: &str) -> Vec<WarmRuleConfig> {
        Machine::with_file(text).config().warm
    }

    #[test]
    fn rule_has_its_pattern_and_controls() {
        let text = "
warm:
  - {pattern: 'redis:^7.2', newest: 3, platforms: [linux/amd64, linux/arm64], every: 6h, window: '22:00-05:00', reserve: 50%}
  - {pattern: quay.io/team/*, platforms: 'linux/amd64,linux/arm64', pin: true, reserve: 0}
  - alpine:3.20
";
        let both = Some("linux/amd64,linux/arm64".parse().unwrap());
        let full = WarmRuleConfig {
            place: "warm[0]".into(),
            pattern: ImagePattern::parse("redis:^7.2").unwrap(),
            newest: NonZeroUsize::new(3),
            platforms: both.clone(),
            every: Duration::from_secs(6 * 3600),
            window: DailyWindow::parse("22:00-05:00"),
            pin: false,
            reserve_percent: 50,
        };
        let glob = WarmRuleConfig {
            place: "warm[1]".into(),
            pattern: ImagePattern::parse("quay.io/team/*").unwrap(),
            newest: None,
            platforms: both,
            every: Duration::from_secs(3600),
            window: None,
            pin: true,
            reserve_percent: 0,
        };
        let short = WarmRuleConfig {
            place: "warm[2]".into(),
            pattern: ImagePattern::parse("alpine:3.20").unwrap(),
            platforms: None,
            pin: false,
            reserve_percent: 30,
            ..glob.clone()
        };
        assert_eq!(rules(text), [full, glob, short]);
        assert_eq!(rules("warm: []"), []);
    }

    #[test]
    fn runs_of_a_range_and_of_the_newest_tags_list_the_tags_of_the_registry() {
        let text = "warm: ['redis:^7', {pattern: 'redis:7.*', newest: 1}, 'redis:7.*', redis, 'redis:7']";
        let lists: Vec<bool> = rules(text).iter().map(WarmRuleConfig::lists_tags).collect();
        assert_eq!(lists, [true, true, false, false, false]);
    }

    #[test]
    fn mistake_in_a_rule_is_a_diagnostic_with_its_remedy() {
        for (text, expected) in [
            ("[{}]", "f.yaml:1: warm[0]: a rule needs pattern, such as"),
            ("[{pattern: UPPER}]", "warm[0].pattern: \"UPPER\": "),
            ("['redis:^x']", "expected a range such as"),
            ("[{pattern: 'redis@*'}]", "expected a pattern of tags"),
            (
                "[{pattern: 'redis:*', newest: 0}]",
                "warm[0].newest: \"0\": expected a number from 1",
            ),
            (
                "[{pattern: redis, newest: 1}]",
                "warm[0]: newest needs a pattern of tags of one repository",
            ),
            (
                "[{pattern: 'r.example/*:v1', newest: 1}]",
                "warm[0]: newest needs a pattern of tags",
            ),
            (
                "[{pattern: 'redis:*', newest: 1, pin: true}]",
                "warm[0]: pin and newest exclude each other",
            ),
            (
                "[{pattern: redis, platforms: amd64}]",
                "warm[0].platforms: \"amd64\" is no list of platforms",
            ),
            (
                "[{pattern: redis, every: 1s}]",
                "warm[0].every: \"1s\": expected at least 10 s",
            ),
            (
                "[{pattern: redis, every: soon}]",
                "warm[0].every: \"soon\": expected a duration",
            ),
            (
                "[{pattern: redis, window: '2-5'}]",
                "warm[0].window: \"2-5\": expected two different times",
            ),
            (
                "[{pattern: redis, pin: maybe}]",
                "warm[0].pin: \"maybe\": expected true",
            ),
            (
                "[{pattern: redis, reserve: 101%}]",
                "warm[0].reserve: \"101%\": expected a part",
            ),
            (
                "[{pattern: redis, newst: 1}]",
                "unknown key; did you mean newest?",
            ),
            (
                "[{pattern: redis, something: 1}]",
                "unknown key; expected one of pattern, newest, platforms, every, window, pin, reserve",
            ),
        ] {
            let diagnostics = Machine::with_file(&format!("warm: {text}")).diagnostics();
            assert_eq!(diagnostics.len(), 1, "{text}: {diagnostics:#?}");
            assert!(diagnostics[0].contains(expected), "{text}: {diagnostics:#?}");
        }
        let many = "redis, ".repeat(WARM_RULES_MAX + 1);
        let diagnostics = Machine::with_file(&format!("warm: [{many}]")).diagnostics();
        assert!(diagnostics[0].contains("more than 64 rules"), "{diagnostics:?}");
    }
}
