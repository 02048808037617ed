//! Bodies of objects, checked for their length. The receiver of the bytes checks the digest.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::S3Operation;
use super::error::{S3Error, S3Fault};
use super::object::failure;
use super::{S3Store, layout};
use crate::limits::{HELD_WHOLE_BYTES_MAX, S3_BODY_IDLE_TIMEOUT, S3_READ_QUEUE_TIMEOUT};
use crate::store::{Key, Meta};

/// The body of an object or of a range. Dropping the body ends the transfer.
pub struct S3Body {
    body: ByteStream,
    /// Remaining bytes.
    left: u64,
    name: String,
    store: S3Store,
    key: Key,
    /// A slot for an open body. `None` for an empty body.
    _slot: Option<OwnedSemaphorePermit>,
}

impl S3Body {
    /// Returns the next bytes. Returns `None` at the end, after exactly the requested number of
    /// bytes.
    ///
    /// # Errors
    ///
    /// The body broke off, stalled, or has a wrong length.
    ///
    /// # Cancellation
    ///
    /// No bytes are lost. The next call continues.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, S3Error> {
        loop {
            if self.left == 0 {
                return Ok(None);
            }
            let fault = match tokio::time::timeout(S3_BODY_IDLE_TIMEOUT, self.body.next()).await {
                Ok(Some(Ok(piece))) if piece.is_empty() => continue,
                Ok(Some(Ok(piece))) if piece.len() as u64 <= self.left => {
                    self.left -= piece.len() as u64;
                    return Ok(Some(piece));
                }
                Ok(_) => S3Fault::Short,
                Err(_) => {
                    self.store
                        .0
                        .failed(S3Operation::Read, S3Fault::Timeout, "a body stalled");
                    S3Fault::Timeout
                }
            };
            // The body does not match the sidecar, so the next lookup must request the sidecar
            // again.
            self.store.0.sidecars.forget(&self.key);
            return Err(failure(S3Operation::Read, &self.name, fault));
        }
    }
}

impl S3Store {
    pub(super) async fn open_body(
        &self,
        key: &Key,
        meta: &Meta,
        from: u64,
        to: u64,
    ) -> Result<S3Body, S3Error> {
        assert!(from <= to && to <= meta.size, "a range is inside of its object");
        let name = self.name(&layout::content(key));
        let body = S3Body {
            body: ByteStream::default(),
            left: to - from,
            name,
            store: self.clone(),
            key: key.clone(),
            _slot: None,
        };
        if from == to {
            return Ok(body);
        }
        let name = &body.name;
        let permits = if to - from <= HELD_WHOLE_BYTES_MAX {
            &self.0.short_reads
        } else {
            &self.0.reads
        };
        let waiting = tokio::time::timeout(S3_READ_QUEUE_TIMEOUT, permits.clone().acquire_owned());
        let Ok(Ok(slot)) = waiting.await else {
            return Err(failure(S3Operation::Read, name, S3Fault::Busy));
        };
        let mut request = self.0.client.get_object().bucket(&self.0.bucket).key(name);
        let whole = from == 0 && to == meta.size;
        if !whole {
            request = request.range(format!("bytes={from}-{}", to - 1));
        }
        let answer = self.run(S3Operation::Read, name, request.send()).await;
        let answer = answer.inspect_err(|_| self.0.sidecars.forget(key))?;
        if !fits(&answer, meta.size, from, to) {
            self.0.sidecars.forget(key);
            return Err(failure(S3Operation::Read, name, S3Fault::Short));
        }
        Ok(S3Body {
            body: answer.body,
            _slot: Some(slot),
            ..body
        })
    }
}

/// Returns whether a response is the requested range of an object with the expected size.
fn fits(answer: &GetObjectOutput, size: u64, from: u64, to: u64) -> bool {
    let length = answer
        .content_length()
        .and_then(|length| u64::try_from(length).ok());
    let part = match answer.content_range() {
        Some(range) => range == format!("bytes {from}-{}/{size}", to - 1),
        None => from == 0 && to == size,
    };
    part && length == Some(to - from)
}
