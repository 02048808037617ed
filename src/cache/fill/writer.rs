//! Receives the upstream body of a fill, hashes and publishes its bytes, and commits the result.
//! Runs on the helper pool.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::body_hasher;
use super::commit::commit;
use super::disk_writer::{self, DiskWriter};
use super::table::Ticket;
use super::{End, Fill, Head, watch};
use crate::cache::access::Caller;
use crate::cache::fill::source::BlobSource;
use crate::cache::{Cache, Class, FetchError, FetchResources, Priority, Shared, unless};
use crate::events::{self, Event};
use crate::fail_point::hit;
use crate::http::Span;
use crate::limits::{FILL_DISK_RATE_MIN, FILL_DISK_WAIT_MAX, FILL_WINDOW_BYTES, HELD_WHOLE_BYTES_MAX};
use crate::metrics::FillEnd;
use crate::oci::{Digest, Hasher, Origin};
use crate::runtime::single_flight::Role;
use crate::storage::{RemoteBlob, Verified};
use crate::trace::{self, Attribute, OpenSpan, Operation};
use crate::upstream::{Target, UpstreamError};

/// Interval at which a writer without a disk checks the progress of its followers, besides
/// notifications.
const ROOM_CHECK: Duration = Duration::from_secs(1);

/// Time for which the slowest follower may block a fill without a disk.
const SLOWEST_FOLLOWER: Duration = Duration::from_secs(5);

/// Time for which a fill without a disk waits for its first follower.
const FIRST_FOLLOWER: Duration = Duration::from_secs(5);

/// Maximum number of new requests after wrong bytes, each to another mirror or upstream. Enough for
/// the usual number of mirrors.
const RESTARTS_MAX: usize = 8;

impl Cache {
    /// Joins the fill of `digest`, or starts a new fill from `origin`. A new fill replaces `not`, a
    /// fill that cannot serve the caller. If `remote` is given, the caller may read this object,
    /// and a new fill reads from the bucket first. The fill gets at least `priority`.
    pub(in crate::cache) fn fill(
        &self,
        digest: Digest,
        origin: &Origin,
        caller: &Caller,
        not: Option<&Arc<Fill>>,
        remote: Option<RemoteBlob>,
        priority: Priority,
    ) -> (Arc<Fill>, Role) {
        let (fill, ticket) = self.0.fills.join(digest, origin, caller, not, remote, priority);
        match ticket {
            None => (fill, Role::Follower),
            Some(ticket) => {
                let shared = self.0.clone();
                self.0.helper.spawn(async move { run(ticket, shared).await });
                (fill, Role::Leader)
            }
        }
    }
}

/// Sets `Failed` if the writer is dropped without an end. Always removes the fill from the table.
struct Guard {
    fill: Arc<Fill>,
    shared: Arc<Shared>,
}

impl Guard {
    fn end(&self, end: End) {
        // The table drops a fill without content before clients are notified of its end. So a
        // client that retries joins another fill.
        if !matches!(end, End::Verified) {
            self.shared.fills.remove(&self.fill);
        }
        self.fill.change(|state| {
            state.end.get_or_insert(end);
        });
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.end(End::Failed(FetchError::Lost));
        self.shared.fills.remove(&self.fill);
        // Otherwise a commit that panics would have no outcome.
        self.fill.change(|state| {
            state.is_stored.get_or_insert(false);
        });
    }
}

/// Runs a fill to the end of its commit.
pub async fn run(ticket: Ticket, shared: Arc<Shared>) {
    let Ticket { fill, mut span } = ticket;
    let guard = Guard {
        fill: fill.clone(),
        shared: shared.clone(),
    };
    let end = trace::under(&span, fetch_and_commit(&guard, &shared)).await;
    if let Some(span) = &mut span {
        describe(span, &fill, end);
    }
}

/// Adds the content and the end of a fill to its span.
fn describe(span: &mut OpenSpan, fill: &Fill, end: Option<FillEnd>) {
    let Origin {
        namespace,
        repository,
    } = &fill.origin;
    span.add(Attribute::Registry(namespace.as_str().into()));
    span.add(Attribute::Repository(repository.as_str().into()));
    span.add(Attribute::Digest(fill.digest().to_string().into()));
    if let Some(end) = end {
        span.add(Attribute::Result(end.label()));
        if end != FillEnd::Completed {
            span.fail();
        }
    }
}

/// Fetches the content of a fill, and commits the content. Returns the end, or `None` if the fill had
/// no source: another fill has stored the content, or no slot was free.
async fn fetch_and_commit(guard: &Guard, shared: &Arc<Shared>) -> Option<FillEnd> {
    let fill = &guard.fill;
    let origin = &fill.origin;
    // An earlier fill may have committed the content between the caller's lookup and the ticket, or
    // the caller's lookup may have failed.
    let storage = shared.storage(&origin.namespace);
    if storage.has_local_blob(fill.digest()).await {
        guard.end(End::Stored);
        return None;
    }
    let resources = match unless(watch::deserted(fill), resources(fill, shared)).await {
        Ok(Ok(resources)) => resources,
        Ok(Err(error)) => {
            guard.end(End::Failed(error));
            return None;
        }
        // A client that arrives now starts another fill.
        Err(reason) => {
            guard.end(End::Failed(FetchError::Abandoned(reason)));
            return Some(FillEnd::Abandoned);
        }
    };
    let FetchResources { slot, memory } = resources;
    {
        let mut state = fill.lock();
        state.memory = Some(memory);
        slot.standing().raise(state.priority);
        state.standing = Some(slot.standing().clone());
        if state.is_canceled {
            slot.standing().evict();
        }
        state.lease = Some(storage.room_lease(&shared.party(&origin.namespace)));
    }
    publish_event(fill, |registry, repository, digest| Event::FillStarted {
        registry,
        repository,
        digest,
    });
    let (verified, from_bucket) = match unless(watch::unworthy(fill, &slot), receive(fill, shared)).await {
        Ok(Ok(verified)) => verified,
        Ok(Err(failure)) => return Some(fail(guard, failure)),
        Err(end) => return Some(fail(guard, end.into())),
    };
    if !from_bucket {
        shared.parties.record_proof(&origin.namespace);
        // The content was pushed after a 404, or another caller may read the content.
        shared.absences().forget(origin, &Target::Blob(*fill.digest()));
    }
    guard.end(End::Verified);
    fill.observe_end(FillEnd::Completed);
    publish_event(fill, |registry, repository, digest| Event::FillCompleted {
        registry,
        repository,
        digest,
        bytes: fill.lock().window.end(),
    });
    hit("fill-verified");
    let span = trace::child(Operation::Store);
    let is_stored = trace::under(&span, commit(fill, shared, verified, from_bucket)).await;
    drop(span);
    fill.change(|state| state.is_stored = Some(is_stored));
    Some(FillEnd::Completed)
}

/// Takes the slot and the memory of a fill. A client that joins a fill of a lower priority meanwhile
/// puts the fill into the queue of the clients.
async fn resources(fill: &Fill, shared: &Shared) -> Result<FetchResources, FetchError> {
    loop {
        let priority = fill.lock().priority;
        let namespace = &fill.origin.namespace;
        match shared.fetch_resources(Class::Blob, namespace, priority).await {
            Err(FetchError::Overloaded) if priority.is_background() => {
                if fill.lock().priority == priority {
                    return Err(FetchError::Displaced);
                }
            }
            resources => return resources,
        }
    }
}

/// The reason why a fill has no content.
enum Failure {
    /// No source began to send a body.
    NotBegun(FetchError),
    /// A body began, but is incomplete or wrong.
    Body(FetchError),
    /// The cache ended the fill, for this reason.
    Ended(FetchError),
}

impl Failure {
    /// Returns the result for the metrics.
    fn result(&self) -> FillEnd {
        match self {
            Failure::NotBegun(_) => FillEnd::NotBegun,
            Failure::Body(FetchError::DigestMismatch { .. }) => FillEnd::Mismatch,
            Failure::Body(_) => FillEnd::Broken,
            Failure::Ended(_) => FillEnd::Abandoned,
        }
    }
}

impl From<FetchError> for Failure {
    fn from(error: FetchError) -> Self {
        match error {
            end @ (FetchError::Abandoned(_) | FetchError::Displaced) => Failure::Ended(end),
            error => Failure::Body(error),
        }
    }
}

/// Logs the end of a fill without content, notifies its clients, and releases its resources. Returns
/// the end.
fn fail(guard: &Guard, failure: Failure) -> FillEnd {
    let fill = &guard.fill;
    let Origin {
        namespace,
        repository,
    } = &fill.origin;
    let digest = fill.digest();
    let result = failure.result();
    let error = match failure {
        // The client receives the answer. A client that requests unknown digests must not fill the
        // log.
        Failure::NotBegun(error) if error.is_answer_or_suspension() => {
            tracing::debug!(registry = %namespace, %repository, %digest, %error, "fill not started");
            error
        }
        Failure::NotBegun(error) | Failure::Body(error) => {
            tracing::warn!(registry = %namespace, %repository, %digest, %error, "fill failed");
            error
        }
        Failure::Ended(end) => {
            let reason = match &end {
                FetchError::Abandoned(reason) => reason,
                _ => "another fetch needed the slot",
            };
            tracing::info!(registry = %namespace, %repository, %digest, reason, "fill abandoned");
            end
        }
    };
    fill.observe_end(result);
    publish_event(fill, |registry, repository, digest| Event::FillFailed {
        registry,
        repository,
        digest,
        error: error.to_string(),
    });
    guard.end(End::Failed(error));
    disk_writer::discard(fill);
    result
}

/// Sends an event about a fill, made of registry, repository and digest.
fn publish_event(fill: &Fill, event: impl FnOnce(String, String, String) -> Event) {
    let Origin {
        namespace,
        repository,
    } = &fill.origin;
    events::publish(|| {
        event(
            namespace.to_string(),
            repository.to_string(),
            fill.digest().to_string(),
        )
    });
}

/// The received beginning of a body, hashed by the receiver itself.
struct Received {
    hasher: Hasher,
    /// Chunks not yet published.
    chunks: Vec<Bytes>,
    bytes: u64,
    whole: bool,
}

impl Received {
    fn new(fill: &Fill) -> Self {
        Received {
            hasher: Hasher::new(fill.digest().algorithm()),
            chunks: Vec::new(),
            bytes: 0,
            whole: false,
        }
    }

    /// Receives the bytes of `source` until followers may read the first byte. A body that fails
    /// before can start again.
    async fn hold(&mut self, source: &mut BlobSource, size: Option<u64>) -> Result<(), FetchError> {
        if size.is_some_and(|size| size > HELD_WHOLE_BYTES_MAX) {
            return Ok(());
        }
        while self.bytes <= HELD_WHOLE_BYTES_MAX {
            let Some(chunk) = source.next().await? else {
                self.whole = true;
                break;
            };
            self.hasher.update(&chunk);
            self.bytes += chunk.len() as u64;
            hit("fill-received");
            self.chunks.push(chunk);
        }
        Ok(())
    }
}

/// Receives the whole body and verifies it. Returns whether the bucket delivered all bytes.
async fn receive(fill: &Arc<Fill>, shared: &Arc<Shared>) -> Result<(Verified, bool), Failure> {
    let mut restarts = 0;
    loop {
        let (mut source, head) = begin(fill, shared).await.map_err(Failure::NotBegun)?;
        fill.lock().endpoint = source.endpoint().cloned();
        let error = match receive_from(fill, shared, &mut source, head).await {
            Ok(verified) => return Ok((verified, source.is_from_bucket_alone())),
            Err(error) => error,
        };
        let mismatch = matches!(error, FetchError::DigestMismatch { .. });
        if mismatch && let Some(blob) = &fill.remote {
            blob.quarantine();
        }
        // A body of the wrong length is treated like wrong bytes.
        let wrong = mismatch || matches!(error, FetchError::Upstream(UpstreamError::Protocol { .. }));
        // After the head is published, followers may have started.
        if !wrong || !source.blame_mirrors() || restarts == RESTARTS_MAX || fill.lock().head.is_some() {
            return Err(error.into());
        }
        restarts += 1;
        tracing::info!(digest = %fill.digest(), %error, "mirror sent wrong content; next endpoint used");
    }
}

async fn receive_from(
    fill: &Arc<Fill>,
    shared: &Arc<Shared>,
    source: &mut BlobSource,
    head: Head,
) -> Result<Verified, FetchError> {
    let (size, upstream_status) = (head.size, head.upstream_status);
    let mut received = Received::new(fill);
    received.hold(source, size).await?;
    let Received {
        hasher,
        chunks,
        mut bytes,
        whole,
    } = received;
    let check = |found: Digest, bytes: u64| {
        Verified::check(*fill.digest(), found, bytes)
            .map_err(|found| FetchError::mismatch(fill.digest(), &found, upstream_status))
    };
    if whole {
        let verified = check(hasher.finish(), bytes)?;
        publish(fill, shared, head, chunks, None);
        pace(fill, shared, bytes).await;
        return Ok(verified);
    }
    publish(fill, shared, head, chunks, Some(hasher));
    let mut patience = DiskPatience::new();
    room(fill, shared, &mut patience).await?;
    while let Some(chunk) = source.next().await? {
        bytes += chunk.len() as u64;
        hit("fill-received");
        let length = chunk.len() as u64;
        let is_background = fill.change(|state| {
            state.window.push(chunk);
            state.trim();
            // A body that breaks off continues at another endpoint.
            if state.endpoint.as_ref() != source.endpoint() {
                state.endpoint = source.endpoint().cloned();
            }
            state.priority.is_background()
        });
        body_hasher::push(fill);
        disk_writer::push(fill, shared);
        if is_background {
            pace(fill, shared, length).await;
        }
        room(fill, shared, &mut patience).await?;
    }
    debug_assert!(
        size.is_none_or(|size| size == bytes),
        "the received bytes differ from the declared size"
    );
    check(body_hasher::finish(fill).await?, bytes)
}

/// Publishes the head and the first chunks to followers. The chunks have been read by `hasher`,
/// which is `None` for a whole body.
fn publish(fill: &Arc<Fill>, shared: &Arc<Shared>, head: Head, chunks: Vec<Bytes>, hasher: Option<Hasher>) {
    let storage = shared.storage(&fill.origin.namespace);
    fill.change(|state| {
        if let (Some(size), Some(memory)) = (head.size, &mut state.memory) {
            memory.shrink_to(size);
        }
        state.head = Some(Arc::new(head));
        if !storage.is_writable() {
            state.disk = DiskWriter::Lost;
        } else if hasher.is_none() && storage.takes_whole_blobs() {
            state.disk = DiskWriter::AtCommit;
        }
        for chunk in chunks {
            state.window.push(chunk);
        }
        state.hashed = state.window.end();
        state.hasher = hasher;
        state.trim();
    });
    disk_writer::push(fill, shared);
}

/// Opens the body and its head, from the bucket if the bucket has the blob and responds in time.
async fn begin(fill: &Fill, shared: &Arc<Shared>) -> Result<(BlobSource, Head), FetchError> {
    let (origin, caller) = (&fill.origin, &fill.caller);
    if let Some(blob) = &fill.remote {
        let meta = blob.meta();
        let whole = Span {
            start: 0,
            end: meta.size,
        };
        if let Some(source) = BlobSource::from_bucket(shared, origin, caller, blob, whole).await {
            let head = Head {
                size: Some(meta.size),
                public: meta.public,
                upstream_status: None,
                headers: meta.headers.clone(),
            };
            return Ok((source, head));
        }
    }
    BlobSource::from_upstream(shared, origin, caller, *fill.digest()).await
}

/// Waits until a fill without clients may receive more, after it has received `bytes`. Ends at once
/// for a client.
async fn pace(fill: &Fill, shared: &Shared, bytes: u64) {
    let wait = shared.background_pace.take(bytes);
    while fill.lock().priority.is_background() {
        // A client that joined after the check has left a permit.
        if wait.is_zero()
            || unless(fill.raised.notified(), tokio::time::sleep(wait))
                .await
                .is_ok()
        {
            return;
        }
    }
}

/// Waits until the window has room. If the disk blocks the fill for too long, the fill continues
/// without the disk.
async fn room(fill: &Arc<Fill>, shared: &Shared, patience: &mut DiskPatience) -> Result<(), FetchError> {
    let began = tokio::time::Instant::now();
    loop {
        // Created before the check, so that no notification is lost.
        let notice = fill.room.notified();
        let (lost, hashing) = {
            let mut state = fill.lock();
            state.trim();
            let lost = state.disk.is_lost();
            if state.window.bytes() < FILL_WINDOW_BYTES as u64 {
                return Ok(());
            }
            let deserted = state.next_follower > 0 || began.elapsed() >= FIRST_FOLLOWER;
            if lost && state.followers.is_empty() && deserted {
                return Err(FetchError::Abandoned(
                    "no client left, and the content cannot be stored",
                ));
            }
            (lost, state.waits_for_hasher())
        };
        if hashing {
            let _ = tokio::time::timeout(ROOM_CHECK, notice).await;
            continue;
        }
        if lost {
            let _ = tokio::time::timeout(ROOM_CHECK, notice).await;
            if began.elapsed() >= SLOWEST_FOLLOWER {
                // A slow follower resumes with a range request, and the other followers do not wait
                // for it.
                fill.lock().leave_slowest();
            }
            continue;
        }
        let (began, written) = (tokio::time::Instant::now(), fill.lock().written);
        let notified = tokio::time::timeout(patience.left(written), notice).await;
        patience.waited(began.elapsed());
        if notified.is_err() {
            if fill.lock().written == written {
                lose(fill, shared, "the disk completed no write in time");
            } else {
                tracing::warn!(digest = %fill.digest(), error = "the disk is much slower than the upstream", "pull continues without storing");
                fill.change(|state| state.disk = DiskWriter::Lost);
            }
        }
    }
}

/// Time budget of a fill's disk: [`FILL_DISK_WAIT_MAX`], extended by every written byte. A disk
/// that writes [`FILL_DISK_RATE_MIN`] never exhausts the budget. The fill continues without a
/// slower disk.
struct DiskPatience {
    left: Duration,
    /// Written bytes at the last update.
    written: u64,
}

impl DiskPatience {
    fn new() -> Self {
        DiskPatience {
            left: FILL_DISK_WAIT_MAX,
            written: 0,
        }
    }

    /// Adds the time earned by the bytes written since the last update. Returns the remaining time.
    fn left(&mut self, written: u64) -> Duration {
        let earned = Duration::from_micros((written - self.written) * 1_000_000 / FILL_DISK_RATE_MIN);
        self.written = written;
        self.left = (self.left + earned).min(FILL_DISK_WAIT_MAX);
        self.left
    }

    fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

pub fn lose(fill: &Fill, shared: &Shared, why: &'static str) {
    fill.change(|state| state.disk = DiskWriter::Lost);
    shared.storage(&fill.origin.namespace).record_write_failure(&why);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the remaining time after the disk wrote `rate` bytes per second and the fill waited
    /// all the time.
    fn after(rate: u64, seconds: u64) -> Duration {
        let mut patience = DiskPatience::new();
        for tenth in 1..=10 * seconds {
            patience.left(tenth * rate / 10);
            patience.waited(Duration::from_millis(100));
        }
        patience.left
    }

    #[test]
    fn fill_waits_for_a_disk_only_at_the_minimum_write_rate_or_above() {
        assert!(after(FILL_DISK_RATE_MIN, 60) > FILL_DISK_WAIT_MAX / 2);
        assert!(after(10 * FILL_DISK_RATE_MIN, 60) > FILL_DISK_WAIT_MAX / 2);
        assert!(after(FILL_DISK_RATE_MIN / 2, 60).is_zero());
        assert!(after(0, 2).is_zero());
    }
}
