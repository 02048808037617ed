//! Tags as versions, and ranges of versions.

use std::cmp::Reverse;

use semver::{Version, VersionReq};

/// Splits `repository:range`. A range begins with an operator, which no tag may contain.
pub(super) fn split_range(text: &str) -> Option<(&str, &str)> {
    let operator = text.find(['^', '~', '=', '<', '>'])?;
    let repository = text[..operator].strip_suffix(':')?;
    Some((repository, &text[operator..]))
}

/// Returns whether a tag is a version in `range`. A tag may begin with `v`, and the absent parts of `7`
/// and `7.2` are 0. As usual for ranges, a version with a suffix is only in a range that names a suffix
/// of the same version.
pub(super) fn is_in(range: &VersionReq, tag: &str) -> bool {
    let text = tag.strip_prefix('v').unwrap_or(tag);
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let completed = match text.split('.').count() {
        1 | 2 if !text.split('.').all(is_number) => return false,
        1 => format!("{text}.0.0"),
        2 => format!("{text}.0"),
        _ => text.to_owned(),
    };
    Version::parse(&completed).is_ok_and(|version| range.matches(&version))
}

/// The order of a tag that begins with a version, as `1.27` in `v1.27-alpine`. The numbers decide first.
/// Of equal numbers, a tag without a suffix is the highest, and numbers in suffixes count as numbers.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct TagVersion {
    numbers: Vec<u64>,
    has_suffix: Reverse<bool>,
    suffix: Vec<SuffixPart>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum SuffixPart {
    Number(u64),
    Text(String),
}

impl TagVersion {
    /// Returns the version at the start of `tag`. Trailing zeros do not count. `None` if `tag` does not begin
    /// with a number below 2^64, perhaps after `v`.
    pub fn of(tag: &str) -> Option<Self> {
        let mut rest = tag.strip_prefix('v').unwrap_or(tag);
        let mut numbers = Vec::new();
        loop {
            let (digits, after) = split_digits(rest);
            numbers.push(digits.parse().ok()?);
            rest = after;
            match after.strip_prefix('.') {
                Some(next) if next.starts_with(|first: char| first.is_ascii_digit()) => rest = next,
                _ => break,
            }
        }
        while numbers.len() > 1 && numbers.last() == Some(&0) {
            numbers.pop();
        }
        let mut suffix = Vec::new();
        let has_suffix = Reverse(!rest.is_empty());
        while !rest.is_empty() {
            let (digits, after) = split_digits(rest);
            // A number beyond 2^64 is compared as text.
            if let Ok(number) = digits.parse() {
                suffix.push(SuffixPart::Number(number));
                rest = after;
            } else {
                let text = rest.len() - after.len();
                let end = after
                    .find(|next: char| next.is_ascii_digit())
                    .unwrap_or(after.len());
                suffix.push(SuffixPart::Text(rest[..text + end].to_owned()));
                rest = &after[end..];
            }
        }
        Some(TagVersion {
            numbers,
            has_suffix,
            suffix,
        })
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|next: char| !next.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}
