//! Dates of the Gregorian calendar, for HTTP dates, log lines and tables.

/// Seconds of a day without leap seconds.
pub const DAY_SECONDS: u64 = 86_400;

/// 9999-12-31 23:59:59 UTC in seconds since 1970. Later years have more than four digits.
pub const UNIX_SECONDS_MAX: u64 = 253_402_300_799;

/// Returns year, month and day of the month (both from 1) of a day since 1970-01-01.
///
/// Counts in eras of 400 years from 0000-03-01. Thus the leap day ends its year, and one formula
/// covers all months (Howard Hinnant's `civil_from_days`).
pub fn civil(days: u64) -> (u64, u64, u64) {
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

/// Formats a time in seconds since 1970 in UTC, as in RFC 3339, without a zone. Times after the year
/// 9999 become its last second.
pub fn date_time(seconds: u64) -> [u8; 19] {
    let seconds = seconds.min(UNIX_SECONDS_MAX);
    let (days, second_of_day) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    let (year, month, day) = civil(days);
    let mut text = *b"1970-01-01T00:00:00";
    two_digits(&mut text[0..2], year / 100);
    two_digits(&mut text[2..4], year % 100);
    two_digits(&mut text[5..7], month);
    two_digits(&mut text[8..10], day);
    two_digits(&mut text[11..13], second_of_day / 3_600);
    two_digits(&mut text[14..16], second_of_day / 60 % 60);
    two_digits(&mut text[17..19], second_of_day % 60);
    text
}

/// Returns the days from 1970-01-01 to a date from 1970 on, the inverse of [`civil`]. Counts the days
/// of years that begin with March, like [`civil`].
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let year = year.checked_sub(u64::from(month <= 2))?;
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    (year * 365 + year / 4 - year / 100 + year / 400 + day_of_year).checked_sub(719_468)
}

/// Parses a time in UTC in the form of [`date_time`], with or without the zone `Z`, into seconds since
/// 1970. `None` for other texts.
pub fn unix_seconds_of(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<u64>().ok();
    let days = days_of(number(0..4)?, number(5..7)?, number(8..10)?)?;
    let seconds = days * DAY_SECONDS + number(11..13)? * 3_600 + number(14..16)? * 60 + number(17..19)?;
    // Rejects dates that do not exist, and other separators.
    (date_time(seconds) == text.as_bytes()).then_some(seconds)
}

/// Writes `value`, which is below 100, as two digits.
pub fn two_digits(place: &mut [u8], value: u64) {
    place.copy_from_slice(&[b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_time_is_read_back() {
        for seconds in (0..UNIX_SECONDS_MAX).step_by(86_400 * 7 + 12_347) {
            let text = String::from_utf8(date_time(seconds).to_vec()).unwrap();
            assert_eq!(unix_seconds_of(&text), Some(seconds), "{text}");
        }
        assert_eq!(unix_seconds_of("2024-02-29T12:34:56Z"), Some(1_709_210_096));
    }

    #[test]
    fn time_that_does_not_exist_is_rejected() {
        for bad in [
            "",
            "2024-02-30T00:00:00",
            "2023-02-29T00:00:00",
            "2024-13-01T00:00:00",
            "2024-00-01T00:00:00",
            "2024-01-00T00:00:00",
            "2024-01-01T24:00:00",
            "2024-01-01T00:60:00",
            "1969-12-31T23:59:59",
            "0000-01-01T00:00:00",
            "2024-01-01 00:00:00",
            "2024-01-01T00:00:00+01:00",
            "2024-1-01T00:00:00",
            "+024-01-01T00:00:00",
            "2024-01-01T00:00:0\u{e9}",
        ] {
            assert_eq!(unix_seconds_of(bad), None, "{bad}");
        }
    }
}
