//! Pins: images that no eviction and no prune removes.

mod file;

use std::collections::HashSet;
use std::fmt;

use crate::config::ImagePattern;
use crate::limits::PINS_MAX;
use crate::oci::{Digest, ImageName, Origin, Platforms, Reference};

/// The pattern of a pin, and the platforms that the pin holds. Without tag and digest, a pin holds the whole
/// repository.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pin {
    pattern: ImagePattern,
    platforms: Platforms,
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

impl Pin {
    /// Parses a pattern, for all platforms. A name without a registry means Docker Hub.
    ///
    /// # Errors
    ///
    /// The text is no name of an image and no pattern.
    pub fn parse(text: &str) -> Result<Self, PinError> {
        ImagePattern::parse(text).map(Pin::of).map_err(PinError::Invalid)
    }

    /// Returns the pin of a pattern, for all platforms.
    pub fn of(pattern: ImagePattern) -> Self {
        Pin {
            pattern,
            platforms: Platforms::All,
        }
    }

    /// Returns the pin for these platforms of an index only.
    pub fn for_platforms(self, platforms: Platforms) -> Self {
        Pin { platforms, ..self }
    }

    pub fn pattern(&self) -> &ImagePattern {
        &self.pattern
    }

    pub fn platforms(&self) -> &Platforms {
        &self.platforms
    }

    /// Returns the image of a pin for one tag or digest.
    pub fn image(&self) -> Option<&ImageName> {
        self.pattern.image()
    }

    /// Returns the pattern with its registry.
    pub fn as_str(&self) -> &str {
        self.pattern.as_str()
    }

    /// Returns the repository of a pin for some tags of one repository: by a range of versions, or by a
    /// pattern of tags.
    pub fn repository_of_tags(&self) -> Option<Origin> {
        self.pattern.repository_of_tags()
    }

    fn holds(&self, origin: &Origin, tag: Option<&str>, digest: Option<&Digest>) -> bool {
        // A manifest without a tag may belong to another platform of a pinned index.
        let may_hold = !self.is_limited() || tag.is_some() || self.is_by_digest();
        may_hold && self.pattern.holds(origin, tag, digest)
    }

    fn is_limited(&self) -> bool {
        self.platforms != Platforms::All
    }

    fn is_by_digest(&self) -> bool {
        let name = self.image();
        name.is_some_and(|name| matches!(name.reference, Some(Reference::Digest(_))))
    }
}

impl fmt::Display for Pin {
    /// Writes the pattern, with the platforms if there are some.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_limited() {
            true => write!(f, "{} ({})", self.as_str(), self.platforms),
            false => f.write_str(self.as_str()),
        }
    }
}

impl Pins {
    /// Returns a list of one pin.
    pub fn of(pin: Pin) -> Self {
        Pins(vec![pin])
    }

    /// Adds a pin, or replaces the platforms of the pin with this pattern. Returns whether the pins have
    /// changed.
    ///
    /// # Errors
    ///
    /// There are [`PINS_MAX`] pins.
    pub fn add(&mut self, pin: Pin) -> Result<bool, PinError> {
        if self.0.contains(&pin) {
            return Ok(false);
        }
        if let Some(known) = self.0.iter_mut().find(|known| known.as_str() == pin.as_str()) {
            *known = pin;
            return Ok(true);
        }
        if self.0.len() >= PINS_MAX {
            return Err(PinError::TooMany);
        }
        self.0.push(pin);
        self.0.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Ok(true)
    }

    /// Removes the pin with the pattern of `pin`. Returns whether the pin existed.
    pub fn remove(&mut self, pin: &Pin) -> bool {
        let before = self.0.len();
        self.0.retain(|other| other.as_str() != pin.as_str());
        self.0.len() < before
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Pin> {
        self.0.iter()
    }

    /// Returns the patterns, sorted.
    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|pin| pin.as_str().to_owned()).collect()
    }

    /// Returns a lookup for many images.
    pub fn matcher(&self) -> PinMatcher<'_> {
        let repositories = self.0.iter().filter_map(|pin| pin.pattern.repository());
        PinMatcher {
            pins: self,
            repositories: repositories.collect(),
            has_globs: self.0.iter().any(|pin| pin.pattern.is_glob()),
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

    /// Returns the platforms that the pins of an image hold together. `None` if no pin holds the image.
    pub fn platforms_of(
        &self,
        origin: &Origin,
        tag: Option<&str>,
        digest: Option<&Digest>,
    ) -> Option<Platforms> {
        let may_hold = self.has_globs || self.repositories.contains(origin);
        let pins = self.pins.0.iter().filter(|_| may_hold);
        let mut held = pins
            .filter(|pin| pin.holds(origin, tag, digest))
            .map(|pin| &pin.platforms);
        let first = held.next()?.clone();
        Some(held.fold(first, |all, more| all.with(more)))
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
    fn pins_are_sorted_and_each_exists_once() {
        let mut pins = Pins::default();
        for text in ["quay.io/team/*:v*", "alpine:3.20", "quay.io/a"] {
            assert_eq!(pins.add(Pin::parse(text).unwrap()), Ok(true));
        }
        assert_eq!(
            pins.add(Pin::parse("docker.io/library/alpine:3.20").unwrap()),
            Ok(false)
        );
        assert_eq!(
            pins.texts(),
            ["docker.io/library/alpine:3.20", "quay.io/a", "quay.io/team/*:v*"]
        );
        assert!(pins.remove(&Pin::parse("alpine:3.20").unwrap()));
        assert!(!pins.remove(&Pin::parse("alpine:3.20").unwrap()));
    }

    #[test]
    fn range_holds_the_tags_that_are_versions_in_it() {
        for (pattern, held, other) in [
            ("redis:^7.2", "redis:7.4.1", "redis:8.0.0"),
            ("redis:^7.2", "redis:7.2", "redis:7.1.9"),
            ("redis:^7.2", "redis:v7.9.0", "redis:7.4.1-alpine"),
            ("redis:~7.2", "redis:7.2.9", "redis:7.3.0"),
            ("redis:>=7,<8", "redis:7", "redis:latest"),
            ("redis:>=7, <8", "redis:7.99.1", "library/other:7.1.0"),
            (
                "quay.io:443/a/b:=1.2.3-rc.1",
                "quay.io:443/a/b:1.2.3-rc.1",
                "quay.io:443/a/b:1.2.3",
            ),
        ] {
            assert!(holds(pattern, held), "{pattern} {held}");
            assert!(!holds(pattern, other), "{pattern} {other}");
            let pin = Pin::parse(pattern).unwrap();
            assert_eq!(Pin::parse(pin.as_str()), Ok(pin.clone()), "{}", pin.as_str());
        }
        for bad in ["redis:^x", "redis:>", "UPPER:^1", "redis:^7@sha256:0"] {
            assert!(Pin::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn platforms_of_several_pins_add_up() {
        let pin = |text: &str, platforms: &str| {
            Pin::parse(text)
                .unwrap()
                .for_platforms(platforms.parse().unwrap())
        };
        let mut pins = Pins::default();
        for (text, platforms) in [
            ("alpine:3", "linux/amd64"),
            ("alpine:*", "linux/arm64"),
            ("redis", "linux/amd64"),
            ("redis:7", "all"),
        ] {
            assert_eq!(pins.add(pin(text, platforms)), Ok(true));
        }
        let digest = Digest::of(Algorithm::Sha256, b"manifest");
        let held = |image: &str| {
            let ImageName { origin, reference } = image.parse().unwrap();
            let tag = reference.map(|reference| reference.to_string());
            let platforms = pins
                .matcher()
                .platforms_of(&origin, tag.as_deref(), Some(&digest));
            platforms.map(|platforms| platforms.to_string())
        };
        assert_eq!(held("alpine:3").as_deref(), Some("linux/amd64,linux/arm64"));
        assert_eq!(held("alpine:2").as_deref(), Some("linux/arm64"));
        assert_eq!(held("redis:7").as_deref(), Some("all"));
        assert_eq!(held("redis:6").as_deref(), Some("linux/amd64"));
        // The manifest of a platform has no tag.
        assert_eq!(held("redis"), None);
        assert_eq!(held("busybox:1"), None);
        // Another set of platforms replaces the first.
        assert_eq!(pins.add(pin("alpine:3", "linux/amd64")), Ok(false));
        assert_eq!(pins.add(pin("alpine:3", "all")), Ok(true));
        assert_eq!(pins.iter().count(), 4);
        assert!(pins.remove(&Pin::parse("alpine:3").unwrap()));
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
