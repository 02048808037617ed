//! Formats `Content-Range` (RFC 9110, 14.4). `upstream::content_range` parses the field.

use std::fmt;

use super::range::Span;

/// The value of a `Content-Range` field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContentRange {
    /// The part in a 206. `size` is the size of the whole content.
    Part { span: Span, size: u64 },
    /// The size of the content in a 416.
    Unsatisfied { size: u64 },
}

impl ContentRange {
    pub fn part(span: Span, size: u64) -> Self {
        ContentRange::Part { span, size }
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            ContentRange::Part { span, size } => {
                write!(f, "bytes {}-{}/{size}", span.start, span.end - 1)
            }
            ContentRange::Unsatisfied { size } => write!(f, "bytes */{size}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_names_the_last_byte_inclusively() {
        let span = Span { start: 0, end: 500 };
        for (range, text) in [
            (ContentRange::part(span, 1234), "bytes 0-499/1234"),
            (ContentRange::Unsatisfied { size: 47 }, "bytes */47"),
            (
                ContentRange::part(
                    Span {
                        start: u64::MAX - 1,
                        end: u64::MAX,
                    },
                    u64::MAX,
                ),
                "bytes 18446744073709551614-18446744073709551614/18446744073709551615",
            ),
        ] {
            assert_eq!(range.to_string(), text);
        }
    }
}
