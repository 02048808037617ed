//! Times in the zone of this machine, which `TZ` or `/etc/localtime` names, for output and options in
//! the form of other caches.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::calendar::{date_time, unix_seconds_of};

/// Formats a time in seconds since 1970 as `YYYY-MM-DDTHH:MM:SS` in the zone of this machine.
pub fn local_date_time(seconds: u64) -> String {
    date_time_in(&TimeZone::system(), seconds)
}

/// Parses `YYYY-MM-DDTHH:MM:SS` in the zone of this machine, or in UTC with the zone `Z`, into seconds
/// since 1970. `None` for other texts. A time that occurs twice is the first of both, and a time that
/// a change of the clock skips is the later time.
pub fn unix_seconds_of_local(text: &str) -> Option<u64> {
    seconds_in(&TimeZone::system(), text)
}

fn date_time_in(zone: &TimeZone, seconds: u64) -> String {
    let in_utc = || String::from_utf8_lossy(&date_time(seconds)).into_owned();
    let timestamp = i64::try_from(seconds).ok();
    let timestamp = timestamp.and_then(|seconds| Timestamp::from_second(seconds).ok());
    timestamp.map_or_else(in_utc, |timestamp| {
        zone.to_datetime(timestamp)
            .strftime("%Y-%m-%dT%H:%M:%S")
            .to_string()
    })
}

fn seconds_in(zone: &TimeZone, text: &str) -> Option<u64> {
    if text.ends_with('Z') {
        return unix_seconds_of(text);
    }
    // Rejects every other form of a date.
    unix_seconds_of(text)?;
    let local: DateTime = text.parse().ok()?;
    let timestamp = zone.to_timestamp(local).ok()?;
    u64::try_from(timestamp.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone(posix: &str) -> TimeZone {
        TimeZone::posix(posix).expect("a zone")
    }

    /// Central Europe: one hour east of Greenwich, two hours in summer.
    fn berlin() -> TimeZone {
        zone("CET-1CEST,M3.5.0,M10.5.0/3")
    }

    #[test]
    fn time_is_written_in_the_zone_and_read_back() {
        for (seconds, text) in [
            (1_709_210_096, "2024-02-29T13:34:56"),
            (1_719_830_096, "2024-07-01T12:34:56"),
        ] {
            assert_eq!(date_time_in(&berlin(), seconds), text);
            assert_eq!(seconds_in(&berlin(), text), Some(seconds));
        }
        assert_eq!(seconds_in(&berlin(), "2024-02-29T12:34:56Z"), Some(1_709_210_096));
        assert_eq!(
            seconds_in(&TimeZone::UTC, "2024-02-29T12:34:56"),
            Some(1_709_210_096)
        );
    }

    #[test]
    fn skipped_and_repeated_times_are_read() {
        // 02:30 does not exist on the last Sunday of March, and occurs twice in October.
        assert_eq!(
            seconds_in(&berlin(), "2024-03-31T02:30:00"),
            unix_seconds_of("2024-03-31T01:30:00")
        );
        assert_eq!(
            seconds_in(&berlin(), "2024-10-27T02:30:00"),
            unix_seconds_of("2024-10-27T00:30:00")
        );
    }

    #[test]
    fn other_form_is_rejected() {
        for text in [
            "",
            "2024-02-30T00:00:00",
            "2024-02-29",
            "2024-02-29 12:34:56",
            "2024-02-29T12:34:56+01:00",
        ] {
            assert_eq!(seconds_in(&berlin(), text), None, "{text}");
        }
    }
}
