//! Stores an entry: data first, sidecar second. Large content is uploaded in equal parts. The parts
//! of a failed upload are removed.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{ByteStream, Length};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::S3Operation;
use super::connect::patience;
use super::error::{S3Error, S3Fault};
use super::object::failure;
use super::{Content, S3Store, layout};
use crate::limits::{
    S3_COMPLETE_TIMEOUT, S3_MULTIPART_BYTES_MIN, S3_PART_BYTES, S3_PARTS_IN_FLIGHT, S3_PARTS_MAX,
    S3_UPLOAD_BUFFER_BYTES, S3_UPLOAD_QUEUE_TIMEOUT, S3_UPLOADS_MAX,
};
use crate::oci::{Algorithm, Digest, Hasher};
use crate::shared_file::SharedFile;
use crate::store::{Key, Meta};

/// The payload hash for the signer, so that the signer does not read the body. The engine checks
/// the body against the hash.
#[derive(Clone, Debug)]
struct Payload(PayloadSigningOverride);

impl Payload {
    fn known(digest: &Digest) -> Self {
        Payload(PayloadSigningOverride::Precomputed(digest.hex()))
    }

    /// Only for TLS, which also protects the body.
    fn unsigned() -> Self {
        Payload(PayloadSigningOverride::UnsignedPayload)
    }
}

impl Intercept for Payload {
    fn name(&self) -> &'static str {
        "Payload"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        config.interceptor_state().store_put(self.0.clone());
        Ok(())
    }
}

impl Content {
    /// Returns whether the content has `size` bytes.
    fn holds(&self, size: u64) -> io::Result<bool> {
        Ok(match self {
            Content::Bytes(bytes) => bytes.len() as u64 == size,
            Content::File(file) => file.metadata()?.len() == size,
        })
    }

    /// Returns a body of `length` bytes from `from` on. The body can be sent repeatedly, while the
    /// content exists.
    async fn body(&self, from: u64, length: u64) -> io::Result<ByteStream> {
        match self {
            Content::Bytes(bytes) => {
                // The content is in memory, so both offsets fit in `usize`.
                let (from, to) = (from as usize, (from + length) as usize);
                Ok(ByteStream::from(bytes.slice(from..to)))
            }
            Content::File(file) => ByteStream::read_from()
                // Opens the possibly unnamed file again, with a separate file position.
                .path(format!("/proc/self/fd/{}", file.as_raw_fd()))
                .offset(from)
                .length(Length::Exact(length))
                .buffer_size(S3_UPLOAD_BUFFER_BYTES)
                .build()
                .await
                .map_err(io::Error::other),
        }
    }

    async fn sha256(&self, from: u64, length: u64) -> io::Result<Digest> {
        match self.clone() {
            Content::Bytes(bytes) => Ok(Digest::of(
                Algorithm::Sha256,
                &bytes[from as usize..(from + length) as usize],
            )),
            Content::File(file) => {
                let hashing = tokio::task::spawn_blocking(move || sha256_of_file(&file, from, length));
                hashing.await.unwrap_or_else(|panic| Err(io::Error::other(panic)))
            }
        }
    }
}

fn sha256_of_file(file: &SharedFile, from: u64, length: u64) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; S3_UPLOAD_BUFFER_BYTES];
    let (mut at, end) = (from, from + length);
    while at < end {
        let step = buffer.len().min((end - at) as usize);
        file.read_exact_at(&mut buffer[..step], at)?;
        hasher.update(&buffer[..step]);
        at += step as u64;
    }
    Ok(hasher.finish())
}

impl S3Store {
    pub(super) async fn store(&self, key: &Key, content: &Content, meta: &Meta) -> Result<(), S3Error> {
        let name = self.name(&layout::content(key));
        let _slot = self.upload_slot(&name).await?;
        // If another machine stored the content first, only the sources and the public flag are
        // added.
        if self.learn(key, &meta.sources, meta.public).await? {
            return Ok(());
        }
        if !content.holds(meta.size).unwrap_or(false) {
            return Err(failure(S3Operation::Store, &name, S3Fault::Spool));
        }
        if meta.size < S3_MULTIPART_BYTES_MIN {
            self.put_whole(key, &name, content, meta).await?;
        } else {
            self.put_parts(&name, content, meta).await?;
        }
        self.put_small(
            S3Operation::Write,
            &self.name(&layout::sidecar(key)),
            meta.to_json(),
        )
        .await?;
        self.0
            .sidecars
            .insert(key, Arc::new(meta.clone()), std::time::Instant::now());
        Ok(())
    }

    async fn upload_slot(&self, name: &str) -> Result<OwnedSemaphorePermit, S3Error> {
        let waiting = tokio::time::timeout(S3_UPLOAD_QUEUE_TIMEOUT, self.0.uploads.clone().acquire_owned());
        match waiting.await {
            Ok(Ok(slot)) => Ok(slot),
            _ => Err(failure(S3Operation::Store, name, S3Fault::Busy)),
        }
    }

    async fn put_whole(&self, key: &Key, name: &str, content: &Content, meta: &Meta) -> Result<(), S3Error> {
        let payload = match key.digest() {
            known @ Digest::Sha256(_) => Payload::known(known),
            Digest::Sha512(_) => self.payload(name, content, 0, meta.size).await?,
        };
        let request = self
            .0
            .client
            .put_object()
            .bucket(&self.0.bucket)
            .key(name)
            // For clients redirected to the bucket.
            .content_type(content_type(meta))
            .content_length(signed(meta.size))
            .body(spooled(name, content.body(0, meta.size).await)?)
            .customize()
            .interceptor(payload)
            .config_override(patience(meta.size, Duration::ZERO));
        self.run(S3Operation::Store, name, request.send()).await.map(drop)
    }

    /// Returns the payload hash of a part of `content`. Unsigned over TLS, computed otherwise.
    async fn payload(
        &self,
        name: &str,
        content: &Content,
        from: u64,
        length: u64,
    ) -> Result<Payload, S3Error> {
        if self.0.plain {
            let hash = spooled(name, content.sha256(from, length).await)?;
            Ok(Payload::known(&hash))
        } else {
            Ok(Payload::unsigned())
        }
    }

    async fn put_parts(&self, name: &str, content: &Content, meta: &Meta) -> Result<(), S3Error> {
        let request = self.0.client.create_multipart_upload();
        let request = request.bucket(&self.0.bucket).key(name);
        let request = request.content_type(content_type(meta));
        let created = self.run(S3Operation::Store, name, request.send()).await?;
        let Some(id) = created.upload_id else {
            return Err(failure(S3Operation::Store, name, S3Fault::Unexpected));
        };
        let upload = Upload {
            store: self.clone(),
            name: name.to_owned(),
            id,
            completed: false,
        };
        let step = part_bytes(meta.size);
        let parts = stream::iter((0..meta.size.div_ceil(step)).map(|index| {
            let from = index * step;
            upload.part(content, index, from, step.min(meta.size - from))
        }));
        let parts: Vec<CompletedPart> = parts.buffered(S3_PARTS_IN_FLIGHT).try_collect().await?;
        upload.complete(parts).await
    }
}

/// A multipart upload. Dropping an incomplete upload removes its parts.
struct Upload {
    store: S3Store,
    name: String,
    id: String,
    completed: bool,
}

impl Upload {
    async fn part(
        &self,
        content: &Content,
        index: u64,
        from: u64,
        length: u64,
    ) -> Result<CompletedPart, S3Error> {
        let (store, name) = (&self.store, &self.name);
        // At most `S3_PARTS_MAX`.
        let number = index as i32 + 1;
        let payload = store.payload(name, content, from, length).await?;
        let request = store
            .0
            .client
            .upload_part()
            .bucket(&store.0.bucket)
            .key(name)
            .upload_id(&self.id)
            .part_number(number)
            .content_length(signed(length))
            .body(spooled(name, content.body(from, length).await)?)
            .customize()
            .interceptor(payload)
            .config_override(patience(length, Duration::ZERO));
        let stored = store.run(S3Operation::StorePart, name, request.send()).await?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(stored.e_tag)
            .build())
    }

    async fn complete(mut self, parts: Vec<CompletedPart>) -> Result<(), S3Error> {
        let store = &self.store;
        let whole = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
        let request = store
            .0
            .client
            .complete_multipart_upload()
            .bucket(&store.0.bucket)
            .key(&self.name)
            .upload_id(&self.id)
            .multipart_upload(whole)
            .customize()
            .config_override(patience(0, S3_COMPLETE_TIMEOUT));
        store
            .run(S3Operation::Complete, &self.name, request.send())
            .await?;
        self.completed = true;
        Ok(())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if self.completed {
            return;
        }
        let (store, name) = (self.store.clone(), std::mem::take(&mut self.name));
        let id = std::mem::take(&mut self.id);
        // Without a runtime, the process is ending. The bucket's lifecycle rule removes the parts.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        runtime.spawn(async move {
            let client = &store.0.client;
            let request = client.abort_multipart_upload().bucket(&store.0.bucket);
            // Bypasses the circuit breaker, because the request is not retried.
            if let Err(error) = request.key(&name).upload_id(id).send().await {
                let error = super::error::classify(S3Operation::RemoveParts, &name, &error);
                tracing::debug!(%error, "upload parts not removed");
            }
        });
    }
}

/// Returns the size of all parts but the last, in whole MiB. Larger than [`S3_PART_BYTES`] only if
/// there would be more than [`S3_PARTS_MAX`] parts.
fn part_bytes(size: u64) -> u64 {
    const MIB: u64 = 1024 * 1024;
    S3_PART_BYTES.max(size.div_ceil(S3_PARTS_MAX).next_multiple_of(MIB))
}

fn content_type(meta: &Meta) -> &str {
    match meta.content_type.as_str() {
        "" => "application/octet-stream",
        named => named,
    }
}

/// Converts a size to the type of the SDK.
fn signed(size: u64) -> i64 {
    i64::try_from(size).expect("no file is larger")
}

fn spooled<T>(name: &str, read: io::Result<T>) -> Result<T, S3Error> {
    read.map_err(|error| S3Error {
        detail: error.to_string(),
        ..failure(S3Operation::Store, name, S3Fault::Spool)
    })
}

// Permits are counted in `usize`, parts in `i32`.
const _: () = assert!(S3_PARTS_MAX <= i32::MAX as u64 && S3_UPLOADS_MAX > 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_equal_and_never_too_many() {
        let limit = S3_PART_BYTES * S3_PARTS_MAX;
        for (size, step) in [
            (S3_MULTIPART_BYTES_MIN, S3_PART_BYTES),
            (limit, S3_PART_BYTES),
            (limit + 1, S3_PART_BYTES + (1 << 20)),
        ] {
            assert_eq!(part_bytes(size), step, "{size}");
        }
        for size in [limit + 1, 5 * limit + 12_345, 5 << 40] {
            assert!(size.div_ceil(part_bytes(size)) <= S3_PARTS_MAX, "{size}");
        }
    }
}
