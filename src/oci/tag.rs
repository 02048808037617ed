//! Tags: mutable, case-sensitive names of manifests inside a repository.

use std::fmt;
use std::str::FromStr;

use crate::oci::Digest;

const TAG_BYTES_MAX: usize = 128;

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`. Safe as a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Box<str>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("invalid tag; expected 1 to 128 letters, digits, `_`, `.` and `-`, without `.` or `-` at the start")]
pub struct ParseTagError;

impl Tag {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_valid(text: &str) -> bool {
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        !text.is_empty()
            && text.len() <= TAG_BYTES_MAX
            && !text.starts_with(['.', '-'])
            && text.bytes().all(ok)
    }

    pub fn is_latest(&self) -> bool {
        &*self.0 == "latest"
    }

    /// Returns whether the tag is derived from a digest. Covers the referrers tag schema
    /// (distribution-spec, `sha256-<hex>`), and the `.sig`, `.att` and `.sbom` tags of cosign.
    /// Unlike a digest, the tag is mutable.
    pub fn is_derived(&self) -> bool {
        self.digest_parts().is_some()
    }

    /// Returns the digest from which the tag is derived, if the tag contains the whole digest.
    pub fn subject(&self) -> Option<Digest> {
        let (algorithm, hex) = self.digest_parts()?;
        Digest::from_file_name(&format!("{algorithm}-{hex}"))
    }

    fn digest_parts(&self) -> Option<(&str, &str)> {
        let (algorithm, rest) = self.0.split_once('-')?;
        let hex = rest.split_once('.').map_or(rest, |(hex, _)| hex);
        // The schema truncates the encoded part to 64 characters.
        let derived = matches!(algorithm, "sha256" | "sha512")
            && hex.len() == 64
            && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        derived.then_some((algorithm, hex))
    }
}

impl FromStr for Tag {
    type Err = ParseTagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if Self::is_valid(text) {
            Ok(Tag(text.into()))
        } else {
            Err(ParseTagError)
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_follow_the_grammar_and_keep_their_case() {
        let hex = "a".repeat(64);
        for good in [
            "latest",
            "v1.0-RC1",
            "_",
            "1",
            &format!("sha256-{hex}.sig"),
            &"x".repeat(128),
        ] {
            assert_eq!(good.parse::<Tag>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            ".",
            "..",
            ".a",
            "-a",
            "a/b",
            "a:b",
            "a b",
            "a%",
            "ä",
            "a\0",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<Tag>().is_err(), "{bad:?}");
        }
    }
}
