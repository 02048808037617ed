//! Formats HTTP dates (RFC 9110, 5.6.7).

use crate::calendar::{DAY_SECONDS, UNIX_SECONDS_MAX, civil, two_digits};

/// The length of `Sun, 06 Nov 1994 08:49:37 GMT`, the only written form.
pub const DATE_BYTES: usize = 29;

/// Formats a time in seconds since 1970 as an HTTP date. Times after the year 9999 become its last
/// second.
pub fn http_date(unix_seconds: u64) -> [u8; DATE_BYTES] {
    let seconds = unix_seconds.min(UNIX_SECONDS_MAX);
    let (days, second_of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    let (year, month, day) = civil(days);
    // Day 0 was a Thursday.
    let weekday = b"ThuFriSatSunMonTueWed"[days as usize % 7 * 3..].first_chunk::<3>();
    let month = b"JanFebMarAprMayJunJulAugSepOctNovDec"[(month as usize - 1) * 3..].first_chunk::<3>();

    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    // Both tables are sliced at multiples of three below their length.
    text[..3].copy_from_slice(weekday.unwrap_or(b"Thu"));
    text[8..11].copy_from_slice(month.unwrap_or(b"Jan"));
    two_digits(&mut text[5..7], day);
    two_digits(&mut text[12..14], year / 100);
    two_digits(&mut text[14..16], year % 100);
    two_digits(&mut text[17..19], second_of_day / 3_600);
    two_digits(&mut text[20..22], second_of_day / 60 % 60);
    two_digits(&mut text[23..25], second_of_day % 60);
    text
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn dates_are_those_of_the_httpdate_crate() {
        let mut seconds = vec![
            0,
            784_111_777,
            951_782_400,
            951_868_799,
            951_868_800,
            UNIX_SECONDS_MAX,
        ];
        // A step coprime to days and weeks covers all of them up to the year 9999.
        seconds.extend((0..200_000).map(|i| i * 1_267_003));
        for second in seconds {
            let expected = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(second));
            assert_eq!(String::from_utf8_lossy(&http_date(second)), expected, "{second}");
        }
    }

    #[test]
    fn date_is_clamped_to_the_year_9999() {
        assert_eq!(&http_date(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
