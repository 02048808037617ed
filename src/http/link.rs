//! Parses `Link` fields (RFC 8288) for the paging of lists.

/// Returns the target of the first link to the next page, as written between the angle brackets.
///
/// `values` are the field lines. A link with an `anchor` concerns another resource and is skipped.
/// Only the first `rel` of a link counts (RFC 8288, 3.3).
pub fn next<'v>(values: impl IntoIterator<Item = &'v str>) -> Option<&'v str> {
    values.into_iter().find_map(|value| {
        let mut rest = value;
        loop {
            let (target, parameters, after) = link(rest)?;
            if is_next(parameters) {
                return Some(target);
            }
            rest = after;
        }
    })
}

/// Returns target and parameters of the first link of `text`, and the rest of `text`.
fn link(text: &str) -> Option<(&str, &str, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let (target, rest) = text.strip_prefix('<')?.split_once('>')?;
    let end = end_of(rest, b',');
    Some((target.trim(), &rest[..end], &rest[end..]))
}

/// Returns the position of the first `mark` outside quotes, or the length of `text`.
fn end_of(text: &str, mark: u8) -> usize {
    let mut quoted = false;
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if byte == mark && !quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn is_next(mut parameters: &str) -> bool {
    let mut rel = None;
    while let Some(rest) = parameters.trim_start().strip_prefix(';') {
        let end = end_of(rest, b';');
        let (name, value) = rest[..end].split_once('=').unwrap_or((&rest[..end], ""));
        let (name, value) = (name.trim(), value.trim().trim_matches('"'));
        if name.eq_ignore_ascii_case("anchor") {
            return false;
        }
        if name.eq_ignore_ascii_case("rel") {
            rel = rel.or(Some(value));
        }
        parameters = &rest[end..];
    }
    rel.is_some_and(|rel| {
        rel.split_ascii_whitespace()
            .any(|one| one.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_next_page_is_found_among_other_links() {
        for (value, expected) in [
            (
                "</v2/a/tags/list?n=2&last=b>; rel=\"next\"",
                Some("/v2/a/tags/list?n=2&last=b"),
            ),
            (
                "<https://r.example/v2/a/tags/list?last=b>;rel=next",
                Some("https://r.example/v2/a/tags/list?last=b"),
            ),
            (
                "</p>; rel=prev, </n>; title=\"a, b; rel=\\\"x\\\"\"; REL=\"last Next\"",
                Some("/n"),
            ),
            ("< /n >;\trel = \"next\"", Some("/n")),
            (",, </n>; rel=next, </m>; rel=next", Some("/n")),
            ("</n>; rel=next; rel=prev", Some("/n")),
            ("</n>; rel=prev; rel=next", None),
            ("</n>; rel=next; anchor=\"/other\"", None),
            ("</n>; rev=next", None),
            ("</n>", None),
            ("</n; rel=next", None),
            ("/n; rel=next", None),
            ("", None),
        ] {
            assert_eq!(next([value]), expected, "{value}");
        }
        assert_eq!(next(["</p>; rel=prev", "</n>; rel=next"]), Some("/n"));
    }

    proptest! {
        #[test]
        fn link_parser_does_not_panic_on_any_value(value in "[<>;,=\"\\\\ a-e/?relnxt]{0,60}") {
            let _ = next([value.as_str()]);
        }
    }
}
