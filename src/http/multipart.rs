//! Formats `multipart/byteranges` (RFC 9110, 14.6): all bytes around the spans, before the first
//! byte is sent.

use std::fmt;

use super::content_range::ContentRange;
use super::range::Span;

/// The separator of the parts. Its 32 hexadecimal digits are valid without quotes in every relevant
/// grammar.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Boundary(u128);

impl Boundary {
    /// Creates a boundary. `random` must be unpredictable, because otherwise an attacker could
    /// place the boundary in the content.
    pub fn new(random: u128) -> Self {
        Boundary(random)
    }
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A multipart body: for each part its head and its span, and after all parts the tail.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MultipartPlan {
    pub parts: Vec<Part>,
    pub tail: Vec<u8>,
    /// The total size of heads, spans and tail, for the `Content-Length` of the response.
    pub content_length: u64,
    /// The `Content-Type` of the response.
    pub content_type: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    pub head: Vec<u8>,
    pub span: Span,
}

/// Plans the body for `spans`, in the given order, of content with `size` bytes.
///
/// `content_type` is the type of the content. The parts omit a type that is invalid in a header.
pub fn plan(spans: &[Span], size: u64, content_type: &str, boundary: Boundary) -> MultipartPlan {
    let content_type = Some(content_type).filter(|text| text.bytes().all(|b| matches!(b, b' '..=b'~')));
    let mut parts = Vec::with_capacity(spans.len());
    let mut content_length = 0_u64;
    for (index, &span) in spans.iter().enumerate() {
        debug_assert!(
            span.start < span.end && span.end <= size,
            "the span exceeds the content"
        );
        // The CRLF before a delimiter belongs to the delimiter. The first delimiter has none.
        let before = if index == 0 { "" } else { "\r\n" };
        let mut head = format!("{before}--{boundary}\r\n");
        if let Some(content_type) = content_type {
            head += &format!("Content-Type: {content_type}\r\n");
        }
        head += &format!("Content-Range: {}\r\n\r\n", ContentRange::part(span, size));
        content_length = content_length
            .saturating_add(head.len() as u64)
            .saturating_add(span.size());
        parts.push(Part {
            head: head.into_bytes(),
            span,
        });
    }
    let tail = format!("\r\n--{boundary}--\r\n").into_bytes();
    content_length = content_length.saturating_add(tail.len() as u64);
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    MultipartPlan {
        parts,
        tail,
        content_length,
        content_type,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPANS: [Span; 2] = [Span { start: 0, end: 2 }, Span { start: 5, end: 6 }];

    fn body(plan: &MultipartPlan, content: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        for part in &plan.parts {
            body.extend_from_slice(&part.head);
            body.extend_from_slice(&content[part.span.start as usize..part.span.end as usize]);
        }
        body.extend_from_slice(&plan.tail);
        body
    }

    #[test]
    fn multipart_body_matches_the_rfc_format_and_content_length() {
        let plan = plan(&SPANS, 10, "text/plain", Boundary::new(0xb));
        let body = body(&plan, b"abcdefghij");
        let line = "--0000000000000000000000000000000b";
        let expected = format!(
            "{line}\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\nab\r\n\
             {line}\r\nContent-Type: text/plain\r\nContent-Range: bytes 5-5/10\r\n\r\nf\r\n{line}--\r\n"
        );
        assert_eq!(String::from_utf8(body).unwrap(), expected);
        assert_eq!(plan.content_length, expected.len() as u64);
        assert_eq!(
            plan.content_type,
            "multipart/byteranges; boundary=0000000000000000000000000000000b"
        );
    }

    #[test]
    fn content_type_with_a_line_break_is_omitted_from_the_part_head() {
        let plan = plan(&SPANS, 10, "text/plain\r\nX: y", Boundary::new(u128::MAX));
        assert!(
            plan.parts
                .iter()
                .all(|part| !part.head.windows(3).any(|w| w == b"X: "))
        );
        assert_eq!(plan.content_length, body(&plan, b"abcdefghij").len() as u64);
    }
}
