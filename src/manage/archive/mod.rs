//! Reads archives of unknown origin: tar, plain or compressed with gzip or zstd. The content decides the
//! form, never the name. Nothing is written to the file system, and the memory has a bound.

mod decode;
mod entries;
mod header;
mod path;
#[cfg(test)]
mod tests;

pub use decode::decoded;
pub use entries::{Entries, Entry, EntryKind};
pub use path::{inside, resolved};

use std::io;

use crate::limits::{
    ARCHIVE_ENTRIES_MAX, ARCHIVE_EXPANSION_MAX, ARCHIVE_EXTENSION_BYTES_MAX, ARCHIVE_TAIL_BYTES_MAX,
};

/// The reason why a file is no readable archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("the archive ends early, after {0} bytes; copy the file again")]
    Truncated(u64),
    #[error("the archive is no tar file: the header at byte {0} has a wrong checksum; copy the file again")]
    Header(u64),
    #[error("the header at byte {at} has an invalid {field}")]
    Field { at: u64, field: &'static str },
    #[error("the entry {0:?} lies outside of the archive")]
    Outside(String),
    #[error("the archive has a sparse file, which no image has")]
    Sparse,
    #[error("the archive has more than {ARCHIVE_ENTRIES_MAX} entries")]
    TooManyEntries,
    #[error("the name of an entry takes more than {} KiB", ARCHIVE_EXTENSION_BYTES_MAX >> 10)]
    LongExtension,
    #[error("the compressed archive grows by more than {ARCHIVE_EXPANSION_MAX} times, which no image does")]
    Expansion,
    #[error("the archive has more than {} KiB after its end", ARCHIVE_TAIL_BYTES_MAX >> 10)]
    Tail,
    #[error("cannot read the archive: {0}")]
    Read(io::Error),
}

impl From<io::Error> for ArchiveError {
    /// A reader reports an own error of an archive as the source of an [`io::Error`].
    fn from(error: io::Error) -> Self {
        match error.downcast::<ArchiveError>() {
            Ok(own) => own,
            Err(error) => ArchiveError::Read(error),
        }
    }
}
