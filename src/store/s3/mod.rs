//! The store in a bucket shared by several machines. `docs/reference/storage-format.md` describes the
//! objects. Object names are the names of the store on disk, below a prefix.
//!
//! Everything here runs on the helper pool. The `cache` chooses the content to read, and handles a
//! failed bucket.

mod circuit_breaker;
mod connect;
mod connections;
mod copy;
mod error;
mod find;
mod lifecycle;
mod object;
mod open;
mod operation;
mod pool;
mod read;
mod records;
mod sidecars;
mod tags;
mod tls;
mod upload;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::claims::Claims;
use super::{BucketIdentity, Key, Meta, RecordName, ReferrersRecord, Source, TagPointer, Verified, layout};
use crate::config::S3Settings;
use crate::limits::S3_PRESIGNED_TTL_MAX;
use crate::oci::{Namespace, Repository, Tag};
use crate::shared_file::SharedFile;

use circuit_breaker::CircuitBreaker;
use records::Written;
use sidecars::Sidecars;

pub use copy::{BucketListing, CopyError, LISTED_PER_REQUEST};
pub use error::{S3Error, S3Fault, S3OpenError};
pub use operation::S3Operation;
pub use read::S3Body;

#[cfg(test)]
pub(super) mod tests;

/// A bucket in use. Cheap to clone.
#[derive(Clone)]
pub struct S3Store(Arc<Shared>);

struct Shared {
    client: Client,
    bucket: String,
    prefix: String,
    lifecycle_days: u32,
    /// Whether the connection has no TLS, so that bodies have to be signed.
    plain: bool,
    /// Whether the self-test is done. Afterwards a denied read counts as a missing object, because
    /// engines deny reads of missing objects without list permission.
    tried: AtomicBool,
    breaker: CircuitBreaker,
    sidecars: Sidecars,
    written: Written,
    /// Entries of an older system that are being hashed.
    adopting: Claims,
    uploads: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// Slots for bodies read without waiting for a client.
    short_reads: Arc<Semaphore>,
    hashes: Semaphore,
}

/// The state of the bucket, for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum S3State {
    Available,
    /// The circuit breaker is tripped.
    Suspended,
    /// No self-test has succeeded since the start of the process.
    Untested,
}

impl S3State {
    pub const ALL: [S3State; 3] = [S3State::Available, S3State::Suspended, S3State::Untested];

    /// Returns the label of the state.
    pub fn word(self) -> &'static str {
        match self {
            S3State::Available => "available",
            S3State::Suspended => "suspended",
            S3State::Untested => "untested",
        }
    }
}

/// Content to store: bytes in memory, or a file with the content from its first byte on.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Bytes),
    File(SharedFile),
}

impl S3Store {
    /// Returns the bucket, for the marks of a directory in front of the bucket.
    pub fn identity(&self) -> BucketIdentity {
        BucketIdentity {
            name: self.0.bucket.clone(),
            prefix: self.0.prefix.clone(),
            lifecycle_days: self.0.lifecycle_days,
        }
    }

    /// Opens the bucket and runs a self-test. An unreachable engine does not stop the start. The
    /// failure is logged, and the store becomes available with the engine's first response.
    ///
    /// # Errors
    ///
    /// The operator has to change the configuration: credentials, bucket, region or clock.
    pub async fn open(settings: &S3Settings) -> Result<S3Store, S3OpenError> {
        let sdk = connect::of_machine(settings).await;
        Self::open_at(&sdk, settings).await
    }

    /// Returns the sidecar of an intact entry, or `None`. Removes a mismatched pair. Hashes an
    /// unverified entry first, which can take a while.
    ///
    /// # Errors
    ///
    /// The bucket failed. The caller treats the error as a miss.
    ///
    /// # Cancellation
    ///
    /// Hashing continues, and the next call finds the result.
    pub async fn find(&self, key: &Key) -> Result<Option<Arc<Meta>>, S3Error> {
        self.find_entry(key).await
    }

    /// Reads the bytes of an entry from `from` up to, but excluding, `to`. `to` is at most
    /// `meta.size`.
    ///
    /// # Errors
    ///
    /// The bucket failed, or the object does not match `meta`. The next [`find`](Self::find)
    /// queries the bucket again.
    pub async fn read(&self, key: &Key, meta: &Meta, from: u64, to: u64) -> Result<S3Body, S3Error> {
        self.open_body(key, meta, from, to).await
    }

    /// Stores content: data first, sidecar second. An intact existing entry stays, and the sources
    /// and the public flag of `meta` are added to its sidecar.
    ///
    /// # Errors
    ///
    /// The bucket has no entry, or keeps the previous entry.
    ///
    /// # Cancellation
    ///
    /// The bucket has no entry, or keeps the previous entry. Uploaded parts are removed.
    pub async fn put(
        &self,
        key: &Key,
        content: Content,
        verified: &Verified,
        meta: &Meta,
    ) -> Result<(), S3Error> {
        assert!(verified.digest() == key.digest() && verified.size() == meta.size && meta.verified);
        self.store(key, &content, meta).await
    }

    /// Records `source` as a source of an entry, and marks the entry as public if `public` is set.
    /// The last writer wins.
    ///
    /// # Errors
    ///
    /// The entry is unchanged.
    pub async fn record_source(&self, key: &Key, source: &Source, public: bool) -> Result<(), S3Error> {
        self.learn(key, std::slice::from_ref(source), public)
            .await
            .map(drop)
    }

    /// Hashes an entry again and removes a damaged entry. The next request fills a removed entry
    /// again.
    pub async fn verify(&self, key: &Key) {
        self.recheck(key).await;
    }

    /// Removes an entry with the correct digest but content of the wrong kind, unless the entry no
    /// longer matches `seen`.
    pub async fn discard(&self, key: &Key, seen: &Meta, why: &str) {
        self.discard_unfit(key, seen, why).await;
    }

    /// Returns the pointer of a tag for clients of an accept class. Returns `None` if the pointer
    /// is missing or unreadable. The next check repairs an unreadable pointer.
    ///
    /// # Errors
    ///
    /// The bucket failed.
    pub async fn find_tag(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        tag: &Tag,
        class: &str,
    ) -> Result<Option<TagPointer>, S3Error> {
        self.tag(&layout::pointer(namespace, repository, tag, class))
            .await
    }

    /// Replaces the pointer of a tag. The last writer wins.
    ///
    /// # Errors
    ///
    /// The old pointer, or no pointer, is still stored.
    pub async fn put_tag(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        tag: &Tag,
        class: &str,
        pointer: &TagPointer,
    ) -> Result<(), S3Error> {
        self.set_tag(&layout::pointer(namespace, repository, tag, class), pointer)
            .await
    }

    /// Returns a record of referrers. Returns `None` if the record is missing or unreadable. The
    /// registry's next response repairs an unreadable record.
    ///
    /// # Errors
    ///
    /// The bucket failed.
    pub async fn find_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
    ) -> Result<Option<ReferrersRecord>, S3Error> {
        self.get_record(&layout::record(namespace, repository, name), name)
            .await
    }

    /// Replaces a record of referrers. The last writer wins. If the new record is too large,
    /// removes the old record and stores nothing. Skips an unchanged record for
    /// [`S3_RECORD_REWRITE_INTERVAL`](crate::limits::S3_RECORD_REWRITE_INTERVAL).
    ///
    /// # Errors
    ///
    /// The old record, or no record, is still stored.
    pub async fn put_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
        record: &ReferrersRecord,
    ) -> Result<(), S3Error> {
        self.set_record(&layout::record(namespace, repository, name), record)
            .await
    }

    /// Removes a record of referrers, if present.
    ///
    /// # Errors
    ///
    /// The record may still be stored.
    pub async fn remove_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
    ) -> Result<(), S3Error> {
        self.drop_record(&layout::record(namespace, repository, name))
            .await
    }

    /// Returns a URL that grants any client the content for `lifetime`, at most
    /// [`S3_PRESIGNED_TTL_MAX`]. The URL is secret and must not be logged. Sends no request.
    /// [`find`](Self::find) checks whether the content exists.
    ///
    /// # Errors
    ///
    /// There are no credentials for the signature.
    pub async fn presign(&self, key: &Key, lifetime: Duration) -> Result<String, S3Error> {
        self.presign_name(
            &self.name(&layout::content(key)),
            lifetime.min(S3_PRESIGNED_TTL_MAX),
        )
        .await
    }

    async fn presign_name(&self, name: &str, lifetime: Duration) -> Result<String, S3Error> {
        let terms = PresigningConfig::expires_in(lifetime).expect("between zero and a week");
        let request = self.0.client.get_object().bucket(&self.0.bucket).key(name);
        match request.presigned(terms).await {
            Ok(signed) => Ok(signed.uri().to_owned()),
            Err(error) => Err(error::classify(S3Operation::Sign, name, &error)),
        }
    }

    /// Returns whether entries of an older system are being hashed, which may take any time.
    pub fn is_adopting(&self) -> bool {
        !self.0.adopting.is_empty()
    }

    /// Returns the number of further bodies above
    /// [`HELD_WHOLE_BYTES_MAX`](crate::limits::HELD_WHOLE_BYTES_MAX) that can be opened now.
    pub fn free_reads(&self) -> usize {
        self.0.reads.available_permits()
    }

    /// Returns the state of the bucket, for the metrics.
    pub fn state(&self) -> S3State {
        self.0.state()
    }

    /// Returns whether requests are allowed. `false` while the circuit breaker is tripped, and
    /// until the self-test is done.
    pub fn is_available(&self) -> bool {
        self.0.is_available()
    }
}
