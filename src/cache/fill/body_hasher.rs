//! Hashes the received bytes of a large fill, in separate blocking jobs, so that receiving and
//! hashing use two threads.
//!
//! The window is the queue between receiver and hasher. The window keeps bytes until the hasher has
//! read them, so hashing needs no memory of its own.

use std::sync::Arc;

use super::Fill;
use crate::cache::FetchError;
use crate::limits::HASH_TIMEOUT;
use crate::oci::{Digest, Hasher};

/// Starts a job if there are bytes to hash and no job runs.
pub fn push(fill: &Arc<Fill>) {
    let hasher = {
        let mut state = fill.lock();
        if state.hashed == state.window.end() {
            return;
        }
        match state.hasher.take() {
            Some(hasher) => hasher,
            // A job runs.
            None => return,
        }
    };
    let fill = fill.clone();
    tokio::task::spawn_blocking(move || hash(&fill, hasher));
}

/// Hashes until no bytes are left.
fn hash(fill: &Fill, mut hasher: Hasher) {
    loop {
        let chunks = {
            let mut state = fill.lock();
            if state.hashed == state.window.end() {
                state.hasher = Some(hasher);
                break;
            }
            state.window.chunks_from(state.hashed)
        };
        let mut hashed = 0;
        for chunk in &chunks {
            hasher.update(chunk);
            hashed += chunk.len() as u64;
        }
        let mut state = fill.lock();
        state.hashed += hashed;
        state.trim();
        drop(state);
        fill.room.notify_one();
    }
    fill.room.notify_one();
}

/// Waits until all received bytes are hashed. Returns their digest.
///
/// # Errors
///
/// No byte was hashed for [`HASH_TIMEOUT`].
pub async fn finish(fill: &Arc<Fill>) -> Result<Digest, FetchError> {
    loop {
        let notice = fill.room.notified();
        push(fill);
        let hashed = {
            let mut state = fill.lock();
            if state.hashed == state.window.end()
                && let Some(hasher) = state.hasher.take()
            {
                return Ok(hasher.finish());
            }
            state.hashed
        };
        if tokio::time::timeout(HASH_TIMEOUT, notice).await.is_err() && fill.lock().hashed == hashed {
            tracing::error!(digest = %fill.digest(), timeout_s = HASH_TIMEOUT.as_secs(), "received bytes not hashed in time");
            return Err(FetchError::Lost);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::cache::Priority;
    use crate::cache::access::Caller;
    use crate::cache::fill::disk_writer::DiskWriter;
    use crate::limits::FILL_WINDOW_BYTES;
    use crate::oci::{Algorithm, Origin};

    const CHUNK_BYTES: usize = 256 * 1024;

    fn fill() -> Arc<Fill> {
        let origin = Origin {
            namespace: "r.example".parse().unwrap(),
            repository: "a/b".parse().unwrap(),
        };
        let fill = Fill::new(
            Digest::of(Algorithm::Sha256, b"x"),
            origin,
            Caller::ANYBODY,
            None,
            Priority::Client,
            None,
        );
        fill.change(|state| state.hasher = Some(Hasher::new(Algorithm::Sha256)));
        fill
    }

    fn receive(fill: &Fill, byte: u8) {
        fill.change(|state| {
            state.window.push(Bytes::from(vec![byte; CHUNK_BYTES]));
            // A disk as fast as the network.
            state.written = state.window.end();
            state.trim();
        });
    }

    #[tokio::test]
    async fn digest_is_right_while_chunks_arrive_during_the_hash() {
        let fill = fill();
        let mut body = Vec::new();
        for byte in 0..40 {
            body.extend_from_slice(&[byte; CHUNK_BYTES]);
            receive(&fill, byte);
            push(&fill);
        }
        let found = finish(&fill).await.unwrap();
        assert_eq!(found, Digest::of(Algorithm::Sha256, &body));
        let mut state = fill.lock();
        state.trim();
        assert!(
            state.window.bytes() < FILL_WINDOW_BYTES as u64,
            "hashed bytes are dropped"
        );
    }

    #[tokio::test]
    async fn window_keeps_bytes_until_they_are_hashed() {
        let fill = fill();
        let bytes = FILL_WINDOW_BYTES + CHUNK_BYTES;
        for _ in 0..bytes / CHUNK_BYTES {
            receive(&fill, 7);
        }
        {
            let state = fill.lock();
            assert_eq!(state.window.bytes(), bytes as u64, "with a working disk");
            assert!(state.waits_for_hasher());
        }
        fill.change(|state| {
            state.disk = DiskWriter::Lost;
            state.next_follower = 1;
            state.trim();
            assert_eq!(state.window.bytes(), bytes as u64, "with a lost disk");
        });
        finish(&fill).await.unwrap();
        let mut state = fill.lock();
        state.trim();
        assert_eq!(state.window.bytes(), 0);
        assert_eq!(state.hashed, bytes as u64);
    }
}
