//! A verification as an operator writes it, on the command line or as JSON.

use serde::{Deserialize, Serialize};

use crate::config::ImageFilter;
use crate::limits::VERIFY_RATE_DEFAULT;
use crate::oci::ImageName;

/// The images to verify, and the manner. Without a condition, the whole store is verified.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct VerifyRequest {
    /// The image: `[registry/]repository[:tag][@digest]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Regular expressions, separated by commas. One must match a part of the reference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// Bytes per second. 0 means no bound. `None` means [`VERIFY_RATE_DEFAULT`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Whether damaged objects stay.
    pub dry_run: bool,
}

/// A parsed [`VerifyRequest`].
#[derive(Debug)]
pub struct VerifyRule {
    pub(super) image: Option<ImageName>,
    pub(super) filter: ImageFilter,
    pub(super) rate: u64,
    pub(super) dry_run: bool,
}

impl VerifyRequest {
    /// Parses the conditions.
    ///
    /// # Errors
    ///
    /// A condition is invalid. The message has the remedy.
    pub fn rule(&self) -> Result<VerifyRule, String> {
        let image = self.image.as_ref().map(|image| image.parse::<ImageName>());
        Ok(VerifyRule {
            image: image.transpose().map_err(|error| error.to_string())?,
            filter: ImageFilter::parse(self.pattern.as_deref().unwrap_or_default())?,
            rate: self.rate.unwrap_or(VERIFY_RATE_DEFAULT),
            dry_run: self.dry_run,
        })
    }

    /// Returns whether the request has a condition.
    pub fn is_selective(&self) -> bool {
        self.image.is_some() || self.pattern.as_ref().is_some_and(|pattern| !pattern.is_empty())
    }

    /// Returns a text of the conditions, for the log.
    pub fn selector(&self) -> String {
        let conditions = [self.image.as_deref(), self.pattern.as_deref()];
        let conditions: Vec<&str> = conditions.into_iter().flatten().collect();
        match conditions[..] {
            [] => "all".to_owned(),
            _ => conditions.join(" "),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_parsed_and_mistakes_are_named() {
        let parse = |json: &str| {
            let request: VerifyRequest = serde_json::from_str(json).map_err(|error| error.to_string())?;
            request.rule()
        };
        let rule = parse("{}").unwrap();
        assert!(rule.image.is_none() && rule.filter.is_empty() && !rule.dry_run);
        assert_eq!(rule.rate, VERIFY_RATE_DEFAULT);
        let rule = parse(r#"{"image": "a:1", "rate": 0, "dryRun": true}"#).unwrap();
        assert!(rule.image.is_some() && rule.dry_run);
        assert_eq!(rule.rate, 0);
        for (json, part) in [
            (r#"{"image": "UPPER"}"#, "[registry/]repository"),
            (r#"{"pattern": "("}"#, "regular expression"),
            (r#"{"rate": -1}"#, "invalid value"),
            (r#"{"images": "a"}"#, "unknown field"),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(part), "{json}: {error}");
        }
    }

    #[test]
    fn selector_of_the_log_names_the_conditions() {
        let mut request = VerifyRequest::default();
        assert_eq!(
            (request.selector(), request.is_selective()),
            ("all".to_owned(), false)
        );
        request.image = Some("a:1".to_owned());
        request.pattern = Some("b".to_owned());
        assert_eq!(
            (request.selector(), request.is_selective()),
            ("a:1 b".to_owned(), true)
        );
    }
}
