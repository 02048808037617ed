//! The `Content-Range` field, and the check whether a response continues a partial body. Pure.

/// The byte range of a 206 response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReceivedRange {
    /// Offset of the first byte.
    pub start: u64,
    /// Offset of the last byte, `start` or more.
    pub end: u64,
    /// The size of the whole content, greater than `end`. `None` for `*`.
    pub total: Option<u64>,
}

impl ReceivedRange {
    /// Parses `bytes START-END/TOTAL` or `bytes START-END/*`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (unit, range) = text.trim().split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (span, total) = range.trim().split_once('/')?;
        let (start, end) = span.split_once('-')?;
        let (start, end) = (number(start)?, number(end)?);
        let total = if total == "*" { None } else { Some(number(total)?) };
        // `end` below the largest number keeps `len` and `end + 1` from overflowing.
        let sound = start <= end && end < u64::MAX && total.is_none_or(|total| end < total);
        sound.then_some(ReceivedRange { start, end, total })
    }

    /// Returns the number of bytes, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u64 {
        self.end - self.start + 1
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` would also accept a plus sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

/// The decision on the body of a response to a resumed request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResumeVerdict {
    /// The first byte of the body is the next missing byte.
    Continue,
    /// The body is the whole content. Contains the number of leading bytes to skip.
    SkipFirst(u64),
    /// The body does not match and must not be used.
    Wrong,
}

/// Decides on a response for a body with `have` received bytes. `size` is the size of the content,
/// if known.
///
/// A 206 may end before the content does. The rest needs another resumed request.
pub(super) fn decide(
    length: Option<u64>,
    range: Option<ReceivedRange>,
    have: u64,
    size: Option<u64>,
) -> ResumeVerdict {
    let agrees = |stated: Option<u64>| stated.is_none() || size.is_none() || stated == size;
    match range {
        Some(range) => {
            let inside = size.is_none_or(|size| range.end < size);
            if range.start == have && inside && agrees(range.total) {
                ResumeVerdict::Continue
            } else {
                ResumeVerdict::Wrong
            }
        }
        None if !agrees(length) || length.is_some_and(|length| length < have) => ResumeVerdict::Wrong,
        None if have == 0 => ResumeVerdict::Continue,
        None => ResumeVerdict::SkipFirst(have),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_strictly() {
        let parsed =
            |text: &str| ReceivedRange::parse(text).map(|range| (range.start, range.end, range.total));
        assert_eq!(parsed("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parsed("Bytes 0-0/*"), Some((0, 0, None)));
        for bad in [
            "",
            "bytes",
            "bytes */10",
            "bytes 5-4/10",
            "bytes 5-10/10",
            "bytes 5-/10",
            "bytes -5/10",
            "bytes 5-9",
            "items 5-9/10",
            "bytes +5-9/10",
            "bytes 5-9/+10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-9/18446744073709551616",
            "bytes=5-9/10",
            "bytes 5 - 9/10",
            "bytes 5-9/10,bytes 5-9/10",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_response_continues_skips_or_is_wrong() {
        use ResumeVerdict::*;
        let range = |text: &str| ReceivedRange::parse(text);
        let table = [
            // A 206.
            (Some(5), range("bytes 5-9/10"), 5, Some(10), Continue),
            (None, range("bytes 5-9/*"), 5, Some(10), Continue),
            (None, range("bytes 5-9/10"), 5, None, Continue),
            (None, range("bytes 0-9/10"), 0, Some(10), Continue),
            (None, range("bytes 5-7/10"), 5, Some(10), Continue),
            (None, range("bytes 4-9/10"), 5, Some(10), Wrong),
            (None, range("bytes 6-9/10"), 5, Some(10), Wrong),
            (None, range("bytes 0-9/10"), 5, Some(10), Wrong),
            (None, range("bytes 5-9/11"), 5, Some(10), Wrong),
            (None, range("bytes 5-10/*"), 5, Some(10), Wrong),
            // A 200.
            (Some(10), None, 5, Some(10), SkipFirst(5)),
            (Some(10), None, 0, Some(10), Continue),
            (None, None, 5, Some(10), SkipFirst(5)),
            (None, None, 5, None, SkipFirst(5)),
            (Some(10), None, 5, None, SkipFirst(5)),
            (Some(11), None, 5, Some(10), Wrong),
            (Some(4), None, 5, None, Wrong),
            (Some(0), None, 0, Some(10), Wrong),
        ];
        for (length, range, have, size, verdict) in table {
            assert_eq!(
                decide(length, range, have, size),
                verdict,
                "{length:?} {range:?} {have} {size:?}"
            );
        }
    }
}
