//! Lookups and reads in the bucket. A bucket that fails or is too slow is a miss.

use std::sync::Arc;

use bytes::Bytes;

use super::{Key, Meta, RemoteBlob, Storage, Verified};
use crate::fairness::Lease;
use crate::limits::{
    BUCKET_LOOKUP_TIMEOUT, BUCKET_OPEN_TIMEOUT, BUCKET_URL_TTL, HELD_WHOLE_BYTES_MAX, MEMORY_OBJECT_BYTES_MAX,
};
use crate::oci::{Digest, Namespace};
use crate::runtime::memory_budget::Charge;
use crate::store::S3Body;

pub use crate::store::S3Error as BucketError;

/// An open part of a blob in the bucket. Counts for the registry's share of the open bodies.
pub struct RemoteBody {
    body: S3Body,
    _lease: Option<Lease>,
}

impl RemoteBody {
    /// Returns the next bytes, or `None` at the end of the body.
    ///
    /// # Errors
    ///
    /// The body broke off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BucketError> {
        self.body.chunk().await
    }
}

/// Bytes that count for the memory budget.
struct Charged {
    bytes: Bytes,
    _memory: Charge,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl RemoteBlob {
    pub fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// Whether a pull copies the blob to the disk of this machine. Otherwise clients are served
    /// from the bucket.
    pub fn is_copied_on_pull(&self) -> bool {
        self.storage.local().is_some()
    }

    /// Reads and verifies a blob of at most [`HELD_WHOLE_BYTES_MAX`]. Concurrent callers share one
    /// read. `None` if the bucket fails or the memory budget is exhausted. Call on a core.
    pub async fn read_whole(&self) -> Option<Bytes> {
        let bucket = self.storage.bucket()?;
        if self.meta.size > HELD_WHOLE_BYTES_MAX {
            return None;
        }
        let blob = self.clone();
        let helper = &self.storage.0.helper;
        let reading = bucket
            .whole_reads
            .join(helper, self.meta.digest, move |completer| async move {
                completer.complete(blob.read_charged().await);
            });
        reading.await.0.ok().flatten()
    }

    /// Reads the blob. Content above [`MEMORY_OBJECT_BYTES_MAX`] counts for the memory budget until
    /// the drop.
    async fn read_charged(&self) -> Option<Bytes> {
        let (storage, meta) = (&self.storage, &self.meta);
        let key = Key::Blob(meta.digest);
        if meta.size <= MEMORY_OBJECT_BYTES_MAX {
            let (bytes, _) = storage.read_from_bucket(&key, meta).await?;
            return Some(bytes);
        }
        let memory = storage.0.memory.take(meta.size)?;
        let (bytes, _) = storage.read_from_bucket(&key, meta).await?;
        Some(Bytes::from_owner(Charged {
            bytes,
            _memory: memory,
        }))
    }

    /// Opens the bytes from `from` up to `to`. `None` if the bucket does not send a head in time,
    /// or if the share of `namespace` is exhausted. Call on the helper pool.
    pub async fn open(&self, namespace: &Namespace, from: u64, to: u64) -> Option<RemoteBody> {
        let bucket = self.storage.bucket()?;
        // A shorter body is received whole, so no slow client holds it open.
        let lease = if to - from > HELD_WHOLE_BYTES_MAX {
            Some(bucket.reserve_read(&self.storage.0.parties.of(namespace))?)
        } else {
            None
        };
        let (store, meta) = (bucket.store().clone(), self.meta.clone());
        let opening = async move { store.read(&Key::Blob(meta.digest), &meta, from, to).await };
        let body = bucket.within_deadline(BUCKET_OPEN_TIMEOUT, opening).await?;
        Some(RemoteBody { body, _lease: lease })
    }

    /// Returns a URL of the blob in the bucket, valid for [`BUCKET_URL_TTL`]. `None` if the
    /// operator does not allow redirects. The URL is a secret. Call on a core.
    pub async fn client_url(&self) -> Option<String> {
        let bucket = self.storage.bucket().filter(|bucket| bucket.redirect)?;
        let (store, key) = (bucket.store().clone(), Key::Blob(self.meta.digest));
        let signing = async move { store.presign(&key, BUCKET_URL_TTL).await };
        self.storage.0.helper.ask(signing).await.ok()?.ok()
    }

    /// Reports that the content of the blob did not match the digest. The bucket is no source of
    /// the blob until the blob is verified. Call on the helper pool.
    pub fn quarantine(&self) {
        self.storage.quarantine_in_bucket(&Key::Blob(self.meta.digest));
    }
}

impl Storage {
    /// Returns the metadata of `key` in the bucket, in one shared lookup for concurrent callers.
    /// Call on a core.
    pub(super) async fn find_in_bucket(&self, key: Key) -> Option<Arc<Meta>> {
        let bucket = self.bucket()?;
        if !bucket.may_have(key.digest()) {
            return None;
        }
        let storage = self.clone();
        let lookup = bucket
            .lookups
            .join(&self.0.helper, key, move |completer| async move {
                let key = completer.key();
                completer.complete(storage.look_in_bucket(key).await);
            });
        lookup.await.0.ok().flatten()
    }

    /// Returns the metadata of `key` in the bucket, within [`BUCKET_LOOKUP_TIMEOUT`]. Call on the
    /// helper pool.
    pub(super) async fn look_in_bucket(&self, key: &Key) -> Option<Arc<Meta>> {
        let bucket = self.bucket()?;
        if !bucket.may_have(key.digest()) {
            return None;
        }
        let (store, key) = (bucket.store().clone(), key.clone());
        let finding = async move { store.find(&key).await };
        bucket.within_deadline(BUCKET_LOOKUP_TIMEOUT, finding).await?
    }

    /// Reads a small entry whole and verifies it. Wrong content is quarantined. Call on the helper
    /// pool.
    pub(super) async fn read_from_bucket(&self, key: &Key, meta: &Meta) -> Option<(Bytes, Verified)> {
        let bucket = self.bucket()?;
        let (store, wanted, meta) = (bucket.store().clone(), key.clone(), meta.clone());
        let (digest, size) = (meta.digest, meta.size);
        let reading = async move {
            let mut body = store.read(&wanted, &meta, 0, meta.size).await?;
            let mut bytes = Vec::new();
            while let Some(chunk) = body.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(Bytes::from(bytes))
        };
        let bytes: Bytes = if size == 0 {
            Bytes::new()
        } else {
            bucket.within_deadline(BUCKET_OPEN_TIMEOUT, reading).await?
        };
        let found = Digest::of(digest.algorithm(), &bytes);
        match Verified::check(digest, found, size) {
            Ok(verified) => Some((bytes, verified)),
            Err(_) => {
                self.quarantine_in_bucket(key);
                None
            }
        }
    }
}
