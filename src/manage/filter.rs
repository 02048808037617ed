//! Selection of images by their references.

use regex::Regex;

use super::Image;

/// Regular expressions. An image is selected if one of them matches a part of its reference.
#[derive(Debug, Default)]
pub struct Filter(Vec<Regex>);

impl Filter {
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
        parsed.collect::<Result<_, _>>().map(Filter)
    }

    /// Returns whether there is no expression.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn selects(&self, image: &Image) -> bool {
        self.matches(&image.reference())
    }

    pub fn matches(&self, reference: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|expression| expression.is_match(reference))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manage::ImageKind;

    fn image(repository: &str, tag: &str) -> Image {
        Image {
            repository: repository.to_owned(),
            tag: Some(tag.to_owned()),
            digest: String::new(),
            kind: ImageKind::Image,
            created: None,
            used: 0,
            size: 0,
            platforms: Vec::new(),
            blobs: 0,
            missing_blobs: 0,
            missing_manifests: 0,
        }
    }

    #[test]
    fn expressions_match_any_part_of_the_reference() {
        let alpine = image("docker.io/library/alpine", "3.20");
        for (pattern, selected) in [
            ("", true),
            ("alpine", true),
            ("alpine:3\\.2", true),
            ("^docker.io/library/alpine:3.20$", true),
            ("nginx, alpine", true),
            ("nginx", false),
            ("^alpine", false),
        ] {
            assert_eq!(
                Filter::parse(pattern).unwrap().selects(&alpine),
                selected,
                "{pattern}"
            );
        }
    }

    #[test]
    fn invalid_expression_is_an_error_with_its_text() {
        let error = Filter::parse("alpine,(").unwrap_err();
        assert!(error.contains("\"(\""), "{error}");
    }
}
