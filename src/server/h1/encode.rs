//! Encodes response heads. Performs no I/O: the caller owns the buffer and the socket.

use crate::http::date::http_date;

/// Appends the status line, `Date` and `fields` (encoded), with which every response starts.
pub fn begin(out: &mut Vec<u8>, status: u16, now: u64, fields: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(Decimal::new(u64::from(status)).as_bytes());
    // The space remains without a reason phrase (RFC 9112, 4).
    out.push(b' ');
    out.extend_from_slice(reason_phrase(status).as_bytes());
    out.extend_from_slice(b"\r\nDate: ");
    out.extend_from_slice(&http_date(now));
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(fields);
}

/// Appends the age of a response, in seconds.
pub fn age(out: &mut Vec<u8>, seconds: u64) {
    out.extend_from_slice(b"Age: ");
    out.extend_from_slice(Decimal::new(seconds).as_bytes());
    out.extend_from_slice(b"\r\n");
}

pub fn content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    out.extend_from_slice(Decimal::new(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// A number in decimal digits, without an allocation. Used for the status, `Age` and
/// `Content-Length`.
#[derive(Clone, Copy)]
struct Decimal {
    digits: [u8; DECIMAL_BYTES_MAX],
    start: u8,
}

/// The number of digits of `u64::MAX`.
const DECIMAL_BYTES_MAX: usize = 20;

impl Decimal {
    fn new(mut number: u64) -> Self {
        let mut digits = [b'0'; DECIMAL_BYTES_MAX];
        let mut start = DECIMAL_BYTES_MAX;
        loop {
            start -= 1;
            digits[start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return Decimal {
                    digits,
                    start: start as u8,
                };
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.digits[usize::from(self.start)..]
    }
}

/// Returns the reason phrase of a status. Empty for a status not in the list, which is valid.
fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        200 => "OK",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        410 => "Gone",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_begins_with_status_date_and_fields_in_order() {
        let mut out = Vec::new();
        begin(&mut out, 206, 784_111_777, b"ETag: \"a\tb\"\r\nX-Empty: \r\n");
        age(&mut out, 30);
        content_length(&mut out, 5);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "HTTP/1.1 206 Partial Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nETag: \"a\tb\"\r\nX-Empty: \r\n\
             Age: 30\r\nContent-Length: 5\r\n"
        );
    }

    #[test]
    fn status_line_without_a_reason_phrase_ends_with_a_space() {
        let mut out = Vec::new();
        begin(&mut out, 299, 0, b"");
        assert!(out.starts_with(b"HTTP/1.1 299 \r\n"));
    }

    #[test]
    fn decimal_formats_every_u64() {
        for number in [0, 7, 10, 65_536, u64::MAX - 1, u64::MAX] {
            assert_eq!(Decimal::new(number).as_bytes(), number.to_string().as_bytes());
        }
    }
}
