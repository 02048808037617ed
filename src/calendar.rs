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

/// Parses a time in UTC, as in RFC 3339, into seconds since 1970. The zone `Z` may be absent. `None`
/// for other texts, and for times before 1970.
pub fn unix_seconds_of(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let (date, time) = text.split_once('T')?;
    let number = |text: &str, digits: usize| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| text.parse::<u64>().ok()).flatten()
    };
    let mut date = date.splitn(3, '-');
    let (year, month, day) = (
        number(date.next()?, 4)?,
        number(date.next()?, 2)?,
        number(date.next()?, 2)?,
    );
    let mut time = time.splitn(3, ':');
    let (hour, minute, second) = (
        number(time.next()?, 2)?,
        number(time.next()?, 2)?,
        number(time.next()?, 2)?,
    );
    let in_day = hour < 24 && minute < 60 && second < 60;
    let days = days_since_1970(year, month, day)?;
    in_day.then_some(days * DAY_SECONDS + hour * 3_600 + minute * 60 + second)
}

/// Returns the days from 1970-01-01 to a date, the inverse of [`civil`]. `None` for a date that does
/// not exist, or before 1970.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if year < 1970 || !(1..=12).contains(&month) {
        return None;
    }
    let before = |year: u64| year * 365 + year / 4 - year / 100 + year / 400;
    let mut days = before(year - 1) - before(1969);
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let lengths = [
        31,
        28 + u64::from(is_leap),
        31,
        30,
        31,
        30,
        31,
        31,
        30,
        31,
        30,
        31,
    ];
    days += lengths.iter().take(month as usize - 1).sum::<u64>();
    let is_in_month = (1..=lengths[month as usize - 1]).contains(&day);
    is_in_month.then_some(days + day - 1)
}

/// Writes `value`, which is below 100, as two digits.
pub fn two_digits(place: &mut [u8], value: u64) {
    place.copy_from_slice(&[b'0' + (value / 10) as u8, b'0' + (value % 10) as u8]);
}
