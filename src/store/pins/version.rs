//! Tags as versions, and ranges of versions.

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
