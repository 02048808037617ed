//! Operations on single objects: names, reads and writes of small objects, and the circuit breaker
//! around every request.

use std::future::Future;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};

use super::S3Operation;
use super::circuit_breaker::BreakerTransition;
use super::error::{S3Error, S3Fault, classify};
use super::{S3State, S3Store, Shared};
use crate::limits::{S3_BODY_IDLE_TIMEOUT, S3_CANCELLED_FAILURE_AGE, SIDECAR_BYTES_MAX};
use crate::metrics::count_store_failure;

impl Shared {
    pub(super) fn is_available(&self) -> bool {
        self.tried.load(Ordering::Acquire) && self.breaker.allows(Instant::now())
    }

    /// Records a response of the engine.
    pub(super) fn succeeded(&self) {
        if self.breaker.succeeded() == Some(BreakerTransition::Recovered) {
            tracing::info!(bucket = %self.bucket, "bucket available again");
        }
    }

    /// Returns the state of the bucket, for the metrics.
    pub(super) fn state(&self) -> S3State {
        match (self.tried.load(Ordering::Acquire), self.breaker.is_tripped()) {
            (false, _) => S3State::Untested,
            (true, true) => S3State::Suspended,
            (true, false) => S3State::Available,
        }
    }

    /// Records a missing response, or a fault of the engine, during the operation `doing`.
    pub(super) fn failed(&self, doing: S3Operation, fault: S3Fault, detail: &str) {
        count_store_failure(doing.measured());
        if self.breaker.failed(fault, Instant::now()) == Some(BreakerTransition::Tripped) {
            tracing::warn!(bucket = %self.bucket, error = %fault, detail, "bucket unavailable");
        }
    }
}

/// Records a slow cancelled request as a failure of the engine. Needed because callers have shorter
/// deadlines than this module.
struct Watched<'a> {
    shared: &'a Shared,
    doing: S3Operation,
    since: Instant,
    ended: bool,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        if !self.ended && self.since.elapsed() >= S3_CANCELLED_FAILURE_AGE {
            self.shared.failed(self.doing, S3Fault::Timeout, "");
        }
    }
}

impl S3Store {
    /// Returns the object's name in the bucket.
    pub(super) fn name(&self, relative: &Path) -> String {
        // Registries, repositories, tags and digests are ASCII.
        format!("{}{}", self.0.prefix, relative.display())
    }

    /// Runs a request, if the circuit breaker allows it.
    pub(super) async fn run<T, E>(
        &self,
        doing: S3Operation,
        name: &str,
        request: impl Future<Output = Result<T, SdkError<E>>>,
    ) -> Result<T, S3Error>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let shared = &*self.0;
        let now = Instant::now();
        if !shared.tried.load(Ordering::Acquire) || !shared.breaker.admit(now) {
            return Err(failure(doing, name, S3Fault::Tripped));
        }
        let mut watched = Watched {
            shared,
            doing,
            since: now,
            ended: false,
        };
        let result = request.await;
        watched.ended = true;
        match result {
            Ok(answer) => {
                shared.succeeded();
                Ok(answer)
            }
            Err(error) => {
                let error = classify(doing, name, &error);
                if error.fault.is_of_engine() {
                    shared.failed(doing, error.fault, &error.detail);
                } else {
                    shared.succeeded();
                }
                Err(error)
            }
        }
    }

    /// Reads a small object. Returns `None` if there is no such object.
    pub(super) async fn get_small(&self, name: &str) -> Result<Option<Bytes>, S3Error> {
        self.get_within(name, SIDECAR_BYTES_MAX).await
    }

    /// Reads the first `most` bytes of an object. Returns `None` if there is no such object.
    pub(super) async fn get_within(&self, name: &str, most: u64) -> Result<Option<Bytes>, S3Error> {
        let request = self.0.client.get_object().bucket(&self.0.bucket).key(name);
        match self.run(S3Operation::Read, name, request.send()).await {
            Ok(answer) => {
                let length = answer.content_length();
                collect(name, answer.body, length, most).await.map(Some)
            }
            Err(error) => absent(error),
        }
    }

    /// Returns the size of an object. Returns `None` if there is no such object.
    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, S3Error> {
        let request = self.0.client.head_object().bucket(&self.0.bucket).key(name);
        match self.run(S3Operation::ReadSize, name, request.send()).await {
            Ok(answer) => Ok(answer.content_length().and_then(|size| size.try_into().ok())),
            Err(error) => absent(error),
        }
    }

    /// Replaces a small object atomically.
    pub(super) async fn put_small(
        &self,
        doing: S3Operation,
        name: &str,
        content: Vec<u8>,
    ) -> Result<(), S3Error> {
        let request = self
            .0
            .client
            .put_object()
            .bucket(&self.0.bucket)
            .key(name)
            .content_type("application/json")
            .body(ByteStream::from(content));
        self.run(doing, name, request.send()).await.map(drop)
    }

    /// Removes an object, if present.
    pub(super) async fn delete(&self, name: &str) -> Result<(), S3Error> {
        let request = self.0.client.delete_object().bucket(&self.0.bucket).key(name);
        match self.run(S3Operation::Remove, name, request.send()).await {
            Err(error) if error.fault == S3Fault::NotFound => Ok(()),
            result => result.map(drop),
        }
    }
}

pub(super) fn failure(doing: S3Operation, name: &str, fault: S3Fault) -> S3Error {
    S3Error {
        doing,
        key: name.to_owned(),
        fault,
        detail: String::new(),
    }
}

/// Without list permission, engines deny reads of missing objects. Requests start only after a
/// successful read in the self-test, so a denied read means a missing object.
fn absent<T>(error: S3Error) -> Result<Option<T>, S3Error> {
    match error.fault {
        S3Fault::NotFound | S3Fault::Denied => Ok(None),
        _ => Err(error),
    }
}

/// Reads a small body.
async fn collect(name: &str, mut body: ByteStream, length: Option<i64>, most: u64) -> Result<Bytes, S3Error> {
    let mut bytes = BytesMut::new();
    loop {
        let piece = match tokio::time::timeout(S3_BODY_IDLE_TIMEOUT, body.next()).await {
            Err(_) => return Err(failure(S3Operation::Read, name, S3Fault::Timeout)),
            Ok(Some(Err(_))) => return Err(failure(S3Operation::Read, name, S3Fault::Short)),
            Ok(Some(Ok(piece))) => piece,
            Ok(None) => break,
        };
        // Any object above the limit is invalid, so the rest is skipped. Reads at most a few MiB.
        let room = most as usize - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            break;
        }
    }
    let whole = length.is_none_or(|length| bytes.len() as u64 == (length.max(0) as u64).min(most));
    whole
        .then(|| bytes.freeze())
        .ok_or_else(|| failure(S3Operation::Read, name, S3Fault::Short))
}
