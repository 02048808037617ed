//! Names of repositories.

use std::fmt;
use std::str::FromStr;

/// The maximum length of a name in bytes. Clients allow 255 bytes for host and name together.
const NAME_BYTES_MAX: usize = 255;

/// A repository name according to the distribution specification. Lower-case parts are joined by
/// `/`. In a part, runs of `[a-z0-9]` are joined by `.`, `_`, `__` or dashes.
///
/// No part is empty, `.` or `..`, or starts with `_`, so a name is a valid relative path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Box<str>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "invalid repository name; expected lower-case letters, digits and single separators, in parts joined by `/`, at most 255 bytes"
)]
pub struct ParseRepositoryError;

impl Repository {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether `name` follows the grammar, which [`FromStr`] requires.
    pub fn is_valid(name: &str) -> bool {
        name.len() <= NAME_BYTES_MAX && name.split('/').all(is_part)
    }
}

/// Returns whether `part` matches `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn is_part(part: &str) -> bool {
    let bytes = part.as_bytes();
    let mut run_start = 0;
    let mut separator_ok = false;
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at].is_ascii_lowercase() || bytes[at].is_ascii_digit() {
            at += 1;
            separator_ok = true;
            continue;
        }
        if !separator_ok {
            return false;
        }
        run_start = at;
        while at < bytes.len() && matches!(bytes[at], b'.' | b'_' | b'-') {
            at += 1;
        }
        let separator = &bytes[run_start..at];
        let dashes = !separator.is_empty() && separator.iter().all(|&b| b == b'-');
        if !(dashes || matches!(separator, b"." | b"_" | b"__")) {
            return false;
        }
        separator_ok = false;
    }
    debug_assert!(run_start <= bytes.len());
    separator_ok
}

impl FromStr for Repository {
    type Err = ParseRepositoryError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if Self::is_valid(name) {
            Ok(Repository(name.into()))
        } else {
            Err(ParseRepositoryError)
        }
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_grammar_of_the_specification() {
        for good in [
            "a",
            "library/nginx",
            "a/b/c/d/e/f",
            "a.b",
            "a_b",
            "a__b",
            "a-b",
            "a---b",
            "0",
            "blobs/manifests/tags",
        ] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        for bad in [
            "", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "a/../b", ".a", "a.", "_a", "a_", "-a",
            "a-", "a..b", "a___b", "a._b", "a-_b", "A", "a/B", "a b", "a%2fb", "a\0", "ä", "a\\b", "_tags",
            "a:b", "a@b", "a\n",
        ] {
            assert!(bad.parse::<Repository>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(255).parse::<Repository>().is_ok());
        assert!("a".repeat(256).parse::<Repository>().is_err());
    }
}
