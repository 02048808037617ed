//! The time of a log line: RFC 3339 in UTC, with milliseconds.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::calendar::{DAY_SECONDS, UNIX_SECONDS_MAX, civil, two_digits};

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
    let seconds = (unix_millis / 1000).min(UNIX_SECONDS_MAX);
    let millis = unix_millis % 1000;
    let (days, second_of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    let (year, month, day) = civil(days);
    let mut text = *b"1970-01-01T00:00:00.000Z";
    two_digits(&mut text[0..2], year / 100);
    two_digits(&mut text[2..4], year % 100);
    two_digits(&mut text[5..7], month);
    two_digits(&mut text[8..10], day);
    two_digits(&mut text[11..13], second_of_day / 3_600);
    two_digits(&mut text[14..16], second_of_day / 60 % 60);
    two_digits(&mut text[17..19], second_of_day % 60);
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
