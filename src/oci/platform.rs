//! Platforms of images, and the selection of platforms in an index. Performs no I/O.

use std::fmt;
use std::str::FromStr;

use super::Child;
use crate::limits::PLATFORMS_MAX;

/// A platform: `os/architecture`, with a variant if present. In lower case.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// The platforms of an image that an operator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Platforms {
    All,
    /// Sorted, at least one, and at most [`PLATFORMS_MAX`] in one list.
    Some(Vec<Platform>),
}

/// The reason why a text is no platform, or no list of platforms.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{0:?} is no list of platforms; expected all, host, or at most {PLATFORMS_MAX} platforms such as linux/amd64,linux/arm64/v8"
)]
pub struct ParsePlatformsError(String);

/// The platform of this machine, as a word.
const HOST: &str = "host";
const ALL: &str = "all";

impl Platform {
    /// Returns the platform of this machine.
    pub fn host() -> Self {
        Platform {
            os: "linux".to_owned(),
            architecture: architecture(std::env::consts::ARCH).to_owned(),
            variant: None,
        }
    }

    /// Reads `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let mut parts = text.split('/');
        let (os, architecture_text) = (parts.next()?, parts.next()?);
        let variant = parts.next();
        let is_word = |part: &str| {
            let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            (1..=64).contains(&part.len()) && part.chars().all(is_allowed)
        };
        let is_valid = is_word(os) && is_word(architecture_text) && variant.is_none_or(is_word);
        (is_valid && parts.next().is_none()).then(|| Platform {
            os: os.to_owned(),
            architecture: architecture(architecture_text).to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// Returns whether a manifest for `other` runs on this platform. Without a variant here, every
    /// variant is right. A manifest without a variant is for the usual variant.
    pub fn accepts(&self, other: &Platform) -> bool {
        let is_same = self.os == other.os && self.architecture == other.architecture;
        is_same
            && self
                .variant
                .as_deref()
                .is_none_or(|wanted| other.usual_variant() == Some(wanted))
    }

    fn usual_variant(&self) -> Option<&str> {
        self.variant.as_deref().or(match self.architecture.as_str() {
            "arm64" => Some("v8"),
            "arm" => Some("v7"),
            "amd64" => Some("v1"),
            _ => None,
        })
    }
}

/// Returns the name of an architecture in the image specification.
fn architecture(name: &str) -> &str {
    match name {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        name => name,
    }
}

impl Platforms {
    /// Returns the platform of this machine.
    pub fn host() -> Self {
        Platforms::Some(vec![Platform::host()])
    }

    /// Returns the platforms of both.
    pub fn with(self, more: &Platforms) -> Self {
        match (self, more) {
            (Platforms::Some(mut all), Platforms::Some(more)) => {
                all.extend(more.iter().cloned());
                all.sort();
                all.dedup();
                Platforms::Some(all)
            }
            _ => Platforms::All,
        }
    }

    /// Returns for each of the children of an index whether it is selected. An index without platforms
    /// is selected whole.
    pub fn select<'a>(&self, children: impl Iterator<Item = Option<&'a Platform>> + Clone) -> Vec<bool> {
        let wanted = match self {
            Platforms::All => return children.map(|_| true).collect(),
            Platforms::Some(wanted) => wanted,
        };
        let has_platforms = children.clone().any(|platform| platform.is_some());
        let is_wanted = |platform: &Platform| wanted.iter().any(|wanted| wanted.accepts(platform));
        children
            .map(|platform| platform.map_or(!has_platforms, is_wanted))
            .collect()
    }

    /// Returns the selected children of an index.
    pub fn children<'a>(&self, children: &'a [Child]) -> Vec<&'a Child> {
        let platforms: Vec<Option<Platform>> = children
            .iter()
            .map(|child| child.platform.as_deref().and_then(Platform::parse))
            .collect();
        let selected = self.select(platforms.iter().map(Option::as_ref));
        let selected = children.iter().zip(selected).filter(|(_, selected)| *selected);
        selected.map(|(child, _)| child).collect()
    }

    /// Returns the platforms as words, for requests and files.
    pub fn words(&self) -> Vec<String> {
        match self {
            Platforms::All => vec![ALL.to_owned()],
            Platforms::Some(platforms) => platforms.iter().map(Platform::to_string).collect(),
        }
    }

    /// Reads a list of words.
    ///
    /// # Errors
    ///
    /// A word is no platform, or the list is empty or too long.
    pub fn of_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, ParsePlatformsError> {
        let mut platforms = Vec::new();
        for word in words {
            match word.trim() {
                ALL => return Ok(Platforms::All),
                HOST => platforms.push(Platform::host()),
                word => {
                    let parsed = Platform::parse(word);
                    platforms.push(parsed.ok_or_else(|| ParsePlatformsError(word.to_owned()))?);
                }
            }
        }
        platforms.sort();
        platforms.dedup();
        match (1..=PLATFORMS_MAX).contains(&platforms.len()) {
            true => Ok(Platforms::Some(platforms)),
            false => Err(ParsePlatformsError(format!("{} platforms", platforms.len()))),
        }
    }
}

impl FromStr for Platforms {
    type Err = ParsePlatformsError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::of_words(text.split(','))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Platforms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        Platform::parse(text).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn platform_accepts_its_variants_and_the_usual_variant() {
        for (wanted, offered, accepts) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/x86_64", "linux/amd64", true),
            ("Linux/AMD64", "linux/amd64", true),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "linux/arm64", false),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm/v6", "linux/arm", false),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm", "linux/arm/v5", true),
            ("linux/amd64/v3", "linux/amd64", false),
        ] {
            assert_eq!(
                platform(wanted).accepts(&platform(offered)),
                accepts,
                "{wanted} {offered}"
            );
        }
    }

    #[test]
    fn selection_leaves_out_other_platforms_and_attestations() {
        let (amd64, arm64) = (platform("linux/amd64"), platform("linux/arm64/v8"));
        let index = [Some(&amd64), Some(&arm64), None];
        let select = |text: &str| text.parse::<Platforms>().unwrap().select(index.into_iter());
        assert_eq!(select("linux/amd64"), [true, false, false]);
        assert_eq!(select("linux/arm64,linux/amd64"), [true, true, false]);
        assert_eq!(select("all"), [true, true, true]);
        assert_eq!(select("windows/amd64"), [false, false, false]);
        // An index of artifacts.
        let artifacts = [None, None];
        assert_eq!(Platforms::host().select(artifacts.into_iter()), [true, true]);
    }

    #[test]
    fn list_is_printed_as_it_is_parsed() {
        for (text, printed) in [
            ("linux/arm64/v8, linux/amd64", "linux/amd64,linux/arm64/v8"),
            ("linux/amd64,all", "all"),
            ("linux/aarch64,linux/arm64", "linux/arm64"),
        ] {
            let parsed: Platforms = text.parse().unwrap();
            assert_eq!(parsed.to_string(), printed);
            assert_eq!(printed.parse(), Ok(parsed));
        }
        assert_eq!("host".parse(), Ok(Platforms::host()));
        let many: Vec<String> = (0..=PLATFORMS_MAX).map(|n| format!("linux/a{n}")).collect();
        for bad in [
            "",
            "linux",
            "linux/",
            "/amd64",
            "linux/a/b/c",
            "linux/a b",
            &many.join(","),
        ] {
            assert!(bad.parse::<Platforms>().is_err(), "{bad}");
        }
    }
}
