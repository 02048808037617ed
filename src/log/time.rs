//! The time of a log line: RFC 3339 in UTC, with milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::calendar::{date_time, two_digits};

/// The length of `2026-11-28T11:00:33.771Z`, the only written form.
pub(super) const TIME_BYTES: usize = 24;

/// Returns milliseconds since 1970.
pub(super) fn unix_millis() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Formats a time in milliseconds since 1970. Times after the year 9999 become its last
/// second.
pub(super) fn rfc3339(unix_millis: u64) -> [u8; TIME_BYTES] {
    let millis = unix_millis % 1000;
    let mut text = *b"1970-01-01T00:00:00.000Z";
    text[..19].copy_from_slice(&date_time(unix_millis / 1000));
    two_digits(&mut text[20..22], millis / 10);
    text[22] = b'0' + (millis % 10) as u8;
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_formatted_in_utc_with_milliseconds() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_795_863_633_771, "2026-11-28T11:00:33.771Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(String::from_utf8_lossy(&rfc3339(millis)), text);
        }
        assert!(rfc3339(u64::MAX).starts_with(b"9999-12-31T23:59:59"));
    }
}
