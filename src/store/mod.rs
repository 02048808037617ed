//! Committed content and ingests. Knows nothing about upstreams or HTTP.
//!
//! What a store promises:
//! - An entry that can be found is complete, was verified against its digest, and never changes.
//! - An ingest is invisible until it is committed, and leaves nothing behind when it is not, kills and power
//!   cuts included.
//! - A tag pointer, and a record of referrers, is replaced as a whole or not at all.
//! - Whatever lies in the directory, a store opens and serves what is sound.
//!
//! Two places keep content in the same form: a directory ([`FsStore`]), whose calls block and run on the helper pool's
//! blocking threads, and a bucket that several machines share ([`S3Store`]), whose calls are futures of the helper pool.
//! Neither is ever called on a core.

mod fs;
mod key;
mod layout;
mod meta;
mod mode;
mod pointer;
mod records;
mod referrers;
mod s3;
mod spool;
mod tag_key;
#[cfg(test)]
pub(crate) mod tests;

pub use fs::{FsStore, Ingest, OpenError, ScanReport};
pub use key::Key;
pub use meta::{Meta, SOURCES_MAX, Source, canonical_name};
pub use pointer::TagPointer;
pub use referrers::{RecordName, ReferrersRecord};
pub use s3::{Content, S3Body, S3Error, S3Fault, S3OpenError, S3Store};
pub use spool::{Room, SpoolDir, Spooled};
pub use tag_key::TagKey;

use std::fs::File;
use std::sync::Arc;

use crate::oci::Digest;

/// The result of a verification: content of `size` bytes was hashed and matches its digest. Nothing is committed
/// without it.
#[derive(Debug)]
pub struct Verified {
    digest: Digest,
    size: u64,
}

impl Verified {
    /// Compares what was `wanted` with what was `found` by hashing; gives what was found back when they differ.
    pub fn check(wanted: Digest, found: Digest, size: u64) -> Result<Self, Digest> {
        if wanted == found {
            Ok(Verified { digest: wanted, size })
        } else {
            Err(found)
        }
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Committed content and its sidecar.
#[derive(Clone, Debug)]
pub struct Entry {
    pub file: Arc<File>,
    pub meta: Arc<Meta>,
}

/// A failed store operation. Never a reason to fail a client.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}{}", hint(.source))]
pub struct StoreError {
    pub doing: &'static str,
    pub path: String,
    pub source: std::io::Error,
}

/// Bytes of the file system that holds `dir` for which there is room. A file system without this information has room for anything.
fn free_room(dir: &std::path::Path) -> u64 {
    match rustix::fs::statvfs(dir) {
        Ok(stat) if stat.f_blocks > 0 => stat.f_bavail.saturating_mul(stat.f_frsize),
        _ => u64::MAX,
    }
}

/// Reserves the room of `file` from `from` to `to`, without growing the file: a size that runs ahead of the data would
/// survive a power cut as zeros. A file system that cannot do so reserves nothing.
fn reserve(file: &File, from: u64, to: u64) -> std::io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;
    match fallocate(file, FallocateFlags::KEEP_SIZE, from, to - from) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

impl StoreError {
    const RESERVE: &'static str = "reserve the room for";

    /// The registry that `digest` comes from holds its share of the free room already.
    pub fn share_exhausted(digest: &Digest) -> Self {
        StoreError {
            doing: Self::RESERVE,
            path: digest.to_string(),
            source: std::io::Error::other(
                "unfinished blobs of its registry take their share of the free room",
            ),
        }
    }

    /// Whether it concerns this one entry and not the store: its size, which an upstream has declared and may
    /// have made up, does not fit, or files may not be as large.
    pub fn is_about_size(&self) -> bool {
        self.doing == Self::RESERVE || is_too_large(&self.source)
    }
}

fn is_too_large(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::FileTooLarge
}

fn hint(error: &std::io::Error) -> &'static str {
    if is_too_large(error) {
        "; raise the limit of the file size (ulimit -f, LimitFSIZE=), or use a file system without such a limit"
    } else {
        ""
    }
}
