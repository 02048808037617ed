//! The options of an import.

use crate::oci::{ImageName, Reference};

/// The options of an import.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ImportRule {
    /// Whether each client may read the content without a check by its registry.
    pub is_public: bool,
    /// Whether the archive is only read and hashed.
    pub is_dry_run: bool,
    /// The name of the only image of the archive.
    pub name: Option<ImageName>,
}

impl ImportRule {
    /// Creates the options. A name without a tag and a digest gets the tag `latest`.
    ///
    /// # Errors
    ///
    /// `name` is no name of an image.
    pub fn new(is_public: bool, is_dry_run: bool, name: Option<&str>) -> Result<Self, String> {
        let name = name.map(|text| text.parse().map(with_tag).map_err(|error| format!("{error}")));
        Ok(ImportRule {
            is_public,
            is_dry_run,
            name: name.transpose()?,
        })
    }
}

/// Returns the name of an image that an archive names `text`. `None` for a tag alone.
pub(super) fn name_in_archive(text: &str) -> Option<ImageName> {
    let is_name = text.contains(['/', ':', '@']);
    let name = is_name.then(|| text.parse().ok()).flatten();
    name.map(with_tag)
}

fn with_tag(name: ImageName) -> ImageName {
    let latest = || Reference::Tag("latest".parse().expect("latest is a valid tag"));
    ImageName {
        reference: Some(name.reference.unwrap_or_else(latest)),
        ..name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_in_an_archive_has_a_repository() {
        for (text, expected) in [
            (
                "docker.io/library/alpine:3.20",
                Some("docker.io/library/alpine:3.20"),
            ),
            ("alpine:3.20", Some("docker.io/library/alpine:3.20")),
            ("library/alpine", Some("docker.io/library/alpine:latest")),
            ("localhost/app:1", Some("localhost/app:1")),
            ("3.20", None),
            ("latest", None),
            ("", None),
            ("UPPER/x:1", None),
            ("../../etc:1", None),
        ] {
            let name = name_in_archive(text).map(|name| name.to_string());
            assert_eq!(name.as_deref(), expected, "{text}");
        }
    }
}
