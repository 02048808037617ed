//! Patterns of names of images: a name, a name with `*`, or a repository with a range of versions.

use semver::VersionReq;

use super::Glob;
use super::version::{self, TagVersion};
use crate::oci::{Digest, ImageName, Namespace, Origin, Reference, Tag};

/// A pattern of images: a name of an image, a name with `*`, or a repository with a range of versions
/// such as `redis:^7.2`. `*` stays within a part of the name, and `**` crosses parts. A pattern without tag
/// and digest selects the whole repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImagePattern {
    text: String,
    matcher: Matcher,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Matcher {
    Exact(ImageName),
    Glob(Glob),
    /// The tags of a repository that are versions in a range.
    Range(Origin, VersionReq),
}

impl ImagePattern {
    /// Parses a pattern. A name without a registry means Docker Hub.
    ///
    /// # Errors
    ///
    /// The text is no name of an image and no pattern.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some((repository, range)) = version::split_range(text) {
            return Self::parse_range(text, repository, range);
        }
        if !text.contains('*') {
            let name: ImageName = text.parse().map_err(|error| format!("{error}"))?;
            return Ok(ImagePattern {
                text: name.to_string(),
                matcher: Matcher::Exact(name),
            });
        }
        let text = completed(text);
        // A name without a tag selects every tag and digest.
        let has_reference = text
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains([':', '@']));
        let pattern = if has_reference {
            text.clone()
        } else {
            format!("{text}:**")
        };
        let glob = Glob::new(&pattern, Some('/'));
        let glob = glob.map_err(|error| format!("the pattern {text:?} is invalid: {error}"))?;
        Ok(ImagePattern {
            text,
            matcher: Matcher::Glob(glob),
        })
    }

    fn parse_range(text: &str, repository: &str, range: &str) -> Result<Self, String> {
        let name: ImageName = repository.parse().map_err(|error| format!("{error}"))?;
        let range: VersionReq = range.parse().map_err(|error| {
            format!(
                "the range of versions in {text:?} is invalid: {error}; expected a range such as redis:^7.2 or redis:>=7,<8"
            )
        })?;
        Ok(ImagePattern {
            text: format!("{}/{}:{range}", name.origin.namespace, name.origin.repository).replace(' ', ""),
            matcher: Matcher::Range(name.origin, range),
        })
    }

    /// Returns the image of a pattern for one tag or digest.
    pub fn image(&self) -> Option<&ImageName> {
        match &self.matcher {
            Matcher::Exact(name) => name.reference.as_ref().map(|_| name),
            Matcher::Glob(_) | Matcher::Range(..) => None,
        }
    }

    /// Returns the pattern with its registry.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn is_range(&self) -> bool {
        matches!(self.matcher, Matcher::Range(..))
    }

    pub fn is_glob(&self) -> bool {
        matches!(self.matcher, Matcher::Glob(_))
    }

    /// Returns the repository of a pattern for some tags of one repository: by a range of versions, or by
    /// a pattern of tags.
    pub fn repository_of_tags(&self) -> Option<Origin> {
        match &self.matcher {
            Matcher::Exact(_) => None,
            Matcher::Range(origin, _) => Some(origin.clone()),
            Matcher::Glob(_) => {
                let (repository, tag) = self.text.rsplit_once(':')?;
                let is_tag = !tag.contains(['/', '@']);
                let name: Option<ImageName> = repository.parse().ok().filter(|_| is_tag);
                name.map(|name| name.origin)
            }
        }
    }

    /// Returns the repository of a pattern for one repository.
    pub fn repository(&self) -> Option<&Origin> {
        match &self.matcher {
            Matcher::Exact(name) => Some(&name.origin),
            Matcher::Range(origin, _) => Some(origin),
            Matcher::Glob(_) => None,
        }
    }

    /// Returns whether the pattern selects the image `origin:tag`.
    pub fn holds_tag(&self, origin: &Origin, tag: &Tag) -> bool {
        self.holds(origin, Some(tag.as_str()), None)
    }

    /// Returns whether the pattern selects the manifest with this tag and digest.
    pub fn holds(&self, origin: &Origin, tag: Option<&str>, digest: Option<&Digest>) -> bool {
        match &self.matcher {
            Matcher::Range(repository, range) => {
                repository == origin && tag.is_some_and(|tag| version::is_in(range, tag))
            }
            Matcher::Exact(name) => {
                name.origin == *origin
                    && match &name.reference {
                        None => true,
                        Some(Reference::Tag(wanted)) => tag == Some(wanted.as_str()),
                        Some(Reference::Digest(wanted)) => digest == Some(wanted),
                    }
            }
            // A manifest without a tag has the digest in the place of the tag.
            Matcher::Glob(glob) => {
                let reference = match (tag, digest) {
                    (Some(tag), _) => tag.to_owned(),
                    (None, Some(digest)) => digest.to_string(),
                    (None, None) => return false,
                };
                let name = format!("{}/{}", origin.namespace, origin.repository);
                glob.matches(&format!("{name}:{reference}"))
            }
        }
    }
}

/// Adds the registry and the prefix of Docker Hub to a pattern without them.
fn completed(pattern: &str) -> String {
    match pattern.split_once('/') {
        Some((first, _)) if Namespace::looks_like(first) || first.contains('*') => pattern.to_owned(),
        Some(_) => format!("docker.io/{pattern}"),
        None => format!("docker.io/library/{pattern}"),
    }
}

/// Leaves the `count` tags with the highest versions in `tags`, the highest first. Removes tags that do not
/// begin with a version.
pub fn retain_newest(tags: &mut Vec<Tag>, count: usize) {
    let mut versions: Vec<(TagVersion, Tag)> = tags
        .drain(..)
        .filter_map(|tag| Some((TagVersion::of(tag.as_str())?, tag)))
        .collect();
    versions.sort_by(|a, b| b.cmp(a));
    tags.extend(versions.into_iter().map(|(_, tag)| tag).take(count));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_tags_have_the_highest_versions_and_a_version_without_suffix_is_the_newest_of_its_number() {
        for (tags, count, newest) in [
            (&["1.9", "1.10", "1.2"][..], 2, &["1.10", "1.9"][..]),
            (&["7.4.1-alpine", "7.4.1", "7.3"], 2, &["7.4.1", "7.4.1-alpine"]),
            (
                &["v2.0.0-rc.2", "v1.9.9", "v2.0.0-rc.10"],
                2,
                &["v2.0.0-rc.10", "v2.0.0-rc.2"],
            ),
            (&["latest", "edge", "3"], 5, &["3"]),
            (&["20240101", "20231231"], 1, &["20240101"]),
            (&["1", "2"], 0, &[]),
        ] {
            let mut given: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
            retain_newest(&mut given, count);
            let left: Vec<&str> = given.iter().map(Tag::as_str).collect();
            assert_eq!(left, newest, "{tags:?}");
        }
    }
}
