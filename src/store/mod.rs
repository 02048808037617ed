//! Storage of committed content and ingests. The store knows nothing about upstreams or HTTP.
//!
//! Guarantees of every store:
//! - A visible entry is complete, was verified against its digest, and never changes.
//! - An ingest is invisible until its commit. An uncommitted ingest leaves nothing behind, even
//!   after a kill or a power cut.
//! - A tag pointer or a record of referrers is replaced atomically.
//! - A store opens with any content in its directory, and serves only intact entries.
//!
//! Two stores use the same format. Calls of [`FsStore`], a directory, block and run on the helper
//! pool's blocking threads. Calls of [`S3Store`], a bucket shared by several machines, are futures
//! of the helper pool. No core ever calls a store.

mod bounds;
mod claims;
mod eviction;
mod fs;
mod index;
mod key;
mod layout;
mod meta;
mod missing;
mod mode;
mod no_room;
mod pins;
mod pointer;
mod records;
mod referrers;
mod removals;
mod s3;
mod space;
mod spool;
mod stores;
mod tag_key;
#[cfg(test)]
pub(crate) mod tests;
mod upload_holds;

pub use eviction::Minute;
pub use fs::{
    BucketIdentity, Damage, DamagedPin, Evicted, EvictionCounts, EvictionRank, FsStore, Ingest, OpenError,
    RankedBound, ReadPages, RegistryContent, Removed, SaveCursor, ScanReport, ScrubRecord, SelectedRemoval,
    StoreReader, StoreStats, StoredBlob, StoredManifest, StoredRepository, Verification, VerifyOptions,
    compare_repositories,
};
pub use index::{EntrySet, IndexedImage, ObjectName, PlannedObject, RemovalLimits, RemovalPlan};
pub use key::Key;
pub use meta::{Meta, SOURCES_MAX, Source, canonical_name};
pub use missing::MissingReference;
pub use pins::{Pin, PinError, PinMatcher, Pins};
pub use pointer::TagPointer;
pub use referrers::{RecordName, ReferrersRecord};
pub use removals::{Removals, Unseen};
pub use s3::{
    BucketListing, Content, CopyError, LISTED_PER_REQUEST, S3Body, S3Error, S3Fault, S3OpenError,
    S3Operation, S3State, S3Store,
};
pub use spool::{Room, SpoolDir, Spooled};
pub use stores::{RegistryStoreStats, Stores, StoresStats};
pub use tag_key::TagKey;
pub use upload_holds::UploadHold;

use std::io;
use std::sync::Arc;

use self::no_room::NoRoom;
use crate::oci::Digest;
use crate::shared_file::SharedFile;

/// Proof of a verification: content of `size` bytes was hashed and matches its digest. Every commit
/// requires this proof.
#[derive(Debug)]
pub struct Verified {
    digest: Digest,
    size: u64,
}

impl Verified {
    /// Compares the `wanted` digest with the digest `found` by hashing. If they differ, returns
    /// `found` as the error.
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
pub struct StoredEntry {
    pub file: SharedFile,
    pub meta: Arc<Meta>,
}

/// A failed store operation. Never a reason to fail a client.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} {path}: {source}{}", hint(.source))]
pub struct StoreError {
    pub doing: &'static str,
    pub path: String,
    pub source: io::Error,
}

impl StoreError {
    const RESERVE: &'static str = "reserve room for";

    /// Returns the error for a registry whose unfinished blobs hold its share of the free room.
    pub fn share_exhausted(digest: &Digest) -> Self {
        StoreError {
            doing: Self::RESERVE,
            path: digest.to_string(),
            source: NoRoom::Share.into(),
        }
    }

    /// Returns whether the store has no room, for any content.
    pub fn is_about_room(&self) -> bool {
        self.doing == Self::RESERVE && self.source.kind() == io::ErrorKind::StorageFull
    }

    /// Returns whether the content of a registry fills its own bound.
    pub fn is_about_registry_room(&self) -> bool {
        matches!(NoRoom::of(&self.source), Some(NoRoom::Registry(_)))
    }

    /// Returns whether the size of a registry with a bound is unknown, because the scan at start has not
    /// ended.
    pub fn is_about_scan(&self) -> bool {
        matches!(NoRoom::of(&self.source), Some(NoRoom::Unscanned(_)))
    }

    /// Returns whether the error concerns only this entry and not the store. The size, declared and
    /// possibly invented by an upstream, does not fit, or exceeds the file size limit. A quota of the
    /// file system concerns the store.
    pub fn is_about_size(&self) -> bool {
        self.is_about_room() || NoRoom::of(&self.source).is_some() || is_too_large(&self.source)
    }
}

fn is_too_large(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::FileTooLarge
}

fn hint(error: &io::Error) -> &'static str {
    if is_too_large(error) {
        "; raise the file size limit (ulimit -f, LimitFSIZE=), or use a file system without such a limit"
    } else {
        ""
    }
}
