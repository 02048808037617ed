//! Selection of images by their references.

use regex::Regex;

/// Regular expressions. An image is selected if one of them matches a part of its reference.
#[derive(Clone, Debug, Default)]
pub struct ImageFilter(Vec<Regex>);

impl ImageFilter {
    /// Parses expressions, separated by commas. No expression selects every image.
    ///
    /// # Errors
    ///
    /// An expression is invalid. The message shows the place.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expressions = text.split(',').map(str::trim).filter(|text| !text.is_empty());
        let parsed = expressions.map(|text| {
            Regex::new(text)
                .map_err(|error| format!("the pattern {text:?} is no regular expression: {error}"))
        });
        parsed.collect::<Result<_, _>>().map(ImageFilter)
    }

    /// Returns whether there is no expression.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, reference: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|expression| expression.is_match(reference))
    }

    /// Returns the expressions as written, separated by commas.
    pub fn text(&self) -> String {
        self.0.iter().map(Regex::as_str).collect::<Vec<_>>().join(",")
    }
}

impl PartialEq for ImageFilter {
    fn eq(&self, other: &Self) -> bool {
        self.text() == other.text()
    }
}

impl Eq for ImageFilter {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_match_any_part_of_the_reference() {
        for (pattern, selected) in [
            ("", true),
            ("alpine", true),
            ("alpine:3\\.2", true),
            ("^docker.io/library/alpine:3.20$", true),
            ("nginx, alpine", true),
            ("nginx", false),
            ("^alpine", false),
        ] {
            let filter = ImageFilter::parse(pattern).unwrap();
            assert_eq!(
                filter.matches("docker.io/library/alpine:3.20"),
                selected,
                "{pattern}"
            );
        }
    }

    #[test]
    fn invalid_expression_is_an_error_with_its_text() {
        let error = ImageFilter::parse("alpine,(").unwrap_err();
        assert!(error.contains("\"(\""), "{error}");
    }
}
