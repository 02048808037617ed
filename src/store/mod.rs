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
mod pointer;
mod referrers;
mod s3;
mod spool;
#[cfg(test)]
pub(crate) mod tests;

pub use fs::{FsStore, Ingest, OpenError, ScanReport};
pub use key::Key;
pub use meta::{Meta, SOURCES_MAX, Source, canonical_name};
pub use pointer::TagPointer;
pub use referrers::{RecordName, ReferrersRecord};
pub use s3::{Content, S3Body, S3Error, S3Fault, S3OpenError, S3Store};
pub use spool::{Room, SpoolDir, Spooled};

use std::fs::File;
use std::sync::Arc;

use crate::oci::Digest;

/// Proof that content of `size` bytes was hashed and found to be what its name says. Nothing is committed
/// without one.
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
#[error("cannot {doing} {path}: {source}")]
pub struct StoreError {
    pub doing: &'static str,
    pub path: String,
    pub source: std::io::Error,
}

impl StoreError {
    const RESERVE: &'static str = "reserve the room for";

    /// Whether it concerns this one entry and not the store: its size, which an upstream has told us and may
    /// have made up, does not fit.
    pub fn is_about_size(&self) -> bool {
        self.doing == Self::RESERVE
    }
}
