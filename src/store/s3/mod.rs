//! The store in a bucket that several machines share. `docs/storage-format.md` describes what lies there; the names are
//! those of the store on disk, below a prefix.
//!
//! Everything here runs on the helper pool. Not here: which content is asked for, and what is done when the bucket
//! fails (the `cache`).

mod error;

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{Key, Meta, Source, TagPointer, Verified};
use crate::config::S3Settings;
use crate::oci::{Namespace, Repository, Tag};

pub use error::{S3Error, S3Fault, S3OpenError};

/// A bucket in use; cheap to clone.
#[derive(Clone)]
pub struct S3Store(#[allow(dead_code)] Arc<Shared>);

struct Shared {}

/// What is to be stored: small content, or a file that holds it from its first byte on.
#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Bytes),
    File(Arc<File>),
}

/// The body of an object, or of a part of it, as it arrives.
pub struct S3Body(());

impl S3Body {
    /// The next bytes; `None` at the end, after exactly as many as were asked for.
    ///
    /// # Errors
    ///
    /// The body broke off, stalled, or was shorter than asked for.
    ///
    /// # Cancellation
    ///
    /// Nothing is lost; the next call goes on.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, S3Error> {
        Err(not_yet())
    }
}

fn not_yet() -> S3Error {
    S3Error {
        doing: "use",
        key: String::new(),
        fault: S3Fault::Unavailable,
        detail: String::new(),
    }
}

#[allow(unused_variables)]
impl S3Store {
    /// Opens the bucket and tries it out. An engine that cannot be reached does not stop the start: it is logged, and
    /// the store is not available until it answers.
    ///
    /// # Errors
    ///
    /// What the operator has to change: credentials, bucket, region, clock.
    pub async fn open(settings: &S3Settings) -> Result<S3Store, S3OpenError> {
        Ok(S3Store(Arc::new(Shared {})))
    }

    /// The sidecar of a sound entry, or `None`. What does not agree is removed; what was never verified is hashed first,
    /// which can take a while.
    ///
    /// # Errors
    ///
    /// The bucket failed; the caller treats it as a miss.
    pub async fn find(&self, key: &Key) -> Result<Option<Arc<Meta>>, S3Error> {
        Err(not_yet())
    }

    /// The bytes of an entry from `from` up to and without `to`.
    ///
    /// # Errors
    ///
    /// The bucket failed, or what is there is not what `meta` describes.
    pub async fn read(&self, key: &Key, meta: &Meta, from: u64, to: u64) -> Result<S3Body, S3Error> {
        Err(not_yet())
    }

    /// Stores content: data first, sidecar second.
    ///
    /// # Errors
    ///
    /// There is no entry then, or the one that was there before.
    pub async fn put(
        &self,
        key: &Key,
        content: Content,
        verified: &Verified,
        meta: &Meta,
    ) -> Result<(), S3Error> {
        Err(not_yet())
    }

    /// Notes that `source` has the content of an entry too, and that it is public, if it is. The last writer wins.
    ///
    /// # Errors
    ///
    /// It is still what it was.
    pub async fn vouch(&self, key: &Key, source: &Source, public: bool) -> Result<(), S3Error> {
        Err(not_yet())
    }

    /// Hashes an entry again and removes it unless it is right.
    pub async fn distrust(&self, key: &Key) {}

    /// The pointer of a tag for clients of an accept class; `None` when there is none or it cannot be understood.
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
        Err(not_yet())
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
        Err(not_yet())
    }

    /// A URL with which anybody may get the content for `lifetime`. A secret: not for logs.
    ///
    /// # Errors
    ///
    /// There are no credentials to sign it with.
    pub async fn presign(&self, key: &Key, lifetime: Duration) -> Result<String, S3Error> {
        Err(not_yet())
    }

    /// Whether the bucket is worth asking; `false` while it is failing.
    pub fn is_available(&self) -> bool {
        false
    }
}
