//! One upstream body, one growing file, any number of followers.
//!
//! The [`writer`] runs on the helper pool: it hashes received bytes, keeps the newest bytes in a window, and has
//! the [`disk_writer`] append them to an ingest. Followers on any core send the available bytes and wait for
//! more. Writer and followers share one [`Fill`]: a state under a short lock and a list of waiting followers.
//!
//! What followers may have is decided in one place, [`State::limit`]: the end of a body is withheld until its
//! digest was found right, and a small body is withheld whole.
//!
//! Not here: whether to fill at all (`registry`), and what happens to the file afterwards (`store`).

mod disk_writer;
mod follower;
pub(in crate::cache) mod source;
mod table;
mod watch;
mod window;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::http::Span;
use crate::limits::{HELD_WHOLE_BYTES_MAX, WITHHELD_BYTES};
use crate::oci::{Digest, Origin};
use crate::runtime::waker::{CoreNotify, RemoteWaker};

use super::access::{Caller, HeldContent};
use super::{FetchError, Memory};
use crate::fairness::Lease;
use crate::storage::{RemoteBlob, Room};
use disk_writer::DiskWriter;
use window::Window;

pub use follower::Follower;
pub use table::FillTable;

/// A fill in progress, or just done.
pub struct Fill {
    digest: Digest,
    origin: Origin,
    /// With whose credentials it is fetched.
    caller: Caller,
    /// The source, if the bucket has the blob.
    remote: Option<RemoteBlob>,
    state: Mutex<State>,
    /// Notifies the writer that the window has room, or that no follower needs room.
    room: tokio::sync::Notify,
}

/// The upstream's head.
#[derive(Debug)]
pub struct Head {
    /// `None` when the upstream did not say; known when the fill has ended.
    pub size: Option<u64>,
    /// Given to us without credentials.
    pub public: bool,
    /// All end-to-end fields.
    pub headers: BTreeMap<String, Vec<String>>,
}

struct State {
    head: Option<Arc<Head>>,
    /// Bytes received: `window.end()`. Hashed before they are put there.
    window: Window,
    disk: DiskWriter,
    /// The ingest's file and how much of it may be read. Outlives a lost disk writer.
    file: Option<Arc<File>>,
    /// The file's room in the spool.
    room: Option<Arc<Room>>,
    written: u64,
    end: Option<End>,
    waiting: Vec<RemoteWaker>,
    /// What each follower has still to read, up to `u64::MAX` for the whole body. Decides what a window without a disk behind
    /// it may forget.
    followers: HashMap<u64, Span>,
    next_follower: u64,
    /// Clients that wait for the head or the end.
    wanted: usize,
    was_wanted: bool,
    /// What the window is counted by, as long as it holds anything.
    memory: Option<Memory>,
    /// What the file is counted by until it is an entry.
    lease: Option<Lease>,
}

/// A client that waits for the head or the end of a fill, counted as long as it lives.
struct Wanted<'a>(&'a Fill);

/// How a fill ended. There is no "the writer went away": its guard says `Failed` then.
#[derive(Clone, Debug)]
enum End {
    /// All bytes are there and are what the digest says.
    Verified,
    /// Somebody else's fill of the same content was committed first: look again.
    Stored,
    Failed(FetchError),
}

/// What a caller finds in place of a fill.
pub enum Ready {
    Head(Arc<Head>),
    Stored,
}

impl Fill {
    fn new(digest: Digest, origin: Origin, caller: Caller, remote: Option<RemoteBlob>) -> Arc<Self> {
        Arc::new(Fill {
            digest,
            origin,
            caller,
            remote,
            state: Mutex::new(State {
                head: None,
                window: Window::default(),
                disk: DiskWriter::Idle(None),
                file: None,
                room: None,
                written: 0,
                end: None,
                waiting: Vec::new(),
                followers: HashMap::new(),
                next_follower: 0,
                wanted: 0,
                was_wanted: false,
                memory: None,
                lease: None,
            }),
            room: tokio::sync::Notify::new(),
        })
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// What is known of its content before it is there.
    pub fn held(&self) -> HeldContent<'_> {
        HeldContent {
            digest: &self.digest,
            public: match &self.remote {
                Some(blob) => blob.meta().public,
                None => self.caller.is_anonymous(),
            },
        }
    }

    /// Whether the bucket gives it, as far as it does.
    pub fn is_from_bucket(&self) -> bool {
        self.remote.is_some()
    }

    /// Whether the fields of its head are those that `origin` sent.
    pub fn has_fields_of(&self, origin: &Origin) -> bool {
        match &self.remote {
            Some(blob) => blob.meta().is_filled_from(origin),
            None => self.origin == *origin,
        }
    }

    /// Whether the fill makes the same upstream request as `caller` to `origin`, so that one answer serves both.
    pub fn is_request_of(&self, origin: &Origin, caller: &Caller) -> bool {
        self.remote.is_none() && self.origin == *origin && self.caller == *caller
    }

    /// Waits until a response can begin: the head is known, and the body is too large to be held whole or has
    /// been verified. A response without a body (`head_only`) needs the size and nothing else.
    ///
    /// # Errors
    ///
    /// The fill failed before anything was promised to this client.
    ///
    /// # Cancellation
    ///
    /// Free.
    pub async fn ready(&self, head_only: bool) -> Result<Ready, FetchError> {
        let _wanted = self.want();
        let notify = CoreNotify::new();
        self.wait(&notify, |state| match (&state.end, &state.head) {
            (Some(End::Failed(error)), _) => Some(Err(error.clone())),
            (Some(End::Stored), _) => Some(Ok(Ready::Stored)),
            (Some(End::Verified), Some(head)) => Some(Ok(Ready::Head(Arc::new(Head {
                size: Some(state.window.end()),
                public: head.public,
                headers: head.headers.clone(),
            })))),
            (_, Some(head)) if head.begins(head_only, state.window.end()) => {
                Some(Ok(Ready::Head(head.clone())))
            }
            _ => None,
        })
        .await
    }

    /// Waits until the fill has ended. Gives the size, or `None` when somebody else has stored the content.
    pub async fn ended(&self) -> Result<Option<u64>, FetchError> {
        let _wanted = self.want();
        let notify = CoreNotify::new();
        self.wait(&notify, |state| match &state.end {
            Some(End::Failed(error)) => Some(Err(error.clone())),
            Some(End::Stored) => Some(Ok(None)),
            Some(End::Verified) => Some(Ok(Some(state.window.end()))),
            None => None,
        })
        .await
    }

    /// Waits until `ready` gives something. `ready` is called again after each change of the state.
    async fn wait<R>(&self, notify: &CoreNotify, mut ready: impl FnMut(&mut State) -> Option<R>) -> R {
        loop {
            {
                let mut state = self.lock();
                if let Some(result) = ready(&mut state) {
                    return result;
                }
                // Registered under the lock that changes are made under: none is missed.
                state.waiting.push(notify.waker());
            }
            notify.wait().await;
        }
    }

    fn want(&self) -> Wanted<'_> {
        let mut state = self.lock();
        state.wanted += 1;
        state.was_wanted = true;
        Wanted(self)
    }

    /// Changes the state and wakes everybody who waits.
    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
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

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        self.0.lock().wanted -= 1;
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

impl State {
    /// How far a response that ends at `end` (or at the body's end) may be sent now.
    fn limit(&self, end: Option<u64>) -> u64 {
        let have = self.window.end();
        match &self.end {
            Some(End::Verified) => end.unwrap_or(have).min(have),
            Some(_) => 0,
            None if self.head.as_ref().is_none_or(|head| !head.begins(false, have)) => 0,
            None => {
                let size = self.head.as_ref().and_then(|head| head.size);
                let withheld = size.unwrap_or(have).saturating_sub(WITHHELD_BYTES);
                // The last byte of every response waits, so that none is complete before the digest is right.
                have.min(withheld)
                    .min(end.map_or(u64::MAX, |end| end.saturating_sub(1)))
            }
        }
    }
}
