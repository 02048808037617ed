//! For how much the keys of a session are good that cannot be changed. Counts records, and knows nothing of sockets.

use crate::limits::{KERNEL_TLS_RECORDS, KERNEL_TLS_RECORDS_MAX};

/// Content of the longest record.
const RECORD_BYTES: usize = 16 * 1024;

/// What keys are good for that have encrypted so many records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wear {
    /// For everything.
    None,
    /// For what is under way, and no further request.
    Worn,
    /// For nothing more.
    UsedUp,
}

impl Wear {
    pub fn after(records: u64) -> Self {
        match records {
            ..KERNEL_TLS_RECORDS => Wear::None,
            KERNEL_TLS_RECORDS..KERNEL_TLS_RECORDS_MAX => Wear::Worn,
            KERNEL_TLS_RECORDS_MAX.. => Wear::UsedUp,
        }
    }
}

/// Records that one call with so many bytes of content makes, at most: full ones, and one that ends with the call.
pub fn records_of(bytes: usize) -> u64 {
    bytes.div_ceil(RECORD_BYTES) as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worn_keys_take_no_request_and_used_up_ones_send_nothing() {
        for (records, wear) in [
            (0, Wear::None),
            (KERNEL_TLS_RECORDS - 1, Wear::None),
            (KERNEL_TLS_RECORDS, Wear::Worn),
            (KERNEL_TLS_RECORDS_MAX - 1, Wear::Worn),
            (KERNEL_TLS_RECORDS_MAX, Wear::UsedUp),
            (u64::MAX, Wear::UsedUp),
        ] {
            assert_eq!(Wear::after(records), wear, "{records}");
        }
    }

    #[test]
    fn a_call_counts_for_no_fewer_records_than_it_makes() {
        // What came before may have left a record open, which the first bytes fill.
        assert_eq!(records_of(1), 2);
        assert_eq!(records_of(RECORD_BYTES), 2);
        assert_eq!(records_of(RECORD_BYTES + 1), 3);
    }
}
