//! The bounds of the local store.

use super::units::parse_bytes;

pub const SIZE_EXPECTED: &str =
    "a size such as 500m, 1g or plain bytes, or a part of the file system such as 80%";

/// A size, or a part of a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeBound {
    Bytes(u64),
    /// 1 to 100.
    Percent(u8),
}

/// The bounds of the local store. An absent bound has a default that depends on the file system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreBounds {
    /// Bytes of all content. `None` and 0 mean no bound besides `free_min`.
    pub size_max: Option<SizeBound>,
    /// Free bytes of the file system.
    pub free_min: Option<SizeBound>,
    /// Bytes of a single object. A percentage is a part of `size_max`. 0 means no bound.
    pub object_max: Option<SizeBound>,
}

impl SizeBound {
    /// Returns the bytes of the bound, for a percentage the part of `whole`.
    pub fn of(self, whole: u64) -> u64 {
        match self {
            SizeBound::Bytes(bytes) => bytes,
            // At most `whole`, so the result fits.
            SizeBound::Percent(percent) => (u128::from(whole) * u128::from(percent) / 100) as u64,
        }
    }

    /// Formats the bound for [`SizeBound::parse`].
    pub fn shown(self) -> String {
        match self {
            SizeBound::Bytes(bytes) => bytes.to_string(),
            SizeBound::Percent(percent) => format!("{percent}%"),
        }
    }

    /// Parses a size, or a percentage.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_suffix('%') {
            Some(percent) => {
                let percent: u8 = percent.trim_end().parse().ok()?;
                (1..=100)
                    .contains(&percent)
                    .then_some(SizeBound::Percent(percent))
            }
            None => parse_bytes(text).map(SizeBound::Bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_bounds_are_sizes_or_percentages() {
        for (text, bound) in [
            ("1g", SizeBound::Bytes(1 << 30)),
            ("500m", SizeBound::Bytes(500 << 20)),
            ("1024k", SizeBound::Bytes(1 << 20)),
            ("1.5G", SizeBound::Bytes(3 << 29)),
            ("0.5t", SizeBound::Bytes(1 << 39)),
            ("2048b", SizeBound::Bytes(2048)),
            ("0", SizeBound::Bytes(0)),
            ("4096", SizeBound::Bytes(4096)),
            ("80%", SizeBound::Percent(80)),
            ("100 %", SizeBound::Percent(100)),
        ] {
            assert_eq!(SizeBound::parse(text), Some(bound), "{text}");
            assert_eq!(SizeBound::parse(&bound.shown()), Some(bound), "{text}");
        }
        for bad in ["", "0%", "101%", "-1%", "%", "x", "1.5%", "80%%"] {
            assert_eq!(SizeBound::parse(bad), None, "{bad}");
        }
        assert_eq!(SizeBound::Percent(80).of(u64::MAX), u64::MAX / 100 * 80 + 12);
        assert_eq!(SizeBound::Bytes(7).of(1), 7);
    }
}
