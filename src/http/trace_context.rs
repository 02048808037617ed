//! The context of a trace, and its form in `traceparent` (W3C Trace Context, 3.2).

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// The bytes of a `traceparent` of version 00.
const LENGTH: usize = 55;

/// The id of a trace. Printed as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceId(pub NonZeroU128);

/// The id of a span. Printed as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SpanId(pub NonZeroU64);

/// A span of a trace, and whether the trace is sampled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TraceContext {
    pub trace: TraceId,
    pub span: SpanId,
    pub sampled: bool,
}

/// The trace of a request of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestTrace {
    /// The span of the request. Of a request that is not sampled, the span that the client sent.
    pub context: TraceContext,
    /// The span that the client sent, if the request has a span of its own.
    pub parent: Option<SpanId>,
}

impl TraceContext {
    /// Parses the value of a `traceparent` field. Returns `None` for an invalid value, which a
    /// recipient ignores (W3C Trace Context, 3.2.2 and 4.2). Of a later version, the fields of
    /// version 00 are read.
    pub fn parse(value: &[u8]) -> Option<Self> {
        let (head, rest) = value.split_at_checked(LENGTH)?;
        let [version, trace, span, flags] = parts(head)?;
        let version = u8::try_from(hexadecimal(version)?).ok()?;
        let has_known_end = match version {
            0 => rest.is_empty(),
            // The value is reserved.
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        if !has_known_end {
            return None;
        }
        Some(TraceContext {
            trace: TraceId(NonZeroU128::new(hexadecimal(trace)?)?),
            span: SpanId(NonZeroU64::new(u64::try_from(hexadecimal(span)?).ok()?)?),
            sampled: hexadecimal(flags)? & 1 == 1,
        })
    }
}

/// Splits the fields of version 00 at their dashes.
fn parts(head: &[u8]) -> Option<[&[u8]; 4]> {
    let mut parts = head.split(|&byte| byte == b'-');
    let found = [parts.next()?, parts.next()?, parts.next()?, parts.next()?];
    let lengths = found.map(<[u8]>::len);
    (lengths == [2, 32, 16, 2] && parts.next().is_none()).then_some(found)
}

/// Reads lower-case hexadecimal digits, at most 32.
fn hexadecimal(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, &digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Writes the value of a `traceparent` field of version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "00-{}-{}-{flags:02x}", self.trace, self.span)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn parse(value: &str) -> Option<(String, String, bool)> {
        let context = TraceContext::parse(value.as_bytes())?;
        Some((
            context.trace.to_string(),
            context.span.to_string(),
            context.sampled,
        ))
    }

    #[test]
    fn valid_values_are_parsed_and_later_versions_by_their_first_fields() {
        for (value, sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            (format!("00-{TRACE}-{SPAN}-03"), true),
            (format!("00-{TRACE}-{SPAN}-fe"), false),
            (format!("01-{TRACE}-{SPAN}-01"), true),
            (format!("cc-{TRACE}-{SPAN}-01-what-the-future-adds"), true),
            (format!("fe-{TRACE}-{SPAN}-01-"), true),
        ] {
            let expected = (TRACE.to_owned(), SPAN.to_owned(), sampled);
            assert_eq!(parse(&value), Some(expected), "{value}");
        }
    }

    #[test]
    fn invalid_values_are_ignored() {
        let zero_trace = "0".repeat(32);
        let zero_span = "0".repeat(16);
        for value in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{zero_trace}-{SPAN}-01"),
            format!("00-{TRACE}-{zero_span}-01"),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("0A-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-extra"),
            format!("cc-{TRACE}-{SPAN}-01.extra"),
            format!("cc-{TRACE}-{SPAN}-011"),
            format!("00-{TRACE}0-{}-01", &SPAN[1..]),
            format!("00_{TRACE}_{SPAN}_01"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", TRACE.replace('4', "g")),
            format!("+0-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(parse(&value), None, "{value}");
        }
        assert_eq!(TraceContext::parse(&[0xff; 55]), None);
    }

    #[test]
    fn written_value_is_parsed_to_the_same_context() {
        for sampled in [false, true] {
            let context = TraceContext {
                trace: TraceId(NonZeroU128::MIN),
                span: SpanId(NonZeroU64::MAX),
                sampled,
            };
            assert_eq!(TraceContext::parse(context.to_string().as_bytes()), Some(context));
        }
    }
}
