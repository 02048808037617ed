//! Commits a verified fill to the store. No client waits for a commit.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::disk_writer::{self, DiskWriter};
use super::{Fill, writer};
use crate::cache::Shared;
use crate::limits::STORE_RETRY_INTERVAL;
use crate::runtime::clock::unix_seconds;
use crate::runtime::helper::blocking;
use crate::storage::{Key, Meta, NotCommitted, Verified};

/// Commits a verified fill. A small body is written and committed by one job, a larger body if the
/// disk writer has kept up. Returns whether the content was stored.
pub async fn commit(fill: &Arc<Fill>, shared: &Arc<Shared>, verified: Verified, from_bucket: bool) -> bool {
    let whole = {
        let state = fill.lock();
        let is_whole = matches!(state.disk, DiskWriter::AtCommit);
        is_whole.then(|| state.window.chunks_from(0))
    };
    let stored = match whole {
        Some(chunks) => commit_whole(fill, shared, chunks, verified, from_bucket).await,
        None => commit_written(fill, shared, verified, from_bucket).await,
    };
    if stored {
        // Slower followers read the file.
        fill.change(|state| {
            state.window.trim(state.written, 0);
            state.memory = None;
        });
        let origin = &fill.origin;
        tracing::debug!(registry = %origin.namespace, repository = %origin.repository, digest = %fill.digest(), "blob stored");
    }
    stored
}

async fn commit_whole(
    fill: &Fill,
    shared: &Shared,
    chunks: Vec<Bytes>,
    verified: Verified,
    from_bucket: bool,
) -> bool {
    let (meta, size) = (describe(fill, &verified), verified.size());
    let namespace = &fill.origin.namespace;
    let storing = shared
        .storage(namespace)
        .store_blob(namespace, chunks, verified, meta, from_bucket);
    let mut storing = pin!(storing);
    let file = match tokio::time::timeout(STORE_RETRY_INTERVAL, &mut storing).await {
        Ok(file) => file,
        Err(_elapsed) => {
            writer::lose(fill, shared, "the disk completed no write in time");
            // The fill keeps its slot, so that a disk without responses holds few threads.
            storing.await
        }
    };
    fill.change(|state| match file {
        Some(file) => {
            state.file = Some(file);
            state.written = size;
            true
        }
        None => {
            state.disk = DiskWriter::Lost;
            false
        }
    })
}

async fn commit_written(
    fill: &Arc<Fill>,
    shared: &Arc<Shared>,
    verified: Verified,
    from_bucket: bool,
) -> bool {
    let ingest = loop {
        let notice = fill.room.notified();
        {
            let mut state = fill.lock();
            let complete = state.written == state.window.end();
            match std::mem::replace(&mut state.disk, DiskWriter::Writing) {
                DiskWriter::Idle(ingest) if complete => break ingest,
                DiskWriter::Lost => {
                    state.disk = DiskWriter::Lost;
                    return false;
                }
                other => state.disk = other,
            }
        }
        disk_writer::push(fill, shared);
        if tokio::time::timeout(STORE_RETRY_INTERVAL, notice).await.is_err() {
            writer::lose(fill, shared, "the disk completed no write in time");
            return false;
        }
    };
    let (shared_too, key) = (shared.clone(), Key::Blob(*verified.digest()));
    let ingest = match ingest {
        Some(ingest) => Ok(ingest),
        // An empty body has no ingest yet.
        None => {
            let source = fill.origin.namespace.clone();
            let created = blocking(move || shared_too.storage(&source).begin(&key, &source, Some(0))).await;
            let Ok(created) = created else { return false };
            created
        }
    };
    let ingest = match ingest {
        Ok(ingest) => ingest,
        Err(error) => {
            shared
                .storage(&fill.origin.namespace)
                .record_write_failure(&error);
            return false;
        }
    };
    let (origin, meta) = (&fill.origin, describe(fill, &verified));
    let lease = fill.lock().lease.take();
    let committed = shared
        .storage(&origin.namespace)
        .commit(&origin.namespace, ingest, verified, meta, from_bucket, lease)
        .await;
    match committed {
        Ok(()) => true,
        Err(NotCommitted(lease)) => {
            // Followers may still read the file, which uses the disk.
            fill.lock().lease = lease;
            false
        }
    }
}

/// Returns the sidecar of a verified fill.
fn describe(fill: &Fill, verified: &Verified) -> Meta {
    let origin = &fill.origin;
    let head = fill.lock().head.clone();
    let (public, headers) = match head {
        Some(head) => (head.public, head.headers.clone()),
        None => Default::default(),
    };
    let mut meta = Meta {
        digest: *verified.digest(),
        size: verified.size(),
        content_type: "application/octet-stream".to_owned(),
        created: unix_seconds(),
        public,
        sources: vec![origin.into()],
        verified: true,
        headers,
    };
    if let Some(blob) = &fill.remote {
        let bucket = blob.meta();
        // The bucket's access data also applies here. The fill's origin is not added, because its
        // registry may not have confirmed the content.
        meta.public |= bucket.public;
        meta.created = bucket.created;
        meta.sources.clone_from(&bucket.sources);
    }
    meta
}
