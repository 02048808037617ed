//! A prune as an operator writes it, on the command line or as JSON.

use serde::{Deserialize, Serialize};

use super::PruneRule;
use crate::calendar::unix_seconds_of;
use crate::config::{ImageFilter, parse_duration};
use crate::store::RemovalLimits;

/// The conditions of a prune. All of them must hold for an image.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PruneRequest {
    /// Regular expressions, separated by commas. One must match a part of the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Stored before this time: `YYYY-MM-DDTHH:MM:SS` in UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    /// Stored longer ago, such as `30d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than: Option<String>,
    /// Unused for this time, such as `7d`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unused_for: Option<String>,
    /// The tags of each repository that stay.
    pub keep_newest: usize,
    /// Whether a request without a condition selects every image.
    pub all: bool,
}

impl PruneRequest {
    /// Parses the conditions.
    ///
    /// # Errors
    ///
    /// A condition is invalid, or there is none. The message has the remedy.
    pub fn rule(&self) -> Result<PruneRule, String> {
        let duration = |name: &str, text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => match parse_duration(text) {
                Some(duration) => Ok(Some(duration)),
                None => Err(format!(
                    "{name} {text:?} is no duration; expected a value such as 12h or 30d"
                )),
            },
        };
        let older_than = duration("older-than", &self.older_than)?;
        let unused_for = duration("unused-for", &self.unused_for)?;
        let before = match &self.before {
            None => None,
            Some(text) => Some(unix_seconds_of(text).ok_or_else(|| {
                format!("the time {text:?} is invalid; expected YYYY-MM-DDTHH:MM:SS in UTC")
            })?),
        };
        let now = crate::store::Minute::now().unix_seconds();
        let older_than = older_than.map(|age| now.saturating_sub(age.as_secs()));
        let filter = ImageFilter::parse(self.pattern.as_deref().unwrap_or_default())?;
        let stored_before = match (before, older_than) {
            (Some(before), Some(older)) => Some(before.min(older)),
            (before, older) => before.or(older),
        };
        let has_condition =
            !filter.is_empty() || stored_before.is_some() || unused_for.is_some() || self.keep_newest > 0;
        if !has_condition && !self.all {
            return Err(
                "no condition selects the images; give a pattern, a time or an age, or set all".to_owned(),
            );
        }
        Ok(PruneRule {
            filter,
            stored_before,
            unused_for,
            keep_newest: self.keep_newest,
            limits: RemovalLimits::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn request_needs_a_condition_or_the_word_all() {
        let error = PruneRequest::default().rule().unwrap_err();
        assert!(error.contains("set all"), "{error}");
        let all = PruneRequest {
            all: true,
            ..PruneRequest::default()
        };
        assert!(all.rule().is_ok());
    }

    #[test]
    fn conditions_are_parsed_and_mistakes_are_named() {
        let parse = |json: &str| {
            let request: PruneRequest = serde_json::from_str(json).map_err(|error| error.to_string())?;
            request.rule()
        };
        let rule = parse(r#"{"before": "1970-01-02T00:00:00", "unusedFor": "7d", "keepNewest": 3}"#).unwrap();
        assert_eq!(rule.stored_before, Some(86_400));
        assert_eq!(rule.unused_for, Some(Duration::from_secs(7 * 86_400)));
        assert_eq!(rule.keep_newest, 3);
        for (json, part) in [
            (r#"{"before": "yesterday"}"#, "YYYY-MM-DD"),
            (r#"{"unusedFor": "7w"}"#, "30d"),
            (r#"{"olderThan": ""}"#, "30d"),
            (r#"{"pattern": "("}"#, "regular expression"),
            (r#"{"paths": "a"}"#, "unknown field"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }
}
