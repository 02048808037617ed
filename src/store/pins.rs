//! Pins: images that no eviction and no prune removes.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::config::Glob;
use crate::limits::PINS_MAX;
use crate::oci::{Digest, ImageName, Namespace, Origin, Reference};

/// The pattern of a pin: a name of an image, or a name with `*`. `*` stays within a part of the
/// name, and `**` crosses parts. Without tag and digest, a pin holds the whole repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    text: String,
    matcher: Matcher,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Matcher {
    Exact(ImageName),
    Glob(Glob),
}

/// The reason why a pin was not added.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PinError {
    #[error("{0}")]
    Invalid(String),
    #[error(
        "there are {PINS_MAX} pins already; remove pins, or use a pattern such as registry.example/team/*"
    )]
    TooMany,
    #[error("the pins were not written: {0}; check the disk and its permissions")]
    NotWritten(String),
}

/// The pins of a store.
#[derive(Clone, Debug, Default)]
pub struct Pins(Vec<Pin>);

/// The file of the pins.
#[derive(Serialize, Deserialize)]
struct PinFile {
    pins: Vec<String>,
}

impl Pin {
    /// Parses a pattern. A name without a registry means Docker Hub.
    ///
    /// # Errors
    ///
    /// The text is no name of an image and no pattern.
    pub fn parse(text: &str) -> Result<Self, PinError> {
        if !text.contains('*') {
            let name: ImageName = text
                .parse()
                .map_err(|error| PinError::Invalid(format!("{error}")))?;
            return Ok(Pin {
                text: name.to_string(),
                matcher: Matcher::Exact(name),
            });
        }
        let text = completed(text);
        // A name without a tag holds every tag and digest.
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
        let glob =
            glob.map_err(|error| PinError::Invalid(format!("the pattern {text:?} is invalid: {error}")))?;
        Ok(Pin {
            text,
            matcher: Matcher::Glob(glob),
        })
    }

    /// Returns the pattern with its registry.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn holds(&self, origin: &Origin, tag: Option<&str>, digest: Option<&Digest>) -> bool {
        match &self.matcher {
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

impl Pins {
    /// Reads the file of the pins. `None` if the text is no such file.
    pub fn parse(json: &[u8]) -> Option<Self> {
        let file: PinFile = serde_json::from_slice(json).ok()?;
        let pins = file.pins.iter().map(|text| Pin::parse(text).ok());
        pins.collect::<Option<Vec<_>>>().map(Pins)
    }

    pub fn to_json(&self) -> Vec<u8> {
        let pins = self.0.iter().map(|pin| pin.text.clone()).collect();
        serde_json::to_vec_pretty(&PinFile { pins }).expect("pins are strings")
    }

    /// Adds a pin. Returns whether the pin is new.
    ///
    /// # Errors
    ///
    /// There are [`PINS_MAX`] pins.
    pub fn add(&mut self, pin: Pin) -> Result<bool, PinError> {
        if self.0.contains(&pin) {
            return Ok(false);
        }
        if self.0.len() >= PINS_MAX {
            return Err(PinError::TooMany);
        }
        self.0.push(pin);
        self.0.sort_by(|a, b| a.text.cmp(&b.text));
        Ok(true)
    }

    /// Removes a pin. Returns whether the pin existed.
    pub fn remove(&mut self, pin: &Pin) -> bool {
        let before = self.0.len();
        self.0.retain(|other| other != pin);
        self.0.len() < before
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the patterns, sorted.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|pin| pin.text.clone()).collect()
    }

    /// Returns a lookup for many images.
    pub fn matcher(&self) -> PinMatcher<'_> {
        let repositories = self.0.iter().filter_map(|pin| match &pin.matcher {
            Matcher::Exact(name) => Some(&name.origin),
            Matcher::Glob(_) => None,
        });
        PinMatcher {
            pins: self,
            repositories: repositories.collect(),
            has_globs: self.0.iter().any(|pin| matches!(pin.matcher, Matcher::Glob(_))),
        }
    }
}

/// Finds the pins of images. An image of a repository without a pin costs one lookup.
pub struct PinMatcher<'a> {
    pins: &'a Pins,
    repositories: HashSet<&'a Origin>,
    has_globs: bool,
}

impl PinMatcher<'_> {
    pub fn holds(&self, origin: &Origin, tag: Option<&str>, digest: Option<&Digest>) -> bool {
        let may_hold = self.has_globs || self.repositories.contains(origin);
        may_hold && self.pins.0.iter().any(|pin| pin.holds(origin, tag, digest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    fn holds(pattern: &str, image: &str) -> bool {
        let mut pins = Pins::default();
        pins.add(Pin::parse(pattern).unwrap()).unwrap();
        let ImageName { origin, reference } = image.parse().unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"manifest");
        let tag = match &reference {
            Some(Reference::Tag(tag)) => Some(tag.as_str()),
            _ => None,
        };
        pins.matcher().holds(&origin, tag, Some(&digest))
    }

    #[test]
    fn pin_holds_an_image_a_repository_or_a_pattern() {
        let digest = Digest::of(Algorithm::Sha256, b"manifest");
        for (pattern, held, other) in [
            ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.21"),
            ("quay.io/a/b", "quay.io/a/b:v1", "quay.io/a/c:v1"),
            (&format!("quay.io/a@{digest}"), "quay.io/a:v1", "quay.io/b:v1"),
            ("alpine:3.*", "alpine:3.20", "alpine:4"),
            ("quay.io/team/*", "quay.io/team/app:v1", "quay.io/team/a/b:v1"),
            ("quay.io/team/**", "quay.io/team/a/b:v1", "quay.io/teams/a:v1"),
            (
                "*/team/app:v*",
                "r.example/team/app:v1",
                "r.example/team/app:latest",
            ),
        ] {
            assert!(holds(pattern, held), "{pattern} {held}");
            assert!(!holds(pattern, other), "{pattern} {other}");
        }
    }

    #[test]
    fn pins_are_read_back_as_they_were_written() {
        let mut pins = Pins::default();
        for text in ["quay.io/team/*:v*", "alpine:3.20", "quay.io/a"] {
            assert_eq!(pins.add(Pin::parse(text).unwrap()), Ok(true));
        }
        assert_eq!(
            pins.add(Pin::parse("docker.io/library/alpine:3.20").unwrap()),
            Ok(false)
        );
        let read = Pins::parse(&pins.to_json()).unwrap();
        assert_eq!(read.texts(), pins.texts());
        assert_eq!(
            pins.texts(),
            ["docker.io/library/alpine:3.20", "quay.io/a", "quay.io/team/*:v*"]
        );
        assert!(pins.remove(&Pin::parse("alpine:3.20").unwrap()));
        assert!(!pins.remove(&Pin::parse("alpine:3.20").unwrap()));
        assert!(Pins::parse(b"{}").is_none() && Pins::parse(br#"{"pins": ["UPPER"]}"#).is_none());
    }

    #[test]
    fn number_of_pins_is_bounded() {
        let mut pins = Pins::default();
        for number in 0..PINS_MAX {
            // The sorted insertion of `add` would take a minute.
            pins.0.push(Pin::parse(&format!("a/b:{number}")).unwrap());
        }
        assert_eq!(pins.add(Pin::parse("a/b:new").unwrap()), Err(PinError::TooMany));
    }
}
