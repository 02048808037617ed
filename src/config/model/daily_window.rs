//! A time of day in which work in the background may start.

use std::fmt;

use crate::calendar::DAY_SECONDS;

/// A time of day in UTC, from a minute to another. Crosses midnight if the end is before the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DailyWindow {
    /// Minutes since midnight, below 1,440.
    from: u16,
    /// The first minute after the window, below 1,440. Never equal to `from`.
    to: u16,
}

impl DailyWindow {
    pub const EXPECTED: &str = "two different times of day in UTC such as 02:00-05:00";

    /// Parses a window: two times of day such as `02:00-05:00`. `24:00` is midnight.
    pub fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute_of_day(from)?, minute_of_day(to)?);
        (from != to).then_some(DailyWindow { from, to })
    }

    /// Returns whether the window contains a time in seconds since 1970.
    pub fn contains(self, unix_seconds: u64) -> bool {
        let minute = unix_seconds % DAY_SECONDS / 60;
        let (from, to) = (u64::from(self.from), u64::from(self.to));
        if from < to {
            (from..to).contains(&minute)
        } else {
            minute >= from || minute < to
        }
    }
}

/// Parses a time of day such as `02:00` into minutes since midnight.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hour, minute) = text.trim().split_once(':')?;
    let number = |digits: &str, max: u16| {
        let is_plain = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        let number = digits.parse::<u16>().ok().filter(|_| is_plain);
        number.filter(|&number| number <= max)
    };
    let minutes = number(hour, 24)? * 60 + number(minute, 59)?;
    match minutes {
        0..1_440 => Some(minutes),
        1_440 => Some(0),
        _ => None,
    }
}

impl fmt::Display for DailyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DailyWindow { from, to } = self;
        write!(f, "{:02}:{:02}-", from / 60, from % 60)?;
        write!(f, "{:02}:{:02}", to / 60, to % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_contains_its_start_and_not_its_end_also_across_midnight() {
        let at = |text: &str| u64::from(minute_of_day(text).unwrap()) * 60 + 7 * DAY_SECONDS;
        for (window, inside, outside) in [
            ("02:00-05:00", ["02:00", "04:59"], ["01:59", "05:00"]),
            ("22:30-01:00", ["22:30", "00:59"], ["22:29", "01:00"]),
            ("00:00-12:00", ["00:00", "11:59"], ["12:00", "23:59"]),
            ("12:00-24:00", ["12:00", "23:59"], ["00:00", "11:59"]),
        ] {
            let parsed = DailyWindow::parse(window).unwrap();
            for time in inside {
                assert!(parsed.contains(at(time)), "{window}: {time}");
            }
            for time in outside {
                assert!(!parsed.contains(at(time)), "{window}: {time}");
            }
        }
    }

    #[test]
    fn window_needs_two_different_times_of_day() {
        for text in ["02:00-05:00", "22:30-01:00", "00:00-23:59"] {
            assert_eq!(DailyWindow::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "-",
            "02:00",
            "2:00-5:00",
            "02:00-02:00",
            "00:00-24:00",
            "25:00-01:00",
            "01:60-02:00",
            "24:01-02:00",
            "+1:00-02:00",
            "02:00-05:00-06:00",
        ] {
            assert_eq!(DailyWindow::parse(bad), None, "{bad:?}");
        }
    }
}
