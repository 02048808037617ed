//! Downloads a blob once for any number of concurrent clients (followers).
//!
//! The [`writer`] runs on the helper pool. The writer receives bytes, keeps the newest bytes in a
//! window, has the [`body_hasher`] hash them, and the [`disk_writer`] append them to an ingest.
//! Followers on any core send the available bytes and wait for more. Writer and followers share one
//! [`Fill`]: a state under a short lock and a list of waiting followers.
//!
//! [`FillState::limit`] alone decides how much followers may read. The end of a body is withheld until
//! its digest is verified, and a small body is withheld whole.
//!
//! The `registry` module decides whether to start a fill. The `store` module owns the file after
//! the commit.

mod body_hasher;
mod commit;
mod disk_writer;
mod follower;
pub(in crate::cache) mod source;
mod status;
mod table;
mod watch;
mod window;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use crate::http::{Span, TraceContext};
use crate::limits::{HELD_WHOLE_BYTES_MAX, WITHHELD_BYTES};
use crate::metrics::{self, FillEnd};
use crate::oci::{Digest, Hasher, Origin};
use crate::runtime::clock::monotonic_millis;
use crate::runtime::waker::{CoreNotify, RemoteWaker};
use crate::shared_file::SharedFile;
use crate::sync::{Mutex, MutexGuard};

use super::access::{Caller, HeldContent};
use super::priority::Priority;
use super::slots::Standing;
use super::{FetchError, Memory};
use crate::fairness::Lease;
use crate::storage::{RemoteBlob, Room};
use disk_writer::DiskWriter;
use window::Window;

pub use follower::Follower;
pub use status::FillStatus;
pub use table::FillTable;
pub(in crate::cache) use writer::run;

/// A running or recently completed fill.
pub struct Fill {
    digest: Digest,
    origin: Origin,
    /// The caller whose credentials the fill uses.
    caller: Caller,
    /// The source, if the bucket has the blob.
    remote: Option<RemoteBlob>,
    /// The first request of a client, in monotonic milliseconds.
    began: u64,
    /// The span of the fill, if recorded.
    trace: Option<TraceContext>,
    state: Mutex<FillState>,
    /// Notifies the writer that the window has room, or that no follower needs room.
    room: tokio::sync::Notify,
    /// Notifies the writer that a client has joined a fill of a lower priority.
    raised: tokio::sync::Notify,
}

/// The head of the upstream response.
#[derive(Debug)]
pub struct Head {
    /// `None` if the upstream declared no size; known when the fill has ended.
    pub size: Option<u64>,
    /// Whether the upstream sent the blob without credentials.
    pub public: bool,
    /// The status; `None` if the bucket sent the blob.
    pub upstream_status: Option<u16>,
    /// All end-to-end header fields.
    pub headers: BTreeMap<String, Vec<String>>,
}

struct FillState {
    head: Option<Arc<Head>>,
    /// The host of the mirror or registry that sends the body. `None` for the bucket.
    endpoint: Option<Arc<str>>,
    /// The newest received bytes. `window.end()` is the number of received bytes.
    window: Window,
    /// The hasher of a large body. `None` while a job hashes.
    hasher: Option<Hasher>,
    /// Bytes read by the hasher. The window keeps all later bytes.
    hashed: u64,
    disk: DiskWriter,
    /// The ingest's file, readable up to `written`. Outlives a lost disk writer.
    file: Option<SharedFile>,
    /// The file's room in the spool.
    room: Option<Arc<Room>>,
    written: u64,
    end: Option<End>,
    /// Whether the verified content was stored. `None` before the end of the commit.
    is_stored: Option<bool>,
    waiting: Vec<RemoteWaker>,
    /// The unread bytes of each follower, up to `u64::MAX` for the whole body. If the disk writer
    /// is lost, the window keeps these bytes.
    followers: HashMap<u64, Span>,
    next_follower: u64,
    /// Number of callers that wait for the head or the end, by priority.
    wanted: [usize; Priority::COUNT],
    was_wanted: bool,
    /// The highest priority of the callers, as of the last check.
    priority: Priority,
    /// No client has requested the content that a prefetch fetches.
    is_canceled: bool,
    /// The state of the fetch slot. `None` before the fill has a slot.
    standing: Option<Arc<Standing>>,
    /// Memory charge of the window, held while the window contains bytes.
    memory: Option<Memory>,
    /// Disk share of the file until the commit.
    lease: Option<Lease>,
}

/// A caller that waits for the head or the end of a fill. Counted until dropped.
struct Wanted<'a>(&'a Fill, Priority);

/// The outcome of a fill. If the writer is dropped early, its guard sets `Failed`.
#[derive(Clone, Debug)]
enum End {
    /// All bytes have arrived and match the digest.
    Verified,
    /// Another fill of the same content was committed first. The caller repeats its lookup.
    Stored,
    Failed(FetchError),
}

/// The result of [`Fill::ready`].
pub enum Ready {
    Head(Arc<Head>),
    Stored,
}

impl Fill {
    fn new(
        digest: Digest,
        origin: Origin,
        caller: Caller,
        remote: Option<RemoteBlob>,
        priority: Priority,
        trace: Option<TraceContext>,
    ) -> Arc<Self> {
        Arc::new(Fill {
            digest,
            origin,
            caller,
            remote,
            began: monotonic_millis(),
            trace,
            state: Mutex::new(FillState {
                head: None,
                endpoint: None,
                window: Window::default(),
                hasher: None,
                hashed: 0,
                disk: DiskWriter::Idle(None),
                file: None,
                room: None,
                written: 0,
                end: None,
                is_stored: None,
                waiting: Vec::new(),
                followers: HashMap::new(),
                next_follower: 0,
                wanted: [0; Priority::COUNT],
                was_wanted: false,
                priority,
                is_canceled: false,
                standing: None,
                memory: None,
                lease: None,
            }),
            room: tokio::sync::Notify::new(),
            raised: tokio::sync::Notify::new(),
        })
    }

    /// Observes the end of the fill for the metrics.
    fn observe_end(&self, result: FillEnd) {
        let duration = Duration::from_millis(monotonic_millis().saturating_sub(self.began));
        metrics::observe_fill(self.origin.namespace.as_str(), result, duration);
    }

    /// Returns the span of the fill, if recorded.
    pub fn trace(&self) -> Option<TraceContext> {
        self.trace
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Returns the access data of the content before the content has arrived.
    pub fn held(&self) -> HeldContent<'_> {
        HeldContent {
            digest: &self.digest,
            public: match &self.remote {
                Some(blob) => blob.meta().public,
                None => self.caller.is_anonymous(),
            },
            is_unproven: self.remote.as_ref().is_some_and(|blob| blob.meta().is_unproven()),
        }
    }

    /// Returns whether the bucket is the fill's first source.
    pub fn is_from_bucket(&self) -> bool {
        self.remote.is_some()
    }

    /// Returns whether the header fields of the fill's head come from `origin`.
    pub fn has_fields_of(&self, origin: &Origin) -> bool {
        match &self.remote {
            Some(blob) => blob.meta().is_filled_from(origin),
            None => self.origin == *origin,
        }
    }

    /// Returns whether the fill makes the upstream request of `caller` to `origin`, so that one
    /// answer serves both.
    pub fn is_request_of(&self, origin: &Origin, caller: &Caller) -> bool {
        self.remote.is_none() && self.origin == *origin && self.caller == *caller
    }

    /// Waits until a response can begin. The head must be known, and the body must be verified or
    /// too large to be held whole. A response without a body (`head_only`) needs only the size.
    ///
    /// # Errors
    ///
    /// The fill failed before this client received a response head.
    ///
    /// # Cancellation
    ///
    /// Cancel safe.
    pub async fn ready(&self, head_only: bool) -> Result<Ready, FetchError> {
        let _wanted = self.want(Priority::Client);
        let notify = CoreNotify::new();
        self.wait(&notify, |state| match (&state.end, &state.head) {
            (Some(End::Failed(error)), _) => Some(Err(error.clone())),
            (Some(End::Stored), _) => Some(Ok(Ready::Stored)),
            (Some(End::Verified), Some(head)) => Some(Ok(Ready::Head(Arc::new(Head {
                size: Some(state.window.end()),
                public: head.public,
                upstream_status: head.upstream_status,
                headers: head.headers.clone(),
            })))),
            (_, Some(head)) if head.begins(head_only, state.window.end()) => {
                Some(Ok(Ready::Head(head.clone())))
            }
            _ => None,
        })
        .await
    }

    /// Waits until the fill has ended. Returns the size, or `None` if another fill stored the
    /// content.
    pub async fn ended(&self) -> Result<Option<u64>, FetchError> {
        let _wanted = self.want(Priority::Client);
        let notify = CoreNotify::new();
        self.wait(&notify, |state| match &state.end {
            Some(End::Failed(error)) => Some(Err(error.clone())),
            Some(End::Stored) => Some(Ok(None)),
            Some(End::Verified) => Some(Ok(Some(state.window.end()))),
            None => None,
        })
        .await
    }

    /// Waits until the content is in the store, for a caller of this priority. Returns the size, or
    /// `None` if another fill stored the content.
    ///
    /// # Errors
    ///
    /// The fill failed, or the store could not keep the content.
    pub async fn stored(&self, priority: Priority) -> Result<Option<u64>, FetchError> {
        let _wanted = self.want(priority);
        let notify = CoreNotify::new();
        self.wait(&notify, |state| match (&state.end, state.is_stored) {
            (Some(End::Failed(error)), _) => Some(Err(error.clone())),
            (Some(End::Stored), _) => Some(Ok(None)),
            (Some(End::Verified), Some(true)) => Some(Ok(Some(state.window.end()))),
            (Some(End::Verified), Some(false)) => Some(Err(FetchError::NotStored)),
            // The bytes have clients only.
            (None, _) if state.disk.is_lost() => Some(Err(FetchError::NotStored)),
            (Some(End::Verified), None) | (None, _) => None,
        })
        .await
    }

    /// Waits until `ready` returns a value. Calls `ready` again after each state change.
    async fn wait<R>(&self, notify: &CoreNotify, mut ready: impl FnMut(&mut FillState) -> Option<R>) -> R {
        loop {
            {
                let mut state = self.lock();
                if let Some(result) = ready(&mut state) {
                    return result;
                }
                // Registered under the lock that guards the state, so that no change is missed.
                state.waiting.push(notify.waker());
            }
            notify.wait().await;
        }
    }

    fn want(&self, priority: Priority) -> Wanted<'_> {
        let mut state = self.lock();
        state.wanted[priority as usize] += 1;
        state.was_wanted = true;
        self.raise(&mut state, priority);
        Wanted(self, priority)
    }

    /// Raises the priority of the fill to that of a new caller.
    fn raise(&self, state: &mut FillState, priority: Priority) {
        if state.priority < priority {
            state.priority = priority;
            if let Some(standing) = &state.standing {
                standing.raise(priority);
            }
            self.raised.notify_one();
        }
    }

    /// Changes the state and wakes all waiting tasks.
    fn change<R>(&self, change: impl FnOnce(&mut FillState) -> R) -> R {
        let (result, waiting) = {
            let mut state = self.lock();
            let result = change(&mut state);
            (result, std::mem::take(&mut state.waiting))
        };
        for remote in waiting {
            remote.wake();
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, FillState> {
        self.state.lock()
    }
}

/// A fill that a prefetch has started. The drop cancels the fill, unless other callers wait for the
/// fill or read from it.
pub struct PrefetchedFill(Arc<Fill>);

impl PrefetchedFill {
    pub fn new(fill: Arc<Fill>) -> Self {
        fill.lock().wanted[Priority::Prefetch as usize] += 1;
        PrefetchedFill(fill)
    }
}

impl Drop for PrefetchedFill {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.wanted[Priority::Prefetch as usize] -= 1;
        if state.callers() == 0 && state.priority == Priority::Prefetch {
            state.is_canceled = true;
            if let Some(standing) = &state.standing {
                standing.evict();
            }
        }
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.lock().wanted[self.1 as usize] -= 1;
    }
}

impl Head {
    fn begins(&self, head_only: bool, have: u64) -> bool {
        match self.size {
            Some(size) => head_only || size > HELD_WHOLE_BYTES_MAX,
            None => !head_only && have > HELD_WHOLE_BYTES_MAX,
        }
    }
}

impl FillState {
    /// Returns the number of callers that wait for the fill or read from it.
    fn callers(&self) -> usize {
        self.followers.len() + self.wanted.iter().sum::<usize>()
    }

    /// Updates the priority to the highest one of the callers, and returns it. A fill without callers
    /// keeps its priority.
    fn update_priority(&mut self) -> Priority {
        let is_client = !self.followers.is_empty() || self.wanted[Priority::Client as usize] > 0;
        let numbers = (0..Priority::Client as u8).rev();
        let highest = numbers
            .map(Priority::of_number)
            .find(|&own| self.wanted[own as usize] > 0);
        if is_client {
            self.priority = Priority::Client;
        } else if let Some(own) = highest {
            self.priority = own;
        }
        self.priority
    }

    /// Returns the offset up to which a response may be sent now. The response ends at `end`, or at
    /// the body's end.
    fn limit(&self, end: Option<u64>) -> u64 {
        let have = self.window.end();
        match &self.end {
            Some(End::Verified) => end.unwrap_or(have).min(have),
            Some(_) => 0,
            None if self.head.as_ref().is_none_or(|head| !head.begins(false, have)) => 0,
            None => {
                let size = self.head.as_ref().and_then(|head| head.size);
                let withheld = size.unwrap_or(have).saturating_sub(WITHHELD_BYTES);
                // The last byte of every response is withheld, so that no response completes before
                // the digest is verified.
                have.min(withheld)
                    .min(end.map_or(u64::MAX, |end| end.saturating_sub(1)))
            }
        }
    }
}
