//! The upstream's side of a fill, on the helper pool: receive, hash, publish; resume what breaks; commit.

use std::sync::Arc;
use std::time::Duration;

use super::spool::{self, Spool};
use super::table::Ticket;
use super::{End, Fill, Head};
use crate::cache::access::Caller;
use crate::cache::{Cache, FetchError, Origin, Shared, Slot, find, storable};
use crate::fail_point::reach;
use crate::limits::{FILL_DISK_RATE_MIN, FILL_DISK_WAIT, FILL_WINDOW_BYTES, STORE_RETRY};
use crate::oci::Hasher;
use crate::runtime::clock::{monotonic_micros, unix_seconds};
use crate::runtime::helper::blocking;
use crate::store::{Key, Meta, Verified};
use crate::upstream::{
    Body, Method, Purpose, Request, Resume, ResumeVerdict, Target, UpstreamError, resume_matches,
};

/// How often a writer without a disk looks whether followers have moved, beside being told.
const ROOM_CHECK: Duration = Duration::from_secs(1);

/// How long a fill without a disk is held up by its slowest follower before it goes on without it.
const SLOWEST_FOLLOWER: Duration = Duration::from_secs(5);

/// How long a fill without a disk waits for its first follower.
const FIRST_FOLLOWER: Duration = Duration::from_secs(5);

impl Cache {
    /// Whether `digest` is being filled from `origin`'s registry.
    pub fn is_filling(&self, digest: &crate::oci::Digest, origin: &Origin) -> bool {
        self.0.fills.has(digest, origin)
    }

    /// Joins the fill of `digest`, or starts one from `origin`. `not` is a fill that cannot give the caller what it
    /// needs; another is started in its place.
    pub fn fill(
        &self,
        digest: crate::oci::Digest,
        origin: &Origin,
        caller: &Caller,
        not: Option<&Arc<Fill>>,
    ) -> (Arc<Fill>, crate::cache::Role) {
        let (fill, ticket) = self.0.fills.join(digest, origin, caller, not);
        match ticket {
            None => (fill, crate::cache::Role::Follower),
            Some(ticket) => {
                let shared = self.0.clone();
                self.0.helper.spawn(async move { run(ticket, shared).await });
                (fill, crate::cache::Role::Leader)
            }
        }
    }
}

/// Says `Failed` if the writer goes away without an end, and ends the fill for newcomers in any case.
struct Guard {
    fill: Arc<Fill>,
    shared: Arc<Shared>,
}

impl Guard {
    fn end(&self, end: End) {
        // A fill without content is gone for newcomers before anybody learns of it, so that who asks again
        // gets another.
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
    }
}

async fn run(ticket: Ticket, shared: Arc<Shared>) {
    let guard = Guard {
        fill: ticket.fill,
        shared: shared.clone(),
    };
    let fill = &guard.fill;
    let (key, origin) = (Key::Blob(*fill.digest()), &fill.origin);
    // Whoever asked before us may have committed it between our caller's look and the ticket.
    if shared.look(move |store| find(store, &key)).await.is_some() {
        guard.end(End::Stored);
        return;
    }
    let slot = match shared.slot().await {
        Ok(slot) => slot,
        Err(error) => return guard.end(End::Failed(error)),
    };
    let Slot {
        permit: _permit,
        memory,
    } = slot;
    fill.lock().memory = Some(memory);
    let verified = match receive(fill, &shared).await {
        Ok(verified) => verified,
        Err(error) => {
            tracing::warn!(registry = %origin.namespace, repository = %origin.repository, digest = %fill.digest(), %error, "fill failed");
            return guard.end(End::Failed(error));
        }
    };
    guard.end(End::Verified);
    reach("fill-verified");
    commit(fill, &shared, verified).await;
}

/// Receives the whole body and checks it.
async fn receive(fill: &Arc<Fill>, shared: &Arc<Shared>) -> Result<Verified, FetchError> {
    let origin = &fill.origin;
    let asked = monotonic_micros();
    let mut request = Request {
        namespace: origin.namespace.clone(),
        repository: origin.repository.clone(),
        target: Target::Blob(*fill.digest()),
        method: Method::Get,
        accept: Vec::new(),
        range_from: None,
        credentials: fill.caller.credentials(),
        purpose: Purpose::Pull,
    };
    let response = shared
        .upstreams
        .fetch(&request)
        .await
        .inspect_err(|error| shared.access.heard_no(origin, &fill.caller, error))?;
    if response.status != 200 {
        return Err(protocol(
            origin,
            "a request without a range was answered with a part",
        ));
    }
    let (size, public) = (response.content_length, response.public);
    if !public {
        shared
            .access
            .heard_yes(origin, fill.digest(), &fill.caller, asked);
    }
    fill.change(|state| {
        state.head = Some(Arc::new(Head {
            size,
            public,
            headers: storable(&response.headers),
        }));
        if let (Some(size), Some(memory)) = (size, &mut state.memory) {
            memory.shrink_to(size);
        }
        if !shared.health.writable() {
            state.spool = Spool::Lost;
        }
    });

    let mut body = response.body;
    let mut hasher = Hasher::new(fill.digest().algorithm());
    let mut have = 0;
    let mut skip = 0;
    let mut resume = Resume::new(0);
    let mut patience = DiskPatience::new();
    loop {
        let broken = match body.chunk().await {
            Ok(Some(mut chunk)) => {
                if skip > 0 {
                    // The upstream began again at the start; what we have is not taken twice.
                    let skipped = chunk.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                    skip -= skipped as u64;
                    bytes::Buf::advance(&mut chunk, skipped);
                }
                hasher.update(&chunk);
                have += chunk.len() as u64;
                if size.is_some_and(|size| have > size) {
                    // Responses are under way with the size that was declared first.
                    return Err(protocol(origin, "it sent more than it had declared"));
                }
                reach("fill-received");
                fill.change(|state| {
                    state.window.push(chunk);
                    state.trim();
                });
                spool::push(fill, shared);
                room(fill, shared, &mut patience).await?;
                continue;
            }
            // A part may be shorter than asked for and still end cleanly.
            Ok(None) if size.is_some_and(|size| have < size) => Some(short(origin)),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        // Whatever the connection said last: with all bytes there, there is nothing to resume.
        let Some(error) = broken.filter(|_| size != Some(have)) else {
            break;
        };
        (body, skip) = reconnect(shared, &mut request, &mut resume, have, size, error).await?;
    }
    Verified::check(*fill.digest(), hasher.finish(), have).map_err(|found| FetchError::DigestMismatch {
        wanted: fill.digest().to_string(),
        found: found.to_string(),
    })
}

/// Asks for the rest of a body that broke off: a fresh request, so a fresh token and a fresh redirect.
async fn reconnect(
    shared: &Shared,
    request: &mut Request,
    resume: &mut Resume,
    have: u64,
    size: Option<u64>,
    mut error: UpstreamError,
) -> Result<(Body, u64), FetchError> {
    loop {
        let Some(delay) = Some(&error)
            .filter(|error| error.is_retryable())
            .and_then(|_| resume.after_break(have))
        else {
            return Err(error.into());
        };
        tracing::info!(registry = %request.namespace, have, %error, "an upstream broke off; resuming");
        tokio::time::sleep(delay).await;
        request.range_from = Some(have).filter(|&have| have > 0);
        match shared.upstreams.fetch(request).await {
            Err(next) => error = next,
            Ok(response) => match resume_matches(&response, have, size) {
                ResumeVerdict::Continue => return Ok((response.body, 0)),
                ResumeVerdict::SkipFirst(bytes) => return Ok((response.body, bytes)),
                ResumeVerdict::Wrong => {
                    return Err(UpstreamError::Protocol {
                        host: request.namespace.as_str().into(),
                        what: "it resumed with another part than was asked".into(),
                    }
                    .into());
                }
            },
        }
    }
}

/// Waits until the window takes more. A disk that is in the way for too long is left behind.
async fn room(fill: &Arc<Fill>, shared: &Shared, patience: &mut DiskPatience) -> Result<(), FetchError> {
    let began = tokio::time::Instant::now();
    loop {
        // Made before looking, so that a notice in between is not missed.
        let notice = fill.room.notified();
        let lost = {
            let mut state = fill.lock();
            state.trim();
            let lost = state.spool.is_lost();
            if state.window.bytes() < FILL_WINDOW_BYTES as u64 {
                return Ok(());
            }
            let deserted = state.next_follower > 0 || began.elapsed() >= FIRST_FOLLOWER;
            if lost && state.followers.is_empty() && deserted {
                // Nobody wants it and it cannot be stored.
                return Err(FetchError::Gone);
            }
            lost
        };
        if lost {
            let _ = tokio::time::timeout(ROOM_CHECK, notice).await;
            if began.elapsed() >= SLOWEST_FOLLOWER {
                // It comes back with a range; the others do not wait for it.
                let mut state = fill.lock();
                let slowest = state.followers.values().copied().min();
                state.followers.retain(|_, offset| Some(*offset) != slowest);
            }
            continue;
        }
        let (began, written) = (tokio::time::Instant::now(), fill.lock().written);
        let told = tokio::time::timeout(patience.left(written), notice).await;
        patience.waited(began.elapsed());
        if told.is_err() {
            if fill.lock().written == written {
                lose(fill, shared, "the disk has stalled");
            } else {
                tracing::warn!(digest = %fill.digest(), "the disk is much slower than the upstream; the pull goes on uncached");
                fill.change(|state| state.spool = Spool::Lost);
            }
        }
    }
}

/// How long a fill still waits for its disk: [`FILL_DISK_WAIT`], and more for every byte that it takes. So a disk that
/// takes [`FILL_DISK_RATE_MIN`] is waited for as long as it does, and a slower one is left behind.
struct DiskPatience {
    left: Duration,
    /// What the disk had taken when this was last counted.
    written: u64,
}

impl DiskPatience {
    fn new() -> Self {
        DiskPatience {
            left: FILL_DISK_WAIT,
            written: 0,
        }
    }

    /// Counts what the disk has taken, `written` bytes by now.
    fn left(&mut self, written: u64) -> Duration {
        let earned = Duration::from_micros((written - self.written) * 1_000_000 / FILL_DISK_RATE_MIN);
        self.written = written;
        self.left = (self.left + earned).min(FILL_DISK_WAIT);
        self.left
    }

    fn waited(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

fn short(origin: &Origin) -> UpstreamError {
    UpstreamError::Body {
        host: origin.namespace.as_str().into(),
        cause: "it ended early".into(),
    }
}

fn protocol(origin: &Origin, what: &str) -> FetchError {
    UpstreamError::Protocol {
        host: origin.namespace.as_str().into(),
        what: what.into(),
    }
    .into()
}

fn lose(fill: &Fill, shared: &Shared, why: &'static str) {
    fill.change(|state| state.spool = Spool::Lost);
    shared.health.failed(&why);
}

/// Makes a verified fill an entry, when the disk has kept up. No client waits for this.
async fn commit(fill: &Arc<Fill>, shared: &Arc<Shared>, verified: Verified) {
    let origin = &fill.origin;
    let ingest = loop {
        let notice = fill.room.notified();
        {
            let mut state = fill.lock();
            let complete = state.written == state.window.end();
            match std::mem::replace(&mut state.spool, Spool::Writing) {
                Spool::Idle(ingest) if complete => break ingest,
                Spool::Lost => {
                    state.spool = Spool::Lost;
                    return;
                }
                other => state.spool = other,
            }
        }
        spool::push(fill, shared);
        if tokio::time::timeout(STORE_RETRY, notice).await.is_err() {
            return lose(fill, shared, "the disk has stalled");
        }
    };
    let head = fill.lock().head.clone();
    let (public, headers) = match head {
        Some(head) => (head.public, head.headers.clone()),
        None => Default::default(),
    };
    let meta = Meta {
        digest: *verified.digest(),
        size: verified.size(),
        content_type: "application/octet-stream".to_owned(),
        created: unix_seconds(),
        public,
        sources: vec![origin.source()],
        verified: true,
        headers,
    };
    let (shared_too, key) = (shared.clone(), Key::Blob(*verified.digest()));
    let committed = blocking(move || {
        // An empty body has written nothing yet.
        let ingest = match ingest {
            Some(ingest) => ingest,
            None => shared_too.store.ingest(&key, Some(0))?,
        };
        shared_too.store.commit(ingest, &verified, meta)
    })
    .await;
    match committed {
        Ok(Ok(entry)) => {
            let known = entry.meta.is_from(origin.namespace.as_str());
            if !known || (public && !entry.meta.public) {
                // Another registry, or somebody's credentials, had brought it before.
                shared.vouch(&Target::Blob(*fill.digest()), origin, public);
            }
            // Followers that are still behind read the file.
            fill.change(|state| {
                state.window.trim(state.written, 0);
                state.memory = None;
            });
            tracing::debug!(registry = %origin.namespace, repository = %origin.repository, digest = %fill.digest(), "stored");
        }
        Ok(Err(error)) => shared.health.failed(&error),
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left after writing at `rate` bytes a second, waiting all the time.
    fn after(rate: u64, seconds: u64) -> Duration {
        let mut patience = DiskPatience::new();
        for tenth in 1..=10 * seconds {
            patience.left(tenth * rate / 10);
            patience.waited(Duration::from_millis(100));
        }
        patience.left
    }

    #[test]
    fn a_disk_is_waited_for_as_long_as_it_takes_enough() {
        assert!(after(FILL_DISK_RATE_MIN, 60) > FILL_DISK_WAIT / 2);
        assert!(after(10 * FILL_DISK_RATE_MIN, 60) > FILL_DISK_WAIT / 2);
        assert!(after(FILL_DISK_RATE_MIN / 2, 60).is_zero());
        assert!(after(0, 2).is_zero());
    }
}
