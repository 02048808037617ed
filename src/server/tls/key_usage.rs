//! Tracks the key usage of a kTLS session, whose keys cannot be changed. Counts records and
//! performs no I/O.

use crate::limits::{KTLS_RECORDS_MAX, KTLS_RECORDS_SOFT_MAX};

/// The content length of the longest record.
const RECORD_BYTES: usize = 16 * 1024;

/// The usage of keys after a number of encrypted records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyUsage {
    Ok,
    /// Near the limit. Valid for responses in progress, but not for further requests.
    NearLimit,
    /// Exhausted. The keys must not be used again.
    Exhausted,
}

impl KeyUsage {
    pub fn after(records: u64) -> Self {
        match records {
            ..KTLS_RECORDS_SOFT_MAX => KeyUsage::Ok,
            KTLS_RECORDS_SOFT_MAX..KTLS_RECORDS_MAX => KeyUsage::NearLimit,
            KTLS_RECORDS_MAX.. => KeyUsage::Exhausted,
        }
    }
}

/// Returns the maximum number of records for a call with `bytes` of content: full records, and one
/// that ends with the call.
pub fn records_of(bytes: usize) -> u64 {
    bytes.div_ceil(RECORD_BYTES) as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_usage_follows_the_record_limits() {
        for (records, usage) in [
            (0, KeyUsage::Ok),
            (KTLS_RECORDS_SOFT_MAX - 1, KeyUsage::Ok),
            (KTLS_RECORDS_SOFT_MAX, KeyUsage::NearLimit),
            (KTLS_RECORDS_MAX - 1, KeyUsage::NearLimit),
            (KTLS_RECORDS_MAX, KeyUsage::Exhausted),
            (u64::MAX, KeyUsage::Exhausted),
        ] {
            assert_eq!(KeyUsage::after(records), usage, "{records}");
        }
    }

    #[test]
    fn a_call_counts_for_no_fewer_records_than_it_makes() {
        // An earlier call may have left a record open, which the first bytes complete.
        assert_eq!(records_of(1), 2);
        assert_eq!(records_of(RECORD_BYTES), 2);
        assert_eq!(records_of(RECORD_BYTES + 1), 3);
    }
}
