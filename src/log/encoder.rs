//! Encodes log lines, as text (`key=value`) or as JSON.

use std::fmt;
use std::io::Write as _;

use tracing::Level;

use super::time::rfc3339;

/// The format of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    Text,
    /// Text with a coloured level, for terminals.
    Coloured,
    /// One JSON object per line.
    Json,
}

/// A line that is being written. [`Line::end`] completes the line. Keys are tokens.
pub struct Line<'a> {
    out: &'a mut Vec<u8>,
    format: Format,
}

impl<'a> Line<'a> {
    /// Begins a line at the end of `out`. `unix_millis` is the time in milliseconds since 1970.
    pub fn begin(
        out: &'a mut Vec<u8>,
        format: Format,
        unix_millis: u64,
        level: Level,
        message: &str,
    ) -> Self {
        let time = rfc3339(unix_millis);
        let word = word_of(level);
        match format {
            Format::Json => put(
                out,
                &[b"{\"ts\":\"", &time, b"\",\"level\":\"", word.as_bytes(), b"\""],
            ),
            Format::Text => put(out, &[b"ts=", &time, b" level=", word.as_bytes()]),
            Format::Coloured => {
                let colour = colour_of(level);
                put(
                    out,
                    &[b"ts=", &time, b" level=", colour, word.as_bytes(), b"\x1b[0m"],
                );
            }
        }
        let mut line = Line { out, format };
        line.text("msg", message);
        line
    }

    /// Adds a field with a text. Text from outside of the process cannot end the field.
    pub fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        if self.format != Format::Json && is_token(value) {
            self.out.extend_from_slice(value.as_bytes());
        } else {
            self.out.push(b'"');
            push_escaped(self.out, value);
            self.out.push(b'"');
        }
    }

    /// Adds a field with a value that never needs quotes, such as an address or a hexadecimal
    /// number. Allocates nothing.
    pub fn token(&mut self, key: &'static str, value: impl fmt::Display) {
        self.key(key);
        let quote: &[u8] = if self.format == Format::Json { b"\"" } else { b"" };
        self.out.extend_from_slice(quote);
        // A write to a vector cannot fail.
        let _ = write!(self.out, "{value}");
        self.out.extend_from_slice(quote);
    }

    /// Adds a field with a formatted value.
    pub fn display(&mut self, key: &'static str, value: &impl fmt::Display) {
        self.text(key, &value.to_string());
    }

    pub fn number(&mut self, key: &'static str, value: u64) {
        self.key(key);
        push_decimal(self.out, value);
    }

    pub fn signed(&mut self, key: &'static str, value: i64) {
        self.key(key);
        if value < 0 {
            self.out.push(b'-');
        }
        push_decimal(self.out, value.unsigned_abs());
    }

    /// Adds a field in milliseconds, with three decimals.
    pub fn millis(&mut self, key: &'static str, micros: u64) {
        self.number(key, micros / 1000);
        let rest = micros % 1000;
        let digit = |value: u64| b'0' + (value % 10) as u8;
        self.out
            .extend_from_slice(&[b'.', digit(rest / 100), digit(rest / 10), digit(rest)]);
    }

    pub fn flag(&mut self, key: &'static str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    pub fn end(self) {
        self.out.extend_from_slice(if self.format == Format::Json {
            b"}\n"
        } else {
            b"\n"
        });
    }

    fn key(&mut self, key: &'static str) {
        debug_assert!(is_token(key));
        if self.format == Format::Json {
            put(self.out, &[b",\"", key.as_bytes(), b"\":"]);
        } else {
            put(self.out, &[b" ", key.as_bytes(), b"="]);
        }
    }
}

/// The levels and their words, as in `LOG_LEVEL`.
pub const LEVELS: [(&str, Level); 5] = [
    (word_of(Level::TRACE), Level::TRACE),
    (word_of(Level::DEBUG), Level::DEBUG),
    (word_of(Level::INFO), Level::INFO),
    (word_of(Level::WARN), Level::WARN),
    (word_of(Level::ERROR), Level::ERROR),
];

/// Returns the word of a level.
const fn word_of(level: Level) -> &'static str {
    match level {
        Level::TRACE => "trace",
        Level::DEBUG => "debug",
        Level::INFO => "info",
        Level::WARN => "warn",
        Level::ERROR => "error",
    }
}

/// Returns the escape sequence of a level's colour.
fn colour_of(level: Level) -> &'static [u8] {
    match level {
        Level::TRACE => b"\x1b[35m",
        Level::DEBUG => b"\x1b[34m",
        Level::INFO => b"\x1b[32m",
        Level::WARN => b"\x1b[33m",
        Level::ERROR => b"\x1b[31m",
    }
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}

/// Returns whether text needs no quotes.
pub(super) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(is_token_byte)
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\')
}

/// Returns whether a terminal or an editor may obey the character instead of showing it: the
/// control characters with DEL and C1, the line separators and the bidirectional controls.
fn is_control(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// Writes text for use between quotes, with the escapes of JSON (RFC 8259, 7). Escapes all
/// characters of [`is_control`].
fn push_escaped(out: &mut Vec<u8>, text: &str) {
    let is_plain = |byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    if text.bytes().all(is_plain) {
        return out.extend_from_slice(text.as_bytes());
    }
    let mut written = 0;
    for (at, c) in text.char_indices() {
        if !matches!(c, '"' | '\\') && !is_control(c) {
            continue;
        }
        out.extend_from_slice(&text.as_bytes()[written..at]);
        written = at + c.len_utf8();
        match c {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            c => {
                // Every control character is below U+10000. A write to a vector cannot fail.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
        }
    }
    out.extend_from_slice(&text.as_bytes()[written..]);
}

/// The decimal digits of `u64::MAX`.
const U64_DIGITS_MAX: usize = u64::MAX.ilog10() as usize + 1;

fn push_decimal(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; U64_DIGITS_MAX];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORMATS: [Format; 3] = [Format::Text, Format::Coloured, Format::Json];

    fn line(format: Format, write: impl FnOnce(&mut Line<'_>)) -> String {
        let mut out = Vec::new();
        let mut line = Line::begin(&mut out, format, 1_795_863_633_771, Level::INFO, "limit reached");
        write(&mut line);
        line.end();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn formats_have_the_same_fields_in_the_same_order() {
        let write = |line: &mut Line<'_>| {
            line.token("client", "[::1]:80");
            line.number("limit", 20_000);
            line.signed("change", -7);
            line.millis("duration_ms", 1_092);
            line.flag("aborted", true);
            line.text("path", "/v2/");
            line.text("range", "bytes=0-");
        };
        assert_eq!(
            line(Format::Text, write),
            "ts=2026-11-28T11:00:33.771Z level=info msg=\"limit reached\" client=[::1]:80 limit=20000 change=-7 \
             duration_ms=1.092 aborted=true path=/v2/ range=\"bytes=0-\"\n"
        );
        assert_eq!(
            line(Format::Coloured, |_| {}),
            "ts=2026-11-28T11:00:33.771Z level=\x1b[32minfo\x1b[0m msg=\"limit reached\"\n"
        );
        assert_eq!(
            line(Format::Json, write),
            "{\"ts\":\"2026-11-28T11:00:33.771Z\",\"level\":\"info\",\"msg\":\"limit reached\",\"client\":\"[::1]:80\",\"limit\":20000,\
             \"change\":-7,\"duration_ms\":1.092,\"aborted\":true,\"path\":\"/v2/\",\"range\":\"bytes=0-\"}\n"
        );
    }

    #[test]
    fn text_is_quoted_and_escaped_if_necessary() {
        for (value, text) in [
            ("plain-1.2:3/4", "plain-1.2:3/4"),
            ("", "\"\""),
            ("two words", "\"two words\""),
            ("a=b", "\"a=b\""),
            ("\"", "\"\\\"\""),
            ("\\", "\"\\\\\""),
            ("a\nb\rc\td", "\"a\\nb\\rc\\td\""),
            ("\0\x1b[31m\x7f", "\"\\u0000\\u001b[31m\\u007f\""),
            ("\u{85}\u{9b}", "\"\\u0085\\u009b\""),
            ("grün", "\"grün\""),
            ("a\u{2028}b\u{2029}c", "\"a\\u2028b\\u2029c\""),
            ("\u{61c}\u{200e}\u{200f}", "\"\\u061c\\u200e\\u200f\""),
            (
                "\u{202a}\u{202e}\u{2066}\u{2069}",
                "\"\\u202a\\u202e\\u2066\\u2069\"",
            ),
            ("\u{200d}\u{202f}\u{206a}", "\"\u{200d}\u{202f}\u{206a}\""),
        ] {
            let wanted = format!(" v={text}\n");
            let found = line(Format::Text, |line| line.text("v", value));
            assert!(found.ends_with(&wanted), "{found:?}, {wanted:?}");
        }
    }

    /// Any character, and often a character that a reader may obey.
    fn character() -> impl Strategy<Value = char> {
        prop_oneof![
            any::<char>(),
            proptest::char::range('\0', '\u{a0}'),
            proptest::char::range('\u{200c}', '\u{206a}'),
        ]
    }

    proptest! {
        #[test]
        fn every_line_is_one_line_and_json_keeps_the_values(
            text in proptest::collection::vec(character(), 0..64)
                .prop_map(String::from_iter),
            number in any::<u64>(),
            signed in any::<i64>(),
            micros in any::<u64>(),
            (word, level) in proptest::sample::select(LEVELS.to_vec()),
        ) {
            for format in FORMATS {
                let mut out = Vec::new();
                let mut line = Line::begin(&mut out, format, 0, level, &text);
                line.text("text", &text);
                line.number("number", number);
                line.signed("signed", signed);
                line.millis("millis", micros);
                line.end();
                let line = String::from_utf8(out).unwrap();
                let body = line.strip_suffix('\n').unwrap();
                let colour = format!("\x1b[{}m", std::str::from_utf8(&colour_of(level)[2..4]).unwrap());
                let body = body.replacen(&colour, "", 1).replacen("\x1b[0m", "", 1);
                prop_assert!(!body.contains(is_control), "{body:?}");
                if format == Format::Json {
                    let object: serde_json::Value = serde_json::from_str(&body).unwrap();
                    prop_assert_eq!(&object["level"], word);
                    prop_assert_eq!(object["msg"].as_str(), Some(&*text));
                    prop_assert_eq!(object["text"].as_str(), Some(&*text));
                    prop_assert_eq!(object["number"].as_u64(), Some(number));
                    prop_assert_eq!(object["signed"].as_i64(), Some(signed));
                    prop_assert!(object["millis"].is_number());
                }
            }
        }
    }
}
