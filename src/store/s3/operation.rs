//! The operations on a bucket, for errors and metrics.

use std::fmt;

use crate::metrics::StoreOperation;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum S3Operation {
    Read,
    ReadSize,
    ReadLifecycle,
    ChangeLifecycle,
    List,
    Remove,
    RemoveParts,
    Write,
    Mark,
    Store,
    StorePart,
    Complete,
    Create,
    Sign,
    Test,
}

impl S3Operation {
    /// Returns the operation that the metrics count.
    pub(super) fn measured(self) -> StoreOperation {
        match self {
            S3Operation::Read | S3Operation::ReadSize | S3Operation::ReadLifecycle | S3Operation::Test => {
                StoreOperation::S3Read
            }
            S3Operation::List => StoreOperation::S3List,
            S3Operation::Remove | S3Operation::RemoveParts => StoreOperation::S3Remove,
            S3Operation::ChangeLifecycle
            | S3Operation::Write
            | S3Operation::Mark
            | S3Operation::Store
            | S3Operation::StorePart
            | S3Operation::Complete
            | S3Operation::Create
            | S3Operation::Sign => StoreOperation::S3Write,
        }
    }
}

/// Writes the verb of an error, as in `cannot read …`.
impl fmt::Display for S3Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            S3Operation::Read => "read",
            S3Operation::ReadSize => "read the size of",
            S3Operation::ReadLifecycle => "read the lifecycle of",
            S3Operation::ChangeLifecycle => "change the lifecycle of",
            S3Operation::List => "list",
            S3Operation::Remove => "remove",
            S3Operation::RemoveParts => "remove the parts of",
            S3Operation::Write => "write",
            S3Operation::Mark => "mark",
            S3Operation::Store => "store",
            S3Operation::StorePart => "store a part of",
            S3Operation::Complete => "complete",
            S3Operation::Create => "create",
            S3Operation::Sign => "sign a request for",
            S3Operation::Test => "test",
        })
    }
}
