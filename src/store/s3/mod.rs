//! The store in a bucket that several machines share. `docs/reference/storage-format.md` describes the objects; their names are
//! those of the store on disk, below a prefix.
//!
//! Everything here runs on the helper pool. Not here: the choice of the requested content, and the fallback for a
//! failed bucket (the `cache`).

mod circuit_breaker;
mod connect;
mod connections;
mod error;
mod find;
mod lifecycle;
mod object;
mod open;
mod pool;
mod read;
mod records;
mod sidecars;
mod tags;
mod tls;
mod upload;

use std::collections::HashSet;
use std::fs::File;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::{Key, Meta, RecordName, ReferrersRecord, Source, TagPointer, Verified, layout};
use crate::config::S3Settings;
use crate::limits::S3_PRESIGNED_TTL_MAX;
use crate::oci::{Namespace, Repository, Tag};

use circuit_breaker::CircuitBreaker;
use records::Written;
use sidecars::Sidecars;

pub use error::{S3Error, S3Fault, S3OpenError};
pub use read::S3Body;

#[cfg(test)]
pub(super) mod tests;

/// A bucket in use; cheap to clone.
#[derive(Clone)]
pub struct S3Store(Arc<Shared>);

struct Shared {
    client: Client,
    bucket: String,
    prefix: String,
    lifecycle_days: u32,
    /// Whether the engine is spoken to without TLS, so that bodies have to be signed.
    plain: bool,
    /// The bucket was tried out, so what is refused from then on is not there: engines say so to who may not list.
    tried: AtomicBool,
    breaker: CircuitBreaker,
    sidecars: Sidecars,
    written: Written,
    /// Entries of an older system that are being hashed.
    adopting: Mutex<HashSet<Key>>,
    uploads: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    /// For bodies that are read without waiting for a client.
    short_reads: Arc<Semaphore>,
    hashes: Semaphore,
}

/// What is to be stored: small content, or a file that holds it from its first byte on.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Bytes),
    File(Arc<File>),
}

impl S3Store {
    /// Opens the bucket and tries it out. An engine that cannot be reached does not stop the start: it is logged, and
    /// the store is not available until it answers.
    ///
    /// # Errors
    ///
    /// What the operator has to change: credentials, bucket, region, clock.
    pub async fn open(settings: &S3Settings) -> Result<S3Store, S3OpenError> {
        let sdk = connect::of_machine(settings).await;
        Self::open_at(&sdk, settings).await
    }

    /// The sidecar of a sound entry, or `None`. What does not agree is removed; what was never verified is hashed first,
    /// which can take a while.
    ///
    /// # Errors
    ///
    /// The bucket failed; the caller treats it as a miss.
    ///
    /// # Cancellation
    ///
    /// Hashing goes on, and its result is found the next time.
    pub async fn find(&self, key: &Key) -> Result<Option<Arc<Meta>>, S3Error> {
        self.find_entry(key).await
    }

    /// The bytes of an entry from `from` up to and without `to`, which is at most `meta.size`.
    ///
    /// # Errors
    ///
    /// The bucket failed, or what is there is not what `meta` describes; the next [`find`](Self::find) looks again.
    pub async fn read(&self, key: &Key, meta: &Meta, from: u64, to: u64) -> Result<S3Body, S3Error> {
        self.open_body(key, meta, from, to).await
    }

    /// Stores content: data first, sidecar second. What is there already and sound stays, and learns what `meta` knows
    /// besides.
    ///
    /// # Errors
    ///
    /// There is no entry then, or the one that was there before.
    ///
    /// # Cancellation
    ///
    /// As an error; parts of an upload are removed.
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

    /// Records that `source` has the content of an entry too, and that it is public, if it is. The last writer wins.
    ///
    /// # Errors
    ///
    /// It is still what it was.
    pub async fn record_source(&self, key: &Key, source: &Source, public: bool) -> Result<(), S3Error> {
        self.learn(key, std::slice::from_ref(source), public)
            .await
            .map(drop)
    }

    /// Hashes an entry again and removes it unless it is right; the next request fills it anew.
    pub async fn verify(&self, key: &Key) {
        self.recheck(key).await;
    }

    /// Removes an entry that has the bytes of its name, but is not of its kind, unless it is no longer what `seen` describes.
    pub async fn discard(&self, key: &Key, seen: &Meta, why: &str) {
        self.discard_unfit(key, seen, why).await;
    }

    /// The pointer of a tag for clients of an accept class; `None` when there is none or it cannot be understood, which the
    /// next check repairs.
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
    /// The old pointer, or none, is still there.
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

    /// A record of referrers; `None` when there is none or it cannot be understood, which the next answer of the registry
    /// repairs.
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

    /// Replaces a record of referrers; the last writer wins. One that is too large is not kept, and neither is the old one.
    /// The same record is not written again for [`S3_RECORD_REWRITE_INTERVAL`](crate::limits::S3_RECORD_REWRITE_INTERVAL).
    ///
    /// # Errors
    ///
    /// The old record, or none, is still there.
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

    /// Removes a record of referrers, if there is one.
    ///
    /// # Errors
    ///
    /// It may still be there.
    pub async fn remove_record(
        &self,
        namespace: &Namespace,
        repository: &Repository,
        name: &RecordName,
    ) -> Result<(), S3Error> {
        self.drop_record(&layout::record(namespace, repository, name))
            .await
    }

    /// Returns a URL that grants any client the content for `lifetime`, at most [`S3_PRESIGNED_TTL_MAX`]. A secret: not for
    /// logs. No request is made; [`find`](Self::find) checks whether the content is there.
    ///
    /// # Errors
    ///
    /// There are no credentials to sign it with.
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
            Err(error) => Err(error::classify("sign a request for", name, &error)),
        }
    }

    /// Whether entries of an older system are being hashed, which takes as long as it takes.
    pub fn is_adopting(&self) -> bool {
        let adopting = self.0.adopting.lock();
        !adopting
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .is_empty()
    }

    /// Bodies longer than [`HELD_WHOLE_BYTES_MAX`](crate::limits::HELD_WHOLE_BYTES_MAX) that could be opened beside those that
    /// are.
    pub fn free_reads(&self) -> usize {
        self.0.reads.available_permits()
    }

    /// Whether requests are allowed; `false` while the circuit breaker is tripped, or until the bucket was tried out.
    pub fn is_available(&self) -> bool {
        self.0.is_available()
    }
}
