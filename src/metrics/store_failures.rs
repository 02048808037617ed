//! Failed operations of the stores.

use std::sync::atomic::{AtomicU64, Ordering};

/// An operation of a store whose failures are counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StoreOperation {
    /// A lookup in a local store that took too long.
    FsRead,
    FsWrite,
    S3Read,
    S3Write,
    S3List,
    S3Remove,
}

static FAILURES: [AtomicU64; StoreOperation::ALL.len()] =
    [const { AtomicU64::new(0) }; StoreOperation::ALL.len()];

impl StoreOperation {
    pub const ALL: [StoreOperation; 6] = [
        StoreOperation::FsRead,
        StoreOperation::FsWrite,
        StoreOperation::S3Read,
        StoreOperation::S3Write,
        StoreOperation::S3List,
        StoreOperation::S3Remove,
    ];

    /// Returns the labels `backend` and `operation`.
    pub fn labels(self) -> (&'static str, &'static str) {
        match self {
            StoreOperation::FsRead => ("fs", "read"),
            StoreOperation::FsWrite => ("fs", "write"),
            StoreOperation::S3Read => ("s3", "read"),
            StoreOperation::S3Write => ("s3", "write"),
            StoreOperation::S3List => ("s3", "list"),
            StoreOperation::S3Remove => ("s3", "remove"),
        }
    }
}

/// Counts a failed operation. A failure is the fault of a disk or of a bucket, never of a client.
pub fn count_store_failure(operation: StoreOperation) {
    FAILURES[operation as usize].fetch_add(1, Ordering::Relaxed);
}

/// Returns the number of failures of `operation` since the start of the process.
pub fn store_failures(operation: StoreOperation) -> u64 {
    FAILURES[operation as usize].load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_at_its_index_and_has_labels_of_its_own() {
        for (index, operation) in StoreOperation::ALL.into_iter().enumerate() {
            assert_eq!(operation as usize, index);
            let same = StoreOperation::ALL
                .into_iter()
                .filter(|other| other.labels() == operation.labels());
            assert_eq!(same.count(), 1, "{operation:?}");
        }
    }
}
