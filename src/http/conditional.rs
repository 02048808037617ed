//! Conditional requests (RFC 9110, 13) against the only available validator, an entity tag made of
//! a digest.

use super::headers::trim_ows;

/// Returns whether `If-None-Match` matches the content, so that GET and HEAD receive a 304.
///
/// `values` are the values of all field lines; `etag` is the entity tag of the content, with
/// quotes. The comparison is weak (13.1.2), and `*` matches any content. A malformed value matches
/// nothing, which costs a transfer but is always correct. A bare digest without quotes is valid,
/// because registries have always accepted it.
pub fn if_none_match<'v>(values: impl IntoIterator<Item = &'v str>, etag: &str) -> bool {
    values.into_iter().any(|value| {
        let value = trim_ows(value);
        value == "*" || Tags(value).any(|tag| tag == opaque(etag))
    })
}

/// Returns whether `If-Range` permits a range: the client holds a part of the same content.
///
/// The comparison is strong (13.1.5): a weak tag on either side never matches. A date never matches
/// either, because the cache has no date as a strong validator.
pub fn if_range(value: &str, etag: &str) -> bool {
    let value = trim_ows(value);
    value.len() >= 2 && value.starts_with('"') && value.ends_with('"') && value == etag
}

/// Returns the part of an entity tag for weak comparison, without `W/` and quotes.
fn opaque(etag: &str) -> &str {
    let quoted = etag.strip_prefix("W/").unwrap_or(etag);
    quoted
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(quoted)
}

/// Iterates over the opaque parts of a list of entity tags. Stops at the first malformed tag.
struct Tags<'v>(&'v str);

impl<'v> Iterator for Tags<'v> {
    type Item = &'v str;

    fn next(&mut self) -> Option<&'v str> {
        let list = self.0.trim_start_matches([' ', '\t', ',']);
        let quoted = list.strip_prefix("W/").unwrap_or(list);
        let (tag, rest) = match quoted.strip_prefix('"') {
            Some(inside) => inside.split_once('"')?,
            None => list.split_at(list.find(',').unwrap_or(list.len())),
        };
        let rest = rest.trim_start_matches([' ', '\t']);
        if !rest.is_empty() && !rest.starts_with(',') {
            self.0 = "";
            return None;
        }
        self.0 = rest;
        let tag = if quoted.starts_with('"') {
            tag
        } else {
            trim_ows(tag)
        };
        (!list.is_empty()).then_some(tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"sha256:ab\"";

    #[test]
    fn if_none_match_compares_weakly_over_all_lines() {
        for hit in [
            "\"sha256:ab\"",
            "W/\"sha256:ab\"",
            "*",
            " * ",
            "\"x\", \"sha256:ab\"",
            "\"x\",W/\"sha256:ab\" , \"y\"",
            ",, \"sha256:ab\"",
            "\"a,b\", \"sha256:ab\"",
            "sha256:ab",
            "x, sha256:ab",
            "sha256:ab , x",
        ] {
            assert!(if_none_match([hit], ETAG), "{hit}");
        }
        for miss in [
            "",
            ",",
            "\"\"",
            "\"sha256:AB\"",
            "\"sha256:ab",
            "sha256:ab\"",
            "w/\"sha256:ab\"",
            "\"x\" \"sha256:ab\"",
            "\"sha256:ab\"x",
            "\"x, sha256:ab\"",
            "\"*\"",
            "*, \"x\"",
        ] {
            assert!(!if_none_match([miss], ETAG), "{miss}");
        }
        assert!(if_none_match(["\"x\"", "\"sha256:ab\""], ETAG));
        assert!(if_none_match(["\"sha256:ab\""], "W/\"sha256:ab\""));
        assert!(!if_none_match([], ETAG));
    }

    #[test]
    fn if_range_needs_the_very_same_strong_tag() {
        assert!(if_range(ETAG, ETAG));
        assert!(if_range(" \"sha256:ab\"", ETAG));
        for miss in [
            "W/\"sha256:ab\"",
            "sha256:ab",
            "\"sha256:AB\"",
            "*",
            "",
            "\"",
            "Tue, 15 Nov 1994 12:45:26 GMT",
            "\"sha256:ab\", \"sha256:ab\"",
        ] {
            assert!(!if_range(miss, ETAG), "{miss}");
        }
        assert!(!if_range("W/\"sha256:ab\"", "W/\"sha256:ab\""));
    }
}
