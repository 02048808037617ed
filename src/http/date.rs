//! Formats HTTP dates (RFC 9110, 5.6.7).

/// The length of `Sun, 06 Nov 1994 08:49:37 GMT`, the only written form.
pub const DATE_BYTES: usize = 29;

/// 9999-12-31 23:59:59. Later years exceed the format.
const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

const DAY_SECONDS: u64 = 86_400;

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

fn two_digits(place: &mut [u8], value: u64) {
    place.copy_from_slice(&[b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]);
}

/// Returns year, month and day of the month (both from 1) of a day since 1970-01-01.
///
/// Counts in eras of 400 years from 0000-03-01. Thus the leap day ends its year, and one formula
/// covers all months (Howard Hinnant's `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const ERA_DAYS: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
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
