//! Parsers of switches, sizes and durations.

use std::time::Duration;

pub const BOOL_EXPECTED: &str = "true, false, yes, no, on, off, 1 or 0";
pub const BYTES_EXPECTED: &str = "a size such as 64MiB, 1GiB, 500MB or plain bytes";
/// The digits of a fraction that count. Further digits are less than a byte of a TiB.
const FRACTION_DIGITS: usize = 18;

pub const DURATION_EXPECTED: &str = "a duration such as 500ms, 60s, 10m, 2h, 1d or plain seconds";

/// Parses a switch, without regard to case.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Parses a size, without regard to case. `K`, `KiB`, `M`, `MiB`… are powers of 1024. `KB`, `MB`… are powers of 1000.
/// Rounds a fraction down to bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let is_of_number = |c: char| c.is_ascii_digit() || c == '.';
    let end = text.find(|c| !is_of_number(c)).unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim_start());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    if fraction.contains('.') {
        return None;
    }
    let whole = whole.parse::<u64>().ok()?.checked_mul(factor)?;
    // The digits are a number below 2^60, and the factor is below 2^41, so the product fits.
    let digits = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let part = u128::from(digits.parse::<u64>().ok()?) * u128::from(factor);
    let part = part / 10_u128.pow(digits.len() as u32);
    whole.checked_add(u64::try_from(part).ok()?)
}

/// Parses a duration: a whole number with a unit. A number without a unit means seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text);
    let millis: u64 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number?.checked_mul(millis).map(Duration::from_millis)
}

/// Parses a duration of more than zero. A number without a unit means milliseconds.
pub fn parse_pull_timeout(text: &str) -> Option<Duration> {
    let duration = match text.parse() {
        Ok(millis) => Some(Duration::from_millis(millis)),
        Err(_) => parse_duration(text),
    };
    duration.filter(|duration| !duration.is_zero())
}

/// Parses a duration in the form of Go, with days: numbers with units, such as `1h30m`. Rounds down to
/// nanoseconds.
pub fn parse_go_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    loop {
        let end = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let nanos: u64 = match &rest[..end] {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return None,
        };
        sum = sum.checked_add(Duration::from_nanos(number.checked_mul(nanos)?))?;
        rest = &rest[end..];
        if rest.is_empty() {
            return Some(sum);
        }
    }
}

/// Formats a duration in its largest whole unit, for [`parse_duration`]. Rounds down to milliseconds.
pub fn shown_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units
        .iter()
        .find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    let (unit, name) = whole.copied().unwrap_or((1, "ms"));
    format!("{}{name}", millis / unit)
}

/// Splits a text into its digits and its unit, without blanks between.
fn split_unit(text: &str) -> (Option<u64>, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (text[..end].parse().ok(), text[end..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_1024_unless_written_with_a_plain_b() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64MiB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1g", 1 << 30),
            ("1GB", 1_000_000_000),
            ("2KiB", 2048),
            ("3tib", 3 << 40),
            ("1.5G", 3 << 29),
            ("0.25 MiB", 1 << 18),
            ("1.5GB", 1_500_000_000),
            ("2.9999999999999999999999k", 3071),
            ("1.9", 1),
        ] {
            assert_eq!(parse_bytes(text), Some(bytes), "{text}");
        }
        for bad in [
            "",
            "MiB",
            "-1",
            "1.5.5G",
            "1.G",
            ".5G",
            "1XB",
            "99999999999999999999",
            "99999999999T",
            "1 2",
        ] {
            assert_eq!(parse_bytes(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn times_are_whole_numbers_with_a_unit_or_seconds() {
        for (text, millis) in [
            ("500ms", 500),
            ("60s", 60_000),
            ("60", 60_000),
            ("10m", 600_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for bad in [
            "",
            "s",
            "1w",
            "1.5s",
            "-1s",
            "1M",
            "99999999999999999999d",
            "9999999999999999d",
        ] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn go_durations_are_sums_of_numbers_with_units() {
        for (text, nanos) in [
            ("30d", 30 * 86_400_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1d12h", 129_600_000_000_000),
            ("5ns", 5),
            ("7us", 7_000),
            ("2ms3us", 2_003_000),
            ("0s", 0),
        ] {
            assert_eq!(
                parse_go_duration(text),
                Some(Duration::from_nanos(nanos)),
                "{text}"
            );
        }
        for bad in ["", "5", "h", "1w", "1h5", "-1s", "1.5h", "1 h", "999999999999d"] {
            assert_eq!(parse_go_duration(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn shown_duration_is_short_and_parses_to_itself() {
        for text in ["30d", "36h", "90m", "61s", "1500ms", "0ms"] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(shown_duration(duration), text);
        }
    }

    #[test]
    fn booleans_accept_eight_words() {
        for (text, value) in [
            ("true", true),
            ("ON", true),
            ("Yes", true),
            ("1", true),
            ("false", false),
            ("off", false),
            ("no", false),
            ("0", false),
        ] {
            assert_eq!(parse_bool(text), Some(value), "{text}");
        }
        for bad in ["", "2", "enable", "y", "tru"] {
            assert_eq!(parse_bool(bad), None, "{bad:?}");
        }
    }
}
