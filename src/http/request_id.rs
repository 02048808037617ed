//! The id of a request, for log lines.

use std::fmt;

/// The id of a request. Unique in the process. Printed as 16 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct RequestId(pub u64);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_has_sixteen_digits() {
        assert_eq!(RequestId(0xab).to_string(), "00000000000000ab");
        assert_eq!(RequestId(u64::MAX).to_string(), "ffffffffffffffff");
    }
}
