//! Entries that are read or written whole: manifests and small blobs.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;

use super::blob::find;
use super::upload_job::UploadJob;
use super::{Key, Meta, SmallEntry, Storage, Verified};
use crate::limits::MANIFEST_PLACES_MAX;
use crate::oci::{Digest, Namespace, Origin};
use crate::shared_file::SharedFile;
use crate::store::{FsStore, StoreError};

impl Storage {
    /// Loads an entry of at most `size_max` bytes from the nearest tier, and returns the result of
    /// `parse`. The content is hashed, because the disk may have changed it. A damaged entry is
    /// verified again, and an entry that `parse` rejects is removed, with the reason in the log.
    /// Call on the helper pool.
    pub async fn load<T, W>(
        &self,
        key: &Key,
        size_max: usize,
        parse: impl Fn(Bytes, &Meta) -> Result<T, W> + Clone + Send + 'static,
    ) -> Option<T>
    where
        T: Send + 'static,
        W: std::fmt::Display + Send,
    {
        let (wanted, parse_local) = (key.clone(), parse.clone());
        let local = self.look(move |store| load_local(store, &wanted, size_max, &parse_local));
        if let Some(found) = local.await {
            self.report_use(key.digest().prefix());
            self.ensure_replicated(key);
            return Some(found);
        }
        let meta = self.look_in_bucket(key).await?;
        if meta.size > size_max as u64 {
            self.discard_in_bucket(key, &meta, "the entry is larger than the limit for its kind")
                .await;
            return None;
        }
        let (body, verified) = self.read_from_bucket(key, &meta).await?;
        let found = match parse(body.clone(), &meta) {
            Ok(found) => found,
            Err(why) => {
                let why = why.to_string();
                self.discard_in_bucket(key, &meta, &why).await;
                return None;
            }
        };
        self.copy_in_background(SmallEntry {
            key: key.clone(),
            body,
            meta: Meta::clone(&meta),
            verified,
        });
        Some(found)
    }

    /// Returns the repositories of a registry whose manifest `digest` is in the local store, at most
    /// [`MANIFEST_PLACES_MAX`]. Call on the helper pool.
    pub async fn repositories_with(&self, namespace: &Namespace, digest: &Digest) -> Vec<Arc<Origin>> {
        let (namespace, digest) = (namespace.clone(), *digest);
        let look =
            move |store: &FsStore| Some(store.repositories_with(&namespace, &digest, MANIFEST_PLACES_MAX));
        self.look(look).await.unwrap_or_default()
    }

    /// Copies an entry of the bucket to the local store. Without a copy, the next lookup reads the
    /// bucket again.
    fn copy_in_background(&self, entry: SmallEntry) {
        if self.local().is_none() {
            return;
        }
        let storage = self.clone();
        tokio::spawn(async move {
            let key = entry.key.clone();
            if storage.keep(entry).await.is_some() {
                storage.mark_replicated(&key);
                storage.set_in_bucket(&key, true).await;
            }
        });
    }

    /// Stores an entry from the registry `namespace` in every tier. `until_stored` is dropped when
    /// lookups find the entry, or when the entry is not stored. Call on the helper pool.
    pub async fn store(&self, namespace: &Namespace, entry: SmallEntry, until_stored: Box<dyn Any + Send>) {
        if self.local().is_none() {
            let job = UploadJob::Small {
                entry: Box::new(entry),
                _until_stored: until_stored,
            };
            return self.upload(namespace, job);
        }
        let key = entry.key.clone();
        if let Some(verified) = self.keep(entry).await {
            self.mark_replicated(&key);
            let verified = Some(verified);
            self.upload(namespace, UploadJob::Local { key, verified });
        }
        drop(until_stored);
    }

    /// Returns whether [`Storage::store_blob`] can store blobs. Otherwise a blob goes through the
    /// spool.
    pub fn takes_whole_blobs(&self) -> bool {
        self.local().is_some()
    }

    /// Makes a verified blob, received whole from the registry `namespace`, an entry of the local
    /// store, and schedules its upload unless `is_replicated`. Returns the file, or `None` if the
    /// store takes no writes. Call on the helper pool.
    pub async fn store_blob(
        &self,
        namespace: &Namespace,
        chunks: Vec<Bytes>,
        verified: Verified,
        meta: Meta,
        is_replicated: bool,
    ) -> Option<SharedFile> {
        let key = Key::Blob(*verified.digest());
        let (verified, file) = self
            .write_local(move |store| write(store, &key, &chunks, verified, meta))
            .await?;
        let key = Key::Blob(*verified.digest());
        self.mark_replicated(&key);
        if is_replicated {
            self.set_in_bucket(&key, true).await;
        } else {
            let verified = Some(verified);
            self.upload(namespace, UploadJob::Local { key, verified });
        }
        Some(file)
    }

    /// Stores an entry in the local store; `None` if the store takes no writes.
    async fn keep(&self, entry: SmallEntry) -> Option<Verified> {
        let SmallEntry {
            key,
            body,
            meta,
            verified,
        } = entry;
        let written = self
            .write_local(move |store| write(store, &key, &[body], verified, meta))
            .await;
        written.map(|(verified, _file)| verified)
    }
}

/// Writes and commits a whole entry. Reserves no blocks, because the write follows at once.
fn write(
    store: &FsStore,
    key: &Key,
    chunks: &[Bytes],
    verified: Verified,
    meta: Meta,
) -> Result<(Verified, SharedFile), StoreError> {
    let source = meta
        .sources
        .first()
        .and_then(|source| source.registry.parse().ok());
    let mut ingest = store.ingest(key, source.as_ref(), Some(meta.size))?;
    store.take_room(&mut ingest, meta.size)?;
    let mut offset = 0;
    for chunk in chunks {
        ingest.write_at(chunk, offset)?;
        offset += chunk.len() as u64;
    }
    let file = ingest.file().clone();
    store.commit(ingest, &verified, meta)?;
    Ok((verified, file))
}

fn load_local<T, W: std::fmt::Display>(
    store: &FsStore,
    key: &Key,
    size_max: usize,
    parse: &impl Fn(Bytes, &Meta) -> Result<T, W>,
) -> Option<T> {
    let entry = find(store, key)?;
    let size = usize::try_from(entry.meta.size)
        .ok()
        .filter(|&size| size <= size_max)?;
    let body: Option<Bytes> = crate::sys::read_exact_at(&entry.file, 0, size)
        .ok()
        .map(Bytes::from);
    let digest = key.digest();
    let Some(body) = body.filter(|body| Digest::of(digest.algorithm(), body) == *digest) else {
        store.recheck(key);
        return None;
    };
    match parse(body, &entry.meta) {
        Ok(found) => Some(found),
        Err(why) => {
            store.discard(key, why);
            None
        }
    }
}
