//! Rules for the freshness of tags.

use std::time::Duration;

use regex::Regex;

use crate::oci::Tag;

/// A rule for the tags of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRule {
    pub pattern: TagPattern,
    pub freshness: TagFreshness,
    /// Whether a tag that the upstream has deleted is still served.
    pub keep_on_404: bool,
}

/// The time for which a tag is fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagFreshness {
    For(Duration),
    /// Each request revalidates the tag.
    AlwaysAsk,
    /// A known tag is never revalidated.
    NeverAsk,
}

/// `*` and `?` as in a shell, or a regular expression between slashes (`/^v[0-9]+$/`) that may match anywhere.
#[derive(Clone)]
pub struct TagPattern {
    text: String,
    regex: Regex,
}

/// The largest compiled pattern, in bytes. Operators write patterns, so the limit only catches errors.
const COMPILED_BYTES_MAX: usize = 1024 * 1024;

impl TagPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// Returns the error of the expression, in one line.
    pub fn new(text: &str) -> Result<Self, String> {
        let expression = match text.strip_prefix('/').and_then(|rest| rest.strip_suffix('/')) {
            Some(expression) => expression.to_owned(),
            None => shell_expression(text),
        };
        let regex = regex::RegexBuilder::new(&expression)
            .size_limit(COMPILED_BYTES_MAX)
            .build()
            .map_err(|error| {
                error
                    .to_string()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim()
                    .to_owned()
            })?;
        Ok(TagPattern {
            text: text.to_owned(),
            regex,
        })
    }

    /// Returns whether the pattern matches `tag`.
    pub fn matches(&self, tag: &Tag) -> bool {
        self.regex.is_match(tag.as_str())
    }

    /// Returns the pattern as written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

fn shell_expression(text: &str) -> String {
    let mut expression = String::from("^");
    for c in text.chars() {
        match c {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
        }
    }
    expression.push('$');
    expression
}

impl PartialEq for TagPattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TagPattern {}

impl std::fmt::Debug for TagPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_patterns_are_globs_or_regular_expressions() {
        let matches =
            |pattern: &str, tag: &str| TagPattern::new(pattern).unwrap().matches(&tag.parse().unwrap());
        assert!(matches("latest", "latest"));
        assert!(!matches("latest", "latest-1"));
        assert!(matches("v*", "v1.2"));
        assert!(!matches("v*", "av1.2"));
        assert!(matches("1.?", "1.2"));
        assert!(!matches("1.?", "102"));
        assert!(matches("/^v[0-9]+$/", "v12"));
        assert!(!matches("/^v[0-9]+$/", "v12a"));
        assert!(matches("/rc/", "1.0-rc1"));
        assert!(TagPattern::new("/(/").is_err());
    }
}
