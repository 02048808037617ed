//! Parses `Range` (RFC 9110, 14) into the spans to send.

use super::headers::trim_ows;

/// The maximum number of ranges in one request. With more, the header is ignored.
///
/// Lazy-pulling clients request at most 1,024 ranges at once. A part head is below 256 bytes, so
/// the heads of one request take at most 256 KiB.
pub const RANGES_MAX: usize = 1_024;

/// A half-open byte interval of some content: excludes `end`. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Span {
    pub start: u64,
    pub end: u64,
}

impl Span {
    pub fn size(self) -> u64 {
        self.end - self.start
    }
}

/// The result of a `Range` header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ranges {
    /// The whole content with 200, as without the header. The header is malformed, has an unknown
    /// unit, or exceeds a limit.
    Full,
    /// A 416 with `Content-Range: bytes */<size>`.
    Unsatisfiable,
    /// A 206 with `Content-Range`.
    One(Span),
    /// A 206 as `multipart/byteranges` with at least two spans, in the requested order.
    Many(Vec<Span>),
}

/// Parses a `Range` value for content of `size` bytes.
///
/// All spans are within the content. Several ranges are served only up to [`RANGES_MAX`]. At most
/// two may overlap, and the total is limited to twice the content (CVE-2011-3192). Beyond a limit,
/// the header is ignored (RFC 9110, 14.2).
pub fn parse_range(value: &str, size: u64) -> Ranges {
    read_ranges(value, size).unwrap_or(Ranges::Full)
}

fn read_ranges(value: &str, size: u64) -> Option<Ranges> {
    let (unit, set) = trim_ows(value).split_once('=')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut first = None;
    // Without an allocation for a single range, as in nearly every request.
    let mut spans = Vec::new();
    let mut named = 0;
    for spec in set.split(',').map(trim_ows).filter(|spec| !spec.is_empty()) {
        named += 1;
        if named > RANGES_MAX {
            return None;
        }
        // A malformed member makes the whole header invalid, even after satisfiable members
        // (14.1.2).
        let Some(span) = read_spec(spec)?.resolve(size) else {
            continue;
        };
        match first {
            None => first = Some(span),
            Some(before) => {
                if spans.is_empty() {
                    spans.push(before);
                }
                spans.push(span);
            }
        }
    }
    match (named, first) {
        (0, _) => None,
        (_, None) => Some(Ranges::Unsatisfiable),
        (_, Some(span)) if spans.is_empty() => Some(Ranges::One(span)),
        _ if is_abusive(&spans, size) => None,
        _ => Some(Ranges::Many(spans)),
    }
}

/// A member of a range set, as written.
enum Spec {
    /// `first-last` or `first-`, where `last` is inclusive.
    From { first: u64, last: u64 },
    /// `-length`: the last `length` bytes.
    Suffix { length: u64 },
}

fn read_spec(spec: &str) -> Option<Spec> {
    let (first, last) = spec.split_once('-')?;
    match (first.is_empty(), last.is_empty()) {
        (true, _) => Some(Spec::Suffix {
            length: number(last)?,
        }),
        (false, true) => Some(Spec::From {
            first: number(first)?,
            last: u64::MAX,
        }),
        (false, false) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Spec::From { first, last })
        }
    }
}

/// Parses digits. A number that does not fit saturates, because it exceeds any content.
fn number(digits: &str) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0_u64;
    for byte in digits.bytes() {
        if !byte.is_ascii_digit() {
            return None;
        }
        value = value.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
    }
    Some(value)
}

impl Spec {
    fn resolve(self, size: u64) -> Option<Span> {
        let span = match self {
            Spec::From { first, last } => Span {
                start: first,
                end: last.saturating_add(1).min(size),
            },
            Spec::Suffix { length } => Span {
                start: size.saturating_sub(length),
                end: size,
            },
        };
        (span.start < span.end).then_some(span)
    }
}

fn is_abusive(spans: &[Span], size: u64) -> bool {
    let sum: u128 = spans.iter().map(|span| u128::from(span.size())).sum();
    // The second limit only prevents an overflow of lengths. No content is that large.
    if sum > 2 * u128::from(size) || sum > u128::from(u64::MAX / 2) {
        return true;
    }
    if spans.is_sorted() {
        return overlaps(spans) > OVERLAPS_MAX;
    }
    let mut sorted = spans.to_vec();
    sorted.sort_unstable();
    overlaps(&sorted) > OVERLAPS_MAX
}

/// The maximum number of overlaps. RFC 9110, 14.2 describes "more than two overlapping ranges" as a
/// sign of an attack, so one pair may overlap.
const OVERLAPS_MAX: usize = 1;

/// Counts the spans that start inside an earlier span. `sorted` is ordered by start.
fn overlaps(sorted: &[Span]) -> usize {
    let mut end = 0;
    let mut count = 0;
    for span in sorted {
        if span.start < end {
            count += 1;
        }
        end = end.max(span.end);
    }
    count
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(start: u64, end: u64) -> Ranges {
        Ranges::One(Span { start, end })
    }

    #[test]
    fn single_ranges_are_those_of_the_rfc() {
        for (value, expected) in [
            ("bytes=0-499", one(0, 500)),
            ("bytes=500-999", one(500, 1_000)),
            ("bytes=-500", one(9_500, 10_000)),
            ("bytes=9500-", one(9_500, 10_000)),
            ("bytes=0-0", one(0, 1)),
            ("bytes=9999-9999", one(9_999, 10_000)),
            ("bytes=0-", one(0, 10_000)),
            ("bytes=-10000", one(0, 10_000)),
            ("bytes=-10001", one(0, 10_000)),
            ("bytes=0-99999999999999999999999999", one(0, 10_000)),
            ("bytes=0-18446744073709551615", one(0, 10_000)),
            ("bytes=-99999999999999999999999999", one(0, 10_000)),
            ("bytes=000-0004", one(0, 5)),
            ("Bytes=0-0", one(0, 1)),
            ("bytes=, 0-0 ,,", one(0, 1)),
            ("bytes=10000-,0-0", one(0, 1)),
            ("bytes=10000-", Ranges::Unsatisfiable),
            ("bytes=99999999999999999999999999-", Ranges::Unsatisfiable),
            (
                "bytes=18446744073709551615-18446744073709551615",
                Ranges::Unsatisfiable,
            ),
            ("bytes=-0", Ranges::Unsatisfiable),
            ("bytes=-0,10000-10001", Ranges::Unsatisfiable),
        ] {
            assert_eq!(parse_range(value, 10_000), expected, "{value}");
        }
    }

    #[test]
    fn malformed_range_is_ignored() {
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes= ",
            "bytes=-",
            "bytes=--1",
            "bytes=1-0",
            "bytes=a-b",
            "bytes=0-0-0",
            "bytes=0",
            "bytes=+0-1",
            "bytes=0x0-1",
            "bytes=0 -1",
            "bytes=0- 1",
            "bytes = 0-1",
            "bytes:0-1",
            "items=0-1",
            "bytes=0-0,x",
            "bytes=20000-,1-0",
            "bytes=0-0;1-1",
            "bytes=1.0-2",
            "bytes=0-1 bytes=2-3",
            "none",
            "bytes=\u{ff10}-1",
        ] {
            assert_eq!(parse_range(value, 10_000), Ranges::Full, "{value}");
        }
    }

    #[test]
    fn range_of_an_empty_blob_is_unsatisfiable() {
        for value in ["bytes=0-", "bytes=0-0", "bytes=-1", "bytes=-0", "bytes=0-0,1-1"] {
            assert_eq!(parse_range(value, 0), Ranges::Unsatisfiable, "{value}");
        }
    }

    #[test]
    fn the_largest_content_does_not_overflow() {
        let last = u64::MAX - 1;
        assert_eq!(parse_range("bytes=0-", u64::MAX), one(0, u64::MAX));
        assert_eq!(parse_range("bytes=-1", u64::MAX), one(last, u64::MAX));
        assert_eq!(
            parse_range(&format!("bytes={last}-{}", u64::MAX), u64::MAX),
            one(last, u64::MAX)
        );
        assert_eq!(
            parse_range(&format!("bytes={}-", u64::MAX), u64::MAX),
            Ranges::Unsatisfiable
        );
        assert_eq!(parse_range("bytes=0-,0-", u64::MAX), Ranges::Full);
    }

    #[test]
    fn ranges_are_served_up_to_a_count_and_overlap_limit() {
        let list = |count: u64, step: u64, len: u64| {
            let specs: Vec<_> = (0..count)
                .map(|i| format!("{}-{}", i * step, i * step + len - 1))
                .collect();
            format!("bytes={}", specs.join(","))
        };
        let count = |value: &str, size| match parse_range(value, size) {
            Ranges::Many(spans) => spans.len(),
            Ranges::Full => 0,
            other => panic!("{other:?}"),
        };
        assert_eq!(count(&list(1_024, 100, 10), 1 << 20), 1_024);
        assert_eq!(count(&list(1_025, 100, 10), 1 << 20), 0);
        assert_eq!(count(&list(3, 10, 10), 30), 3, "adjacent ranges do not overlap");
        assert_eq!(
            count("bytes=0-9,5-14", 1_000),
            2,
            "one overlapping pair is permitted"
        );
        assert_eq!(count("bytes=0-9,5-14,12-20", 1_000), 0);
        assert_eq!(
            count("bytes=0-99,10-19,30-39", 1_000),
            0,
            "a contained range overlaps"
        );
        assert_eq!(count("bytes=12-20,5-14,0-9", 1_000), 0, "the order is irrelevant");
        assert_eq!(count("bytes=0-,0-", 1_000), 2);
        assert_eq!(count("bytes=5-6,0-1", 1_000), 2);
        assert_eq!(
            count(&format!("bytes=0-{}", ",5-0".repeat(1_300)), 1_000),
            0,
            "CVE-2011-3192"
        );
    }

    /// A member in the test model, with wide numbers instead of text.
    #[derive(Clone, Debug)]
    enum Member {
        Closed(u128, u128),
        Open(u128),
        Suffix(u128),
        Rubbish(&'static str),
        Nothing,
    }

    impl Member {
        fn text(&self) -> String {
            match self {
                Member::Closed(first, last) => format!("{first}-{last}"),
                Member::Open(first) => format!("{first}-"),
                Member::Suffix(length) => format!("-{length}"),
                Member::Rubbish(text) => (*text).to_owned(),
                Member::Nothing => String::new(),
            }
        }

        /// Returns the first and last position, or `None` if no byte matches. Returns `Err` if
        /// malformed.
        fn positions(&self, size: u128) -> Result<Option<(u128, u128)>, ()> {
            let (first, last) = match *self {
                Member::Closed(first, last) if first > last => return Err(()),
                Member::Closed(first, last) => (first, last),
                Member::Open(first) => (first, u128::MAX),
                Member::Suffix(0) => return Ok(None),
                Member::Suffix(length) => (size - length.min(size), u128::MAX),
                Member::Rubbish(_) => return Err(()),
                Member::Nothing => return Ok(None),
            };
            Ok((first < size).then(|| (first, last.min(size - 1))))
        }
    }

    fn model(members: &[Member], size: u128) -> Ranges {
        if members.iter().all(|member| matches!(member, Member::Nothing)) {
            return Ranges::Full;
        }
        let Ok(found) = members
            .iter()
            .map(|member| member.positions(size))
            .collect::<Result<Vec<_>, _>>()
        else {
            return Ranges::Full;
        };
        let found: Vec<_> = found.into_iter().flatten().collect();
        let spans: Vec<_> = found
            .iter()
            .map(|&(first, last)| Span {
                start: first as u64,
                end: last as u64 + 1,
            })
            .collect();
        match spans[..] {
            [] => return Ranges::Unsatisfiable,
            [span] => return Ranges::One(span),
            _ => {}
        }
        // A span overlaps if it starts at or before the end of a span earlier in the order.
        let mut order: Vec<_> = found.clone();
        order.sort();
        let overlapping =
            (0..order.len()).filter(|&i| order[..i].iter().any(|before| before.1 >= order[i].0));
        let sum: u128 = found.iter().map(|&(first, last)| last - first + 1).sum();
        if overlapping.count() > 1 || sum > 2 * size || sum > u128::from(u64::MAX / 2) {
            return Ranges::Full;
        }
        Ranges::Many(spans)
    }

    fn position(size: u64) -> impl Strategy<Value = u128> {
        let size = u128::from(size);
        prop_oneof![
            8 => 0..size.max(1),
            2 => size.saturating_sub(2)..size + 3,
            1 => 0..3_u128,
            1 => u128::from(u64::MAX) - 2..u128::from(u64::MAX) + 3,
        ]
    }

    fn requests() -> impl Strategy<Value = (u64, Vec<Member>, bool)> {
        let size = prop_oneof![4 => 0..40_u64, 2 => 0..(1_u64 << 40), 1 => u64::MAX - 2..=u64::MAX];
        size.prop_flat_map(|size| {
            let member = prop_oneof![
                8 => (position(size), position(size)).prop_map(|(a, b)| Member::Closed(a.min(b), a.max(b))),
                3 => position(size).prop_map(|first| Member::Closed(first, first)),
                2 => position(size).prop_map(Member::Open),
                2 => position(size).prop_map(Member::Suffix),
                1 => Just(Member::Nothing),
                1 => prop::sample::select(vec!["-", "x", "1", "2-1", "--1", "1--2", "+1-2"]).prop_map(Member::Rubbish),
            ];
            let members = prop_oneof![1 => prop::collection::vec(member.clone(), 1..2), 1 => prop::collection::vec(member, 0..6)];
            (Just(size), members, any::<bool>())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 100_000 }))]

        #[test]
        fn range_parser_agrees_with_a_naive_model((size, members, spaced) in requests()) {
            let texts: Vec<_> = members.iter().map(Member::text).collect();
            let value = format!("bytes={}", texts.join(if spaced { " ,\t" } else { "," }));
            let found = parse_range(&value, size);
            prop_assert_eq!(&found, &model(&members, u128::from(size)), "{} of {}", value, size);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 5_000 }))]

        #[test]
        fn range_parser_does_not_panic_on_any_text(value in "(bytes=)?[-0-9, =a]{0,40}|.{0,40}", size in any::<u64>()) {
            let spans = match parse_range(&value, size) {
                Ranges::Full | Ranges::Unsatisfiable => vec![],
                Ranges::One(span) => vec![span],
                Ranges::Many(spans) => spans,
            };
            prop_assert!(spans.iter().all(|span| span.start < span.end && span.end <= size));
        }
    }
}
